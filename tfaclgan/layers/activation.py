"""Activations that Keras has not, or not exactly."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any


class LeakyReLU(keras.layers.Layer):
    """x where x > 0, else slope * x.

    TensorFlow's fused operation keeps its slope in float32 (0.2 becomes 0.200000003), which float64
    comparisons with the originals would see.
    """

    def __init__(self, slope: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.slope = slope

    def call(self, values: Tensor) -> Tensor:
        return ops.where(values > 0, values, self.slope * values)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "slope": self.slope}
