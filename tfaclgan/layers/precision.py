"""Where full precision is kept when the rest of a network computes in bfloat16 or float16."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any
HALF_TYPES = ("bfloat16", "float16")


def is_half(value: Tensor) -> bool:
    """Whether `value` is of a half type."""
    return keras.backend.standardize_dtype(value.dtype) in HALF_TYPES


def full_precision(value: Tensor) -> Tensor:
    """`value` as float32 if it is of a half type, else unchanged (float64 stays float64)."""
    return ops.cast(value, "float32") if is_half(value) else value


def full_dtype() -> str:
    """The dtype for layers that must not compute in a half type: float32, or float64 under a float64 policy."""
    dtype = keras.config.dtype_policy().compute_dtype
    return "float32" if dtype in HALF_TYPES else dtype
