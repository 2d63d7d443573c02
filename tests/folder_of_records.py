"""A small data folder for tests, written field by field from the schema rather than by the converter."""

from __future__ import annotations

import hashlib
import io
import os
import struct

import numpy as np
import tensorflow as tf
from PIL import Image

from tfaclgan.data import records


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder, counts=None, size=16, channels=3, seed=0):
    """Writes random images [size, size, channels], `counts` = {split: number}; returns the folder's path."""
    counts = counts or {"trainA": 6, "trainB": 5, "testA": 3, "testB": 3}
    folder = str(folder)
    os.makedirs(folder, exist_ok=True)
    random = np.random.RandomState(seed)
    splits = {}
    for name, count in counts.items():
        images = random.randint(0, 256, (count, size, size, channels), dtype=np.uint8)
        payloads = [
            records.serialize(
                records.Record(
                    png(image),
                    "png",
                    f"{name}/{i}.png",
                    size,
                    size,
                    channels,
                    target=png(255 - image) if name == "testA" else b"",
                )
            )
            for i, image in enumerate(images)
        ]
        file = f"{name}-00000-of-00001.tfrecord"
        path = os.path.join(folder, file)
        with tf.io.TFRecordWriter(path) as writer:
            for payload in payloads:
                writer.write(payload)
        offsets, position = [], 0
        for payload in payloads:
            offsets.append((0, position + 12, len(payload)))
            position += 12 + len(payload) + 4
        np.save(os.path.join(folder, f"{name}.index.npy"), np.array(offsets, np.int64).reshape(-1, 3))
        data = open(path, "rb").read()
        assert struct.unpack("<Q", data[:8])[0] == len(payloads[0])
        index = open(os.path.join(folder, f"{name}.index.npy"), "rb").read()
        splits[name] = records.Split(
            name,
            count,
            (records.Shard(file, count, len(data), hashlib.sha256(data).hexdigest()),),
            f"{name}.index.npy",
            hashlib.sha256(index).hexdigest(),
            size,
            size,
            size,
            size,
            has_target=name == "testA",
        )
    manifest = records.Manifest(folder, "small", channels, size, "png", splits, {"kind": "test"}, {})
    with open(os.path.join(folder, records.MANIFEST_NAME), "w") as out:
        out.write(records.manifest_json(manifest))
    return folder
