"""All methods on the same drawn faces for the same few minutes: a table and a picture for the README.

    python benchmarks/compare_methods.py --data_dir=quickstart_data/glasses --minutes=5

Trains each method's quick flagfile from nothing, stops it by SIGTERM once the minutes from its start (compiling
included) are over, judges it on the exact test pairs, and translates the same eight faces. Nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
from PIL import Image, ImageDraw

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
EXIT_PREEMPTED = 42
FLAGFILES = {
    "acl_gan": "quickstart",
    "munit": "quick_munit",
    "cyclegan": "quick_cyclegan",
    "council_gan": "quick_council_gan",
    "ugatit": "quick_ugatit",
}
COLUMNS = {"psnr": "PSNR, dB", "region_l1": "error inside the glasses", "kid": "KID"}
FACES, SIDE, MARGIN, HEAD = 8, 96, 4, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data_dir",
        default="quickstart_data/glasses",
        help="avatars:glasses at 64 px, made by make quickstart (default)",
    )
    parser.add_argument("--minutes", type=float, default=5, help="of each method, from its start (5)")
    parser.add_argument("--methods", default=",".join(FLAGFILES), help="some of them (all)")
    parser.add_argument("--output", default="runs/comparison", help="folder of the runs and the results")
    arguments = parser.parse_args()
    arguments.output, arguments.data_dir = os.path.abspath(arguments.output), os.path.abspath(arguments.data_dir)
    if not os.path.exists(os.path.join(arguments.data_dir, "dataset.json")):
        print(f"left out: {arguments.data_dir} holds no data; make quickstart draws it")
        return
    os.makedirs(arguments.output, exist_ok=True)
    load = os.getloadavg()[0]
    results, pictures = {}, {}
    for method in arguments.methods.split(","):
        run_dir = os.path.join(arguments.output, method)
        shutil.rmtree(run_dir, ignore_errors=True)
        train(method, run_dir, arguments)
        results[method] = judge(run_dir)
        pictures[method] = translations(run_dir)
        print(f"{method}: step {results[method]['step']}, {results[method]['metrics']}", flush=True)
    table = describe(results, arguments.minutes)
    with open(os.path.join(arguments.output, "table.md"), "w") as file:
        file.write(table)
    picture = os.path.join(arguments.output, "faces.png")
    sheet(pictures, arguments.data_dir).save(picture)
    print(f"\n{table}\n{os.cpu_count()} CPUs, load at the start {load:.1f}; pictures: {picture}")


def train(method: str, run_dir: str, arguments: argparse.Namespace) -> None:
    """One method for the given minutes."""
    command = [
        *(sys.executable, "-m", "tfaclgan.main", f"--flagfile=configs/{FLAGFILES[method]}.flags"),
        *(f"--data_dir={arguments.data_dir}", f"--run_dir={run_dir}", "--steps=1000000", "--steps_per_loop=10"),
        *("--sample_every_steps=0", "--checkpoint_every_steps=1000000"),
    ]
    with open(os.path.join(arguments.output, f"{method}.log"), "w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            code = process.wait(60 * arguments.minutes)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            code = process.wait()
    if code != EXIT_PREEMPTED:
        raise SystemExit(f"{method} ended with exit code {code}; see {log.name}")


def judge(run_dir: str) -> dict:
    """What `--mode=evaluate` says, and the data iteration that was reached."""
    command = [sys.executable, "-m", "tfaclgan.main", "--mode=evaluate", f"--run_dir={run_dir}", "--direction=a2b"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(os.path.join(run_dir, "evaluations", "latest_a2b", "metrics.json")) as file:
        result = json.load(file)
    newest = sorted(os.listdir(os.path.join(run_dir, "checkpoints")))[-1]
    return {**result, "step": int(newest.removeprefix("step_"))}


def translations(run_dir: str) -> np.ndarray:
    """The first test faces, translated, uint8 [n, h, w, 3]."""
    import tfaclgan

    translator = tfaclgan.load(run_dir)
    return translator.translate(_faces(translator.run.flags["data_dir"]), direction="a2b")


def _faces(data_dir: str) -> np.ndarray:
    from tfaclgan.data import pipeline
    from tfaclgan.data.records import load_manifest

    options = pipeline.PipelineOptions(height=64, width=64, load_size=64)
    return pipeline.read_images(load_manifest(data_dir), "testA", FACES, options)


def describe(results: dict[str, dict], minutes: float) -> str:
    """A Markdown table."""
    untouched = next(iter(results.values()))["untouched"]
    rows = [["input untouched", "", *(f"{untouched[name]:.4g}" for name in COLUMNS)]]
    for method, result in results.items():
        rows.append([method, f"{result['step']:,}", *(f"{result['metrics'][name]:.4g}" for name in COLUMNS)])
    head = ["method", f"data iterations in {minutes:g} minutes", *COLUMNS.values()]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def sheet(pictures: dict[str, np.ndarray], data_dir: str) -> Image.Image:
    """A row a face, a column a method, the input first."""
    columns = {"input": _faces(data_dir), **pictures}
    step = SIDE + MARGIN
    canvas = Image.new("RGB", (len(columns) * step + MARGIN, FACES * step + MARGIN + HEAD), "white")
    draw = ImageDraw.Draw(canvas)
    for column, (name, images) in enumerate(columns.items()):
        draw.text((MARGIN + column * step, 2), name, fill="black")
        for row, image in enumerate(images):
            tile = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            canvas.paste(tile, (MARGIN + column * step, HEAD + MARGIN + row * step))
    return canvas


if __name__ == "__main__":
    main()
