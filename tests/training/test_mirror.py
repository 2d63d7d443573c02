"""A run directory in a bucket: TensorFlow's file:// stands for gs://, an empty folder for each new machine.

What a machine that is taken away has sent by then is a run directory that goes on. (TensorFlow's ram:// would not do:
it appends to an object that it should replace.)
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal

import numpy as np
import pytest
from command import call
from toy import TOY, Config
from toy_runs import assert_same_end, logged, shown, start

import tfaclgan
from tfaclgan.data import records, remote
from tfaclgan.engine import base as engine_base
from tfaclgan.errors import EXIT_NON_FINITE, EXIT_OK, EXIT_PREEMPTED, UserError
from tfaclgan.importing import importer
from tfaclgan.training import bundle, checkpoint, loop, mirror, rundir, samples

pytestmark = pytest.mark.usefixtures("registered")


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours handles it."""


class Arithmetic:
    """An engine without networks, for the loop around it: the state depends on all steps and their order."""

    period, averages = 2, {}

    def __init__(self, poison_step):
        self._state = {"step": np.int64(0), "networks/sum": np.zeros(100)}
        self._poison = poison_step

    def state(self):
        return {name: np.array(value) for name, value in self._state.items()}

    def load_state(self, state, source):
        self._state = dict(state)

    def batches(self, make_dataset):
        return iter(())

    def learning_rates(self):
        return {}

    weight_norms = learning_rates

    def train(self, iterator, steps):
        values = []
        for _ in range(steps):
            step = int(self._state["step"])
            if step == self._poison:
                return engine_base.Report({}, ("critic/real",), step, step + 1, 0.0)
            self._state["networks/sum"] = np.sin(self._state["networks/sum"] + step + np.arange(100))
            self._state["step"] = np.int64(step + 1)
            values.append(float(self._state["networks/sum"].mean()))
        return engine_base.Report({"critic/loss": float(np.mean(values))}, (), -1, steps, 0.0)


class Translator:
    directions = ("a2b",)


@pytest.fixture
def quick(monkeypatch):
    """The loop as it is, on an engine that computes next to nothing, with samples that are noise of their step."""

    def draw(translator, images, direction):
        outputs = np.random.RandomState(len(images)).randint(0, 256, (2, 1, 16, 16, 3), dtype=np.uint8)
        return samples.Sample(samples.grid([list(row) for row in outputs]), list(outputs), None)

    monkeypatch.setattr(loop, "make_engine", lambda run, *_: Arithmetic(run.config.poison_step))
    monkeypatch.setattr(loop._Session, "_translate", lambda self: Translator())
    monkeypatch.setattr(loop.pipeline, "read_images", lambda *_: np.zeros((1, 16, 16, 3), np.uint8))
    monkeypatch.setattr(loop.samples, "draw", draw)


@pytest.fixture
def undisturbed(data, tmp_path, quick):
    """The local folder of a run that nothing happened to."""
    assert start(data, tmp_path / "undisturbed", judge=judge, eval_every=4) == EXIT_OK
    return tmp_path / "undisturbed"


@pytest.fixture
def bucket(tmp_path):
    """A new remote folder; `seen` shows it as a local one."""
    return f"file://{tmp_path}/bucket/run"


def seen(bucket):
    return pathlib.Path(bucket.removeprefix("file://"))


@pytest.fixture
def machine(tmp_path):
    """machine(n): what the n-th machine calls `--work_dir`."""
    return lambda number: str(tmp_path / f"machine{number}")


def judge(translator):
    return {"metrics": {"kid": 0.25}, "protocol": {}}


def steps_in(folder):
    return [found.step for found in checkpoint.find(folder)]


def all_files(folder):
    return sorted(
        os.path.relpath(os.path.join(path, name), folder) for path, _, names in os.walk(folder) for name in names
    )


def fail_at(monkeypatch, number, error, wanted=lambda name: True):
    """The `number`-th object (from 1) of a wanted name is not sent; none is after it. Returns the names."""
    real, names = mirror.Mirror._put, []

    def put(self, name, *rest):
        if names and len(names) >= number:
            raise error()
        if wanted(name):
            names.append(name)
            if len(names) >= number:
                raise error()
        real(self, name, *rest)

    monkeypatch.setattr(mirror, "_TRANSFERS", 1)
    monkeypatch.setattr(mirror.Mirror, "_put", put)
    return names


def unavailable():
    return OSError(5, "the store does not answer", "ram://somewhere")


def ends_as_undisturbed(bucket, undisturbed):
    """Everything that an undisturbed run leaves is there once, and nothing else."""
    mine = seen(bucket)
    assert_same_end(undisturbed, mine)
    assert [line["step"] for line in logged(mine) if "critic/loss" in line] == [2, 4, 6, 8]
    assert [line["step"] for line in logged(mine) if "evaluation/kid" in line] == [4, 8]
    assert [event.step for event in shown(mine)["critic/loss"]] == [2, 4, 6, 8]
    assert [event.step for event in shown(mine)["evaluation/kid"]] == [4, 8]
    assert [event.step for event in shown(mine / "events" / "samples")["samples/a2b"]] == [0, 4, 8]
    assert steps_in(str(mine / "checkpoints")) == [8, 4]
    assert checkpoint.load_newest(str(mine / "best"))[0].step == 4
    local, sent = ([name for name in all_files(folder) if "tfevents" not in name] for folder in (undisturbed, mine))
    assert set(sent) - {".session"} == set(local) - {".lock"}


def test_a_run_in_a_bucket_is_the_run_that_a_local_folder_holds(
    data, bucket, machine, undisturbed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert start(data, bucket, judge=judge, eval_every=4, work_dir=machine(1)) == EXIT_OK
    assert sorted(os.listdir(".")) == ["bucket", "machine1", "undisturbed"]  # and no folder called "file:"
    ends_as_undisturbed(bucket, undisturbed)


def test_a_signal_sends_before_the_process_leaves_and_another_machine_goes_on(
    data, bucket, machine, undisturbed, tmp_path, monkeypatch, capsys
):
    real = loop._Session._after_loop

    def terminated(session, reason):
        if session._step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        real(session, reason)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Session, "_after_loop", terminated)
        options = {"judge": judge, "eval_every": 4, "async_save": True}
        assert start(data, bucket, work_dir=machine(1), **options) == EXIT_PREEMPTED
    assert steps_in(f"{bucket}/checkpoints") == [6, 4]
    assert start(data, bucket, work_dir=machine(2), **options) == EXIT_OK
    assert "steps 6 to 8" in capsys.readouterr().err
    remote.remove_folder(f"{bucket}/checkpoints/step_000000006")  # the undisturbed run has none
    ends_as_undisturbed(bucket, undisturbed)


@pytest.mark.parametrize("everywhere", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_before_any_object_a_run_goes_on_elsewhere_and_ends_as_the_undisturbed_one(
    data, bucket, machine, undisturbed, monkeypatch, everywhere
):
    """The short form: before the objects whose order matters most."""
    options = {"judge": judge, "eval_every": 4}
    with monkeypatch.context() as patch:
        names = fail_at(patch, 10**6, Killed)
        assert start(data, bucket, work_dir=machine(0), **options) == EXIT_OK
    first = ("metrics.jsonl", "checkpoints/step_000000004/state.safetensors",
             "checkpoints/step_000000004/manifest.json", "best/step_000000004/state.safetensors",
             "best/step_000000004/manifest.json")  # fmt: skip
    places = [names.index(name) for name in first]
    places.append(names.index("metrics.jsonl", names.index(first[-1])))  # with the evaluation
    assert places == sorted(places)
    for number in range(len(names)) if everywhere else places:
        remote.remove_folder(bucket)
        with monkeypatch.context() as patch:
            fail_at(patch, number + 1, Killed)
            with pytest.raises(Killed):
                start(data, bucket, work_dir=machine(f"{number}a"), **options)
        assert start(data, bucket, work_dir=machine(f"{number}b"), **options) == EXIT_OK
        ends_as_undisturbed(bucket, undisturbed)


def test_a_checkpoint_without_its_manifest_is_none(data, bucket, machine, quick, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        fail_at(patch, 1, Killed, lambda name: name == "checkpoints/step_000000004/manifest.json")
        with pytest.raises(Killed):
            start(data, bucket, work_dir=machine(1))
    assert remote.exists(f"{bucket}/checkpoints/step_000000004/state.safetensors")
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        tfaclgan.load(bucket)
    # Its folder goes when the run goes on, though no save of the same step takes its place.
    assert start(data, bucket, work_dir=machine(2), checkpoint_every=0) == EXIT_OK
    assert "steps 0 to 8" in capsys.readouterr().err
    assert remote.names(f"{bucket}/checkpoints") == ["step_000000008"]


def test_a_damaged_newest_checkpoint_is_passed_over(data, bucket, machine, undisturbed, tmp_path, capsys):
    assert start(data, bucket, work_dir=machine(1)) == EXIT_OK
    path = f"{bucket}/checkpoints/step_000000008/state.safetensors"
    content = bytearray(remote.read(path))
    content[-1] ^= 1
    remote.write(path, bytes(content))
    assert start(data, bucket, work_dir=machine(2)) == EXIT_OK
    assert "steps 4 to 8" in capsys.readouterr().err
    assert remote.exists(f"{bucket}/checkpoints/step_000000008.damaged/state.safetensors")
    assert_same_end(undisturbed, seen(bucket))


def test_what_training_removes_goes_there_too_and_the_rest_stays(data, bucket, machine, quick, capsys):
    options = {"keep_checkpoints": 2, "keep_every": 6, "checkpoint_every": 2, "keep_samples": 2, "sample_every": 2}
    remote_notes = f"{bucket}/notes.txt"
    assert start(data, bucket, work_dir=machine(1), **options) == EXIT_OK
    assert steps_in(f"{bucket}/checkpoints") == [8, 6]
    remote.write(remote_notes, b"mine")
    # A new machine fetches the newest checkpoint only, and older ones still go or stay as they should.
    assert start(data, bucket, work_dir=machine(2), recipe={"steps": 12}, **options) == EXIT_OK
    assert steps_in(f"{bucket}/checkpoints") == [12, 10, 6]
    assert [c.step for c in checkpoint.find(f"{bucket}/checkpoints") if checkpoint.load(c)] == [12, 10, 6]
    local = mirror.working_copy(bucket, machine(2))
    assert not os.path.exists(f"{local}/checkpoints/step_000000006/state.safetensors")
    assert (remote.names(f"{bucket}/samples")) == ["a2b_000000010.png", "a2b_000000012.png"]
    assert remote.read(remote_notes) == b"mine"


def test_training_goes_on_when_the_store_does_not_answer(
    data, bucket, machine, undisturbed, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        real, failed = mirror.Mirror._put, []

        def put(self, name, *rest):
            if name == "checkpoints/step_000000004/state.safetensors" and not failed:
                failed.append(name)
                raise unavailable()
            real(self, name, *rest)

        patch.setattr(mirror.Mirror, "_put", put)
        assert start(data, bucket, work_dir=machine(1)) == EXIT_OK
    [line] = [line for line in capsys.readouterr().err.splitlines() if "not sent" in line]
    assert "ram://somewhere: the store does not answer: not sent, tried again at the next save" in line
    assert steps_in(f"{bucket}/checkpoints") == [8, 4]
    assert_same_end(undisturbed, seen(bucket))


def test_what_could_not_be_sent_at_the_end_is_an_error_and_gone_on_from(
    data, bucket, machine, quick, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        fail_at(patch, 1, unavailable, lambda name: name.startswith("checkpoints/step_000000008"))
        with pytest.raises(UserError, match=r"step 8 could not be sent to .* is in .* only; .*start the same command"):
            start(data, bucket, work_dir=machine(1))
    assert steps_in(f"{bucket}/checkpoints") == [4]
    assert start(data, bucket, work_dir=machine(1)) == EXIT_OK
    assert "already trained to step 8" in capsys.readouterr().err
    assert steps_in(f"{bucket}/checkpoints") == [8, 4]
    # Sent: from now on the bucket says what the run is, also on this machine.
    remote.remove_folder(f"{bucket}/checkpoints/step_000000008")
    assert start(data, bucket, work_dir=machine(1)) == EXIT_OK
    assert "steps 4 to 8" in capsys.readouterr().err


def test_a_signal_whose_save_cannot_be_sent_does_not_say_that_all_is_saved(data, bucket, machine, quick, monkeypatch):
    real = loop._Session._after_loop

    def terminated(session, reason):
        os.kill(os.getpid(), signal.SIGTERM)
        real(session, reason)

    monkeypatch.setattr(loop._Session, "_after_loop", terminated)
    fail_at(monkeypatch, 1, unavailable, lambda name: name.startswith("checkpoints"))
    with pytest.raises(UserError, match="step 2 could not be sent"):
        start(data, bucket, work_dir=machine(1))


def test_what_could_not_be_sent_is_set_aside_where_another_machine_trained_on(
    data,
    bucket,
    machine,
    quick,
    monkeypatch,
    capsys,
):
    with monkeypatch.context() as patch:
        fail_at(patch, 1, unavailable, lambda name: name.startswith("checkpoints/step_000000008"))
        with pytest.raises(UserError):
            start(data, bucket, work_dir=machine(1))
    assert start(data, bucket, work_dir=machine(2), recipe={"steps": 6}) == EXIT_OK
    assert start(data, bucket, work_dir=machine(1)) == EXIT_OK
    out = capsys.readouterr().err
    assert "was changed since by another start: what could not be sent there is now in" in out
    assert "steps 6 to 8" in out
    [aside] = [name for name in os.listdir(machine(1)) if ".unsent-" in name]
    assert steps_in(os.path.join(machine(1), aside, "checkpoints")) == [8, 4]


def test_the_earlier_of_two_processes_stops(data, bucket, machine, quick, monkeypatch):
    real = loop._Session._after_loop

    def overtaken(session, reason):
        if session._step == 2:
            monkeypatch.setattr(loop._Session, "_after_loop", real)
            assert start(data, bucket, work_dir=machine(2), recipe={"steps": 6}) == EXIT_OK
        real(session, reason)

    monkeypatch.setattr(loop._Session, "_after_loop", overtaken)
    with pytest.raises(UserError, match="another process has begun to train there"):
        start(data, bucket, work_dir=machine(1))
    assert steps_in(f"{bucket}/checkpoints") == [6, 4]


def test_a_remote_folder_of_another_run_is_refused_and_left_alone(data, bucket, machine, quick):
    assert start(data, bucket, work_dir=machine(1)) == EXIT_OK
    before = all_files(seen(bucket))
    with pytest.raises(UserError, match=f"--run_dir={bucket}: these flags would change its networks"):
        start(data, bucket, config=Config(width=8), work_dir=machine(2))
    remote.make_folder(bucket + "_other")
    remote.write(bucket + "_other/notes.txt", b"mine")
    with pytest.raises(UserError, match="not empty and holds no run"):
        start(data, bucket + "_other", work_dir=machine(2))
    assert all_files(seen(bucket)) == before
    assert all_files(seen(bucket + "_other")) == ["notes.txt"]
    assert not os.path.exists(machine(2))


def test_a_working_folder_that_is_none_is_refused(data, bucket, machine):
    local = mirror.working_copy(bucket, machine(1))
    os.makedirs(local)
    with open(os.path.join(local, "thesis.txt"), "w") as file:
        file.write("mine")
    with pytest.raises(UserError, match="is no working copy"):
        start(data, bucket, work_dir=machine(1))
    assert os.path.exists(os.path.join(local, "thesis.txt"))
    assert not remote.exists(bucket)


@pytest.mark.slow
def test_a_remote_run_is_loaded_evaluated_and_described_where_it_is(data, bucket, machine, tmp_path):
    assert start(data, bucket, judge=judge, eval_every=4, work_dir=machine(1)) == EXIT_OK
    translator = tfaclgan.load(bucket)
    state = checkpoint.load_newest(f"{bucket}/checkpoints")[1]
    variables = engine_base.named_variables(translator.networks["generator"])
    for name, variable in variables.items():
        np.testing.assert_array_equal(variable.numpy(), state[f"networks/generator/{name}"])
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    given = tfaclgan.save_pretrained(bucket, str(tmp_path / "given"))
    np.testing.assert_array_equal(tfaclgan.load(given).translate(images), translator.translate(images))
    card = (tmp_path / "given" / "README.md").read_text()
    assert rundir.data_fingerprint(data.folder) in card
    assert "step_000000008: kid 0.25" in card
    assert tfaclgan.load(bucket, checkpoint="best").run.method is TOY
    with pytest.raises(UserError, match="must be on this machine"):
        tfaclgan.save_pretrained(bucket, "gs://elsewhere/given")


def test_the_bundle_of_a_step_that_is_not_finite_is_sent(data, bucket, machine, quick):
    code = start(data, bucket, config=Config(poison_step=5), checkpoint_every=2, work_dir=machine(1))
    assert code == EXIT_NON_FINITE
    found = bundle.newest(bucket)
    assert (found.step, found.checkpoint.step) == (5, 4)
    assert found.path.startswith(bucket)
    assert int(checkpoint.load(found.checkpoint)["step"]) == 4
    assert bundle.read_batch(found)["a"].shape == (4, 16, 16, 3)


def test_an_imported_run_is_sent_whole_or_not_at_all(bucket):
    for error in (Killed, None):
        with contextlib.suppress(Killed), importer._whole_run(bucket) as folder:
            rundir.open_run(rundir.Run(folder, TOY, Config(), (16, 16, 3), {}))
            checkpoint.save(os.path.join(folder, "checkpoints"), {"step": np.int64(3)}, 3)
            if error:
                raise error
        assert remote.exists(bucket) == (error is None)
    assert rundir.read_run(bucket).method is TOY
    assert checkpoint.load_newest(f"{bucket}/checkpoints")[0].step == 3
    with pytest.raises(UserError, match="an import overwrites nothing"):
        importer.check_target(bucket)


def test_data_in_a_bucket(data, bucket, machine, quick):
    there = "ram://data-in-a-bucket"
    remote.make_folder(there)
    for name in os.listdir(data.folder):
        remote.copy(os.path.join(data.folder, name), f"{there}/{name}")
    assert start(records.load_manifest(there), bucket, config=Config(poison_step=5), work_dir=machine(1)) == 3
    [begun] = json.loads(remote.read(f"{bucket}/environment.json"))["starts"]
    assert begun["data_fingerprint"] == rundir.data_fingerprint(data.folder)
    assert bundle.newest(bucket).data_dir == there


def test_the_command_refuses_remote_places_for_what_is_local_and_unknown_stores(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, said in (
        (("--mode=translate", "--input=gs://b/x", "--output=y"), "--input=gs://b/x: must be on this machine"),
        (("--mode=translate", "--input=x", "--output=gs://b/y"), "--output=gs://b/y: must be on this machine"),
        (("--data_dir=x", "--run_dir=gs://b/r", "--work_dir=gs://b/w"), "--work_dir=gs://b/w: must be on this machine"),
        (("--data_dir=x", "--run_dir=sftp://h/r"), "--run_dir=sftp://h/r: this TensorFlow has no file system for sftp"),
        (("--data_dir=sftp://h/d",), "--data_dir=sftp://h/d: this TensorFlow has no file system for sftp"),
        (("--mode=evaluate", "--run_dir=ram://nowhere/run"), "--run_dir=ram://nowhere/run: no such folder"),
        (("--mode=debug", "--run_dir=ram://nowhere/run/"), "ram://nowhere/run/broken: holds no reproduction bundle"),
    ):
        assert call(*arguments) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_reasons_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"--run_dir=sftp://h/x: this TensorFlow has no file system for sftp://"):
        remote.require("sftp://h/x", "--run_dir")
    with pytest.raises(OSError, match="sftp") as caught:
        remote.read("sftp://h/x")
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        remote.read("ram://nowhere/at/all")
    assert remote.names("ram://nowhere/at/all") == []
