"""Convolutions of the PyTorch image-to-image family in Keras' layout, and the start of their weights.

PyTorch pads both sides alike; Keras' "same" pads the end first. Where the two differ the padding is written out
here, so that weights carried over from an original give the same image, pixel for pixel.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from tfaclgan.layers.convolution import Conv2D
from tfaclgan.layers.norm import InstanceNorm
from tfaclgan.layers.padding import ReflectPad2D

Tensor = Any

LEAKY_SLOPE = 0.2


def small_normal() -> keras.initializers.Initializer:
    """Normal(0, 0.02), not truncated: DCGAN's start, which pix2pix and CycleGAN kept; biases are 0."""
    return keras.initializers.RandomNormal(0.0, 0.02)


def convolution(
    x: Tensor,
    filters: int,
    kernel: int,
    label: str,
    *,
    stride: int = 1,
    padding: int = 0,
    reflect: bool = False,
    kernel_initializer: Any = None,
    dtype: str | None = None,
    layer: type = Conv2D,
) -> Tensor:
    """Pads `padding` pixels on all four sides (zeros, or mirrored), then convolves; with bias.

    [b, h, w, c] -> [b, (h + 2 padding - kernel) // stride + 1, ..., filters]; weights `LABEL_conv`.
    kernel_initializer: `small_normal` if not given.
    layer: `Conv2D`, or what computes the same in another way.
    """
    if padding:
        pad = ReflectPad2D if reflect else layers.ZeroPadding2D
        x = pad(padding, name=f"{label}_pad", **({"dtype": dtype} if dtype else {}))(x)
    return layer(
        filters,
        kernel,
        strides=stride,
        kernel_initializer=kernel_initializer or small_normal(),
        name=f"{label}_conv",
        **({"dtype": dtype} if dtype else {}),
    )(x)


def normalise(x: Tensor, label: str, *, activate: bool = True) -> Tensor:
    """Instance norm without weights, then ReLU."""
    x = InstanceNorm(name=f"{label}_norm")(x)
    return layers.ReLU(name=f"{label}_activation")(x) if activate else x


class ScoreList(keras.Model):
    """A functional model that gives a list also for one output, where Keras gives the bare tensor."""

    def call(self, *arguments: Any, **keywords: Any) -> list[Tensor]:
        scores = super().call(*arguments, **keywords)
        return list(scores) if isinstance(scores, (list, tuple)) else [scores]
