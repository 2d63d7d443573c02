"""Reflection padding against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from tfaclgan.layers.padding import ReflectPad2D


@pytest.mark.parametrize("shape, padding", [((2, 4, 5, 3), 1), ((1, 4, 4, 1), 3), ((2, 9, 4, 2), 2)])
def test_is_numpys_reflect(shape, padding):
    images = np.random.RandomState(0).standard_normal(shape)
    layer = ReflectPad2D(padding, dtype="float64")
    around = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    np.testing.assert_array_equal(layer(images), np.pad(images, around, mode="reflect"))
    assert layer.compute_output_shape((None, None, *shape[2:])) == (None, None, shape[2] + 2 * padding, shape[3])


def test_config_round_trip():
    assert ReflectPad2D.from_config(ReflectPad2D(2, name="p").get_config()).padding == 2


def test_uneven_borders():
    images = np.random.RandomState(0).standard_normal((2, 4, 5, 3))
    layer = ReflectPad2D((1, 2), dtype="float64")
    np.testing.assert_array_equal(layer(images), np.pad(images, ((0, 0), (1, 2), (1, 2), (0, 0)), mode="reflect"))
    assert layer.compute_output_shape((None, 4, None, 3)) == (None, 7, None, 3)
