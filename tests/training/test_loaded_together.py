"""What runs share: a data folder, a compilation cache, a machine whose TMPDIR is full and whose data are read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import folder_of_records
import numpy as np
import pytest

from tfaclgan import quiet
from tfaclgan.errors import UserError
from tfaclgan.training import checkpoint, rundir

TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
# The command with the toy method.
PROGRAM = f"""
import sys
sys.path.insert(0, {TESTS!r})
from toy import TOY
from tfaclgan import main
from tfaclgan.methods import base
base.names()
base.register(TOY)
sys.exit(main.main(sys.argv))
"""
FLAGS = ("--method=toy", "--image_size=16", "--load_size=16", "--batch_size=2", "--steps=4", "--log_every_steps=2",
         "--sample_every_steps=2", "--checkpoint_every_steps=2", "--eval_every_steps=2", "--extractor=none",
         "--strategy=cpu")  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder_of_records.write(tmp_path_factory.mktemp("data"), size=16)


def command(data, run_dir, *flags):
    return [sys.executable, "-c", PROGRAM, *FLAGS, f"--data_dir={data}", f"--run_dir={run_dir}", *flags]


def environment(**more):
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", **more}


def weights(run_dir):
    return checkpoint.load_newest(os.path.join(run_dir, "checkpoints"))[1]


def assert_same(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    assert [name for name in one if not np.array_equal(one[name], other[name])] == []


@pytest.mark.slow
def test_runs_that_share_data_and_a_compilation_cache(data, tmp_path):
    """Three at once, then one that finds the cache filled: all end alike."""
    cache = f"--tf_xla_persistent_cache_directory={tmp_path / 'cache'}"
    shared = environment(TF_XLA_FLAGS=f"{cache} --tf_xla_persistent_cache_device_types=CPU")
    (tmp_path / "cache").mkdir()
    before = listing(data)
    names = ("one", "two", "three")
    processes = [subprocess.Popen(command(data, tmp_path / name, "--xla=on"), env=shared, stderr=-1) for name in names]
    for process in processes:
        _, output = process.communicate(timeout=500)
        assert process.returncode == 0, output
    assert os.listdir(tmp_path / "cache")
    subprocess.run(command(data, tmp_path / "later", "--xla=on"), env=shared, check=True, timeout=500)
    for name in ("two", "three", "later"):
        assert_same(tmp_path / "one", tmp_path / name)
    assert listing(data) == before


def listing(folder):
    return {entry.name: (entry.stat().st_size, entry.stat().st_mtime_ns) for entry in os.scandir(folder)}


def may_mount():
    if not shutil.which("unshare"):
        return False
    tried = subprocess.run(["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "none", "/mnt"], stderr=-1)
    return tried.returncode == 0


@pytest.mark.slow
def test_read_only_data_and_a_full_tmpdir(data, tmp_path):
    if not may_mount():
        pytest.skip("no mounts in a namespace of one's own here")
    (tmp_path / "full").mkdir()
    script = (
        'set -e; mount -t tmpfs -o size=4k none "$TMPDIR"; '
        'dd if=/dev/zero of="$TMPDIR/rest" bs=4k count=2 2>/dev/null || true; '
        'mount --bind "$DATA" "$DATA"; mount -o remount,bind,ro "$DATA"; '
        'if touch "$DATA/x" 2>/dev/null || echo more 2>/dev/null >"$TMPDIR/y"; then exit 99; fi; exec "$@"'
    )
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", *command(data, tmp_path / "there")],
        env=environment(TMPDIR=str(tmp_path / "full"), DATA=str(data)),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    subprocess.run(command(data, tmp_path / "elsewhere"), env=environment(), check=True, timeout=500)
    assert_same(tmp_path / "there", tmp_path / "elsewhere")


def test_chatter_is_held_back_without_a_temporary_folder(monkeypatch, capfd):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(quiet.tempfile, "TemporaryFile", full)
    with quiet.held_stderr():
        os.write(2, b"chatter")
    with pytest.raises(ValueError, match="wrong"):
        fail_with_a_reason()
    assert capfd.readouterr().err == "a reason"


def fail_with_a_reason():
    with quiet.held_stderr():
        os.write(2, b"a reason")
        raise ValueError("wrong")


def test_the_lock_dies_with_its_owner(tmp_path):
    """Held while its process lives, though that does nothing; free once it was killed."""
    code = (
        "import time; from tfaclgan.training import rundir; "
        f"held = rundir.lock({str(tmp_path)!r}); print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is training here"):
            rundir.lock(str(tmp_path))
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10
        while True:
            try:
                rundir.lock(str(tmp_path)).close()
                break
            except UserError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
