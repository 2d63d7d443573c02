"""How long a user waits before training moves: the command line's start, building, tracing, compiling.

    python benchmarks/startup.py

`--help` and `--dry_run` are whole processes; the rest is taken inside one process a row, which builds the networks and
calls the training function twice: what the first call takes longer than the second is tracing and, with XLA, compiling.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Method, its options, side of the images, batch, whether XLA compiles.
ENGINES = {
    "quick start's ACL-GAN, 64 px, batch 4": ("acl_gan", {"width": 16, "residual_blocks": 2}, 64, 4, "off"),
    "the same under XLA": ("acl_gan", {"width": 16, "residual_blocks": 2}, 64, 4, "on"),
    "the paper's ACL-GAN, 128 px, batch 3": ("acl_gan", {}, 128, 3, "off"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="times each command is started (5)")
    parser.add_argument(
        "--data_dir", default="quickstart_data/glasses", help="data for --dry_run, which is left out if it is not there"
    )
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine:
        print(json.dumps(time_engine(*ENGINES[arguments.engine])))
        return
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    commands = {"--help": ("-m", "tfaclgan.main", "--help")}
    if os.path.exists(os.path.join(arguments.data_dir, "dataset.json")):
        data = f"--data_dir={os.path.abspath(arguments.data_dir)}"
        commands["--dry_run"] = ("-m", "tfaclgan.main", "--flagfile=configs/quickstart.flags", "--dry_run", data)
    for name, command in commands.items():
        seconds = [run(command)[0] for _ in range(arguments.repeats)]
        print(
            f"{name}: median {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})", flush=True
        )
    for name in ENGINES:
        _, output = run((os.path.abspath(__file__), f"--engine={name}"))
        took = json.loads(output.splitlines()[-1])
        print(
            f"{name}: networks and optimisers built in {took['build']:.1f} s; first call {took['first']:.1f} s, "
            f"second {took['second']:.1f} s, so {took['first'] - took['second']:.1f} s of tracing and compiling",
            flush=True,
        )


def run(command: tuple[str, ...]) -> tuple[float, str]:
    """Seconds and output of a Python command started in the repository; it must succeed."""
    before = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True
    )
    return time.perf_counter() - before, done.stdout


def time_engine(name: str, options: dict, side: int, batch: int, xla: str) -> dict[str, float]:
    """Seconds of building an engine and of its first two calls of one period."""
    import dataclasses

    import numpy as np
    import tensorflow as tf

    from tfaclgan.engine.tensorflow import Engine
    from tfaclgan.methods import base

    method = base.get(name)
    images = np.random.RandomState(0).randint(0, 256, (batch, side, side, 3), dtype=np.uint8)
    iterator = iter(tf.data.Dataset.from_tensors({"a": images, "b": images}).repeat())
    before = time.perf_counter()
    engine = Engine(
        method,
        method.config(**options),
        image_shape=(side, side, 3),
        recipe=dataclasses.replace(method.recipe, batch_size=batch),
        xla=xla,
    )
    took = {"build": time.perf_counter() - before}
    for call in ("first", "second"):
        before = time.perf_counter()
        engine.train(iterator, engine.period)
        took[call] = time.perf_counter() - before
    return took


if __name__ == "__main__":
    main()
