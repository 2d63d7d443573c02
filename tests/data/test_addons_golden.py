"""What replaces tensorflow-addons gives what tensorflow-addons 0.23.0 gave (golden/addons.npz)."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import toy

from tfaclgan.data import augment
from tfaclgan.engine import strategy
from tfaclgan.engine.tensorflow import Engine
from tfaclgan.layers import norm


@pytest.fixture(scope="module")
def golden():
    with np.load(pathlib.Path(__file__).parent / "golden" / "addons.npz") as file:
        return dict(file)


def warped(golden, number, matrices, *, nearest=False):
    image = tf.constant(golden["images"][number], tf.float32)
    return augment.warp(image, augment.flat(matrices)[0], 18, 26, nearest=nearest).numpy()


def square(eight):
    return tf.constant(np.append(eight, 1).reshape(1, 3, 3), tf.float64)


@pytest.mark.parametrize("number", [0, 1])
def test_projective_transform(golden, number):
    matrices = square(golden["matrices"][number])
    # Positions are computed in float32 by both: an image's steepest slope times their rounding.
    np.testing.assert_allclose(warped(golden, number, matrices), golden["transformed"][number], atol=1e-3)
    nearest = warped(golden, number, matrices, nearest=True)
    np.testing.assert_array_equal(nearest, golden["transformed_nearest"][number])


@pytest.mark.parametrize("number", [0, 1])
def test_rotation(golden, number):
    degrees = np.degrees(golden["angles"][number : number + 1])
    result = warped(golden, number, augment.rotation(degrees, tf.constant([18]), tf.constant([26])))
    np.testing.assert_allclose(result, golden["rotated"][number], atol=2e-3)


@pytest.mark.parametrize("number", [0, 1])
def test_translation(golden, number):
    x, y = golden["shifts"][number]
    result = warped(golden, number, augment.translation(tf.constant([x]), tf.constant([y])))
    np.testing.assert_allclose(result, golden["translated"][number], atol=1e-3)


def test_composition(golden):
    """compose_transforms applies the first transform's matrix last to a point of the result: the same product."""
    rotation = augment.rotation(np.degrees([0.3]), tf.constant([18]), tf.constant([26]))
    product = rotation @ augment.translation(tf.constant([3.0]), tf.constant([-2.0])) @ square(golden["matrices"][0])
    np.testing.assert_allclose(augment.flat(product), golden["composed"], rtol=1e-5, atol=1e-6)


def test_border_repeated_once_is_the_nearest_fill_up_to_the_border(golden):
    """Resized crops sample an image padded by one pixel: clamped within a pixel, as fill_mode nearest is."""
    image = np.pad(golden["images"][0].astype(np.float32), [(1, 1), (1, 1), (0, 0)], "symmetric")
    matrix = square(golden["matrices"][0])
    shifted = augment.translation(-1.0, -1.0) @ matrix
    result = augment.warp(tf.constant(image), augment.flat(shifted)[0], 18, 26)
    y, x = np.mgrid[0:18, 0:26]
    place = np.einsum("ij,jyx->iyx", matrix[0].numpy(), np.stack([x, y, np.ones_like(x)]))
    place = place[:2] / place[2]
    inside = (place[0] >= -1) & (place[0] <= 26) & (place[1] >= -1) & (place[1] <= 18)
    assert 0.3 < inside.mean() < 1
    np.testing.assert_allclose(result.numpy()[inside], golden["clamped"][0][inside], atol=1e-3)


def test_instance_norm(golden):
    np.testing.assert_allclose(norm.instance_norm(golden["features"]), golden["instance_normed"], rtol=1e-5, atol=1e-6)


def averages_of(weights, decay):
    """The recurrence, from the first row on: [steps, ...] of [steps + 1, ...]."""
    average, rows = weights[0], []
    for value in weights[1:]:
        average = decay * average + (1 - decay) * value
        rows.append(average)
    return np.array(rows)


def test_moving_average(golden):
    """MovingAverage's averages obey the recurrence, and so do the training engine's."""
    np.testing.assert_allclose(averages_of(golden["weights"], 0.9), golden["averages"], atol=1e-6)
    hardware = strategy.make("cpu", cpu_devices=1)
    recipe, config = dataclasses.replace(toy.TOY.recipe, ema_decay=0.9), toy.Config(generator_every=1)
    subject = Engine(toy.TOY, config, image_shape=(16, 16, 3), recipe=recipe, strategy=hardware.strategy)
    images = np.random.RandomState(0).randint(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    batches = iter(tf.data.Dataset.from_tensors({"a": images, "b": images[:, ::-1]}).repeat())
    states = [subject.state()]
    for _ in range(3):
        subject.train(batches, 1)
        states.append(subject.state())
    names = [name for name in states[0] if name.startswith("averages/")]
    assert names
    for name in names:
        weights = np.array([state[name.replace("averages/", "networks/", 1)] for state in states])
        assert np.abs(np.diff(weights, axis=0)).max() > 0
        averages = np.array([state[name] for state in states[1:]])
        np.testing.assert_allclose(averages, averages_of(weights, 0.9), atol=1e-6)
