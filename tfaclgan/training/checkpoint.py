"""Checkpoints: named arrays in one safetensors file, with a manifest that says what they must be.

    checkpoints/step_000001000/state.safetensors   every variable of the engine, by name
    checkpoints/step_000001000/manifest.json       format version, step, size and SHA-256 of the above

A checkpoint is written into a temporary folder, synced, and renamed; the manifest is written last,
so a folder without a manifest, or whose file does not match it, was never finished or was damaged.
Such a checkpoint is reported and the next older one is used. The format knows no framework.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import sys

import numpy as np

from tfaclgan.data import files
from tfaclgan.errors import UserError

FORMAT_VERSION = 1
_STATE, _MANIFEST = "state.safetensors", "manifest.json"
_NAME = re.compile(r"^step_(\d{9})$")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint on disk."""

    path: str
    step: int
    metric: float | None = None


def save(folder: str, state: dict[str, np.ndarray], step: int, *, metric: float | None = None) -> Checkpoint:
    """Writes `state` as folder/step_N; the old content of that name, if any, is replaced whole.

    Raises:
        OSError: the disk is full or not writable; nothing half-written stays under the final name.
    """
    import safetensors.numpy

    final = os.path.join(folder, f"step_{step:09d}")
    os.makedirs(folder, exist_ok=True)
    with files.whole_folder(final, replace=True) as temporary:
        data = safetensors.numpy.save({name: np.asarray(value, order="C") for name, value in state.items()})
        files.write_flushed(os.path.join(temporary, _STATE), data)
        manifest = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "metric": metric,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        files.write_flushed(os.path.join(temporary, _MANIFEST), (json.dumps(manifest, indent=1) + "\n").encode())
    return Checkpoint(final, step, metric)


def find(folder: str) -> list[Checkpoint]:
    """Checkpoints with a readable manifest, newest first; their arrays are not verified yet."""
    if not os.path.isdir(folder):
        return []
    found = []
    for name in os.listdir(folder):
        match = _NAME.match(name)
        if match:
            try:
                manifest = _manifest(os.path.join(folder, name))
            except UserError:
                raise
            except (OSError, ValueError, KeyError, TypeError) as error:
                print(
                    f"tfaclgan: warning: {os.path.join(folder, name)}: unfinished or damaged ({error}); skipped",
                    file=sys.stderr,
                )
                continue
            if manifest["step"] != int(match[1]):
                print(
                    f"tfaclgan: warning: {os.path.join(folder, name)}: holds step {manifest['step']}; skipped",
                    file=sys.stderr,
                )
                continue
            found.append(Checkpoint(os.path.join(folder, name), int(match[1]), manifest["metric"]))
    return sorted(found, key=lambda checkpoint: -checkpoint.step)


def arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays in a safetensors file's bytes; ValueError for whatever is wrong with it."""
    import safetensors.numpy

    try:
        return safetensors.numpy.load(data)
    except Exception as error:  # of the library's own kind, or what NumPy raises for a type it lacks
        raise ValueError(f"no safetensors file: {' '.join(str(error).split())}") from error


def load(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """The arrays of one checkpoint.

    Raises:
        ValueError: its bytes do not match its manifest.
    """
    manifest = _manifest(checkpoint.path)
    with open(os.path.join(checkpoint.path, _STATE), "rb") as file:
        data = file.read()
    if len(data) != manifest["bytes"] or hashlib.sha256(data).hexdigest() != manifest["sha256"]:
        raise ValueError(f"{len(data)} bytes do not match the manifest's size and SHA-256")
    return arrays(data)


def load_newest(folder: str) -> tuple[Checkpoint, dict[str, np.ndarray]] | None:
    """The newest checkpoint that is whole, with a warning for each damaged one; None if there is none."""
    found = find(folder)
    for checkpoint in found:
        try:
            return checkpoint, load(checkpoint)
        except (OSError, ValueError, KeyError) as error:
            print(
                f"tfaclgan: warning: {checkpoint.path}: damaged ({error}); trying the next older one", file=sys.stderr
            )
    if found:
        raise UserError(
            f"{folder}: all {len(found)} checkpoints are damaged; restore the folder from a copy, "
            "or use another --run_dir"
        )
    return None


def remove(checkpoint: Checkpoint) -> None:
    """Removes a checkpoint; its manifest first, so that half a removal is no checkpoint."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(checkpoint.path, _MANIFEST))
    shutil.rmtree(checkpoint.path, ignore_errors=True)


def prune(folder: str, keep: int, every: int = 0) -> None:
    """Removes all but the newest `keep` checkpoints, and what interrupted saves left behind.

    Those of steps that are multiples of `every` stay for good; 0: none do.
    """
    for checkpoint in find(folder)[keep:]:
        if not every or checkpoint.step % every:
            remove(checkpoint)
    for name in os.listdir(folder):
        if ".writing-" in name:
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def _manifest(path: str) -> dict:
    with open(os.path.join(path, _MANIFEST), encoding="utf-8") as file:
        manifest = files.parse_json(file.read())
    kinds = {"format_version": int, "step": int, "bytes": int, "sha256": str, "metric": (int, float, type(None))}
    for name, kind in kinds.items():
        if not isinstance(manifest[name], kind) or isinstance(manifest[name], bool):
            raise ValueError(f"{name} is {str(manifest[name])[:80]!r}")
    if manifest["format_version"] > FORMAT_VERSION:
        raise UserError(
            f"{path}: checkpoint format {manifest['format_version']} is newer than this tfaclgan reads "
            f"({FORMAT_VERSION}); install a newer tfaclgan"
        )
    return manifest
