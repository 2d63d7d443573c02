"""Rematerialised generators: equal gradients from more passes."""

from __future__ import annotations

import dataclasses
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import toy

from tfaclgan.engine import strategy as strategies
from tfaclgan.engine.base import build_networks
from tfaclgan.engine.rematerialise import rematerialise
from tfaclgan.engine.tensorflow import Engine
from tfaclgan.methods import base

SHAPE = (16, 16, 3)
IMAGES = np.random.RandomState(0).randint(0, 256, (32, *SHAPE), dtype=np.uint8)
SMALL = {
    "cyclegan": {"width": 4, "residual_blocks": 1, "discriminator_width": 4, "discriminator_layers": 2, "pool_size": 0},
    "ugatit": {
        "width": 4,
        "residual_blocks": 1,
        "discriminator_width": 4,
        "global_layers": 4,
        "local_layers": 3,
        "attention_masks": 2,
    },
}


class Counted(keras.layers.Layer):
    """Counts how often it is called."""

    calls = 0

    def call(self, images):
        Counted.calls += 1
        return tf.sin(images)


def test_maps_are_computed_again_for_the_gradient():
    inputs = keras.Input((4, 4, 1))
    network = keras.Model(inputs, Counted(name="counted")(inputs))
    images = tf.Variable(tf.random.stateless_uniform((2, 4, 4, 1), (1, 2)))
    gradients, calls = [], []
    for _ in range(2):
        Counted.calls = 0
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(network(images))
        gradients.append(tape.gradient(total, images))
        calls.append(Counted.calls)
        rematerialise(network)
    assert calls == [1, 2]
    np.testing.assert_array_equal(*gradients)


def generators_gradient(name, again):
    method = base.get(name)
    config = method.config(**SMALL[name])
    networks = build_networks(method, config, (32, 32, 3), dtype="float64")
    if again:
        for generator in method.ema_networks:
            rematerialise(networks[generator])
    phase = next(phase for phase in method.phases(config) if phase.networks == method.ema_networks)
    random = np.random.RandomState(0)
    batch = {key: tf.constant(np.tanh(random.standard_normal((1, 32, 32, 3)))) for key in "ab"}

    def draw(name, shape):
        return tf.constant(np.random.RandomState(len(name)).uniform(size=shape))

    context = types.SimpleNamespace(normal=draw, uniform=draw, carried={}, memory={}, step=tf.constant(0))
    variables = [v for network in phase.networks for v in networks[network].trainable_variables]
    with tf.GradientTape() as tape:
        total = sum(phase.loss(networks, batch, context, config).terms.values())
    return float(total), tape.gradient(total, [v.value for v in variables], unconnected_gradients="zero")


@pytest.mark.parametrize("name", [pytest.param("cyclegan", marks=pytest.mark.slow), "ugatit"])
def test_gradients_of_generators_are_equal(name):
    """A functional generator (CycleGAN), and those made of pieces, with vectors beside maps."""
    kept, again = (generators_gradient(name, again) for again in (False, True))
    assert again[0] == pytest.approx(kept[0], rel=1e-12)
    for one, other in zip(again[1], kept[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def trained(again, replicas=1, **options):
    hardware = strategies.make("cpu", cpu_devices=replicas)
    recipe = dataclasses.replace(toy.TOY.recipe, learning_rate=1e-3)
    subject = Engine(
        toy.TOY,
        toy.Config(generator_every=1),
        image_shape=SHAPE,
        recipe=recipe,
        strategy=hardware.strategy,
        rematerialise=again,
        **options,
    )

    def make(_):
        data = tf.data.Dataset.from_tensor_slices({"a": IMAGES, "b": IMAGES[::-1]}).repeat()
        return data.batch(recipe.batch_size // replicas, drop_remainder=True)

    batches = iter(make(None)) if replicas == 1 else iter(hardware.strategy.distribute_datasets_from_function(make))
    subject.train(batches, 2)
    functions = subject._train.get_concrete_function(batches, tf.constant(2, tf.int64)).graph.as_graph_def()
    nodes = [node for function in functions.library.function for node in function.node_def] + list(functions.node)
    return subject.state(), sum(node.op == "Conv2D" for node in nodes)


@pytest.mark.parametrize(
    "options", [{"xla": "on"}, {"replicas": 2}, pytest.param({"dtype": "bfloat16"}, marks=pytest.mark.slow)], ids=str
)
def test_the_engine_trains_to_the_same_weights(options):
    kept, convolutions = trained(False, **options)
    again, more = trained(True, **options)
    assert more > convolutions
    for name, value in kept.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
