"""Blurred edges against OpenCV (golden/opencv.npz; see make_opencv_golden.py)."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
import record_folder
import tensorflow as tf
from make_opencv_golden import scene

from tfaclgan.data import edges, pipeline
from tfaclgan.errors import UserError

GOLDEN = dict(np.load(pathlib.Path(__file__).parent / "golden" / "opencv.npz"))


@pytest.mark.parametrize("seed", range(4))
def test_canny_is_opencvs(seed):
    image = scene(seed)
    expected = np.unpackbits(GOLDEN[f"edges{seed}"])[: image[..., 0].size].reshape(image.shape[:2])
    assert 40 < expected.sum() < 1000
    np.testing.assert_array_equal(edges.canny(tf.constant(image)).numpy(), expected)


@pytest.mark.parametrize("seed", range(4))
def test_blurred_edges_are_opencvs(seed):
    np.testing.assert_array_equal(edges.blur_edges(tf.constant(scene(seed))).numpy(), GOLDEN[f"blurred{seed}"])


def test_weak_edges_stay_where_they_hang_on_strong_ones():
    image = np.zeros((12, 40, 1), np.uint8)
    image[6:] = np.linspace(60, 32, 40).astype(np.uint8)[:, None]  # gradient 240 at the left, 128 at the right
    found = edges.canny(tf.constant(image)).numpy()
    assert found.any(axis=0).all()
    assert not edges.canny(tf.constant(image[:, 20:])).numpy().any()  # nowhere above 200


def test_grey_and_flat_pictures():
    grey = scene(0)[..., 1:2]
    assert edges.blur_edges(tf.constant(grey)).shape == grey.shape
    flat = np.full((16, 16, 3), 77, np.uint8)
    np.testing.assert_array_equal(edges.blur_edges(tf.constant(flat)).numpy(), flat)


def test_batches_hold_blurred_pictures_of_the_domain(tmp_path):
    """Unaugmented and uncropped, they are the stored pictures blurred, in an order of their own."""
    pictures = [scene(seed, 24, 24) for seed in range(6)]
    manifest = record_folder.make(tmp_path, {"trainA": pictures, "trainB": pictures[:4]})
    options = pipeline.PipelineOptions(24, 24, 24, blurred_copies=True)

    def take(options, **arguments):
        dataset = pipeline.training_dataset(manifest, options, global_batch=2, **arguments)
        return [{name: value.numpy() for name, value in batch.items()} for batch in dataset.take(3)]

    batches = take(options)
    plain = take(dataclasses.replace(options, blurred_copies=False))
    blurred = [edges.blur_edges(tf.constant(picture)).numpy() for picture in pictures]
    seen = []
    for batch, other in zip(batches, plain, strict=True):
        assert set(batch) - set(other) == {"blur_a", "blur_b"}
        np.testing.assert_array_equal(batch["a"], other["a"])
        for picture in batch["blur_a"]:
            seen += [number for number in range(6) if np.array_equal(picture, blurred[number])]
    assert sorted(seen) == list(range(6))
    order = [int(key.decode().split("/")[1]) for batch in batches for key in batch["key_a"]]
    assert seen != order
    np.testing.assert_array_equal(take(options, first_step=1)[0]["blur_b"], batches[1]["blur_b"])


def test_blurred_copies_need_grey_or_colour(tmp_path):
    picture = np.zeros((8, 8, 4), np.uint8)
    manifest = record_folder.make(tmp_path, {"trainA": [picture], "trainB": [picture]}, channels=4)
    with pytest.raises(UserError, match="have no edges"):
        pipeline.training_dataset(manifest, pipeline.PipelineOptions(8, 8, 8, blurred_copies=True), global_batch=1)
