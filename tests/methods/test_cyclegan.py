"""CycleGAN: the variants that the conformance tests do not train, and what is refused."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.engine.tensorflow import Engine
from tfaclgan.errors import UserError
from tfaclgan.methods import cyclegan
from tfaclgan.training.optimizers import LinearDecay

LINEAR = ("lr_decay_steps", "lr_decay_start")
TINY = {"width": 2, "residual_blocks": 1, "discriminator_width": 2, "discriminator_layers": 2, "pool_size": 2}


@pytest.mark.parametrize(
    "options",
    [
        {"adversarial": "wasserstein", "upsampling": "nearest", "identity_weight": 0.0},
        {"generator": "unet", "downsamples": 4, "discriminator": "pixel", "pool_size": 0},
    ],
)
def test_variants_train_under_xla(options):
    """Gradient penalties need second derivatives, which not every operation has."""
    config = cyclegan.Config(**{**TINY, **options})
    recipe = dataclasses.replace(cyclegan.METHOD.recipe, batch_size=2, steps=2)
    subject = Engine(cyclegan.METHOD, config, image_shape=(16, 16, 3), recipe=recipe, xla="on")
    before = subject.state()
    images = np.random.RandomState(0).randint(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    data = tf.data.Dataset.from_tensor_slices({"a": images, "b": images[::-1]}).repeat().batch(2, drop_remainder=True)
    report = subject.train(iter(data), 2)
    assert not report.non_finite
    assert ("discriminators/penalty_a" in report.scalars) == (config.adversarial == "wasserstein")
    assert ("generators/identity_a" in report.scalars) == (config.identity_weight > 0)
    after = subject.state()
    kernels = [name for name in after if name.startswith("networks/") and name.endswith("kernel")]
    assert not [name for name in kernels if np.array_equal(before[name], after[name])]


def test_the_smallest_size_is_the_smallest():
    """One multiple less gives a score map of no pixel, or a border that does not fit."""
    for options in ({}, {"discriminator_layers": 2}, {"discriminator": "pixel"}):
        config = cyclegan.Config(**{**TINY, "discriminator_layers": 3, **options})
        side, multiple = cyclegan.minimum_size(config), cyclegan.size_multiple(config)
        networks = cyclegan.networks(config, (side, side, 3))
        image = np.random.RandomState(0).uniform(-1, 1, (1, side, side, 3)).astype(np.float32)
        assert networks["g_ab"](image).shape == image.shape
        assert np.std(networks["d_a"](image)) > 0 or config.discriminator == "patch"
        assert 0 not in networks["d_a"](image).shape
        cyclegan.check(config, (side, side, 3))
        with pytest.raises(UserError, match="at least"):
            cyclegan.check(config, (side - multiple, side, 3))


@pytest.mark.parametrize(
    "options, shape, message",
    [
        ({}, (66, 64, 3), "multiples of 4"),
        ({"generator": "unet", "downsamples": 7}, (64, 64, 3), "multiples of 128"),
        ({"generator": "unet", "downsamples": 1}, (64, 64, 3), "at least twice"),
    ],
)
def test_what_cannot_be_is_a_user_error(options, shape, message):
    with pytest.raises(UserError, match=message):
        cyclegan.check(cyclegan.Config(**options), shape)


def test_the_flagfiles_rate_is_the_official_staircase():
    """The code's factor in epoch e, counted from 0, with 100 + 100 epochs: 1 - max(0, e + 1 - 100) / 101."""
    text = (pathlib.Path(__file__).parents[2] / "configs" / "cyclegan_horse2zebra.flags").read_text()
    steps, stair, start = (int(re.search(rf"^--{n}=(\d+)$", text, re.M)[1]) for n in ("steps", *LINEAR))
    rate = LinearDecay(2e-4, steps, start, stair)
    for epoch in (0, 98, 99, 100, 101, 150, 199):
        expected = 2e-4 * (1 - max(0, epoch + 1 - 100) / 101)
        for step in (epoch * stair, epoch * stair + stair - 1):
            assert float(rate(step)) == pytest.approx(expected, rel=1e-6)
    assert steps == 200 * stair
