"""Checks a data folder byte by byte and draws a contact sheet of it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tfaclgan.data import images
from tfaclgan.data.files import hash_file, hash_stream, parse_array, printable
from tfaclgan.data.records import (
    COMPANIONS,
    MANIFEST_NAME,
    SPLITS,
    Manifest,
    Shard,
    Split,
    features,
    key_of,
    load_manifest,
)
from tfaclgan.data.shards import read_offsets
from tfaclgan.errors import UserError, one_line

_MAX_PIXELS = 2**28  # far above any load size
# Twelve colours that are easy to tell apart, for class numbers; they repeat.
_COLOURS = np.array(
    [
        (0, 0, 0), (255, 200, 150), (120, 60, 20), (0, 160, 160), (40, 90, 220), (255, 255, 0),
        (140, 0, 140), (230, 0, 0), (255, 120, 0), (90, 140, 0), (0, 220, 0), (160, 160, 160),
    ],
    np.uint8,
)  # fmt: skip


def verify(folder: str, advance: Callable[[int], Any] | None = None) -> Manifest:
    """Checks hashes, framing and CRCs, the index, and that every record decodes to what it says it is.

    Args:
        folder: the data folder.
        advance: called with the number of records checked since the last call.

    Returns:
        Its manifest.

    Raises:
        UserError: the first thing that is wrong; for a record with its shard, byte offset and key.
    """
    manifest = load_manifest(folder)
    for split in _ordered(manifest):
        _verify_split(manifest, split, advance or (lambda count: None))
    return manifest


def check_hashes(manifest: Manifest) -> int:
    """Compares the SHA-256 of every shard and index with dataset.json, wherever the folder lies.

    Returns:
        How many bytes were read.

    Raises:
        UserError: the first file that is not the one dataset.json was written with.
    """
    from tensorflow.io import gfile

    total = 0
    for split in _ordered(manifest):
        for name, expected in [*((s.file, s.sha256) for s in split.shards), (split.index, split.index_sha256)]:
            path = manifest.path(name)
            with gfile.GFile(path, "rb") as file:
                found = hash_stream(file)
                total += file.tell()
            if found != expected:
                raise UserError(
                    f"{path}: its SHA-256 is not that of {MANIFEST_NAME}, so it was changed or damaged; data_tools/"
                    "verify_tfrecords.py names the record; copy the data again, or make it again"
                )
    return total


def _verify_split(manifest: Manifest, split: Split, advance: Callable[[int], Any]) -> None:
    index = _read_index(manifest, split)
    keys: set[str] = set()
    sides: list[tuple[int, int]] = []
    for number, shard in enumerate(split.shards):
        path = manifest.path(shard.file)
        rows = read_offsets(path)
        if len(rows) != shard.records:
            raise UserError(f"{path}: {len(rows)} records, but dataset.json says {shard.records}; convert again")
        if not np.array_equal(index[index[:, 0] == number][:, 1:], rows):
            raise UserError(f"{manifest.path(split.index)}: does not fit the records of {shard.file}; convert again")
        for offset, payload in _payloads(path, rows):
            key, size = _verify_record(manifest, split, path, offset, payload)
            if key in keys:
                raise _bad(path, offset, key, "its key occurs twice in the split")
            keys.add(key)
            sides.append(size)
            advance(1)
        if hash_file(path) != shard.sha256:
            raise UserError(
                f"{path}: its records are sound, but its SHA-256 is not that of dataset.json; convert again"
            )
    if sides:
        heights, widths = zip(*sides)
        found = (min(heights), max(heights), min(widths), max(widths))
        said = (split.min_height, split.max_height, split.min_width, split.max_width)
        if found != said:
            raise UserError(f"{manifest.folder}: split {split.name} has sides {found}, but dataset.json says {said}")


def _read_index(manifest: Manifest, split: Split) -> np.ndarray:
    path = manifest.path(split.index)
    with open(path, "rb") as file:
        data = file.read()
    if hashlib.sha256(data).hexdigest() != split.index_sha256:
        raise UserError(f"{path}: its SHA-256 is not that of dataset.json; convert again")
    try:
        index = parse_array(data)
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as an index ({error}); convert again") from error
    if index.shape != (split.count, 3):
        raise UserError(f"{path}: shape {index.shape}, but dataset.json says {split.count} records; convert again")
    return index


def _payloads(path: str, rows: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """(byte offset of the record, payload) of each record, its CRCs checked by TensorFlow's own reader."""
    import tensorflow as tf

    reader = iter(tf.data.TFRecordDataset(path).as_numpy_iterator())
    for offset, length in rows.tolist():
        try:
            yield offset, next(reader)
        except tf.errors.DataLossError as error:
            with open(path, "rb") as file:
                file.seek(offset)
                payload = file.read(length)
            raise _bad(path, offset, key_of(payload), "its CRC is wrong") from error


def _verify_record(
    manifest: Manifest, split: Split, path: str, offset: int, payload: bytes
) -> tuple[str, tuple[int, int]]:
    """(key, (height, width)) of a record that is what it says it is."""
    try:
        record = features(payload)
    except ValueError as error:
        raise _bad(path, offset, "", one_line(error)) from error
    except KeyError as error:
        raise _bad(path, offset, "", f"feature {error} is missing") from error
    key, size = record["image/key"], (record["image/height"], record["image/width"])
    pictures = {"image": record["image/encoded"], **{name: record[f"{name}/encoded"] for name in COMPANIONS}}
    for name, data in pictures.items():
        if not data and name != "image":
            if getattr(split, f"has_{name}"):
                raise _bad(path, offset, key, f"no {name}, but dataset.json says every record has one")
            continue
        try:
            picture = images.open_image(data, _MAX_PIXELS)
        except images.RejectedError as error:
            raise _bad(path, offset, key, f"its {name} does not decode: {error}") from error
        channels = manifest.channels_of(name)
        if (picture.height, picture.width) != size or len(picture.getbands()) != channels:
            found = f"{picture.width}x{picture.height} {picture.mode}"
            raise _bad(path, offset, key, f"its {name} is {found}, not {size[1]}x{size[0]} of {channels} channels")
        kind = record["image/format"].decode() if name in ("image", "target") else "png"
        if picture.format != kind.upper():
            raise _bad(path, offset, key, f"its {name} is {picture.format}, not {kind}")
    if min(size) != manifest.load_size or record["image/channels"] != manifest.channels:
        raise _bad(path, offset, key, f"shorter side {min(size)} and {record['image/channels']} channels")
    return key, size


def _bad(path: str, offset: int, key: str, why: str) -> UserError:
    named = f"key {printable(key)}" if key else "key unreadable"
    return UserError(f"{path}: bad record at byte {offset} ({named}): {why}; convert the data again")


def summary(manifest: Manifest) -> list[str]:
    """What a data folder holds, in lines for the console."""
    lines = [
        f"{printable(manifest.name)}: {manifest.channels} channels, load size {manifest.load_size}, {manifest.format}, "
        f"source {manifest.source.get('kind', 'unknown')}"
    ]
    for split in _ordered(manifest):
        extras = [name for name in COMPANIONS if getattr(split, f"has_{name}")]
        height, width = _range(split.min_height, split.max_height), _range(split.min_width, split.max_width)
        lines.append(
            f"{split.name}: {split.count} images, {height} x {width} pixels (height x width), {len(split.shards)} "
            f"shards, {sum(shard.bytes for shard in split.shards) / 2**20:.1f} MiB"
            + (f", with {', '.join(extras)}" if extras else "")
        )
    return lines


def _ordered(manifest: Manifest) -> list[Split]:
    return [manifest.splits[name] for name in SPLITS if name in manifest.splits]


def _range(least: int, greatest: int) -> str:
    return str(least) if least == greatest else f"{least} to {greatest}"


# ----------------------------------------------------------------------------------------------------- contact sheet


@dataclasses.dataclass(frozen=True)
class _Row:
    title: str
    pictures: list[Image.Image]


def contact_sheet(manifest: Manifest, *, columns: int = 12, cell: int = 96) -> Image.Image:
    """A picture of the data: a row for each split and for each thing that belongs to its images.

    Args:
        manifest: of the data folder.
        columns: images a row, evenly spaced over the split.
        cell: side of an image's place, pixels.
    """
    rows = [row for split in _ordered(manifest) if split.count for row in _rows(manifest, split, columns)]
    title = 14  # pixels
    sheet = Image.new("RGB", (columns * (cell + 2), len(rows) * (cell + title)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        top = number * (cell + title)
        pen.text((2, top + 1), row.title, fill="black")
        for column, picture in enumerate(row.pictures):
            picture = picture.convert("RGB")
            factor = cell / max(picture.size)
            size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
            filtering = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX
            sheet.paste(picture.resize(size, filtering), (column * (cell + 2), top + title))
    return sheet


def _rows(manifest: Manifest, split: Split, columns: int) -> Iterator[_Row]:
    index = _read_index(manifest, split)
    chosen = np.unique(np.linspace(0, split.count - 1, min(columns, split.count)).round().astype(int))
    records = [_read(manifest, split.shards[index[i, 0]], *index[i, 1:].tolist()) for i in chosen]
    for name in ("image", *COMPANIONS):
        if name != "image" and not getattr(split, f"has_{name}"):
            continue
        pictures = [images.open_image(record[f"{name}/encoded"], _MAX_PIXELS) for record in records]
        if name == "label_map":
            pictures = [Image.fromarray(_COLOURS[np.asarray(picture) % len(_COLOURS)]) for picture in pictures]
        yield _Row(split.name if name == "image" else f"{split.name} {name}", pictures)


def _read(manifest: Manifest, shard: Shard, offset: int, length: int) -> dict[str, Any]:
    with open(os.path.join(manifest.folder, shard.file), "rb") as file:
        file.seek(offset)
        return features(file.read(length))
