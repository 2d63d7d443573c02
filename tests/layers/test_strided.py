"""Convolutions of stride 2 on blocks of pixels against the plain ones, values and gradients, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfaclgan.layers import target
from tfaclgan.layers.strided import StridedConv2D, convolution_of_blocks, halving_convolution
from tfaclgan.layers.weights import SpectralConv2D

RANDOM = np.random.RandomState(0)


def values_and_gradients(convolve, images, kernel):
    images, kernel = tf.constant(images), tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch([images, kernel])
        result = convolve(images, kernel)
        loss = tf.reduce_sum(result * tf.cos(result))
    return result, *tape.gradient(loss, [images, kernel])


@pytest.mark.parametrize("sides", [(12, 10), (11, 13), (7, 8)])
@pytest.mark.parametrize("taps", [(4, 4), (3, 3), (5, 2), (1, 7)])
def test_blocks_give_the_plain_convolution(taps, sides):
    images, kernel = RANDOM.normal(size=(2, *sides, 5)), RANDOM.normal(size=(*taps, 5, 3))
    expected = values_and_gradients(lambda x, k: tf.nn.conv2d(x, k, 2, "VALID"), images, kernel)
    for ours, theirs in zip(values_and_gradients(convolution_of_blocks, images, kernel), expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind, strides", [("", [1, 2, 2, 1]), ("cpu", [1, 2, 2, 1]), ("tpu", [1, 1, 1, 1])])
def test_blocks_are_for_tpus(kind, strides):
    def traced():
        return tf.function(halving_convolution).get_concrete_function(
            tf.TensorSpec((2, 8, 8, 3)), tf.TensorSpec((4, 4, 3, 5))
        )

    if kind:
        with target.compiling_for(kind):
            function = traced()
    else:
        function = traced()
    assert [op.get_attr("strides") for op in function.graph.get_operations() if op.type == "Conv2D"] == [strides]


@pytest.mark.parametrize(
    "make",
    [
        lambda: StridedConv2D(5, 4, strides=2),
        lambda: StridedConv2D(5, 3),
        lambda: SpectralConv2D(5, 4, strides=2),
    ],
    ids=["stride 2", "stride 1", "spectral"],
)
def test_layers_are_the_same_on_a_tpu(make):
    images = RANDOM.normal(size=(2, 10, 12, 3)).astype("float32")
    layer = make()
    expected = layer(images)
    with target.compiling_for("tpu"):
        np.testing.assert_allclose(layer(images), expected, rtol=1e-5, atol=1e-5)


def test_the_layer_has_the_weights_of_conv2d():
    ours, theirs = StridedConv2D(3, 4, strides=2), layers.Conv2D(3, 4, strides=2)
    images = RANDOM.normal(size=(1, 12, 14, 5)).astype("float32")
    ours.build(images.shape)
    theirs.build(images.shape)
    assert [(v.name, v.shape) for v in ours.variables] == [(v.name, v.shape) for v in theirs.variables]
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
