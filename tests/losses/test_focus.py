"""Parts of the mask loss against the official code's sums (reference 3.3)."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.losses import focus

MASKS = np.random.RandomState(0).uniform(size=(3, 8, 6, 1))
PIXELS = MASKS.size


@pytest.mark.parametrize("lower, upper", [(0.3, 0.45), (0.55, 0.7), (0.4, 0.6)])
def test_excess_of_a_batch_is_the_codes_sum(lower, upper):
    total = MASKS.sum()
    expected = max(0, total - upper * PIXELS) ** 2 + max(0, lower * PIXELS - total) ** 2
    means = focus.mask_means(tf.constant(MASKS), per_image=False)
    assert float(focus.excess(means, lower, upper)) * PIXELS**2 == pytest.approx(expected, rel=1e-10)


def test_excess_of_each_image():
    masks = MASKS * np.array([0.1, 1.0, 1.8]).reshape(3, 1, 1, 1)
    each = [m.mean() for m in masks]
    expected = np.mean([max(0, m - 0.5) ** 2 + max(0, 0.3 - m) ** 2 for m in each])
    assert expected > 0.01
    means = focus.mask_means(tf.constant(masks), per_image=True)
    assert float(focus.excess(means, 0.3, 0.5)) == pytest.approx(expected, rel=1e-10)


def test_an_average_mask_can_hide_two_bad_ones():
    masks = tf.constant(np.stack([np.zeros((4, 4, 1)), np.full((4, 4, 1), 0.8)]))
    assert float(focus.excess(focus.mask_means(masks, False), 0.3, 0.5)) == 0
    assert float(focus.excess(focus.mask_means(masks, True), 0.3, 0.5)) == pytest.approx((0.3**2 + 0.3**2) / 2)


def test_indecision():
    expected = np.mean(1 / (np.abs(MASKS - 0.5) + 0.01))
    assert float(focus.indecision(tf.constant(MASKS), 0.01)) == pytest.approx(expected, rel=1e-12)
    for value, limit in ((0.0, 1 / 0.51), (1.0, 1 / 0.51), (0.5, 100.0)):
        assert float(focus.indecision(tf.fill((1, 2, 2, 1), value), 0.01)) == pytest.approx(limit, rel=1e-6)


def test_gradient_of_an_undecided_pixel_is_zero():
    masks = tf.Variable(tf.fill((1, 2, 2, 1), 0.5))
    with tf.GradientTape() as tape:
        loss = focus.indecision(masks, 0.01)
    np.testing.assert_array_equal(tape.gradient(loss, masks), np.zeros((1, 2, 2, 1)))


def test_half_precision_sums_in_float32():
    masks = tf.fill((3, 64, 64, 1), tf.constant(0.3, tf.bfloat16))
    exact = float(tf.cast(tf.constant(0.3, tf.bfloat16), tf.float64))
    means = focus.mask_means(masks, per_image=False)
    assert means.dtype == tf.float32
    assert float(means) == pytest.approx(exact, rel=1e-6)
    assert float(focus.indecision(masks, 0.01)) == pytest.approx(1 / (0.5 - exact + 0.01), rel=1e-5)
