"""Every method on the JAX engine, against the TensorFlow engine from equal weights and noise."""

from __future__ import annotations

import json
import os

import numpy as np
import on_jax
import pytest
import tensorflow as tf
from tiny_methods import BATCH, SIZE, TINY, config_of, recipe_of

from tfaclgan.engine.tensorflow import Engine
from tfaclgan.inference.translator import Translator
from tfaclgan.methods import base
from tfaclgan.training import checkpoint, rundir

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "methods_on_jax.py")
# The longest part, which compiles twice more, is left to `make test-all`.
QUICK = "losses or interrupted or translation"


def engine(method):
    recipe = recipe_of(method, learning_rate=1e-4, ema_decay=0.9)
    return Engine(method, config_of(method), image_shape=(SIZE, SIZE, 3), recipe=recipe, xla="off")


def batches():
    random = np.random.RandomState(0)
    data = {key: random.randint(0, 256, (8 * BATCH, SIZE, SIZE, 3), dtype=np.uint8) for key in "ab"}
    return iter(tf.data.Dataset.from_tensor_slices(data).repeat().batch(BATCH, drop_remainder=True))


def write_theirs(method, folder):
    """Weights, and the losses and translations that come of them; returns the trained engine."""
    subject, iterator = engine(method), batches()
    np.savez(folder / "before.npz", **subject.state())
    run = rundir.Run(str(folder / "run"), method, config_of(method), (SIZE, SIZE, 3), {"load_size": SIZE})
    rundir.open_run(run)
    checkpoint.save(run.folder("checkpoints"), subject.state(), 0)
    translator = Translator(*rundir.load_networks(run.path))
    photos = np.random.RandomState(1).randint(0, 256, (3, 40, 33, 3), dtype=np.uint8)
    translated = {d: translator.translate(photos, direction=d, seed=3) for d in translator.directions}
    np.savez(folder / "translated.npz", photos=photos, **translated)
    reports = [subject.train(iterator, subject.period).scalars for _ in range(-(-5 // subject.period))]
    (folder / "reports.json").write_text(json.dumps(reports))
    return subject, iterator


def agree(name, folder, monkeypatch, *arguments):
    method = base.get(name)
    theirs, iterator = write_theirs(method, folder)
    monkeypatch.setenv("TFACLGAN_METHOD", name)
    monkeypatch.setenv("TFACLGAN_THEIRS", str(folder))
    on_jax.run(FILE, *arguments)
    # What was trained there goes on here as if it had been trained here.
    expected = theirs.train(iterator, theirs.period).scalars
    with np.load(folder / "ours.npz") as ours:
        theirs.load_state(dict(ours), "ours")
    iterator = batches()
    for _ in range(int(theirs.step.numpy())):
        next(iterator)
    actual = theirs.train(iterator, theirs.period).scalars
    for term, value in expected.items():
        assert actual[term] == pytest.approx(value, rel=1e-4, abs=1e-5), term


@pytest.mark.slow  # minutes of compiling on a busy machine
def test_acl_gan(tmp_path, monkeypatch):
    agree("acl_gan", tmp_path, monkeypatch, "-k", QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TINY))
def test_every_method(name, tmp_path, monkeypatch):
    agree(name, tmp_path, monkeypatch)
