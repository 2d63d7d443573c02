"""How many images a second data_tools/make_tfrecords.py converts, by workers, on this machine.

    python benchmarks/converter.py

Two jobs: photographs (640 x 480 JPEG files, made here: soft shapes with grain, about 110 kB each) to 256 pixel JPEG
records, and avatars with and without glasses drawn at 64 pixels. The time is a whole conversion's, the start of the
workers included and that of TensorFlow (once a process) left out. Processor time is over all processes: unlike the
rate, it says little about what else the machine was doing.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from absl import app, flags
from PIL import Image

from tfaclgan.data.convert import ConvertOptions, convert
from tfaclgan.data.images import ImageOptions
from tfaclgan.data.sources import AvatarSource, FolderSource, LayoutOptions, Source

FLAGS = flags.FLAGS

flags.DEFINE_integer("photos", 600, "Photographs to convert, images.")
flags.DEFINE_integer("avatars", 1200, "Avatars to draw, images.")
flags.DEFINE_list("workers", ["1", "2"], "Numbers of worker processes to time.")
flags.DEFINE_integer("repeats", 3, "Times each figure is taken; the best counts.")


def make_photos(folder: str, count: int) -> None:
    """Writes `count` JPEG files, half of them for each domain."""
    generator = np.random.default_rng(0)
    for number in range(count):
        soft = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(soft).resize((640, 480), Image.Resampling.BICUBIC), np.float32)
        grain = generator.normal(0, 6, (480, 640, 1))
        path = os.path.join(folder, "train" + "AB"[number % 2], f"{number:06d}.jpg")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Image.fromarray(np.clip(picture + grain, 0, 255).astype(np.uint8)).save(path, quality=90)


def best_times(source: Source, options: ConvertOptions) -> tuple[float, float]:
    """Seconds of the clock, and of the processor over all processes, that a conversion takes: each repeats' least."""
    clock, processor = [], []
    for _ in range(FLAGS.repeats):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter(), processor_seconds()
            convert(source, os.path.join(folder, "set"), options)
            clock.append(time.perf_counter() - start[0])
            processor.append(processor_seconds() - start[1])
    return min(clock), min(processor)


def processor_seconds() -> float:
    """Processor time so far of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main(arguments: list[str]) -> None:
    del arguments
    import tensorflow as tf

    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, TensorFlow {tf.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        make_photos(folder, FLAGS.photos)
        tests = FLAGS.avatars // 12
        jobs = {
            "photographs 640x480 JPEG -> 256 px JPEG": (
                FolderSource(folder, LayoutOptions(), max_bytes=64 << 20),
                ImageOptions(size=256, format="jpeg"),
            ),
            "avatars:glasses -> 64 px PNG": (
                AvatarSource("glasses", train_count=FLAGS.avatars // 2 - tests, test_count=tests, seed=0),
                ImageOptions(size=64, format="png"),
            ),
        }
        for title, (source, image) in jobs.items():
            for workers in map(int, FLAGS.workers):
                clock, processor = best_times(source, ConvertOptions(image, workers=workers, progress=False))
                count = sum(source.counts.values())
                print(
                    f"{title}, {workers} worker{'s'[: workers > 1]}: {count / clock:.0f} images/s, "
                    f"{1000 * processor / count:.1f} ms of processor time an image",
                    flush=True,
                )


if __name__ == "__main__":
    app.run(main)
