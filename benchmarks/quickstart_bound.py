"""How good the quick start's generator could look at best: a bound for its KID goal.

    python benchmarks/quickstart_bound.py --data_dir=quickstart_data/glasses

Trains one generator of `configs/quickstart.flags` on nothing but copying faces without glasses (mean L1, the run's
Adam, no discriminators). Every few hundred steps it copies the exact answers of the test pairs, and only the true
pixels of the glasses are taken from its copies: a translation by someone who knows the answer and the region, and is
limited by nothing but how well such a generator paints. The quick start of 2,300 data iterations has 1,150 generator
updates.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="quickstart_data/glasses", help="avatars:glasses at 64 px (default)")
    parser.add_argument("--steps", default="600,1200,1800,3000", help="updates after which to judge (default)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (0)")
    arguments = parser.parse_args()
    if not os.path.exists(os.path.join(arguments.data_dir, "dataset.json")):
        print(f"left out: {os.path.abspath(arguments.data_dir)} holds no data; make quickstart draws it")
        return
    faces, inputs, answers, glasses = load(arguments.data_dir)
    judged = judge(faces)
    print(f"untouched: KID {judged(inputs):.4f}; the glasses' share of the pixels: {glasses.mean():.3f}")
    for step, copy in copies(faces, [int(s) for s in arguments.steps.split(",")], arguments.seed):
        copied = copy(answers)
        error = np.abs(copied.astype(float) - answers)[np.repeat(glasses, 3, -1)].mean() / 127.5
        kid = judged(np.where(glasses, copied, inputs))
        print(f"{step} updates: KID {kid:.4f}, error inside the glasses {error:.3f}", flush=True)


def load(folder: str) -> tuple[np.ndarray, ...]:
    """uint8 faces without glasses [n, h, w, 3]; of the test pairs the input, the answer, and the region as bool."""
    from tfaclgan.data import pipeline, records
    from tfaclgan.metrics.evaluate import region_of

    manifest = records.load_manifest(folder)
    options = pipeline.PipelineOptions(height=64, width=64, load_size=64)
    faces = pipeline.read_images(manifest, "trainB", 10**9, options)
    elements = list(pipeline.evaluation_dataset(manifest, "testA", options, batch=1).as_numpy_iterator())
    inputs, answers = (np.concatenate([e[name] for e in elements]) for name in ("image", "target"))
    return faces, inputs, answers, np.concatenate([region_of(manifest, e) for e in elements])


def judge(faces: np.ndarray) -> Callable[[np.ndarray], float]:
    """A function: uint8 images [n, h, w, 3] -> KID to `faces`."""
    from tfaclgan.metrics.distances import kernel_distance
    from tfaclgan.metrics.features import get_extractor

    extractor = get_extractor("efficientnet_lite0")
    real = extractor(faces)
    return lambda images: float(kernel_distance(real, extractor(images)).mean)


def copies(faces: np.ndarray, steps: list[int], seed: int) -> Iterator[tuple[int, Callable[[np.ndarray], np.ndarray]]]:
    """Trains, and yields (updates so far, function that copies uint8 images) at each of `steps`."""
    import keras
    import tensorflow as tf

    from tfaclgan.networks import munit

    keras.utils.set_random_seed(seed)
    generator = munit.Generator(
        3,
        mask=True,
        width=16,
        downsamples=2,
        residual_blocks=2,
        style_dim=8,
        mlp_dim=64,
        initial="balanced",
        skip=True,
        name="generator",
    )
    optimizer = keras.optimizers.Adam(4e-4, beta_1=0.5)
    optimizer.build(generator.trainable_variables)

    @tf.function
    def update(images: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.abs(generator(images)[..., :3] - images))
        optimizer.apply(tape.gradient(loss, generator.trainable_variables), generator.trainable_variables)

    @tf.function
    def forward(images: tf.Tensor) -> tf.Tensor:
        return generator(images)[..., :3]

    def copy(images: np.ndarray) -> np.ndarray:
        parts = [forward(tf.constant(scaled(images[i : i + 50]))).numpy() for i in range(0, len(images), 50)]
        return np.clip(np.concatenate(parts) * 127.5 + 127.5, 0, 255).round().astype(np.uint8)

    def scaled(images: np.ndarray) -> np.ndarray:
        return images.astype(np.float32) / 127.5 - 1

    draws, started = np.random.default_rng(seed), time.perf_counter()
    for step in range(1, max(steps) + 1):
        update(tf.constant(scaled(faces[draws.integers(len(faces), size=4)])))
        if step in steps:
            print(f"({time.perf_counter() - started:.0f} s)", end=" ")
            yield step, copy


if __name__ == "__main__":
    main()
