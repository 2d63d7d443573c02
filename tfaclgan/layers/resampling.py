"""Larger and smaller maps without an image library: what the networks need inside a compiled step."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfaclgan.layers import target
from tfaclgan.layers.convolution import convolution
from tfaclgan.layers.padding import COLUMNS, ROWS, add_to_ends, edge_pad, reflect_pad
from tfaclgan.layers.precision import full_precision, is_half

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

    edge = edge_pad(images, 1)
    result = ops.reshape(convolution(edge, small), (batch, height, width, 2, 2, filters))
    result = ops.reshape(ops.transpose(result, (0, 1, 3, 2, 4, 5)), (batch, 2 * height, 2 * width, filters))

    rows = []
    for outside, inside, tap in ((images[:, 1:2], images[:, :1], 0), (images[:, -2:-1], images[:, -1:], 4)):
        line = _each_twice(outside - inside, 2)
        line = reflect_pad(line, 2, (COLUMNS,))
        rows.append(ops.conv(line, kernel[tap : tap + 1], padding="valid"))
    columns = []
    for outside, inside, tap in ((images[:, :, 1:2], images[:, :, :1], 0), (images[:, :, -2:-1], images[:, :, -1:], 4)):
        line = _each_twice(outside - inside, 1)
        line = edge_pad(line, 2, (ROWS,))
        columns.append(ops.conv(line, kernel[:, tap : tap + 1], padding="valid"))
    return add_to_ends(add_to_ends(result, *rows, ROWS), *columns, COLUMNS)


class Double(keras.layers.Layer):
    """Nearest upsampling by 2, [b, h, w, c] -> [b, 2h, 2w, c].

    Keras' UpSampling2D is the same, but forgets the number of channels where batch or sides are free, and the TFLite
    converter then gives up.
    """

    def call(self, images: Tensor) -> Tensor:
        return _each_twice(_each_twice(images, 1), 2)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, height, width, channels = input_shape
        return (batch, height and 2 * height, width and 2 * width, channels)


class DoublingConv2DTranspose(keras.layers.Conv2DTranspose):
    """Keras' Conv2DTranspose with stride 2, of whose result the first and last rows and columns are cut off.

    [b, h, w, c] -> [b, 2 h + kernel_size - 2 - sum(crop), 2 w + ..., filters]; weights as Keras' layer has them.

    Args:
        filters: channels of the result.
        kernel_size: rows and columns of the kernel, at least `max(crop) + 1`.
        crop: how many rows and columns at the beginning, and at the end. PyTorch's padding p and output_padding o are
            (p, p - o): (1, 0) for its k3 p1 o1, (1, 1) for k4 p1; both double the sides.
    """

    def __init__(self, filters: int, kernel_size: int, crop: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(filters, kernel_size, **{"strides": 2, **kwargs})
        self.crop = tuple(crop)

    def call(self, images: Tensor) -> Tensor:
        result = transposed_convolution(images, ops.convert_to_tensor(self.kernel), self.crop)
        return result + self.bias if self.use_bias else result

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, height, width, _ = input_shape
        extra = self.kernel_size[0] - 2 - sum(self.crop)
        return (batch, height and 2 * height + extra, width and 2 * width + extra, self.filters)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kernel_size": self.kernel_size[0], "crop": self.crop}


def transposed_convolution(images: Tensor, kernel: Tensor, crop: tuple[int, int]) -> Tensor:
    """Transposed convolution with stride 2 without the first `crop[0]` and the last `crop[1]` rows and columns.

    In a training step the rows and columns are not computed at all: a map of 129 rows and its gradient, which are
    copied to leave one row out, take TensorFlow's CPU two to three times as long. (In half precision its kernel for
    that is a slow one; there the cut is an operation whose gradient is quick.)

    Args:
        images: [b, h, w, c].
        kernel: [rows, columns, filters, c], square.
        crop: less than the kernel's rows.

    Returns:
        [b, 2 h + rows - 2 - sum(crop), 2 w + ..., filters].
    """
    batch, height, width, _ = ops.shape(images)
    size, filters = kernel.shape[0], kernel.shape[2]
    before, after = crop
    shape = (batch, 2 * height + size - 2 - before - after, 2 * width + size - 2 - before - after, filters)
    if keras.backend.backend() == "jax":
        import jax

        around = (size - 1 - before, size - 1 - after)
        return jax.lax.conv_transpose(
            images, kernel, (2, 2), (around, around), dimension_numbers=("NHWC", "HWIO", "NHWC"), transpose_kernel=True
        )
    on_cpu = target.on_tensorflow_cpu()
    if on_cpu is None or (on_cpu and is_half(images)):
        return ops.slice(ops.conv_transpose(images, kernel, 2, "valid"), (0, before, before, 0), shape)
    import tensorflow as tf

    return tf.nn.conv2d_transpose(images, kernel, shape, 2, [[0, 0], [before, after], [before, after], [0, 0]])


def _each_twice(images: Tensor, axis: int) -> Tensor:
    """`ops.repeat(images, 2, axis)`, which forgets the number of channels where a side is not known yet."""
    return ops.repeat(images, 2, axis) if target.on_jax_gpu() else _in_turn(images, images, axis)


def _in_turn(even: Tensor, odd: Tensor, axis: int) -> Tensor:
    """Rows (or columns) of `even` and `odd` one by one."""
    shape = [*ops.shape(even)]
    shape[axis] = 2 * shape[axis]
    if target.on_jax_gpu():  # sums with zeros: XLA's kernel for concatenations is slow there, see layers/padding.py
        return _spread(even, axis, 0) + _spread(odd, axis, 1)
    return ops.reshape(ops.stack([even, odd], axis=axis + 1), shape)


def _spread(images: Tensor, axis: int, offset: int) -> Tensor:
    """Every second row (or column) from `offset` on, zeros between them; a JAX array."""
    import jax

    places = [(offset, 1 - offset, 1) if i == axis else (0, 0, 0) for i in range(4)]
    return jax.lax.pad(images, np.zeros((), images.dtype), places)


def _merge_taps(kernel: Tensor, axis: int) -> Tensor:
    """Adds up the five taps of `axis` that meet the same input pixel.

    An output at an even place sees its input pixels as (a, a, b, b, c), at an odd place as (a, b, b, c, c).

    Returns:
        The sums with two axes in front: parity of the output's place [2] and input pixel [3]; `axis` is gone.
    """
    one, two, three, four, five = ops.unstack(kernel, 5, axis=axis)
    even, odd = (one + two, three + four, five), (one, two + three, four + five)
    return ops.stack([ops.stack(even), ops.stack(odd)])


class SmallUpsampleConv2D(keras.layers.Layer):
    """Nearest upsampling by 2, reflection padding by 1, then a 3x3 convolution.

    [b, h, w, c] -> [b, 2h, 2w, filters]. Weights are those of the 3x3 convolution, kernel [3, 3, c, filters]. See
    `small_upsample_convolution` for how it is computed.
    """

    def __init__(
        self,
        filters: int,
        *,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters, self.use_bias = filters, use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape: tuple) -> None:
        # Not cast to a half type when read: kernel elements are added up before they are rounded.
        shape = (3, 3, input_shape[-1], self.filters)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self.kernel_initializer, autocast=False)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer=self.bias_initializer)

    def call(self, images: Tensor) -> Tensor:
        result = small_upsample_convolution(images, ops.convert_to_tensor(self.kernel))
        return result if self.bias is None else result + self.bias

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, height, width, _ = input_shape
        return (batch, height and 2 * height, width and 2 * width, self.filters)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


def small_upsample_convolution(images: Tensor, kernel: Tensor) -> Tensor:
    """Valid 3x3 convolution of the reflect-padded (by 1), nearest-upsampled (by 2) images, in 4/9 of the work.

    Reflecting upsampled pixels (x0, x0, x1, ...) by one shows x0 again, so the border is the small image's edge
    repeated, and every window sees 2x2 different pixels: an output at an even place (a, b, b), at an odd one
    (a, a, b). The taps that meet the same pixel are added up, which makes four 2x2 convolutions.

    Args:
        images: [b, h, w, c].
        kernel: [3, 3, c, filters], not of a half type.

    Returns:
        [b, 2h, 2w, filters], of the images' dtype.
    """
    _, height, width, channels = ops.shape(images)
    filters = kernel.shape[-1]
    small = _merge_three(_merge_three(kernel, 0), 2)  # [column parity, column, row parity, row, c, filters]
    small = ops.transpose(small, (3, 1, 4, 2, 0, 5))  # [row, column, c, row parity, column parity, filters]
    small = ops.cast(ops.reshape(small, (2, 2, channels, 4 * filters)), images.dtype)
    edge = edge_pad(images, 1)
    all_four = convolution(edge, small)  # [b, h + 1, w + 1, 4 filters]
    # An output at (2i + p, 2j + q) is window (i + p, j + q) of its parity's convolution.
    rows = []
    for p in (0, 1):
        columns = []
        for q in (0, 1):
            first = (2 * p + q) * filters
            columns.append(all_four[:, p : p + height, q : q + width, first : first + filters])
        rows.append(_in_turn(*columns, COLUMNS))
    return _in_turn(*rows, ROWS)


def _merge_three(kernel: Tensor, axis: int) -> Tensor:
    """As `_merge_taps` for three taps, which meet (a, b, b) at an even and (a, a, b) at an odd place."""
    one, two, three = ops.unstack(kernel, 3, axis=axis)
    return ops.stack([ops.stack((one, two + three)), ops.stack((one + two, three))])


def area_pool(images: Tensor, height: int, width: int) -> Tensor:
    """Adaptive mean pooling, as PyTorch's: output i is the mean of inputs floor(i n / m) to ceil((i + 1) n / m).

    Args:
        images: [b, h, w, c] of known sides; smaller ones than asked for are repeated.
        height, width: of the output.

    Returns:
        [b, height, width, c], in full precision.
    """
    images = full_precision(images)
    if (height, width) == (1, 1):
        return ops.mean(images, axis=(1, 2), keepdims=True)
    for axis, side in ((1, height), (2, width)):
        if images.shape[axis] != side:
            means = ops.convert_to_tensor(_means(images.shape[axis], side), images.dtype)
            images = ops.moveaxis(ops.tensordot(means, images, axes=((1,), (axis,))), 0, axis)
    return images


def _means(size: int, bins: int) -> np.ndarray:
    """[bins, size]: row i averages the inputs of output i."""
    matrix = np.zeros((bins, size))
    for i in range(bins):
        first, end = i * size // bins, -(-(i + 1) * size // bins)
        matrix[i, first:end] = 1 / (end - first)
    return matrix


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
