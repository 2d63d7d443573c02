"""MUNIT's method: what is trained, translated and computed (figures: test_munit_parity.py)."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from munit_oracle import FixedContext, build, gradients

from tfaclgan.errors import UserError
from tfaclgan.methods import munit

CONFIG = munit.Config(
    width=2,
    downsamples=1,
    residual_blocks=1,
    style_dim=3,
    mlp_dim=4,
    discriminator_width=2,
    discriminator_scales=2,
    discriminator_layers=2,
    cycle_weight=10.0,
)
BATCH = {key: np.random.RandomState(seed).uniform(-1, 1, (2, 16, 20, 3)) for seed, key in enumerate("ab")}


@pytest.fixture(scope="module")
def networks():
    keras.utils.set_random_seed(1)  # of 40 seeds 7 begin with a layer of four units that are all off
    return build(munit, CONFIG, (16, 20, 3))


@pytest.fixture
def context():
    random = np.random.RandomState(7)
    names = [f"{step}/style_{domain}" for step in ("discriminators", "generators") for domain in "ab"]
    return FixedContext({name: random.standard_normal((2, 3)) for name in names})


def test_image_and_cycle_terms(networks, context):
    """Parts whose values the reference does not print, written out (reference 10)."""
    loss = munit.generator_loss(networks, BATCH, context, CONFIG)
    for own, other, key, far in (("g_a", "g_b", "a", "b"), ("g_b", "g_a", "b", "a")):
        own, other, images = networks[own], networks[other], tf.constant(BATCH[key])
        style = own.style(images)
        again = own.decode(own.content(images), style)
        there = other.decode(own.content(images), tf.constant(context.draws[f"generators/style_{far}"]))
        back = own.decode(other.content(there), style)
        for name, image in ((f"image_{key}", again), (f"cycle_{key}", back)):
            assert float(loss.terms[name]) == pytest.approx(10 * np.abs(image - images).mean(), rel=1e-10)


def test_without_a_cycle_there_is_no_term(networks, context):
    config = munit.Config(**{**vars(CONFIG), "cycle_weight": 0.0})
    assert not [name for name in munit.generator_loss(networks, BATCH, context, config).terms if "cycle" in name]


def test_every_weight_learns_from_some_phase(networks, context):
    for phase in munit.phases(CONFIG):
        for path, gradient in gradients(phase, networks, BATCH, context, CONFIG)[1].items():
            if not (path.endswith("bias") and ("content/" in path or "decoder/residual" in path)):
                assert np.abs(gradient).max() > 0, path


def test_discriminators_step_gives_generators_no_gradient_and_runs_no_style_encoder(networks, context, monkeypatch):
    def refuse(*args, **named):
        raise AssertionError("a style encoder ran")

    for name in ("g_a", "g_b"):
        monkeypatch.setattr(networks[name], "style", refuse)
    with tf.GradientTape() as tape:
        loss = munit.discriminator_loss(networks, BATCH, context, CONFIG)
        total = tf.add_n(list(loss.terms.values()))
    variables = [v.value for name in ("g_a", "g_b") for v in networks[name].trainable_variables]
    assert all(gradient is None for gradient in tape.gradient(total, variables))


def test_translation_crosses_the_domains(networks):
    images, style = tf.constant(BATCH["a"]), np.random.RandomState(1).standard_normal((2, 3))
    for direction, source, target in (("a2b", "g_a", "g_b"), ("b2a", "g_b", "g_a")):
        result = munit.translate(networks, images, style, direction, CONFIG)
        expected = networks[target].decode(networks[source].content(images), style)
        np.testing.assert_array_equal(result.image, expected)
        assert (result.mask, result.raw) == (None, None)
        styles = munit.encode_style(networks, images, direction, CONFIG)
        np.testing.assert_array_equal(styles, networks[target].style(images))


def test_both_phases_are_due_every_data_iteration():
    assert [(phase.every, phase.cross_replica) for phase in munit.phases(CONFIG)] == [(1, False)] * 2
    assert munit.METHOD.directions(CONFIG) == ("a2b", "b2a")


def test_sizes():
    assert munit.minimum_size(munit.Config()) == 64
    munit.check(munit.Config(), (64, 96, 3))
    with pytest.raises(UserError, match=r"60 x 64.*munit needs sides of at least 64"):
        munit.check(munit.Config(), (60, 64, 3))
    with pytest.raises(UserError, match=r"--munit.downsamples"):
        munit.check(munit.Config(), (66, 64, 3))


def test_released_defaults():
    config, recipe = munit.Config(), munit.METHOD.recipe
    weights = (config.adversarial_weight, config.image_weight, config.style_weight, config.content_weight)
    assert weights == (1, 10, 1, 1)
    assert (recipe.steps, recipe.batch_size, recipe.learning_rate) == (1_000_000, 1, 1e-4)
    assert (recipe.beta_1, recipe.beta_2, recipe.weight_decay, recipe.lr_decay_steps) == (0.5, 0.999, 1e-4, 100_000)
