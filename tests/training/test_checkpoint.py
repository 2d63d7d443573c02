"""Checkpoints: atomic, verified, pruned; a damaged newest one does not lose the run."""

from __future__ import annotations

import json
import os
import threading

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


def test_folders_without_a_readable_manifest_are_no_fresh_start(tmp_path):
    checkpoint.save(str(tmp_path), state(1), 1)
    (tmp_path / "step_000000001" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="all 1 checkpoints are damaged"):
        checkpoint.load_newest(str(tmp_path))


def test_damaged_newer_ones_are_set_aside_and_no_sound_one_goes_for_them(tmp_path, capsys):
    for step in (1, 2, 3):
        checkpoint.save(str(tmp_path), state(step), step)
    damage(tmp_path / "step_000000003")
    (tmp_path / "step_000000002" / "manifest.json").unlink()
    for _ in range(2):  # the second time there is nothing to do
        found, _ = checkpoint.load_newest(str(tmp_path))
        checkpoint.set_aside(str(tmp_path), found.step)
    assert sorted(os.listdir(tmp_path)) == ["step_000000001", "step_000000002.damaged", "step_000000003.damaged"]
    assert capsys.readouterr().err.count("renamed to") == 2
    checkpoint.save(str(tmp_path), state(2), 2)
    checkpoint.prune(str(tmp_path), 1)
    assert checkpoint.load_newest(str(tmp_path))[0].step == 2


@pytest.fixture
def slow_disk(monkeypatch):
    """An event: writes wait for it."""
    may_write, write = threading.Event(), checkpoint.files.write_flushed

    def slow(path, content):
        assert may_write.wait(60)
        write(path, content)

    monkeypatch.setattr(checkpoint.files, "write_flushed", slow)
    return may_write


def saver(folder, **options):
    return checkpoint.Saver(str(folder), **{"keep": 2, "keep_every": 0, "background": True, **options})


def test_a_save_in_the_background_goes_on_beside_and_is_the_same(tmp_path, slow_disk):
    order = []
    background = saver(tmp_path / "background", before=lambda: order.append(threading.current_thread().name))
    background.save(state(1), 1)
    background.check()  # returns at once
    assert checkpoint.find(str(tmp_path / "background")) == []
    slow_disk.set()
    for step in (2, 3):
        background.save(state(step), step)  # waits for the one before
        assert checkpoint.find(str(tmp_path / "background"))[0].step >= step - 1
    background.wait()
    assert order == ["checkpoint"] * 3
    foreground = saver(tmp_path / "foreground", background=False)
    for step in (1, 2, 3):
        foreground.save(state(step), step)
    for name in ("step_000000002", "step_000000003"):
        for file in ("state.safetensors", "manifest.json"):
            written = [(tmp_path / kind / name / file).read_bytes() for kind in ("background", "foreground")]
            assert written[0] == written[1]
    assert [len(os.listdir(tmp_path / kind)) for kind in ("background", "foreground")] == [2, 2]


@pytest.mark.parametrize("notice", ["save", "check", "wait"])
def test_what_goes_wrong_in_the_background_is_raised_by_the_next_call(tmp_path, monkeypatch, notice):
    def full(path, content):
        raise OSError(28, "No space left on device", path)

    background = saver(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.files, "write_flushed", full)
        background.save(state(1), 1)
        background._thread.join()
    with pytest.raises(OSError, match="No space left"):
        background.save(state(2), 2) if notice == "save" else getattr(background, notice)()
    background.wait()  # said once
    assert os.listdir(tmp_path) == []
