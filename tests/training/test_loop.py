"""The loop on the toy method: a run goes on where it stopped, whatever stopped it, and says what it does."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import os
import signal
import time

import folder_of_records
import metadata_server
import numpy as np
import profiles
import pytest
import record_folder
from PIL import Image
from tensorboard.util import tensor_util
from toy import TOY, Config
from toy_runs import assert_same_end, final_state, logged, shown, start

from tfaclgan.data import records
from tfaclgan.data.pipeline import PipelineOptions, training_dataset
from tfaclgan.engine import strategy
from tfaclgan.engine import tensorflow as engine
from tfaclgan.errors import EXIT_NON_FINITE, EXIT_OK, EXIT_PREEMPTED, UserError
from tfaclgan.methods import base
from tfaclgan.training import checkpoint, debug, loop, preemption, rundir

pytestmark = pytest.mark.usefixtures("registered")


def test_a_run_leaves_what_the_documentation_lists(data, tmp_path, capsys):
    assert start(data, tmp_path / "run") == EXIT_OK
    names = set(os.listdir(tmp_path / "run"))
    assert {"run.json", "run.flags", "environment.json", "checkpoints", "metrics.jsonl", "samples"} <= names
    assert any("tfevents" in name for name in names)
    assert [c.step for c in checkpoint.find(str(tmp_path / "run" / "checkpoints"))] == [8, 4]
    assert sorted(os.listdir(tmp_path / "run" / "samples")) == [f"a2b_{step:09d}.png" for step in (0, 4, 8)]
    sheet = np.asarray(Image.open(tmp_path / "run" / "samples" / "a2b_000000000.png"))
    assert sheet.shape == (2 * 18 + 2, 2 * 18 + 2, 3)
    environment = json.load(open(tmp_path / "run" / "environment.json"))["starts"][0]
    assert environment["data_fingerprint"] == rundir.data_fingerprint(data.folder)
    assert environment["packages"]["keras"]
    out = capsys.readouterr().err
    assert "training on the CPU only" in out
    assert "img/s" in out
    assert "ETA" in out
    assert "input wait" in out


def test_metrics_are_in_jsonl_and_in_tensorboard(data, tmp_path):
    start(data, tmp_path)
    lines = [line for line in logged(tmp_path) if "critic/loss" in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    for name in (
        "generator/adversarial",
        "critic/gradient_norm",
        "weight_norm/critic",
        "learning_rate/generator",
        "throughput/input_wait_share",
    ):
        assert all(np.isfinite(line[name]) for line in lines), name
    # The first call is told apart: it traces and compiles.
    compiled = [(line["step"], line["time/compile_secs"]) for line in logged(tmp_path) if "time/compile_secs" in line]
    assert [step for step, _ in compiled] == [2]
    timed = [line for line in lines if "time/step_secs" in line]
    assert [line["step"] for line in timed] == [4, 6, 8]
    assert all(0 <= line["time/input_wait_secs"] <= line["time/step_secs"] < compiled[0][1] for line in timed)
    assert timed[-1]["time/step_secs"] == pytest.approx(1 / timed[-1]["throughput/steps_per_second"])
    assert [event.step for event in shown(tmp_path)["time/step_secs"]] == [4, 6, 8]
    assert [event.step for event in shown(tmp_path)["critic/loss"]] == [2, 4, 6, 8]
    assert "throughput/images_per_second" in shown(tmp_path)
    pictures = shown(tmp_path / "events" / "samples")["samples/a2b"]
    assert [event.step for event in pictures] == [0, 4, 8]
    width, height, png = pictures[-1].tensor_proto.string_val
    sheet = Image.open(io.BytesIO(png))
    assert sheet.size == (int(width), int(height))
    assert np.array_equal(sheet, Image.open(tmp_path / "samples" / "a2b_000000008.png"))


def test_stopped_and_started_again_equals_never_stopped(data, tmp_path, whole, monkeypatch):
    real, calls = loop._Session._after_loop, []

    def terminated_once(session, stop):
        calls.append(session._step)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        real(session, stop)

    monkeypatch.setattr(loop._Session, "_after_loop", terminated_once)
    assert start(data, tmp_path / "cut") == EXIT_PREEMPTED
    assert checkpoint.find(str(tmp_path / "cut" / "checkpoints"))[0].step == 6
    assert start(data, tmp_path / "cut") == EXIT_OK
    assert_same_end(whole, tmp_path / "cut")
    for name in os.listdir(whole / "samples"):
        assert (whole / "samples" / name).read_bytes() == (tmp_path / "cut" / "samples" / name).read_bytes()
    steps = [line["step"] for line in logged(tmp_path / "cut") if "critic/loss" in line]
    assert steps == [2, 4, 6, 8]


def test_after_a_kill_lines_beyond_the_checkpoint_are_not_doubled(data, tmp_path):
    start(data, tmp_path, recipe={"steps": 4})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "critic/loss": 1.0}\n{"step": 8, "cri')  # logged, then killed before the save
    start(data, tmp_path)
    assert [line["step"] for line in logged(tmp_path) if "critic/loss" in line] == [2, 4, 6, 8]


def test_what_was_summed_since_the_last_log_line_survives(data, tmp_path, monkeypatch):
    """A checkpoint, and a signal, between two log lines: the next line is the mean over all of its steps."""
    options = {"log_every": 6, "checkpoint_every": 4, "steps_per_loop": 2, "recipe": {"steps": 12}}
    start(data, tmp_path / "whole", **options)
    real = loop._Session._after_loop

    def terminated(session, stop):
        if session._step in (2, 4, 8, 10):  # 4 and 8 have their checkpoints anyhow
            os.kill(os.getpid(), signal.SIGTERM)
        real(session, stop)

    monkeypatch.setattr(loop._Session, "_after_loop", terminated)
    codes = [start(data, tmp_path / "cut", **options) for _ in range(5)]
    assert codes == [EXIT_PREEMPTED] * 4 + [EXIT_OK]
    lines = [
        [{k: v for k, v in line.items() if not k.startswith(("time", "throughput"))} for line in logged(path)
         if "critic/loss" in line]
        for path in (tmp_path / "whole", tmp_path / "cut")
    ]  # fmt: skip
    assert [line["step"] for line in lines[0]] == [6, 12]
    assert lines[0] == lines[1]
    assert not any(name.startswith("loop/") for name in final_state(tmp_path / "cut"))


def test_tensorboard_shows_each_step_once_after_kills(data, tmp_path):
    """Events beyond the checkpoint, as a kill leaves them, go when the run goes on."""
    options = {"histogram_every": 4, "sample_every": 4, "checkpoint_every": 4}
    start(data, tmp_path, recipe={"steps": 8}, **options)
    checkpoint.remove(checkpoint.find(str(tmp_path / "checkpoints"))[0])  # killed before that of step 8
    [file] = [name for name in os.listdir(tmp_path) if "tfevents" in name]
    with open(tmp_path / file, "r+b") as events:
        events.truncate(os.path.getsize(tmp_path / file) - 3)
    start(data, tmp_path, recipe={"steps": 8}, **options)
    assert [event.step for event in shown(tmp_path)["critic/loss"]] == [2, 4, 6, 8]
    assert [event.step for event in shown(tmp_path / "events" / "samples")["samples/a2b"]] == [0, 4, 8]
    assert [event.step for event in shown(tmp_path / "events" / "histograms")["networks/critic/in/kernel"]] == [4, 8]


def counting_judge(steps, fail_at=()):
    """A judge that notes each call; it is killed (an error stands for it) where the count is in `fail_at`."""

    def judge(translator):
        steps.append(len(steps))
        if len(steps) in fail_at:
            raise KeyboardInterrupt
        return {"protocol": {}, "metrics": {"kid": 0.5 / len(steps)}, "untouched": {}}

    return judge


@pytest.mark.parametrize("killed_at", [1, 2])  # in the middle, and after the last step was saved
def test_an_evaluation_that_was_cut_short_is_made_at_the_next_start(data, tmp_path, killed_at):
    options = {"eval_every": 4, "checkpoint_every": 4}
    calls = []
    with pytest.raises(KeyboardInterrupt):
        start(data, tmp_path, judge=counting_judge(calls, fail_at=(killed_at,)), **options)
    assert checkpoint.find(str(tmp_path / "checkpoints"))[0].step == 4 * killed_at
    assert start(data, tmp_path, judge=counting_judge(calls), **options) == EXIT_OK
    assert [line["step"] for line in logged(tmp_path) if "evaluation/kid" in line] == [4, 8]
    assert checkpoint.find(str(tmp_path / "best"))[0].step == 8
    assert len(calls) == 3
    assert start(data, tmp_path, judge=counting_judge(calls), **options) == EXIT_OK  # nothing is owed now
    assert len(calls) == 3
    # Ended after its events and before its line: made again, shown once.
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert "evaluation/kid" in lines[-1]
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:-1]))
    assert start(data, tmp_path, judge=counting_judge(calls), **options) == EXIT_OK
    assert len(calls) == 4
    assert [event.step for event in shown(tmp_path)["evaluation/kid"]] == [4, 8]


def test_an_evaluation_that_a_signal_put_off_is_made_at_the_next_start(data, tmp_path, monkeypatch):
    """Also that of the last step: the exit code is not that of a run with nothing left to do."""
    real = loop._Session._after_loop

    def terminated(session, stop):
        os.kill(os.getpid(), signal.SIGTERM)
        real(session, "SIGTERM")

    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(loop._Session, "_after_loop", terminated)
        for done in (0, 1):  # evaluations
            assert start(data, tmp_path, judge=counting_judge(calls), eval_every=4, log_every=4) == EXIT_PREEMPTED
            assert len(calls) == done
    assert start(data, tmp_path, judge=counting_judge(calls), eval_every=4) == EXIT_OK
    assert [line["step"] for line in logged(tmp_path) if "evaluation/kid" in line] == [4, 8]


def test_saves_in_the_background_change_nothing(data, tmp_path):
    for name, background in (("beside", True), ("between", False)):
        start(data, tmp_path / name, async_save=background, checkpoint_every=2, recipe={"ema_decay": 0.5})
    for step in (4, 6, 8):
        paths = [tmp_path / name / "checkpoints" / f"step_{step:09d}" / "state.safetensors" for name in
                 ("beside", "between")]  # fmt: skip
        assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("step", [4, 8])  # told before the next step; told at the end
def test_a_disk_that_fills_in_the_background_stops_the_run_and_costs_only_that_save(
    data, tmp_path, whole, monkeypatch, step
):
    write = checkpoint.files.write_flushed

    def full(path, content):
        if f"step_{step:09d}" in path:
            raise OSError(28, "No space left on device", path)
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.files, "write_flushed", full)
        with pytest.raises(OSError, match="No space left"):
            start(data, tmp_path / "full", async_save=True, steps_per_loop=2, checkpoint_every=2)
    start(data, tmp_path / "full", async_save=True)
    assert_same_end(whole, tmp_path / "full")


def test_a_signal_waits_for_the_save_in_the_background(data, tmp_path, monkeypatch, capsys):
    real, write = loop._Session._after_loop, checkpoint.files.write_flushed

    def terminated(session, stop):
        os.kill(os.getpid(), signal.SIGTERM)
        real(session, stop)

    def slow(path, content):
        time.sleep(0.3)
        write(path, content)

    monkeypatch.setattr(loop._Session, "_after_loop", terminated)
    monkeypatch.setattr(checkpoint.files, "write_flushed", slow)
    assert start(data, tmp_path, async_save=True) == EXIT_PREEMPTED
    assert "saved at step 2" in capsys.readouterr().err
    assert checkpoint.find(str(tmp_path / "checkpoints"))[0].step == 2


def test_samples_and_histograms_are_bounded(data, tmp_path):
    start(data, tmp_path, sample_every=2, histogram_every=2, keep_samples=2)
    assert sorted(os.listdir(tmp_path / "samples")) == ["a2b_000000006.png", "a2b_000000008.png"]
    for name in ("samples", "histograms"):
        assert len(os.listdir(tmp_path / "events" / name)) == 2


def test_the_sound_checkpoint_before_a_damaged_one_is_not_pruned_for_it(data, tmp_path, capsys):
    start(data, tmp_path, checkpoint_every=2, keep_checkpoints=2)
    path = tmp_path / "checkpoints" / "step_000000008" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    start(data, tmp_path, checkpoint_every=2, keep_checkpoints=1, recipe={"steps": 10}, steps_per_loop=2)
    assert "renamed to step_000000008.damaged" in capsys.readouterr().err
    assert [c.step for c in checkpoint.find(str(tmp_path / "checkpoints"))] == [10]
    assert checkpoint.load_newest(str(tmp_path / "checkpoints"))[0].step == 10


def test_what_a_kill_left_half_written_does_not_stay(data, tmp_path):
    (tmp_path / "run.json.partial").write_text("{")  # all that there is, and still a new run
    start(data, tmp_path, recipe={"steps": 4})
    left = [tmp_path / "best" / "step_000000002.writing-1", tmp_path / "broken" / "step_000000002.writing-1",
            tmp_path / "checkpoints" / "step_000000002.removing-1",
            tmp_path / "evaluations" / "step_000000002" / "metrics.json.1.tmp",
            tmp_path / "metrics.jsonl.partial", tmp_path / "samples" / "a2b_000000004.png.partial"]  # fmt: skip
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if "-1" in path.name else path.write_text("half")
    start(data, tmp_path)
    assert not [path for path in left if path.exists()]


def test_a_clock_that_jumps_back_and_forth(data, tmp_path, whole, monkeypatch):
    now = time.time()
    jumps = itertools.cycle([now - 86400 * 365, now + 86400, 0.0, now])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    for steps in (4, 8):
        start(data, tmp_path / "jumping", recipe={"steps": steps})
    assert_same_end(whole, tmp_path / "jumping")
    assert [line["step"] for line in logged(tmp_path / "jumping") if "critic/loss" in line] == [2, 4, 6, 8]
    assert [event.step for event in shown(tmp_path / "jumping")["critic/loss"]] == [2, 4, 6, 8]
    speeds = [line["throughput/images_per_second"] for line in logged(tmp_path / "jumping") if "critic/loss" in line]
    assert all(0 <= speed < 1e6 for speed in speeds)


def test_embeddings_are_for_methods_that_have_them(data, tmp_path):
    start(data, tmp_path, embedding_every=4)
    assert not (tmp_path / "projector_config.pbtxt").exists()


def test_two_replicas_train_to_the_weights_of_one(data, tmp_path):
    start(data, tmp_path / "one")
    start(data, tmp_path / "two", replicas=2)
    one, two = final_state(tmp_path / "one"), final_state(tmp_path / "two")
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-3, atol=2e-5, err_msg=name)


def test_no_throughput_is_shown_before_there_is_one(data, tmp_path, capsys):
    start(data, tmp_path, recipe={"steps": 4}, log_every=2, steps_per_loop=2)
    first, second = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert " ? img/s" in first
    assert " ? img/s" not in second
    assert " 0.0 img/s" not in first + second


def test_checkpoints_at_an_interval_are_kept_for_good(data, tmp_path):
    start(data, tmp_path, checkpoint_every=2, keep_checkpoints=1, keep_every=3)  # the toy's period is 2: every 4
    assert [c.step for c in checkpoint.find(str(tmp_path / "checkpoints"))] == [8, 4]


def test_finished_runs_say_so(data, tmp_path, capsys):
    start(data, tmp_path)
    assert start(data, tmp_path) == EXIT_OK
    assert "already trained to step 8" in capsys.readouterr().err


def test_non_finite_training_stops_names_the_term_and_keeps_the_good_checkpoint(data, tmp_path, capsys):
    assert start(data, tmp_path, config=Config(poison_step=5)) == EXIT_NON_FINITE
    out = capsys.readouterr().err
    assert "step 5" in out
    assert "critic/real" in out
    assert "step_000000004" in out
    expected = next(iter(training_dataset(data, PipelineOptions(16, 16, 16), global_batch=4, first_step=5)))
    names = {d: ", ".join(key.decode() for key in expected[f"key_{d}"].numpy()) for d in "ab"}
    assert f"pictures of that step: a: {names['a']}; b: {names['b']}" in out
    assert [c.step for c in checkpoint.find(str(tmp_path / "checkpoints"))] == [4]
    assert all(np.isfinite(v).all() for v in final_state(tmp_path).values())


def test_skipped_steps_are_counted_and_too_many_stop_with_a_bundle(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engine, "MOST_SKIPPED", 4)
    monkeypatch.setattr(loop, "MOST_SKIPPED", 4)
    config = Config(poison_step=3)
    assert start(data, tmp_path, config=config, nan_policy="skip", recipe={"steps": 6}) == EXIT_OK  # 3, 4 and 5
    counts = [line.get("training/skipped_iterations") for line in logged(tmp_path) if "generator/loss" in line]
    assert counts == [0, 1, 2]
    assert "skipped steps 2" in capsys.readouterr().err
    state = final_state(tmp_path)
    assert int(state["optimizers/critic/iterations"]) == 3
    assert all(np.isfinite(value).all() for value in state.values())
    # What is counted in a row begins anew with a process.
    assert start(data, tmp_path, config=config, nan_policy="skip", recipe={"steps": 20}) == EXIT_NON_FINITE
    assert "step 9: not finite 4 times in a row: critic/" in capsys.readouterr().err
    found = debug.examine(str(tmp_path), say=lambda line: None)
    assert (found.step, found.phase, found.variables) == (9, "critic", ())
    assert "real" in found.terms


def test_a_notice_of_the_cloud_saves_and_leaves(data, tmp_path, monkeypatch, capsys):
    with metadata_server.serving(monkeypatch) as metadata:
        metadata.values["preempted"] = "TRUE"
        code = start(data, tmp_path, cloud_notices=True, recipe={"steps": 4000}, checkpoint_every=4000, sample_every=0)
    assert code == EXIT_PREEMPTED
    saved = checkpoint.find(str(tmp_path / "checkpoints"))[0]
    assert 0 < saved.step < 4000
    assert f"being taken away (preempted): saved at step {saved.step}" in capsys.readouterr().err


def test_another_width_is_refused_and_another_rate_is_told(data, tmp_path, capsys):
    start(data, tmp_path, recipe={"steps": 4})
    before = {name: (tmp_path / name).read_bytes() for name in ("run.json", "run.flags")}
    with pytest.raises(UserError, match=r"would change its networks: --toy.width: 4 -> 8"):
        start(data, tmp_path, config=Config(width=8))
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
    start(data, tmp_path, recipe={"learning_rate": 0.5})
    assert "differs from the last start: --learning_rate: 0.001 -> 0.5" in capsys.readouterr().err


def test_another_methods_directory_is_refused(data, tmp_path):
    start(data, tmp_path, recipe={"steps": 2})
    path = tmp_path / "run.json"
    content = json.loads(path.read_text())
    config = base.get("munit").config()
    path.write_text(json.dumps({**content, "method": "munit", "config": dataclasses.asdict(config)}))
    with pytest.raises(UserError, match="a run of munit, not toy"):
        start(data, tmp_path)


def test_a_folder_with_other_things_is_refused(data, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty and holds no run"):
        start(data, tmp_path)
    assert os.listdir(tmp_path) == [".lock", "thesis.txt"] or sorted(os.listdir(tmp_path)) == [".lock", "thesis.txt"]


def test_a_directory_in_use_is_refused(data, tmp_path):
    held = rundir.lock(str(tmp_path))
    with pytest.raises(UserError, match="another process is training here"):
        start(data, tmp_path)
    held.close()


def test_the_best_by_metric_is_kept(data, tmp_path):
    values = iter([0.3, 0.1, 0.2, 0.25])

    def judge(translator):
        assert translator.directions == ("a2b",)
        return {"protocol": {}, "metrics": {"kid": next(values), "fid": None}, "untouched": {}}

    start(data, tmp_path, judge=judge, eval_every=2, checkpoint_every=8)
    best = checkpoint.find(str(tmp_path / "best"))
    assert [(c.step, c.metric) for c in best] == [(4, 0.1)]
    assert [line["evaluation/kid"] for line in logged(tmp_path) if "evaluation/kid" in line] == [0.3, 0.1, 0.2, 0.25]
    _, networks = rundir.load_networks(str(tmp_path), "best")
    state = checkpoint.load(best[0])
    assert np.array_equal(networks["generator"].trainable_variables[0].numpy(), state["networks/generator/in/kernel"])


def test_averages_are_what_users_get(data, tmp_path):
    start(data, tmp_path, recipe={"ema_decay": 0.5})
    _, networks = rundir.load_networks(str(tmp_path))
    state = final_state(tmp_path)
    weight = networks["generator"].trainable_variables[0].numpy()
    assert np.array_equal(weight, state["averages/generator/in/kernel"])
    assert not np.array_equal(weight, state["networks/generator/in/kernel"])


def test_switching_averages_on_later_starts_them_from_the_weights(data, tmp_path):
    start(data, tmp_path, recipe={"steps": 4})
    start(data, tmp_path, recipe={"steps": 8, "ema_decay": 0.5})
    assert any(name.startswith("averages/") for name in final_state(tmp_path))


def test_a_damaged_checkpoint_costs_only_what_came_after_the_older_one(data, tmp_path, whole, capsys):
    start(data, tmp_path)
    path = tmp_path / "checkpoints" / "step_000000008" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    start(data, tmp_path)
    assert "damaged" in capsys.readouterr().err
    assert_same_end(whole, tmp_path)


def test_a_disk_that_fills_in_the_middle_of_a_save_costs_only_that_save(data, tmp_path, whole, monkeypatch):
    write = checkpoint.files.write_flushed

    def full(path, content):
        if "step_000000008" in path:
            with open(path, "wb") as file:
                file.write(content[: len(content) // 2])
            raise OSError(28, "No space left on device", path)
        write(path, content)

    monkeypatch.setattr(checkpoint.files, "write_flushed", full)
    with pytest.raises(OSError, match="No space left"):
        start(data, tmp_path / "full")
    monkeypatch.undo()
    monkeypatch.setitem(base._REGISTRY, "toy", TOY)
    assert os.listdir(tmp_path / "full" / "checkpoints") == ["step_000000004"]
    start(data, tmp_path / "full")
    assert_same_end(whole, tmp_path / "full")
    steps = [line["step"] for line in logged(tmp_path / "full") if "critic/loss" in line]
    assert steps == [2, 4, 6, 8]


def test_a_corrupt_record_stops_with_shard_and_offset(tmp_path):
    folder = folder_of_records.write(tmp_path / "data")
    shard = tmp_path / "data" / "trainB-00000-of-00001.tfrecord"
    content = bytearray(shard.read_bytes())
    content[200] ^= 0xFF
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"trainB-00000-of-00001\.tfrecord") as caught:
        start(records.load_manifest(folder), tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.fixture
def spoilt(tmp_path):
    """A data folder with a record in trainB that a decoder refuses, behind a right checksum."""
    items = [{"image": image} for image in np.random.RandomState(0).randint(0, 256, (5, 16, 16, 3), np.uint8)]
    bad = [*items[:4], {**items[4], "encoded": b"no picture"}]
    return record_folder.make(tmp_path / "data", {"trainA": items, "trainB": bad}, load_size=16)


def test_an_undecodable_record_stops_with_its_key(spoilt, tmp_path):
    with pytest.raises(UserError, match=r"record 4 of trainB .*\(key trainB/4\).* cannot be decoded") as caught:
        start(spoilt, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_skipped_records_are_counted_and_a_resumed_run_skips_alike(spoilt, tmp_path, capsys):
    assert start(spoilt, tmp_path / "run", on_bad_record="skip") == EXIT_OK
    errors = capsys.readouterr().err
    assert errors.count("(key trainB/4) cannot be used") == 1
    assert "bad records 1" in errors
    # A warning (a busy machine waits for input) may stand after the line of the losses.
    assert [line["data/bad_records"] for line in logged(tmp_path / "run") if "data/bad_records" in line][-1] == 1
    for steps in (4, 8):
        start(spoilt, tmp_path / "resumed", on_bad_record="skip", recipe={"steps": steps})
    whole, resumed = final_state(tmp_path / "run"), final_state(tmp_path / "resumed")
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("missing", ["trainA", "trainB"])
def test_one_picture_a_domain_trains_and_none_is_refused(tmp_path, missing):
    one = folder_of_records.write(tmp_path / "one", {"trainA": 1, "trainB": 1, "testA": 1})
    assert start(records.load_manifest(one), tmp_path / "run", recipe={"steps": 2}) == EXIT_OK
    counts = {name: 1 for name in ("trainA", "trainB") if name != missing}
    none = records.load_manifest(folder_of_records.write(tmp_path / "none", counts))
    with pytest.raises(UserError, match=missing):
        start(none, tmp_path / "run2", recipe={"steps": 2})


def test_a_batch_that_replicas_cannot_share_is_refused():
    with pytest.raises(UserError, match="multiple of 2"):
        loop.check_batch(3, strategy.make("cpu", cpu_devices=2))


def test_a_slow_source_shows_in_the_input_wait(data, tmp_path, monkeypatch):
    import tensorflow as tf

    real = loop.pipeline.training_dataset

    def slow(*arguments, **options):
        def sleep(x):
            time.sleep(0.05)
            return x

        def wait(element):
            token = tf.numpy_function(sleep, [tf.zeros([])], tf.float32)
            with tf.control_dependencies([token]):
                return {key: tf.identity(value) for key, value in element.items()}

        return real(*arguments, **options).map(wait)

    monkeypatch.setattr(loop.pipeline, "training_dataset", slow)
    start(data, tmp_path, recipe={"steps": 40}, log_every=20, sample_every=0, checkpoint_every=100, steps_per_loop=20)
    shares = [line["throughput/input_wait_share"] for line in logged(tmp_path) if "throughput/input_wait_share" in line]
    assert shares[-1] > 0.6


def test_a_profile_is_written_for_tensorboard(data, tmp_path):
    judged, painted = TOY.phases(Config())
    phases = (dataclasses.replace(judged, name="judges"), dataclasses.replace(painted, name="paints"))
    method = dataclasses.replace(TOY, phases=lambda config: phases)
    start(data, tmp_path, method=method, profile=(3, 5), steps_per_loop=8, recipe={"ema_decay": 0.9})
    trace = profiles.read(tmp_path)
    # One compiled call a period: data iterations 2 to 5 are asked for, rounded out to whole periods of 2.
    assert [stats["step_num"] for name, stats in trace if name == "train"] == [2, 4]
    assert all(stats["_r"] == 1 for name, stats in trace if name == "train")
    # An iteration number anywhere, and the profile page takes the compiled loop's iterations, nameless, for steps.
    assert not [name for name, stats in trace if "iter_num" in stats]
    operations = [name for name, _ in trace if name.startswith("while/body/")]
    assert profiles.outside(operations, ["judges"]) & {"Conv2D", "ResourceApplyAdam"}
    assert not profiles.outside(operations, ["judges", "paints"]) & {"Conv2D", "ResourceApplyAdam"}
    assert any("/averages/" in name for name in operations)


@pytest.mark.parametrize("replicas", [1, 2])
def test_histograms_of_weights_and_gradients_on_request(data, tmp_path, whole, replicas):
    start(data, tmp_path / "with", histogram_every=4, replicas=replicas)
    found = shown(tmp_path / "with" / "events" / "histograms")
    for name in (
        "networks/critic/in/kernel",
        "gradients/critic/critic/in/kernel",
        "gradients/generator/generator/out/bias",
    ):
        assert [event.step for event in found[name]] == [4, 8], name
        bins = tensor_util.make_ndarray(found[name][0].tensor_proto)
        assert bins[:, 2].sum() > 0, name
    kernel = final_state(tmp_path / "with")["networks/critic/in/kernel"]
    bins = tensor_util.make_ndarray(found["networks/critic/in/kernel"][1].tensor_proto)
    assert bins[:, 2].sum() == kernel.size
    assert (bins[0, 0], bins[-1, 1]) == (kernel.min(), kernel.max())
    if replicas == 1:  # to look changes nothing
        assert_same_end(whole, tmp_path / "with")


def test_signals_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before
