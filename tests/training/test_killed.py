"""A training process ended at random moments and started again ends as one that never was.

Which moments are met is planned and noted, see killed_run.py: the stage, and how far into it. `KILLS=30` for another
number of moments of the toy method, `KILLS_METHODS=10` for each of the others.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time

import folder_of_records
import killed_run
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_file_loader
from tensorboard.util import tensor_util

from tfaclgan.methods import base
from tfaclgan.training import checkpoint

SCRIPT = pathlib.Path(killed_run.__file__)
COMMON = ("--batch_size=2", "--steps_per_loop=2", "--keep_checkpoints=2", "--keep_samples=3", "--ema_decay=0.9",
          "--deterministic", "--strategy=cpu", "--sample_count=2", "--extractor=none",
          "--checkpoint_every_steps=2", "--sample_every_steps=4")  # fmt: skip
# Of the toy, the log's interval is no multiple of the checkpoints': what was summed has to survive too.
LONG = ("--image_size=16", "--load_size=16", "--log_every_steps=6", "--eval_every_steps=4", "--steps=24")
SHORT = ("--image_size=32", "--load_size=32", "--log_every_steps=4", "--eval_every_steps=2", "--steps=6")
MUNIT = ("width=4", "residual_blocks=1", "mlp_dim=8", "discriminator_width=4", "discriminator_scales=1",
         "discriminator_layers=2")  # fmt: skip
OPTIONS = {
    "acl_gan": MUNIT,
    "munit": MUNIT,
    "council_gan": MUNIT,
    "cyclegan": ("width=4", "residual_blocks=1", "discriminator_width=4", "discriminator_layers=2", "pool_size=3"),
    "ugatit": ("width=4", "residual_blocks=1", "discriminator_width=4", "global_layers=4", "local_layers=3"),
}
KINDS = ("kill",) * 5 + ("power",) * 3 + ("power_names",) * 2 + ("term",) * 2


def test_every_registered_method_has_options_here():
    assert sorted(OPTIONS) == base.names()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder_of_records.write(tmp_path_factory.mktemp("data"), size=32)


@pytest.fixture(scope="module")
def server():
    with serving() as process:
        yield process


@contextlib.contextmanager
def serving():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(60)


class Subject:
    """A method trained in a folder of its own, undisturbed and disturbed."""

    def __init__(self, server, method, data, folder, replicas):
        self.server, self.folder, self.shadow = server, folder, str(folder / "shadow")
        options = LONG if method == "toy" else (*SHORT, *(f"--{method}.{option}" for option in OPTIONS[method]))
        self.flags = [f"--method={method}", f"--data_dir={data}", *COMMON, *options, f"--cpu_devices={replicas}"]
        self.last = int(options[4].removeprefix("--steps="))
        self.journal, self.amounts = str(folder / "journal"), {}

    def start(self, run_dir, moment=None, asynchronous=False):
        """Runs until the moment or the end; returns the exit code (negative: a signal) and the journal's new lines."""
        before = len(self._lines())
        job = {
            "argv": [*self.flags, f"--run_dir={run_dir}", *(["--async_save"] if asynchronous else [])],
            "log": str(self.folder / "log"),
            "journal": self.journal,
            "moment": moment,
            "amounts": self._amounts(moment),
            "top": str(self.folder),
            "shadow": self.shadow,
        }
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline()), self._lines()[before:]

    def undisturbed(self):
        """The result of a run that nothing happens to; how much there is to do in each stage is learnt from it."""
        run_dir = str(self.folder / "alone")
        code, lines = self.start(run_dir)
        assert code == 0, self.log()
        measured = collections.defaultdict(list)
        for line in lines:
            if "stage" in line:
                measured[line["stage"], line["turn"] > 1].append(line["amount"])
        self.amounts = {key: statistics.median(values) for key, values in measured.items()}
        state = os.path.join(run_dir, "checkpoints", f"step_{self.last:09d}", "state.safetensors")
        self.bytes = os.path.getsize(state)
        return result(run_dir, self.last)

    def log(self):
        return (self.folder / "log").read_text()[-4000:]

    def _amounts(self, moment):
        if not moment:
            return {}
        key = moment["stage"], moment["turn"] > 1
        return {moment["stage"]: self.amounts.get(key, self.amounts.get((key[0], False), 0.0))}

    def _lines(self):
        if not os.path.exists(self.journal):
            return []
        with open(self.journal) as file:
            return [json.loads(line) for line in file]


def result(run_dir, last):
    """Everything that must be equal; asserts that nothing is there twice or half written."""
    found = checkpoint.find(os.path.join(run_dir, "checkpoints"))
    assert found[0].step == last
    best = checkpoint.find(os.path.join(run_dir, "best"))
    half = [name for _, folders, names in os.walk(run_dir) for name in (*folders, *names) if is_half(name)]
    assert not half
    return {
        "state": checkpoint.load(found[0]),
        "checkpoints": [c.step for c in found],
        "best": [(c.step, c.metric) for c in best],
        "best_state": checkpoint.load(best[0]),
        "log": logged(run_dir),
        "events": {name: events(os.path.join(run_dir, name)) for name in (".", "events/samples")},
        "samples": files(os.path.join(run_dir, "samples")),
        "evaluations": files(os.path.join(run_dir, "evaluations")),
    }


def is_half(name):
    return any(part in name for part in (".writing-", ".removing-", ".partial", ".tmp"))


def of_the_clock(name):
    return name.startswith(("time", "throughput"))


def logged(run_dir):
    """{step: {name: value}} of metrics.jsonl, without what a clock says."""
    found = {}
    with open(os.path.join(run_dir, "metrics.jsonl")) as file:
        for line in map(json.loads, file):
            values = found.setdefault(line["step"], {})
            for name, value in line.items():
                if name != "step" and not of_the_clock(name):
                    assert name not in values, f"{name} of step {line['step']} was logged twice"
                    values[name] = value
    return {step: values for step, values in found.items() if values}


def events(folder):
    """{(tag, step): value} of a folder's TensorBoard files, without what a clock says."""
    found = {}
    for name in sorted(os.listdir(folder)):
        if "tfevents" in name:
            for event in event_file_loader.EventFileLoader(os.path.join(folder, name)).Load():
                for value in event.summary.value:
                    if not of_the_clock(value.tag):
                        key = value.tag, event.step
                        assert key not in found, f"{key} is in TensorBoard twice"
                        found[key] = tensor_util.make_ndarray(value.tensor).tolist()
    return found


def files(folder):
    return {
        os.path.relpath(os.path.join(path, name), folder): hashlib.sha256(
            pathlib.Path(path, name).read_bytes()
        ).hexdigest()
        for path, _, names in os.walk(folder)
        for name in names
    }


def assert_equal(actual, expected):
    for name in ("state", "best_state"):
        assert actual[name].keys() == expected[name].keys()
        different = [key for key, value in expected[name].items() if not np.array_equal(actual[name][key], value)]
        assert not different, name
    for name in sorted(expected.keys() - {"state", "best_state", "events"}):
        assert actual[name] == expected[name], name
    for folder, values in expected["events"].items():
        found = actual["events"][folder]
        missing, extra = sorted(values.keys() - found.keys()), sorted(found.keys() - values.keys())
        assert (missing, extra, [key for key in values if found[key] != values[key]]) == ([], [], []), folder


def end_often(subject, moments, seed):
    """Ends runs at `moments` moments; returns what was met. Each run goes on until it is done, then the next begins."""
    expected = subject.undisturbed()
    draw, met, runs, planned, missed = random.Random(seed), [], 0, 0, 0
    run_dir = str(subject.folder / "run0")
    while len(met) < moments:
        moment = plan(draw, planned, subject)
        asynchronous = draw.random() < 0.5
        newest = newest_step(run_dir)
        code, lines = subject.start(run_dir, moment, asynchronous)
        saved = max([newest, *(line["saved"] for line in lines if "saved" in line)])
        found = [line for line in lines if "met" in line]
        planned += bool(found)
        met += found
        allowed = {"kill": (-9,), "power": (-9,), "power_names": (-9,), "term": (-15, 42), "full": (2,)}
        assert code in ((*allowed[moment["kind"]], 0) if found else (0,)), (code, moment, subject.log())
        if found and moment["kind"].startswith("power"):
            killed_run.power_loss(
                str(subject.folder), run_dir, subject.shadow, names_survive=moment["kind"] == "power_names"
            )
            assert newest_step(run_dir) >= saved, (moment, saved)  # what was saved once is there
        if code == 0:
            assert_equal(result(run_dir, subject.last), expected)
            runs += 1
            run_dir = str(subject.folder / f"run{runs}")
        missed = 0 if found else missed + 1
        assert missed < 20
    code, _ = subject.start(run_dir)
    assert code == 0, subject.log()
    assert_equal(result(run_dir, subject.last), expected)
    return met


def plan(draw, number, subject):
    """The next moment: all stages in turn, each at a random place of one of the first times it is met."""
    stages = killed_run.STAGES
    stage = stages[number % len(stages)]
    kind = draw.choice((*KINDS, "full", "full", "full", "full") if stage == "save" else KINDS)
    place = draw.random() if draw.random() < 0.5 else 1 - 10 ** draw.uniform(-4, -1)  # files are written at the end
    turn = 1 if stage in ("start", "compile") else draw.choice((1, 1, 2, 3))
    return {"stage": stage, "turn": turn, "kind": kind, "place": place, "bytes": subject.bytes}


def newest_step(run_dir):
    found = checkpoint.find(os.path.join(run_dir, "checkpoints"))
    return found[0].step if found else 0


def report(name, met, started):
    """One line for docs/reliability.md (pytest -s)."""
    stages = collections.Counter(line["met"] for line in met)
    kinds = collections.Counter(line["kind"] for line in met)
    print(
        f"\n{name}: {len(met)} of {len(met)} moments: {dict(stages)}, {dict(kinds)}, {time.monotonic() - started:.0f} s"
    )


def test_ended_three_times(server, data, tmp_path):
    met = end_often(Subject(server, "toy", data, tmp_path, 1), 3, seed=4)
    assert len({line["met"] for line in met}) == 3


@pytest.mark.slow
def test_the_toy_ended_at_a_hundred_moments(server, data, tmp_path):
    moments, met, started = int(os.environ.get("KILLS", 100)), [], time.monotonic()
    for replicas, share in ((1, moments * 3 // 5), (2, moments - moments * 3 // 5)):
        folder = tmp_path / str(replicas)
        folder.mkdir()
        met += end_often(Subject(server, "toy", data, folder, replicas), share, seed=replicas)
    report("toy", met, started)
    assert len(met) == moments
    stages = collections.Counter(line["met"] for line in met)
    assert min(stages[stage] for stage in killed_run.STAGES) >= moments // 10


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("method", sorted(OPTIONS))
def test_every_method_ended_often(server, data, tmp_path, method, replicas):
    moments, started = int(os.environ.get("KILLS_METHODS", 7)), time.monotonic()
    met = end_often(Subject(server, method, data, tmp_path, replicas), moments, seed=replicas)
    report(f"{method}, {replicas} replicas", met, started)
    assert len(met) == moments
