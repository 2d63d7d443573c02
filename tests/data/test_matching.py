"""Histogram matching against NumPy twins of its formulas, colour spaces against OpenCV (golden/opencv.npz)."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
import record_folder
import tensorflow as tf
from make_opencv_golden import colours

from tfaclgan.data import matching, pipeline
from tfaclgan.errors import UserError

GOLDEN = dict(np.load(pathlib.Path(__file__).parent / "golden" / "opencv.npz"))
A, B = record_folder.photo(30, 40, 1), (record_folder.photo(26, 34, 2) // 2 + 20).astype(np.uint8)


def twin(source, reference, ratio):
    """One channel: for each value the smallest reference value whose share is at least as large, by two loops."""
    own = np.array([np.mean(source <= v) for v in range(256)])
    wanted = (1 - ratio) * own + ratio * np.array([np.mean(reference <= v) for v in range(256)])
    table, last = np.zeros(256, np.uint8), 0
    for v in range(256):
        for r in range(256):
            if wanted[r] >= own[v] - 1e-12:
                last = r
                break
        table[v] = last
    return table[source]


def twin_image(source, reference, ratio):
    return np.stack([twin(source[..., c], reference[..., c], ratio) for c in range(source.shape[-1])], -1)


def matched(source, reference, spec):
    return matching.match(tf.constant(source), tf.constant(reference), matching.parse(spec)).numpy()


@pytest.mark.parametrize("name, equal", [("hsv", 1.0), ("hsl", 0.96)])
def test_colour_spaces_are_opencvs(name, equal):
    there, back = getattr(matching, f"rgb_to_{name}"), getattr(matching, f"{name}_to_rgb")
    difference = np.abs(there(tf.constant(colours())).numpy() - GOLDEN[name].astype(int))
    assert difference.max() <= 1
    assert (difference == 0).mean() >= equal
    found = back(tf.constant(colours().astype(np.int32))).numpy()
    np.testing.assert_array_equal(found, GOLDEN[f"{name}_of_colours"])


@pytest.mark.parametrize("ratio", [1.0, 0.4, 0.0])
def test_cumulative_form(ratio):
    found = matched(A, B, f"rgb:0.5:{ratio}")
    # Ties in floating point may move a value to its neighbour in the table.
    difference = np.abs(found.astype(int) - twin_image(A, B, ratio))
    assert (difference == 0).mean() > 0.98
    assert found.shape == A.shape
    if ratio == 0:
        assert np.array_equal(found, A)
    if ratio == 1:
        for channel in range(3):
            assert found[..., channel].mean() == pytest.approx(B[..., channel].mean(), abs=4)


@pytest.mark.parametrize("ratio", [1.0, 0.3])
def test_blend_form(ratio):
    full = matched(A, B, "rgb:0.5:1")
    expected = np.round((1 - ratio) * A.astype(np.float32) + ratio * full.astype(np.float32))
    np.testing.assert_allclose(matched(A, B, f"rgb:0.5:{ratio}:blend"), expected, atol=1)


@pytest.mark.parametrize("mode", ["hsv", "hsl"])
def test_modes_match_in_their_own_channels(mode):
    there, back = getattr(matching, f"rgb_to_{mode}"), getattr(matching, f"{mode}_to_rgb")
    channels = [there(tf.constant(image)).numpy() for image in (A, B)]
    expected = back(tf.constant(twin_image(*channels, 1.0).astype(np.int32))).numpy()
    assert (np.abs(matched(A, B, mode).astype(int) - expected) <= 2).mean() > 0.97


def test_a_picture_matched_to_itself_stays():
    assert np.array_equal(matched(A, A, "rgb"), A)


def test_batches_hold_matched_pairs(tmp_path):
    """One of each pair is the stored picture, the other has its colours; which one, a draw of the sample decides."""
    manifest = record_folder.make(tmp_path, {"trainA": [A[:24, :24]], "trainB": [B[:24, :24]]})
    plain = pipeline.PipelineOptions(24, 24, 24)

    def take(spec, until=0, first_step=0):
        options = dataclasses.replace(plain, match_histograms=spec, augment_until_step=until)
        dataset = pipeline.training_dataset(manifest, options, global_batch=8, first_step=first_step)
        return [{name: batch[name].numpy() for name in "ab"} for batch in dataset.take(2)]

    a, b = A[:24, :24], B[:24, :24]
    batches = take("rgb:0.5")
    changed_a, changed_b = 0, 0
    for batch in batches:
        for one, other in zip(batch["a"], batch["b"], strict=True):
            stays = np.array_equal(one, a), np.array_equal(other, b)
            assert sorted(stays) == [False, True]
            changed_a, changed_b = changed_a + (not stays[0]), changed_b + (not stays[1])
            expected = matched(b, a, "rgb") if stays[0] else matched(a, b, "rgb")
            np.testing.assert_array_equal(other if stays[0] else one, expected)
    assert min(changed_a, changed_b) > 1
    assert all(np.array_equal(other, b) for other in take("rgb:0")[0]["b"])
    assert all(np.array_equal(one, a) for one in take("rgb:1")[0]["a"])
    np.testing.assert_array_equal(take("rgb:0.5", first_step=1)[0]["a"], batches[1]["a"])
    ends = take("rgb:1", until=1)
    assert not np.array_equal(ends[0]["b"][0], b)
    assert np.array_equal(ends[1]["b"][0], b)


@pytest.mark.parametrize(
    "spec, channels, message",
    [
        ("lab", 3, "modes are rgb"),
        ("hsl:0.5:1:mean", 3, "forms are cdf"),
        ("hsl:half", 3, "could not convert"),
        ("hsl:2", 3, "between 0 and 1"),
        ("hsl:0.5:-1", 3, "between 0 and 1"),
        ("hsl:0.5:1:cdf:more", 3, "write --match_histograms"),
        ("hsv", 1, "no hue"),
    ],
)
def test_bad_specs_are_user_errors(spec, channels, message):
    with pytest.raises(UserError, match=message):
        matching.parse(spec, channels)
