"""Distances between an image, a style or a content and its reconstruction."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfaclgan.layers.precision import full_precision
from tfaclgan.losses.absolute import absolute

Tensor = Any


def mean_absolute_error(values: Tensor, targets: Tensor) -> Tensor:
    """Mean of |values - targets| over everything; both of the same shape. Scalar, float32 or wider."""
    return ops.mean(absolute(full_precision(values) - full_precision(targets)))


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of vertical neighbours plus that of horizontal ones. [b, h, w, c] -> scalar."""
    images = full_precision(images)
    vertical = ops.mean(absolute(images[:, 1:] - images[:, :-1]))
    return vertical + ops.mean(absolute(images[:, :, 1:] - images[:, :, :-1]))
