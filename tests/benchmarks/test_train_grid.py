"""benchmarks/train_grid.py: rows that are there are not run again, stopped ones keep what they measured, its table."""

from __future__ import annotations

import json
import sys

import pytest
import train_grid

# train_step.py without a framework: notes each call, and for --batch=32 never ends after its first figures.
SCRIPT = """
import json, os, sys, time
flags = dict(part[2:].partition("=")[::2] for part in sys.argv[1:])
with open(os.path.join(os.path.dirname(__file__), "calls"), "a") as file:
    file.write(("count " if "count" in flags else "run ") + flags["method"] + " " + flags["batch"] + "\\n")
if "count" in flags:
    print("1.500 GFLOP a data iteration")
    sys.exit()
side = {"failed": "", "seconds": 2.0, "seconds_range": [1.0, 3.0], "images_per_second": 0.5, "peak_mib": 1234.4,
        "compile_seconds": 9.0, "flops_per_second": float(flags["flops"]) / 2, "share_of_peak": 0.0}
memory = {"failed": "out of memory"}
with open(flags["json"], "w") as file:
    json.dump({"sides": {"jax": side, **({"official": memory} if "peer" in flags else {})}}, file)
if flags["batch"] == "32":
    time.sleep(600)
sys.exit(1 if "peer" in flags else 0)
"""
ROWS = [
    train_grid.Row("munit", 64, 1),
    train_grid.Row("munit", 64, 1, dtype="bfloat16"),
    train_grid.Row("acl_gan", 64, 3),
]


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """Runs the grid `ROWS` with so many flags; returns the calls of train_step.py that it made."""
    (tmp_path / "step.py").write_text(SCRIPT)
    monkeypatch.setattr(train_grid, "SCRIPT", str(tmp_path / "step.py"))
    monkeypatch.setattr(train_grid.signal, "signal", lambda *_: None)
    monkeypatch.setitem(train_grid.GRIDS, "cpu", lambda: list(ROWS))

    def call(*flags):
        (tmp_path / "calls").write_text("")
        monkeypatch.setattr(sys, "argv", ["train_grid.py", f"--out={tmp_path}/out", *flags])
        assert train_grid.main() == 0
        return (tmp_path / "calls").read_text().splitlines()

    return call


def test_rows_that_are_there_are_not_run_again(grid, tmp_path):
    """Operations are counted once for rows that share them."""
    assert grid("--only=munit") == ["count munit 1", "run munit 1", "run munit 1"]
    assert grid() == ["count acl_gan 3", "run acl_gan 3"]
    assert grid() == []
    (tmp_path / "out" / "munit-64px-b1-bfloat16.json").unlink()
    assert grid() == ["run munit 1"]
    assert json.loads((tmp_path / "out" / "acl_gan-64px-b3-float32.json").read_text())["outcome"] == "done"


def test_counting_alone_runs_nothing(grid):
    assert grid("--count") == ["count munit 1", "count acl_gan 3"]
    assert grid("--only=acl_gan") == ["run acl_gan 3"]


def test_a_stopped_row_keeps_what_it_measured(grid, tmp_path, monkeypatch):
    monkeypatch.setitem(train_grid.GRIDS, "cpu", lambda: [train_grid.Row("munit", 64, 32)])
    grid("--limit=1.5")
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert table[2].startswith("| munit-64px-b32-float32 | jax | 2.000 (1.000 to 3.000) | 0.50 |")
    assert table[3].startswith("| munit-64px-b32-float32 | all | stopped after 2 s |")
    assert grid() == []


def test_no_row_begins_without_a_minute(grid, capsys):
    assert grid("--minutes=0.5") == []
    assert "no time left" in capsys.readouterr().out


def test_a_side_without_memory_is_a_line_of_the_table(grid, tmp_path):
    (tmp_path / "MUNIT").mkdir()
    grid("--only=munit-64px-b1-float32", f"--peers={tmp_path}")
    result = json.loads((tmp_path / "out" / "munit-64px-b1-float32.json").read_text())
    assert result["outcome"] == "official: out of memory"
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert lines[2:] == [
        "| munit-64px-b1-float32 | jax | 2.000 (1.000 to 3.000) | 0.50 |  | 1,234 | 9.0 | 0.00075 |  |",
        "| munit-64px-b1-float32 | official | out of memory |  |  |  |  |  |  |",
    ]
    assert {line.count("|") for line in lines} == {10}


def test_a_row_that_measured_nothing_says_why():
    text = train_grid.table({"a": {"outcome": "failed: no such file", "sides": {}}})
    assert "| a | all | failed: no such file |" in text
    assert len({line.count("|") for line in text.splitlines()}) == 1


@pytest.mark.parametrize("grid_name", train_grid.GRIDS)
def test_rows_have_names_of_their_own(grid_name):
    names = [row.name for row in train_grid.GRIDS[grid_name]()]
    assert len(set(names)) == len(names)


def test_engines_are_those_asked_for(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_grid.py", "--out=x", "--grid=gpu", "--engines=jax"])
    rows = train_grid.chosen(train_grid.parse())
    assert {row.engines for row in rows} == {("jax",)}
    assert not any(row.xla == "off" for row in rows)


def test_rows_under_way_together_share_a_gate_and_are_all_there(grid, tmp_path):
    """train_step.py times alone who holds the gate, see there."""
    calls = grid("--together=3")
    assert sorted(calls) == ["count acl_gan 3", "count munit 1", "run acl_gan 3", "run munit 1", "run munit 1"]
    assert calls[:2] == ["count munit 1", "count acl_gan 3"]  # before any row
    assert all((tmp_path / "out" / f"{row.name}.json").exists() for row in ROWS)
    assert len((tmp_path / "out" / "table.md").read_text().splitlines()) == 5
