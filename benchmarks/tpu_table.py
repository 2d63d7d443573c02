#!/usr/bin/env python3
"""What the TPU's compiler says of each method's step, on each chip: one table from `--mode=tpu_check`.

    python benchmarks/tpu_table.py                                        # 20 rows; hours on two cores
    python benchmarks/tpu_table.py --chips v5e --rows cyclegan munit --limit 3600
    python benchmarks/tpu_table.py --show                                 # the table of what is there

Each row is the command of docs/tpu.md in a process of its own, configs/tpu.flags with the method's published networks;
its report is kept as OUTPUT/ROW-CHIP.txt. A row whose report is there is not made again, so the command goes on where
it was stopped. A row that runs out of --limit seconds is named in the table and tried again the next time.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROWS = {
    "cyclegan": ("--method=cyclegan",),
    "munit": ("--method=munit",),
    "acl_gan": ("--method=acl_gan",),
    "ugatit_light": ("--method=ugatit", "--ugatit.light=1", "--ugatit.share_fakes=true"),
    "ugatit": ("--method=ugatit", "--ugatit.share_fakes=true"),
}
CHIPS = ("v5e", "v6e", "v5p", "v4")
# Of a report: what the table shows, by the words around it. Data iterations of several kinds give several.
FIGURES = {
    "memory, GiB": r"memory +([\d.]+) of ([\d.]+) GiB",
    "TFLOP": r"work +([\d.]+) TFLOP",
    "traffic, GB": r"TFLOP, ([\d.]+) GB",
    "at least, ms": r"\n  at least +([\d.]+) ms",
    "expected, ms": r"expected +([\d.]+) ms",
    "of peak": r"(\d+%) of the peak",
    "padding": r"padding +(\d+%)",
    "compiled in, s": r"compiles +in (\d+) s",
}
IMAGES = {"images/s at most": r"at most (\d+) images", "expected": r"expected, (\d+) images"}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=tuple(ROWS), help="methods")
    parser.add_argument("--chips", nargs="+", default=list(CHIPS), choices=CHIPS, help="TPU types")
    parser.add_argument("--engine", default="tensorflow", choices=("tensorflow", "jax"), help="whose step")
    parser.add_argument("--per_core", type=int, default=8, help="images of each domain on a core")
    parser.add_argument("--cores", type=int, default=8, help="cores that share a batch")
    parser.add_argument("--size", type=int, default=256, help="sides of the images in pixels")
    parser.add_argument("--option", action="append", default=[], metavar="--FLAG=VALUE", help="passed to every row")
    parser.add_argument("--limit", type=int, default=7200, help="seconds a row may take")
    parser.add_argument("--output", default="runs/tpu_table", help="folder of the reports")
    parser.add_argument("--show", action="store_true", help="only the table of the reports that are there")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    os.makedirs(arguments.output, exist_ok=True)
    reports = {}
    for chip in arguments.chips:
        for row in arguments.rows:
            path = os.path.join(arguments.output, f"{row}-{chip}.txt")
            if not os.path.exists(path) and not arguments.show:
                print(f"{row} on {chip} ...", file=sys.stderr, flush=True)
                make(arguments, row, chip, path)
            if os.path.exists(path):
                with open(path) as file:
                    reports[row, chip] = file.read()
    print(table(reports))
    return 0


def make(arguments: argparse.Namespace, row: str, chip: str, path: str) -> None:
    """One report; a run that fails or takes too long leaves none and says so."""
    command = [sys.executable, "-m", "tfaclgan.main", "--flagfile=configs/tpu.flags", "--mode=tpu_check"]
    command += [f"--tpu_type={chip}", f"--tpu_cores={arguments.cores}", f"--engine={arguments.engine}"]
    command += [f"--batch_size={arguments.per_core * arguments.cores}", f"--image_size={arguments.size}"]
    started = time.perf_counter()
    try:
        done = subprocess.run(
            [*command, *ROWS[row], *arguments.option],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=arguments.limit,
        )
    except subprocess.TimeoutExpired:
        print(f"{row} on {chip}: stopped after {arguments.limit} s", file=sys.stderr, flush=True)
        return
    if not re.search(r"memory +[\d.]+ of", done.stdout):
        words = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{row} on {chip}: {words}", file=sys.stderr, flush=True)
        return
    with open(path + ".part", "w") as file:
        file.write(done.stdout)
    os.replace(path + ".part", path)
    print(f"{row} on {chip}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def table(reports: dict[tuple[str, str], str]) -> str:
    """Markdown; where data iterations differ, the figures of each kind are shown with a slash between them."""
    head = ["method", "chip", *FIGURES, *IMAGES]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for (row, chip), text in reports.items():
        cells = [" / ".join(found[1] for found in re.finditer(words, text)) or "-" for words in FIGURES.values()]
        images = [found[1] if (found := re.search(words, text)) else "does not fit" for words in IMAGES.values()]
        lines.append(f"| {' | '.join([row, chip, *cells, *images])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
