"""A training process killed (SIGKILL) at random moments and started again ends as one that never was.

`KILLS=100 make test-all TESTS=tests/training/test_killed.py` for more moments than the default.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time

import folder_of_records
import numpy as np
import pytest

from tfaclgan.training import checkpoint

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "killed_run.py")
STEPS = 24
COMMON = ("--image_size=16", "--load_size=16", "--batch_size=2", "--steps_per_loop=2", "--log_every_steps=2",
          "--sample_every_steps=4", "--checkpoint_every_steps=2", "--keep_checkpoints=3", "--ema_decay=0.9",
          "--deterministic", "--strategy=cpu", "--sample_count=2", f"--steps={STEPS}")  # fmt: skip
MUNIT = ("width=4", "residual_blocks=1", "mlp_dim=8", "discriminator_width=4", "discriminator_scales=1",
         "discriminator_layers=2")  # fmt: skip
OPTIONS = {
    "toy": (),
    "acl_gan": (*(f"--acl_gan.{option}" for option in MUNIT), "--image_size=32", "--load_size=32"),
    # an image pool has to survive too
    "cyclegan": ("--cyclegan.width=4", "--cyclegan.residual_blocks=1", "--cyclegan.discriminator_width=4",
                 "--cyclegan.discriminator_layers=2", "--cyclegan.pool_size=3", "--image_size=32", "--load_size=32"),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder_of_records.write(tmp_path_factory.mktemp("data"), size=32)


def start(method, data, run_dir, replicas):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, SCRIPT, f"--method={method}", f"--data_dir={data}", f"--run_dir={run_dir}", *COMMON,
               *OPTIONS[method], f"--cpu_devices={replicas}"]  # fmt: skip
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    return output


def result(run_dir):
    """Everything that must be equal: final arrays, logged losses, bytes of the sample pictures."""
    newest, state = checkpoint.load_newest(os.path.join(run_dir, "checkpoints"))
    assert newest.step == STEPS
    losses = {}
    with open(os.path.join(run_dir, "metrics.jsonl")) as file:
        for line in map(json.loads, file):
            step = {name: v for name, v in line.items() if not name.startswith(("time", "throughput"))}
            if len(step) > 1:
                assert line["step"] not in losses, f"step {line['step']} was logged twice"
                losses[line["step"]] = step
    assert sorted(losses) == list(range(2, STEPS + 1, 2))
    folder = os.path.join(run_dir, "samples")
    pictures = {}
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as file:
            pictures[name] = hashlib.sha256(file.read()).hexdigest()
    return state, losses, pictures


def kill_often(method, data, folder, kills, replicas=1, seed=0):
    """Kills at moments spread over the undisturbed run's life; returns how often a kill met a living process."""
    alone = str(folder / "alone")
    started = time.perf_counter()
    finish(start(method, data, alone, replicas))
    life = time.perf_counter() - started
    expected = result(alone)
    moments, killed = random.Random(seed), 0
    run_dir = str(folder / "killed")
    while killed < kills:
        process = start(method, data, run_dir, replicas)
        try:
            process.communicate(timeout=moments.uniform(0.2, 1.1) * life)
            assert process.returncode == 0  # it reached the end: begin a new run
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
        if process.returncode == 0:
            assert_equal(result(run_dir), expected)
            run_dir = str(folder / f"killed{killed}")
    finish(start(method, data, run_dir, replicas))
    assert_equal(result(run_dir), expected)


def assert_equal(actual, expected):
    assert actual[0].keys() == expected[0].keys()
    different = [name for name, value in expected[0].items() if not np.array_equal(actual[0][name], value)]
    assert not different
    assert actual[1:] == expected[1:]


def test_killed_three_times(data, tmp_path):
    kill_often("toy", data, tmp_path, kills=3)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "replicas"), [("toy", 1), ("toy", 2), ("acl_gan", 1), ("cyclegan", 1)])
def test_killed_often(data, tmp_path, method, replicas):
    kills = int(os.environ.get("KILLS", "25" if method == "toy" else "8"))
    kill_often(method, data, tmp_path, kills, replicas, seed=1)
