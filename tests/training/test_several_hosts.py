"""Two processes as two hosts train what one process trains; one of them holds the run directory."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import folder_of_records
import numpy as np
import pytest
from tiny_methods import TINY, flags_of

from tfaclgan.errors import EXIT_PREEMPTED
from tfaclgan.training import checkpoint

pytestmark = pytest.mark.slow

COMMON = ("--image_size=32", "--load_size=32", "--batch_size=2", "--log_every_steps=2", "--sample_every_steps=4",
          "--checkpoint_every_steps=4", "--steps_per_loop=2", "--augment=flip", "--learning_rate=1e-4")  # fmt: skip
# The mask bound of ACL-GAN averages over all replicas inside the loss: one more collective in the loop. So does the toy
# method, which JAX compiles in seconds.
TOY = ("--method=toy", "--toy.couple")

METHODS = {"tensorflow": flags_of("acl_gan"), "jax": TOY}
# Adam's root makes steps of one size out of gradients of any size, rounding included; beside this epsilon it does not.
PLAIN_STEPS = ("--adam_epsilon=0.1", "--learning_rate=1e-4")
SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "toy_command.py")  # the command, with the toy method


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder_of_records.write(tmp_path_factory.mktemp("data"), size=32)


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(data, run_dir, steps, host=None, ports=(), engine="tensorflow", options=(), method=None, **environment):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2", **environment}
    strategy = "cpu"
    if host is not None:
        strategy = "multiworker"
        workers = [f"localhost:{port}" for port in ports]
        environment["TF_CONFIG"] = json.dumps(
            {"cluster": {"worker": workers}, "task": {"type": "worker", "index": host}}
        )
    return subprocess.Popen(
        [sys.executable, SCRIPT, *(method or METHODS[engine]), *COMMON, f"--data_dir={data}", f"--run_dir={run_dir}",
         f"--steps={steps}", f"--strategy={strategy}", f"--engine={engine}", *options],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(*processes):
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def pair(data, run_dir, steps, engine, *options):
    ports = (free_port(), free_port())
    return [start(data, run_dir, steps, host, ports, engine, *options) for host in (0, 1)]


@pytest.fixture(params=["tensorflow", "jax"])
def engine(request):
    pytest.importorskip(request.param, reason="JAX needs Python 3.11")
    return request.param


def newest(run_dir):
    return checkpoint.load_newest(os.path.join(run_dir, "checkpoints"))


@pytest.mark.parametrize("name", [*TINY, "toy on jax"])
def test_two_hosts_train_what_one_process_trains_and_go_on_from_its_checkpoint(data, tmp_path, name):
    engine, method = ("jax", TOY) if name == "toy on jax" else ("tensorflow", flags_of(name))
    pytest.importorskip(engine, reason="JAX needs Python 3.11")
    alone, together = str(tmp_path / "alone"), str(tmp_path / "together")
    codes, outputs = finish(start(data, alone, 8, None, (), engine, PLAIN_STEPS, method))
    assert codes == [0], outputs
    for steps in (4, 8):  # stopped and started again in between
        codes, outputs = finish(*pair(data, together, steps, engine, PLAIN_STEPS, method))
        assert codes == [0, 0], outputs
    expected, actual = newest(alone)[1], newest(together)[1]
    assert expected.keys() == actual.keys()
    for network in {key.split("/")[1] for key in expected if key.startswith("networks/")}:
        theirs, ours = (
            np.concatenate([state[key].ravel() for key in sorted(state) if key.startswith(f"networks/{network}/")])
            for state in (expected, actual)
        )
        apart = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        print(name, network, apart)
        assert apart <= 1e-5, network
    lines = [[json.loads(line) for line in open(os.path.join(path, "metrics.jsonl"))] for path in (alone, together)]
    losses = [{(line["step"], key): line[key] for line in of for key in line if key.endswith("/loss")} for of in lines]
    assert len(losses[0]) >= 8
    assert losses[1] == pytest.approx(losses[0], rel=1e-5, abs=1e-6)


def test_two_hosts_share_a_run_in_a_bucket(data, tmp_path):
    """Each host has a disk of its own, and after a stop a new one."""
    bucket = f"file://{tmp_path}/bucket/run"
    for steps in (4, 8):
        ports = (free_port(), free_port())
        codes, outputs = finish(
            *(
                start(data, bucket, steps, host, ports, "jax", [f"--work_dir={tmp_path}/disk{steps}{host}"])
                for host in (0, 1)
            )
        )
        assert codes == [0, 0], outputs
        assert newest(bucket)[0].step == steps
    assert "steps 4 to 8" in outputs[0]
    assert not os.path.exists(tmp_path / "disk81")


def test_a_signal_to_one_host_stops_both_with_everything_saved(data, tmp_path, engine):
    run_dir = str(tmp_path / "run")
    processes = pair(data, run_dir, 100_000, engine)
    deadline = time.time() + 200
    while not os.path.isdir(os.path.join(run_dir, "checkpoints", "step_000000004")) and time.time() < deadline:
        time.sleep(0.5)
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs = finish(*processes)
    assert codes == [EXIT_PREEMPTED, EXIT_PREEMPTED], outputs
    assert "another host was told to stop: saved at step" in outputs[0]
    assert newest(run_dir)[0].step >= 4


def test_a_host_that_dies_is_reported_in_one_line_and_both_can_go_on(data, tmp_path, engine):
    run_dir = str(tmp_path / "run")
    processes = pair(data, run_dir, 100_000, engine)
    deadline = time.time() + 200
    while not os.path.isdir(os.path.join(run_dir, "checkpoints", "step_000000004")) and time.time() < deadline:
        time.sleep(0.5)
    processes[1].kill()
    processes[1].wait()
    codes, outputs = finish(processes[0])
    assert codes == [2], outputs
    assert "another host no longer answers" in outputs[0]
    saved = newest(run_dir)[0].step
    codes, outputs = finish(*pair(data, run_dir, saved + 4, engine))
    assert codes == [0, 0], outputs
    assert f"steps {saved} to {saved + 4}" in outputs[0]
    assert "Traceback" not in outputs[0]
