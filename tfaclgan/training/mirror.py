"""A run directory in a bucket: training works in a local copy and sends it there at every save.

A preempted machine loses its disk; a store of objects has no renaming of folders, no appending and no sync, on which
the promises of a run directory rest. So a run keeps them all in a folder of this machine, the working copy, and what a
save put there is sent in an order in which whatever has arrived is a run directory too:

    run.json, events, samples, ...   may be of later steps than the newest checkpoint: the next start drops that
    best/step_N                      its manifest last, before the log's line that says the step was judged
    metrics.jsonl
    checkpoints/step_N               its manifest last: without one there is no checkpoint
    removals                         of what training has removed, a checkpoint's manifest first

    REMOTE/.session, LOCAL/.mirror.json   which start of training the remote folder belongs to: the last one. An earlier
                                          process finds that out at its next save and stops. A working copy with
                                          something that could not be sent is gone on from if no start came between.

At the start the newest checkpoint and the logs are fetched; of older checkpoints only the manifests, so that they are
counted, and removed when it is their turn.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable

from tfaclgan.data import files, remote
from tfaclgan.errors import UserError, warn
from tfaclgan.training import checkpoint, rundir

_SESSION, _NOTE, _LOG = ".session", ".mirror.json", "metrics.jsonl"
_TRANSFERS = 16  # at once: small objects take a store's answering time, not its bandwidth
_CHECKPOINTS = ("checkpoints", "best")
_WHOLE = (*_CHECKPOINTS, "broken", "projector")  # folders of folders that appear and go whole
_ROOT = re.compile(r"^(run\.json|run\.flags|environment\.json|imported\.json|metrics\.jsonl|projector_config\.pbtxt"
                   r"|events\.out\.tfevents\..*)$")  # fmt: skip
_FOLDERS = ("samples", "events/samples", "events/histograms")
_UNFINISHED = re.compile(r"\.(partial|tmp)$|\.(writing|removing)-\d+$")

_Signature = tuple[int, int, int]  # of a local file: bytes, time of the last change, inode


def working_copy(run_dir: str, work_dir: str = "") -> str:
    """The local folder in which a remote run directory is worked on.

    Args:
        run_dir: the remote folder.
        work_dir: folder of all working copies; "": tfaclgan/runs in the user's cache.
    """
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", run_dir)[-60:] + "-" + hashlib.sha256(run_dir.encode()).hexdigest()[:8]
    return os.path.join(work_dir or files.user_cache("runs"), name)


class Mirror:
    """A remote run directory and its working copy; made and used by the process that holds the copy's lock.

    Args:
        remote_dir: SCHEME://...
        local_dir: the working copy.
    """

    def __init__(self, remote_dir: str, local_dir: str) -> None:
        self._remote, self._local = remote_dir, local_dir
        self._session = uuid.uuid4().hex
        self._sent: dict[str, _Signature | None] = {}  # what is there, by relative path; None: not as it is here
        self._made: set[str] = set()  # folders

    # -- the start ----------------------------------------------------------------------------

    def fetch(self) -> None:
        """Makes the working copy what the remote folder is, unless it holds what could not be sent.

        Raises:
            UserError: the working copy's folder is something else.
            OSError: the remote folder cannot be read, or the disk is full.
        """
        note, there = self._read_note(), self._remote_session()
        if note["unsent"] and note["session"] == there:
            warn(f"{self._local} holds what could not be sent to {self._remote}: going on from there")
            self._session = note["session"]  # the same one: a kill before `claim` must not part the two
            self._list()
        else:
            self._clear(keep=note["unsent"])
            self._write_note(unsent=False)
            self._download()
        self._complete_newest()

    def claim(self) -> None:
        """Makes the remote folder this process's; an earlier one that still trains there will notice."""
        remote.make_folder(self._remote)
        remote.write(self._path(_SESSION), self._session.encode())
        self._write_note(unsent=True)
        self._send()

    def _read_note(self) -> dict:
        path = os.path.join(self._local, _NOTE)
        try:
            with open(path, encoding="utf-8") as file:
                note = files.parse_json(file.read())
            return {"session": str(note["session"]), "unsent": bool(note["unsent"])}
        except FileNotFoundError:
            if any(not name.startswith(".") for name in files.names_in(self._local)):
                raise UserError(
                    f"{self._local}: is no working copy of {self._remote}, which is kept there; empty the folder, or "
                    "name another one with --work_dir"
                ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: cannot be read ({error}); remove {self._local}") from error
        return {"session": "", "unsent": False}

    def _write_note(self, *, unsent: bool) -> None:
        content = {"remote": self._remote, "session": self._session, "unsent": unsent}
        rundir.write_text(os.path.join(self._local, _NOTE), json.dumps(content) + "\n")

    def _remote_session(self) -> str | None:
        try:
            return remote.read(self._path(_SESSION)).decode("ascii", "replace")
        except FileNotFoundError:
            return None

    def _clear(self, keep: bool) -> None:
        """Empties the working copy; `keep`: what could not be sent is moved aside."""
        aside = f"{self._local}.unsent-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        if keep:
            os.makedirs(aside)
            warn(f"{self._remote} was changed since by another start: what could not be sent there is now in {aside}")
        for name in files.names_in(self._local):
            path = os.path.join(self._local, name)
            if name == rundir.LOCK:
                continue
            if keep:
                os.replace(path, os.path.join(aside, name))
            elif os.path.isdir(path):
                shutil.rmtree(path)
            else:
                os.remove(path)

    def _download(self) -> None:
        """All that going on takes, but for the data of checkpoints."""
        wanted = [name for name in remote.names(self._remote) if _ROOT.match(name)]
        for folder in _FOLDERS:
            wanted += [f"{folder}/{name}" for name in remote.names(self._path(folder))]
        for shown in remote.names(self._path("projector")):
            wanted += [f"projector/{shown}/{name}" for name in remote.names(self._path(f"projector/{shown}"))]
        _in_parallel(self._get, [name for name in wanted if not _UNFINISHED.search(name)])
        for manifest in self._manifests():
            try:
                self._get(manifest)
            except FileNotFoundError:  # never sent whole: goes with the first removals
                self._sent[manifest] = None
                os.rmdir(os.path.dirname(os.path.join(self._local, manifest)))

    def _list(self) -> None:
        """Notes what the remote folder holds; all of it is sent again."""
        self._sent.update(dict.fromkeys(self._manifests()))
        for folder in _FOLDERS:
            self._sent.update((f"{folder}/{name}", None) for name in remote.names(self._path(folder)))
        self._sent.update((name, None) for name in remote.names(self._remote) if _ROOT.match(name))

    def _manifests(self) -> list[str]:
        return [
            f"{folder}/{name}/{checkpoint.MANIFEST}"
            for folder in _CHECKPOINTS
            for name in remote.names(self._path(folder))
            if checkpoint.NAME.match(name)
        ]

    def _complete_newest(self) -> None:
        """Fetches the data of the newest checkpoint, or of older ones until one is whole."""
        for found in checkpoint.find(os.path.join(self._local, "checkpoints")):
            name = f"checkpoints/{os.path.basename(found.path)}/{checkpoint.STATE}"
            with contextlib.suppress(FileNotFoundError, ValueError, KeyError):  # the loop tells of it
                if not os.path.exists(os.path.join(self._local, name)):
                    self._get(name)
                checkpoint.load(found)
                return

    def _get(self, name: str) -> None:
        path = os.path.join(self._local, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            remote.copy(self._path(name), path)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
            raise
        self._sent[name] = _signature(path)

    # -- sending ------------------------------------------------------------------------------

    def begin(self) -> None:
        """To be called before a checkpoint is written here: from now on there is something to send."""
        self._write_note(unsent=True)

    def send(self) -> None:
        """Sends what changed; what goes wrong is told, and tried again the next time.

        Raises:
            UserError: another process has begun to train in the remote folder.
        """
        try:
            self._send()
        except OSError as error:
            self._write_note(unsent=True)
            warn(f"{_reason(error)}: not sent, tried again at the next save; until then it is in {self._local} only")

    def finish(self, step: int) -> None:
        """Sends what changed; UserError if that cannot be done."""
        try:
            self._send()
        except OSError as error:
            self._write_note(unsent=True)
            raise UserError(
                f"{_reason(error)}: step {step} could not be sent to {self._remote} and is in {self._local} only; mend "
                "that and start the same command on this machine again: it goes on from there"
            ) from error

    def _send(self) -> None:
        """See the head of this file for the order; another thread may log and draw meanwhile."""
        if self._remote_session() != self._session:
            raise UserError(
                f"--run_dir={self._remote}: another process has begun to train there, or the folder was removed; this "
                f"one stops; its own last state is in {self._local}"
            )
        log = self._log()  # before all else: what a line stands for is here already
        found = self._files()
        if log is not None:
            found[_LOG] = log[0]
        changed = [name for name, signature in found.items() if self._sent.get(name) != signature]
        for _, names in itertools.groupby(sorted(changed, key=_turn), _turn):
            _in_parallel(lambda name: self._put(name, found[name], log), list(names))
        self._remove_gone(found)
        self._write_note(unsent=False)

    def _log(self) -> tuple[_Signature, bytes] | None:
        path = os.path.join(self._local, _LOG)
        if not os.path.exists(path):
            return None
        signature = _signature(path)
        return signature, files.read_bytes(path)

    def _files(self) -> dict[str, _Signature]:
        """The files here by relative path, without hidden and unfinished ones."""
        found = {}
        for folder, inner, names in os.walk(self._local):
            inner[:] = [name for name in inner if not name.startswith(".") and not _UNFINISHED.search(name)]
            for name in names:
                if not name.startswith(".") and not _UNFINISHED.search(name):
                    path = os.path.join(folder, name)
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        found[os.path.relpath(path, self._local).replace(os.sep, "/")] = _signature(path)
        found.pop(_LOG, None)
        return found

    def _put(self, name: str, signature: _Signature, log: tuple[_Signature, bytes] | None) -> None:
        target = self._path(name)
        folder = os.path.dirname(target)
        if folder not in self._made:
            remote.make_folder(folder)
            self._made.add(folder)
        if name == _LOG and log is not None:
            remote.write(target, log[1])
        else:
            source = os.path.join(self._local, name)
            try:
                remote.copy(source, target)
            except FileNotFoundError:
                if os.path.exists(source):
                    raise
                return  # removed meanwhile: a sample sheet that is not among the newest any more
        self._sent[name] = signature

    def _remove_gone(self, found: dict[str, _Signature]) -> None:
        for name in [name for name in self._sent if name not in found]:
            unit = _unit(name)
            if unit and not os.path.isdir(os.path.join(self._local, unit)):
                for last in (checkpoint.MANIFEST, "bundle.json"):
                    remote.remove(self._path(f"{unit}/{last}"))
                remote.remove_folder(self._path(unit))
                self._made.discard(self._path(unit))
            elif not unit or unit.partition("/")[0] not in _CHECKPOINTS:  # of those, older ones' data is there only
                remote.remove(self._path(name))
            else:
                continue
            del self._sent[name]

    def _path(self, name: str) -> str:
        return f"{self._remote}/{name}"


class NoMirror:
    """A `Mirror` for run directories that are where they are worked on."""

    def fetch(self) -> None: ...
    def claim(self) -> None: ...
    def begin(self) -> None: ...
    def send(self) -> None: ...
    def finish(self, step: int) -> None: ...


def put_new(local_dir: str, remote_dir: str) -> None:
    """Sends a new run directory."""
    Mirror(remote_dir, local_dir).claim()


def _unit(name: str) -> str:
    """The folder that appears and goes whole in which a file lies; "" for others."""
    parts = name.split("/")
    return "/".join(parts[:2]) if parts[0] in _WHOLE and len(parts) > 2 else ""


def _turn(name: str) -> int:
    """When a file is sent: smaller numbers before greater ones."""
    folder, last = name.partition("/")[0], name.rpartition("/")[2]
    if name == "run.json":
        return 0
    if folder == "checkpoints":
        return 6 if last == checkpoint.MANIFEST else 5
    if name == _LOG:
        return 4
    if folder == "best":
        return 3 if last == checkpoint.MANIFEST else 2
    return 2 if name == "projector_config.pbtxt" or last == "bundle.json" else 1


def _signature(path: str) -> _Signature:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ino


def _in_parallel(call: Callable[[str], None], names: Iterable[str]) -> None:
    """Calls for each name, several at once; raises the first error when all calls in flight are over."""
    with concurrent.futures.ThreadPoolExecutor(_TRANSFERS) as pool:
        waiting = [pool.submit(call, name) for name in names]
        concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_EXCEPTION)
        for future in waiting:
            future.cancel()
        for future in waiting:
            if not future.cancelled():
                future.result()


def _reason(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
