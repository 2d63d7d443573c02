"""CycleGAN against the official PyTorch code in float64 (cyclegan_golden.npz; see make_cyclegan_golden.py)."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from make_cyclegan_golden import SIZE, WIDTH, image, value
from munit_oracle import NumpyAdam, build, gradients

from tfaclgan.layers import image_pool
from tfaclgan.losses import penalty
from tfaclgan.methods import cyclegan
from tfaclgan.networks import patch, unet

GOLDEN = dict(np.load(pathlib.Path(__file__).parent / "cyclegan_golden.npz"))
X = image(1, 2)
BATCH = {"a": image(3), "b": image(4)}
MODES = {"lsgan": "least_squares", "vanilla": "non_saturating"}
TERMS = {  # official name: ours, in the generators' phase
    "G_A": "adversarial_d_b",
    "G_B": "adversarial_d_a",
    "cycle_A": "cycle_a",
    "cycle_B": "cycle_b",
    "idt_A": "identity_b",
    "idt_B": "identity_a",
}


class Context:
    """What the losses may draw and keep, on one replica."""

    replicas = 1

    def __init__(self, step=0, memory=None, carried=None):
        self.step, self.memory, self.carried = step, memory or {}, carried or {}

    def uniform(self, name, shape):
        return tf.fill(shape, tf.constant(0.25, tf.float64))


def fill(network, name):
    for index, variable in enumerate(network.trainable_variables):
        shape = tuple(variable.shape)
        official = (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape
        drawn = value(name, index, official)
        variable.assign(drawn.transpose(2, 3, 1, 0) if len(shape) == 4 else drawn)
    return network


def in_double(function, *arguments, **options):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        return function(*arguments, **options)
    finally:
        keras.config.set_dtype_policy(before)


def config_of(mode):
    return cyclegan.Config(
        adversarial=MODES[mode], width=WIDTH, residual_blocks=6, discriminator_width=WIDTH, pool_size=50
    )


def networks_of(mode):
    built = build(cyclegan, config_of(mode), (SIZE, SIZE, 3))
    return {name: fill(network, name) for name, network in built.items()}


def seen(images):
    return np.asarray(images)[:, ::3, ::3]


def equal(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def networks():
    return networks_of("lsgan")


def test_resnet_and_patch_forward(networks):
    equal(seen(networks["g_ab"](X)), GOLDEN["resnet"])
    equal(seen(networks["d_b"](X)), GOLDEN["patch"])


def test_unet_forward():
    network = fill(in_double(unet.generator, 3, width=WIDTH, downsamples=5, name="g"), "unet")
    equal(seen(network(X)), GOLDEN["unet"])


def test_other_discriminators_forward():
    two = fill(in_double(patch.discriminator, 3, width=WIDTH, layers=2, name="d"), "d_2")
    equal(seen(two(X)), GOLDEN["patch_2_layers"])
    pixel = fill(in_double(patch.pixel_discriminator, 3, width=WIDTH, name="d"), "pixel")
    equal(seen(pixel(X)), GOLDEN["pixel"])


def test_gradient_penalty(networks):
    share = tf.constant([0.3, 0.8], tf.float64)
    actual = 10 * penalty.gradient_penalty(networks["d_b"], tf.constant(X), tf.constant(image(2, 2)), share)
    assert float(actual) == pytest.approx(float(GOLDEN["gradient_penalty"]), rel=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_losses_and_two_rounds_of_adam(mode):
    """Generators first; the discriminators then see the fakes made before that update. Two rounds."""
    config, networks = config_of(mode), networks_of(mode)
    optimizers = [
        NumpyAdam(networks, phase.networks, learning_rate=2e-4, weight_decay=0.0) for phase in cyclegan.phases(config)
    ]
    batch = {key: tf.constant(images) for key, images in BATCH.items()}
    shapes = cyclegan.memory(config, (SIZE, SIZE, 3))
    memory = {name: tf.zeros((1, *m.shape), tf.float64) for name, m in shapes.items()}
    carried = {}
    for turn in (1, 2):
        found = {}
        for phase, optimizer in zip(cyclegan.phases(config), optimizers, strict=True):
            context = Context(turn - 1, memory, carried)
            loss, gradient = gradients(phase, networks, batch, context, config)
            optimizer.step(gradient)
            carried = {**carried, **loss.carry}
            memory = {**memory, **loss.memory}
            found |= {name: float(term) for name, term in loss.terms.items()}
        # Conv biases in front of norms have no true gradient: Adam turns rounding into whole steps of the rate, which
        # the outputs do not feel.
        for official, ours in {**TERMS, "D_A": "d_b", "D_B": "d_a"}.items():
            assert found[ours] == pytest.approx(float(GOLDEN[f"{mode}/{turn}/{official}"]), rel=1e-7), official
    if mode == "lsgan":
        np.testing.assert_allclose(seen(networks["g_ab"](X)), GOLDEN["after/resnet"], atol=1e-6)
        np.testing.assert_allclose(seen(networks["d_b"](X)), GOLDEN["after/patch"], atol=1e-6)


def test_pool_is_the_original_for_batch_1():
    pool, shown = tf.zeros((1, 3, 1, 1, 1)), []
    draws, used = GOLDEN["pool/draws"], 0
    for i in range(30):
        coin, place = draws[used] if i >= 3 else (0.0, 0.0)
        used += i >= 3  # the original draws only once its pool is full
        out, pool = image_pool.exchange(
            pool, tf.fill((1, 1, 1, 1), float(i)), tf.constant(i), tf.constant([coin]), tf.constant([place])
        )
        shown.append(out.numpy().item())
    assert shown == GOLDEN["pool/shown"].tolist()


def test_every_position_of_a_batch_has_its_own_pool():
    pool = tf.zeros((2, 2, 1, 1, 1))
    for i in range(2):
        images = tf.reshape(tf.constant([i + 1.0, 10.0 * (i + 1)]), (2, 1, 1, 1))
        _, pool = image_pool.exchange(pool, images, tf.constant(i), tf.constant([0.9, 0.9]), tf.constant([0.0, 0.0]))
    out, pool = image_pool.exchange(
        pool, tf.fill((2, 1, 1, 1), 7.0), tf.constant(2), tf.constant([0.9, 0.1]), tf.constant([0.99, 0.0])
    )
    assert out.numpy().ravel().tolist() == [2.0, 7.0]
    assert pool.numpy().reshape(2, 2).tolist() == [[1.0, 7.0], [10.0, 20.0]]


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, (11_378_179, 2_764_737)),
        ({"residual_blocks": 6}, (7_837_699, 2_764_737)),
        ({"generator": "unet", "downsamples": 8, "discriminator": "pixel"}, ("unet_parameters", "pixel_parameters")),
    ],
)
def test_parameters(options, expected):
    """Figures of the reference; of the original where the reference has none for instance norm."""
    networks = cyclegan.networks(cyclegan.Config(**options), (256, 256, 3))
    counts = networks["g_ab"].count_params(), networks["d_a"].count_params()
    assert counts == tuple(int(GOLDEN[e]) if isinstance(e, str) else e for e in expected)
