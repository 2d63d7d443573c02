"""Convolutions in float32 that TensorFlow's CPU kernels are slow at, above all their gradients.

oneDNN's kernels take gradients, and maps of few channels, at two thirds to a fiftieth of the rate of a plain forward
convolution (docs/engines.md). A form here has all three: the convolution, its gradient by the images, and by the
kernel. Each is linear in two arguments, so that its own gradients are the other two: gradients of any order are
computed by the same form.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfaclgan.layers.tensorflow_cpu import processor, winograd
from tfaclgan.layers.tensorflow_cpu.functions import compiled, in_its_own_graph

Tensor = Any
Form = Callable[[Tensor, Tensor], Tensor]

# From where on the forms are quicker, measured on two cores with AVX2, strided ones with AVX-512 (docs/engines.md).
FEW = 8  # channels: a picture's 3, a score's 1
_FEW_FROM = 2**18  # values of the map of many channels
_MANY = 128  # channels, and filters
_MANY_FROM = {2: 4096, 3: 1024, 4: 512}  # pixels of the result, by taps of the kernel
_STRIDED = 48  # channels, and filters
_STRIDED_FROM = 2**19  # values of the result, as if nothing were lost at the border


def chosen(images: tuple, kernel: tuple, strides: int, half: bool = False) -> Form | None:
    """The form that is quicker than TensorFlow's own for arguments of these shapes; None: there is none.

    Args:
        images: [b, h, w, c], of which some may be None.
        kernel: [rows, columns, c, filters].
        half: whether the images are of bfloat16.
    """
    if half:
        return of_many if not processor.has("amx_bf16") and chosen(images, kernel, strides) is of_many else None
    if None in images or kernel[0] != kernel[1] or kernel[0] == 1:
        return None
    batch, height, width, channels = images
    taps, _, _, filters = kernel
    if strides == 2:
        if not (taps % 2 or height % 2 or width % 2):
            blocks = (batch, height // 2, width // 2, 4 * channels)
            if chosen(blocks, (taps // 2, taps // 2, 4 * channels, filters), 1) is of_many:
                return halving
        values = batch * (height // 2) * (width // 2) * filters
        return strided if min(channels, filters) >= _STRIDED and values >= _STRIDED_FROM else None
    if min(channels, filters) <= FEW:
        return of_few if batch * height * width * max(channels, filters) >= _FEW_FROM else None
    pixels = batch * (height - taps + 1) * (width - taps + 1)
    if min(channels, filters) >= _MANY and pixels >= _MANY_FROM.get(taps, float("inf")):
        return of_many
    return None


def halving(images: Tensor, kernel: Tensor) -> Tensor:
    """Stride 2 with an even kernel and even sides: stride 1 on blocks of 2x2 pixels, with half as many taps."""
    taps, _, channels, filters = kernel.shape
    half = taps // 2
    kernel = tf.transpose(tf.reshape(kernel, (half, 2, half, 2, channels, filters)), (0, 2, 1, 3, 4, 5))
    return of_many(tf.nn.space_to_depth(images, 2), tf.reshape(kernel, (half, half, 4 * channels, filters)))


def strided(images: Tensor, kernel: Tensor) -> Tensor:
    """Stride 2 by TensorFlow's own kernels, but for the gradient by the kernel."""
    return _strided_of_size(kernel.shape[0], images.shape[1], images.shape[2])(images, kernel)


def computed(form: Form, images: Tensor, kernel: Any) -> Tensor:
    """By `form` in float32, rounded to the images' type; the kernel may be a variable of Keras."""
    arrays = (tf.cast(tf.convert_to_tensor(array), tf.float32) for array in (images, kernel))
    return tf.cast(form(*arrays), images.dtype)


@functools.cache
def of_many_of_shape(tiling: winograd.Tiling) -> Form:
    """The convolution of such images; its gradients of any order are taken through the same transforms."""
    by_kernel = functools.partial(winograd.products_by_kernel, tiling.taps)
    tiled = _linear(tiling.tiled, tiling.transposed_tiled)
    products = _with_gradients(winograd.products, winograd.products_by_tiles, by_kernel)
    results = _linear(tiling.results, tiling.transposed_results)
    return lambda images, kernel: results(products(tiled(images), kernel))


def of_many(images: Tensor, kernel: Tensor) -> Tensor:
    """By Winograd's transforms; kernels of 2x2 to 4x4."""
    batch, height, width, _ = images.shape
    return of_many_of_shape(winograd.Tiling(batch, height, width, kernel.shape[0]))(images, kernel)


@functools.cache
def _strided_of_size(taps: int, height: int, width: int) -> Form:
    """`strided` for kernels of `taps` rows and columns, and images of a given size."""

    def convolved(images: Tensor, kernel: Tensor) -> Tensor:
        return tf.nn.conv2d(images, kernel, 2, "VALID")

    def by_images(upstream: Tensor, kernel: Tensor) -> Tensor:
        shape = (upstream.shape[0], height, width, kernel.shape[2])
        return tf.nn.conv2d_transpose(upstream, kernel, shape, 2, "VALID")

    return _with_gradients(convolved, by_images, functools.partial(_strided_by_kernel, taps))


def _strided_by_kernel(taps: int, images: Tensor, upstream: Tensor) -> Tensor:
    """One product of matrices for each row of the kernel: what it meets in the images by what comes from above."""
    down, across, filters = upstream.shape[1:]
    upstream = tf.reshape(tf.transpose(upstream, (1, 0, 2, 3)), (-1, filters))
    of_parity = _met(images, taps, (down, across))
    products = []
    for i in range(taps):
        met = of_parity[i % 2][i // 2 : i // 2 + down]
        products.append(tf.matmul(tf.reshape(met, (upstream.shape[0], -1)), upstream, transpose_a=True))
    return tf.reshape(tf.stack(products), (taps, taps, -1, filters))


@compiled
def _met(images: Tensor, taps: int, sides: tuple[int, int]) -> list[Tensor]:
    """What a kernel's rows meet with stride 2, in the images' even rows and in the odd ones.

    Args:
        images: [b, h, w, c].
        sides: rows and columns of the result.

    Returns:
        [rows, b, sides[1], taps * c], twice; row i of the kernel meets sides[0] rows of one, from i // 2 on.
    """
    down, across = sides
    images = tf.transpose(images, (1, 0, 2, 3))
    found = []
    for parity in range(2):
        rows = images[parity : parity + 2 * (down + (taps - 1 - parity) // 2) - 1 : 2]
        found.append(tf.concat([rows[:, :, i : i + 2 * across - 1 : 2] for i in range(taps)], 3))
    return found


def _with_gradients(forward: Callable, by_images: Callable, by_kernel: Callable) -> Callable:
    """`forward(images, kernel)` whose gradients, of any order, are computed by the other two.

    Args:
        forward: of images, one array or a list, and a kernel; gives one array or a list.
        by_images: (upstream, kernel) -> the gradient by the images; upstream: as what `forward` gives.
        by_kernel: (images, upstream) -> the gradient by the kernel.
    """
    forward, by_images, by_kernel = (_once_for_each_shape(function) for function in (forward, by_images, by_kernel))

    @in_its_own_graph
    def convolved(images: Any, kernel: Tensor) -> tuple[Any, Callable]:
        def gradients(*up: Tensor) -> tuple[Any, Tensor]:
            return to_images(_one_or_all(up), kernel), to_kernel(images, _one_or_all(up))

        return forward(images, kernel), gradients

    @in_its_own_graph
    def to_images(upstream: Any, kernel: Tensor) -> tuple[Any, Callable]:
        def gradients(*up: Tensor) -> tuple[Any, Tensor]:
            return convolved(_one_or_all(up), kernel), to_kernel(_one_or_all(up), upstream)

        return by_images(upstream, kernel), gradients

    @in_its_own_graph
    def to_kernel(images: Any, upstream: Any) -> tuple[Tensor, Callable]:
        return by_kernel(images, upstream), lambda up: (to_images(upstream, up), convolved(images, up))

    return convolved


def _linear(forward: Callable, transposed: Callable) -> Callable:
    """`forward`, of one array or a list, whose gradient is `transposed`, and the reverse."""
    forward, transposed = (_once_for_each_shape(function) for function in (forward, transposed))

    @in_its_own_graph
    def there(arrays: Any) -> tuple[Any, Callable]:
        return forward(arrays), lambda *up: back(_one_or_all(up))

    @in_its_own_graph
    def back(upstream: Any) -> tuple[Any, Callable]:
        return transposed(upstream), lambda *up: there(_one_or_all(up))

    return there


def _one_or_all(arrays: tuple) -> Any:
    """What a function gave, from what tf.custom_gradient hands over for it."""
    return arrays[0] if len(arrays) == 1 else list(arrays)


def _once_for_each_shape(function: Callable) -> Callable:
    """Kept as one operation of a step, however often it is called: its graph is prepared once."""
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def _few_convolution(images: Tensor, kernel: Tensor) -> Tensor:
    """To few channels: the columns of the kernel as filters, side by side, of a kernel of one column."""
    rows, columns, channels, filters = kernel.shape
    if filters > FEW:
        return tf.nn.conv2d(images, kernel, 1, "VALID")
    narrow = tf.reshape(tf.transpose(kernel, (0, 2, 1, 3)), (rows, 1, channels, columns * filters))
    return _columns_added(tf.nn.conv2d(images, narrow, 1, "VALID"), columns)


@compiled
def _columns_added(maps: Tensor, columns: int) -> Tensor:
    """[b, h, w, columns * c] -> [b, h, w - columns + 1, c]: the results of columns, each shifted to its place."""
    width, channels = maps.shape[2] - columns + 1, maps.shape[3] // columns
    return tf.add_n([maps[:, :, i : i + width, i * channels : (i + 1) * channels] for i in range(columns)])


def _few_by_images(upstream: Tensor, kernel: Tensor) -> Tensor:
    """A convolution of the padded `upstream` with the turned kernel: few channels are many now, or the reverse."""
    border = kernel.shape[0] - 1
    padded = tf.pad(upstream, ((0, 0), (border, border), (border, border), (0, 0)))
    return _few_convolution(padded, tf.transpose(kernel[::-1, ::-1], (0, 1, 3, 2)))


def _few_by_kernel(images: Tensor, upstream: Tensor) -> Tensor:
    """One product of matrices for each row of the kernel: the map of many channels by pieces of rows of that of few."""
    taps = images.shape[1] - upstream.shape[1] + 1
    if images.shape[3] <= upstream.shape[3]:
        return _products_of_rows(images, upstream, taps)
    border = taps - 1
    padded = tf.pad(upstream, ((0, 0), (border, border), (border, border), (0, 0)))
    found = _products_of_rows(padded, images, taps)  # [rows, columns, filters, c], both turned
    return tf.transpose(found[::-1, ::-1], (0, 1, 3, 2))


def _products_of_rows(few: Tensor, many: Tensor, taps: int) -> Tensor:
    """[taps, taps, c of few, c of many]: sums over all places in `many` of its products with `few`, shifted.

    Two columns of `many` are taken as one of twice the channels, which fills the matrices better; each finds what
    belongs to it in the products of both.
    """
    batch, height, width, channels = many.shape
    together = 1 if width % 2 else 2
    wide = -(-(taps + together - 1) // together) * together
    groups = width // together
    few = tf.pad(few, ((0, 0), (0, 0), (0, wide - together - (taps - 1)), (0, 0)))
    columns = tf.reshape(few, (batch, few.shape[1], -1, together * few.shape[3]))
    pieces = tf.concat([columns[:, :, i : i + groups] for i in range(wide // together)], axis=3)
    many = tf.reshape(many, (batch * height * groups, together * channels))
    rows = []
    for i in range(taps):
        piece = tf.reshape(pieces[:, i : i + height], (batch * height * groups, wide * few.shape[3]))
        products = tf.matmul(piece, many, transpose_a=True)
        products = tf.reshape(products, (wide, few.shape[3], together, channels))
        rows.append(tf.add_n([products[j : j + taps, :, j] for j in range(together)]))
    return tf.stack(rows)


of_few = _with_gradients(_few_convolution, _few_by_images, _few_by_kernel)
