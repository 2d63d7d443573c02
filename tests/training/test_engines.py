"""One run directory, two engines: a run goes on, is translated, judged and given away on either."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import folder_of_records
import numpy as np
import pytest

from tfaclgan.metrics import report
from tfaclgan.training import checkpoint

pytest.importorskip("jax", reason="JAX needs Python 3.11")

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "toy_command.py")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(SCRIPT)))
COMMON = ("--method=toy", "--image_size=16", "--load_size=16", "--batch_size=2", "--steps_per_loop=2",
          "--ema_decay=0.9", "--log_every_steps=2", "--sample_every_steps=4", "--checkpoint_every_steps=2",
          "--keep_checkpoints=9", "--strategy=cpu", "--sample_count=2")  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder_of_records.write(tmp_path_factory.mktemp("data"))


def command(*arguments, code=0, script=(SCRIPT,)):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *script, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def losses(run_dir):
    with open(os.path.join(run_dir, "metrics.jsonl")) as file:
        lines = [json.loads(line) for line in file]
    return {line["step"]: (line["critic/loss"], line["generator/loss"]) for line in lines if "critic/loss" in line}


def test_a_run_goes_on_on_the_other_engine(data, tmp_path):
    alone, changing = str(tmp_path / "alone"), str(tmp_path / "changing")
    command(*COMMON, f"--data_dir={data}", f"--run_dir={alone}", "--steps=8")
    for engine, steps in (("tensorflow", 2), ("jax", 6), ("tensorflow", 8)):
        said = command(*COMMON, f"--data_dir={data}", f"--run_dir={changing}", f"--steps={steps}", f"--engine={engine}")
        assert ("JAX" in said) == (engine == "jax")
    expected, actual = (checkpoint.load_newest(os.path.join(path, "checkpoints"))[1] for path in (alone, changing))
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert value.dtype == actual[name].dtype
        np.testing.assert_allclose(actual[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    first, second = losses(alone), losses(changing)
    assert sorted(first) == sorted(second) == [2, 4, 6, 8]
    for step, values in first.items():
        assert second[step] == pytest.approx(values, rel=1e-4)
    with open(os.path.join(changing, "environment.json")) as file:
        assert "jax" in json.load(file)["starts"][1]["packages"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--augment_on=device"], "--augment_on=device"),
        (["--xla=off"], "--xla=off"),
        (["--mode=export"], "--mode=export"),
        (["--mode=debug"], "--mode=debug"),
    ],
)
def test_what_only_tensorflow_has_is_one_line(data, arguments, words):
    said = command(f"--data_dir={data}", "--engine=jax", *arguments, code=2, script=("-m", "tfaclgan.main"))
    lines = [line for line in said.splitlines() if line.startswith("tfaclgan: error:")]
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_run_is_translated_judged_and_given_away_on_either_engine(data, tmp_path):
    run_dir = str(tmp_path / "run")
    command(*COMMON, f"--data_dir={data}", f"--run_dir={run_dir}", "--steps=4", "--engine=jax")
    code = (
        "import sys, numpy as np, tfaclgan; from tfaclgan.methods import base; base.names(); "
        f"sys.path.insert(0, {os.path.dirname(os.path.dirname(SCRIPT))!r}); from toy import TOY; base.register(TOY); "
        "photos = np.random.RandomState(0).randint(0, 256, (3, 20, 17, 3), dtype=np.uint8); "
        "tfaclgan.save_pretrained(sys.argv[1], sys.argv[2]); "
        "np.save(sys.argv[2] + '.npy', [tfaclgan.load(path).translate(photos) for path in sys.argv[1:3]])"
    )
    results, metrics = {}, {}
    for engine in ("tensorflow", "jax"):
        target = str(tmp_path / f"given_by_{engine}")
        environment = {**os.environ, "KERAS_BACKEND": engine, "JAX_PLATFORMS": "cpu"}
        subprocess.run(
            [sys.executable, "-c", code, run_dir, target], env=environment, cwd=ROOT, check=True, timeout=500
        )
        results[engine] = np.load(f"{target}.npy").astype(int)
        assert np.array_equal(*results[engine])
        command(
            "--mode=evaluate", f"--data_dir={data}", f"--run_dir={run_dir}", f"--engine={engine}",
            "--extractor=efficientnet_lite0", f"--stats_cache={tmp_path / engine}",
        )  # fmt: skip
        with open(os.path.join(run_dir, "evaluations", "latest_a2b", report.FILE_NAME)) as file:
            metrics[engine] = json.load(file)["metrics"]
    assert np.abs(results["tensorflow"] - results["jax"]).max() <= 1  # a shade, where a value lies between two
    assert metrics["tensorflow"].keys() == metrics["jax"].keys()
    for name, value in metrics["tensorflow"].items():
        assert metrics["jax"][name] == pytest.approx(value, rel=1e-2, abs=1e-3), name
