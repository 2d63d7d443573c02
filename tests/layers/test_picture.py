"""The convolution by groups of columns against the plain one, values and gradients, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfaclgan.layers import target
from tfaclgan.layers.picture import HeadConv2D, StemConv2D, grouped_convolution

RANDOM = np.random.RandomState(0)


def values_and_gradients(convolve, images, kernel):
    images, kernel = tf.constant(images), tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch([images, kernel])
        result = convolve(images, kernel)
        loss = tf.reduce_sum(result * tf.cos(result))
    return result, *tape.gradient(loss, [images, kernel])


@pytest.mark.parametrize("together", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "taps, side, filters", [(7, (14, 22), 3), (7, (14, 18), 3), (7, (14, 17), 3), (3, (6, 10), 4), (1, (3, 8), 1)]
)
def test_groups_of_columns_give_the_plain_convolution(taps, side, filters, together):
    images, kernel = RANDOM.normal(size=(2, *side, 5)), RANDOM.normal(size=(taps, taps, 5, filters))
    expected = values_and_gradients(lambda x, k: tf.nn.conv2d(x, k, 1, "VALID"), images, kernel)
    actual = values_and_gradients(lambda x, k: grouped_convolution(x, k, together), images, kernel)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_a_width_that_is_not_known_yet():
    images = RANDOM.normal(size=(2, 14, 18, 5))
    kernel = tf.constant(RANDOM.normal(size=(7, 7, 5, 3)))
    traced = tf.function(
        lambda x: grouped_convolution(x, kernel, 2), [tf.TensorSpec((None, None, None, 5), tf.float64)]
    )
    np.testing.assert_allclose(traced(images), tf.nn.conv2d(images, kernel, 1, "VALID"), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", [HeadConv2D, StemConv2D])
def test_the_layer_has_the_weights_of_conv2d(kind):
    ours, theirs = kind(3, 7), layers.Conv2D(3, 7)
    images = RANDOM.normal(size=(1, 12, 14, 5)).astype("float32")
    ours.build(images.shape)
    theirs.build(images.shape)
    assert [(v.name, v.shape) for v in ours.variables] == [(v.name, v.shape) for v in theirs.variables]
    ours.bias.assign([1.0, 2.0, 3.0])
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [HeadConv2D, StemConv2D])
def test_eight_columns_are_one_on_a_tpu(kind):
    images = RANDOM.normal(size=(2, 12, 22, 3)).astype("float32")
    layer = kind(4, 7)
    expected = layer(images)
    with target.compiling_for("tpu"):
        graph = tf.function(layer).get_concrete_function(images).graph
        np.testing.assert_allclose(layer(images), expected, rtol=1e-5, atol=1e-5)
    assert [op.inputs[0].shape[-1] for op in graph.get_operations() if op.type == "Conv2D"] == [24]
