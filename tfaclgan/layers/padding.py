"""Reflection padding: MUNIT, ACL-GAN and CycleGAN pad this way before every convolution."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any


class ReflectPad2D(keras.layers.Layer):
    """Mirrors `padding` pixels on all four sides without repeating the edge.

    A pair is (above and left, below and right), as U-GAT-IT's TensorFlow code pads.
    [b, h, w, c] -> [b, h + 2 padding, w + 2 padding, c]; both sides must be larger than `padding`.
    """

    def __init__(self, padding: int | tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.padding = padding

    def call(self, images: Tensor) -> Tensor:
        return reflect_pad(images, self.padding)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, height, width, channels = input_shape
        extra = sum(_pair(self.padding))
        return (batch, height and height + extra, width and width + extra, channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": self.padding}


def reflect_pad(images: Tensor, padding: int | tuple[int, int]) -> Tensor:
    """`ReflectPad2D` as a function."""
    before, after = _pair(padding)
    if keras.backend.backend() == "jax":
        # The gradient of JAX's own goes over the whole map once for each side.
        return _mirrored(_mirrored(images, before, after, 1), before, after, 2)
    return ops.pad(images, ((0, 0), (before, after), (before, after), (0, 0)), mode="reflect")


def _mirrored(images: Tensor, before: int, after: int, axis: int) -> Tensor:
    """Mirrors `before` and `after` rows (axis 1) or columns (axis 2)."""
    side = images.shape[axis]

    def strip(first: int, end: int) -> Tensor:
        rows = images[:, first:end] if axis == 1 else images[:, :, first:end]
        return ops.flip(rows, axis)

    return ops.concatenate([strip(1, before + 1), images, strip(side - 1 - after, side - 1)], axis=axis)


def _pair(padding: int | tuple[int, int]) -> tuple[int, int]:
    return (padding, padding) if isinstance(padding, int) else tuple(padding)
