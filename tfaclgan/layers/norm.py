"""Normalisation: parameter-free norms, and layers that scale and shift what they return.

The norms are those of MUNIT (arXiv 1804.04732) and ACL-GAN (arXiv 2003.04858). Statistics are always
those of the sample at hand, in training and at test, and are taken in float32 under half precision.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfaclgan.layers.precision import full_precision

Tensor = Any
EPSILON = 1e-5
FLAT = 1e-6  # a channel that varies less, relative to its mean, varies by rounding only


def instance_norm(images: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Each channel of each sample to mean 0 and (biased) variance 1; epsilon inside the root.

    A flat channel becomes exactly 0 and passes no gradient. The formula would multiply its rounding errors, and
    the gradient, by 1 / sqrt(epsilon) = 316 in every layer: through the eleven norms of MUNIT's content encoder
    a single blank picture makes a gradient of 1e47, which float32 cannot hold.

    [b, h, w, c] -> the same shape, in full precision.
    """
    images = full_precision(images)
    mean = ops.mean(images, axis=(1, 2), keepdims=True)
    centred = images - mean
    variance = ops.mean(ops.square(centred), axis=(1, 2), keepdims=True)
    factor = ops.where(variance > ops.square(FLAT * mean), ops.rsqrt(variance + epsilon), 0)
    return centred * factor


def sample_norm(images: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Each sample, over height, width and channels together, to mean 0 and standard deviation 1.

    MUNIT's layer norm: the deviation is the unbiased one (n - 1) and epsilon is added to it, outside
    the root. [b, h, w, c] -> the same shape, in full precision.
    """
    images = full_precision(images)
    count = ops.cast(ops.prod(ops.shape(images)[1:]), images.dtype)
    centred = images - ops.mean(images, axis=(1, 2, 3), keepdims=True)
    variance = ops.sum(ops.square(centred), axis=(1, 2, 3), keepdims=True) / (count - 1)
    # The root has no gradient at 0; a constant sample gets none, as in PyTorch.
    positive = variance > 0
    deviation = ops.where(positive, ops.sqrt(ops.where(positive, variance, 1)), 0)
    return centred / (deviation + epsilon)


class InstanceNorm(keras.layers.Layer):
    """`instance_norm` as a layer: no weights, no running statistics."""

    def call(self, images: Tensor) -> Tensor:
        return ops.cast(instance_norm(images), self.compute_dtype)


class AdaptiveInstanceNorm(keras.layers.Layer):
    """Instance norm, then a scale and a shift that a style gives.

    `layer([images, numbers])`: images [b, h, w, c]; numbers [b, n], of which this layer reads 2c from
    `offset`: first the shifts beta, then the scales gamma (MUNIT's order). gamma multiplies the
    normalised map; it is no deviation and may be negative.
    """

    def __init__(self, offset: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.offset = offset

    def call(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        images, numbers = inputs
        channels = images.shape[-1]
        middle = self.offset + channels
        normal = instance_norm(images)
        numbers = ops.cast(numbers, normal.dtype)
        beta = numbers[:, None, None, self.offset : middle]
        gamma = numbers[:, None, None, middle : middle + channels]
        return ops.cast(normal * gamma + beta, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape[0]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "offset": self.offset}


class SampleNorm(keras.layers.Layer):
    """`sample_norm`, then a learnt scale and shift for each channel (MUNIT's `LayerNorm`).

    Not Keras' LayerNormalization: that one uses the biased deviation and puts epsilon inside the root.
    gamma starts uniform in [0, 1), beta at 0, as in MUNIT.
    """

    def build(self, input_shape: tuple) -> None:
        shape = (input_shape[-1],)
        initial = keras.initializers.RandomUniform(0.0, 1.0)
        self.gamma = self.add_weight(name="gamma", shape=shape, initializer=initial, dtype=self.variable_dtype)
        self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros", dtype=self.variable_dtype)

    def call(self, images: Tensor) -> Tensor:
        normal = sample_norm(images)
        gamma = ops.cast(self.gamma, normal.dtype)
        beta = ops.cast(self.beta, normal.dtype)
        return ops.cast(normal * gamma + beta, self.compute_dtype)
