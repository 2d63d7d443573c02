"""Run directories that released versions wrote still open, translate as they did, and train on."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil

import folder_of_records
import make_run_fixture
import numpy as np
import pytest
from toy import TOY, Config

import tfaclgan
from tfaclgan.data import records
from tfaclgan.engine import strategy
from tfaclgan.errors import EXIT_OK, UserError
from tfaclgan.methods import base
from tfaclgan.training import checkpoint, loop, rundir

FOLDER = pathlib.Path(__file__).parent / "fixtures"
KEPT = sorted(path.name for path in FOLDER.glob("run_*"))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(base._REGISTRY, "toy", TOY)


@pytest.fixture
def kept(tmp_path, request):
    """A copy, with its folder of data beside it."""
    return pathlib.Path(shutil.copytree(FOLDER / request.param, tmp_path / "run"))


def go_on(path, tmp_path, method=TOY, steps=8):
    data = records.load_manifest(folder_of_records.write(tmp_path / "data"))
    run = rundir.Run(str(path), method, Config(), (16, 16, 3), {"load_size": 16, "learning_rate": 1e-3})
    recipe = dataclasses.replace(make_run_fixture.RECIPE, steps=steps)
    return loop.train(run, data, strategy.make("cpu"), make_run_fixture.settings(recipe))


@pytest.mark.parametrize("kept", KEPT, indirect=True)
def test_it_translates_as_it_did_and_trains_on(kept, tmp_path, capsys):
    images = make_run_fixture.INPUT.astype(np.float32) / 127.5 - 1
    translated = tfaclgan.load(str(kept)).translate(images, direction="a2b")
    np.testing.assert_allclose(translated, np.load(kept / "translated.npy"), atol=1e-5)
    before = checkpoint.load_newest(str(kept / "checkpoints"))[1]
    assert go_on(kept, tmp_path) == EXIT_OK
    assert "steps 4 to 8" in capsys.readouterr().err
    found, after = checkpoint.load_newest(str(kept / "checkpoints"))
    assert found.step == 8
    assert after.keys() == before.keys()
    slots = [name for name in after if name.startswith(("networks/", "optimizers/", "averages/")) and after[name].size]
    assert slots
    assert any(not np.array_equal(after[name], before[name]) for name in slots)


def one_line(caught, *words):
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("kept", KEPT[:1], indirect=True)
def test_a_checkpoint_of_a_newer_format_is_refused(kept, tmp_path):
    path = kept / "checkpoints" / "step_000000004" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": checkpoint.FORMAT_VERSION + 1}))
    with pytest.raises(UserError) as caught:
        go_on(kept, tmp_path)
    one_line(caught, "step_000000004", f"format {checkpoint.FORMAT_VERSION + 1} is newer", "install a newer tfaclgan")


@pytest.mark.parametrize("kept", KEPT[:1], indirect=True)
def test_checkpoints_of_other_networks_are_refused(kept, tmp_path):
    """A checkpoint folder that was moved under another run's run.json."""
    for entry in (kept / "checkpoints").iterdir():
        state = checkpoint.load(checkpoint.Checkpoint(str(entry), 0))
        state = {name.replace("s/generator/", "s/g_a/"): value for name, value in state.items()}
        checkpoint.save(str(kept / "checkpoints"), state, int(entry.name[5:]))
    with pytest.raises(UserError) as caught:
        go_on(kept, tmp_path)
    one_line(caught, os.fspath(kept / "checkpoints"))
    with pytest.raises(UserError) as caught:
        tfaclgan.load(str(kept))
    one_line(caught, os.fspath(kept / "checkpoints"))


@pytest.mark.parametrize("kept", KEPT[:1], indirect=True)
def test_another_methods_directory_is_refused(kept, tmp_path):
    with pytest.raises(UserError) as caught:
        go_on(kept, tmp_path, method=base.get("munit"))
    one_line(caught, "holds a run of toy, not munit", "--method=toy")
