"""Upsampling and pooling against written-out float64 definitions."""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.signal import correlate2d

from tfaclgan.layers import target
from tfaclgan.layers.resampling import (
    CountedAveragePool,
    Double,
    DoublingConv2DTranspose,
    SmallUpsampleConv2D,
    UpsampleConv2D,
    area_pool,
    average_pool_counted,
    transposed_convolution,
    upsample_convolution,
)


def numpy_upsample(images):
    return images.repeat(2, axis=1).repeat(2, axis=2)


def numpy_upsample_convolution(images, kernel):
    padded = np.pad(numpy_upsample(images), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    planes = [
        [
            sum(correlate2d(image[:, :, c], kernel[:, :, c, f], mode="valid") for c in range(kernel.shape[2]))
            for f in range(kernel.shape[3])
        ]
        for image in padded
    ]
    return np.array(planes).transpose(0, 2, 3, 1)


def numpy_pool(images):
    batch, height, width, channels = images.shape
    result = np.empty((batch, -(-height // 2), -(-width // 2), channels))
    for i in range(result.shape[1]):
        for j in range(result.shape[2]):
            window = images[:, max(0, 2 * i - 1) : 2 * i + 2, max(0, 2 * j - 1) : 2 * j + 2]
            result[:, i, j] = window.mean(axis=(1, 2))
    return result


@pytest.mark.parametrize("size", [(2, 2), (2, 3), (3, 2), (5, 4), (8, 8)])
def test_upsample_convolution(size):
    images = np.random.RandomState(0).standard_normal((2, *size, 3))
    kernel = np.random.RandomState(1).standard_normal((5, 5, 3, 4))
    result = upsample_convolution(tf.constant(images), tf.constant(kernel))
    np.testing.assert_allclose(result, numpy_upsample_convolution(images, kernel), rtol=1e-10, atol=1e-12)


def test_upsample_convolution_has_the_plain_ones_gradients():
    images = tf.Variable(np.random.RandomState(0).standard_normal((2, 4, 3, 3)))
    kernel = tf.Variable(np.random.RandomState(1).standard_normal((5, 5, 3, 2)))
    weights = np.random.RandomState(2).standard_normal((2, 8, 6, 2))

    def plain(images, kernel):
        large = tf.repeat(tf.repeat(images, 2, axis=1), 2, axis=2)
        return tf.nn.conv2d(tf.pad(large, ((0, 0), (2, 2), (2, 2), (0, 0)), "REFLECT"), kernel, 1, "VALID")

    gradients = []
    for function in (plain, upsample_convolution):
        with tf.GradientTape() as tape:
            result = tf.reduce_sum(function(images, tf.convert_to_tensor(kernel)) * weights)
        gradients.append(tape.gradient(result, [images, kernel]))
    for expected, ours in zip(*gradients):
        np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-12)


def test_upsample_layer_adds_its_bias_and_keeps_its_kernel_in_float32():
    layer = UpsampleConv2D(4, "he_normal", dtype="mixed_bfloat16", name="up")
    images = np.random.RandomState(0).standard_normal((1, 6, 6, 8)).astype("float32")
    layer.build(images.shape)
    layer.bias.assign([0.0, 1.0, 2.0, 3.0])
    result = layer(images)
    assert result.dtype == tf.bfloat16
    assert layer.kernel.dtype == "float32"
    rounded = tf.cast(tf.cast(images, tf.bfloat16), tf.float64).numpy()
    expected = numpy_upsample_convolution(rounded, layer.kernel.numpy().astype("float64")) + np.arange(4)
    np.testing.assert_allclose(tf.cast(result, tf.float64), expected, rtol=0.03, atol=0.06)
    again = UpsampleConv2D.from_config(layer.get_config())
    assert (again.filters, type(again.kernel_initializer).__name__) == (4, "HeNormal")
    assert layer.compute_output_shape((2, None, 3, 8)) == (2, None, 6, 4)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 4), (4, 3), (7, 7), (8, 6)])
def test_pooling_counts_no_padding(size):
    images = np.random.RandomState(0).standard_normal((2, *size, 3))
    np.testing.assert_allclose(average_pool_counted(tf.constant(images)), numpy_pool(images), rtol=1e-12, atol=1e-13)
    layer = CountedAveragePool(dtype="float64")
    assert tuple(layer(images).shape) == layer.compute_output_shape(images.shape) == numpy_pool(images).shape


def test_pooling_of_ones_is_ones():
    np.testing.assert_array_equal(average_pool_counted(tf.ones((1, 5, 6, 2))), np.ones((1, 3, 3, 2)))


@pytest.mark.parametrize("size", [(1, 2), (2, 1), (3, 2), (5, 4)])
def test_small_upsample_convolution(size):
    images = np.random.RandomState(0).standard_normal((2, *size, 3))
    layer = SmallUpsampleConv2D(4, dtype="float64")
    layer.build(images.shape)
    layer.bias.assign(np.arange(4.0))
    large = np.pad(numpy_upsample(images), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    kernel = layer.kernel.numpy()
    expected = np.arange(4.0) + sum(
        np.einsum("bhwc,cf->bhwf", large[:, i : i + 2 * size[0], j : j + 2 * size[1]], kernel[i, j])
        for i in range(3)
        for j in range(3)
    )
    np.testing.assert_allclose(layer(images), expected, rtol=1e-10, atol=1e-12)
    assert layer.compute_output_shape((None, *images.shape[1:])) == (None, *expected.shape[1:])


def test_double():
    images = np.random.RandomState(0).standard_normal((2, 3, 5, 4)).astype("float32")
    layer = Double()
    np.testing.assert_array_equal(layer(images), numpy_upsample(images))
    assert layer.compute_output_shape((None, 3, None, 4)) == (None, 6, None, 4)


def test_double_knows_the_channels_of_free_sides():
    traced = tf.function(Double(), autograph=False).get_concrete_function(tf.TensorSpec((None, None, None, 4)))
    assert traced.structured_outputs.shape.as_list() == [None, None, None, 4]


@pytest.mark.parametrize("sides, wanted", [((8, 6), (4, 3)), ((7, 5), (3, 2)), ((3, 4), (5, 4)), ((6, 6), (1, 1))])
def test_area_pool(sides, wanted):
    images = np.random.RandomState(0).standard_normal((2, *sides, 3))
    expected = np.empty((2, *wanted, 3))
    for i in range(wanted[0]):
        for j in range(wanted[1]):
            bounds = [(k * n // m, -(-(k + 1) * n // m)) for k, n, m in zip((i, j), sides, wanted, strict=True)]
            expected[:, i, j] = images[:, slice(*bounds[0]), slice(*bounds[1])].mean((1, 2))
    np.testing.assert_allclose(area_pool(tf.constant(images), *wanted), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("size", "crop"), [(3, (1, 0)), (4, (1, 1)), (3, (0, 1)), (4, (0, 0))])
@pytest.mark.parametrize("kind", [None, "cpu", "gpu"])
def test_doubling_transposed_convolution(size, crop, kind):
    images = np.random.RandomState(0).standard_normal((2, 3, 5, 2))
    kernel = np.random.RandomState(1).standard_normal((size, size, 3, 2))
    weights = np.random.RandomState(2).standard_normal((2, 4 + size - sum(crop), 8 + size - sum(crop), 3))
    expected, to_images, to_kernel = numpy_transposed_convolution(images, kernel, crop, weights)

    @tf.function
    def ours(images, kernel):
        with contextlib.ExitStack() as stack:
            if kind:
                stack.enter_context(target.compiling_for(kind))
            with tf.GradientTape() as tape:
                tape.watch([images, kernel])
                result = transposed_convolution(images, kernel, crop)
            return result, *tape.gradient(result, [images, kernel], weights)

    for result, twin in zip(ours(tf.constant(images), tf.constant(kernel)), (expected, to_images, to_kernel)):
        np.testing.assert_allclose(result, twin, rtol=1e-10, atol=1e-12)


def numpy_transposed_convolution(images, kernel, crop, weights):
    """The result, and the gradients of its sum with `weights`: every pixel adds the kernel to its place."""
    batch, height, width, _ = images.shape
    size, _, filters, _ = kernel.shape
    whole = np.zeros((batch, 2 * height + size - 2, 2 * width + size - 2, filters))
    upstream = np.pad(weights, ((0, 0), crop, crop, (0, 0)))
    to_images, to_kernel = np.zeros_like(images), np.zeros_like(kernel)
    for i in range(height):
        for j in range(width):
            rows, columns = slice(2 * i, 2 * i + size), slice(2 * j, 2 * j + size)
            whole[:, rows, columns] += np.einsum("rsfc,bc->brsf", kernel, images[:, i, j])
            to_images[:, i, j] = np.einsum("rsfc,brsf->bc", kernel, upstream[:, rows, columns])
            to_kernel += np.einsum("bc,brsf->rsfc", images[:, i, j], upstream[:, rows, columns])
    end = crop[1]
    return whole[:, crop[0] : whole.shape[1] - end, crop[0] : whole.shape[2] - end], to_images, to_kernel


def test_a_training_step_on_cpus_cuts_nothing_out_of_transposed_convolutions_in_float32():
    """Cutting one row and column out of 129 took two thirds of the operation's time (docs/engines.md)."""

    def operations(policy):
        layer = DoublingConv2DTranspose(2, 3, (1, 0), dtype=policy)
        layer.build((1, 4, 4, 3))
        function = tf.function(lambda images: layer(images))
        with target.compiling_for("cpu"):
            graph = function.get_concrete_function(tf.TensorSpec((1, 4, 4, 3), layer.compute_dtype)).graph
        return {operation.type for operation in graph.get_operations()}

    assert not operations("float32") & {"Slice", "StridedSlice", "Pad"}
    assert "Slice" in operations("mixed_bfloat16")


def test_doubling_transposed_convolution_saves_its_config_and_knows_its_shape():
    layer = DoublingConv2DTranspose(2, 3, (1, 0), use_bias=False, kernel_initializer="ones")
    again = DoublingConv2DTranspose.from_config(layer.get_config())
    assert (again.filters, again.crop, again.use_bias) == (2, (1, 0), False)
    inputs = keras.Input((None, None, 3))
    assert again(inputs).shape == (None, None, None, 2)
    assert again.compute_output_shape((1, 4, 5, 3)) == (1, 8, 10, 2)
    assert again(np.ones((1, 4, 5, 3), "float32")).shape == (1, 8, 10, 2)
