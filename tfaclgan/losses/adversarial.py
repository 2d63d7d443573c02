"""Adversarial losses as pure functions on lists of score maps.

An `Objective` has functions that pull scores towards "real" and towards "fake". A discriminator minimises
`real(scores of images) + fake(scores of fakes)`; a generator minimises `fool(scores of fakes)`, which is `real` but
for the hinge, or `fake(...)` where it is to leave a distribution (ACL-GAN's pairs).

Every function takes a list of score maps [b, h, w, 1] (one a scale, without activation), averages each over
samples and positions, and **sums over the scales**, as MUNIT and ACL-GAN do. Half types are raised to float32.
Optional weights [b] multiply what each sample adds to the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keras import ops

from tfaclgan.layers import batches
from tfaclgan.layers.precision import full_precision

Tensor = Any
Score = Callable[..., Tensor]  # (list of score maps, optional weights [b]) -> scalar


class Objective(NamedTuple):
    """Each: list of score maps -> scalar.

    real, fake: of a discriminator, smallest where the scores say "real" or "fake".
    fool: of a generator, on the scores of its fakes.
    """

    real: Score
    fake: Score
    fool: Score


def _sum_of_means(penalty: Callable[[Tensor], Tensor]) -> Score:
    def total(scores: Sequence[Tensor], weights: Tensor | None = None) -> Tensor:
        penalties = [penalty(full_precision(score)) for score in scores]
        if weights is not None:
            penalties = [p * ops.cast(weights, p.dtype)[:, None, None, None] for p in penalties]
        return sum(ops.mean(p) for p in penalties)

    return total


def _symmetric(real: Score, fake: Score) -> Objective:
    """The generator's fakes are to score "real"."""
    return Objective(real, fake, fool=real)


# Mao et al., arXiv 1611.04076, with targets 1 and 0.
LEAST_SQUARES = _symmetric(
    real=_sum_of_means(lambda score: ops.square(score - 1)),
    fake=_sum_of_means(ops.square),
)

# Goodfellow et al., arXiv 1406.2661: cross entropy of sigmoid(score) with targets 1 and 0.
NON_SATURATING = _symmetric(
    real=_sum_of_means(lambda score: ops.softplus(-score)),
    fake=_sum_of_means(ops.softplus),
)

# Arjovsky et al., arXiv 1701.07875: the difference of mean scores. Needs a penalty (losses/penalty.py) or clipping.
WASSERSTEIN = _symmetric(
    real=_sum_of_means(lambda score: -score),
    fake=_sum_of_means(lambda score: score),
)

# Lim and Ye, arXiv 1705.02894; Miyato et al., arXiv 1802.05957: scores beyond 1 and -1 are good enough for a
# discriminator, while a generator raises its fakes' mean score without end.
HINGE = Objective(
    real=_sum_of_means(lambda score: ops.relu(1 - score)),
    fake=_sum_of_means(lambda score: ops.relu(1 + score)),
    fool=WASSERSTEIN.fool,
)

OBJECTIVES = {
    "least_squares": LEAST_SQUARES,
    "non_saturating": NON_SATURATING,
    "wasserstein": WASSERSTEIN,
    "hinge": HINGE,
}


def split(scores: Sequence[Tensor], count: int) -> list[list[Tensor]]:
    """Undoes a concatenation of `count` equal batches: one list of score maps a part."""
    pieces = [batches.parts(score, count) for score in scores]
    return [list(group) for group in zip(*pieces, strict=True)]
