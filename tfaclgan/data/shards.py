"""Shards as the converter writes them: beside their name first, under it once they are safely on the disk."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import struct
from typing import Any

import numpy as np

from tfaclgan.data.files import flush, hash_file
from tfaclgan.data.records import COMPANIONS, Record, serialize
from tfaclgan.errors import UserError

_RECORD_HEADER, _RECORD_FOOTER = 12, 4  # bytes of a TFRecord's framing: length and its CRC, the payload's CRC


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one job: a record, or the reason there is none."""

    key: str
    record: Record | None
    reason: str = ""
    too_small: bool = False
    sha256: str = ""


@dataclasses.dataclass(frozen=True)
class Done:
    """A finished shard, one line of the journal. `items` is the number of the source picture after its last."""

    split: str
    number: int
    items: int
    records: int
    bytes: int
    sha256: str
    sides: tuple[int, int, int, int]  # least and greatest height, least and greatest width, pixels
    has: tuple[bool, bool, bool]  # every record has a target, a mask, a label map
    rejected: tuple[tuple[str, str], ...]  # (key, reason)
    sources: tuple[tuple[str, str], ...]  # (SHA-256 of the source's bytes, key)


class ShardWriter:
    """One shard in the making: written beside its final name, which it gets once it is safely on the disk."""

    def __init__(self, path: str) -> None:
        self._path, self._partial = path, path + ".partial"
        self._writer: Any = None
        self.bytes = 0
        self._outcomes: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        """Writes an outcome's record, or notes its rejection."""
        if outcome.record is not None:
            payload = serialize(outcome.record)
            self._write(payload)
            self.bytes += _RECORD_HEADER + len(payload) + _RECORD_FOOTER
            record = dataclasses.replace(outcome.record, image=b"")  # its pixels need not be kept in memory
            there = {name: b"+" if getattr(record, name) else b"" for name in COMPANIONS}
            outcome = dataclasses.replace(outcome, record=dataclasses.replace(record, **there))
        self._outcomes.append(outcome)

    def close(self, split: str, number: int, items: int) -> Done:
        """Finishes the shard, which holds the split's source pictures up to number `items`."""
        records = [outcome.record for outcome in self._outcomes if outcome.record is not None]
        digest = hashlib.sha256().hexdigest()
        if self._writer is not None:
            self._guarded(self._writer.close)
            self._writer = None
            digest = hash_file(self._partial)
            flush(self._partial)
            os.replace(self._partial, self._path)
            flush(os.path.dirname(self._path))
        heights, widths = [record.height for record in records] or [0], [record.width for record in records] or [0]
        return Done(
            split=split,
            number=number,
            items=items,
            records=len(records),
            bytes=self.bytes,
            sha256=digest,
            sides=(min(heights), max(heights), min(widths), max(widths)),
            has=tuple(all(getattr(record, name) for record in records) for name in COMPANIONS),
            rejected=tuple((outcome.key, outcome.reason) for outcome in self._outcomes if outcome.record is None),
            sources=tuple((outcome.sha256, outcome.key) for outcome in self._outcomes if outcome.record is not None),
        )

    def discard(self) -> None:
        """Removes what is on the disk of an unfinished shard."""
        if self._writer is not None:
            with contextlib.suppress(Exception):  # the error that led here matters, not that closing fails too
                self._writer.close()
            self._writer = None
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._partial)

    def _write(self, payload: bytes) -> None:
        import tensorflow as tf

        if self._writer is None:
            self._writer = self._guarded(tf.io.TFRecordWriter, self._partial)
        self._guarded(self._writer.write, payload)

    def _guarded(self, action: Any, *arguments: Any) -> Any:
        import tensorflow as tf

        try:
            return action(*arguments)
        except tf.errors.OpError as error:
            raise UserError(
                f"{self._partial}: cannot be written ({error.message}); check the folder and the free space, then run "
                "again with --resume"
            ) from error


def read_offsets(path: str) -> np.ndarray:
    """Byte offset and length of each record's payload in a TFRecord file, int64 [records, 2]; CRCs are not checked.

    Raises:
        UserError: the file ends inside a record.
    """
    rows, position, size = [], 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while position < size:
            header = file.read(_RECORD_HEADER)
            length = struct.unpack("<Q", header[:8])[0] if len(header) == _RECORD_HEADER else size
            end = position + _RECORD_HEADER + length + _RECORD_FOOTER
            if end > size:
                raise UserError(f"{path}: record {len(rows)} at byte {position} runs past the end of the file")
            rows.append((position + _RECORD_HEADER, length))
            file.seek(end)
            position = end
    return np.array(rows, np.int64).reshape(-1, 2)
