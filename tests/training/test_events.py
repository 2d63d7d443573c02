"""TensorBoard's files: what a resumed run runs again is dropped, names grow, pictures and histograms are bounded."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.histogram import summary_v2
from tensorboard.util import tensor_util

from tfaclgan.training import events
from tfaclgan.training.monitor import Monitor


def write(folder, steps):
    file = events.next_file(str(folder))
    for step in steps:
        file.add(step, events.scalars({"loss": step / 10}))
    file.close()
    return file.path


def shown(folder):
    """[(step, value)] of the tag "loss" as TensorBoard reads the folder."""
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    if "loss" not in found.Tags()["tensors"]:
        return []
    return [(event.step, pytest.approx(float(tensor_util.make_ndarray(event.tensor_proto)))) for event in
            found.Tensors("loss")]  # fmt: skip


def test_later_events_are_dropped_and_earlier_ones_stay(tmp_path):
    first, second = write(tmp_path, [2, 4]), write(tmp_path, [6, 8])
    untouched = open(first, "rb").read()
    for _ in range(2):  # a second time there is nothing to do
        events.drop_after(str(tmp_path), 6)
        assert shown(tmp_path) == [(2, 0.2), (4, 0.4), (6, 0.6)]
    assert open(first, "rb").read() == untouched
    events.drop_after(str(tmp_path), 4)  # nothing is left of the second file
    assert os.listdir(tmp_path) == [os.path.basename(first)]
    assert second != first


def test_events_of_the_step_itself_go_by_their_name(tmp_path):
    file = events.next_file(str(tmp_path))
    for step in (4, 8):
        for name in ("loss", "evaluation/kid"):
            file.add(step, events.scalars({name: step / 10, "other": 1.0}))
    file.close()
    events.drop_after(str(tmp_path), 8, "evaluation/")
    found = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    assert [event.step for event in found.Tensors("evaluation/kid")] == [4]
    assert shown(tmp_path) == [(4, 0.4), (8, 0.8)]


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_what_a_kill_cut_short_goes(tmp_path, cut):
    path = write(tmp_path, [2, 4, 6])
    data = open(path, "rb").read()
    with open(path, "wb") as file:
        file.write(data[:-cut])
    events.drop_after(str(tmp_path), 10)
    assert shown(tmp_path) == [(2, 0.2), (4, 0.4)]
    write(tmp_path, [6, 8])
    assert shown(tmp_path) == [(2, 0.2), (4, 0.4), (6, 0.6), (8, 0.8)]


def test_names_grow_where_the_clock_jumps_back(tmp_path, monkeypatch):
    write(tmp_path, [2, 4])
    monkeypatch.setattr(time, "time", lambda: 1e6)  # January 1970
    paths = [write(tmp_path, [6]), write(tmp_path, [8])]
    assert sorted(os.listdir(tmp_path))[1:] == [os.path.basename(path) for path in paths]
    assert shown(tmp_path) == [(2, 0.2), (4, 0.4), (6, 0.6), (8, 0.8)]


def test_a_tensorboard_that_looks_on_goes_on_to_the_next_start(tmp_path):
    write(tmp_path, [2, 4, 6])
    looking = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    assert [event.step for event in looking.Tensors("loss")] == [2, 4, 6]
    events.drop_after(str(tmp_path), 6)
    write(tmp_path, [8, 10])
    assert [event.step for event in looking.Reload().Tensors("loss")] == [2, 4, 6, 8, 10]


def test_a_new_start_puts_events_on_the_disk_before_the_log(tmp_path, monkeypatch):
    """A kill leaves both unsynced; a power cut in the next start must not keep the log's line alone."""
    options = {"total_steps": 20, "batch_size": 1, "replicas": 1}
    monitor = Monitor(str(tmp_path), step=0, **options)
    monitor.write(12, {"evaluation/kid": 0.5})
    monitor.close()
    synced, sync = [], os.fsync

    def noted(descriptor):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    Monitor(str(tmp_path), step=12, **options)
    [written] = [name for name in os.listdir(tmp_path) if "tfevents" in name]
    assert synced.index(written) < synced.index("metrics.jsonl.partial")


def test_the_newest_steps_are_kept(tmp_path):
    folder = str(tmp_path / "below" / "samples")
    for step in (0, 5, 10, 10, 15):
        events.write_step(folder, step, events.scalars({"loss": step / 10}))
        events.keep_newest(folder, 2)
    assert shown(folder) == [(10, 1.0), (15, 1.5)]
    events.keep_newest(folder, 0)
    assert len(os.listdir(folder)) == 2


def test_histograms_are_tensorboards_own_and_leave_out_what_is_not_finite():
    values = np.random.RandomState(0).standard_normal((20, 30)).astype(np.float32)
    [mine] = events.histograms({"x": np.append(values.ravel(), [np.nan, np.inf])}).value
    [theirs] = summary_v2.histogram_pb("x", values.astype(np.float64)).value
    assert mine.metadata == theirs.metadata
    mine, theirs = tensor_util.make_ndarray(mine.tensor), tensor_util.make_ndarray(theirs.tensor)
    np.testing.assert_allclose(mine[:, :2], theirs[:, :2], atol=1e-12)
    assert np.array_equal(mine[:, 2], theirs[:, 2])
    for values in (np.zeros(0), np.full(5, 2.0), np.float32(3)):
        assert tensor_util.make_ndarray(events.histograms({"x": values}).value[0].tensor)[:, 2].sum() == np.size(values)
