import os
import stat

import numpy as np
import pytest
from PIL import Image

from tfaclgan.errors import UserError
from tfaclgan.inference import arrays, folders
from tfaclgan.inference.translator import Translator


def picture(height=12, width=16, channels=3, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def load(path):
    with Image.open(path) as image:
        return np.asarray(image)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def negative(make_negative_run):
    """A translator whose results are the exact negatives."""
    return Translator(make_negative_run(), {})


@pytest.fixture
def translate(tmp_path):
    """translate_folder from tmp/in to tmp/out, without a progress bar."""

    def call(translator, input=None, **options):
        options = {"output": str(tmp_path / "out"), "progress": False, **options}
        return folders.translate_folder(translator, str(input or tmp_path / "in"), **options)

    return call


def test_folder_keeps_names_sub_folders_and_sizes(tmp_path, negative, translate):
    first = save(tmp_path / "in" / "a.png", picture(12, 16))
    second = save(tmp_path / "in" / "deep" / "er" / "b.bmp", picture(33, 7, seed=1))
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / ".hidden.png").write_bytes(b"no picture")
    result = translate(negative)
    assert names(tmp_path / "out") == ["a.png", "deep/er/b.png"]
    np.testing.assert_array_equal(load(tmp_path / "out" / "a.png"), 255 - first)
    np.testing.assert_array_equal(load(tmp_path / "out" / "deep" / "er" / "b.png"), 255 - second)
    assert (result.translated, result.kept, result.failed, result.files, result.exit_code) == (2, 0, [], 2, 0)


def test_one_file(tmp_path, negative, translate):
    pixels = save(tmp_path / "photo.png", picture())
    translate(negative, tmp_path / "photo.png")
    assert names(tmp_path / "out") == ["photo.png"]
    np.testing.assert_array_equal(load(tmp_path / "out" / "photo.png"), 255 - pixels)


def test_many_pictures_of_mixed_sizes_in_batches(tmp_path, negative, translate):
    wanted = {}
    for number in range(23):
        name = f"{number:02}.png"
        wanted[name] = save(tmp_path / "in" / name, picture(10 + number % 3, 9 + number % 5, seed=number))
    assert translate(negative, batch=3).translated == 23
    assert names(tmp_path / "out") == sorted(wanted)
    for name, pixels in wanted.items():
        np.testing.assert_array_equal(load(tmp_path / "out" / name), 255 - pixels)


def test_exif_orientation_is_applied_and_not_kept(tmp_path, negative, translate):
    pixels = picture(8, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown after a quarter turn clockwise
    save(tmp_path / "in" / "a.png", pixels, exif=exif)
    translate(negative)
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.getexif().get(0x0112, 1) == 1
        np.testing.assert_array_equal(np.asarray(image), 255 - np.rot90(pixels, -1))


def test_transparency_lies_on_white(tmp_path, negative, translate):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[:2, :, 3] = 255
    save(tmp_path / "in" / "a.png", pixels)
    translate(negative)
    result = load(tmp_path / "out" / "a.png")
    assert result.shape == (4, 4, 3)
    np.testing.assert_array_equal(result[:2], np.broadcast_to([55, 255, 255], (2, 4, 3)))
    np.testing.assert_array_equal(result[2:], np.zeros((2, 4, 3)))


def test_grey_input_of_a_colour_run_becomes_colour(tmp_path, negative, translate):
    pixels = save(tmp_path / "in" / "a.png", picture(channels=1))
    translate(negative)
    np.testing.assert_array_equal(load(tmp_path / "out" / "a.png"), np.stack([255 - pixels] * 3, axis=-1))


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_grey_run_writes_grey_pictures(tmp_path, make_negative_run, translate, format):
    pixels = save(tmp_path / "in" / "a.png", np.full((8, 8), 40, np.uint8))
    save(tmp_path / "in" / "colour.png", np.full((8, 8, 3), 40, np.uint8))
    assert translate(Translator(make_negative_run(channels=1), {}), format=format).files == 2
    for name in names(tmp_path / "out"):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.mode == ("RGB" if format == "webp" else "L")
            np.testing.assert_allclose(np.asarray(image.convert("L")), 255 - pixels, atol=2)


def test_unreadable_pictures_are_listed_and_the_rest_is_done(tmp_path, negative, translate, capsys):
    good = tmp_path / "in" / "good.png"
    save(good, picture())
    (tmp_path / "in" / "empty.png").write_bytes(b"")
    (tmp_path / "in" / "half.png").write_bytes(good.read_bytes()[:100])
    (tmp_path / "in" / "text.jpg").write_text("not a picture")
    result = translate(negative)
    assert names(tmp_path / "out") == ["good.png"]
    assert [os.path.basename(path) for path, _ in result.failed] == ["empty.png", "half.png", "text.jpg"]
    assert all(reason and "\n" not in reason for _, reason in result.failed)
    assert result.exit_code == 2
    printed = capsys.readouterr().err
    assert "3 pictures could not be read" in printed
    for name in ("empty.png", "half.png", "text.jpg"):
        assert name in printed


def test_many_unreadable_pictures_do_not_flood_the_screen(tmp_path, negative, translate, capsys):
    (tmp_path / "in").mkdir()
    for number in range(30):
        (tmp_path / "in" / f"{number}.png").write_bytes(b"x")
    assert len(translate(negative).failed) == 30
    printed = capsys.readouterr().err
    assert "and 10 more" in printed
    assert len(printed.splitlines()) < 25


def test_dangling_link_is_listed(tmp_path, negative, translate):
    save(tmp_path / "in" / "a.png", picture())
    (tmp_path / "in" / "b.png").symlink_to(tmp_path / "nowhere.png")
    result = translate(negative)
    assert result.failed == [(str(tmp_path / "in" / "b.png"), "No such file or directory")]


def test_names_that_would_meet_keep_their_suffix(tmp_path, negative, translate):
    first = save(tmp_path / "in" / "a.bmp", picture(seed=1))
    second = save(tmp_path / "in" / "a.png", picture(seed=2))
    save(tmp_path / "in" / "c.png", picture(seed=3))
    translate(negative)
    assert names(tmp_path / "out") == ["a.bmp.png", "a.png.png", "c.png"]
    np.testing.assert_array_equal(load(tmp_path / "out" / "a.bmp.png"), 255 - first)
    np.testing.assert_array_equal(load(tmp_path / "out" / "a.png.png"), 255 - second)


def test_names_that_meet_a_mask_keep_their_suffix(tmp_path, make_negative_run, translate):
    save(tmp_path / "in" / "a.png", picture(seed=1))
    save(tmp_path / "in" / "a_mask.bmp", picture(seed=2))
    translate(Translator(make_negative_run(mask=True), {}), save_mask=True)
    assert names(tmp_path / "out") == [
        "a.png.png",
        "a.png_mask.png",
        "a_mask.bmp.png",
        "a_mask.bmp_mask.png",
    ]


def test_a_name_that_keeps_its_suffix_may_make_others_keep_theirs(tmp_path, negative, translate):
    wanted = {
        f"{name}.png": save(tmp_path / "in" / name, picture(seed=seed))
        for seed, name in enumerate(["a.png", "a.bmp", "a.png.bmp"])
    }
    translate(negative)
    assert names(tmp_path / "out") == sorted(wanted)
    for name, pixels in wanted.items():
        np.testing.assert_array_equal(load(tmp_path / "out" / name), 255 - pixels)


def test_names_that_differ_in_case_do_not_meet_on_any_file_system(tmp_path, negative, translate):
    save(tmp_path / "in" / "a.png", picture(seed=1))
    save(tmp_path / "in" / "A.bmp", picture(seed=2))
    translate(negative)
    assert names(tmp_path / "out") == ["A.bmp.png", "a.png.png"]


def test_second_run_keeps_what_is_there_unless_told_to_overwrite(tmp_path, negative, translate, capsys):
    save(tmp_path / "in" / "a.png", picture(seed=1))
    assert translate(negative).translated == 1
    save(tmp_path / "out" / "a.png", np.zeros((2, 2, 3), np.uint8))
    second = save(tmp_path / "in" / "b.png", picture(seed=2))
    result = translate(negative)
    assert (result.translated, result.kept) == (1, 1)
    assert "1 pictures were there already" in capsys.readouterr().err
    assert load(tmp_path / "out" / "a.png").shape == (2, 2, 3)
    np.testing.assert_array_equal(load(tmp_path / "out" / "b.png"), 255 - second)
    assert translate(negative, overwrite=True).translated == 2
    assert load(tmp_path / "out" / "a.png").shape == (12, 16, 3)


def test_output_inside_the_input_is_not_translated_again(tmp_path, negative, translate):
    save(tmp_path / "in" / "a.png", picture())
    for _ in range(2):
        translate(negative, output=str(tmp_path / "in" / "translated"))
    assert names(tmp_path / "in") == ["a.png", "translated/a.png"]


def test_inputs_are_never_replaced(tmp_path, negative, translate):
    save(tmp_path / "in" / "a.png", picture())
    with pytest.raises(UserError, match="is the input folder"):
        translate(negative, output=str(tmp_path / "in"))
    with pytest.raises(UserError, match="would replace an input"):
        translate(negative, tmp_path / "in" / "a.png", output=str(tmp_path / "in"), overwrite=True)


def test_mask_and_raw_are_written(tmp_path, make_negative_run, translate):
    pixels = save(tmp_path / "in" / "a.png", picture(12, 16))
    translate(Translator(make_negative_run(mask=True), {}), save_mask=True, save_raw=True)
    assert names(tmp_path / "out") == ["a.png", "a_mask.png", "a_raw.png"]
    mask = load(tmp_path / "out" / "a_mask.png")
    np.testing.assert_array_equal(mask, np.broadcast_to([255] * 8 + [0] * 8, (12, 16)))
    np.testing.assert_array_equal(load(tmp_path / "out" / "a_raw.png"), pixels)


@pytest.mark.parametrize("option", ["save_mask", "save_raw", "save_panels"])
def test_mask_of_a_method_without_one_is_refused(tmp_path, negative, translate, option):
    save(tmp_path / "in" / "a.png", picture())
    with pytest.raises(UserError, match=option):
        translate(negative, **{option: True})
    assert not (tmp_path / "out").exists()


def test_resize_sets_the_shorter_side_with_pillows_filter(tmp_path, negative, translate):
    pixels = save(tmp_path / "in" / "a.png", picture(40, 61))
    translate(negative, resize=20)
    wanted = np.asarray(Image.fromarray(pixels).resize((30, 20), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(load(tmp_path / "out" / "a.png"), 255 - wanted)


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_resize_squeezes_and_crop_keeps_the_middle(tmp_path, negative, translate, resample):
    """The originals' scripts squeeze (U-GAT-IT, CycleGAN) or crop."""
    pixels = save(tmp_path / "in" / "a.png", picture(40, 61))
    translate(negative, resize=(24, 31), crop=(20, 16), resample=resample)
    squeezed = Image.fromarray(pixels).resize((31, 24), getattr(Image.Resampling, resample.upper()))
    np.testing.assert_array_equal(load(tmp_path / "out" / "a.png"), 255 - np.asarray(squeezed)[2:22, 7:23])


def test_crop_alone_and_a_picture_that_is_smaller(tmp_path, negative, translate):
    pixels = save(tmp_path / "in" / "a.png", picture(30, 40))
    save(tmp_path / "in" / "small.png", picture(30, 15))
    result = translate(negative, crop=20)
    np.testing.assert_array_equal(load(tmp_path / "out" / "a.png"), 255 - pixels[5:25, 10:30])
    ((path, reason),) = result.failed
    assert path.endswith("small.png")
    assert reason == "is 15 x 30 pixels, smaller than the crop of 20 x 20"


@pytest.mark.parametrize("options", [{"resize": -1}, {"resize": (8, 0)}, {"crop": (8, 8, 8)}, {"resample": "best"}])
def test_sizes_and_filters_that_are_none(tmp_path, negative, translate, options):
    save(tmp_path / "in" / "a.png", picture())
    with pytest.raises(UserError, match=next(iter(options))):
        translate(negative, **options)
    assert not (tmp_path / "out").exists()


def test_styles_are_numbered_scaled_and_depend_on_the_name_alone(tmp_path, make_negative_run, translate):
    import zlib

    translator = Translator(make_negative_run(style_dim=2), {})
    grey = np.full((4, 4, 3), 128, np.uint8)
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name, grey)
    scale = 0.2
    translate(translator, styles=3, seed=11, style_scale=scale)
    assert names(tmp_path / "out") == [f"{stem}_style{number}.png" for stem in "ab" for number in range(3)]
    for stem in "ab":
        for number in range(3):
            key = zlib.crc32(f"{stem}.png".encode())
            shift = scale * arrays.draw_style(11, key, 2, number)[0]
            wanted = arrays.to_uint8(np.float32(-(128 / 127.5 - 1) + shift))
            assert (load(tmp_path / "out" / f"{stem}_style{number}.png") == wanted).all()
    translate(translator, tmp_path / "in" / "b.png", styles=3, seed=11, style_scale=scale, output=str(tmp_path / "b"))
    assert (tmp_path / "b" / "b_style1.png").read_bytes() == (tmp_path / "out" / "b_style1.png").read_bytes()


def test_style_of_a_reference_picture(tmp_path, make_negative_run, translate):
    save(tmp_path / "in" / "a.png", np.full((4, 4, 3), 128, np.uint8))
    save(tmp_path / "reference.png", np.full((6, 6, 3), 153, np.uint8))
    translate(
        Translator(make_negative_run(style_dim=1), {}), style_reference=str(tmp_path / "reference.png"), style_scale=9.0
    )
    # The fake run's style is the reference's mean, which is added to the negative; a reference is not scaled.
    assert (load(tmp_path / "out" / "a.png") == 255 - 128 + 153 - 127.5 - 0.5).all()


def test_stretch_fills_the_range(tmp_path, negative, translate):
    pixels = np.clip(picture(), 60, 180)
    pixels[0, 0] = (60, 180, 100)
    save(tmp_path / "in" / "a.png", pixels)
    translate(negative, stretch=True)
    wanted = (180.0 - pixels) / (180 - 60) * 255
    np.testing.assert_allclose(load(tmp_path / "out" / "a.png"), wanted, atol=0.51)


def test_keep_format_keeps_what_can_be_written(tmp_path, negative, translate):
    for name in ("a.jpg", "b.png", "c.webp", "d.gif"):
        save(tmp_path / "in" / name, np.full((8, 8, 3), 50, np.uint8))
    translate(negative, format="keep")
    assert names(tmp_path / "out") == ["a.jpg", "b.png", "c.webp", "d.png"]
    for name in names(tmp_path / "out"):
        np.testing.assert_allclose(load(tmp_path / "out" / name), 205, atol=4)


def test_nothing_unfinished_is_left_when_writing_fails(tmp_path, negative, translate, monkeypatch):
    save(tmp_path / "in" / "a.png", picture())

    def full_disk(source, target):
        raise OSError(28, "No space left on device", target)

    monkeypatch.setattr(folders.os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        translate(negative)
    assert names(tmp_path / "out") == []


def test_real_networks_give_the_same_picture_alone_and_in_a_folder(tmp_path, acl_gan_run, translate):
    for number in range(3):
        save(tmp_path / "in" / f"{number}.png", picture(30, 34, seed=number))
    translator = Translator(*acl_gan_run)
    translate(translator, save_mask=True, save_raw=True, seed=2)
    assert len(names(tmp_path / "out")) == 9
    translate(translator, tmp_path / "in" / "1.png", output=str(tmp_path / "alone"), seed=2)
    together, alone = load(tmp_path / "out" / "1.png"), load(tmp_path / "alone" / "1.png")
    assert together.shape == (30, 34, 3)
    np.testing.assert_allclose(together.astype(int), alone, atol=1)


def test_progress_bar_counts_pictures(tmp_path, negative, translate, capsys):
    for number in range(3):
        save(tmp_path / "in" / f"{number}.png", picture(seed=number))
    (tmp_path / "in" / "bad.png").write_bytes(b"x")
    translate(negative, progress=True)
    printed = capsys.readouterr().err
    assert "4/4" in printed
    assert "img/s" in printed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input": "missing"}, "missing: no such picture or folder"),
        ({"input": ""}, "no such picture or folder"),
        ({"output": "in/a.png"}, "is a file"),
        ({"styles": 0}, "styles 0"),
        ({"styles": 2}, "has no style"),
        ({"style_reference": "in/a.png"}, "has no style"),
        ({"resize": -1}, "resize -1"),
        ({"batch": -1}, "batch -1"),
        ({"seed": -1}, "seed -1"),
        ({"style_scale": float("nan")}, "style_scale nan"),
        ({"format": "gif"}, "format 'gif'"),
        ({"direction": "b2a"}, "trained for a2b only"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(tmp_path, negative, options, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "in" / "a.png", picture())
    arguments = {"input": "in", "output": "out", "progress": False, **options}
    with pytest.raises(UserError, match=words) as caught:
        folders.translate_folder(negative, **arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"style_reference": "missing.png"}, "missing.png: the style reference cannot be read"),
        ({"style_reference": "text.png"}, "text.png: the style reference cannot be read"),
        ({"style_reference": "in/a.png", "styles": 2}, "one or the other"),
    ],
)
def test_bad_style_references_are_refused_in_one_line(tmp_path, make_negative_run, options, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "in" / "a.png", picture())
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(UserError, match=words) as caught:
        folders.translate_folder(Translator(make_negative_run(style_dim=2), {}), "in", "out", progress=False, **options)
    assert "\n" not in str(caught.value)


def test_a_folder_without_pictures_is_refused(tmp_path, negative, translate):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="holds no pictures"):
        translate(negative)


def test_a_run_of_more_channels_is_refused(tmp_path, make_negative_run, translate):
    save(tmp_path / "in" / "a.png", picture())
    with pytest.raises(UserError, match="5 channels"):
        translate(Translator(make_negative_run(channels=5), {}))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_that_cannot_be_written_raises_the_systems_error(tmp_path, negative, translate):
    save(tmp_path / "in" / "a.png", picture())
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(PermissionError):
        translate(negative)
