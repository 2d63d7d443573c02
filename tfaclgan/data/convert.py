"""Writes a source's pictures as a data folder: shards, indices and dataset.json (tfaclgan/data/records.py).

The order of work makes the outcome independent of workers, kills and restarts:

    1. The source is listed. Anything wrong with it is said before the output folder is touched.
    2. `<folder>/.converting/` is made: a lock, a journal, and the shards as they are written. Workers decode, resize
       and encode; this process keeps their results in the order of the keys, serializes and writes. A shard is
       written beside its name, flushed to the disk, renamed, and only then entered in the journal.
    3. When every split is done, shards move to their final names; indices and tables follow, dataset.json is last,
       so a folder with a dataset.json is complete. `.converting` goes.

A run that ends early leaves only `.converting`; --resume continues after the last shard whose hash is right.

Workers are started afresh (spawn), import no TensorFlow, and end when this process does.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import csv
import dataclasses
import fcntl
import hashlib
import io
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import struct
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import PIL
from PIL import Image

from tfaclgan.data import images
from tfaclgan.data.records import MANIFEST_NAME, SCHEMA_VERSION, SPLITS, Manifest, Record, Shard, Split, manifest_json
from tfaclgan.data.sources import Job, Loaded, Source
from tfaclgan.errors import UserError

WORK_FOLDER = ".converting"
REJECTED_NAME = "rejected.csv"
DUPLICATES_NAME = "duplicates.csv"
_JOBS_PER_TASK = 8  # a task's results are a few hundred kB: little enough to hold, enough to hide the messages' cost
_RECORD_HEADER, _RECORD_FOOTER = 12, 4  # bytes of a TFRecord's framing: length and its CRC, the payload's CRC


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    """How a data folder is written.

    image: how pictures are stored; its format is "jpeg", "png", or "auto": png for drawn pictures and where every
        source file is of a lossless kind, else jpeg.
    shard_mb: a shard is closed once it holds so many MiB.
    shards: shards a split, of equal numbers of source pictures; 0: by shard_mb.
    workers: processes that decode and resize; 1: none beside this one; 0: one a core.
    max_rejected: stop at more rejected pictures than this; negative: never.
    skip_small: list pictures below the minimum size in rejected.csv instead of stopping.
    resume: continue an earlier run of the same source and options.
    name: the data set's name in dataset.json; "": the folder's.
    progress: show a progress bar on stderr.
    """

    image: images.ImageOptions
    shard_mb: float = 64
    shards: int = 0
    workers: int = 0
    max_rejected: int = -1
    skip_small: bool = False
    resume: bool = False
    name: str = ""
    progress: bool = True


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


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a conversion did; `reused` counts shards that an earlier run had finished."""

    manifest: Manifest
    rejected: int
    duplicates: int
    reused: int


def convert(source: Source, folder: str, options: ConvertOptions) -> Summary:
    """Writes `source` to `folder`.

    Raises:
        UserError: an option or the folder will not do, another converter is at work there, every picture of a
            training split was rejected, or more than `max_rejected` were.
        OSError: the disk is full, the folder cannot be written.
    """
    _check(options)
    options = _settled(source, folder, options)
    fingerprint = _fingerprint(source, options)
    if _finished(folder, options, fingerprint):
        from tfaclgan.data.records import load_manifest

        return Summary(
            load_manifest(folder), 0, 0, sum(len(split.shards) for split in load_manifest(folder).splits.values())
        )
    with _WorkFolder(folder, fingerprint, resume=options.resume) as work:
        reused = len(work.journal)
        _write_shards(source, work, options)
        return _finish(source, work, options, reused)


def _check(options: ConvertOptions) -> None:
    image = options.image
    problems = [
        (image.size < 8 or image.size > 8192, f"--size={image.size}: the shorter side is 8 to 8192 pixels"),
        (image.channels not in (1, 3), f"--channels={image.channels}: 3 (colour) or 1 (grey)"),
        (not 1 <= image.jpeg_quality <= 95, f"--jpeg_quality={image.jpeg_quality}: 1 to 95"),
        (options.shard_mb <= 0, f"--shard_mb={options.shard_mb}: above 0 MiB"),
        (not 0 <= options.shards <= 99_999, f"--shards={options.shards}: 0 (by --shard_mb) to 99999"),
        (options.workers < 0, f"--workers={options.workers}: 0 (one a core) or more"),
        (image.max_pixels < 1, f"--max_pixels={image.max_pixels}: at least 1"),
    ]
    for wrong, text in problems:
        if wrong:
            raise UserError(text)


def _settled(source: Source, folder: str, options: ConvertOptions) -> ConvertOptions:
    """The options with everything decided that was left open."""
    image = options.image
    if image.format == "auto":
        image = dataclasses.replace(image, format="png" if source.lossless else "jpeg")
    name = options.name or os.path.basename(os.path.abspath(folder))
    return dataclasses.replace(options, image=image, name=name, workers=options.workers or os.cpu_count() or 1)


def _manifest_options(options: ConvertOptions) -> dict[str, Any]:
    """The options that decide the folder's content, as they stand in dataset.json."""
    return {**dataclasses.asdict(options.image), "shard_mb": options.shard_mb, "shards": options.shards}


def _fingerprint(source: Source, options: ConvertOptions) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "name": options.name,
        "options": json.loads(json.dumps(_manifest_options(options))),
        "source": json.loads(json.dumps(source.description)),
        "pictures": source.fingerprint(),
        "pillow": PIL.__version__,
    }


# ------------------------------------------------------------------------------------------------------ pictures


def make_record(loaded: Loaded, job: Job, options: images.ImageOptions) -> Record:
    """The record of a loaded picture.

    Raises:
        images.RejectedError: a picture cannot be used, or what belongs to it has another size.
    """
    image = _decoded(loaded.image, images.decode, options)
    sides = {
        "target": _decoded(loaded.target, images.decode, options),
        "mask": _decoded(loaded.mask, images.decode_mask, options),
        "label_map": _decoded(loaded.label_map, images.decode_label_map, options),
    }
    for side, picture in sides.items():
        if picture is not None and picture.size != image.size:
            raise images.RejectedError(
                f"its {side} is {picture.width}x{picture.height} pixels, the image {image.width}x{image.height}"
            )
    fitted = images.fit(image, options)
    lossless = dataclasses.replace(options, format="png")
    target, mask, label_map = sides.values()
    return Record(
        image=images.encode(fitted, options),
        format=options.format,
        key=job.key,
        height=fitted.height,
        width=fitted.width,
        channels=options.channels,
        label=job.label,
        target=b"" if target is None else images.encode(images.fit(target, options), options),
        mask=b"" if mask is None else images.encode(images.fit(mask, options), lossless),
        label_map=b"" if label_map is None else images.encode(images.fit_label_map(label_map, options), lossless),
    )


def _decoded(picture: bytes | Image.Image | None, decode: Any, options: images.ImageOptions) -> Image.Image | None:
    if picture is None:
        return None
    if isinstance(picture, bytes):
        return decode(picture, options)
    return images.to_channels(picture, options) if decode is images.decode else picture


def _source_hash(picture: bytes | Image.Image) -> str:
    return hashlib.sha256(picture if isinstance(picture, bytes) else picture.tobytes()).hexdigest()


def run_jobs(jobs: list[Job], options: images.ImageOptions) -> list[Outcome]:
    """The outcome of each job; in a worker or in this process."""
    outcomes = []
    for job in jobs:
        digest = ""
        try:
            loaded = job.load(options.size)
            digest = _source_hash(loaded.image)
            outcomes.append(Outcome(job.key, make_record(loaded, job, options), sha256=digest))
        except images.RejectedError as error:
            small = isinstance(error, images.TooSmallError)
            outcomes.append(Outcome(job.key, None, " ".join(str(error).split()), small, digest))
    return outcomes


def _start_worker() -> None:
    """In a worker: leave Ctrl-C to the main process, and end when that is gone (also when it was killed)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Workers:
    """Runs jobs in processes (or here, for one worker) and gives their outcomes in the jobs' order."""

    def __init__(self, count: int) -> None:
        self._pool = None
        self._window = 2 * count + 2  # tasks under way: enough to keep all busy, few enough to hold in memory
        if count > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = concurrent.futures.ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker)

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def outcomes(self, jobs: Iterable[Job], options: images.ImageOptions) -> Iterator[Outcome]:
        jobs = iter(jobs)
        tasks = iter(lambda: list(itertools.islice(jobs, _JOBS_PER_TASK)), [])
        if self._pool is None:
            for task in tasks:
                yield from run_jobs(task, options)
            return
        pending: collections.deque[concurrent.futures.Future[list[Outcome]]] = collections.deque()
        try:
            while True:
                for task in itertools.islice(tasks, self._window - len(pending)):
                    pending.append(self._pool.submit(run_jobs, task, options))
                if not pending:
                    return
                yield from pending.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, most likely for want of memory; run again with --resume and fewer "
                "--workers, or a smaller --max_pixels"
            ) from error


# -------------------------------------------------------------------------------------------------------- shards


def _write_shards(source: Source, work: _WorkFolder, options: ConvertOptions) -> None:
    from tqdm import tqdm

    total, finished = sum(source.counts.values()), sum(work.position(split)[1] for split in SPLITS)
    rejected = sum(len(done.rejected) for done in work.journal)
    progress = tqdm(
        total=total, initial=finished, unit=" images", smoothing=0.05, disable=not options.progress,
        mininterval=0.2 if sys.stderr.isatty() else 10,
    )  # fmt: skip
    with progress, _Workers(options.workers) as workers:
        for split in SPLITS:
            number, first = work.position(split)
            if first == source.counts[split]:
                continue
            shard = _ShardWriter(work.shard_path(split, number))
            try:
                outcomes = workers.outcomes(source.jobs(split, first), options.image)
                for item, outcome in enumerate(outcomes, start=first + 1):
                    progress.update()
                    shard.add(outcome)
                    if outcome.record is None:
                        rejected += 1
                        _stop_if(outcome, rejected, options)
                    if item == source.counts[split] or _full(shard, item, number, source.counts[split], options):
                        work.enter(shard.close(split, number, item))
                        number += 1
                        shard = _ShardWriter(work.shard_path(split, number))
            finally:
                shard.discard()
            if split.startswith("train") and not any(d.records for d in work.journal if d.split == split):
                key, reason = next(d for d in work.journal if d.split == split).rejected[0]
                raise UserError(
                    f"{split}: all {source.counts[split]} images were rejected, the first was {printable(key)} "
                    f"({reason}); mend the source and start with an empty folder"
                )


def _stop_if(outcome: Outcome, rejected: int, options: ConvertOptions) -> None:
    """Ends the run at a rejected picture that the options do not allow."""
    key = printable(outcome.key)
    if outcome.too_small and not options.skip_small:
        raise UserError(
            f"{key}: {outcome.reason} (--min_size); remove it, lower --min_size, or pass --skip_small to leave "
            f"such images out, then run again with --resume"
        )
    if 0 <= options.max_rejected < rejected:
        raise UserError(
            f"{rejected} images rejected, more than --max_rejected={options.max_rejected}; the last was {key} "
            f"({outcome.reason}); mend the source or raise the limit, then run again with --resume"
        )


def _full(shard: _ShardWriter, item: int, number: int, count: int, options: ConvertOptions) -> bool:
    """Whether the shard is to be closed after source picture `item` (of `count`, from 1)."""
    if options.shards:
        return item >= -(-count * (number + 1) // options.shards)
    return shard.bytes >= options.shard_mb * 2**20


class _ShardWriter:
    """One shard in the making: written beside its final name, which it gets once it is safely on the disk."""

    def __init__(self, path: str) -> None:
        self._path, self._partial = path, path + ".partial"
        self._writer: Any = None
        self.bytes = 0
        self._outcomes: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        if outcome.record is not None:
            from tfaclgan.data.records import serialize

            payload = serialize(outcome.record)
            self._write(payload)
            self.bytes += _RECORD_HEADER + len(payload) + _RECORD_FOOTER
            record = dataclasses.replace(outcome.record, image=b"")  # its pixels need not be kept in memory
            sides = {side: b"+" if getattr(record, side) else b"" for side in ("target", "mask", "label_map")}
            outcome = dataclasses.replace(outcome, record=dataclasses.replace(record, **sides))
        self._outcomes.append(outcome)

    def close(self, split: str, number: int, items: int) -> Done:
        """Finishes the shard, which holds the split's source pictures up to number `items`."""
        records = [outcome.record for outcome in self._outcomes if outcome.record is not None]
        digest = hashlib.sha256().hexdigest()
        if self._writer is not None:
            self._guarded(self._writer.close)
            self._writer = None
            digest = hash_file(self._partial)
            _flush(self._partial)
            os.replace(self._partial, self._path)
            _flush(os.path.dirname(self._path))
        heights, widths = [record.height for record in records] or [0], [record.width for record in records] or [0]
        return Done(
            split=split,
            number=number,
            items=items,
            records=len(records),
            bytes=self.bytes,
            sha256=digest,
            sides=(min(heights), max(heights), min(widths), max(widths)),
            has=tuple(all(getattr(record, side) for record in records) for side in ("target", "mask", "label_map")),
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


def hash_file(path: str) -> str:
    """SHA-256 of a file in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if sys.version_info >= (3, 11) else _hash_slowly(file)


def _hash_slowly(file: io.BufferedReader) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _flush(path: str) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -------------------------------------------------------------------------------------------------- work in progress


def _finished(folder: str, options: ConvertOptions, fingerprint: dict[str, Any]) -> bool:
    """Whether `folder` already holds this very data set, whole; what else may stand there is refused here."""
    if "://" in folder:
        raise UserError(
            f"{folder}: shards are written to a local folder; write there, then copy the folder to the bucket"
        )
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"{folder}: is a file; name a new or empty folder with --output")
    there = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    if not there:
        return False
    if not options.resume:
        what = (
            "an unfinished conversion; continue it with --resume"
            if WORK_FOLDER in there
            else "something; pass --resume"
        )
        raise UserError(f"{folder}: not empty, it holds {what}, or name a new or empty folder with --output")
    if MANIFEST_NAME not in there:
        if WORK_FOLDER not in there:
            raise UserError(
                f"{folder}: not empty and no conversion to resume; name a new or empty folder with --output"
            )
        return False
    with open(os.path.join(folder, MANIFEST_NAME), encoding="utf-8") as file:
        manifest = json.load(file)
    same = {"name", "options", "source"}
    wanted = {**fingerprint, "source": {**fingerprint["source"], "pictures": fingerprint["pictures"]}}
    for part in sorted(same):
        if manifest.get(part) != wanted[part]:
            raise UserError(
                f"{folder}: holds a finished data set of another {part}; name a new or empty folder with --output"
            )
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            if hash_file(os.path.join(folder, shard["file"])) != shard["sha256"]:
                raise UserError(
                    f"{folder}/{shard['file']}: damaged (SHA-256 differs); remove {folder} and convert again"
                )
    shutil.rmtree(os.path.join(folder, WORK_FOLDER), ignore_errors=True)
    return True


class _WorkFolder:
    """`<folder>/.converting`: the lock, the journal and the finished shards of a conversion under way."""

    def __init__(self, folder: str, fingerprint: dict[str, Any], *, resume: bool) -> None:
        self.folder, self._fingerprint, self._resume = folder, fingerprint, resume
        self._work = os.path.join(folder, WORK_FOLDER)
        self._journal_path = os.path.join(self._work, "journal.jsonl")
        self._made: list[str] = []
        self._lock: int | None = None
        self.journal: list[Done] = []

    def __enter__(self) -> _WorkFolder:
        path = os.path.abspath(self._work)
        while not os.path.isdir(path):
            self._made.append(path)
            path = os.path.dirname(path)
        os.makedirs(self._work, exist_ok=True)
        try:
            self._take_lock()
            self._open_journal()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._leave()

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
            with open(self._journal_path, encoding="utf-8") as file:
                lines = file.read().split("\n")[:-1]  # a line that was cut off by a kill has no end and is dropped
            if lines:
                self._compare(json.loads(lines[0]))
                self.journal = self._usable([_done(json.loads(line)) for line in lines[1:]])
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
        usable = []
        for entry in entries:
            if entry.records:
                path = self.shard_path(entry.split, entry.number)
                final = [name for name in os.listdir(self.folder) if name.startswith(f"{entry.split}-")]
                for name in final:  # moved to its final name before the kill: back, it is renamed again at the end
                    if not os.path.exists(path) and hash_file(os.path.join(self.folder, name)) == entry.sha256:
                        os.replace(os.path.join(self.folder, name), path)
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
        with open(self._journal_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(done)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.journal.append(done)

    def remove(self) -> None:
        """Everything is at its final place."""
        shutil.rmtree(self._work)

    def _leave(self) -> None:
        if self._lock is not None:
            if not self.journal and os.path.isdir(self._work):
                shutil.rmtree(self._work)  # nothing was finished: leave no trace
                for path in self._made:
                    with contextlib.suppress(OSError):
                        os.rmdir(path)
            os.close(self._lock)
            self._lock = None


def _done(values: dict[str, Any]) -> Done:
    pairs = {name: tuple(tuple(pair) for pair in values[name]) for name in ("rejected", "sources")}
    return Done(**{**values, **pairs, "sides": tuple(values["sides"]), "has": tuple(values["has"])})


def write_atomically(path: str, data: bytes) -> None:
    """Writes a file so that, whenever it is looked at, it is whole or not there."""
    partial = path + ".partial"
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)
        raise
    _flush(os.path.dirname(path))


# ----------------------------------------------------------------------------------------------------------- the end


def _finish(source: Source, work: _WorkFolder, options: ConvertOptions, reused: int) -> Summary:
    """Moves the shards to their names and writes everything that stands beside them, dataset.json last."""
    splits = {split: _finish_split(split, work) for split in SPLITS if source.counts[split]}
    rejected = [pair for done in work.journal for pair in done.rejected]
    duplicates = find_duplicates(work.journal)
    _write_table(os.path.join(work.folder, REJECTED_NAME), ("key", "reason"), rejected)
    _write_table(os.path.join(work.folder, DUPLICATES_NAME), ("key", "duplicate_of", "sha256"), duplicates)
    manifest = Manifest(
        folder=work.folder,
        name=options.name,
        channels=options.image.channels,
        load_size=options.image.size,
        format=options.image.format,
        splits=splits,
        source={**source.description, "pictures": source.fingerprint()},
        options=_manifest_options(options),
        label_names=source.label_names,
        region=source.region,
    )
    write_atomically(os.path.join(work.folder, MANIFEST_NAME), manifest_json(manifest).encode())
    work.remove()
    return Summary(manifest, len(rejected), len(duplicates), reused)


def _finish_split(split: str, work: _WorkFolder) -> Split:
    entries = [done for done in work.journal if done.split == split and done.records]
    shards, offsets = [], []
    for number, done in enumerate(entries):
        name = f"{split}-{number:05d}-of-{len(entries):05d}.tfrecord"
        rows = read_offsets(work.shard_path(split, done.number))
        offsets.append(np.concatenate([np.full((len(rows), 1), number, np.int64), rows], axis=1))
        os.replace(work.shard_path(split, done.number), os.path.join(work.folder, name))
        shards.append(Shard(name, done.records, done.bytes, done.sha256))
    stream = io.BytesIO()
    np.save(stream, np.concatenate(offsets) if offsets else np.zeros((0, 3), np.int64))
    index = f"{split}.index.npy"
    write_atomically(os.path.join(work.folder, index), stream.getvalue())
    sides = np.array([done.sides for done in entries] or [(0, 0, 0, 0)])
    has = [bool(entries) and all(done.has[i] for done in entries) for i in range(3)]
    return Split(
        name=split,
        count=sum(done.records for done in entries),
        shards=tuple(shards),
        index=index,
        index_sha256=hashlib.sha256(stream.getvalue()).hexdigest(),
        min_height=int(sides[:, 0].min()),
        max_height=int(sides[:, 1].max()),
        min_width=int(sides[:, 2].min()),
        max_width=int(sides[:, 3].max()),
        has_target=has[0],
        has_mask=has[1],
        has_label_map=has[2],
    )


def find_duplicates(journal: list[Done]) -> list[tuple[str, str, str]]:
    """(key, key of the first picture with the same source bytes, their SHA-256), over all splits."""
    first: dict[str, str] = {}
    found = []
    for done in journal:
        for digest, key in done.sources:
            if first.setdefault(digest, key) != key:
                found.append((key, first[digest], digest))
    return found


def _write_table(path: str, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    rows = list(rows)
    if not rows:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        return
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))


def printable(text: str) -> str:
    """A key for the console: one line, whatever bytes the file's name holds."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())
