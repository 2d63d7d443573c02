import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfaclgan.errors import UserError
from tfaclgan.inference import arrays


def test_uint8_round_trip_is_exact():
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    floats = arrays.to_float(values)
    assert floats.dtype == np.float32
    assert floats.min() == -1
    assert floats.max() == 1
    np.testing.assert_array_equal(arrays.to_uint8(floats), values)


def test_to_uint8_rounds_to_the_nearest_and_clips():
    floats = np.array([-3.0, -1.0, 0.0, 0.9, 1.0, 7.0], np.float32)
    wanted = [0, 0, round(127.5), round(0.9 * 127.5 + 127.5), 255, 255]
    np.testing.assert_array_equal(arrays.to_uint8(floats), wanted)


@settings(deadline=None)  # a busy machine is no defect
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    multiple=st.sampled_from([1, 2, 4, 8, 32]),
    minimum=st.integers(1, 64),
)
def test_border_gives_the_smallest_allowed_size_and_crop_undoes_it(height, width, multiple, minimum):
    around = arrays.border(height, width, multiple, minimum)
    images = np.arange(height * width, dtype=np.int64).reshape(1, height, width, 1)
    padded = arrays.pad(images, around)
    for side, was in zip(padded.shape[1:3], (height, width), strict=True):
        assert side % multiple == 0
        assert side >= max(was, minimum)
        assert side - multiple < max(was, minimum)
    assert 0 <= around.bottom - around.top <= 1
    assert 0 <= around.right - around.left <= 1
    np.testing.assert_array_equal(arrays.crop(padded, around), images)


def test_pad_reflects_without_repeating_the_edge():
    images = np.array([1, 2, 3], np.float32).reshape(1, 1, 3, 1)
    padded = arrays.pad(images, arrays.Border(0, 1, 2, 3))
    np.testing.assert_array_equal(padded[0, :, :, 0], [[3, 2, 1, 2, 3, 2, 1, 2]] * 2)


def test_pad_batch_repeats_the_last_row():
    np.testing.assert_array_equal(arrays.pad_batch(np.array([[1], [2]]), 4), [[1], [2], [2], [2]])


def test_styles_are_normal_and_depend_on_every_argument():
    styles = np.stack([arrays.draw_style(5, image, 8, number) for image in range(500) for number in range(2)])
    assert styles.shape == (1000, 8)
    assert abs(styles.mean()) < 4 / np.sqrt(styles.size)
    assert abs(styles.var() - 1) < 4 * np.sqrt(2 / styles.size)
    assert len(np.unique(styles[:, 0])) == 1000
    assert not np.allclose(arrays.draw_style(6, 0, 8), styles[0])
    np.testing.assert_array_equal(arrays.draw_style(5, 0, 8), styles[0])


def test_neighbouring_styles_are_not_correlated():
    styles = np.stack([arrays.draw_style(seed, 7, 64) for seed in range(60)])
    correlations = np.corrcoef(styles)[np.triu_indices(60, 1)]
    assert abs(correlations.mean()) < 4 / np.sqrt(64 * len(correlations))


def test_stretch_uses_one_range_for_all_channels():
    image = np.array([[[-0.5, 0.0, 0.3]], [[0.1, 0.21, 0.5]]], np.float32)
    wanted = np.round((image.astype(np.float64) + 0.5) / 1.0 * 255)
    np.testing.assert_array_equal(arrays.stretch(image), wanted)


def test_stretch_of_a_constant_image_is_finite():
    assert arrays.stretch(np.full((2, 2, 3), 0.25, np.float32)).max() == 0


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((8, 8, 3), np.uint8), r"images\[None\]"),
        (np.zeros((8, 8), np.uint8), "batch, height, width"),
        (np.zeros((1, 8, 8, 1), np.uint8), "1 channels.*trained with 3"),
        (np.zeros((1, 0, 8, 3), np.uint8), "no pixels"),
        (np.zeros((1, 8, 8, 3), np.int32), "int32"),
        (np.zeros((1, 8, 8, 3), bool), "bool"),
        (np.full((1, 8, 8, 3), 255.0), "255"),
        (np.full((1, 8, 8, 3), np.nan), "nan"),
        ("picture.png", "shape"),
    ],
)
def test_bad_images_are_refused_in_one_line(images, words):
    with pytest.raises(UserError, match=words) as caught:
        arrays.check_images(images, 3)
    assert "\n" not in str(caught.value)


def test_floats_may_leave_the_range_by_rounding():
    arrays.check_images(np.full((1, 2, 2, 3), 1.0005, np.float32), 3)
