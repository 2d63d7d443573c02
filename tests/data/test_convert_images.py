"""Every documented kind of image file against what numpy and Pillow's other routes say it holds."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from pictures import encoded, noise, smooth
from PIL import Image, ImageOps

from tfaclgan.data import images
from tfaclgan.data.images import ImageOptions

OPTIONS = ImageOptions(size=32, min_size=4)
GREY = dataclasses.replace(OPTIONS, channels=1)


def decoded(data, options=OPTIONS):
    return np.asarray(images.decode(data, options))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_kinds_keep_every_pixel(kind):
    array = noise(9, 13)
    np.testing.assert_array_equal(decoded(encoded(array, kind)), array)


@pytest.mark.parametrize("kind, options", [("JPEG", {"quality": 98}), ("WEBP", {"quality": 98})])
def test_lossy_kinds_come_close(kind, options):
    array = smooth(40, 56)
    difference = decoded(encoded(array, kind, **options)).astype(int) - array
    assert np.abs(difference).mean() < 3


def test_webp_and_gif_without_loss():
    array = noise(9, 13)
    np.testing.assert_array_equal(decoded(encoded(array, "WEBP", lossless=True)), array)
    grey = noise(9, 13, channels=1)
    np.testing.assert_array_equal(decoded(encoded(grey, "GIF"))[..., 0], grey)


def test_grey_becomes_three_equal_channels_and_colour_becomes_luma():
    grey = noise(9, 13, channels=1)
    np.testing.assert_array_equal(decoded(encoded(grey)), np.repeat(grey[..., None], 3, axis=2))
    colour = noise(9, 13)
    luma = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decoded(encoded(colour), GREY) - luma).max() <= 1
    assert decoded(encoded(colour), GREY).shape == (9, 13)


def test_sixteen_bits_keep_their_high_byte():
    values = np.random.default_rng(1).integers(0, 65536, (9, 13), dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decoded(encoded(values, kind), GREY), values >> 8)


def test_sixteen_bit_colour_png():
    # Pillow cannot write one; this is the file format by hand.
    import struct
    import zlib

    values = np.random.default_rng(2).integers(0, 65536, (8, 10, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 10, 8, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decoded(data), values >> 8)


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 30)])
def test_transparency_lies_on_the_background(background):
    array = noise(9, 13, channels=4)
    options = dataclasses.replace(OPTIONS, background=background)
    alpha = array[..., 3:] / 255
    expected = array[..., :3] * alpha + np.array(background) * (1 - alpha)
    assert np.abs(decoded(encoded(array), options) - expected).max() <= 1


def test_grey_with_alpha_and_one_transparent_colour():
    array = noise(9, 13, channels=2)
    stream = io.BytesIO()
    Image.fromarray(array, "LA").save(stream, "PNG")
    alpha = array[..., 1] / 255
    expected = array[..., 0] * alpha + 255 * (1 - alpha)
    assert np.abs(decoded(stream.getvalue())[..., 1] - expected).max() <= 1

    colour = np.full((8, 8, 3), 7, np.uint8)
    colour[:4] = (1, 2, 3)
    stream = io.BytesIO()
    Image.fromarray(colour).save(stream, "PNG", transparency=(1, 2, 3))
    result = decoded(stream.getvalue())
    assert (result[:4] == 255).all()
    assert (result[4:] == 7).all()


def test_palette_with_a_transparent_entry():
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8).repeat(4, 0).repeat(4, 1), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=1)
    result = decoded(stream.getvalue(), dataclasses.replace(OPTIONS, background=(9, 8, 7)))
    assert tuple(result[0, 0]) == (255, 0, 0)
    assert tuple(result[0, 7]) == (9, 8, 7)
    assert tuple(result[7, 0]) == (0, 0, 255)


def test_animation_gives_its_first_frame():
    first, second = (Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (50, 200))
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {})):
        stream = io.BytesIO()
        first.save(stream, kind, save_all=True, append_images=[second], **options)
        assert (decoded(stream.getvalue()) == 50).all(), kind


def test_cmyk_jpeg():
    array = smooth(32, 40)
    stream = io.BytesIO()
    Image.fromarray(array).convert("CMYK").save(stream, "JPEG", quality=98)
    assert Image.open(io.BytesIO(stream.getvalue())).mode == "CMYK"
    difference = decoded(stream.getvalue()).astype(int) - array
    assert np.abs(difference).mean() < 4


def test_one_bit():
    array = noise(8, 8, channels=1) > 127
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    np.testing.assert_array_equal(decoded(stream.getvalue(), GREY), array * 255)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation(orientation, kind):
    array = noise(6, 9)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(array).save(stream, kind, exif=exif, **options)
    oracle = ImageOps.exif_transpose(Image.open(io.BytesIO(stream.getvalue()))).convert("RGB")
    result = decoded(stream.getvalue())
    np.testing.assert_array_equal(result, np.asarray(oracle))
    # The EXIF standard's words: where row 0 and column 0 of the stored picture belong.
    standing = {
        1: array, 2: array[:, ::-1], 3: array[::-1, ::-1], 4: array[::-1],
        5: array.transpose(1, 0, 2), 6: np.rot90(array, -1), 7: np.rot90(array, 2).transpose(1, 0, 2),
        8: np.rot90(array, 1),
    }  # fmt: skip
    np.testing.assert_array_equal(result, standing[orientation])


def test_exif_of_a_jpeg_and_damaged_exif():
    array = smooth(32, 48)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decoded(encoded(array, "JPEG", exif=exif)).shape == (48, 32, 3)
    assert decoded(encoded(array, "JPEG", exif=b"Exif\0\0not a tiff header")).shape == (32, 48, 3)


def test_floats_and_wide_integers_are_refused():
    for array in (np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8), np.full((8, 8), 70000, np.int32)):
        with pytest.raises(images.RejectedError, match="no known range"):
            decoded(encoded(array, "TIFF"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_truncated_files_are_refused(kind):
    data = encoded(noise(40, 40), kind)
    with pytest.raises(images.RejectedError):
        decoded(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_image_is_refused_in_stable_words(data):
    texts = []
    for _ in range(2):
        with pytest.raises(images.RejectedError) as error:
            decoded(data)
        texts.append(str(error.value))
    assert texts[0] == texts[1]
    assert "0x" not in texts[0]


def test_bombs_are_refused_before_they_are_decoded():
    options = dataclasses.replace(OPTIONS, max_pixels=100 * 100)
    bomb = encoded(np.zeros((101, 100), np.uint8))
    with pytest.raises(images.RejectedError, match=r"100x101 pixels.*--max_pixels=10000"):
        decoded(bomb, options)
    assert decoded(encoded(np.zeros((100, 100), np.uint8)), options).shape == (100, 100, 3)
    # Declares 60000 x 60000 and holds nothing: the header must be enough to refuse it.
    header = bytearray(encoded(np.zeros((8, 8), np.uint8)))
    import struct
    import zlib

    header[16:24] = struct.pack(">II", 60000, 60000)
    header[29:33] = struct.pack(">I", zlib.crc32(bytes(header[12:29])))
    with pytest.raises(images.RejectedError, match="60000x60000"):
        decoded(bytes(header))


def test_pillows_own_limit_is_put_back():
    before = Image.MAX_IMAGE_PIXELS
    decoded(encoded(noise(8, 8)))
    assert before == Image.MAX_IMAGE_PIXELS


def test_minimum_size():
    options = dataclasses.replace(OPTIONS, min_size=10)
    with pytest.raises(images.TooSmallError, match=r"30x9 pixels, the minimum is 10"):
        decoded(encoded(noise(9, 30)), options)
    assert decoded(encoded(noise(10, 30)), options).shape == (10, 30, 3)


@pytest.mark.parametrize(
    "width, height, expected",
    [(178, 218, (256, 313)), (218, 178, (313, 256)), (64, 64, (256, 256)), (1000, 500, (512, 256))],
)
def test_fitted_size_is_the_originals(width, height, expected):
    assert images.fitted_size(width, height, 256) == expected


@pytest.mark.parametrize("resample", sorted(images.RESAMPLING))
def test_fit_is_pillows_antialiased_resize(resample):
    array = noise(70, 90)
    options = dataclasses.replace(OPTIONS, resample=resample)
    filters = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}
    expected = Image.fromarray(array).resize((41, 32), filters[resample])
    np.testing.assert_array_equal(np.asarray(images.fit(Image.fromarray(array), options)), np.asarray(expected))


def test_fit_is_antialiased():
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(images.fit(Image.fromarray(stripes), OPTIONS))
    assert np.abs(small[1:-1, 1:-1].astype(int) - 127).max() <= 2  # without antialiasing: all 0 or all 255


def test_label_maps_never_mix_classes():
    labels = np.random.default_rng(0).choice(np.array([0, 7, 200], np.uint8), (50, 50))
    result = np.asarray(images.fit_label_map(images.decode_label_map(encoded(labels), OPTIONS), OPTIONS))
    assert result.shape == (32, 32)
    assert set(np.unique(result)) == {0, 7, 200}


def test_label_maps_from_palettes_and_sixteen_bits():
    labels = np.random.default_rng(0).integers(0, 5, (8, 8), dtype=np.uint8)
    image = Image.fromarray(labels, "P")
    image.putpalette(range(15))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    np.testing.assert_array_equal(np.asarray(images.decode_label_map(stream.getvalue(), OPTIONS)), labels)
    wide = encoded(labels.astype(np.uint16) + 200)
    np.testing.assert_array_equal(np.asarray(images.decode_label_map(wide, OPTIONS)), labels + 200)
    with pytest.raises(images.RejectedError, match="must be 0 to 255"):
        images.decode_label_map(encoded(labels.astype(np.uint16) + 254), OPTIONS)
    with pytest.raises(images.RejectedError, match="one channel"):
        images.decode_label_map(encoded(noise(8, 8)), OPTIONS)


def test_masks_are_grey_and_transparent_is_background():
    array = np.full((8, 8, 4), 255, np.uint8)
    array[:4, :, 3] = 0
    mask = np.asarray(images.decode_mask(encoded(array), OPTIONS))
    assert (mask[:4] == 0).all()
    assert (mask[4:] == 255).all()


def test_encode_keeps_pixels_and_drops_metadata():
    array = noise(9, 13)
    image = Image.fromarray(array)
    image.info["comment"] = b"secret"
    data = images.encode(image, OPTIONS)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), array)
    assert b"secret" not in data
    jpeg = images.encode(Image.fromarray(smooth(40, 40)), dataclasses.replace(OPTIONS, format="jpeg"))
    opened = Image.open(io.BytesIO(jpeg))
    assert (opened.format, opened.layer[1][1:3]) == ("JPEG", (1, 1))  # colour is not subsampled
    assert np.abs(np.asarray(opened).astype(int) - smooth(40, 40)).max() <= 6


@pytest.mark.parametrize("text, colour", [("#102030", (16, 32, 48)), ("white", (255, 255, 255))])
def test_colours(text, colour):
    assert images.parse_colour(text) == colour
    with pytest.raises(ValueError):
        images.parse_colour("nocolour")
