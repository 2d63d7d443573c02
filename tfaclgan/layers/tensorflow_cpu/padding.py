"""Mirrored borders for TensorFlow's CPU, where XLA compiles them into one pass over memory for each axis.

TensorFlow's own operation computes the place of every value that it copies, which takes longer (docs/engines.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfaclgan.layers.padding import mirrored_strips, strip
from tfaclgan.layers.tensorflow_cpu.functions import compiled, in_its_own_graph

Tensor = Any


@functools.cache
def mirroring(before: int, after: int, axes: tuple[int, ...], skipped: int) -> Callable[[Tensor], Tensor]:
    """`images -> images` with rows or columns mirrored at both ends, with a gradient of any order.

    Args:
        before, after: how many; with `skipped` at both ends at most a side, so that no pixel is mirrored twice.
        axes: of [b, h, w, c], 1 and 2.
        skipped: 1 if the edge itself is not repeated, 0 if it is.
    """

    @compiled
    def padded(images: Tensor) -> Tensor:
        return mirrored_strips(images, before, after, axes, skipped)

    @compiled
    def gathered(upstream: Tensor) -> Tensor:
        """`padded`'s gradient: each border added to what it mirrors."""
        for axis in reversed(axes):
            cut = functools.partial(strip, upstream, axis=axis)
            start, stop = before + skipped, upstream.shape[axis] - after - skipped
            first, last = cut(0, before), cut(upstream.shape[axis] - after, upstream.shape[axis])
            pieces = [
                cut(before, start),
                cut(start, start + before) + tf.reverse(first, [axis]),
                cut(start + before, stop - after),
                cut(stop - after, stop) + tf.reverse(last, [axis]),
                cut(stop, stop + skipped),
            ]
            upstream = tf.concat([piece for piece in pieces if piece.shape[axis]], axis)
        return upstream

    @in_its_own_graph
    def mirrored(images: Tensor) -> tuple[Tensor, Callable]:
        return padded(images), gradient

    @in_its_own_graph
    def gradient(upstream: Tensor) -> tuple[Tensor, Callable]:
        return gathered(upstream), mirrored

    return mirrored
