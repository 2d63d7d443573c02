"""Reproduction bundles: what it takes to run a data iteration again in which something was not finite.

    RUN/broken/step_000000005/bundle.json   step, terms, settings, names of the pictures
    RUN/broken/step_000000005/batch.npz     the global batch of that step, as it left the pipeline
    RUN/broken/step_000000005/run.flags     the flags, for people
    RUN/broken/step_000000005/checkpoint/   the last good checkpoint: links to its files, which cost no room and stay
                                            when the run removes its own

Where there can be no links, bundle.json names the run's checkpoint instead. Written whole, as checkpoints are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import time
import zipfile
from typing import Any

import numpy as np

from tfaclgan.data import files, remote
from tfaclgan.errors import UserError
from tfaclgan.training import rundir
from tfaclgan.training.checkpoint import Checkpoint

FORMAT_VERSION = 1
FOLDER = "broken"
_BUNDLE, _BATCH, _CHECKPOINT = "bundle.json", "batch.npz", "checkpoint"
_NAME = re.compile(r"^step_\d{9}$")


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle on disk.

    step: the data iteration, counted from 0.
    non_finite: the terms it was stopped for.
    pictures: names of its pictures, for people.
    checkpoint: of the state to start from; None: the initial weights.
    replicas: that shared the batch.
    method, config, image_shape, settings: as JSON holds them.
    """

    path: str
    step: int
    non_finite: tuple[str, ...]
    pictures: str
    checkpoint: Checkpoint | None
    replicas: int
    method: str
    config: dict[str, Any]
    image_shape: list[int]
    settings: dict[str, Any]
    data_dir: str
    batch_sha256: str


def write(
    run: rundir.Run,
    step: int,
    batch: dict[str, np.ndarray],
    good: Checkpoint | None,
    *,
    non_finite: tuple[str, ...],
    pictures: str,
    replicas: int,
    settings: dict[str, Any],
    data_dir: str,
    flag_text: str,
) -> str:
    """Writes the bundle of a step, in place of an earlier one; returns its path.

    Raises:
        OSError: the disk is full or not writable; nothing half-written stays.
    """
    final = os.path.join(run.folder(FOLDER), f"step_{step:09d}")
    buffer = io.BytesIO()
    np.savez(buffer, **batch)
    with files.whole_folder(final, replace=True) as temporary:
        files.write_flushed(os.path.join(temporary, _BATCH), buffer.getvalue())
        content = {
            "format_version": FORMAT_VERSION,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "step": step,
            "non_finite": list(non_finite),
            "pictures": pictures,
            "checkpoint_step": good.step if good else None,
            "checkpoint": _link(good, temporary, final) if good else None,
            "replicas": replicas,
            "method": run.method.name,
            "config": dataclasses.asdict(run.config),
            "image_shape": list(run.image_shape),
            "settings": settings,
            "data_dir": data_dir,
            "batch_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        }
        rundir.write_flags(run, flag_text, temporary)
        files.write_flushed(os.path.join(temporary, _BUNDLE), (json.dumps(content, indent=1) + "\n").encode())
    return final


def _link(good: Checkpoint, temporary: str, final: str) -> str:
    """Where the bundle finds the checkpoint, relative to the bundle."""
    folder = os.path.join(temporary, _CHECKPOINT)
    os.makedirs(folder)
    try:
        for name in os.listdir(good.path):
            os.link(os.path.join(good.path, name), os.path.join(folder, name))
    except OSError:  # a file system without links
        shutil.rmtree(folder)
        return os.path.relpath(good.path, final)
    return _CHECKPOINT


def newest(run_dir: str) -> Bundle:
    """The bundle of `run_dir` that was written last.

    Raises:
        UserError: there is none, or it is damaged.
    """
    folder = os.path.join(run_dir, FOLDER)
    paths = [os.path.join(folder, name) for name in files.names_in(folder) if _NAME.match(name)]
    if remote.is_remote(run_dir):  # one that is not sent whole yet has no bundle.json
        paths = [path for path in paths if remote.exists(os.path.join(path, _BUNDLE))]
    if not paths:
        raise UserError(
            f"{folder}: holds no reproduction bundle; training writes one when it stops at a step that is not finite"
        )
    return read(max(paths, key=_written))


def _written(path: str) -> float:
    return remote.modified(os.path.join(path, _BUNDLE)) if remote.is_remote(path) else os.path.getmtime(path)


def read(path: str) -> Bundle:
    """The bundle in a folder; UserError for whatever is wrong with it."""
    try:
        content = files.parse_json(files.read_bytes(os.path.join(path, _BUNDLE)).decode())
        kinds = {"step": int, "non_finite": list, "pictures": str, "replicas": int, "method": str, "config": dict,
                 "image_shape": list, "settings": dict, "data_dir": str, "batch_sha256": str}  # fmt: skip
        for name, kind in {"format_version": int, **kinds}.items():
            if type(content[name]) is not kind:
                raise ValueError(f"{name} is {str(content[name])[:80]!r}")
        if content["format_version"] > FORMAT_VERSION:
            raise UserError(
                f"{path}: bundle format {content['format_version']} is newer than this tfaclgan reads "
                f"({FORMAT_VERSION}); install a newer tfaclgan"
            )
        good = None
        if content["checkpoint"] is not None:
            good = Checkpoint(os.path.join(path, content["checkpoint"]), int(content["checkpoint_step"]))
        values = {name: content[name] for name in kinds}
        values["non_finite"] = tuple(str(term) for term in content["non_finite"])
        return Bundle(path=path, checkpoint=good, **values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error


def read_batch(bundle: Bundle) -> dict[str, np.ndarray]:
    """The arrays of the bundle's global batch; UserError if they are not those that were written."""
    try:
        data = files.read_bytes(os.path.join(bundle.path, _BATCH))
        if hashlib.sha256(data).hexdigest() != bundle.batch_sha256:
            raise ValueError(f"{_BATCH} does not match its SHA-256")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name.removesuffix(".npy"): files.parse_array(archive.read(name)) for name in archive.namelist()}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise damaged(bundle.path, error) from error


def damaged(path: str, error: Exception) -> UserError:
    """The line for a bundle that cannot be read."""
    return UserError(f"{path}: no bundle that can be read ({error}); start the training again: it writes a new one")
