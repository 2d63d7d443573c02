"""Convolutions of small kernels with fewer multiplications, and their gradients, for TensorFlow's CPU.

A convolution in one dimension that gives m results with a kernel of r taps is a product of two polynomials, which is
known from its values at m + r - 1 points: so many multiplications in place of m r (Toom, Cook; Winograd 1980). In two
dimensions a tile of m x m results takes (m + r - 1)^2 products of matrices [tiles, channels] x [channels, filters]; for
3x3 kernels and m = 4 these are a quarter of the multiplications (Lavin and Gray, arXiv 1509.09308, whose F(4x4, 3x3)
this is). The products are TensorFlow's own; what is added up before and after them XLA compiles into passes over
memory.

Three linear transforms are around the products: of inputs, of kernels, and of products to results. Gradients are taken
through them: by the transposes of the three, with products in between. So both gradients use one transform of what
comes from above, and the tiles of the inputs are those of the way forward, which are kept.

Here there are always six points: m = 5 for 2x2 kernels, 4 for 3x3, 3 for 4x4. Deviation: they are 0, +-3/4, +-3/2 and
infinity, not 0, +-1, +-2 and infinity, which halves the error. In float32 results differ from the exact ones by 1e-6 of
their size, where a plain convolution's differ by 2e-7.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

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


class Tiling(NamedTuple):
    """A valid convolution with stride 1 of images of a given shape, in tiles.

    batch, height, width: of the images; all known.
    taps: rows and columns of the kernel, one of `TAPS`.
    """

    batch: int
    height: int
    width: int
    taps: int

    @property
    def tiles(self) -> tuple[int, int, int]:
        """batch, rows of tiles, columns of tiles; side by side they cover the results."""
        down, across = (-(-(side - self.taps + 1) // _tile(self.taps)) for side in (self.height, self.width))
        return self.batch, down, across

    def tiled(self, images: Tensor) -> list[Tensor]:
        """B d B^T of all tiles d of the images [b, h, w, c], which overlap: six of [6, tiles, c]."""
        return _tiled(images, self.taps, False)

    def transposed_tiled(self, tiles: Sequence[Tensor]) -> Tensor:
        """The gradient of `tiled`."""
        return _joined(tiles, self.tiles, (self.height, self.width), self.taps, False)

    def results(self, products: Sequence[Tensor]) -> Tensor:
        """A (products) A^T of all tiles, side by side, and what is beyond the image cut off.

        Args:
            products: six of [6, tiles, filters].

        Returns:
            [b, h - r + 1, w - r + 1, filters].
        """
        sides = (self.height - self.taps + 1, self.width - self.taps + 1)
        return _joined(products, self.tiles, sides, self.taps, True)

    def transposed_results(self, upstream: Tensor) -> list[Tensor]:
        """The gradient of `results`: A^T d A of all tiles d of [b, h - r + 1, w - r + 1, filters]."""
        return _tiled(upstream, self.taps, True)


def products(tiles: Sequence[Tensor], kernel: Tensor) -> list[Tensor]:
    """Of `Tiling.tiled` images, six of [6, tiles, c], and G g G^T of the kernel g [r, r, c, filters].

    Returns:
        Six of [6, tiles, filters].
    """
    return [tf.matmul(*pair) for pair in zip(tiles, _kernels(kernel), strict=True)]


def products_by_tiles(upstream: Sequence[Tensor], kernel: Tensor) -> list[Tensor]:
    """The gradient of `products` by the tiles; upstream: as the products."""
    return [tf.matmul(*pair, transpose_b=True) for pair in zip(upstream, _kernels(kernel), strict=True)]


def products_by_kernel(taps: int, tiles: Sequence[Tensor], upstream: Sequence[Tensor]) -> Tensor:
    """The gradient of `products` by the kernel, [r, r, c, filters]: added up over tiles before the transform."""
    rows = [_kernel_joined(tf.matmul(*pair, transpose_a=True), taps=taps) for pair in zip(tiles, upstream, strict=True)]
    return _kernel_joined(*rows, taps=taps)


def _tiled(images: Tensor, taps: int, of_results: bool) -> list[Tensor]:
    """B d B^T of all tiles d, which overlap, or A^T d A of tiles of results, which do not: six of [6, tiles, c]."""
    return [_columns_tiled(row, taps, of_results) for row in _rows_tiled(images, taps, of_results)]


def _joined(
    products: Sequence[Tensor], tiles: tuple[int, int, int], sides: tuple[int, int], taps: int, of_results: bool
) -> Tensor:
    """The transpose of `_tiled`: six of [6, tiles, c] -> [b, *sides, c]."""
    height, width = sides
    rows = [_columns_joined(six, tiles, width, taps, of_results) for six in products]
    return _rows_joined(*rows, side=height, taps=taps, of_results=of_results)


def _kernels(kernel: Tensor) -> list[Tensor]:
    """G g G^T: six of [6, channels, filters]."""
    return [_kernel_columns(row) for row in _kernel_rows(kernel)]


# A transform is two compiled functions, the second called for each of the six results of the first. Calls of the second
# run beside products of others, whose operands are still in the caches: all in one is slower, and compiles longer.
@compiled
def _rows_tiled(images: Tensor, taps: int, of_results: bool) -> list[Tensor]:
    """[b, h, w, c] -> six of [b, rows of tiles, w, c]."""
    return _of_tiles(images, taps, of_results, 1)


@compiled
def _columns_tiled(row: Tensor, taps: int, of_results: bool) -> Tensor:
    """[b, rows of tiles, w, c] -> [6, tiles, c]."""
    return tf.reshape(tf.stack(_of_tiles(row, taps, of_results, 2)), (_SIZE, -1, row.shape[3]))


def _of_tiles(images: Tensor, taps: int, of_results: bool, axis: int) -> list[Tensor]:
    """B d, or A^T d, for all tiles d along an axis, whose beginnings are m apart."""
    matrix = _matrix(taps, of_results)
    tile, size = _tile(taps), matrix.shape[1]
    side = images.shape[axis]
    count = -(-(side - size + tile) // tile)
    padding = [[0, 0] for _ in range(4)]
    padding[axis][1] = tile * (count - 1) + size - side
    images = tf.pad(images, padding)
    places = [slice(i, i + tile * (count - 1) + 1, tile) for i in range(size)]
    return _combined(matrix, [images[(slice(None),) * axis + (place,)] for place in places])


@compiled
def _columns_joined(six: Tensor, tiles: tuple[int, int, int], side: int, taps: int, of_results: bool) -> Tensor:
    """The transpose of `_columns_tiled`: [6, tiles, c] -> [b, rows of tiles, side, c]."""
    parts = tf.unstack(tf.reshape(six, (_SIZE, *tiles, six.shape[2])))
    return _side_by_side(parts, side, taps, of_results, 2)


@compiled
def _rows_joined(*rows: Tensor, side: int, taps: int, of_results: bool) -> Tensor:
    """The transpose of `_rows_tiled`: six of [b, rows of tiles, w, c] -> [b, side, w, c]."""
    return _side_by_side(rows, side, taps, of_results, 1)


def _side_by_side(parts: Sequence[Tensor], side: int, taps: int, of_results: bool, axis: int) -> Tensor:
    """The transpose of `_of_tiles`: tiles one after the other along an axis; where they overlap they are added up."""
    tile = _tile(taps)
    found = _combined(_matrix(taps, of_results).T, parts)
    if len(found) > tile:  # what is beyond a tile's m places belongs to the next one
        padding = [[0, 0] for _ in range(4)]
        padding[axis] = [0, 1]
        own = [tf.pad(part, padding) for part in found[:tile]]
        padding[axis] = [1, 0]
        for i, part in enumerate(found[tile:]):
            own[i] += tf.pad(part, padding)
        found = own
    joined = tf.stack(found, axis=axis + 1)
    shape = joined.shape
    joined = tf.reshape(joined, (*shape[:axis], -1, *shape[axis + 2 :]))
    return joined[(slice(None),) * axis + (slice(side),)]


@compiled
def _kernel_rows(kernel: Tensor) -> list[Tensor]:
    """G along the first axis: [r, ...] -> six of [...]."""
    return _combined(transforms(kernel.shape[0])[1], tf.unstack(kernel))


@compiled
def _kernel_columns(row: Tensor) -> Tensor:
    """G along the first axis: [r, ...] -> [6, ...]."""
    return tf.stack(_combined(transforms(row.shape[0])[1], tf.unstack(row)))


@compiled
def _kernel_joined(*six: Tensor, taps: int) -> Tensor:
    """G^T along a new first axis, or the first of one: 6 of [...], or [6, ...], -> [r, ...]."""
    return tf.stack(_combined(transforms(taps)[1].T, six if len(six) == _SIZE else tf.unstack(*six)))


def _matrix(taps: int, of_results: bool) -> np.ndarray:
    """[6, places of a tile]: A^T for tiles of results, B for tiles of inputs."""
    results, _, inputs = transforms(taps)
    return results.T if of_results else inputs


def _tile(taps: int) -> int:
    """m: rows and columns of results that are computed together."""
    return _SIZE - taps + 1


def _combined(matrix: np.ndarray, parts: Sequence[Tensor]) -> list[Tensor]:
    """matrix @ parts, for a matrix of which many elements are 0."""
    return [tf.add_n([part * weight for weight, part in zip(row, parts, strict=True) if weight]) for row in matrix]
