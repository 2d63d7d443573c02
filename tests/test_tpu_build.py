"""TensorFlow's TPU build as docs/tpu.md installs it, in an environment of its own: it trains, here on the CPU.

Needs a package index; downloads about 1 GB the first time.
"""

from __future__ import annotations

import os
import subprocess
import sys

import folder_of_records
import pytest
from tiny_methods import flags_of

pytestmark = pytest.mark.slow

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SMALL = (
    "--image_size=32", "--load_size=32", "--batch_size=2", "--steps_per_loop=2", "--log_every_steps=2",
    "--sample_every_steps=2", "--checkpoint_every_steps=2", *flags_of("acl_gan"),
)  # fmt: skip
# docs/tpu.md: off a TPU, or TensorFlow asks a metadata server for minutes.
OFF_A_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


def call(*command, expected=0, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    assert done.returncode == expected, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tpu") / "venv"
    call(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    lock = os.path.join(ROOT, "requirements", "tpu.lock")
    call(python, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes", "-r", lock)
    call(python, "-m", "pip", "install", "-q", "--no-deps", "-e", ROOT)
    return python


def test_nothing_is_missing_and_nothing_overwrites_the_build(python):
    call(python, "-m", "pip", "check")
    frozen = call(python, "-m", "pip", "freeze").replace("_", "-").splitlines()
    listed = {line.split("==")[0] for line in frozen}
    assert "tensorflow-tpu" in listed
    assert not listed & {"tensorflow", "tensorflow-cpu", "tf-keras"}


def test_the_tpu_flagfile_trains_on_the_cpu_and_goes_on(python, tmp_path):
    data = folder_of_records.write(tmp_path / "data", size=32)
    for steps in (4, 6):
        said = call(
            python, "-m", "tfaclgan.main", "--flagfile=configs/tpu.flags", "--strategy=cpu", f"--data_dir={data}",
            f"--run_dir={tmp_path}/run", f"--steps={steps}", *SMALL, **OFF_A_TPU,
        )  # fmt: skip
    assert "steps 4 to 6" in said
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints"))[-1] == "step_000000006"


def test_without_a_tpu_it_says_so_in_one_line(python, tmp_path):
    data = folder_of_records.write(tmp_path / "data", size=32)
    said = call(
        python, "-m", "tfaclgan.main", "--flagfile=configs/tpu.flags", f"--data_dir={data}",
        f"--run_dir={tmp_path}/run", *SMALL, expected=2, **OFF_A_TPU,
    )  # fmt: skip
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if "no TPU could be reached" in line]) == 1
    assert not (tmp_path / "run").exists()
