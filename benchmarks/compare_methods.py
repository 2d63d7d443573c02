"""All methods on the same drawn faces for the same few minutes: a table and a picture for the README.

    python benchmarks/compare_methods.py --data_dir=quickstart_data/glasses --minutes=5

Trains each method's quick flagfile from nothing, stops it by SIGTERM once the minutes from its start (compiling
included) are over, judges it on the exact test pairs, and translates the same eight faces. Nothing else should run.
"""

from __future__ import annotations

import argparse
import os
import shutil

import timed_runs

from tfaclgan.errors import EXIT_PREEMPTED

COLUMNS = {"psnr": "PSNR, dB", "region_l1": "error inside the glasses", "kid": "KID"}
FACES, SIDE = 8, 96
EXTRACTOR = "efficientnet_lite0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data_dir",
        default="quickstart_data/glasses",
        help="avatars:glasses at 64 px, made by make quickstart (default)",
    )
    parser.add_argument("--minutes", type=float, default=5, help="of each method, from its start (5)")
    parser.add_argument("--methods", default=",".join(timed_runs.QUICK), help="some of them (all)")
    parser.add_argument("--output", default="runs/comparison", help="folder of the runs and the results")
    arguments = parser.parse_args()
    arguments.output, arguments.data_dir = os.path.abspath(arguments.output), os.path.abspath(arguments.data_dir)
    if not os.path.exists(os.path.join(arguments.data_dir, "dataset.json")):
        print(f"left out: {arguments.data_dir} holds no data; make quickstart draws it")
        return
    os.makedirs(arguments.output, exist_ok=True)
    load = os.getloadavg()[0]
    methods = arguments.methods.split(",")
    for method in methods:
        train(method, arguments)
    from tfaclgan import quiet

    quiet.import_tensorflow()
    results, columns = {}, {}
    for method in methods:
        results[method], pictures = timed_runs.judge(os.path.join(arguments.output, method), EXTRACTOR, FACES)
        columns.setdefault("input", pictures["input"])
        columns[method] = pictures["output"]
        print(f"{method}: step {results[method]['step']}, {results[method]['metrics']}", flush=True)
    table = describe(results, arguments.minutes)
    with open(os.path.join(arguments.output, "table.md"), "w") as file:
        file.write(table)
    picture = os.path.join(arguments.output, "faces.png")
    timed_runs.sheet(columns, SIDE).save(picture)
    print(f"\n{table}\n{os.cpu_count()} CPUs, load at the start {load:.1f}; pictures: {picture}")


def train(method: str, arguments: argparse.Namespace) -> None:
    """One method for the given minutes, from nothing; only time ends it, and nothing is done between its steps."""
    run_dir = os.path.join(arguments.output, method)
    shutil.rmtree(run_dir, ignore_errors=True)
    flags = [
        *(f"--flagfile=configs/{timed_runs.QUICK[method]}.flags", f"--data_dir={arguments.data_dir}"),
        *(f"--run_dir={run_dir}", "--steps=1000000", "--steps_per_loop=10"),
        *("--sample_every_steps=0", "--checkpoint_every_steps=1000000"),
    ]
    code = timed_runs.train(flags, f"{run_dir}.log", 60 * arguments.minutes)
    if code != EXIT_PREEMPTED:
        raise SystemExit(f"{method} ended with exit code {code}; see {run_dir}.log")


def describe(results: dict[str, dict], minutes: float) -> str:
    """A Markdown table."""
    untouched = next(iter(results.values()))["untouched"]
    rows = [["input untouched", "", *(f"{untouched[name]:.4g}" for name in COLUMNS)]]
    for method, result in results.items():
        rows.append([method, f"{result['step']:,}", *(f"{result['metrics'][name]:.4g}" for name in COLUMNS)])
    head = ["method", f"data iterations in {minutes:g} minutes", *COLUMNS.values()]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]) + "\n"


if __name__ == "__main__":
    main()
