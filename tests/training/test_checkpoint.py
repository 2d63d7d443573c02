"""Checkpoints: atomic, verified, pruned; a damaged newest one does not lose the run."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from tfaclgan.errors import UserError
from tfaclgan.training import checkpoint


def state(value):
    return {
        "step": np.int64(value),
        "networks/g/kernel": np.full((3, 4), value, np.float32),
        "empty": np.zeros((0,), np.float32),
    }


def damage(path, position=-1):
    with open(os.path.join(path, "state.safetensors"), "r+b") as file:
        data = bytearray(file.read())
        data[position] ^= 1
        file.seek(0)
        file.write(data)


def test_round_trip_keeps_names_types_and_bits(tmp_path):
    values = {
        "a/b": np.random.RandomState(0).standard_normal((2, 3, 4)).astype(np.float32),
        "n": np.int64(2**40 + 1),
        "t": np.zeros((), np.float32),
    }
    values["view"] = values["a/b"][:, ::2].transpose(2, 0, 1)
    checkpoint.save(str(tmp_path), values, 7)
    found, loaded = checkpoint.load_newest(str(tmp_path))
    assert found.step == 7
    assert loaded.keys() == values.keys()
    for name in values:
        assert loaded[name].dtype == np.asarray(values[name]).dtype
        assert np.array_equal(loaded[name], values[name])


def test_damaged_newest_falls_back_with_a_warning(tmp_path, capsys):
    for step in (10, 20):
        checkpoint.save(str(tmp_path), state(step), step)
    damage(tmp_path / "step_000000020")
    found, loaded = checkpoint.load_newest(str(tmp_path))
    assert found.step == 10
    assert loaded["step"] == 10
    assert "step_000000020: damaged" in capsys.readouterr().err


@pytest.mark.parametrize("harm", ["truncate", "no_manifest", "broken_manifest"])
def test_other_harm_is_noticed(tmp_path, harm, capsys):
    for step in (10, 20):
        checkpoint.save(str(tmp_path), state(step), step)
    newest = tmp_path / "step_000000020"
    if harm == "truncate":
        file = newest / "state.safetensors"
        file.write_bytes(file.read_bytes()[:-5])
    elif harm == "no_manifest":
        (newest / "manifest.json").unlink()
    else:
        (newest / "manifest.json").write_text("{")
    assert checkpoint.load_newest(str(tmp_path))[0].step == 10
    assert "step_000000020" in capsys.readouterr().err


def test_nothing_whole_left_is_an_error_not_a_fresh_start(tmp_path):
    checkpoint.save(str(tmp_path), state(1), 1)
    damage(tmp_path / "step_000000001")
    with pytest.raises(UserError, match="all 1 checkpoints are damaged"):
        checkpoint.load_newest(str(tmp_path))


def test_newer_format_is_refused(tmp_path):
    checkpoint.save(str(tmp_path), state(1), 1)
    path = tmp_path / "step_000000001" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(UserError, match="newer"):
        checkpoint.load_newest(str(tmp_path))


def test_full_disk_leaves_the_old_checkpoint_and_no_half_one(tmp_path, monkeypatch):
    checkpoint.save(str(tmp_path), state(1), 1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(str(tmp_path), state(2), 2)
    monkeypatch.undo()
    assert [c.step for c in checkpoint.find(str(tmp_path))] == [1]
    assert os.listdir(tmp_path) == ["step_000000001"]


def test_a_disk_that_fills_in_the_middle_of_a_file(tmp_path, monkeypatch):
    checkpoint.save(str(tmp_path), state(1), 1)

    def write_half(path, data):
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(checkpoint.files, "write_flushed", write_half)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(str(tmp_path), state(2), 2)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["step_000000001"]
    assert checkpoint.load_newest(str(tmp_path))[0].step == 1


def test_nothing_gets_its_name_before_it_is_on_the_disk(tmp_path, monkeypatch):
    """What a power cut may undo: names and contents that were not synced when the folder was renamed."""
    order = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(descriptor):
        order.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def recording_replace(source, target):
        order.append(("rename", str(source)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    checkpoint.save(str(tmp_path), state(1), 1)
    [renamed] = [number for number, (what, _) in enumerate(order) if what == "rename"]
    written = order[renamed][1]
    before = {path for what, path in order[:renamed]}
    assert before == {written, f"{written}/state.safetensors", f"{written}/manifest.json"}
    assert order[renamed - 1] == ("sync", written)  # after the files in it
    assert order[renamed + 1 :] == [("sync", str(tmp_path))]


def test_prune_keeps_the_newest_and_sweeps_interrupted_saves(tmp_path):
    for step in (1, 2, 3, 4):
        checkpoint.save(str(tmp_path), state(step), step)
    (tmp_path / "step_000000005.writing-1").mkdir()
    checkpoint.prune(str(tmp_path), 2)
    assert sorted(os.listdir(tmp_path)) == ["step_000000003", "step_000000004"]


def test_empty_folder_means_a_fresh_start(tmp_path):
    assert checkpoint.load_newest(str(tmp_path / "none")) is None
