"""The folder a conversion works in until it is done: lock, journal, finished shards."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import glob
import json
import os
import shutil
from typing import Any

from tfaclgan.data.files import hash_file, parse_json, write_atomically
from tfaclgan.data.records import MANIFEST_NAME
from tfaclgan.data.shards import Done
from tfaclgan.errors import UserError

WORK_FOLDER = ".converting"


class WorkFolder:
    """`<folder>/.converting`: the lock, the journal and the finished shards of a conversion under way."""

    def __init__(self, folder: str, fingerprint: dict[str, Any]) -> None:
        self.folder, self._fingerprint = folder, fingerprint
        self._work = os.path.join(folder, WORK_FOLDER)
        self._journal_path = os.path.join(self._work, "journal.jsonl")
        self._made: list[str] = []
        self._lock: int | None = None
        self.journal: list[Done] = []

    def __enter__(self) -> WorkFolder:
        path = os.path.abspath(self._work)
        while not os.path.isdir(path):
            self._made.append(path)
            path = os.path.dirname(path)
        os.makedirs(self._work, exist_ok=True)
        try:
            self._take_lock()
            self._open_journal()
        except BaseException:
            self._leave(remove=bool(self._made))  # an earlier run's work stays, whatever was wrong with this one
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._leave(remove=not any(done.records for done in self.journal))  # nothing worth resuming: leave no trace

    def _take_lock(self) -> None:
        path = os.path.join(self._work, "lock")
        lock = os.open(path, os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The other converter may have finished, and removed this lock, between our two calls.
            if not (os.path.exists(path) and os.path.samestat(os.fstat(lock), os.stat(path))):
                raise BlockingIOError
        except BlockingIOError:
            os.close(lock)
            raise UserError(
                f"{self.folder}: another converter is at work there; wait for it, or name another folder with --output"
            ) from None
        self._lock = lock
        if os.path.exists(os.path.join(self.folder, MANIFEST_NAME)):
            raise UserError(
                f"{self.folder}: another converter has just finished there; name another folder with --output"
            )

    def _open_journal(self) -> None:
        if os.path.exists(self._journal_path):
            with open(self._journal_path, encoding="utf-8", errors="replace") as file:
                lines = file.read().split("\n")[:-1]  # a line that was cut off by a kill has no end and is dropped
            try:
                header, *entries = [parse_json(line) for line in lines] or [None]
                entries = [_done(entry) for entry in entries]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{self._journal_path}: damaged ({error}); remove {self.folder} and convert again"
                ) from error
            if header:
                self._compare(header)
                self.journal = self._usable(entries)
        text = "".join(json.dumps(line) + "\n" for line in [self._fingerprint, *map(dataclasses.asdict, self.journal)])
        write_atomically(self._journal_path, text.encode())

    def _compare(self, earlier: dict[str, Any]) -> None:
        for part, value in self._fingerprint.items():
            before = earlier.get(part)
            if before == value:
                continue
            if isinstance(value, dict) and isinstance(before, dict):
                names = sorted(name for name in {*value, *before} if value.get(name) != before.get(name))
                part = f"{part} ({', '.join(f'{name}: {before.get(name)}, now {value.get(name)}' for name in names)})"
            raise UserError(
                f"{self.folder}: cannot resume, the earlier run had other {part}; use the same, or remove the folder"
            )

    def _usable(self, entries: list[Done]) -> list[Done]:
        """The leading entries whose shards are there and whole."""
        usable: list[Done] = []
        for entry in entries:
            if entry.records:
                path = self.shard_path(entry.split, entry.number)
                before = sum(1 for done in usable if done.split == entry.split and done.records)
                moved = glob.glob(os.path.join(glob.escape(self.folder), f"{entry.split}-{before:05d}-of-*.tfrecord"))
                if moved and not os.path.exists(path):
                    os.replace(moved[0], path)  # cut off at the very end: back, it gets its final name again
                if not os.path.exists(path) or hash_file(path) != entry.sha256:
                    break
            usable.append(entry)
        return usable

    def shard_path(self, split: str, number: int) -> str:
        """Where shard `number` of a split stands until all are done."""
        return os.path.join(self._work, f"{split}-{number:05d}.tfrecord")

    def position(self, split: str) -> tuple[int, int]:
        """Number of the next shard, and of the next source picture, of a split."""
        entries = [entry for entry in self.journal if entry.split == split]
        return (entries[-1].number + 1, entries[-1].items) if entries else (0, 0)

    def enter(self, done: Done) -> None:
        """Notes a shard as finished."""
        self.journal.append(done)  # first: once there is a line, an interrupt must not take the folder for empty
        with open(self._journal_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(done)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Everything is at its final place."""
        shutil.rmtree(self._work)

    def _leave(self, *, remove: bool) -> None:
        if self._lock is not None:
            if remove and os.path.isdir(self._work):
                shutil.rmtree(self._work)
                for path in self._made:
                    with contextlib.suppress(OSError):
                        os.rmdir(path)
            os.close(self._lock)
            self._lock = None


def _done(values: dict[str, Any]) -> Done:
    pairs = {name: tuple(tuple(pair) for pair in values[name]) for name in ("rejected", "sources")}
    return Done(**{**values, **pairs, "sides": tuple(values["sides"]), "has": tuple(values["has"])})
