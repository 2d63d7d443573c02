"""Reflection padding against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.layers import target
from tfaclgan.layers.padding import ReflectPad2D, edge_pad, reflect_pad


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


@pytest.mark.parametrize("pad, padding", [(reflect_pad, 1), (reflect_pad, (1, 3)), (edge_pad, 2)])
@pytest.mark.parametrize("axes", [(1, 2), (2,)])
def test_borders_are_the_same_on_a_tpu_without_an_operation_that_reverses_whole_maps(pad, padding, axes):
    images = tf.constant(np.random.RandomState(0).standard_normal((2, 5, 7, 3)))
    results = []
    for kind in ("cpu", "tpu"):
        with target.compiling_for(kind), tf.GradientTape() as tape:
            tape.watch(images)
            padded = pad(images, padding, axes)
            loss = tf.reduce_sum(padded * tf.cos(3 * padded))
        results.append((padded, tape.gradient(loss, images)))
    for expected, actual in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
    with target.compiling_for("tpu"):
        graph = tf.function(pad).get_concrete_function(images, padding, axes).graph
    assert not [op.name for op in graph.get_operations() if op.type == "MirrorPad"]
