"""Data folders for the reader's and the pipeline's tests: any sizes and companions, several shards."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow.io import gfile

from tfaclgan.data import records


def png(pixels):
    buffer = io.BytesIO()
    pixels = np.asarray(pixels)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **{"quality": 95, "subsampling": 0, **options})
    return buffer.getvalue()


def photo(height, width, seed=0):
    """uint8 [height, width, 3]: smooth, colourful, all values from dark to bright."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[0:height, 0:width] / 16
    waves = [np.sin(random.uniform(0.3, 1) * x + random.uniform(0.3, 1) * y + random.uniform(0, 6)) for _ in range(3)]
    return np.clip(127.5 + 127.5 * np.stack(waves, -1), 0, 255).round().astype(np.uint8)


def make(folder, splits, *, channels=3, shards=2, load_size=32):
    """Writes `splits` = {name: [image or {"image", "mask", "target", "label_map", "key", "label", "encoded"}]}."""
    folder, made = str(folder), {}
    gfile.makedirs(folder)
    for name, items in splits.items():
        items = [item if isinstance(item, dict) else {"image": item} for item in items]
        made[name] = _split(folder, name, items, channels, shards)
    manifest = records.Manifest(folder, "test", channels, load_size, "png", made, {}, {})
    with gfile.GFile(manifest.path(records.MANIFEST_NAME), "w") as file:
        file.write(records.manifest_json(manifest))
    return records.load_manifest(folder)


def _split(folder, name, items, channels, shards):
    parts = np.array_split(np.arange(len(items)), shards)
    index, made = [], []
    for shard, part in enumerate(parts):
        file, offset = f"{name}-{shard:05d}-of-{shards:05d}.tfrecord", 0
        with tf.io.TFRecordWriter(f"{folder}/{file}") as writer:
            for number in part:
                payload = _payload(items[number], f"{name}/{number}", channels)
                writer.write(payload)
                index.append((shard, offset + 12, len(payload)))
                offset += len(payload) + 16
        with gfile.GFile(f"{folder}/{file}", "rb") as written:
            made.append(records.Shard(file, len(part), offset, hashlib.sha256(written.read()).hexdigest()))
    stream = io.BytesIO()
    np.save(stream, np.array(index, np.int64).reshape(-1, 3))
    with gfile.GFile(f"{folder}/{name}.index.npy", "wb") as file:
        file.write(stream.getvalue())
    heights, widths = zip(*(item["image"].shape[:2] for item in items))
    has = {f"has_{field}": field in items[0] for field in ("target", "mask", "label_map")}
    digest = hashlib.sha256(stream.getvalue()).hexdigest()
    sides = min(heights), max(heights), min(widths), max(widths)
    return records.Split(name, len(items), tuple(made), f"{name}.index.npy", digest, *sides, **has)


def _payload(item, key, channels):
    height, width = item["image"].shape[:2]
    companions = {field: png(item[field]) for field in ("target", "mask", "label_map") if field in item}
    return records.serialize(
        records.Record(
            image=item.get("encoded") or png(item["image"]),
            format="png",
            key=item.get("key", key),
            height=height,
            width=width,
            channels=channels,
            label=item.get("label", -1),
            **companions,
        )
    )
