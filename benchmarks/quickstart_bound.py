"""How good the quick start's painter could be with a teacher: a measure for its KID goal.

    python benchmarks/quickstart_bound.py --data_dir=quickstart_data/glasses

Trains one generator of `configs/quickstart.flags` on what unpaired translation never has: drawn pairs of a face with
glasses and the same face without (seeds of their own), and the exact pixels of the glasses in training and in judging
(mean L1 inside them, the run's Adam at two and a half times its rate, which suits this task best, an average of the
weights). Every few hundred steps the test pairs are translated and only the true pixels of the glasses are taken from
the result. The quick start of 1,700 data iterations has 850 generator updates, and has to find the region and the
answer by itself.
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
    parser.add_argument("--pairs", type=int, default=1500, help="drawn for training (1500)")
    parser.add_argument("--steps", default="400,850,1700", help="updates after which to judge (default)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (0)")
    arguments = parser.parse_args()
    if not os.path.exists(os.path.join(arguments.data_dir, "dataset.json")):
        print(f"left out: {os.path.abspath(arguments.data_dir)} holds no data; make quickstart draws it")
        return
    faces, inputs, answers, glasses = load(arguments.data_dir)
    judged = judge(faces)
    print(f"untouched: KID {judged(inputs):.4f}; the glasses' share of the pixels: {glasses.mean():.3f}")
    steps = [int(s) for s in arguments.steps.split(",")]
    for step, translate in taught(drawn_pairs(arguments.pairs), steps, arguments.seed):
        painted = np.where(glasses, translate(inputs), inputs)
        error = np.abs(painted.astype(float) - answers)[np.repeat(glasses, 3, -1)].mean() / 127.5
        print(f"{step} updates: KID {judged(painted):.4f}, error inside the glasses {error:.3f}", flush=True)


def drawn_pairs(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Faces with glasses and without, uint8 [n, 64, 64, 3], and where they differ, float32 [n, 64, 64, 1]."""
    from tfaclgan.data import avatars

    drawn = [avatars.draw("glasses", "A", f"bound{i}", 64, paired=True) for i in range(count)]
    inputs, answers, regions = (
        np.stack([np.asarray(getattr(d, n)) for d in drawn]) for n in ("image", "target", "mask")
    )
    return inputs, answers, (regions[..., None] / 255).astype(np.float32)


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


def taught(
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray], steps: list[int], seed: int
) -> Iterator[tuple[int, Callable[[np.ndarray], np.ndarray]]]:
    """Trains, and yields (updates so far, function that translates uint8 images) at each of `steps`."""
    import keras
    import tensorflow as tf

    from tfaclgan.networks import munit

    keras.utils.set_random_seed(seed)
    generator = munit.Generator(
        3,
        mask=True,
        width=16,
        downsamples=1,
        residual_blocks=2,
        style_dim=8,
        mlp_dim=64,
        initial="balanced",
        skip=True,
        name="generator",
    )
    weights = generator.trainable_variables
    optimizer = keras.optimizers.Adam(1e-3, beta_1=0.5)
    optimizer.build(weights)
    average = [tf.Variable(w) for w in weights]

    @tf.function
    def update(images: tf.Tensor, answers: tf.Tensor, regions: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            difference = tf.abs(paint(images) - answers)
            loss = tf.reduce_sum(regions * difference) / tf.reduce_sum(regions) / 3
        optimizer.apply(tape.gradient(loss, weights), weights)
        for mean, weight in zip(average, weights, strict=True):
            mean.assign(0.99 * mean + 0.01 * weight)

    @tf.function
    def paint(images: tf.Tensor) -> tf.Tensor:
        style = tf.random.normal((images.shape[0], 8))
        return generator.decode(generator.content(images), style, images)[..., :3]

    def translate(images: np.ndarray) -> np.ndarray:
        trained = [w.numpy() for w in weights]
        for weight, mean in zip(weights, average, strict=True):
            weight.assign(mean)
        parts = [paint(tf.constant(scaled(images[i : i + 50]))).numpy() for i in range(0, len(images), 50)]
        for weight, value in zip(weights, trained, strict=True):
            weight.assign(value)
        return np.clip(np.concatenate(parts) * 127.5 + 127.5, 0, 255).round().astype(np.uint8)

    def scaled(images: np.ndarray) -> np.ndarray:
        return images.astype(np.float32) / 127.5 - 1

    inputs, answers, regions = pairs
    draws, started = np.random.default_rng(seed), time.perf_counter()
    for step in range(1, max(steps) + 1):
        drawn = draws.integers(len(inputs), size=4)
        update(tf.constant(scaled(inputs[drawn])), tf.constant(scaled(answers[drawn])), tf.constant(regions[drawn]))
        if step in steps:
            print(f"({time.perf_counter() - started:.0f} s)", end=" ")
            yield step, translate


if __name__ == "__main__":
    main()
