#!/usr/bin/env python3
"""All methods' training iterations beside their official PyTorch code: rows of train_step.py, one Markdown table.

    python benchmarks/train_grid.py --grid=cpu --peers ~/clones --peer_python ~/torch-env/bin/python --out grid-cpu
    python benchmarks/train_grid.py --grid=gpu --engines=jax --minutes=12 --peers ~/clones --out grid-gpu
    python benchmarks/train_grid.py --grid=gpu --count --out grid-gpu        # on any machine, before: no device needed

--peers holds clones under their repositories' names: ACL-GAN, UGATIT-pytorch, MUNIT, pytorch-CycleGAN-and-pix2pix. A
row whose clone is missing times ours alone.

OUT gets ROW.json of each row that ran, with ROW.log, and table.md after each. The same command again runs only rows
that are not there, so a grid can be made in pieces and in several places; delete a ROW.json to run it again. A row may
take --limit seconds: one that is stopped keeps what it measured. With --minutes none starts that could not have a
minute. A side that does not fit in memory is reported as such, and the grid goes on.

With --together N so many rows are under way at a time: their programs are compiled together, which is most of a rented
GPU's time, and each is timed alone. The first call's extra is then that of a busy machine.

Operations of a data iteration are counted once for each method, size and batch (flops.json in OUT); --count does this
alone, so that a rented GPU need not wait for it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

import official_code
import train_step

SCRIPT = os.path.abspath(train_step.__file__)
LEAST_SECONDS = 60  # a row is not begun with less
STOPPED = "stopped"
HEAD = (
    "| row | side | s a data iteration (range) | images/s | official / ours | peak memory, MiB | first call's extra, s "
    "| TFLOP/s | share of peak |"
)


_running: set[int] = set()  # leaders of the rows' process groups


@dataclasses.dataclass(frozen=True)
class Row:
    """One call of train_step.py.

    options: of the method's config, NAME=VALUE.
    engines: that ours runs on.
    turns: rounds, data iterations a round, and those before the first.
    apart: one side after the other.
    peer_dtype: what the official code computes in, if not `dtype`.
    """

    method: str
    size: int
    batch: int
    options: tuple[str, ...] = ()
    dtype: str = "float32"
    tf32: str = "off"
    xla: str = "auto"
    engines: tuple[str, ...] = ("tensorflow", "jax")
    turns: tuple[int, int, int] = (2, 2, 0)
    apart: bool = False
    peer_dtype: str = ""

    @property
    def work(self) -> str:
        """What fixes the operations of a data iteration."""
        return "-".join([self.method, *(o.replace("=", "") for o in self.options), f"{self.size}px", f"b{self.batch}"])

    @property
    def name(self) -> str:
        precision = self.dtype if self.dtype != "float32" or self.tf32 == "off" else "tf32"
        official = [f"official-{self.peer_dtype}"] if self.peer_dtype else []
        return "-".join([self.work, precision, *official, *(["noxla"] if self.xla == "off" else [])])

    def flags(self) -> list[str]:
        """Of train_step.py, but for engines, peers and files."""
        rounds, iterations, warmup = self.turns
        flags = [f"--method={self.method}", f"--size={self.size}", f"--batch={self.batch}", f"--dtype={self.dtype}"]
        flags += [f"--peer_dtype={self.peer_dtype}", f"--tf32={self.tf32}", f"--xla={self.xla}"]
        flags += ["--apart"] if self.apart else []
        flags += [f"--rounds={rounds}", f"--iterations={iterations}", f"--warmup={warmup}"]
        return flags + [f"--option={option}" for option in self.options]


def cpu_rows() -> list[Row]:
    """For two cores and 24 GB; an hour. bfloat16 beside the same, and beside the official code as it is: float32."""
    shallow = ("light=0", "global_layers=6")
    half: dict[str, Any] = {"dtype": "bfloat16", "engines": ("tensorflow",)}
    models = [("cyclegan", 256, 1), ("munit", 256, 1), ("acl_gan", 256, 1), ("ugatit", 128, 1, ("light=1",))]
    return [
        Row("munit", 256, 1),
        Row("cyclegan", 256, 1),
        Row("ugatit", 128, 1, ("light=1",)),
        Row("ugatit", 64, 1, shallow),
        Row("acl_gan", 256, 1),
        Row("acl_gan", 256, 3, apart=True, turns=(1, 2, 0)),
        *(Row(*model, **half, peer_dtype=peer) for peer in ("", "float32") for model in models),
    ]


def gpu_rows() -> list[Row]:
    """The grid for a large card; bfloat16 first, since a rented hour may end."""
    models: list[tuple[str, int, tuple[str, ...]]] = [
        ("acl_gan", 32, ()),
        ("acl_gan", 8, ()),
        ("ugatit", 1, ("light=1",)),
        ("munit", 1, ()),
        ("cyclegan", 1, ()),
        ("ugatit", 1, ("light=0",)),
        ("acl_gan", 3, ()),
    ]
    long, short = {"apart": True, "turns": (2, 20, 4)}, {"apart": True, "turns": (3, 4, 2)}
    rows = [
        Row(method, 256, batch, options, dtype, tf32, **(short if batch > 8 else long))
        for dtype, tf32 in (("bfloat16", "off"), ("float32", "on"), ("float32", "off"))
        for method, batch, options in models
    ]
    alone = {"xla": "off", "engines": ("tensorflow",)}
    return rows + [Row("acl_gan", 256, 8, (), dtype, "on", **alone, **long) for dtype in ("bfloat16", "float32")]


GRIDS = {"cpu": cpu_rows, "gpu": gpu_rows}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", default="cpu", choices=tuple(GRIDS), help="which rows")
    parser.add_argument("--out", required=True, help="folder for what rows measured and the table; made if missing")
    parser.add_argument("--peers", default="", help="folder of clones of the official code (default: time ours alone)")
    parser.add_argument("--peer_python", default=sys.executable, help="python with torch, PyYAML and Pillow")
    parser.add_argument("--engines", default="tensorflow,jax", help="of these a row takes those it has")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="rows whose name has it (repeat)")
    parser.add_argument("--limit", type=float, default=600, help="seconds a row may take")
    parser.add_argument("--minutes", type=float, default=0, help="for all rows of this call (0: no limit)")
    parser.add_argument("--peak_tflops", type=float, default=0, help="of the device (0: train_step.py may know it)")
    parser.add_argument("--together", type=int, default=1, help="rows under way at a time (default: 1)")
    parser.add_argument("--trace", default="", metavar="TEXT", help="rows whose name has it leave a profile, ROW.trace")
    parser.add_argument("--list", action="store_true", help="print the rows' names and end")
    parser.add_argument("--count", action="store_true", help="count the rows' operations and end")
    arguments = parser.parse_args()
    if arguments.peers and not os.path.isdir(arguments.peers):
        parser.error(f"--peers={arguments.peers}: no such folder; it must hold clones of the official code")
    if not set(arguments.engines.split(",")) <= {"tensorflow", "jax"}:
        parser.error(f"--engines={arguments.engines}: give tensorflow, jax or tensorflow,jax")
    return arguments


def main() -> int:
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: end_rows())
    rows = chosen(arguments)
    if arguments.list:
        print("\n".join(row.name for row in rows))
        return 0
    os.makedirs(arguments.out, exist_ok=True)
    end = time.monotonic() + 60 * arguments.minutes if arguments.minutes else float("inf")
    if arguments.count:
        for row in rows:
            print(f"{row.work}: {operations(arguments, row) / 1e9:.1f} GFLOP", flush=True)
        return 0

    one_at_a_time = threading.Lock()

    def run_row(row: Row) -> None:
        if os.path.exists(path_of(arguments, row)):
            print(f"{row.name}: is there", flush=True)
        elif end - time.monotonic() < LEAST_SECONDS:
            print(f"{row.name}: no time left; the same command goes on", flush=True)
        else:
            outcome = measure(arguments, row, end)["outcome"]
            with one_at_a_time:
                print(f"{row.name}: {outcome}", flush=True)
                write_table(arguments, rows)

    if arguments.together > 1:
        for row in rows:
            operations(arguments, row)  # counts are kept in one file
    with concurrent.futures.ThreadPoolExecutor(arguments.together) as pool:
        list(pool.map(run_row, rows))
    print(write_table(arguments, rows))
    return 0


def chosen(arguments: argparse.Namespace) -> list[Row]:
    """The grid's rows, with those engines that are asked for."""
    rows = []
    for row in GRIDS[arguments.grid]():
        engines = tuple(name for name in row.engines if name in arguments.engines.split(","))
        if engines and (not arguments.only or any(text in row.name for text in arguments.only)):
            rows.append(dataclasses.replace(row, engines=engines))
    return rows


def path_of(arguments: argparse.Namespace, row: Row) -> str:
    return os.path.join(arguments.out, f"{row.name}.json")


def operations(arguments: argparse.Namespace, row: Row) -> float:
    """Of a data iteration, counted once for rows that share it."""
    path = os.path.join(arguments.out, "flops.json")
    known = read(path) or {}
    if row.work not in known:
        command = [sys.executable, SCRIPT, *row.flags(), f"--engine={row.engines[0]}", "--count"]
        said = subprocess.run(command, capture_output=True, text=True)
        if said.returncode:
            print(f"{row.work}: operations not counted: {last_line(said.stderr)}", file=sys.stderr)
            return 0.0
        known[row.work] = 1e9 * float(re.search(r"([\d.]+) GFLOP", said.stdout).group(1))
        train_step.write_json(path, known)
    return known[row.work]


def measure(arguments: argparse.Namespace, row: Row, end: float) -> dict[str, Any]:
    """Runs a row and keeps what it measured, with its "outcome", in ROW.json."""
    flops = operations(arguments, row)
    path = path_of(arguments, row)
    partial = path + ".running"  # no ROW.json before the row has ended
    command = [sys.executable, SCRIPT, *row.flags(), f"--engine={','.join(row.engines)}", f"--json={partial}"]
    command += [f"--flops={flops}", f"--peak_tflops={arguments.peak_tflops}"]
    if arguments.together > 1:
        command.append(f"--gate={os.path.join(arguments.out, 'gate')}")
    if arguments.trace and arguments.trace in row.name:
        command.append(f"--trace={os.path.join(arguments.out, row.name)}.trace")
    clone = os.path.join(arguments.peers, official_code.OFFICIAL[row.method].name) if arguments.peers else ""
    if clone and os.path.isdir(clone):
        command += [f"--peer={clone}", f"--peer_python={arguments.peer_python}"]
    with contextlib.suppress(FileNotFoundError):
        os.remove(partial)
    limit = min(arguments.limit, end - time.monotonic())
    with open(os.path.join(arguments.out, f"{row.name}.log"), "w") as log:
        outcome = run(command, log, limit)
    with open(log.name) as file:
        said = last_line(file.read())
    found = read(partial) or {"sides": {}}
    failed = [f"{name}: {side['failed']}" for name, side in found["sides"].items() if side["failed"]]
    if outcome == "failed":
        outcome = "; ".join(failed) or f"failed: {said}"
    result = {"row": dataclasses.asdict(row), "outcome": outcome, **found}
    train_step.write_json(path, result)
    with contextlib.suppress(FileNotFoundError):
        os.remove(partial)
    return result


def run(command: list[str], log: Any, limit: float) -> str:
    """Runs a command with its children for so many seconds at most: "done", "failed", or why it was stopped."""
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    _running.add(process.pid)
    try:
        return "failed" if process.wait(limit) else "done"
    except subprocess.TimeoutExpired:
        return f"{STOPPED} after {limit:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        _running.discard(process.pid)


def end_rows() -> None:
    """Ends the rows that run, and this process."""
    for pid in set(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    os._exit(1)


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def read(path: str) -> Any:
    """A JSON file's content, None if it is not there."""
    with contextlib.suppress(FileNotFoundError), open(path) as file:
        return json.load(file)
    return None


def write_table(arguments: argparse.Namespace, rows: list[Row]) -> str:
    """table.md of all rows that are there; returns it."""
    results = [(row.name, read(path_of(arguments, row))) for row in rows]
    text = table({name: result for name, result in results if result})
    with open(os.path.join(arguments.out, "table.md"), "w") as file:
        file.write(text)
    return text


def table(results: dict[str, dict[str, Any]]) -> str:
    """{row's name: its result} as Markdown; a row that did not end well says so in a line of its own."""
    lines = [HEAD, "|" + " --- |" * (HEAD.count("|") - 1)]
    for name, result in results.items():
        lines += [line_of(name, side, found) for side, found in result["sides"].items()]
        if result["outcome"] != "done" and (result["outcome"].startswith(STOPPED) or not result["sides"]):
            lines.append(f"| {name} | all | {result['outcome']} |" + " |" * (HEAD.count("|") - 4))
    return "\n".join(lines) + "\n"


def line_of(row: str, side: str, found: dict[str, Any]) -> str:
    """A side's line: what it measured, or why it did not."""
    if "seconds" not in found:
        cells = [found["failed"] or "not reached", *[""] * 6]
    else:
        low, high = found["seconds_range"]
        pairs = sorted(found.get("ratio_seconds", []))
        spread = f" ({pairs[0]:.2f} to {pairs[-1]:.2f})" if len(pairs) > 1 else ""
        middle = statistics.median(pairs) if pairs else 0
        failed = f"; then {found['failed']}" if found["failed"] else ""
        cells = [
            f"{found['seconds']:.3f} ({low:.3f} to {high:.3f}){failed}",
            f"{found['images_per_second']:.2f}",
            f"{middle:.2f}{spread}" if pairs else "",
            f"{found['peak_mib']:,.0f}",
            f"{found['compile_seconds']:.1f}",
            f"{found['flops_per_second'] / 1e12:.3g}" if found["flops_per_second"] else "",
            f"{found['share_of_peak']:.1%}" if found["share_of_peak"] else "",
        ]
    return f"| {row} | {side} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
