#!/usr/bin/env python3
"""U-GAT-IT's memory and time a data iteration: full and light, by size, precision and what saves memory.

    python benchmarks/memory_and_time.py --sizes 128 256 --json grid.json     # 32 processes, one after the other
    python benchmarks/memory_and_time.py --sizes 64 --models light --dtypes float32 --option width=8

Each row is a process of its own (benchmarks/train_step.py, its worker), so that peaks do not add up. Peak is the
largest resident memory of that process, with TensorFlow, the compiled step, weights and Adam's slots; the column
"weights, Adam" is what these take at least (weights and two slots, 4 bytes each). The networks are those of profile
pt unless --option says another. A row that fails, or runs out of --limit seconds, is reported and the grid goes on.

Rows must not take the memory that other programs need. One starts only if its estimate and --spare MiB are available,
and is stopped when less than half of --spare is left while it runs; both are reported as such. The estimate is meant
for the published widths: 21 bytes a weight (itself, Adam's two slots, gradients, a copy on the way) and the maps, as
rows of this grid had them at 128 and 256 pixels, by area and batch.

Savings: `rematerialise` computes the generators' maps twice (--rematerialise), `share_fakes` makes the fakes once for
both steps (--ugatit.share_fakes). Full models have their size's MLP: 279 million weights a generator at 256 px.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

MODELS = {"full": 0, "light": 1}  # --ugatit.light
SAVINGS = {
    "none": (),
    "rematerialise": ("--rematerialise",),
    "share_fakes": ("--option", "share_fakes=true"),
    "both": ("--rematerialise", "--option", "share_fakes=true"),
}
SHALLOW = 96  # pixels below which the global discriminators have six layers, as they must
WEIGHTS = 134_037_136  # of a light model; a full one's MLP has more by its map's size
_PIXELS, _HIDDEN = 256, 256  # channels of the map, width of the MLP
_BASE_MIB, _MAPS_MIB, _BYTES_PER_WEIGHT = 1600, 850, 21
_MIB = 2**20
_POLL_SECONDS = 0.1
_LINE = "{:6} {:>4} {:9} {:14} {:>11} {:>7} {:>9} {:>14}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256], help="sides of the images in pixels")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=tuple(MODELS), help="which generators")
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32", "bfloat16"], choices=("float32", "bfloat16"), help="compute types"
    )
    parser.add_argument("--savings", nargs="+", default=list(SAVINGS), choices=tuple(SAVINGS), help="what saves memory")
    parser.add_argument("--batch", type=int, default=1, help="images of each domain")
    parser.add_argument("--rounds", type=int, default=3, help="data iterations that are timed, after one that is not")
    parser.add_argument("--xla", default="auto", choices=("auto", "on", "off"), help="compile with XLA")
    parser.add_argument("--threads", type=int, default=0, help="threads (0: the framework's default)")
    parser.add_argument("--limit", type=int, default=1800, help="seconds a row may take")
    parser.add_argument("--spare", type=int, default=4096, help="MiB of memory that are left to other programs")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="of ugatit's config (may be repeated)"
    )
    parser.add_argument("--json", default="", help="file to write all rows to (default: none)")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a row that runs is ended, too
    print(
        _LINE.format("model", "px", "dtype", "saving", "s/iteration", "CPU s", "peak MiB", "weights, Adam"), flush=True
    )
    rows = []
    for place in itertools.product(arguments.models, arguments.sizes, arguments.dtypes, arguments.savings):
        needed, available = estimate_mib(*place[:2], arguments.batch), available_mib()
        if needed + arguments.spare > available:
            found = {"failed": f"not started: estimate {needed:.0f} MiB, {available:.0f} MiB available"}
        else:
            found = measure(arguments, flags_of(*place))
        rows.append({**dict(zip(("model", "size", "dtype", "saving"), place, strict=True)), **found})
        shown = [found["failed"]] + 3 * [""]
        if not found["failed"]:
            figures = found["seconds"], found["cpu_seconds"], found["peak_mib"], 12 * found["parameters"] / _MIB
            shown = [f"{value:.{places}f}" for value, places in zip(figures, (2, 1, 0, 0), strict=True)]
        print(_LINE.format(*place, *shown), flush=True)
    print(f"batch {arguments.batch}, XLA {arguments.xla}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"arguments": vars(arguments), "rows": rows}, file, indent=1)
    return 0


def estimate_mib(model: str, size: int, batch: int) -> float:
    """What a row takes at most, by the module's rule; the savings' effect is what the grid measures."""
    weights = WEIGHTS
    if model == "full":
        weights += 2 * _HIDDEN * _PIXELS * ((size // 4) ** 2 - 1)
    return _BASE_MIB + weights * _BYTES_PER_WEIGHT / _MIB + _MAPS_MIB * batch * (size / 128) ** 2


def available_mib() -> float:
    """Memory that can be had without taking it from another program, as the kernel counts it."""
    with open("/proc/meminfo") as file:
        kib = next(line.split()[1] for line in file if line.startswith("MemAvailable"))
    return int(kib) / 1024


def flags_of(model: str, size: int, dtype: str, saving: str) -> list[str]:
    """What train_step.py is told of a row."""
    depth = ["--option", "global_layers=6"] if size < SHALLOW else []
    light = ["--option", f"light={MODELS[model]}"]
    return ["--size", str(size), "--dtype", dtype, *light, *depth, *SAVINGS[saving]]


def measure(arguments: argparse.Namespace, flags: list[str]) -> dict:
    """One row: why it failed or "", median seconds and CPU seconds a data iteration, peak MiB, parameters."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        path = os.path.join(folder, "row.json")
        given = [part for option in arguments.option for part in ("--option", option)]
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "train_step.py")
        command = [sys.executable, script, "--method=ugatit", f"--batch={arguments.batch}", f"--xla={arguments.xla}"]
        command += [f"--rounds={arguments.rounds}", "--iterations=1", "--warmup=0", f"--threads={arguments.threads}"]
        command += ["--flops=0"]
        process = subprocess.Popen(
            [*command, *flags, *given, f"--json={path}"],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # it and its worker are ended together
        )
        try:
            stopped = watch(process, arguments)
            if stopped:
                return {"failed": stopped}
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode:
            errors.seek(0)
            return {"failed": (errors.read().strip().splitlines() or ["no message"])[-1]}
        with open(path) as file:
            found = json.load(file)
    side = found["sides"]["tensorflow"]
    return {"failed": "", **{key: side[key] for key in ("seconds", "cpu_seconds", "peak_mib", "parameters")}}


def watch(process: subprocess.Popen, arguments: argparse.Namespace) -> str:
    """Waits for a row's process: "" once it has ended, or why it may not go on."""
    end = time.monotonic() + arguments.limit
    while process.poll() is None:
        if time.monotonic() > end:
            return f"stopped after {arguments.limit} s"
        left = available_mib()
        if left < arguments.spare / 2:
            return f"stopped: {left:.0f} MiB were left"
        time.sleep(_POLL_SECONDS)
    return ""


if __name__ == "__main__":
    sys.exit(main())
