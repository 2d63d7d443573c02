"""Larger and smaller maps without an image library: what the networks need inside a compiled step."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any


class UpsampleConv2D(keras.layers.Layer):
    """Nearest upsampling by 2, reflection padding by 2, then a 5x5 convolution with bias.

    [b, h, w, c] -> [b, 2h, 2w, filters]; sides of at least 2. Weights are those of the 5x5 convolution,
    kernel [5, 5, c, filters]. See `upsample_convolution` for how it is computed.
    """

    def __init__(self, filters: int, kernel_initializer: Any = "glorot_uniform", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: tuple) -> None:
        # Not cast to a half type when read: kernel elements are added up before they are rounded.
        shape = (5, 5, input_shape[-1], self.filters)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self.kernel_initializer, autocast=False)
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")

    def call(self, images: Tensor) -> Tensor:
        return upsample_convolution(images, ops.convert_to_tensor(self.kernel)) + self.bias

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, height, width, _ = input_shape
        return (batch, height and 2 * height, width and 2 * width, self.filters)

    def get_config(self) -> dict[str, Any]:
        initializer = keras.initializers.serialize(self.kernel_initializer)
        return {**super().get_config(), "filters": self.filters, "kernel_initializer": initializer}


def upsample_convolution(images: Tensor, kernel: Tensor) -> Tensor:
    """Valid 5x5 convolution of the reflect-padded (by 2), nearest-upsampled (by 2) images, in 9/25 of the work.

    Nearest upsampling shows every 5x5 window at most 3x3 different pixels, so the taps that meet the same
    pixel are added up first: four 3x3 convolutions, one for each parity of the output's place, on the small
    images. That holds except at the outermost rows and columns. There the small images are padded with their
    edge, as if the border outside were (x0, x0), but reflection gives (x1, x0): what the outermost tap then
    misses, the difference x1 - x0, is added as a convolution of that one row or column.

    Args:
        images: [b, h, w, c], both sides at least 2.
        kernel: [5, 5, c, filters], not of a half type.

    Returns:
        [b, 2h, 2w, filters], of the images' dtype.
    """
    batch, height, width, channels = ops.shape(images)
    filters = kernel.shape[-1]
    small = _merge_taps(_merge_taps(kernel, 0), 2)  # [column parity, column, row parity, row, c, filters]
    small = ops.reshape(ops.transpose(small, (3, 1, 4, 2, 0, 5)), (3, 3, channels, 4 * filters))
    small = ops.cast(small, images.dtype)
    kernel = ops.cast(kernel, images.dtype)

    edge = ops.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="symmetric")
    result = ops.reshape(ops.conv(edge, small, padding="valid"), (batch, height, width, 2, 2, filters))
    result = ops.reshape(ops.transpose(result, (0, 1, 3, 2, 4, 5)), (batch, 2 * height, 2 * width, filters))

    rows = []
    for outside, inside, tap in ((images[:, 1:2], images[:, :1], 0), (images[:, -2:-1], images[:, -1:], 4)):
        line = ops.repeat(outside - inside, 2, axis=2)
        line = ops.pad(line, ((0, 0), (0, 0), (2, 2), (0, 0)), mode="reflect")
        rows.append(ops.conv(line, kernel[tap : tap + 1], padding="valid"))
    columns = []
    for outside, inside, tap in ((images[:, :, 1:2], images[:, :, :1], 0), (images[:, :, -2:-1], images[:, :, -1:], 4)):
        line = ops.repeat(outside - inside, 2, axis=1)
        line = ops.pad(line, ((0, 0), (2, 2), (0, 0), (0, 0)), mode="symmetric")
        columns.append(ops.conv(line, kernel[:, tap : tap + 1], padding="valid"))
    between = ops.zeros((batch, 2 * height - 2, 2 * width, filters), images.dtype)
    result = result + ops.concatenate([rows[0], between, rows[1]], axis=1)
    between = ops.zeros((batch, 2 * height, 2 * width - 2, filters), images.dtype)
    return result + ops.concatenate([columns[0], between, columns[1]], axis=2)


def _merge_taps(kernel: Tensor, axis: int) -> Tensor:
    """Adds up the five taps of `axis` that meet the same input pixel.

    An output at an even place sees its input pixels as (a, a, b, b, c), at an odd place as (a, b, b, c, c).

    Returns:
        The sums with two axes in front: parity of the output's place [2] and input pixel [3]; `axis` is gone.
    """
    one, two, three, four, five = ops.unstack(kernel, 5, axis=axis)
    even, odd = (one + two, three + four, five), (one, two + three, four + five)
    return ops.stack([ops.stack(even), ops.stack(odd)])


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
