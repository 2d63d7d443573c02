"""Where full precision is kept."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from tfaclgan.layers.precision import full_dtype, full_precision


@pytest.mark.parametrize(
    "dtype, expected", [("bfloat16", "float32"), ("float16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_half_types_are_raised(dtype, expected):
    assert full_precision(tf.ones(3, dtype)).dtype == expected


@pytest.mark.parametrize(
    "policy, expected", [("mixed_bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_dtype_of_layers_that_stay_exact(policy, expected):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        assert full_dtype() == expected
    finally:
        keras.config.set_dtype_policy(before)
