"""A generator's last convolution, from many channels to a picture's few."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

Tensor = Any


class HeadConv2D(layers.Conv2D):
    """Keras' Conv2D with stride 1 and padding "valid", computed by `paired_convolution`; weights are Conv2D's."""

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        return paired_convolution(inputs, kernel)


def paired_convolution(images: Tensor, kernel: Tensor) -> Tensor:
    """Valid convolution that computes two neighbouring columns as one of twice the channels.

    Matrix units and vector registers are filled with output channels, of which a picture has three. Pairs of columns
    give six, from input channels that are paired alike, by kernels of which one is shifted by a column: 8/7 of the
    multiplications of a 7x7 kernel, better used. In row-major order pairing moves nothing. Sums are those of the plain
    convolution in another order.

    Args:
        images: [b, h, w, c]; the result's columns must be even (a known odd number is computed without pairs).
        kernel: [rows, odd columns, c, filters].

    Returns:
        [b, h - rows + 1, w - columns + 1, filters].
    """
    batch, height, width, channels = ops.shape(images)
    rows, taps, _, filters = kernel.shape
    columns = width - taps + 1
    if isinstance(columns, int) and columns % 2:
        return ops.conv(images, kernel, padding="valid", data_format="channels_last")
    first, second = (ops.pad(kernel, ((0, 0), shift, (0, 0), (0, 0))) for shift in ((0, 1), (1, 0)))
    both = ops.reshape(ops.stack([first, second], axis=3), (rows, (taps + 1) // 2, 2 * channels, 2 * filters))
    pairs = ops.reshape(images, (batch, height, width // 2, 2 * channels))
    result = ops.conv(pairs, both, padding="valid", data_format="channels_last")
    return ops.reshape(result, (batch, height - rows + 1, columns, filters))
