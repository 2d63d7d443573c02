"""Input pipeline against the same chain in Pillow: images per second, CPU time per image.

    python benchmarks/input_pipeline.py [--size=256] [--rounds=9] [--augment=council] [--rate=IMAGES]

Writes a temporary data folder of crops from scikit-image's photographs (JPEG, quality 95, 4:4:4), then alternates
rounds of this package's pipeline (decode, augment, batch, as the training loop uses it: all cores) with rounds of
Pillow in one process (decode, then one operation after the other, as the original code does through torchvision).
Two more sides are `--augment_on=device`: what the host does then (read, decode, resize, draw), and the device's part,
compiled by XLA for the first device there is (the CPU, unless CUDA_VISIBLE_DEVICES is set), on a batch that is there
already. Prints medians over the rounds, with the spread.

    python benchmarks/input_pipeline.py --chip=v5e --batch=8 [--augment=flip,crop --load_size=286]

asks the TPU's compiler instead (extra tpu_check, no TPU needed) what the device's part costs on a core of that chip.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import hashlib
import io
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from tfaclgan.data import augment, pipeline, records

IMAGES = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of stored images and of the crop, pixels (256)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each side (9)")
    parser.add_argument("--images", type=int, default=1024, help="images per round (1024)")
    parser.add_argument("--batch", type=int, default=4, help="pairs per batch (4)")
    parser.add_argument("--augment", default="council", help="spec of the augmentation (council)")
    parser.add_argument("--parallel_calls", type=int, default=0, help="threads; 0: tf.data decides (0)")
    parser.add_argument("--load_size", type=int, default=0, help="side before the crop; 0: --size (0)")
    parser.add_argument("--chip", choices=("v4", "v5e", "v5p", "v6e"), help="ask this TPU's compiler; nothing is timed")
    parser.add_argument("--rate", type=float, help="images of each domain a second to feed; none (default): not asked")
    arguments = parser.parse_args()
    if arguments.chip:
        print(on_chip(arguments))
        return
    encoded = photographs(arguments.size)
    augmentation = augment.parse(arguments.augment)
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_folder(folder, encoded, arguments.size)
        options = pipeline.PipelineOptions(
            height=arguments.size,
            width=arguments.size,
            load_size=arguments.load_size or arguments.size,
            augment=arguments.augment,
            parallel_calls=arguments.parallel_calls,
        )
        dataset = pipeline.training_dataset(manifest, options, global_batch=arguments.batch)
        options = dataclasses.replace(options, augment_on="device")
        unfinished = pipeline.training_dataset(manifest, options, global_batch=arguments.batch)
        generator = random.Random(0)
        sides = {
            "tfaclgan": lambda: take(dataset, arguments.images, arguments.batch),
            "host's part": lambda: take(unfinished, arguments.images, arguments.batch),
            "device's part": device_side(manifest, options, unfinished, arguments),
            "Pillow": lambda: pillow_round(encoded, augmentation, arguments.size, arguments.images, generator),
        }
        report(measure(sides, arguments.rounds), arguments)


def measure(sides: dict[str, Callable[[], tuple[int, float, float]]], rounds: int) -> dict[str, list[list[float]]]:
    """[wall, CPU] seconds per image of each side's rounds, taken in turn; the first round warms up."""
    figures: dict[str, list[list[float]]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            count, *seconds = side()
            if number:
                figures[name].append([value / count for value in seconds])
    return figures


def report(figures: dict[str, list[list[float]]], arguments: argparse.Namespace) -> None:
    cores = len(os.sched_getaffinity(0))
    print(f"{arguments.size} px, --augment={arguments.augment}, {cores} cores, {arguments.rounds} rounds in turn")
    print(f"{'':13s} {'images/s':>9s} {'(min to max)':>16s} {'CPU ms/image':>13s} {'images/s per core':>18s}")
    medians = {}
    for name, rows in figures.items():
        rates = sorted(1 / wall for wall, _ in rows)
        cpu = statistics.median(cpu for _, cpu in rows)
        medians[name] = statistics.median(rates), cpu
        spread = f"({rates[0]:.0f} to {rates[-1]:.0f})"
        print(f"{name:13s} {medians[name][0]:9.0f} {spread:>16s} {cpu * 1e3:13.2f} {1 / cpu:18.0f}")
    (ours, our_cpu), (theirs, their_cpu) = medians["tfaclgan"], medians["Pillow"]
    paired = statistics.median(b[0] / a[0] for a, b in zip(figures["tfaclgan"], figures["Pillow"]))
    print(f"tfaclgan / Pillow in one process: {ours / theirs:.2f} times the images/s (median of rounds {paired:.2f}),")
    print(f"{their_cpu / our_cpu:.2f} times per core")
    if arguments.rate:
        for name, what in (("tfaclgan", "augmentation on the host"), ("host's part", "--augment_on=device")):
            print(
                f"{arguments.rate:g} images/s of each domain, {what}: {2 * arguments.rate * medians[name][1]:.1f} cores"
            )


def take(dataset: tf.data.Dataset, images: int, batch: int) -> tuple[int, float, float]:
    """(images, wall, CPU seconds) after the first batch, with an iterator of its own.

    An iterator that stayed would work ahead while the other side is timed.
    """
    iterator = iter(dataset)
    next(iterator)
    started = time.perf_counter(), time.process_time()
    batches = -(-images // (2 * batch))
    for _ in range(batches):
        next(iterator)
    wall = time.perf_counter() - started[0]
    del iterator
    gc.collect()
    return batches * 2 * batch, wall, time.process_time() - started[1]


def device_side(
    manifest: records.Manifest,
    options: pipeline.PipelineOptions,
    unfinished: tf.data.Dataset,
    arguments: argparse.Namespace,
) -> Callable[[], tuple[int, float, float]]:
    """A round of the device's part of `--augment_on=device`, again and again on the first batch."""
    augmentation = pipeline.device_augmentation(options, manifest.channels, manifest)
    batch = {name: value for name, value in next(iter(unfinished)).items() if value.dtype != tf.string}
    apply = tf.function(augmentation.apply, jit_compile=True)
    batches = -(-arguments.images // (2 * arguments.batch))

    def round_of() -> tuple[int, float, float]:
        apply(batch)["a"].numpy()
        started = time.perf_counter(), time.process_time()
        for _ in range(batches):
            made = apply(batch)
        for value in made.values():
            value.numpy()
        return batches * 2 * arguments.batch, time.perf_counter() - started[0], time.process_time() - started[1]

    return round_of


def on_chip(arguments: argparse.Namespace) -> str:
    """What the device's part costs on a TPU, from the TPU's compiler."""
    from tfaclgan.data import device_augment
    from tfaclgan.engine import tpu_compiler

    chip = tpu_compiler.CHIPS[arguments.chip]
    tpu_compiler.prepare(chip)
    side, before = arguments.size, arguments.load_size or arguments.size
    augmentation = device_augment.make(arguments.augment, side, side, before, 3, {"a": None, "b": None})
    batch = augmentation.example(arguments.batch)
    apply = tf.function(lambda *values: augmentation.apply(dict(zip(batch, values, strict=True))), jit_compile=True)
    lowered = apply.experimental_get_compiler_ir(*batch.values())(stage="hlo_serialized")
    found = tpu_compiler.compile_hlo(lowered, chip)
    least, estimate = found.traffic_bytes / chip.bandwidth, sum(found.cycles.values()) / chip.cycle_rate
    return (
        f"--augment={arguments.augment}, {before} to {side} px, {arguments.batch} pictures of each domain on a core of "
        f"{arguments.chip}: {found.traffic_bytes / 1e9:.2f} GB to and from memory, at least {1e3 * least:.2f} ms; "
        f"{1e3 * estimate:.2f} ms by the compiler's estimate; {found.temporary_bytes / 2**30:.2f} GiB of temporaries"
    )


# -- the same in Pillow -----------------------------------------------------------------------


def pillow_round(
    encoded: list[bytes], augmentation: augment.Augmentation, size: int, count: int, generator: random.Random
) -> tuple[int, float, float]:
    started = time.perf_counter(), time.process_time()
    for number in range(count):
        image = Image.open(io.BytesIO(encoded[number % len(encoded)])).convert("RGB")
        np.asarray(pillow_chain(image, augmentation, size, generator))
    return count, time.perf_counter() - started[0], time.process_time() - started[1]


def pillow_chain(image: Image.Image, augmentation: augment.Augmentation, size: int, draw: random.Random) -> Image.Image:
    """One operation after the other, all bilinear."""
    width, height = image.size
    for name, enhance in (
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ):
        jitter = getattr(augmentation, name)
        if jitter and draw.random() < jitter.probability:
            image = enhance(image).enhance(1 + draw.uniform(-jitter.amount, jitter.amount))
    if augmentation.hue and draw.random() < augmentation.hue.probability:
        hue, saturation, value = image.convert("HSV").split()
        shift = np.uint8(int(draw.uniform(-augmentation.hue.amount, augmentation.hue.amount) * 255) % 256)
        hue = Image.fromarray(np.asarray(hue) + shift)
        image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    if draw.random() < augmentation.grey:
        image = image.convert("L").convert("RGB")
    if augmentation.rotate:
        image = image.rotate(
            draw.uniform(-augmentation.rotate.amount, augmentation.rotate.amount), Image.Resampling.BILINEAR
        )
    if augmentation.translate:
        x = round(draw.uniform(-1, 1) * augmentation.translate.amount * width)
        y = round(draw.uniform(-1, 1) * augmentation.translate.amount * height)
        image = image.transform(image.size, Image.Transform.AFFINE, (1, 0, -x, 0, 1, -y), Image.Resampling.BILINEAR)
    if augmentation.perspective and draw.random() < augmentation.perspective.probability:
        reach = augmentation.perspective.amount / 2
        corners = [(0, 0), (width, 0), (width, height), (0, height)]
        moved = [(abs(x - draw.random() * reach * width), abs(y - draw.random() * reach * height)) for x, y in corners]
        rows, right = [], []
        for (x, y), (u, v) in zip(moved, corners):
            rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
            right += [u, v]
        coefficients = np.linalg.solve(np.array(rows), np.array(right))
        image = image.transform(
            image.size, Image.Transform.PERSPECTIVE, coefficients.tolist(), Image.Resampling.BILINEAR
        )
    if draw.random() < augmentation.flip:
        image = ImageOps.mirror(image)
    if min(image.size) != size:
        scale = size / min(image.size)
        image = image.resize((int(width * scale), int(height * scale)), Image.Resampling.BILINEAR)
    left, top = draw.randint(0, image.width - size), draw.randint(0, image.height - size)
    return image.crop((left, top, left + size, top + size))


# -- data -------------------------------------------------------------------------------------


def photographs(size: int) -> list[bytes]:
    """JPEG crops of scikit-image's photographs, `size` pixels square."""
    import skimage.data

    generator = np.random.default_rng(0)
    sources = [Image.fromarray(getattr(skimage.data, name)()) for name in ("astronaut", "coffee", "chelsea")]
    encoded = []
    for number in range(IMAGES):
        source = sources[number % len(sources)]
        side = int(generator.integers(min(source.size) // 2, min(source.size) + 1))
        left, top = (int(generator.integers(0, length - side + 1)) for length in source.size)
        crop = source.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        buffer = io.BytesIO()
        crop.save(buffer, "JPEG", quality=95, subsampling=0)
        encoded.append(buffer.getvalue())
    return encoded


def write_folder(folder: str, encoded: list[bytes], size: int) -> records.Manifest:
    """A data folder with the same images in both domains."""
    splits = {}
    for name in ("trainA", "trainB"):
        path = os.path.join(folder, f"{name}-00000-of-00001.tfrecord")
        rows, offset = [], 0
        with tf.io.TFRecordWriter(path) as writer:
            for number, image in enumerate(encoded):
                payload = records.serialize(records.Record(image, "jpeg", str(number), size, size, 3))
                writer.write(payload)
                rows.append((0, offset + 12, len(payload)))
                offset += len(payload) + 16
        np.save(os.path.join(folder, f"{name}.index.npy"), np.array(rows, np.int64))
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        shard = records.Shard(os.path.basename(path), len(encoded), offset, digest)
        splits[name] = records.Split(name, len(encoded), (shard,), f"{name}.index.npy", "", size, size, size, size)
    return records.Manifest(folder, "photographs", 3, size, "jpeg", splits, {}, {})


if __name__ == "__main__":
    main()
