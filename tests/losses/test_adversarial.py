"""Adversarial terms against float64 definitions."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.losses.adversarial import OBJECTIVES, split

SCALES = [3 * np.random.RandomState(i).standard_normal((4, 8 >> i, 6 >> i, 1)) for i in range(3)]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


EXPECTED = {  # of a discriminator's real and fake images, of a generator's fakes
    "least_squares": (lambda s: (s - 1) ** 2, lambda s: s**2, lambda s: (s - 1) ** 2),
    "non_saturating": (
        lambda s: -np.log(sigmoid(s)),
        lambda s: -np.log(1 - sigmoid(s)),
        lambda s: -np.log(sigmoid(s)),
    ),
    "wasserstein": (lambda s: -s, lambda s: s, lambda s: -s),
    "hinge": (lambda s: np.maximum(0, 1 - s), lambda s: np.maximum(0, 1 + s), lambda s: -s),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_means_are_summed_over_scales(name):
    scores = [tf.constant(scale) for scale in SCALES]
    for function, expected in zip(OBJECTIVES[name], EXPECTED[name], strict=True):
        assert float(function(scores)) == pytest.approx(sum(expected(s).mean() for s in SCALES), rel=1e-10)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("score", [-300.0, 300.0])
def test_large_scores_stay_finite(name, score):
    for function in OBJECTIVES[name]:
        value = tf.Variable(tf.fill((1, 1, 1, 1), score))
        with tf.GradientTape() as tape:
            loss = function([value])
        assert np.isfinite(loss)
        assert np.isfinite(tape.gradient(loss, value)).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_half_precision_is_raised(name):
    scores = [tf.cast(scale, tf.bfloat16) for scale in SCALES]
    for function, expected in zip(OBJECTIVES[name], EXPECTED[name], strict=True):
        result = function(scores)
        assert result.dtype == tf.float32
        rounded = sum(expected(tf.cast(s, tf.float64).numpy()).mean() for s in scores)
        assert float(result) == pytest.approx(rounded, rel=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_weights_multiply_samples(name):
    weights = np.array([0.0, 1.0, 2.0, 0.5])
    scores = [tf.constant(scale) for scale in SCALES]
    for function, expected in zip(OBJECTIVES[name], EXPECTED[name], strict=True):
        by_hand = sum((expected(s).mean((1, 2, 3)) * weights).mean() for s in SCALES)
        assert float(function(scores, tf.constant(weights))) == pytest.approx(by_hand, rel=1e-10)


def test_split_undoes_a_concatenation():
    scores = [tf.constant(scale) for scale in SCALES]
    first, second = split(scores, 2)
    for whole, one, two in zip(SCALES, first, second, strict=True):
        np.testing.assert_array_equal(np.concatenate([one, two]), whole)
