"""Distances between sets of features and the score of logits, by TF-GAN's code in float64.

Heusel et al. 2017 (FID, arXiv:1706.08500), Binkowski et al. 2018 (KID, arXiv:1801.01401), Salimans
et al. 2016 (IS, arXiv:1606.03498). With other features than the Inception network's these are the
same formulas and other numbers: a result names its extractor (`metrics.evaluate`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfaclgan.errors import UserError
from tfaclgan.metrics import tfgan

SMALL_BLOCK = 10  # images in a block of the KIDs that U-GAT-IT's authors publish
BLOCK_SIZE = 1024  # images, TF-GAN's default: time and memory of a block grow with its square
_GROUPS = 10


@dataclasses.dataclass(frozen=True)
class KernelDistance:
    """KID's estimate.

    mean: mean over the blocks of the unbiased estimate; may be slightly negative.
    standard_error: of that mean; None where the smaller set has 2 images.
    block_size: the most images of the larger set that one block holds.
    blocks: their number.
    """

    mean: float
    standard_error: float | None
    block_size: int
    blocks: int


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """The Frechet distance of two sets of features, each taken as a Gaussian.

    The covariances have divisor n - 1. Fewer images than dimensions is allowed (the exact value for
    the rank-deficient covariances comes out), but the distance grows as sets get smaller: compare
    only results with equal counts.

    Args:
        real, generated: float [n, d] and [m, d], n and m at least 2.

    Returns:
        A number >= 0: rounding below zero is cut off.

    Raises:
        UserError: too few images, or features that are not finite.
    """
    import tensorflow as tf

    real, generated = _checked(real, "real"), _checked(generated, "generated")
    projected, rest = _into_common_space(real, generated)
    with tf.device("CPU:0"):  # two float64 SVDs, which accelerators do slowly or not at all
        value = tfgan.classifier_metrics().frechet_classifier_distance_from_activations(
            *(tf.constant(values) for values in projected)
        )
    return max(0.0, float(value) + rest)


def kernel_distance(
    real: np.ndarray, generated: np.ndarray, *, block_size: int = 0, shuffle_seed: int = 0
) -> KernelDistance:
    """The squared maximum mean discrepancy under the kernel (x.y / d + 1)^3, unbiased.

    Sets larger than a block are cut into equally many blocks and the estimates averaged; the
    standard error is then TF-GAN's, from the spread between blocks. With one block it is that of a
    jackknife: the estimate is repeated ten times without one tenth of both sets. Blocks and tenths
    must be random samples and files come sorted, so rows are shuffled first, by a fixed seed.

    Args:
        real, generated: float [n, d] and [m, d], n and m at least 2.
        block_size: most images of the larger set in one block; 0: 1024, TF-GAN's default, or what
            leaves 2 images of the smaller set in each block.
        shuffle_seed: of the shuffle.

    Raises:
        UserError: too few images (or too few for `block_size`), or features that are not finite.
    """
    real, generated = _checked(real, "real"), _checked(generated, "generated")
    size, count = blocks(len(real), len(generated), block_size)
    real = real[np.random.default_rng((shuffle_seed, 0)).permutation(len(real))]
    generated = generated[np.random.default_rng((shuffle_seed, 1)).permutation(len(generated))]
    mean, error = _kernel(real, generated, size)
    if count > 1:
        return KernelDistance(mean, error, size, count)
    return KernelDistance(mean, _jackknife_error(real, generated), size, count)


@dataclasses.dataclass(frozen=True)
class PublishedKernelDistance:
    """KID as U-GAT-IT's authors publish it, without their factor of 100; see `published_kernel_distance`.

    plain: KID to the target set. mean: their mixture with KID to the source set since 2019-08-15. average: the
    mixture before. Each is a value and its standard error. images: of each set.
    """

    plain: tuple[float, float | None]
    mean: tuple[float, float | None]
    average: tuple[float, float | None]
    images: int


def published_kernel_distance(target: np.ndarray, source: np.ndarray, generated: np.ndarray) -> PublishedKernelDistance:
    """KID in blocks of at most 10 images, and the two mixtures with the distance to the **source** set.

        plain   = KID(generated, target)
        mean    = (0.02 KID(generated, target) + 0.98 KID(generated, source)) / 2      since 2019-08-15
        average = (KID(generated, target) + KID(generated, source)) / 2                before

    by taki0112/GAN_Metrics-Tensorflow, whose errors are mixed by the same weights. U-GAT-IT's published table is
    probably a mixture (reference: a user's 11.15 for the released weights, against 2.72 of plain KID).

    Deviation: the larger sets are cut to the count of the smallest, drawn by a fixed seed, so that every block
    has as many images of each; the original would cut the smaller set into blocks of less.

    Args:
        target, source, generated: float [n, d], n at least 3, with enough images for 2 in a block.
    """
    sets = [_checked(v, name, fewest=3) for v, name in ((target, "real"), (source, "source"), (generated, "generated"))]
    count = min(map(len, sets))
    target, source, generated = (
        v[np.random.default_rng((2, i)).permutation(len(v))[:count]] for i, v in enumerate(sets)
    )
    near = kernel_distance(target, generated, block_size=SMALL_BLOCK)
    far = kernel_distance(source, generated, block_size=SMALL_BLOCK)

    def mixed(a: float, b: float) -> tuple[float, float | None]:
        errors = (near.standard_error, far.standard_error)
        error = None if None in errors else a * errors[0] + b * errors[1]
        return a * near.mean + b * far.mean, error

    return PublishedKernelDistance((near.mean, near.standard_error), mixed(0.01, 0.49), mixed(0.5, 0.5), count)


def blocks(real: int, generated: int, block_size: int = 0) -> tuple[int, int]:
    """KID's block size and number of blocks for sets of these counts; see `kernel_distance`.

    Raises:
        UserError: `block_size` leaves less than 2 images of a set in some block.
    """
    fewer, more = sorted((real, generated))
    if block_size < 0:
        raise UserError(f"KID: block size {block_size} is negative; give a number of images, or 0 to have it chosen")
    smallest = math.ceil(more / (fewer // 2))
    size = block_size or max(BLOCK_SIZE, smallest)
    if size < smallest:
        raise UserError(
            f"KID: block size {size} makes {math.ceil(more / size)} blocks, too many for {fewer} images (each block "
            f"needs 2 of both sets); take a block size of at least {smallest}, or 0 to have it chosen"
        )
    return size, math.ceil(more / size)


def inception_score(logits: np.ndarray) -> float:
    """exp of the mean KL divergence between each image's classes and all images' classes.

    One score over all images, without the splits of the first publication.

    Args:
        logits: float [n, classes].

    Returns:
        A number from 1 to `classes`.

    Raises:
        UserError: logits that are not finite, or no image.
    """
    import tensorflow as tf

    logits = _checked(logits, "generated", fewest=1)
    with tf.device("CPU:0"):
        return float(tfgan.classifier_metrics().classifier_score_from_logits(tf.constant(logits)))


def _into_common_space(real: np.ndarray, generated: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """Splits the Frechet distance where the smaller set has fewer images than dimensions.

    The root's trace sees only the directions in which both sets vary, so outside the smaller set's
    span the distance is a plain sum. Exact, and for 200 images of 1280 dimensions 40 times faster.

    Returns:
        Both sets in coordinates of that span, and the distance outside it.
    """
    smaller = min(real, generated, key=len)
    if len(smaller) > smaller.shape[1]:
        return (real, generated), 0.0
    basis = np.linalg.svd(smaller - smaller.mean(axis=0), full_matrices=False)[2].T
    projected = real @ basis, generated @ basis

    def size(a: np.ndarray, b: np.ndarray) -> float:
        apart = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2)
        return float(apart + sum(np.sum(np.var(values, axis=0, ddof=1)) for values in (a, b)))

    return projected, size(real, generated) - size(*projected)


def _kernel(real: np.ndarray, generated: np.ndarray, size: int) -> tuple[float, float]:
    import tensorflow as tf

    with tf.device("CPU:0"), _quiet():
        mean, error = tfgan.classifier_metrics().kernel_classifier_distance_and_std_from_activations(
            tf.constant(real), tf.constant(generated), max_block_size=size
        )
    return float(mean), float(error)


def _jackknife_error(real: np.ndarray, generated: np.ndarray) -> float | None:
    """Standard error of the one-block estimate: the delete-a-group jackknife over both sets."""
    groups = min(_GROUPS, len(real), len(generated))
    if groups < 3:
        return None
    members = [_members(len(values), groups) for values in (real, generated)]

    def kernel_sums(a: int, b: int) -> np.ndarray:
        """Sums of the kernel over pairs of groups, [groups, groups]."""
        x, y = (real, generated)[a], (real, generated)[b]
        kernel = (x @ y.T / x.shape[1] + 1) ** 3
        if a == b:
            np.fill_diagonal(kernel, 0)
        return members[a].T @ kernel @ members[b]

    def without(sums: np.ndarray) -> np.ndarray:
        """The sum over all pairs that have no image of group i, for each i."""
        return sums.sum() - sums.sum(axis=0) - sums.sum(axis=1) + np.diag(sums)

    n, m = (len(member) - member.sum(axis=0) for member in members)
    estimates = (
        without(kernel_sums(0, 0)) / (n * (n - 1))
        + without(kernel_sums(1, 1)) / (m * (m - 1))
        - 2 * without(kernel_sums(0, 1)) / (n * m)
    )
    return float(np.sqrt((groups - 1) / groups * np.sum((estimates - estimates.mean()) ** 2)))


def _members(count: int, groups: int) -> np.ndarray:
    """[count, groups]: 1 where an image is in a group; neighbours together, sizes as equal as can be."""
    number = np.repeat(np.arange(groups), [len(part) for part in np.array_split(np.arange(count), groups)])
    return np.eye(groups)[number]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TF-GAN's use of a deprecated argument from the user's console."""
    import tensorflow as tf

    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


def _checked(values: Any, name: str, fewest: int = 2) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"{name} features have shape {values.shape}, not [images, dimensions]")
    if len(values) < fewest:
        raise UserError(
            f"FID, KID and IS need at least {fewest} images in each set, and the {name} set has {len(values)}; "
            "use a split with more images (KID wants 100 or more)"
        )
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(axis=1).sum())
        raise UserError(
            f"{bad} of {len(values)} {name} images have features that are not finite, so distances would mean "
            "nothing; check the feature extractor's weights and its pixel range"
        )
    return values
