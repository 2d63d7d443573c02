"""Foreground masks [b, h, w, 1] in [0, 1] (1 in the foreground), as enhanced-UGATIT prepares those of faces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from tfaclgan.layers.precision import full_precision

Tensor = Any


def soft_edge(mask: Tensor) -> Tensor:
    """1 above 0.7, 0 up to 0.3, the mask itself between."""
    mask = full_precision(mask)
    return ops.where(mask > 0.7, 1.0, ops.where(mask > 0.3, mask, 0.0))


def hard_edge(mask: Tensor) -> Tensor:
    """1 from 0.5, else 0."""
    return ops.cast(full_precision(mask) >= 0.5, full_precision(mask).dtype)


EDGES = {"soft": soft_edge, "hard": hard_edge, "as_is": full_precision}


def eroded(mask: Tensor) -> Tensor:
    """Closed (grown, then shrunk), then shrunk, by OpenCV's 5x5 ellipse; outside the image nothing is shrunk or grown.

    That ellipse is three full rows of five and one pixel above and below them.
    """
    mask = full_precision(mask)
    return _shrink(_shrink(_grow(mask)))


def without_rims_and_mouth(parts: Tensor, edge: Callable[[Tensor], Tensor], erosion: bool = True) -> Tensor:
    """What counts as foreground once glasses' rims and the inside of mouths do not: [b, h, w, 1].

    Args:
        parts: [b, h, w, 3] in [0, 1]: foreground, foreground without glasses and mouth, glasses.
        edge: one of `EDGES`, taken of both factors.
        erosion: close and erode the foreground and the glasses, which then lose their rims.

    Returns:
        edge(foreground) * edge(max(foreground without glasses and mouth, glasses)).
    """
    foreground, plain, glasses = ops.split(full_precision(parts), 3, axis=-1)
    if erosion:
        foreground, glasses = eroded(foreground), eroded(glasses)
    return edge(foreground) * edge(ops.maximum(plain, glasses))


def _grow(mask: Tensor) -> Tensor:
    rows = ops.max_pool(mask, (3, 5), strides=1, padding="same")
    return ops.maximum(rows, ops.max_pool(mask, (5, 1), strides=1, padding="same"))


def _shrink(mask: Tensor) -> Tensor:
    return -_grow(-mask)
