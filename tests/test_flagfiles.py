"""Every flagfile in configs/: known flags, a header, and two steps of training in its smallest form.

Two files train in `make test`, the others there get as far as `--dry_run`, and train in `make test-all`.
"""

from __future__ import annotations

import glob
import os
import re

import folder_of_records
import pytest
from absl import flags
from absl.testing import flagsaver
from command import call

from tfaclgan.methods import base

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FILES = sorted(os.path.relpath(path, ROOT) for path in glob.glob(os.path.join(ROOT, "configs", "*.flags")))
QUICK = ("configs/quickstart.flags", "configs/cyclegan_horse2zebra.flags")
TRAINED = [file if file in QUICK else pytest.param(file, marks=pytest.mark.slow) for file in FILES]
TINY = [
    "width=4",
    "residual_blocks=1",
    "mlp_dim=8",
    "discriminator_width=4",
    "discriminator_scales=1",
    "discriminator_layers=2",
    "global_layers=5",
    "local_layers=4",
]


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # nested flagfiles are relative to the working directory


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder_of_records.write(tmp_path_factory.mktemp("data"), size=32)


def test_there_are_files():
    assert "configs/tpu.flags" in FILES
    assert "configs/quickstart.flags" in FILES


def arguments_of(file, data, run_dir):
    """Those that make the flagfile's run a tiny one on this machine."""
    with flagsaver.flagsaver():
        flags.FLAGS.unparse_flags()
        flags.FLAGS(["test", f"--flagfile={file}"])
        method = flags.FLAGS.method
    known = {f for f in base.get(method).config.__dataclass_fields__}
    return [
        f"--flagfile={file}",
        f"--data_dir={data}",
        f"--run_dir={run_dir}",
        "--strategy=cpu",
        "--dtype=float32",
        *("--image_size=32", "--load_size=32", "--batch_size=2", "--steps=2", "--sample_count=1"),
        "--lr_decay_start=-1",  # those of the files lie beyond two steps
        *(f"--{method}.{option}" for option in TINY if option.split("=")[0] in known),
    ]


def test_every_method_has_a_flagfile():
    methods = set()
    for file in FILES:
        with flagsaver.flagsaver():
            flags.FLAGS.unparse_flags()
            flags.FLAGS(["test", f"--flagfile={file}"])
            methods.add(flags.FLAGS.method)
    assert methods == set(base.names())
    assert set(QUICK) <= set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_builds_what_it_asks_for(file, data, tmp_path, capsys):
    assert call(*arguments_of(file, data, tmp_path / "run"), "--dry_run") == 0
    assert not (tmp_path / "run").exists()
    assert "4 images, 12,288 bytes" in capsys.readouterr().out


@pytest.mark.parametrize("file", TRAINED)
def test_takes_two_steps(file, data, tmp_path):
    assert call(*arguments_of(file, data, tmp_path)) == 0
    assert os.path.exists(tmp_path / "checkpoints" / "step_000000002" / "manifest.json")
    # The run's own flagfile goes on with the run: here it finds it finished.
    assert call(f"--flagfile={tmp_path / 'run.flags'}") == 0


@pytest.mark.parametrize("file", FILES)
def test_says_what_it_is_for(file):
    first = open(file).readline()
    assert first.startswith("# ")
    text = open(file).read()
    for nested in re.findall(r"^--flagfile=(\S+)", text, re.M):
        assert os.path.exists(nested)


@pytest.mark.parametrize("verify", [True, False])
def test_verify_data_reads_every_byte_at_the_start(tmp_path, capsys, verify):
    folder = folder_of_records.write(tmp_path / "data", size=32)
    arguments = [f"--data_dir={folder}", f"--run_dir={tmp_path / 'run'}", "--dry_run", "--strategy=cpu"]
    arguments += ["--method=cyclegan", "--cyclegan.width=4", "--image_size=32", "--load_size=32"]
    arguments += ["--verify_data"] if verify else []
    shard = tmp_path / "data" / "testB-00000-of-00001.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert call(*arguments) == (2 if verify else 0)
    assert ("testB-00000-of-00001.tfrecord: its SHA-256 is not" in capsys.readouterr().err) == verify


def test_dry_run_prints_and_trains_nothing(data, tmp_path, capsys):
    arguments = ["--dry_run", f"--data_dir={data}", f"--run_dir={tmp_path / 'run'}", "--strategy=cpu"]
    assert call(*arguments, "--image_size=64", "--load_size=64") == 0
    out = capsys.readouterr().out
    assert "54,881,377" in out  # the paper's 54.9 million weights (reference 2.5)
    assert "15,029,324" in out
    assert "6 images, 73,728 bytes" in out  # 2 domains x 3 images of 64 x 64 x 3
    assert not (tmp_path / "run").exists()
