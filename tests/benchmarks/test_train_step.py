"""benchmarks/train_step.py: what it refuses, its figures from made-up times, and sides that fail; no framework runs."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time

import official_code
import pytest
import train_step

# A side without a framework: its n-th call takes n seconds a data iteration, twice that for the official code, which
# has no memory left in its third call.
SIDE = """
import json, sys
name = sys.argv[-1]
if name == "count":
    print(json.dumps({"flops": 6e12}))
    sys.exit()
print("chatter")
print(json.dumps({"about": "fake", "device": "NVIDIA H100 80GB HBM3", "parameters": 7}), flush=True)
for number, line in enumerate(sys.stdin, 1):
    if name == "official" and number > 3:
        print(json.dumps({"failed": "out of memory"}), flush=True)
        break
    seconds = int(line) * number * (2 if name == "official" else 1)
    print(json.dumps({"seconds": seconds, "cpu_seconds": seconds, "peak_mib": number}), flush=True)
"""


def side_of(name, times, first=0.0, device="cpu"):
    side = train_step.Side(name)
    side.turns = [{"seconds": seconds, "cpu_seconds": 2 * seconds, "peak_mib": 100.0 + seconds} for seconds in times]
    side.first_seconds, side.device = first, device
    return side


def flags_of(**changes):
    values = {"method": "acl_gan", "batch": 3, "dtype": "float32", "peer_dtype": "float32", "tf32": "off"}
    return argparse.Namespace(**{**values, "peak_tflops": 0.0, **changes})


def run(monkeypatch, tmp_path, *flags):
    """main() with sides that are `SIDE`; its exit code and figures."""
    script = tmp_path / "side.py"
    script.write_text(SIDE)
    monkeypatch.setattr(train_step, "_HERE", str(script))
    monkeypatch.setattr(sys, "argv", ["train_step.py", f"--json={tmp_path}/figures.json", *flags])
    code = train_step.main()
    return code, json.loads((tmp_path / "figures.json").read_text())


def clone_of(method, tmp_path):
    path = tmp_path / official_code.OFFICIAL[method].file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(tmp_path)


@pytest.mark.parametrize("method", official_code.OFFICIAL)
def test_a_folder_without_the_official_code_is_refused_by_its_repository(method, tmp_path):
    official = official_code.OFFICIAL[method]
    why = official_code.refusal(method, str(tmp_path), {})
    assert official.file in why
    assert official.repository in why
    assert "\n" not in why
    assert official_code.refusal(method, clone_of(method, tmp_path), {}) == ""


def test_an_option_that_the_official_code_does_not_follow_is_refused(tmp_path):
    folder = clone_of("cyclegan", tmp_path)
    assert official_code.refusal("cyclegan", folder, {"width": 8}) == ""
    assert "upsampling" in official_code.refusal("cyclegan", folder, {"upsampling": "nearest"})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--iterations=1"], "multiples of 2"),
        (["--engine=torch"], "tensorflow,jax"),
        (["--engine=jax,jax"], "tensorflow,jax"),
        (["--engine=jax", "--xla=off"], "JAX always compiles"),
        (["--engine=tensorflow,jax", "--threads=2"], "taskset"),
        (["--rounds=0"], "at least one"),
        (["--engine=none"], "nothing would be timed"),
        (["--peer=nowhere"], "hyperplane-lab/ACL-GAN"),
        (["--peer=nowhere", "--peer_python=no_python"], "no program"),
    ],
)
def test_flags_that_cannot_be_are_refused_in_a_line(flags, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_step.py", *flags])
    with pytest.raises(SystemExit) as ended:
        train_step.parse()
    assert ended.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_figures_of_made_up_times():
    """ACL-GAN's first call has two data iterations: 30 s less 2 x 2 s of them is compiling."""
    side = side_of("jax", [4.0, 2.0, 1.0], first=30.0)
    found = train_step.figures(flags_of(peak_tflops=8.0), side, flops=4e12)
    assert found == {
        "seconds": 2.0,
        "seconds_range": [1.0, 4.0],
        "images_per_second": 1.5,
        "cpu_seconds": 4.0,
        "peak_mib": 101.0,
        "compile_seconds": 26.0,
        "flops_per_second": 2e12,
        "share_of_peak": 0.25,
    }
    assert train_step.figures(flags_of(), side, flops=4e12)["share_of_peak"] == 0  # a CPU's peak is not known


def test_each_side_is_held_to_the_peak_of_its_own_precision():
    flags = flags_of(dtype="bfloat16", peer_dtype="float32", tf32="on")
    sides = [side_of(name, [1.0], device="NVIDIA A100-SXM4-40GB") for name in ("jax", "official")]
    shares = [train_step.figures(flags, side, flops=31.2e12)["share_of_peak"] for side in sides]
    assert shares == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize(
    ("device", "peak"),
    [("NVIDIA H100 PCIe", 51.0), ("NVIDIA H100 80GB HBM3", 67.0), ("Tesla T4", 8.1), ("NVIDIA L40S", 0.0), ("cpu", 0)],
)
def test_cards_are_known_by_whole_words(device, peak):
    assert train_step.known_peak(device, "float32", "off") == peak


def test_ratios_are_of_pairs_or_of_medians():
    ours, official = side_of("jax", [1.0, 2.0, 4.0]), side_of("official", [3.0, 4.0, 8.0])
    assert train_step.ratios(ours, official, "seconds", apart=False) == [3.0, 2.0, 2.0]
    assert train_step.ratios(ours, official, "seconds", apart=True) == [2.0]
    assert train_step.ratios(ours, side_of("official", []), "seconds", apart=True) == []


@pytest.mark.parametrize("apart", [(), ("--apart",)])
def test_sides_take_turns_and_one_without_memory_does_not_stop_the_other(apart, tmp_path, monkeypatch, capsys):
    flags = (f"--peer={clone_of('munit', tmp_path)}", "--method=munit", "--rounds=2", "--iterations=3", *apart)
    code, found = run(monkeypatch, tmp_path, *flags)
    # Calls of each: the first data iteration, the warm-up, two rounds; the official code has no fourth.
    ours, official = found["sides"]["tensorflow"], found["sides"]["official"]
    assert code == 1
    assert found["flops"] == 6e12
    assert [turn["seconds"] for turn in ours["turns"]] == [3.0, 4.0]
    assert [turn["seconds"] for turn in official["turns"]] == [6.0]
    assert (ours["failed"], official["failed"]) == ("", "out of memory")
    assert ours["ratio_seconds"] == ([6.0 / 3.5] if apart else [2.0])
    assert ours["share_of_peak"] == pytest.approx(6e12 / 3.5 / 67e12)
    shown = capsys.readouterr()
    assert "official / tensorflow, seconds: median" in shown.out
    assert "out of memory" in shown.err


def test_a_side_that_is_killed_says_so():
    process = subprocess.Popen(
        [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], stdout=subprocess.PIPE, text=True
    )
    assert train_step.answer_of(process) == {"failed": "out of memory (killed)"}


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes"), "out of memory"),
        (ModuleNotFoundError("No module named 'torch'"), "ModuleNotFoundError: No module named 'torch'"),
    ],
)
def test_a_frameworks_error_is_a_sides_answer(error, failed, monkeypatch, capsys):
    def raises(arguments):
        raise error
        yield

    monkeypatch.setattr(train_step, "answered", raises)
    train_step.serve(argparse.Namespace(worker="official"))
    assert json.loads(capsys.readouterr().out) == {"failed": failed}


def test_one_who_asks_to_be_alone_waits_for_those_who_share(tmp_path):
    """Two that compile hold the gate together; the third times only when both are through."""
    path, order = str(tmp_path / "gate"), []
    both_are_in = threading.Barrier(3, timeout=30)

    def compile_and_leave(name):
        with train_step.gate(path, alone=False):
            both_are_in.wait()
            time.sleep(0.2)
            order.append(name)

    threads = [threading.Thread(target=compile_and_leave, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    both_are_in.wait()
    with train_step.gate(path, alone=True):
        order.append("timed")
    for thread in threads:
        thread.join()
    assert order[-1] == "timed"
    with train_step.gate("", alone=True):
        pass


@pytest.mark.parametrize("worker", ["jax", "official"])
def test_a_profile_is_of_ours_after_the_last_turn(worker, tmp_path, monkeypatch, capsys):
    """The official code has no profiler of ours."""
    done = []
    trace = (lambda n, folder: done.append((n, folder))) if worker == "jax" else None
    training = official_code.Training("about", "cpu", 1, done.append, lambda: 1.0, trace)
    monkeypatch.setattr(train_step, "ours", lambda arguments: training)
    monkeypatch.setattr(official_code, "training", lambda *_: training)
    monkeypatch.setattr(sys, "stdin", ["2\n"])
    train_step.serve(argparse.Namespace(worker=worker, method="acl_gan", option=[], trace="folder"))
    assert done == ([2, (2, "folder")] if trace else [2])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["peak_mib"] == 1.0
