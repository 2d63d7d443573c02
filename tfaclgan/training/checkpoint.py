"""Checkpoints: named arrays in one safetensors file, with a manifest that says what they must be.

    checkpoints/step_000001000/state.safetensors   every variable of the engine, by name
    checkpoints/step_000001000/manifest.json       format version, step, size and SHA-256 of the above

A checkpoint is written into a temporary folder, synced, and renamed; the manifest is written last,
so a folder without a manifest, or whose file does not match it, was damaged. Such a checkpoint is
reported and the next older one is used. The format knows no framework.

Version 2 holds what the loop has summed since the last log line as well, as arrays named `loop/...`.
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
import threading
from collections.abc import Callable

import numpy as np

from tfaclgan.data import files, remote
from tfaclgan.errors import UserError

FORMAT_VERSION = 2
STATE, MANIFEST = "state.safetensors", "manifest.json"
NAME = re.compile(r"^step_(\d{9})$")


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
    files.make_folder(folder)
    with files.whole_folder(final, replace=True) as temporary:
        data = safetensors.numpy.save({name: np.asarray(value, order="C") for name, value in state.items()})
        files.write_flushed(os.path.join(temporary, STATE), data)
        manifest = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "metric": metric,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        files.write_flushed(os.path.join(temporary, MANIFEST), (json.dumps(manifest, indent=1) + "\n").encode())
    return Checkpoint(final, step, metric)


def find(folder: str) -> list[Checkpoint]:
    """Checkpoints with a readable manifest, newest first; their arrays are not verified yet."""
    found = []
    for name in files.names_in(folder):
        match = NAME.match(name)
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
    data = files.read_bytes(os.path.join(checkpoint.path, STATE))
    if len(data) != manifest["bytes"] or hashlib.sha256(data).hexdigest() != manifest["sha256"]:
        raise ValueError(f"{len(data)} bytes do not match the manifest's size and SHA-256")
    return arrays(data)


def load_newest(folder: str) -> tuple[Checkpoint, dict[str, np.ndarray]] | None:
    """The newest checkpoint that is whole, with a warning for each damaged one; None if there is none."""
    found = find(folder)
    count = len(_steps(folder))  # those without a readable manifest too
    for checkpoint in found:
        try:
            return checkpoint, load(checkpoint)
        except (OSError, ValueError, KeyError) as error:
            print(
                f"tfaclgan: warning: {checkpoint.path}: damaged ({error}); trying the next older one", file=sys.stderr
            )
    if count:
        raise UserError(
            f"{folder}: all {count} checkpoints are damaged; restore the folder from a copy, or use another --run_dir"
        )
    return None


class Saver:
    """Saves a run's checkpoints, at wish while training goes on.

    In the background at most one is being written; the arrays must not change any more.

    Args:
        folder: of the checkpoints.
        keep: newest checkpoints that stay.
        keep_every: those of steps that are multiples of it stay as well; 0: none do.
        background: write in a thread of its own.
        before: called before each checkpoint is written, in the same thread: what must be on the disk by then.
        after: called when it is written and older ones are gone, in the same thread.
    """

    def __init__(
        self,
        folder: str,
        *,
        keep: int,
        keep_every: int,
        background: bool,
        before: Callable[[], None] = lambda: None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder, self._keep, self._keep_every = folder, keep, keep_every
        self._background, self._before, self._after = background, before, after
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, state: dict[str, np.ndarray], step: int) -> None:
        """Saves `state`, or begins to once the last save is done; raises what went wrong with either."""
        self.wait()
        if not self._background:
            self._write(state, step)
            return
        self._thread = threading.Thread(target=self._try, args=(state, step), name="checkpoint")
        self._thread.start()

    def check(self) -> None:
        """Raises what went wrong with a save, if anything has by now."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Returns when all is saved; raises what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _try(self, state: dict[str, np.ndarray], step: int) -> None:
        try:
            self._write(state, step)
        except BaseException as error:
            self._error = error

    def _write(self, state: dict[str, np.ndarray], step: int) -> None:
        self._before()
        save(self._folder, state, step)
        prune(self._folder, self._keep, self._keep_every)
        self._after()


def remove(checkpoint: Checkpoint) -> None:
    """Removes a checkpoint; its name first, so that half a removal is no checkpoint."""
    removed = f"{checkpoint.path}.removing-{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.replace(checkpoint.path, removed)
        files.flush(os.path.dirname(checkpoint.path))  # or a power cut could leave the name and take what is in it
        shutil.rmtree(removed, ignore_errors=True)


def prune(folder: str, keep: int, every: int = 0) -> None:
    """Removes all but the newest `keep` checkpoints, and what interrupted saves left behind.

    Those of steps that are multiples of `every` stay for good; 0: none do.
    """
    for checkpoint in find(folder)[keep:]:
        if not every or checkpoint.step % every:
            remove(checkpoint)
    sweep(folder)


def sweep(folder: str) -> None:
    """Removes what interrupted saves and removals left behind."""
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        if ".writing-" in name or ".removing-" in name:
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def set_aside(folder: str, step: int) -> None:
    """Renames the checkpoints of later steps than `step`, which are damaged, to `step_N.damaged`.

    Left where they are they would count among the newest that are kept, and a sound one would go in their place.
    """
    for later in _steps(folder):
        if later > step:
            path = os.path.join(folder, f"step_{later:09d}")
            shutil.rmtree(f"{path}.damaged", ignore_errors=True)
            os.replace(path, f"{path}.damaged")
            print(f"tfaclgan: warning: {path}: renamed to step_{later:09d}.damaged", file=sys.stderr)


def _steps(folder: str) -> list[int]:
    """Of the checkpoints in a folder, damaged ones too. A remote one without a manifest is not sent whole yet."""
    matches = [match for match in map(NAME.match, files.names_in(folder)) if match]
    if remote.is_remote(folder):
        matches = [match for match in matches if remote.exists(os.path.join(folder, match[0], MANIFEST))]
    return [int(match[1]) for match in matches]


def _manifest(path: str) -> dict:
    manifest = files.parse_json(files.read_bytes(os.path.join(path, MANIFEST)).decode())
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
