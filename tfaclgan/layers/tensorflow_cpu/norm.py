"""Norms in float32 for TensorFlow's CPU, where XLA compiles each direction into a few passes over memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfaclgan.layers.tensorflow_cpu.functions import compiled, in_its_own_graph

Tensor = Any
# (mean, variance, how many values) -> the scale, and its derivative by the variance
ScaleOf = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


@functools.cache
def normalising(axes: tuple[int, ...], scale_of: ScaleOf) -> Callable[[Tensor], Tensor]:
    """`images -> (images - mean) * scale` with a gradient written out; images [b, h, w, c], all sides known.

    Args:
        axes: that mean and (biased) variance are taken over, (1, 2) or (1, 2, 3).
        scale_of: one object for each formula, as what is compiled is kept by it.
    """

    def mean(images: Tensor) -> Tensor:
        # Rows first: adding up all pixels one after the other loses digits.
        for axis in (2, 1, 3):
            images = tf.reduce_mean(images, axis, keepdims=True) if axis in axes else images
        return images

    def parts(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Centred images, scale, slope; sums are of differences from the first pixel, exactly 0 for a flat channel."""
        count = 1.0
        for axis in axes:
            count *= images.shape[axis]
        first = images[:, :1, :1, :] if 3 not in axes else images[:, :1, :1, :1]
        first = tf.stop_gradient(first)
        above = images - first
        middle = mean(above)
        centred = above - middle
        return centred, *scale_of(first + middle, mean(tf.square(centred)), count)

    @compiled
    def forward(images: Tensor) -> Tensor:
        centred, scale, _ = parts(images)
        return centred * scale

    @compiled
    def backward(images: Tensor, upstream: Tensor) -> Tensor:
        centred, scale, slope = parts(images)
        return scale * (upstream - mean(upstream)) + centred * (2 * slope * mean(upstream * centred))

    @in_its_own_graph
    def normal(images: Tensor) -> tuple[Tensor, Callable]:
        return forward(images), lambda upstream: backward(images, upstream)

    return normal
