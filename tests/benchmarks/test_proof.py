"""benchmarks/proof.py: its budget, what it refuses, its page, and whole runs that are killed and started again."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
import xml.etree.ElementTree

import command
import folder_of_records
import numpy as np
import proof
import proof_report
import pytest
import timed_runs

from tfaclgan.errors import UserError
from tfaclgan.training import checkpoint, samples

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RUNS = ["glasses/acl_gan", "glasses/munit"]
SVG = "{http://www.w3.org/2000/svg}"


def arguments_of(**changes):
    values = {"profile": "cpu", "engine": "tensorflow", "image_size": 0, "train_count": 9, "test_count": 3, "seed": 0}
    return argparse.Namespace(**{**values, "extractor": "none", **changes})


def test_runs_that_are_not_finished_share_what_is_left(tmp_path):
    ledger = proof.Ledger(str(tmp_path / "progress.json"))
    ledger.spend("drawing", 60)
    # Of 600 s a tenth is kept for judging.
    assert ledger.share(RUNS[0], RUNS, minutes=10) == pytest.approx((600 - 60 - 60) / 2)
    ledger.spend(RUNS[0], 100)
    again = proof.Ledger(str(tmp_path / "progress.json"))  # a second start
    assert again.share(RUNS[0], RUNS, minutes=10) == pytest.approx(240 - 100)
    again.spend(RUNS[0], 150)
    again.end(RUNS[0], 42)
    assert again.share(RUNS[1], RUNS, minutes=10) == pytest.approx(240 - 10)
    assert again.total() == 310


def test_a_second_start_takes_the_first_ones_profile_and_refuses_other_settings(tmp_path):
    path = str(tmp_path / "progress.json")
    proof.Ledger(path).settle(arguments_of(profile="auto"), lambda engine: "gpu")
    second = arguments_of(profile="auto")
    proof.Ledger(path).settle(second, lambda engine: pytest.fail("the devices were looked at again"))
    assert (second.profile, second.image_size) == ("gpu", 128)
    with pytest.raises(UserError, match=r"--engine=jax: the runs in .* have tensorflow; use that or another --output"):
        proof.Ledger(path).settle(arguments_of(profile="auto", engine="jax"), None)
    (tmp_path / "progress.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        proof.Ledger(path)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--tasks=glasses,hats", "--tasks: hats is unknown; choose from glasses, style, hair"),
        ("--methods=stylegan", "--methods: stylegan is unknown"),
        ("--minutes=0", "--minutes=0 must be above 0"),
        ("glasses", "unexpected argument 'glasses'"),
    ],
)
def test_wrong_arguments_are_one_line(argument, message, capsys):
    with pytest.raises(SystemExit) as ended:
        proof.main([argument])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_minutes_that_are_used_up_are_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(proof.signal, "signal", lambda *_: None)  # this process keeps its own
    monkeypatch.setattr(proof, "draw", lambda task, arguments, ledger: ledger.spend("drawing", 60))
    assert proof.main(["--profile=cpu", "--minutes=1", f"--output={tmp_path}"]) == 2
    assert "used up before glasses/acl_gan began; start again with more minutes" in capsys.readouterr().err


# -- the page ---------------------------------------------------------------------------------


def write_run(folder, kids, final, truth):
    """A run directory with just what the page reads."""
    os.makedirs(folder / "evaluations" / "proof")
    lines = [{"step": 10 * n, "d/loss": 1 / n, "g/loss": float(n), "d/real": 7.0} for n in range(1, 6)]
    lines += [{"step": 20 * n, "evaluation/kid": kid} for n, kid in enumerate(kids, 1)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 60, "evalua')  # cut short by a kill
    start = {"time": "2026-11-26T10:00:00", "devices": "CPU (2 cores)", "commit": "0123abcd", "python": "3.11.7"}
    start |= {"machine": "Linux", "packages": {"keras": "3.15.1"}}
    (folder / "environment.json").write_text(json.dumps({"starts": [start]}))
    values = {"kid": final, "kid_standard_error": 0.0123, "psnr": 25.5 if truth else None, "ssim": None}
    values["region_l1"] = None
    plain = {**values, "kid": 0.5, "psnr": 24.25 if truth else None}
    result = {"step": 50, "protocol": {"extractor": "a<b", "kid_blocks": 1}, "metrics": values, "untouched": plain}
    (folder / "evaluations" / "proof" / "metrics.json").write_text(json.dumps(result))


def progress_of(**values):
    progress = {"settings": {"profile": "cpu"}, "seconds": {}, "ended": {}, **values}
    return types.SimpleNamespace(total=lambda: sum(progress["seconds"].values()), **progress)


def test_the_page_holds_figures_curves_and_pictures_and_needs_no_other_file(tmp_path):
    write_run(tmp_path / "glasses" / "munit", kids=[0.4, 0.3], final=0.25, truth=True)
    samples.write_png(str(tmp_path / "sheet.png"), np.zeros((4, 4, 3), np.uint8))
    progress = progress_of(seconds={"glasses/munit": 90.0}, ended={"glasses/munit": 42})
    sheets = {"glasses": str(tmp_path / "sheet.png")}
    page = proof_report.page(str(tmp_path), ["glasses", "hair"], ["munit", "cyclegan"], sheets, progress, 24)
    rows = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    assert ["input untouched", "", "", "", "", "0.5000 ± 0.0123", "24.25"] in rows
    munit = ["MUNIT", "50", "1.5", "", "its share of the time", "0.2500 ± 0.0123", "25.50"]
    assert munit in rows
    assert ["CycleGAN", "0", "0.0", "", "not yet", "not judged yet", "not judged yet"] in rows
    assert "1 of 4 finished, 1 judged" in page
    assert "a&lt;b" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    charts = [xml.etree.ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.S)]
    assert [chart.findtext("text") for chart in charts] == [
        "KID by data iteration",
        "PSNR to the truth, dB by data iteration",
        "MUNIT: losses by data iteration",
    ]


def test_a_curve_goes_through_its_points():
    svg = xml.etree.ElementTree.fromstring(
        proof_report.chart("t", {"a": [(0, 1.0), (50, 3.0), (100, 2.0)]}, {"a": "red"}, level=0.0)
    )
    points = [[float(v) for v in p.split(",")] for p in svg.find("polyline").get("points").split()]
    left, right = proof_report.LEFT, proof_report.WIDTH - proof_report.RIGHT
    top, bottom = proof_report.TOP, proof_report.HEIGHT - proof_report.BOTTOM
    # 0 (the level) is at the bottom, 3 at the top.
    third = (bottom - top) / 3
    expected = [(left, bottom - third), ((left + right) / 2, top), (right, bottom - 2 * third)]
    np.testing.assert_allclose(points, expected, atol=0.051)
    dashed = [path.get("d") for path in svg.iter("path") if path.get("stroke-dasharray")]
    assert f"M{left} {bottom:.1f}H{right}" in dashed


@pytest.mark.parametrize("values", [[0.0], [2.0, 2.0], [-1e-5, 3e-4], [1234.0, 5e6]])
def test_any_values_have_a_chart(values):
    svg = proof_report.chart("t", {"a": list(enumerate(values))}, {"a": "red"})
    texts = [text.text for text in xml.etree.ElementTree.fromstring(svg).iter("text")]
    assert len(texts) >= 4
    assert "nan" not in svg


def test_the_newest_step_is_that_of_whole_checkpoints(tmp_path):
    assert timed_runs.newest_step(str(tmp_path)) == 0
    for name, whole in (("step_000000008", True), ("step_000000010", True), ("step_000000012", False)):
        if whole:
            checkpoint.save(str(tmp_path / "checkpoints"), {"a": np.zeros(1)}, int(name.removeprefix("step_")))
        else:
            os.makedirs(tmp_path / "checkpoints" / name)
    assert timed_runs.newest_step(str(tmp_path)) == 10


TRAINER = """#!/bin/sh
echo trains "$@"
trap 'sleep 0.2; echo saved; exit 42' TERM
for turn in $(seq 2000); do sleep 0.05; done
"""


@pytest.fixture
def trainer(tmp_path):
    """A program that trains for minutes, and saves when it is told to stop."""
    path = tmp_path / "trainer"
    path.write_text(TRAINER)
    path.chmod(0o755)
    return str(path)


def test_training_is_told_to_stop_at_its_time_and_waited_for(trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(timed_runs.sys, "executable", trainer)
    monkeypatch.setattr(timed_runs, "TICK", 0.25)
    told, started = [], time.monotonic()
    assert timed_runs.train(["--steps=1"], str(tmp_path / "log"), 1, told.append) == 42
    took = time.monotonic() - started
    assert took >= 1.2
    assert len(told) >= 4
    assert sum(told) == pytest.approx(took, abs=0.2)
    assert (tmp_path / "log").read_text() == "trains -m tfaclgan.main --steps=1\nsaved\n"


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_training_saves_when_the_script_is_ended(kind, trainer, tmp_path):
    if kind == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("other systems do not tell a child that its parent died")
    log = tmp_path / "log"
    code = (
        "import signal, sys, timed_runs; signal.signal(signal.SIGTERM, lambda *_: sys.exit(42)); "
        f"sys.executable = {trainer!r}; timed_runs.train([], {str(log)!r}, 100)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=os.path.join(ROOT, "benchmarks"))
    wait_until(lambda: log.exists() and "trains" in log.read_text())
    process.send_signal(kind)
    assert process.wait(60) == (42 if kind == signal.SIGTERM else -signal.SIGKILL)
    wait_until(lambda: "saved" in log.read_text())


def wait_until(done, seconds=60):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


# -- whole runs -------------------------------------------------------------------------------

TINY = ("--tasks=glasses", "--methods=cyclegan", "--profile=cpu", "--image_size=32", "--train_count=8")
TINY += ("--test_count=4", "--extractor=none", "--minutes=30", "--batch_size=2", "--steps_per_loop=2")
TINY += ("--log_every_steps=20", "--checkpoint_every_steps=20", "--eval_every_steps=100", "--steps=300")
TINY += tuple(f"--cyclegan.{option}" for option in ("width=4", "residual_blocks=1", "discriminator_width=4"))
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def start(output, *more):
    words = [sys.executable, os.path.join(ROOT, "benchmarks", "proof.py"), f"--output={output}", *TINY, *more]
    return subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def starts_of(run):
    return json.loads((run / "environment.json").read_text())["starts"]


@pytest.mark.slow
def test_killed_it_goes_on_and_finished_it_trains_no_more(tmp_path):
    pytest.importorskip("dicebear")
    run = tmp_path / "glasses" / "cyclegan"
    process = start(tmp_path)
    end = time.monotonic() + 900
    while not timed_runs.newest_step(str(run)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    seconds = json.loads((tmp_path / "progress.json").read_text())["seconds"]
    left = (0.9 * 30 * 60 - sum(seconds.values())) / 60
    assert seconds["glasses/cyclegan"] > 0
    assert not (tmp_path / "report.html").exists()

    process = start(tmp_path)
    out = process.communicate(timeout=900)[0]
    assert process.returncode == 0, out
    first, second = starts_of(run)
    assert first["step"] == 0
    assert 0 < second["step"] < 300, "the first start's training went on alone, or was lost"
    assert f"glasses/cyclegan: {left:.1f} minutes from step" in out  # what the first start used is counted
    assert timed_runs.newest_step(str(run)) == 300
    steps = [line["step"] for line in map(json.loads, open(run / "metrics.jsonl")) if "evaluation/psnr" in line]
    assert steps == [100, 200, 300]
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png") == 1
    assert "1 of 1 finished, 1 judged" in page
    assert ">300</td>" in page

    process = start(tmp_path)
    out = process.communicate(timeout=900)[0]
    assert process.returncode == 0, out
    assert "glasses/cyclegan" not in out
    assert len(starts_of(run)) == 2


@pytest.mark.slow
def test_time_ends_a_run_and_what_it_learned_is_kept(tmp_path):
    pytest.importorskip("dicebear")
    run = tmp_path / "glasses" / "cyclegan"
    process = start(tmp_path, "--steps=1000000", "--checkpoint_every_steps=1000000", "--minutes=2")
    out = process.communicate(timeout=900)[0]
    assert process.returncode == 0, out
    step = timed_runs.newest_step(str(run))
    assert 0 < step < 1000000
    result = json.loads((run / "evaluations" / "proof" / "metrics.json").read_text())
    assert result["step"] == step
    assert "its share of the time" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "progress.json").read_text())["ended"] == {"glasses/cyclegan": 42}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return folder_of_records.write(tmp_path_factory.mktemp("records"), size=32)


@pytest.mark.slow
@pytest.mark.parametrize("task", proof.TASKS)
@pytest.mark.parametrize("method", proof.METHODS)
@pytest.mark.parametrize("profile", ["gpu", "cpu"])
def test_networks_build_at_their_real_size(profile, method, task, records, tmp_path, monkeypatch, capsys):
    """What a GPU would train, built on the CPU: options that do not fit together would be found out too late there."""
    monkeypatch.chdir(ROOT)
    arguments = proof.parse([f"--profile={profile}", f"--output={tmp_path}"])[0]
    proof.Ledger(str(tmp_path / "progress.json")).settle(arguments, None)
    flags = proof.training_command(f"{task}/{method}", arguments, ["--strategy=cpu", "--dry_run"])
    assert command.call(*flags, f"--data_dir={records}") == 0
    batch, side = {"gpu": (8, 128), "cpu": (4, 64)}[profile]
    assert f"{2 * batch} images, {2 * batch * 3 * side**2:,} bytes" in capsys.readouterr().out
