"""Folders to give away: they translate as their run does, hold only what translates, and say when they are damaged."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import on_jax
import pytest

import tfaclgan
from tfaclgan.engine.tensorflow import Engine
from tfaclgan.errors import UserError
from tfaclgan.methods import base
from tfaclgan.training import checkpoint, rundir

SHAPE = (32, 32, 3)
TINY = {"width": 4, "residual_blocks": 1, "mlp_dim": 8, "discriminator_width": 8, "discriminator_scales": 1}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run of ACL-GAN with random weights whose averages differ from its weights."""
    method = base.get("acl_gan")
    config = method.config(**TINY, discriminator_layers=2)
    engine = Engine(
        method, config, image_shape=SHAPE, recipe=dataclasses.replace(method.recipe, batch_size=2, ema_decay=0.9)
    )
    state = engine.state()
    state.update({name: value * 1.1 for name, value in state.items() if name.startswith("averages/")})
    path = str(tmp_path_factory.mktemp("runs") / "run")
    run = rundir.Run(path, method, config, SHAPE, {"load_size": 32, "learning_rate": 1e-4, "data_dir": "/data/faces"})
    rundir.open_run(run)
    checkpoint.save(run.folder("checkpoints"), state, 7)
    os.makedirs(run.folder("evaluations/latest_a2b"))
    with open(run.folder("evaluations/latest_a2b/metrics.json"), "w") as file:
        json.dump({"metrics": {"kid": 0.0123, "fid": None}, "protocol": {"extractor": "lite0"}}, file)
    return path


@pytest.fixture
def folder(run_dir, tmp_path):
    return tfaclgan.save_pretrained(run_dir, str(tmp_path / "given"))


def test_translates_as_the_run_does(run_dir, folder):
    photos = np.random.RandomState(0).randint(0, 256, (2, 40, 33, 3), dtype=np.uint8)
    original, given = tfaclgan.load(run_dir), tfaclgan.load(folder)
    assert np.array_equal(given.translate(photos, seed=3), original.translate(photos, seed=3))
    assert np.array_equal(given.mask(photos, seed=3), original.mask(photos, seed=3))
    assert sorted(given.networks) == ["g_s", "g_t"]


ON_JAX = """
import sys, keras, numpy, tfaclgan
assert keras.backend.backend() == "jax"
given, photos = tfaclgan.load(sys.argv[1]), numpy.load(sys.argv[2])
numpy.savez(sys.argv[3], image=given.translate(photos, seed=3), mask=given.mask(photos, seed=3),
            style=given.encode_style(photos))
"""


def test_translates_alike_on_the_other_engine(folder, tmp_path):
    pytest.importorskip("jax", reason="JAX needs Python 3.11")
    photos, there = str(tmp_path / "photos.npy"), str(tmp_path / "there.npz")
    np.save(photos, np.random.RandomState(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32))
    command = [sys.executable, "-c", ON_JAX, folder, photos, there]
    subprocess.run(command, env=on_jax.environment(), check=True, timeout=600)
    given, images = tfaclgan.load(folder), np.load(photos)
    here = {
        "image": given.translate(images, seed=3),
        "mask": given.mask(images, seed=3),
        "style": given.encode_style(images),
    }
    with np.load(there) as found:
        for name, value in here.items():
            assert np.abs(found[name] - value).max() <= 1e-5 * max(1, np.abs(value).max()), name


def test_holds_generators_only_and_its_card_says_how_it_was_judged(run_dir, folder):
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "weights.safetensors"]
    whole = os.path.getsize(os.path.join(run_dir, "checkpoints", "step_000000007", "state.safetensors"))
    assert os.path.getsize(os.path.join(folder, "weights.safetensors")) < whole / 3  # no optimiser slots either
    with open(os.path.join(folder, "README.md")) as file:
        card = file.read()
    for words in ("ACL-GAN", "kid 0.0123", '"extractor": "lite0"', "--learning_rate=0.0001", "faces", "licence"):
        assert words in card, words
    assert "/data" not in card


def test_a_folder_with_something_in_it_is_refused(run_dir, folder):
    before = {name: os.path.getmtime(os.path.join(folder, name)) for name in os.listdir(folder)}
    with pytest.raises(UserError, match="not empty; name a new or empty folder"):
        tfaclgan.save_pretrained(run_dir, folder)
    assert {name: os.path.getmtime(os.path.join(folder, name)) for name in os.listdir(folder)} == before


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "config", "newer"])
def test_damage_is_one_line(folder, damage):
    weights, config = os.path.join(folder, "weights.safetensors"), os.path.join(folder, "config.json")
    with open(weights, "rb") as file:
        data = bytearray(file.read())
    if damage == "truncated":
        data = data[:-10]
    elif damage == "flipped":
        data[-1] ^= 1
    with open(weights, "wb") as file:
        file.write(data)
    if damage == "missing":
        os.remove(weights)
    elif damage == "config":
        with open(config, "w") as file:
            file.write("{")
    elif damage == "newer":
        with open(config) as file:
            content = json.load(file)
        with open(config, "w") as file:
            json.dump({**content, "format_version": 99}, file)
    words = {"newer": "is newer than this tfaclgan", "missing": "cannot be read", "config": "cannot be read"}
    with pytest.raises(UserError, match=words.get(damage, "does not match the size and SHA-256")):
        tfaclgan.load(folder)
