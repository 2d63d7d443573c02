"""Reconstruction terms."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.losses.reconstruction import mean_absolute_error


def test_mean_absolute_error():
    a, b = (np.random.RandomState(seed).standard_normal((2, 3, 4, 5)) for seed in (0, 1))
    assert float(mean_absolute_error(tf.constant(a), tf.constant(b))) == pytest.approx(np.abs(a - b).mean(), rel=1e-12)


def test_half_precision_is_raised():
    values = tf.fill((1, 100, 100, 1), tf.constant(1.0, tf.bfloat16))
    result = mean_absolute_error(values, tf.zeros((1, 100, 100, 1)))
    assert result.dtype == tf.float32
    assert float(result) == 1.0
