"""What the house promises of a method, asked on the JAX engine.

Run by test_conformance_jax.py in a process with Keras' JAX backend, for the method that TFACLGAN_METHOD names. The
folder TFACLGAN_THEIRS holds weights, and what the TensorFlow engine made of them.
"""

from __future__ import annotations

import json
import os

import numpy as np
import on_jax
import pytest
from tiny_methods import BATCH, SIZE, config_of, recipe_of

from tfaclgan.engine.jax import Engine
from tfaclgan.inference.translator import Translator
from tfaclgan.methods import base
from tfaclgan.training import checkpoint, rundir

METHOD = base.get(os.environ["TFACLGAN_METHOD"])
THEIRS = os.environ["TFACLGAN_THEIRS"]
# Gradients jump where |x| and ReLU have their corners, and a rounding decides on which side a pixel lies. Seen in
# float64: ACL-GAN's norm is up to 1.5e-3 from either engine's after two periods, the engines 6e-5 apart; Council-GAN's
# 2.4e-5 from either's; MUNIT's 3e-7 from JAX's, and as near to TensorFlow's with its graph optimiser, 3.4e-5 without
# it, as tests run.
_NORM = "generators/gradient_norm"
RELATIVE = {("acl_gan", _NORM): 2e-4, ("council_gan", _NORM): 1e-4, ("munit", _NORM): 1e-4}

on_jax.reuse_compiled()


def engine(replicas=1, **options):
    recipe = recipe_of(METHOD, learning_rate=1e-4, ema_decay=0.9)
    return Engine(
        METHOD,
        config_of(METHOD),
        image_shape=(SIZE, SIZE, 3),
        recipe=recipe,
        hardware=on_jax.hardware(replicas),
        **options,
    )


def batches(first=0):
    random = np.random.RandomState(0)
    data = {key: random.randint(0, 256, (8 * BATCH, SIZE, SIZE, 3), dtype=np.uint8) for key in "ab"}
    while True:
        rows = slice(first % 8 * BATCH, (first % 8 + 1) * BATCH)
        yield {key: images[rows] for key, images in data.items()}
        first += 1


def before():
    with np.load(os.path.join(THEIRS, "before.npz")) as arrays:
        return dict(arrays)


def test_losses_are_those_of_the_tensorflow_engine_and_every_weight_is_trained():
    with open(os.path.join(THEIRS, "reports.json")) as file:
        theirs = json.load(file)
    subject, source, start = engine(), batches(), before()
    subject.load_state(start, "theirs")
    assert len(theirs) * subject.period >= 5
    apart = {}
    for number, expected in enumerate(theirs):
        report = subject.train(source, subject.period)
        assert report.scalars.keys() == expected.keys()
        for name, value in expected.items():
            relative = RELATIVE.get((METHOD.name, name), 1e-5)
            # Differences of nearly equal numbers keep the absolute accuracy of those.
            if report.scalars[name] != pytest.approx(value, rel=relative, abs=1e-6):
                apart[number, name] = report.scalars[name], value
    assert not apart
    after = subject.state()
    trained = {n.split("/v/", 1)[1] for n in after if n.startswith("optimizers/") and "/v/" in n}
    assert not [n for n in trained if np.array_equal(start[f"networks/{n}"], after[f"networks/{n}"])]
    assert not [n for n in after if n.startswith("optimizers/") and "/v/" in n and not after[n].any()]
    assert subject.trace_count == 1
    np.savez(os.path.join(THEIRS, "ours.npz"), **after)


def test_an_interrupted_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    whole, first, second = engine(), engine(), engine()
    period = whole.period
    for subject in (whole, first):
        subject.load_state(before(), "theirs")
    whole.train(batches(), 2 * period)
    first.train(batches(), period)
    checkpoint.save(str(tmp_path), first.state(), period)
    second.load_state(checkpoint.load_newest(str(tmp_path))[1], "checkpoint")
    second.train(batches(period), period)
    expected, actual = whole.state(), second.state()
    assert not [name for name in expected if not np.array_equal(expected[name], actual[name])]


def test_checkpoint_to_translation(tmp_path):
    subject, config = engine(), config_of(METHOD)
    run = rundir.Run(str(tmp_path / "run"), METHOD, config, (SIZE, SIZE, 3), {"load_size": SIZE})
    rundir.open_run(run)
    checkpoint.save(run.folder("checkpoints"), before(), 0)
    translator = Translator(*rundir.load_networks(run.path))
    with np.load(os.path.join(THEIRS, "translated.npz")) as theirs:
        photos = theirs["photos"]
        for direction in translator.directions:
            result = translator.translate(photos, direction=direction, seed=3)
            # One shade where a value lies between two.
            assert np.abs(result.astype(int) - theirs[direction].astype(int)).max() <= 1
            for name in translator.networks:  # weights are read at each call, not when it was compiled
                for variable in translator.networks[name].variables:
                    variable.assign(0 * variable.value)
            assert not np.array_equal(result, translator.translate(photos, direction=direction, seed=3))
            subject.load_state(before(), "theirs")
            subject.copy_for_inference(translator.networks)


def test_two_devices_agree_with_one():
    one, two = engine(), engine(2)
    for subject in (one, two):
        subject.load_state(before(), "theirs")
    expected, actual = (subject.train(batches(), subject.period).scalars for subject in (one, two))
    for name, value in expected.items():
        assert actual[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_bfloat16_stays_finite():
    subject = engine(dtype="bfloat16")
    report = subject.train(batches(), subject.period)
    assert not report.non_finite
    assert all(np.isfinite(value).all() for value in subject.state().values())
