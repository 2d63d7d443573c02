"""Spectral norm against NumPy in float64: power steps, singular values, and the gradient through sigma."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.layers.weights import SpectralConv2D, SpectralDense, pytorch_initializers

IMAGES = np.random.RandomState(0).standard_normal((2, 7, 6, 3))


def convolution(images, kernel, stride=1):
    """Valid convolution, written out."""
    side, _, _, filters = kernel.shape
    height, width = ((n - side) // stride + 1 for n in images.shape[1:3])
    result = np.zeros((len(images), height, width, filters))
    for i in range(height):
        for j in range(width):
            window = images[:, i * stride : i * stride + side, j * stride : j * stride + side]
            result[:, i, j] = np.einsum("bhwc,hwcf->bf", window, kernel)
    return result


def layer(**options):
    keras.utils.set_random_seed(1)
    built = SpectralConv2D(5, 4, strides=2, dtype="float64", **options)
    built.build(IMAGES.shape)
    if built.use_bias:
        built.bias.assign(np.arange(5.0))
    return built


def unit(x):
    return x / np.linalg.norm(x)


def test_power_steps_follow_the_formula():
    subject = layer()
    w = subject.kernel.numpy().reshape(-1, 5).T  # [outputs, inputs]
    u = subject.u.numpy()
    assert np.linalg.norm(u) == pytest.approx(1)
    np.testing.assert_allclose(subject.v.numpy(), unit(w.T @ u), rtol=1e-12)
    for _ in range(3):
        v = unit(w.T @ u)
        u = unit(w @ v)
        subject.power_step()
        np.testing.assert_allclose(subject.v.numpy(), v, rtol=1e-10)
        np.testing.assert_allclose(subject.u.numpy(), u, rtol=1e-10)
    np.testing.assert_allclose(subject.sigma(), u @ w @ v, rtol=1e-12)


def test_sigma_becomes_the_largest_singular_value():
    subject = layer()
    for _ in range(200):
        subject.power_step()
    largest = np.linalg.svd(subject.kernel.numpy().reshape(-1, 5), compute_uv=False)[0]
    np.testing.assert_allclose(subject.sigma(), largest, rtol=1e-8)


def test_convolution_uses_the_divided_kernel_and_changes_nothing():
    subject = layer()
    before = [v.numpy() for v in subject.variables]
    sigma = float(subject.sigma())
    expected = convolution(IMAGES, subject.kernel.numpy() / sigma, 2) + np.arange(5.0)
    np.testing.assert_allclose(subject(IMAGES), expected, rtol=1e-10, atol=1e-12)
    assert subject.compute_output_shape(IMAGES.shape) == expected.shape
    for old, variable in zip(before, subject.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_gradient_passes_through_sigma():
    """d/dW of sum(G * W / sigma) is G / sigma - <G, W> u v^T / sigma^2 (arXiv 1802.05957, equation 12)."""
    subject = layer(use_bias=False)
    weights = np.random.RandomState(3).standard_normal(subject.kernel.shape)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(subject.used_kernel() * weights)
    gradient = tape.gradient(total, subject.kernel.value).numpy()
    kernel, sigma = subject.kernel.numpy(), float(subject.sigma())
    outer = np.outer(subject.v.numpy(), subject.u.numpy()).reshape(kernel.shape)
    expected = weights / sigma - np.sum(weights * kernel) * outer / sigma**2
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)
    assert [v.name for v in subject.trainable_variables] == ["kernel"]
    assert [v.name for v in subject.non_trainable_variables] == ["u", "v"]


def test_dense_with_one_output_is_divided_by_its_length():
    subject = SpectralDense(1, dtype="float64")
    subject.build((None, 3))
    values = IMAGES[:, 0, 0]
    kernel = subject.kernel.numpy()
    np.testing.assert_allclose(subject(values), values @ kernel / np.linalg.norm(kernel), rtol=1e-10)


def test_switched_off_it_is_a_plain_layer():
    subject = layer(spectral=False)
    np.testing.assert_allclose(
        subject(IMAGES), convolution(IMAGES, subject.kernel.numpy(), 2) + np.arange(5.0), rtol=1e-10, atol=1e-12
    )
    subject.power_step()
    assert len(subject.variables) == 2


def test_pytorch_initial_values():
    kernel, bias = pytorch_initializers(48)
    for initializer in (kernel, bias):
        values = np.asarray(initializer((20000,)))
        assert np.abs(values).max() <= 48**-0.5
        assert values.std() == pytest.approx(48**-0.5 / 3**0.5, rel=0.02)


def test_half_precision_keeps_sigma_in_float32():
    subject = SpectralConv2D(5, 4, dtype="mixed_bfloat16")
    result = subject(tf.constant(IMAGES, tf.float32))
    assert str(result.dtype.name) == "bfloat16"
    assert keras.backend.standardize_dtype(subject.sigma().dtype) == "float32"
