"""The TFRecord schema and `dataset.json`, shared by data_tools and the pipeline.

A data folder NAME/ holds

    dataset.json                          the manifest (no times, no machine: equal input, equal bytes)
    trainA-00000-of-00002.tfrecord ...    shards of the splits trainA, trainB, testA, testB
    trainA.index.npy                      int64 [count, 3]: shard number, byte offset, byte length of
                                          each record's payload, so that any record is one read away

One record is a tf.train.Example:

    image/encoded   bytes  JPEG or PNG, at load size
    image/format    bytes  b"jpeg" | b"png"
    image/key       bytes  UTF-8 name relative to the source, unique in the split
    image/height, image/width, image/channels   int64
    image/label     int64  class number, -1 where there is none
    target/encoded  bytes  the exact translation of the image (paired ground truth), or b""
    mask/encoded    bytes  PNG, one channel, 255 = foreground (what a method may change), or b""; with
                           `Manifest.mask_planes` = 3 also the foreground without glasses and mouth, and the glasses
    label_map/encoded  bytes  PNG, one channel, class numbers, or b""
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from typing import Any

from tfaclgan.data import remote
from tfaclgan.data.files import parse_json, printable
from tfaclgan.errors import UserError

SCHEMA_VERSION = 1
MANIFEST_NAME = "dataset.json"
SPLITS = ("trainA", "trainB", "testA", "testB")
BYTES_FEATURES = ("image/encoded", "image/format", "image/key", "target/encoded", "mask/encoded", "label_map/encoded")
# An index: three int64 a record behind NumPy's header.
_INDEX_ROW_BYTES, _MOST_HEADER_BYTES, _HEADER_MULTIPLE = 24, 1024, 64
COMPANIONS = ("target", "mask", "label_map")  # what may belong to an image
INT_FEATURES = ("image/height", "image/width", "image/channels", "image/label")


@dataclasses.dataclass(frozen=True)
class Record:
    """One image with what belongs to it; the fields of a TFRecord (module docstring)."""

    image: bytes
    format: str
    key: str
    height: int
    width: int
    channels: int
    label: int = -1
    target: bytes = b""
    mask: bytes = b""
    label_map: bytes = b""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard file: name relative to the folder, records, bytes, SHA-256 in hex."""

    file: str
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data folder; sides in pixels over all its records."""

    name: str
    count: int
    shards: tuple[Shard, ...]
    index: str
    index_sha256: str
    min_height: int
    max_height: int
    min_width: int
    max_width: int
    has_target: bool = False
    has_mask: bool = False
    has_label_map: bool = False


@dataclasses.dataclass(frozen=True)
class Manifest:
    """`dataset.json`, read and checked.

    region: {"feature": "label_map", "classes": [ids], "name": str} names the part of a test image
        in which evaluation reports its own error (the glasses of the avatars), or None.
    mask_planes: channels of all masks, 1 or 3 (tfaclgan/data/masks.py).
    """

    folder: str
    name: str
    channels: int
    load_size: int
    format: str
    splits: dict[str, Split]
    source: dict[str, Any]
    options: dict[str, Any]
    label_names: tuple[str, ...] = ()
    region: dict[str, Any] | None = None
    mask_planes: int = 1

    @property
    def absolute_folder(self) -> str:
        """The folder as it is found from any working directory."""
        return remote.absolute(self.folder)

    def channels_of(self, name: str) -> int:
        """Channels of a record's "image" or of one of its `COMPANIONS`."""
        return {"mask": self.mask_planes, "label_map": 1}.get(name, self.channels)

    def path(self, file: str) -> str:
        return os.path.join(self.folder, file)

    def split(self, name: str) -> Split:
        """The split, or a UserError that names the ones there are."""
        if name not in self.splits or self.splits[name].count == 0:
            there = ", ".join(s for s in self.splits if self.splits[s].count) or "none"
            raise UserError(
                f"{self.path(MANIFEST_NAME)}: split {name} is missing or empty (there: {there}); "
                "make the data again with data_tools/make_tfrecords.py"
            )
        return self.splits[name]


def serialize(record: Record) -> bytes:
    """The record as a serialized tf.train.Example, deterministically (features sorted by name)."""
    import tensorflow as tf

    values: dict[str, Any] = {
        "image/encoded": record.image,
        "image/format": record.format.encode(),
        "image/key": record.key.encode("utf-8", "surrogateescape"),
        "target/encoded": record.target,
        "mask/encoded": record.mask,
        "label_map/encoded": record.label_map,
        "image/height": record.height,
        "image/width": record.width,
        "image/channels": record.channels,
        "image/label": record.label,
    }
    example = tf.train.Example()
    for name in sorted(values):
        value = values[name]
        if isinstance(value, bytes):
            example.features.feature[name].bytes_list.value.append(value)
        else:
            example.features.feature[name].int64_list.value.append(value)
    return example.SerializeToString(deterministic=True)


def parse(serialized: Any) -> dict[str, Any]:
    """A serialized record (scalar string tensor) as {feature: scalar tensor}, for use in tf.data."""
    import tensorflow as tf

    features = {name: tf.io.FixedLenFeature([], tf.string) for name in BYTES_FEATURES}
    features.update({name: tf.io.FixedLenFeature([], tf.int64) for name in INT_FEATURES})
    return tf.io.parse_single_example(serialized, features)


def decode(encoded: Any, channels: int) -> Any:
    """A record's picture as uint8 [h, w, channels]; either decoder reads JPEG and PNG, but only one four channels."""
    import tensorflow as tf

    if channels == 4:
        return tf.io.decode_png(encoded, channels=channels)
    # The default, INTEGER_FAST, is up to 6 of 255 levels off and no faster here; this one equals Pillow's.
    return tf.io.decode_jpeg(encoded, channels=channels, dct_method="INTEGER_ACCURATE")


def features(payload: bytes) -> dict[str, Any]:
    """A serialized record as {feature: bytes or int}, the key as text; needs no graph.

    Raises:
        ValueError: not a tf.train.Example.
        KeyError: a feature is missing.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        found = tf.train.Example.FromString(payload).features.feature
    except DecodeError as error:
        raise ValueError("no tf.train.Example") from error
    values: dict[str, Any] = {name: found[name].bytes_list.value for name in BYTES_FEATURES if name in found}
    values.update({name: found[name].int64_list.value for name in INT_FEATURES if name in found})
    for name in (*BYTES_FEATURES, *INT_FEATURES):
        if len(values.get(name, ())) != 1:
            raise KeyError(name)
        values[name] = values[name][0]
    values["image/key"] = values["image/key"].decode("utf-8", "surrogateescape")
    return values


def key_of(payload: bytes) -> str:
    """The key in a record that may be damaged, on one line; "" if it cannot be read."""
    try:
        return printable(features(payload)["image/key"])
    except (ValueError, KeyError):
        return ""


def manifest_json(manifest: Manifest) -> str:
    """`dataset.json`'s text; equal manifests give equal bytes."""
    content = dataclasses.asdict(manifest)
    del content["folder"]
    content["schema_version"] = SCHEMA_VERSION
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=True) + "\n"


def load_manifest(folder: str) -> Manifest:
    """Reads and checks `folder`/dataset.json.

    Counts and byte sizes of the shards are compared with the files; hashes are left to
    data_tools/verify_tfrecords.py.

    Raises:
        UserError: no folder, no or broken manifest, another schema version, a missing shard or one
            of another size.
    """
    from tensorflow.io import gfile

    path = os.path.join(folder, MANIFEST_NAME)
    make = "make the data with data_tools/make_tfrecords.py, or name another folder with --data_dir"
    if not gfile.exists(path):
        raise UserError(f"{path}: not found, so this is not a data folder; {make}")
    try:
        with gfile.GFile(path, "r") as file:
            content = parse_json(file.read())
        if not isinstance(content, dict):
            raise ValueError("not an object")
        version = content.pop("schema_version")
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{path}: schema version {version}, but this tfaclgan reads version {SCHEMA_VERSION}; "
                + ("install a newer tfaclgan" if isinstance(version, int) and version > SCHEMA_VERSION else make)
            )
        splits = {}
        for name, split in content.pop("splits").items():
            shards = tuple(_made(Shard, shard) for shard in split.pop("shards"))
            splits[name] = _made(Split, {**split, "shards": shards})
            if name not in SPLITS or splits[name].name != name:
                raise ValueError(f"split {name!r} is none of {', '.join(SPLITS)}, or goes by another name")
        content["label_names"] = tuple(content.get("label_names", ()))
        manifest = _made(Manifest, {**content, "folder": folder, "splits": splits})
        if manifest.mask_planes not in (1, 3):
            raise ValueError(f"mask_planes is {manifest.mask_planes}, not 1 or 3")
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read as a manifest ({error}); {make}") from error
    for split in manifest.splits.values():
        _check_split(manifest, split, make)
    return manifest


_KINDS = {"int": int, "bool": bool, "str": str, "dict[str, Any]": dict}


def _made(kind: type, values: dict[str, Any]) -> Any:
    """The dataclass made of JSON values; TypeError or ValueError if one is not what its field holds."""
    made = kind(**values)
    for field in dataclasses.fields(made):
        value, expected = getattr(made, field.name), _KINDS.get(str(field.type))
        if expected and type(value) is not expected:
            raise TypeError(f"{field.name} is {value!r}, not {field.type}")
        if expected is int and not 0 <= value < 2**63:
            raise ValueError(f"{field.name} is {value}")
        if field.name in ("file", "index") and not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", value):
            raise ValueError(f"{field.name} {value!r} is no plain file name")
    return made


def _check_split(manifest: Manifest, split: Split, make: str) -> None:
    from tensorflow.io import gfile

    if sum(shard.records for shard in split.shards) != split.count:
        raise UserError(
            f"{manifest.path(MANIFEST_NAME)}: split {split.name} says {split.count} records but its shards "
            f"add up to {sum(shard.records for shard in split.shards)}; {make}"
        )
    for shard in split.shards:
        path = manifest.path(shard.file)
        if not gfile.exists(path):
            raise UserError(f"{path}: shard named in {MANIFEST_NAME} is missing; {make}")
        size = gfile.stat(path).length
        if size != shard.bytes:
            raise UserError(f"{path}: {size} bytes, but {MANIFEST_NAME} says {shard.bytes}; {make}")
    if split.count and not gfile.exists(manifest.path(split.index)):
        raise UserError(f"{manifest.path(split.index)}: index named in {MANIFEST_NAME} is missing; {make}")
    size = gfile.stat(manifest.path(split.index)).length if split.count else 0
    header = size - split.count * _INDEX_ROW_BYTES
    if split.count and not (0 < header <= _MOST_HEADER_BYTES and header % _HEADER_MULTIPLE == 0):
        raise UserError(
            f"{manifest.path(split.index)}: {size} bytes cannot hold the places of {split.count} records; {make}"
        )
