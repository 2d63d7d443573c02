"""Activations."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfaclgan.layers.activation import LeakyReLU


def test_leaky_slope_is_exact_in_float64():
    values = np.array([-3.0, -1e-9, 0.0, 2.5])
    layer = LeakyReLU(0.2, dtype="float64")
    np.testing.assert_array_equal(layer(values), [-3.0 * 0.2, -1e-9 * 0.2, 0.0, 2.5])
    assert LeakyReLU.from_config(layer.get_config()).slope == 0.2


def test_leaky_gradient():
    values = tf.Variable([-3.0, 2.5], dtype=tf.float64)
    with tf.GradientTape() as tape:
        result = tf.reduce_sum(LeakyReLU(0.2, dtype="float64")(values))
    np.testing.assert_array_equal(tape.gradient(result, values), [0.2, 1.0])
