"""Norms against float64 written-out definitions (MUNIT, ACL-GAN; reference 2.1)."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.layers.norm import AdaptiveInstanceNorm, InstanceNorm, SampleNorm, instance_norm, sample_norm

IMAGES = 3 * np.random.RandomState(0).standard_normal((2, 5, 7, 4)) + 1


def numpy_instance_norm(images):
    result = np.empty_like(images)
    for i in range(images.shape[0]):
        for c in range(images.shape[3]):
            plane = images[i, :, :, c]
            result[i, :, :, c] = (plane - plane.mean()) / np.sqrt(plane.var() + 1e-5)
    return result


def numpy_sample_norm(images):
    return np.stack([(x - x.mean()) / (x.std(ddof=1) + 1e-5) for x in images])


def test_instance_norm():
    np.testing.assert_allclose(instance_norm(tf.constant(IMAGES)), numpy_instance_norm(IMAGES), rtol=1e-12, atol=1e-13)
    layer = InstanceNorm(dtype="float64")
    np.testing.assert_allclose(layer(IMAGES), numpy_instance_norm(IMAGES), rtol=1e-12, atol=1e-13)
    assert not layer.weights


def test_instance_norm_of_small_variance_shows_where_epsilon_stands():
    small = 1e-3 * IMAGES
    np.testing.assert_allclose(instance_norm(tf.constant(small)), numpy_instance_norm(small), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_sample_norm(scale):
    images = scale * IMAGES
    np.testing.assert_allclose(sample_norm(tf.constant(images)), numpy_sample_norm(images), rtol=1e-9, atol=1e-12)


def test_sample_norm_layer_scales_and_shifts_channels():
    layer = SampleNorm(dtype="float64")
    layer.build(IMAGES.shape)
    gamma, beta = np.array([0.5, -1.0, 2.0, 0.0]), np.array([0.0, 1.0, -2.0, 3.0])
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    np.testing.assert_allclose(layer(IMAGES), numpy_sample_norm(IMAGES) * gamma + beta, rtol=1e-10, atol=1e-12)


def test_sample_norm_starts_uniform():
    layer = SampleNorm()
    layer.build((None, 1, 1, 5000))
    gamma = layer.gamma.numpy()
    assert gamma.min() >= 0
    assert gamma.max() < 1
    assert abs(gamma.mean() - 0.5) < 0.02
    assert not layer.beta.numpy().any()


@pytest.mark.parametrize("norm", [instance_norm, sample_norm])
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_gradient_of_a_constant_image_is_finite(norm, value):
    images = tf.Variable(tf.fill((2, 4, 4, 3), tf.constant(value, tf.float64)))
    weights = tf.constant(np.random.RandomState(1).standard_normal((2, 4, 4, 3)))
    with tf.GradientTape() as tape:
        result = tf.reduce_sum(norm(images) * weights)
    assert np.isfinite(tape.gradient(result, images)).all()
    assert float(result) == pytest.approx(0, abs=1e-9)


def test_flat_channels_become_zero_and_others_are_untouched():
    images = IMAGES.copy()
    images[1, :, :, 2] = 0.7 + 1e-9 * images[1, :, :, 2]
    variable = tf.Variable(images)
    with tf.GradientTape() as tape:
        result = instance_norm(variable)
        total = tf.reduce_sum(result * IMAGES)
    expected = numpy_instance_norm(images)
    expected[1, :, :, 2] = 0
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-13)
    gradient = tape.gradient(total, variable).numpy()
    assert not gradient[1, :, :, 2].any()
    assert (np.abs(np.delete(gradient, 2, axis=3)).max(axis=(1, 2)) > 0).all()


def test_gradient_of_sample_norm_is_the_difference_quotient():
    weights = np.random.RandomState(1).standard_normal(IMAGES.shape)
    images = tf.Variable(IMAGES)
    with tf.GradientTape() as tape:
        result = tf.reduce_sum(sample_norm(images) * weights)
    gradient = tape.gradient(result, images).numpy()
    for place in ((0, 0, 0, 0), (1, 4, 6, 3)):
        step = np.zeros_like(IMAGES)
        step[place] = 1e-6
        change = np.sum((numpy_sample_norm(IMAGES + step) - numpy_sample_norm(IMAGES - step)) * weights) / 2e-6
        assert gradient[place] == pytest.approx(change, rel=1e-6)


def test_adaptive_norm_reads_shift_before_scale_at_its_offset():
    numbers = np.random.RandomState(2).standard_normal((2, 24))
    layer = AdaptiveInstanceNorm(offset=8, dtype="float64")
    beta, gamma = numbers[:, None, None, 8:12], numbers[:, None, None, 12:16]
    assert (gamma < 0).any()
    expected = numpy_instance_norm(IMAGES) * gamma + beta
    np.testing.assert_allclose(layer([IMAGES, numbers]), expected, rtol=1e-11, atol=1e-12)
    assert AdaptiveInstanceNorm.from_config(layer.get_config()).offset == 8


@pytest.mark.parametrize("norm", [InstanceNorm, SampleNorm])
def test_half_precision_keeps_statistics_in_float32(norm):
    images = (100 + 0.5 * np.random.RandomState(3).standard_normal((1, 64, 64, 2))).astype("float32")
    rounded = tf.cast(tf.cast(images, tf.bfloat16), tf.float64).numpy()
    result = norm(dtype="mixed_bfloat16")(tf.cast(images, tf.bfloat16))
    assert result.dtype == tf.bfloat16
    if norm is InstanceNorm:
        np.testing.assert_allclose(tf.cast(result, tf.float64), numpy_instance_norm(rounded), rtol=2**-7, atol=2**-9)
    else:
        layer = norm(dtype="mixed_bfloat16")
        layer.build(images.shape)
        layer.gamma.assign([1.0, 1.0])
        result = layer(tf.cast(images, tf.bfloat16))
        np.testing.assert_allclose(tf.cast(result, tf.float64), numpy_sample_norm(rounded), rtol=2**-7, atol=2**-9)
