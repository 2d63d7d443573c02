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
    pair = _pair(padding)
    return ops.pad(images, ((0, 0), pair, pair, (0, 0)), mode="reflect")


def _pair(padding: int | tuple[int, int]) -> tuple[int, int]:
    return (padding, padding) if isinstance(padding, int) else tuple(padding)
