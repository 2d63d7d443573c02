"""A `tf.data` service over loopback makes the batches that one host would, whatever becomes of its workers."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time

import command
import folder_of_records
import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.data import reading, records, service
from tfaclgan.data.pipeline import PipelineOptions, training_dataset
from tfaclgan.errors import UserError
from tfaclgan.training import checkpoint

TOY = os.path.join("tests", "training", "toy_command.py")
OPTIONS = PipelineOptions(16, 16, 18, augment="flip")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPT = os.path.join(ROOT, "data_tools", "data_service.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return records.load_manifest(folder_of_records.write(tmp_path_factory.mktemp("data")))


def worker(dispatcher):
    address = dispatcher.target.removeprefix("grpc://")
    config = tf.data.experimental.service.WorkerConfig(dispatcher_address=address, heartbeat_interval_ms=100)
    return tf.data.experimental.service.WorkerServer(config)


@pytest.fixture(scope="module")
def served():
    """The address of a dispatcher with two workers."""
    dispatcher = tf.data.experimental.service.DispatchServer()
    workers = [worker(dispatcher), worker(dispatcher)]
    yield dispatcher.target
    del workers


def first(count, *arguments, **options):
    return list(training_dataset(*arguments, **options).take(count).as_numpy_iterator())


def assert_same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert np.array_equal(one[name], other[name]), name


def test_batches_are_those_of_one_host_in_their_order(data, served):
    arguments = {"global_batch": 2, "first_step": 3}
    expected = first(12, data, OPTIONS, **arguments)
    assert_same(first(12, data, OPTIONS, service=served, **arguments), expected)
    seen = {key for batch in expected for key in batch["key_a"]}
    assert len(seen) == 6  # an epoch's, and more


def test_every_host_gets_its_own_share(data, served):
    arguments = {"global_batch": 4, "host": 1, "hosts": 2, "replicas_per_host": 2, "first_step": 1}
    assert_same(
        first(6, data, OPTIONS, service=served, **arguments),
        first(6, data, OPTIONS, **arguments),
    )


def test_what_a_lost_worker_took_with_it_is_made_here(data):
    local = iter(training_dataset(data, OPTIONS, global_batch=2).as_numpy_iterator())
    expected = {position: next(local) for position in range(80)}
    lost = {3, 4, 40}
    arrivals = [position for position in range(80) if position not in lost]
    arrivals[10:12] = arrivals[10:12][::-1]

    class Remote:
        def as_numpy_iterator(self):
            return ({service.POSITION: position, **expected[position]} for position in arrivals)

    made = []

    def made_here(position):
        made.append(position)
        return expected[position]

    taken = service._in_order(Remote(), 0, made_here, "grpc://there:1")
    assert_same([next(taken) for _ in range(80 - service._MOST_WAITING - 1)], [*expected.values()][: 80 - 33])
    assert set(made) <= lost
    assert {3, 4} <= set(made)
    taken.close()


def test_without_any_worker_this_host_makes_them(data, monkeypatch, capfd):
    dispatcher = tf.data.experimental.service.DispatchServer()
    monkeypatch.setattr(service, "_PATIENCE_SECS", 0.5)
    arguments = {"global_batch": 2}
    assert_same(first(4, data, OPTIONS, service=dispatcher.target, **arguments), first(4, data, OPTIONS, **arguments))
    assert capfd.readouterr().err.count("this host makes them itself") == 1


@pytest.mark.parametrize("address", ["there", "grpc://:5", "there:0", "there:66000", "http://there:80", "a:b:c"])
def test_what_is_no_address_is_told_in_one_line(address):
    with pytest.raises(UserError, match=r"not grpc://HOST:PORT") as caught:
        service.check(address)
    assert "\n" not in str(caught.value)


def test_where_nobody_answers_is_told_in_one_line(data):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"grpc://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=r"nobody answers there .*--role=dispatcher") as caught:
        training_dataset(data, OPTIONS, global_batch=2, service=address)
    assert "\n" not in str(caught.value)


def test_a_damaged_record_is_told(tmp_path, served):
    folder = folder_of_records.write(tmp_path)
    path = tmp_path / "trainA-00000-of-00001.tfrecord"
    content = bytearray(path.read_bytes())
    for position in range(200, len(content), 500):
        content[position] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(tf.errors.OpError) as caught:
        first(6, records.load_manifest(folder), OPTIONS, global_batch=2, service=served)
    told = str(reading.explain(caught.value))
    assert re.fullmatch(rf"--data_service={served}: a worker failed: .*corrupted record at \d+", told)
    assert "\n" not in told


def test_passing_over_bad_records_is_refused(capsys):
    assert command.call("--data_dir=data", "--data_service=grpc://there:1", "--on_bad_record=skip") == 2
    assert "cannot pass over bad records" in capsys.readouterr().err


def data_service(*arguments):
    """A process of the command, and the line it prints once it listens."""
    process = subprocess.Popen([sys.executable, SCRIPT, *arguments], stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["tensorflow", "jax"])
def test_training_survives_its_workers_and_ends_as_it_would_without(tmp_path, engine):
    """A worker is killed while training runs, then the rest of the service."""
    if engine == "jax":
        pytest.importorskip("jax", reason="JAX needs Python 3.11")
    folder = folder_of_records.write(tmp_path / "data")
    dispatcher, said = data_service("--role=dispatcher")
    address = f"grpc://127.0.0.1:{said.split(';')[0].split()[-1]}"
    workers = [data_service("--role=worker", f"--dispatcher={address}")[0] for _ in range(2)]
    training_command = [
        sys.executable, TOY, "--method=toy", "--image_size=16", "--load_size=18", "--augment=flip", "--batch_size=2",
        "--strategy=cpu", "--sample_every_steps=0", "--log_every_steps=100", "--steps_per_loop=10",
        f"--data_dir={folder}", f"--engine={engine}",
    ]  # fmt: skip
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    options = {"env": environment, "cwd": ROOT, "stderr": subprocess.PIPE, "text": True}
    steps = 6000
    log = tmp_path / "served" / "metrics.jsonl"
    try:
        arguments = [f"--run_dir={tmp_path / 'served'}", f"--steps={steps}", f"--data_service={address}"]
        training = subprocess.Popen([*training_command, *arguments], **options)
        for process in (workers[0], workers[1], dispatcher):
            seen = log.read_text().count("\n") if log.exists() else 0
            while (log.read_text().count("\n") if log.exists() else 0) < seen + 3:
                assert training.poll() is None, "training ended before the service did"
                time.sleep(0.1)
            process.kill()
        _, said = training.communicate(timeout=600)
    finally:
        for process in (*workers, dispatcher):
            process.kill()
    assert training.returncode == 0, said
    assert "this host makes them itself" in said
    subprocess.run([*training_command, f"--run_dir={tmp_path / 'alone'}", f"--steps={steps}"], check=True, **options)
    served, alone = (checkpoint.load_newest(str(tmp_path / name / "checkpoints"))[1] for name in ("served", "alone"))
    assert served.keys() == alone.keys()
    assert [name for name in served if not np.array_equal(served[name], alone[name])] == []


@pytest.mark.slow
def test_a_service_process_tells_mistakes_in_one_line_and_stops_when_told(tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, words in (
            (["--role=worker"], "--dispatcher=grpc://HOST:PORT belongs to --role=worker"),
            (["--role=dispatcher", f"--port={port}"], f"--port={port}: cannot listen there"),
        ):
            done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=300)
            assert done.returncode == 2
            assert words in done.stderr.splitlines()[-1]
            assert "Traceback" not in done.stderr
    dispatcher, _ = data_service("--role=dispatcher")
    dispatcher.send_signal(signal.SIGTERM)
    assert dispatcher.wait(60) == 0
