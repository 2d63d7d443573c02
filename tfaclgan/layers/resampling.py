"""Larger and smaller maps without an image library: what the networks need inside a compiled step."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any


def upsample_nearest(images: Tensor) -> Tensor:
    """Every pixel becomes 2x2 pixels: [b, h, w, c] -> [b, 2h, 2w, c]."""
    batch, height, width, channels = ops.shape(images)
    blocks = ops.broadcast_to(images[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return ops.reshape(blocks, (batch, 2 * height, 2 * width, channels))


class UpsampleNearest(keras.layers.Layer):
    """`upsample_nearest` as a layer."""

    def call(self, images: Tensor) -> Tensor:
        return upsample_nearest(images)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, height, width, channels = input_shape
        return (batch, height and 2 * height, width and 2 * width, channels)


def average_pool_counted(images: Tensor) -> Tensor:
    """3x3 mean, stride 2, one pixel of padding on every side that is not counted in the mean.

    [b, h, w, c] -> [b, ceil(h / 2), ceil(w / 2), c]. Padding "same" would be wrong: on even sides it
    pads after the last pixel only, so its windows lie elsewhere.
    """
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    total = ops.average_pool(ops.pad(images, padding), 3, strides=2, padding="valid")
    inside = ops.pad(ops.ones_like(images[:1, :, :, :1]), padding)
    return total / ops.average_pool(inside, 3, strides=2, padding="valid")


class CountedAveragePool(keras.layers.Layer):
    """`average_pool_counted` as a layer."""

    def call(self, images: Tensor) -> Tensor:
        return average_pool_counted(images)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, height, width, channels = input_shape
        return (batch, height and -(-height // 2), width and -(-width // 2), channels)
