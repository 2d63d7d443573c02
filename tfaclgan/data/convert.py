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
import dataclasses
import hashlib
import io
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import PIL
from PIL import Image

from tfaclgan.data import images, masks, remote
from tfaclgan.data.files import hash_file, printable, write_atomically, write_table
from tfaclgan.data.records import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    SPLITS,
    Manifest,
    Record,
    Shard,
    Split,
    load_manifest,
    manifest_json,
)
from tfaclgan.data.shards import Done, Outcome, ShardWriter, read_offsets
from tfaclgan.data.sources import Job, Loaded, Source
from tfaclgan.data.work_folder import WORK_FOLDER, WorkFolder
from tfaclgan.errors import UserError

REJECTED_NAME = "rejected.csv"
DUPLICATES_NAME = "duplicates.csv"
_IMAGES_PER_WORKER = 32  # fewer take less time than a process needs to start
_REJECTED_SHOWN = 10  # so many are named on the console as they are met; rejected.csv has them all
_JOBS_PER_TASK = 8  # a task's results are a few hundred kB: little enough to hold, enough to hide the messages' cost


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    """How a data folder is written.

    mask: where masks come from (tfaclgan/data/masks.py).
    image: how pictures are stored; its format is "jpeg", "png", or "auto": png for drawn pictures and where every
        source file is of a lossless kind, else jpeg.
    shard_mb: a shard is closed once it holds so many MiB.
    shards: shards a split, of equal numbers of source pictures; 0: by shard_mb.
    workers: processes that decode and resize; 1: none beside this one; 0: one a core, fewer for few pictures.
    max_rejected: stop at more rejected pictures than this; negative: never.
    skip_small: list pictures below the minimum size in rejected.csv instead of stopping.
    resume: continue an earlier run of the same source and options.
    name: the data set's name in dataset.json; "": the folder's.
    progress: show a progress bar on stderr.
    """

    image: images.ImageOptions
    shard_mb: float = 64.0
    shards: int = 0
    workers: int = 0
    max_rejected: int = -1
    skip_small: bool = False
    resume: bool = False
    name: str = ""
    progress: bool = True
    mask: masks.MaskOptions = masks.AS_GIVEN


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a conversion did.

    rejected: pictures that became no record (rejected.csv).
    duplicates: pictures whose source bytes another one has too (duplicates.csv); `leaks` are those of them in a test
        split whose twin is in a training split, or the other way round.
    reused: shards that an earlier run had finished; all of them where there was nothing left to do.
    """

    manifest: Manifest
    rejected: int
    duplicates: int
    leaks: int
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
        manifest = load_manifest(folder)
        return Summary(manifest, 0, 0, 0, sum(len(split.shards) for split in manifest.splits.values()))
    with WorkFolder(folder, fingerprint) as work:
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
    workers = options.workers
    if not workers:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = max(1, min(cores, sum(source.counts.values()) // _IMAGES_PER_WORKER))
    return dataclasses.replace(options, image=image, name=name, workers=workers)


def _manifest_options(options: ConvertOptions) -> dict[str, Any]:
    """The options that decide the folder's content, as they stand in dataset.json."""
    content = {**dataclasses.asdict(options.image), "shard_mb": float(options.shard_mb), "shards": options.shards}
    if options.mask.kind != "source":
        mask = dataclasses.asdict(options.mask)
        if options.mask.segmenter:  # a file's content counts, not its place
            mask["segmenter"] = hash_file(options.mask.segmenter)
        content["mask"] = json.loads(json.dumps(mask))
    return content


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


def make_record(
    loaded: Loaded, job: Job, options: images.ImageOptions, mask_options: masks.MaskOptions = masks.AS_GIVEN
) -> Record:
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
    width, height = images.fitted_size(image.width, image.height, options.size)
    if width * height > options.max_pixels:
        raise images.RejectedError(
            f"would become {width}x{height} pixels at load size, more than --max_pixels={options.max_pixels}"
        )
    fitted = images.fit(image, options)
    lossless = dataclasses.replace(options, format="png")
    target, mask, label_map = sides.values()
    label_map = None if label_map is None else images.fit_label_map(label_map, options)
    mask = None if mask is None else images.fit(mask, options)
    mask = masks.make(mask_options, job.key, image, mask, label_map, options)
    return Record(
        image=images.encode(fitted, options),
        format=options.format,
        key=job.key,
        height=fitted.height,
        width=fitted.width,
        channels=options.channels,
        label=job.label,
        target=b"" if target is None else images.encode(images.fit(target, options), options),
        mask=b"" if mask is None else images.encode(mask, lossless),
        label_map=b"" if label_map is None else images.encode(label_map, lossless),
    )


def _decoded(picture: bytes | Image.Image | None, decode: Any, options: images.ImageOptions) -> Image.Image | None:
    if picture is None:
        return None
    if isinstance(picture, bytes):
        return decode(picture, options)
    return images.to_channels(picture, options) if decode is images.decode else picture


def _source_hash(picture: bytes | Image.Image) -> str:
    return hashlib.sha256(picture if isinstance(picture, bytes) else picture.tobytes()).hexdigest()


def run_jobs(
    jobs: list[Job], options: images.ImageOptions, mask_options: masks.MaskOptions = masks.AS_GIVEN
) -> list[Outcome]:
    """The outcome of each job; in a worker or in this process."""
    outcomes = []
    for job in jobs:
        digest = ""
        try:
            loaded = job.load(options.size)
            digest = _source_hash(loaded.image)
            outcomes.append(Outcome(job.key, make_record(loaded, job, options, mask_options), sha256=digest))
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

    def outcomes(self, jobs: Iterable[Job], options: ConvertOptions) -> Iterator[Outcome]:
        jobs = iter(jobs)
        tasks = iter(lambda: list(itertools.islice(jobs, _JOBS_PER_TASK)), [])
        if self._pool is None:
            for task in tasks:
                yield from run_jobs(task, options.image, options.mask)
            return
        pending: collections.deque[concurrent.futures.Future[list[Outcome]]] = collections.deque()
        try:
            while True:
                for task in itertools.islice(tasks, self._window - len(pending)):
                    pending.append(self._pool.submit(run_jobs, task, options.image, options.mask))
                if not pending:
                    return
                yield from pending.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, most likely for want of memory; run again with --resume and fewer "
                "--workers, or a smaller --max_pixels"
            ) from error


# -------------------------------------------------------------------------------------------------------- shards


def _write_shards(source: Source, work: WorkFolder, options: ConvertOptions) -> None:
    from tqdm import tqdm

    total, finished = sum(source.counts.values()), sum(work.position(split)[1] for split in SPLITS)
    rejected = sum(len(done.rejected) for done in work.journal)
    progress = tqdm(
        total=total, initial=finished, unit=" images", smoothing=0.05, disable=not options.progress,
        mininterval=0.2 if sys.stderr.isatty() else 10,
    )  # fmt: skip
    with progress, _Workers(options.workers) as workers:
        for split, count in ((split, source.counts[split]) for split in SPLITS):
            number, first = work.position(split)
            shard = ShardWriter(work.shard_path(split, number))
            try:
                outcomes = workers.outcomes(source.jobs(split, first) if first < count else (), options)
                for item, outcome in enumerate(outcomes, start=first + 1):
                    progress.update()
                    shard.add(outcome)
                    if outcome.record is None:
                        rejected += 1
                        if rejected <= _REJECTED_SHOWN and options.progress:
                            progress.write(f"rejected: {printable(outcome.key)} ({outcome.reason})", file=sys.stderr)
                        _stop_if(outcome, rejected, options)
                    if item == count or _full(shard, item, number, count, options):
                        work.enter(shard.close(split, number, item))
                        number += 1
                        shard = ShardWriter(work.shard_path(split, number))
            finally:
                shard.discard()
            entries = [done for done in work.journal if done.split == split]
            if entries and not any(done.records for done in entries):
                key, reason = entries[0].rejected[0]
                raise UserError(
                    f"{split}: all {count} images were rejected, the first was {printable(key)} ({reason}); mend the "
                    f"source, remove {work.folder} and convert again"
                )


def _stop_if(outcome: Outcome, rejected: int, options: ConvertOptions) -> None:
    """Ends the run at a rejected picture that the options do not allow."""
    key = printable(outcome.key)
    if outcome.too_small and not options.skip_small:
        raise UserError(
            f"{key}: {outcome.reason} (--min_size); pass --skip_small --resume to leave such images out, or remove "
            "it or lower --min_size and start with an empty folder"
        )
    if 0 <= options.max_rejected < rejected:
        raise UserError(
            f"{rejected} images rejected, more than --max_rejected={options.max_rejected}; the last was {key} "
            f"({outcome.reason}); raise the limit and add --resume, or mend the source and start with an empty folder"
        )


def _full(shard: ShardWriter, item: int, number: int, count: int, options: ConvertOptions) -> bool:
    """Whether the shard is to be closed after source picture `item` (of `count`, from 1)."""
    if options.shards:
        shards = min(options.shards, count)
        return item >= -(-count * (number + 1) // shards)
    return shard.bytes >= options.shard_mb * 2**20


# -------------------------------------------------------------------------------------------------- work in progress


def _finished(folder: str, options: ConvertOptions, fingerprint: dict[str, Any]) -> bool:
    """Whether `folder` already holds this very data set, whole; what else may stand there is refused here."""
    if remote.is_remote(folder):
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
    manifest = load_manifest(folder)
    source = {**fingerprint["source"], "pictures": fingerprint["pictures"]}
    for part, value in (("name", fingerprint["name"]), ("options", fingerprint["options"]), ("source", source)):
        if getattr(manifest, part) != value:
            raise UserError(
                f"{folder}: holds a finished data set of another {part}; name a new or empty folder with --output"
            )
    for shard in (shard for split in manifest.splits.values() for shard in split.shards):
        if hash_file(manifest.path(shard.file)) != shard.sha256:
            raise UserError(f"{manifest.path(shard.file)}: damaged; remove {folder} and convert again")
    shutil.rmtree(os.path.join(folder, WORK_FOLDER), ignore_errors=True)
    return True


# ----------------------------------------------------------------------------------------------------------- the end


def _finish(source: Source, work: WorkFolder, options: ConvertOptions, reused: int) -> Summary:
    """Moves the shards to their names and writes everything that stands beside them, dataset.json last."""
    splits = {split: _finish_split(split, work) for split in SPLITS if source.counts[split]}
    rejected = [pair for done in work.journal for pair in done.rejected]
    duplicates = find_duplicates(work.journal)
    leaks = sum(a.startswith("train") != b.startswith("train") for _, a, _, b, _ in duplicates)
    write_table(os.path.join(work.folder, REJECTED_NAME), ("key", "reason"), rejected)
    write_table(
        os.path.join(work.folder, DUPLICATES_NAME),
        ("key", "split", "duplicate_of", "duplicate_split", "sha256"),
        duplicates,
    )
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
        mask_planes=options.mask.planes,
    )
    write_atomically(os.path.join(work.folder, MANIFEST_NAME), manifest_json(manifest).encode())
    work.remove()
    return Summary(manifest, len(rejected), len(duplicates), leaks, reused)


def _finish_split(split: str, work: WorkFolder) -> Split:
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


def find_duplicates(journal: list[Done]) -> list[tuple[str, str, str, str, str]]:
    """(key, split, key and split of the first picture with the same source bytes, their SHA-256), over all splits."""
    first: dict[str, tuple[str, str]] = {}
    found = []
    for done in journal:
        for digest, key in done.sources:
            original = first.setdefault(digest, (key, done.split))
            if original != (key, done.split):
                found.append((key, done.split, *original, digest))
    return found
