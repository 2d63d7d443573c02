"""The second engine, in a process of its own, and what it shares with the first."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import sys
import types

import numpy as np
import on_jax
import pytest
import tensorflow as tf
from toy import TOY, Config

from tfaclgan import engine as engines
from tfaclgan.engine.tensorflow import Engine
from tfaclgan.errors import UserError

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "engine_on_jax.py")
SHAPE, BATCH = (16, 16, 3), 4
IMAGES = np.random.RandomState(0).randint(0, 256, (32, *SHAPE), dtype=np.uint8)


def tensorflow_engine():
    recipe = dataclasses.replace(TOY.recipe, ema_decay=0.9)
    return Engine(TOY, Config(generator_every=1), image_shape=SHAPE, recipe=recipe)


def batches(first=0):
    data = tf.data.Dataset.from_tensor_slices({"a": IMAGES, "b": IMAGES[::-1]}).repeat()
    return iter(data.skip(first * BATCH).batch(BATCH, drop_remainder=True))


def test_the_engine_on_jax(tmp_path, monkeypatch):
    """All tests of engine_on_jax.py; state made there is then loaded back here."""
    theirs = tensorflow_engine()
    np.savez(tmp_path / "before.npz", **theirs.state())
    iterator = batches()
    reports = [theirs.train(iterator, 1).scalars for _ in range(5)]
    (tmp_path / "reports.json").write_text(json.dumps(reports))
    np.savez(tmp_path / "after.npz", **theirs.state())
    monkeypatch.setenv("TFACLGAN_THEIRS", str(tmp_path))
    on_jax.run(FILE)
    back = tensorflow_engine()
    with np.load(tmp_path / "ours.npz") as ours:
        back.load_state(dict(ours), "ours")
    expected, actual = theirs.train(batches(5), 1).scalars, back.train(batches(5), 1).scalars
    assert actual == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("shape", [(1,), (7,), (4, 3, 3, 2)])
@pytest.mark.parametrize("seed", [(0, 0), (12345, 1), (2**31 - 1, 2**31 - 1)])
def test_bits_are_those_of_tensorflow(shape, seed):
    pytest.importorskip("jax", reason="JAX needs Python 3.11")
    from tfaclgan.engine import philox

    expected = tf.random.stateless_uniform(
        shape, seed=seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
    ).numpy()
    assert np.array_equal(expected, np.asarray(philox.bits(np.uint32(seed[0]), np.int32(seed[1]), shape)))


def test_a_missing_jax_is_one_line(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jax" else found(name))
    with pytest.raises(UserError, match=r"JAX is not installed.*pip install") as caught:
        engines.choose("jax")
    assert "\n" not in str(caught.value)


def test_keras_cannot_change_its_backend(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: types.SimpleNamespace())
    assert sys.modules["keras"]
    with pytest.raises(UserError, match="already runs on tensorflow"):
        engines.choose("jax")
    engines.choose("tensorflow")
