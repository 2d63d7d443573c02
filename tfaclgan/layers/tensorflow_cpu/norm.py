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

    def from_first(images: Tensor) -> tuple[Tensor, Tensor]:
        """Differences from the first pixel, of which sums are taken, exactly 0 for a flat channel; that pixel."""
        first = images[:, :1, :1, :] if 3 not in axes else images[:, :1, :1, :1]
        first = tf.stop_gradient(first)
        return images - first, first

    def parts(images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Centred images; the differences' mean; scale and slope."""
        count = 1.0
        for axis in axes:
            count *= images.shape[axis]
        above, first = from_first(images)
        middle = mean(above)
        centred = above - middle
        return centred, middle, *scale_of(first + middle, mean(tf.square(centred)), count)

    def slope_by_images(centred: Tensor, upstream: Tensor, scale: Tensor, slope: Tensor) -> Tensor:
        return scale * (upstream - mean(upstream)) + centred * (2 * slope * mean(upstream * centred))

    @compiled
    def forward(images: Tensor) -> tuple[Tensor, ...]:
        centred, *known = parts(images)
        return centred * known[1], *known

    @compiled
    def backward(images: Tensor, upstream: Tensor, middle: Tensor, scale: Tensor, slope: Tensor) -> Tensor:
        return slope_by_images(from_first(images)[0] - middle, upstream, scale, slope)

    @compiled
    def whole_backward(images: Tensor, upstream: Tensor) -> Tensor:
        centred, _, scale, slope = parts(images)
        return slope_by_images(centred, upstream, scale, slope)

    @in_its_own_graph
    def normal(images: Tensor) -> tuple[Tensor, Callable]:
        result, *known = forward(images)
        return result, lambda upstream: to_images(images, upstream, *known)

    @in_its_own_graph
    def to_images(images: Tensor, upstream: Tensor, *known: Tensor) -> tuple[Tensor, Callable]:
        """What is known of the images has no gradient of its own: that of the whole formula has it all."""

        def gradients(up: Tensor) -> tuple[Tensor, ...]:
            with tf.GradientTape() as tape:
                tape.watch([images, upstream])
                result = whole_backward(images, upstream)
            return *tape.gradient(result, [images, upstream], up), *(tf.zeros_like(value) for value in known)

        return backward(images, upstream, *known), gradients

    return normal
