"""Checkpoints written beside training (`--async_save`) against training that waits for them.

    python benchmarks/async_save.py [--width=32] [--rounds=5]

A CycleGAN trains two steps on pictures that are there already and saves, again and again: without saving, with the
save in between (synchronous) and with it in the background. Prints medians over the rounds, which alternate: how long
training stood still for a save, and how long a round took, the last save's end included.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from tfaclgan.engine.tensorflow import Engine
from tfaclgan.methods import base
from tfaclgan.training import checkpoint

SAVES = 4  # a round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32, help="channels of CycleGAN's first convolutions (32)")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures, pixels (64)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each kind (5)")
    arguments = parser.parse_args()
    method = base.get("cyclegan")
    config = method.config(width=arguments.width, discriminator_width=arguments.width)
    shape = (arguments.size, arguments.size, 3)
    engine = Engine(method, config, image_shape=shape, recipe=dataclasses.replace(method.recipe, batch_size=1))
    images = np.random.RandomState(0).randint(0, 256, (1, *shape), np.uint8)
    batches = iter(tf.data.Dataset.from_tensors({"a": images, "b": images}).repeat())
    engine.train(batches, engine.period)
    size = sum(value.nbytes for value in engine.state().values())
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; a checkpoint is {size / 2**20:.0f} MiB")
    took: dict[str, list[tuple[float, float]]] = {"no saves": [], "synchronous": [], "asynchronous": []}
    for _ in range(arguments.rounds):
        for kind in took:
            took[kind].append(train_and_save(engine, batches, kind))
    for kind, values in took.items():
        stood, whole = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{kind:13s} training stood still for {stood * 1000:6.0f} ms a save; a round took {whole:.2f} s")


def train_and_save(engine: Engine, batches: object, kind: str) -> tuple[float, float]:
    """(seconds that training stood still a save, seconds of the round)."""
    stood, started = 0.0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        saver = checkpoint.Saver(folder, keep=2, keep_every=0, background=kind == "asynchronous")
        for step in range(SAVES):
            engine.train(batches, 2 * engine.period)
            before = time.perf_counter()
            if kind != "no saves":
                saver.save(engine.state(), step)
            stood += time.perf_counter() - before
        saver.wait()
        return stood / SAVES, time.perf_counter() - started


if __name__ == "__main__":
    main()
