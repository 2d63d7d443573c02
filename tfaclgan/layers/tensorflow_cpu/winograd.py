"""Convolutions of small kernels with fewer multiplications, and their gradients, for TensorFlow's CPU.

A convolution in one dimension that gives m results with a kernel of r taps is a product of two polynomials, which is
known from its values at m + r - 1 points: so many multiplications in place of m r (Toom, Cook; Winograd 1980). In two
dimensions a tile of m x m results takes (m + r - 1)^2 products of matrices [tiles, channels] x [channels, filters]; for
3x3 kernels and m = 4 these are a quarter of the multiplications (Lavin and Gray, arXiv 1509.09308, whose F(4x4, 3x3)
this is). The gradients by images and by kernel are of the same kind. The products are TensorFlow's own; what is added
up before and after them XLA compiles into passes over memory.

Here there are always six points: m = 5 for 2x2 kernels, 4 for 3x3, 3 for 4x4. Deviation: they are 0, +-3/4, +-3/2 and
infinity, not 0, +-1, +-2 and infinity, which halves the error. In float32 results differ from the exact ones by 1e-6 of
their size, where a plain convolution's differ by 2e-7.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfaclgan.layers.tensorflow_cpu.functions import compiled

Tensor = Any

_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # and infinity
_SIZE = len(_POINTS) + 1
TAPS = (2, 3, 4)  # of kernels


@functools.cache
def transforms(taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(A, G, B): m = 7 - taps results of a kernel are A ((G kernel) * (B inputs)), for six inputs in a row.

    Returns:
        A [m, 6], G [6, taps] and B [6, 6] in float64.
    """
    tile = _tile(taps)
    points = np.array(_POINTS)
    results = np.zeros((tile, _SIZE))
    kernel = np.zeros((_SIZE, taps))
    inputs = np.zeros((_SIZE, _SIZE))
    for i, point in enumerate(points):
        others = np.delete(points, i)
        results[:, i] = point ** np.arange(tile)
        kernel[i] = point ** np.arange(taps) / np.prod(point - others)
        inputs[i, :-1] = np.poly(others)[::-1]
    results[-1, -1] = kernel[-1, -1] = 1  # at infinity: the highest coefficients
    inputs[-1] = np.poly(points)[::-1]
    return results, kernel, inputs


def convolution(images: Tensor, kernel: Tensor) -> Tensor:
    """Valid convolution with stride 1.

    Args:
        images: [b, h, w, c], all known.
        kernel: [r, r, c, filters], r one of `TAPS`.

    Returns:
        [b, h - r + 1, w - r + 1, filters].
    """
    taps = kernel.shape[0]
    batch, height, width, _ = images.shape
    products = map(tf.matmul, _inputs(images, taps, 0), _kernels(kernel, False))
    return _results(list(products), (batch, height - taps + 1, width - taps + 1), taps)


def by_images(upstream: Tensor, kernel: Tensor) -> Tensor:
    """`convolution`'s gradient by its images: a convolution of the padded `upstream` with the turned kernel."""
    taps = kernel.shape[0]
    batch, height, width, _ = upstream.shape
    products = map(tf.matmul, _inputs(upstream, taps, taps - 1), _kernels(kernel, True))
    return _results(list(products), (batch, height + taps - 1, width + taps - 1), taps)


def by_kernel(images: Tensor, upstream: Tensor) -> Tensor:
    """`convolution`'s gradient by its kernel: of all tiles, added up before the last transform."""
    taps = images.shape[1] - upstream.shape[1] + 1
    tiles = zip(_inputs(images, taps, 0), _upstreams(upstream, taps), strict=True)
    products = [tf.matmul(one, other, transpose_a=True) for one, other in tiles]
    return _stacked(*(_stacked(*six, taps=taps) for six in _in_sixes(products)), taps=taps)


def _inputs(images: Tensor, taps: int, border: int) -> list[Tensor]:
    """B d B^T of all tiles d of the images with `border` zeros around them: 6 x 6 of [tiles, channels]."""
    rows = _rows_of_tiles(images, taps, border, False)
    return [one for row in rows for one in _columns_of_tiles(row, taps, border, False)]


def _upstreams(upstream: Tensor, taps: int) -> list[Tensor]:
    """A^T d A of all tiles d of a gradient by results: 6 x 6 of [tiles, filters]."""
    rows = _rows_of_tiles(upstream, taps, 0, True)
    return [one for row in rows for one in _columns_of_tiles(row, taps, 0, True)]


def _kernels(kernel: Tensor, turned: bool) -> list[Tensor]:
    """G g G^T: 6 x 6 of [channels, filters]; of the kernel turned by 180 degrees [filters, channels]."""
    return [one for row in _unstacked(kernel, turned, False) for one in _unstacked(row, turned, turned)]


def _results(products: list[Tensor], shape: tuple[int, int, int], taps: int) -> Tensor:
    """A (products) A^T of all tiles, side by side: [*shape, filters]."""
    batch, height, width = shape
    counts = tuple(_count(side, _tile(taps)) for side in (height, width))
    rows = [_whole_rows(*six, counts=(batch, *counts), taps=taps) for six in _in_sixes(products)]
    return _whole(*rows, height=height, width=width, taps=taps)


# A transform is two compiled functions, the second called for each result of the first. As one, of 36 loops, the first
# call of a step with two convolutions took 10.7 s where it takes 4.9.
@compiled
def _rows_of_tiles(images: Tensor, taps: int, border: int, transposed: bool) -> list[Tensor]:
    """[b, h, w, c] -> 6 of [b, rows of tiles, w, c]."""
    return _of_tiles(images, taps, border, transposed, 1)


@compiled
def _columns_of_tiles(row: Tensor, taps: int, border: int, transposed: bool) -> list[Tensor]:
    """[b, rows of tiles, w, c] -> 6 of [tiles, c]."""
    return [tf.reshape(one, (-1, row.shape[3])) for one in _of_tiles(row, taps, border, transposed, 2)]


def _of_tiles(images: Tensor, taps: int, border: int, transposed: bool, axis: int) -> list[Tensor]:
    """B d, or A^T d, for all tiles d along an axis, whose beginnings are m apart."""
    matrix = transforms(taps)[0].T if transposed else transforms(taps)[2]
    tile, size = _tile(taps), matrix.shape[1]
    side = images.shape[axis]
    count = _count(side + 2 * border - size + tile, tile)
    padding = [[0, 0] for _ in range(4)]
    padding[axis] = [border, tile * (count - 1) + size - side - border]
    images = tf.pad(images, padding)
    places = [slice(i, i + tile * (count - 1) + 1, tile) for i in range(size)]
    return _combined(matrix, [images[(slice(None),) * axis + (place,)] for place in places])


@compiled
def _unstacked(kernel: Tensor, turned: bool, transposed: bool) -> list[Tensor]:
    """G along the first axis, [r, ...] -> 6 of [...], of the kernel in reverse order if turned."""
    matrix = transforms(kernel.shape[0])[1]
    found = _combined(matrix[:, ::-1] if turned else matrix, tf.unstack(kernel))
    return [tf.transpose(one) for one in found] if transposed else found


@compiled
def _stacked(*products: Tensor, taps: int) -> Tensor:
    """G^T along a new first axis: 6 of [...] -> [r, ...]."""
    return tf.stack(_combined(transforms(taps)[1].T, products))


@compiled
def _whole_rows(*products: Tensor, counts: tuple[int, int, int], taps: int) -> Tensor:
    """A along columns: 6 of [tiles, filters] -> [b, rows of tiles, columns of tiles * m, filters]."""
    batch, down, across = counts
    shape = (batch, down, across, products[0].shape[1])
    found = _combined(transforms(taps)[0], [tf.reshape(one, shape) for one in products])
    return tf.reshape(tf.stack(found, axis=3), (batch, down, -1, shape[3]))


@compiled
def _whole(*rows: Tensor, height: int, width: int, taps: int) -> Tensor:
    """A along rows, and what is beyond the image cut off: -> [b, height, width, filters]."""
    batch, _, across, filters = rows[0].shape
    found = tf.stack(_combined(transforms(taps)[0], rows), axis=2)
    return tf.reshape(found, (batch, -1, across, filters))[:, :height, :width]


def _in_sixes(products: list[Tensor]) -> list[list[Tensor]]:
    return [products[i : i + _SIZE] for i in range(0, len(products), _SIZE)]


def _tile(taps: int) -> int:
    """m: rows and columns of results that are computed together."""
    return _SIZE - taps + 1


def _count(side: int, tile: int) -> int:
    return -(-side // tile)


def _combined(matrix: np.ndarray, parts: Sequence[Tensor]) -> list[Tensor]:
    """matrix @ parts, for a matrix of which many elements are 0."""
    return [tf.add_n([part * weight for weight, part in zip(row, parts, strict=True) if weight]) for row in matrix]
