"""A generator's first and last convolution: from a picture's few channels to many, and back."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from tfaclgan.layers import target
from tfaclgan.layers.convolution import quicker
from tfaclgan.layers.precision import is_half

Tensor = Any
# Columns that are computed as one: measured on CPUs and an H200 (docs/engines.md), by the TPU compiler's estimate.
_HEAD = 2
_ON_MATRIX_UNITS = 8


class HeadConv2D(layers.Conv2D):
    """Keras' Conv2D with stride 1 and padding "valid", for few filters; computed by `grouped_convolution`."""

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        return _convolution(inputs, kernel, _ON_MATRIX_UNITS if _for_matrix_units(inputs) else _HEAD)


class StemConv2D(layers.Conv2D):
    """Keras' Conv2D with stride 1 and padding "valid", for few input channels.

    Computed by `grouped_convolution` on a TPU and, with JAX in half precision, on a GPU.
    """

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        return _convolution(inputs, kernel, _ON_MATRIX_UNITS if _for_matrix_units(inputs) else 1)


def _convolution(images: Tensor, kernel: Tensor, together: int) -> Tensor:
    result = quicker(images, kernel)
    return grouped_convolution(images, kernel, together) if result is None else result


def _for_matrix_units(images: Tensor) -> bool:
    return target.on_tpu() or (target.on_jax_gpu() and is_half(images))


def grouped_convolution(images: Tensor, kernel: Tensor, together: int) -> Tensor:
    """Valid convolution that computes `together` neighbouring columns as one of so many times the channels.

    Matrix units and vector registers are filled with channels, of which a picture has three. Columns in groups have
    more, on both sides, with a kernel for each column of a group that is shifted by its place: pairs cost 8/7 of the
    multiplications of a 7x7 kernel, groups of eight 16/7, better used. In row-major order grouping moves nothing. Sums
    are those of the plain convolution in another order.

    Args:
        images: [b, h, w, c].
        kernel: [rows, columns, c, filters].
        together: a power of 2, halved until it divides the result's columns where these are known (else they must be
            a multiple of it).

    Returns:
        [b, h - rows + 1, w - columns + 1, filters].
    """
    batch, height, width, channels = ops.shape(images)
    rows, taps, _, filters = kernel.shape
    columns = width - taps + 1
    while isinstance(columns, int) and columns % together:
        together //= 2
    if together == 1:
        return ops.conv(images, kernel, padding="valid", data_format="channels_last")
    wide = -(-(taps + together - 1) // together) * together
    shifted = [ops.pad(kernel, ((0, 0), (i, wide - taps - i), (0, 0), (0, 0))) for i in range(together)]
    kernels = ops.reshape(ops.stack(shifted, axis=3), (rows, wide // together, together * channels, together * filters))
    if missing := wide - together - (taps - 1):
        images = ops.pad(images, ((0, 0), (0, 0), (0, missing), (0, 0)))
    groups = ops.reshape(images, (batch, height, (width + missing) // together, together * channels))
    result = ops.conv(groups, kernels, padding="valid", data_format="channels_last")
    return ops.reshape(result, (batch, height - rows + 1, columns, filters))
