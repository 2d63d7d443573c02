"""Specs, resizing, colour and geometry of augmentation, held to Pillow, colorsys and plain NumPy."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import record_folder
import tensorflow as tf
from PIL import Image, ImageEnhance

from tfaclgan.data import augment
from tfaclgan.errors import UserError

PHOTO = record_folder.photo(48, 64)
NOISE = np.random.RandomState(0).randint(0, 256, (48, 64, 3), dtype=np.uint8)


def planned(spec, count=1, size=(48, 64), crop=(32, 32), load=48, stream=0, active=None):
    seeds = np.stack([np.full(count, stream), np.arange(count)], 1).astype(np.int64)
    sizes = np.tile(np.array(size, np.int32), (count, 1))
    active = None if active is None else tf.constant(active)
    plan = tf.function(augment.plan) if count >= 500 else augment.plan  # as in the pipeline; tracing takes a second
    return plan(augment.parse(spec), tf.constant(seeds), tf.constant(sizes), *crop, load, active)


def augmented(image, spec, number=0, crop=(32, 32), load=48, is_map=False, **arguments):
    drawn = planned(spec, number + 1, image.shape[:2], crop, load, **arguments)
    row = {name: value[number] for name, value in drawn.items()}
    return augment.random_image(tf.constant(image), augment.parse(spec), row, *crop, is_map=is_map).numpy()


def difference(ours, theirs):
    return np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))


# -- specs ------------------------------------------------------------------------------------


def test_presets_are_what_the_papers_and_codes_state():
    jitter = augment.Jitter
    assert augment.parse("none") == augment.parse("") == augment.Augmentation()
    assert augment.parse("acl_gan") == augment.Augmentation(crop=True, flip=0.5)
    council = augment.Augmentation(
        crop=True,
        flip=0.5,
        hue=jitter(0.15),
        grey=0.25,
        rotate=jitter(35),
        translate=jitter(0.1),
        perspective=jitter(0.35, 0.5),
    )
    assert augment.parse("council") == council
    without_translation = augment.parse("council,translate:0")
    assert not without_translation.translate
    older = augment.parse("acl_gan_selfie2anime")
    assert (older.hue, older.grey, older.rotate, older.perspective) == (
        council.hue,
        0.25,
        council.rotate,
        council.perspective,
    )
    assert not older.translate
    assert augment.parse("council_released") == augment.Augmentation(crop=True, flip=0.5, grey=0.05)
    gender = augment.parse("council_released_gender")
    assert {gender.brightness, gender.contrast, gender.saturation, gender.hue} == {jitter(0.1)}
    for preset in augment.PRESETS:
        augment.parse(preset)


def test_lists_override_presets_from_left_to_right():
    parsed = augment.parse(" acl_gan , hue:0.1:0.3,flip:0.25,resized_crop:0.5, rotate:10 ")
    assert parsed.crop
    assert parsed.flip == 0.25
    assert parsed.hue == augment.Jitter(0.1, 0.3)
    assert parsed.rotate == augment.Jitter(10, 1)
    assert parsed.resized_crop == augment.ResizedCrop(0.5, 1, 1)
    assert augment.parse("perspective:0.2").perspective == augment.Jitter(0.2, 0.5)
    assert augment.parse("hue:0.1,none") == augment.parse("hue:0.1")


@pytest.mark.parametrize(
    "spec, words",
    [
        ("flop", "'flop' is neither a preset"),
        ("flip,crops", "'crops' is neither"),
        ("flip:0.5:0.5", "2 numbers, 0 to 1 are possible"),
        ("flip:1.5", "probability 1.5 is not between 0 and 1"),
        ("flip:-0.1", "probability -0.1"),
        ("flip:nan", "probability nan"),
        ("flip:x", "could not convert"),
        ("flip:", "could not convert"),
        ("crop:1", "1 numbers, 0 to 0"),
        ("grey", "0 numbers, 1 to 1"),
        ("hue", "0 numbers, 1 to 2"),
        ("hue:0.6", "0.6 is not between 0 and 0.5"),
        ("hue:-0.1", "-0.1 is not between"),
        ("hue:0.1:2", "probability 2"),
        ("brightness:11", "11 is not between 0 and 10"),
        ("rotate:200", "200 is not between 0 and 180"),
        ("rotate:inf", "inf is not between"),
        ("translate:1.1", "1.1 is not"),
        ("perspective:1", "1 is not between 0 and 0.99"),
        ("resized_crop", "0 numbers, 1 to 3"),
        ("resized_crop:0", "must rise and lie above 0"),
        ("resized_crop:0.8:0.5", "must rise"),
        ("resized_crop:0.5:1.5", "up to 1"),
        ("resized_crop:0.5:1:1.5", "probability 1.5"),
        ("hue:0.1:0.5:1", "3 numbers, 1 to 2"),
    ],
)
def test_bad_specs_are_told_in_one_line(spec, words):
    with pytest.raises(UserError) as caught:
        augment.parse(spec)
    assert words in str(caught.value)
    assert f"--augment={spec}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["brightness:0.1", "contrast:0.1", "saturation:0.1", "hue:0.1", "grey:0.5"])
def test_colour_needs_grey_or_rgb(name):
    augment.check_channels(augment.parse(name), 1, name)
    augment.check_channels(augment.parse(name), 3, name)
    augment.check_channels(augment.parse("flip,crop,rotate:10"), 4, "flip,crop,rotate:10")
    with pytest.raises(UserError, match="cannot be applied to images of 4 channels"):
        augment.check_channels(augment.parse(name), 4, name)


# -- sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, load, crop, expected",
    [
        ((218, 178), 256, (256, 256), (313, 256)),  # CelebA: 313.5 truncated
        ((178, 218), 256, (256, 256), (256, 313)),
        ((256, 256), 256, (256, 256), (256, 256)),
        ((300, 300), 286, (256, 256), (286, 286)),
        ((100, 50), 32, (32, 32), (64, 32)),
        ((64, 64), 32, (32, 64), (32, 64)),  # the crop is wider than the resized image
        ((1, 7), 8, (8, 8), (8, 56)),
    ],
)
def test_load_shape(size, load, crop, expected):
    assert tuple(augment.load_shape(tf.constant(size), *crop, load).numpy()) == expected
    both = augment.load_shape(tf.constant([size, size]), *crop, load).numpy()
    assert both.tolist() == [list(expected)] * 2


@pytest.mark.parametrize("shape", [(24, 32), (37, 50), (13, 9), (96, 128), (60, 30), (100, 64), (48, 20), (1, 1)])
@pytest.mark.parametrize("image", [PHOTO, NOISE], ids=["photo", "noise"])
def test_resize_is_pillows_bilinear(image, shape):
    ours = augment.resize(tf.constant(image), tf.constant(shape)).numpy()
    theirs = np.asarray(Image.fromarray(image).resize(shape[::-1], Image.Resampling.BILINEAR))
    gap = difference(ours, theirs)
    # Pillow rounds to 8 bits after its horizontal pass: half a level, and another half at the end.
    assert gap.max() <= 1
    assert gap.mean() < 0.3


@pytest.mark.parametrize("shape", [(24, 32), (37, 50), (96, 128), (13, 100)])
def test_resize_of_maps_is_pillows_nearest(shape):
    labels = NOISE[..., :1] // 20
    ours = augment.resize(tf.constant(labels), tf.constant(shape), nearest=True).numpy()
    theirs = np.asarray(Image.fromarray(labels[..., 0]).resize(shape[::-1], Image.Resampling.NEAREST))
    # A centre exactly between two pixels falls to either side by the rounding of 32 bits, in both.
    rows, columns = ((np.arange(new) + 0.5) * old / new % 1 > 1e-6 for old, new in zip((48, 64), shape))
    np.testing.assert_array_equal(ours[rows][:, columns, 0], theirs[rows][:, columns])


def test_images_of_the_right_size_are_left_alone():
    np.testing.assert_array_equal(augment.resize(tf.constant(NOISE), tf.constant([48, 64])), NOISE)
    np.testing.assert_array_equal(augment.evaluation_image(tf.constant(NOISE), 48, 48, 48), NOISE[:, 8:56])
    np.testing.assert_array_equal(augment.evaluation_image(tf.constant(NOISE), 31, 31, 48), NOISE[8:39, 16:47])


# -- colour -----------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.9, 1.0, 1.1, 1.7, 3.0])
@pytest.mark.parametrize("image", [PHOTO, NOISE], ids=["photo", "noise"])
@pytest.mark.parametrize("name, tolerance", [("brightness", 1), ("contrast", 1), ("saturation", 2)])
def test_colour_is_pillows(name, tolerance, image, factor):
    """Pillow truncates where this rounds at the very end: one level; its grey is whole, which saturation multiplies."""
    operation = getattr(augment, f"adjust_{name}")
    ours = augment.to_uint8(operation(tf.constant(image, tf.float32), tf.constant(factor))).numpy()
    enhancer = {"brightness": "Brightness", "contrast": "Contrast", "saturation": "Color"}[name]
    theirs = getattr(ImageEnhance, enhancer)(Image.fromarray(image)).enhance(factor)
    gap = difference(ours, theirs)
    assert gap.max() <= tolerance
    assert gap.mean() < 0.75
    if factor == 1:
        assert gap.max() == 0


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_colour_of_grey_images_is_pillows(name):
    grey = PHOTO[..., :1]
    ours = augment.to_uint8(getattr(augment, f"adjust_{name}")(tf.constant(grey, tf.float32), tf.constant(1.4)))
    theirs = getattr(ImageEnhance, name.title())(Image.fromarray(grey[..., 0])).enhance(1.4)
    assert difference(ours[..., 0], theirs).max() <= 1


@pytest.mark.parametrize("image", [PHOTO, NOISE], ids=["photo", "noise"])
def test_grey_is_pillows_luma(image):
    ours = augment.grey(tf.constant(image, tf.float32)).numpy()[..., 0]
    np.testing.assert_array_equal(ours, np.asarray(Image.fromarray(image).convert("L")))


@pytest.mark.parametrize("turns", [-0.5, -0.15, -0.01, 0.0, 0.07, 0.15, 0.34])
def test_hue_shifts_hsv(turns):
    pixels = np.concatenate([NOISE[:3].reshape(-1, 3), [[0, 0, 0], [255, 255, 255], [7, 7, 7], [255, 0, 0], [0, 9, 9]]])
    expected = []
    for pixel in pixels / 255:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected.append(colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value))
    ours = augment.adjust_hue(tf.constant(pixels[np.newaxis], tf.float32), tf.constant(turns, tf.float32))[0]
    np.testing.assert_allclose(ours, np.array(expected) * 255, atol=2e-3)


@pytest.mark.parametrize("levels", [-38, 5, 38, 100])
def test_hue_is_pillows_up_to_its_256_hues(levels):
    """torchvision's adjust_hue: Pillow's HSV, whose hue has 256 levels and is truncated, as saturation is.

    A level of hue moves a channel by up to 6 levels at full saturation, truncation costs one, and the circle of 256
    steps that wraps is not quite the circle of 255 that is converted: by theory up to 2 levels of hue, 12 of colour.
    """
    hue, saturation, value = Image.fromarray(PHOTO).convert("HSV").split()
    shifted = Image.fromarray(np.asarray(hue) + np.uint8(levels % 256))
    theirs = Image.merge("HSV", (shifted, saturation, value)).convert("RGB")
    ours = augment.to_uint8(augment.adjust_hue(tf.constant(PHOTO, tf.float32), tf.constant(levels / 255.0)))
    gap = difference(ours, theirs)
    assert gap.max() <= 12
    assert gap.mean() < 2


def test_probabilities_of_colour_are_kept():
    drawn = planned("hue:0.15:0.3,grey:0.25,brightness:0.4:0.6", 4000)
    for name, probability in (("hue?", 0.3), ("grey?", 0.25), ("brightness?", 0.6), ("contrast?", 0), ("flip", 0)):
        assert abs(np.mean(drawn[name]) - probability) < 4 * np.sqrt(probability * (1 - probability) / 4000) + 1e-9
    for name, low, high in (("hue", -0.15, 0.15), ("brightness", 0.6, 1.4)):
        values = np.sort(drawn[name])
        np.testing.assert_allclose(values, np.linspace(low, high, 4000), atol=0.05 * (high - low))
        assert values[0] >= low
        assert values[-1] <= high
    assert abs(np.corrcoef(drawn["hue"], drawn["brightness"])[0, 1]) < 0.06
    assert np.min(planned("contrast:3", 500)["contrast"]) >= 0


def test_images_become_grey_as_a_whole():
    count = 40
    drawn = planned("grey:0.5,rotate:20", count)
    greys = 0
    for number in range(count):
        image = augmented(PHOTO, "grey:0.5,rotate:20", number)
        equal = bool((image == image[..., :1]).all())
        assert equal == bool(drawn["grey?"][number])
        greys += equal
    assert 8 < greys < 32


def test_colour_of_images_of_one_channel():
    image = PHOTO[..., :1]
    same = augmented(image, "hue:0.5,saturation:0.9,grey:1", crop=(48, 64))
    np.testing.assert_array_equal(same, image)
    brighter = augmented(image, "brightness:0.9", crop=(48, 64))
    factor = float(planned("brightness:0.9", crop=(48, 64))["brightness"][0])
    expected = np.clip(image * factor, 0, 255)
    assert difference(brighter, expected).max() <= 0.51


# -- geometry ---------------------------------------------------------------------------------


def warped(image, matrix, crop=None, nearest=False):
    height, width = crop or image.shape[:2]
    matrix = augment.flat(matrix)[0]
    return augment.warp(tf.constant(image, tf.float32), matrix, height, width, nearest=nearest).numpy()


def points(matrix, x, y):
    mapped = np.asarray(matrix) @ np.array([x, y, 1.0])
    return mapped[:2] / mapped[2]


def side(value):
    return tf.constant([value])


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_rotation_by_quarters_is_exact_and_counter_clockwise(quarter):
    square = NOISE[:, :48]
    result = warped(square, augment.rotation(tf.constant([90.0 * quarter]), side(48), side(48)))
    np.testing.assert_allclose(result, np.rot90(square, quarter), atol=0.02)


@pytest.mark.parametrize("degrees", [-35, 3, 20])
def test_rotation_is_pillows(degrees):
    ours = warped(PHOTO, augment.rotation(tf.constant([float(degrees)]), side(48), side(64)))
    theirs = np.asarray(Image.fromarray(PHOTO).rotate(degrees, Image.Resampling.BILINEAR))
    inside = np.asarray(Image.fromarray(np.pad(np.full((44, 60), 255, np.uint8), 2)).rotate(degrees)) == 255
    inside[[0, -1]] = inside[:, [0, -1]] = False
    assert inside.mean() > 0.5
    # Pillow computes positions in 16-bit fixed point and truncates to whole levels.
    assert difference(ours, theirs)[inside].max() <= 2


def test_perspective_moves_corners():
    corners = np.array([[3, 2], [60, 1], [58, 40], [1, 44]], np.float64)
    matrix = augment.perspective(tf.constant(corners[np.newaxis]), side(48), side(64))[0]
    for (x, y), corner in zip(corners, [[0, 0], [63, 0], [63, 47], [0, 47]]):
        np.testing.assert_allclose(points(matrix, x, y), corner, atol=1e-9)


def test_perspective_is_pillows():
    corners = np.array([[3, 2], [60, 1], [58, 40], [1, 44]], np.float64)
    matrix = augment.perspective(tf.constant(corners[np.newaxis]), side(48), side(64))
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # Pillow's pixel centres lie at halves
    theirs = half @ matrix.numpy()[0] @ np.linalg.inv(half)
    theirs = Image.fromarray(PHOTO).transform(
        (64, 48), Image.Transform.PERSPECTIVE, (theirs / theirs[2, 2]).ravel()[:8].tolist(), Image.Resampling.BILINEAR
    )
    inside = np.zeros((48, 64), bool)
    inside[4:38, 6:56] = True
    assert difference(warped(PHOTO, matrix), theirs)[inside].max() <= 2


def test_translation_and_mirror_are_exact():
    moved = warped(NOISE, augment.translation(tf.constant([5.0]), tf.constant([-3.0])))
    expected = np.zeros_like(NOISE)
    expected[:-3, 5:] = NOISE[3:, :-5]
    np.testing.assert_array_equal(moved, expected)
    np.testing.assert_array_equal(warped(NOISE, augment.mirror(side(64))), NOISE[:, ::-1])


def test_window_is_pillows_box():
    box = (10.25, 5.5, 42.25, 37.5)  # left, top, right, bottom
    matrix = augment.window(tf.constant([[5.5, 10.25]], tf.float64), tf.constant([[0.5, 0.5]], tf.float64))
    ours = warped(PHOTO, matrix, (64, 64))
    theirs = Image.fromarray(PHOTO).resize((64, 64), Image.Resampling.BILINEAR, box)
    assert difference(ours, theirs).max() <= 1.01


SPEC = "rotate:35,translate:0.1,perspective:0.35:0.5,flip,crop"


def pillow_chain(image, draw):
    """The operations one after the other, in the originals' order; `image` [96, 128, 3], crop [96, 96]."""
    step = Image.fromarray(image).rotate(35 * (2 * draw["rotate"] - 1), Image.Resampling.BILINEAR)
    x, y = round((2 * draw["translate_x"] - 1) * 12.8), round((2 * draw["translate_y"] - 1) * 9.6)
    step = step.transform(step.size, Image.Transform.AFFINE, (1, 0, -x, 0, 1, -y))
    if draw["perspective?"] < 0.5:
        inwards = np.array([draw[f"corner_{i}"] for i in range(8)]).reshape(4, 2) * 0.175 * [128, 96]
        far = np.array([[0, 0], [127, 0], [127, 95], [0, 95]])
        corners = far + inwards * np.where(far > 0, -1, 1)
        matrix = augment.perspective(tf.constant(corners[np.newaxis]), side(96), side(128)).numpy()[0]
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        matrix = half @ matrix @ np.linalg.inv(half)
        coefficients = (matrix / matrix[2, 2]).ravel()[:8].tolist()
        step = step.transform(step.size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)
    if draw["flip"] < 0.5:
        step = step.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left = int(draw["crop_x"] * 33)
    return np.asarray(step)[:, left : left + 96]


def test_one_homography_is_the_chain_of_operations():
    """Each operation applied on its own to a smooth image; what the chain cuts off on the way, this still shows."""
    image, white = record_folder.photo(96, 128, seed=4), np.full((96, 128, 3), 255, np.uint8)
    drawn, spec = planned(SPEC, 16, (96, 128), (96, 96), 96), augment.parse(SPEC)
    distorted = 0
    for number in range(16):
        row = {name: value[number] for name, value in drawn.items()}
        uniform = tf.random.stateless_uniform([len(augment._SLOTS)], [0, number], alg="philox").numpy()
        draw = dict(zip(augment._SLOTS, uniform))
        ours, extent = (augment.random_image(tf.constant(it), spec, row, 96, 96).numpy() for it in (image, white))
        inside = (pillow_chain(white, draw) == 255).all(-1)
        assert inside.mean() > 0.3
        assert (extent == 255).all(-1)[inside].mean() > 0.95
        gap = difference(ours, pillow_chain(image, draw))[inside & (extent == 255).all(-1)]
        assert gap.mean() < 1.5  # the chain rounds and blurs three times
        assert np.percentile(gap, 99) <= 8
        distorted += draw["perspective?"] < 0.5
    assert 4 <= distorted <= 12


def test_ranges_of_warps():
    drawn = planned("rotate:30:0.5", 2000, (48, 48), (48, 48))
    matrix = drawn["matrix"].numpy()
    degrees = np.degrees(np.arctan2(matrix[:, 3], matrix[:, 0]))
    assert abs(np.mean(drawn["warp"]) - 0.5) < 0.05
    np.testing.assert_allclose(
        matrix[~drawn["warp"].numpy()], [[1, 0, 0, 0, 1, 0, 0, 0]] * int(2000 - np.sum(drawn["warp"])), atol=1e-6
    )
    turned = np.sort(degrees[drawn["warp"].numpy()])
    np.testing.assert_allclose(turned, np.linspace(-30, 30, len(turned)), atol=4)
    assert np.abs(turned).max() <= 30.001

    moved = planned("translate:0.25", 2000, (48, 64), (48, 64))["matrix"].numpy()
    np.testing.assert_array_equal(moved[:, 2], np.round(moved[:, 2]))  # whole pixels, as in torchvision
    assert set(moved[:, 2]) == set(range(-16, 17))
    assert set(moved[:, 5]) == set(range(-12, 13))

    # U-GAT-IT's fork: an area uniform in [0.748, 1] for one picture in five.
    drawn = planned("resized_crop:0.748:1:0.2", 4000, (48, 48), (48, 48))
    zoomed = drawn["warp"].numpy()
    assert abs(zoomed.mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 4000)
    areas = np.sort(drawn["matrix"].numpy()[zoomed, 0] ** 2)
    np.testing.assert_allclose(areas, np.linspace(0.748, 1, len(areas)), atol=0.02)

    corners = planned("perspective:0.5:1", 500, (48, 64), (48, 64))["matrix"].numpy()
    matrices = np.concatenate([corners, np.ones((500, 1))], 1).reshape(-1, 3, 3)
    for matrix in matrices:
        inverse = np.linalg.inv(matrix)
        x, y = points(inverse, 0, 0)
        assert -1e-3 <= x <= 16
        assert -1e-3 <= y <= 12
        x, y = points(inverse, 63, 47)
        assert 47 <= x <= 63.001
        assert 35 <= y <= 47.001


def test_crops_are_windows_and_reach_every_corner():
    drawn = planned("crop", 1500, (48, 64), (40, 60))
    corners = drawn["corner"].numpy()
    assert set(map(tuple, corners)) == {(top, left) for top in range(9) for left in range(5)}
    for number in range(5):
        top, left = corners[number]
        np.testing.assert_array_equal(
            augmented(NOISE, "crop", number, (40, 60)), NOISE[top : top + 40, left : left + 60]
        )


def test_flip_mirrors_the_crop():
    drawn = planned("flip,crop", 40)
    assert 8 < np.sum(drawn["flip"]) < 32
    for number in range(10):
        top, left = drawn["corner"][number].numpy()
        expected = NOISE[top : top + 32, left : left + 32]
        expected = expected[:, ::-1] if drawn["flip"][number] else expected
        np.testing.assert_array_equal(augmented(NOISE, "flip,crop", number), expected)


def test_what_lies_outside_is_black():
    image = np.full((48, 48, 3), 200, np.uint8)
    result = augmented(image, "rotate:180,translate:1", 3, (48, 48))
    assert {0, 200} <= set(result.ravel().tolist())
    assert result.max() == 200


def test_maps_share_the_geometry_of_their_image():
    """A mask drawn into the image moves with it, and keeps its two values."""
    mask = np.zeros((48, 64, 1), np.uint8)
    mask[10:30, 20:50] = 255
    image = np.repeat(mask, 3, -1)
    for number in range(12):
        spec = SPEC + ",resized_crop:0.3:1:0.5"
        moved_image = augmented(image, spec, number)
        moved_mask = augmented(mask, spec, number, is_map=True)
        assert moved_mask.shape == (32, 32, 1)
        assert set(np.unique(moved_mask)) <= {0, 255}
        inside = augmented(np.full_like(image, 255), spec, number)[..., 0] == 255
        clear = inside & ((moved_image[..., 0] < 60) | (moved_image[..., 0] > 195))
        assert clear.mean() > 0.4
        np.testing.assert_array_equal((moved_image[..., :1] > 127)[clear], (moved_mask > 127)[clear])


def test_maps_are_not_coloured():
    labels = NOISE[..., :1] // 30
    np.testing.assert_array_equal(
        augmented(labels, "brightness:0.9,contrast:0.9,crop", 1, (48, 64), is_map=True), labels
    )


@pytest.mark.parametrize("size, load", [((48, 64), 48), ((144, 200), 48), ((31, 40), 48)])
def test_resized_crop_is_pillows_box(size, load):
    image = record_folder.photo(*size, seed=2)
    spec = "resized_crop:0.2:1"
    seen = set()
    for number in range(8):
        uniform = tf.random.stateless_uniform([len(augment._SLOTS)], [0, number], alg="philox").numpy()
        draw = dict(zip(augment._SLOTS, uniform))
        frame = augment.load_shape(tf.constant(size), 32, 32, load).numpy()
        window = np.sqrt(0.2 + 0.8 * draw["resized_crop"]) * min(frame)
        scale = size / frame
        top, left = draw["crop_y"] * (frame[0] - window), draw["crop_x"] * (frame[1] - window)
        box = [left * scale[1], top * scale[0], (left + window) * scale[1], (top + window) * scale[0]]
        theirs = Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR, box)
        ours = augmented(image, spec, number, load=load)
        gap = difference(ours, theirs)
        # Shrinking resizes the whole image and then samples it: a little smoother than a box resized at once.
        assert gap.mean() < 2
        assert np.percentile(gap, 98) <= 9
        seen.add(bool((box[2] - box[0]) > 32))
    assert seen == {(48, 64): {True, False}, (144, 200): {True}, (31, 40): {False}}[size]  # shrunk or grown


def test_resized_crop_of_everything_is_the_image():
    square = NOISE[:, :48]
    np.testing.assert_array_equal(augmented(square, "resized_crop:1", crop=(48, 48)), square)


def test_resized_crop_has_no_dark_border():
    image = np.full((48, 48, 3), 200, np.uint8)
    for spec in ("resized_crop:0.1:0.5", "resized_crop:0.98:0.99", "flip,resized_crop:0.98:0.99"):
        for number in range(6):
            assert (augmented(image, spec, number, (48, 48)) == 200).all()
            assert (augmented(image, spec, number, (96, 96), load=96) == 200).all()


def test_resized_crop_does_not_alias():
    """Stripes one pixel wide, seen at a quarter of the size, are grey."""
    image = np.zeros((192, 192, 3), np.uint8)
    image[:, ::2] = 255
    for number in range(4):
        result = augmented(image, "resized_crop:0.9:1", number, (48, 48), load=192)[2:-2, 2:-2]
        assert difference(result, 127.5).max() < 40
        assert difference(result, 127.5).mean() < 8


def test_draws_depend_on_the_seed_of_each_row_alone():
    spec = SPEC + ",hue:0.2,resized_crop:0.5:1:0.5"
    whole, part = planned(spec, 10), planned(spec, 4)
    for name in whole:
        np.testing.assert_array_equal(whole[name][:4], part[name])
    other = planned(spec, 10, stream=1)
    assert np.mean(np.isclose(whole["hue"], other["hue"])) < 0.2
    assert len(np.unique(whole["hue"])) == 10


def test_inactive_rows_keep_only_the_crop():
    spec = "council,brightness:0.5,contrast:0.5,saturation:0.5,resized_crop:0.5"
    active = np.arange(12) % 2 == 0
    drawn = planned(spec, 12, active=active)
    for name in ("flip", "grey?", "hue?", "brightness?", "contrast?", "saturation?", "warp"):
        assert not np.any(drawn[name].numpy()[~active])
    assert drawn["warp"].numpy()[active].all()
    plain = planned("crop", 12)
    np.testing.assert_array_equal(drawn["corner"], plain["corner"])
    row = {name: value[3] for name, value in drawn.items()}
    top, left = plain["corner"][3].numpy()
    result = augment.random_image(tf.constant(NOISE), augment.parse(spec), row, 32, 32)
    np.testing.assert_array_equal(result, NOISE[top : top + 32, left : left + 32])


def test_nothing_at_random_without_a_spec():
    np.testing.assert_array_equal(augmented(NOISE, "none", 5), NOISE[8:40, 16:48])
    tall = record_folder.photo(80, 40)
    np.testing.assert_array_equal(
        augmented(tall, "none", load=32), augment.evaluation_image(tf.constant(tall), 32, 32, 32)
    )


def test_four_channels_are_warped_alike():
    image = np.concatenate([NOISE, NOISE[..., :1]], -1)
    result = augmented(image, SPEC, 2)
    assert result.shape == (32, 32, 4)
    np.testing.assert_array_equal(result[..., 0], result[..., 3])
    np.testing.assert_array_equal(result[..., :3], augmented(NOISE, SPEC, 2))
