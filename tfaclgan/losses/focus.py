"""The focus loss: masks of a wanted size whose pixels are near 0 or 1 (ACL-GAN, arXiv 2003.04858).

Official code, for a mask m of N = n h w pixels in the whole batch, with S the sum of m:

    size  = delta * (max(0, S - upper N)^2 + max(0, lower N - S)^2)
    digit = sum 1 / (|m - 0.5| + epsilon)
    focus = sum over three masks of (size + digit) / (3 N)

With the mean mu = S / N, size / N is `delta N excess(mu)`: a coefficient that grows with batch and resolution.
Here both terms are written with means, and the coefficient of `excess` is chosen by the caller. Sums of this
many pixels need float32; half types are raised.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from tfaclgan.layers.precision import full_precision
from tfaclgan.losses.absolute import absolute

Tensor = Any


def mask_means(masks: Tensor, per_image: bool) -> Tensor:
    """[b, h, w, 1] -> the mean of the batch (scalar), or of every image ([b])."""
    masks = full_precision(masks)
    return ops.mean(masks, axis=(1, 2, 3)) if per_image else ops.mean(masks)


def excess(means: Tensor, lower: float, upper: float) -> Tensor:
    """max(0, mean - upper)^2 + max(0, lower - mean)^2, averaged over `means` (scalar or [b], in [0, 1])."""
    return ops.mean(ops.square(ops.relu(means - upper)) + ops.square(ops.relu(lower - means)))


def indecision(masks: Tensor, epsilon: float) -> Tensor:
    """Mean of 1 / (|m - 0.5| + epsilon): 1 / (0.5 + epsilon) where pixels are 0 or 1, 1 / epsilon where 0.5."""
    return ops.mean(1 / (absolute(full_precision(masks) - 0.5) + epsilon))


def variation(masks: Tensor) -> Tensor:
    """Total variation a mask value: the absolute differences between neighbours, down and across, over all values.

    [b, h, w, k] -> scalar: sum(|m[y+1] - m[y]|) + sum(|m[x+1] - m[x]|), divided by b h w k (Council-GAN's).
    """
    masks = full_precision(masks)
    count = masks.shape[0] * masks.shape[1] * masks.shape[2] * masks.shape[3]
    down = ops.sum(absolute(masks[:, 1:] - masks[:, :-1]))
    across = ops.sum(absolute(masks[:, :, 1:] - masks[:, :, :-1]))
    return (down + across) / count
