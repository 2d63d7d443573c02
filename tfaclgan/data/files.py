"""Files that are whole whenever they are looked at."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np

from tfaclgan.data import remote
from tfaclgan.errors import UserError


def read_bytes(path: str) -> bytes:
    """A file's content, local or remote; OSError if it cannot be read."""
    if remote.is_remote(path):
        return remote.read(path)
    with open(path, "rb") as file:
        return file.read()


def user_cache(name: str) -> str:
    """The folder `name` of this package in the user's cache; it need not be there."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "tfaclgan", name)


def is_there(path: str) -> bool:
    """Whether there is a file or folder, local or remote."""
    return remote.exists(path) if remote.is_remote(path) else os.path.exists(path)


def names_in(folder: str) -> list[str]:
    """The names in a folder, local or remote, sorted; none if it is no folder."""
    if remote.is_remote(folder):
        return remote.names(folder)
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def refuse_remote(path: str, what: str) -> None:
    """UserError for a remote path where only a local one is written: `open` would make a folder called gs: of it."""
    if remote.is_remote(path):
        raise UserError(f"{what}={path}: must be on this machine; name a local path, and copy it yourself")


def hash_file(path: str) -> str:
    """SHA-256 of a file in hex."""
    with open(path, "rb") as file:
        return hash_stream(file)


def hash_stream(file: IO[bytes]) -> str:
    """SHA-256 of what is left of an open file in hex."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def parse_json(text: str | bytes) -> Any:
    """What JSON text from a file holds; ValueError for whatever is wrong with it, depth and encoding included."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def parse_array(data: bytes) -> np.ndarray:
    """The array in a .npy file's bytes; ValueError for whatever is wrong with it. Objects are never unpickled."""
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # NumPy hands a header to Python's parser and lets out what that raises
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def flush(path: str) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: str) -> None:
    """Makes a folder and those above it, and waits until their names are on the disk."""
    refuse_remote(path, "folder")
    path = os.path.abspath(path)
    if os.path.isdir(path):
        return
    make_folder(os.path.dirname(path))
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
    flush(os.path.dirname(path))


def write_atomically(path: str, data: bytes) -> None:
    """Writes a file so that, whenever it is looked at, it is whole or not there."""
    partial = path + ".partial"
    try:
        write_flushed(partial, data)
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)
        raise
    flush(os.path.dirname(os.path.abspath(path)))


def write_flushed(path: str, data: bytes) -> None:
    """Writes a file and waits until its content is on the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def whole_folder(path: str, *, replace: bool = False) -> Iterator[str]:
    """A new folder to fill, which becomes `path` when the block ends; if the block fails it is gone.

    With `replace` it takes the place of a folder at `path`; without, that must be empty by then or not there.
    """
    refuse_remote(path, "folder")
    temporary = f"{os.path.normpath(path)}.writing-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        os.makedirs(temporary)
        yield temporary
        flush(temporary)  # the names in it, before the folder has its own
        if replace and os.path.isdir(path):
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush(os.path.dirname(os.path.abspath(path)))


def write_table(path: str, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Writes a CSV table; without rows there is none, and an earlier one goes."""
    rows = list(rows)
    if not rows:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        return
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(
        text, lineterminator="\n", quoting=csv.QUOTE_ALL
    )  # csv leaves a lone "\r" bare, yet ends rows at it
    table.writerow(header)
    for row in rows:
        (quoted if any("\r" in value for value in row) else table).writerow(row)
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))


def printable(text: str) -> str:
    """A key for the console: one line, whatever bytes the file's name holds."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())
