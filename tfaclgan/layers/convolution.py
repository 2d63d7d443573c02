"""Convolutions without padding, computed where TensorFlow's CPU kernels are slow in a way that is quicker there."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfaclgan.layers import target
from tfaclgan.layers.precision import is_half

Tensor = Any


class Conv2D(keras.layers.Conv2D):
    """Keras' Conv2D with padding "valid", the same strides in both directions and one group; see `convolution`."""

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        return convolution(inputs, kernel, self.strides[0])


def convolution(images: Tensor, kernel: Tensor, strides: int = 1) -> Tensor:
    """Valid convolution, [b, h, w, c] with [rows, columns, c, filters]; by `quicker` if that has a way.

    Returns:
        [b, (h - rows) // strides + 1, (w - columns) // strides + 1, filters].
    """
    result = quicker(images, kernel, strides)
    if result is None:
        return ops.conv(images, kernel, strides=strides, padding="valid", data_format="channels_last")
    return result


def quicker(images: Tensor, kernel: Tensor, strides: int = 1) -> Tensor | None:
    """`convolution` in another way than the framework's own, where one is known to be quicker.

    That is in a training step for TensorFlow's CPU, for maps of enough values (layers/tensorflow_cpu/convolution.py).
    Images of bfloat16 are convolved in float32 there, unless the processor multiplies matrices of bfloat16, and the
    result rounded. None: the framework's own is to be used.
    """
    if not target.has_forms(images):
        return None
    from tfaclgan.layers.tensorflow_cpu import convolution as on_cpu

    form = on_cpu.chosen(tuple(images.shape), tuple(kernel.shape), strides, is_half(images))
    return None if form is None else on_cpu.computed(form, images, kernel)
