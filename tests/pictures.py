"""Small image folders, and a reader of data folders that shares no code with the package."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image

from tfaclgan.data import images
from tfaclgan.data.sources import Loaded

ROOT = pathlib.Path(__file__).resolve().parent.parent


def noise(height, width, channels=3, seed=0):
    """uint8 noise [height, width(, channels)]."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height, width, seed=0):
    """uint8 [height, width, 3] that JPEG keeps almost exactly."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR))


def encoded(array, kind="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def make_folder(root, names, height=20, width=30):
    """Writes an image of its own under each name."""
    for number, name in enumerate(names):
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Image.fromarray(noise(height, width, seed=number)).save(path)
    return str(root)


def four_folders(root, count=3):
    """trainA, trainB, testA, testB with `count` PNG images each."""
    return make_folder(root, [f"{s}/{i:03d}.png" for s in ("trainA", "trainB", "testA", "testB") for i in range(count)])


def read_folder(folder):
    """(dataset.json, {split: [record as a dict, in order]}) by TensorFlow's reader."""
    import tensorflow as tf

    manifest = json.loads(pathlib.Path(folder, "dataset.json").read_text())
    records = {}
    for name, split in manifest["splits"].items():
        records[name] = []
        for shard in split["shards"]:
            for payload in tf.data.TFRecordDataset(os.path.join(folder, shard["file"])).as_numpy_iterator():
                features = tf.train.Example.FromString(payload).features.feature
                values = {key: (f.bytes_list.value or f.int64_list.value)[0] for key, f in features.items()}
                records[name].append(values)
    return manifest, records


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def contents(folder):
    """{file: bytes} of everything in a folder, hidden files too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in pathlib.Path(folder).rglob("*") if p.is_file()}


def run_tool(script, *arguments, **options):
    """Runs data_tools/`script`; text of both streams."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, str(ROOT / "data_tools" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, **options)


@dataclasses.dataclass(frozen=True)
class ModulesJob:
    """Rejected always; the reason tells which heavy modules the process that ran it had loaded."""

    key: str
    label: int = -1

    def load(self, size):
        heavy = sorted({"tensorflow", "keras", "tensorflow_datasets"}.intersection(sys.modules))
        raise images.RejectedError(f"{os.getpid()} {' '.join(heavy)}")


@dataclasses.dataclass(frozen=True)
class DyingJob:
    """Ends the process that runs it, as a lack of memory would."""

    key: str
    label: int = -1

    def load(self, size):
        os._exit(9)


@dataclasses.dataclass(frozen=True)
class PictureJob:
    """A picture held in memory."""

    key: str
    data: bytes
    label: int = -1

    def load(self, size):
        return Loaded(self.data)


class ListSource:
    """A source of given jobs: {split: [job]}."""

    label_names = ()
    region = None
    lossless = True

    def __init__(self, splits):
        self.splits = {split: splits.get(split, []) for split in ("trainA", "trainB", "testA", "testB")}
        self.counts = {split: len(jobs) for split, jobs in self.splits.items()}
        self.description = {"kind": "list"}

    def fingerprint(self):
        return str({split: [job.key for job in jobs] for split, jobs in self.splits.items()})

    def jobs(self, split, start):
        return iter(self.splits[split][start:])
