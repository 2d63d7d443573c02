"""Files where `tf.io.gfile` reaches and `open` does not: gs://bucket/..., any SCHEME://...

An object is there once it was written whole. Nothing can be appended to it, a folder cannot be renamed, and there is
nothing to sync. Whatever goes wrong is an OSError with the path, as it is with local files.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from tfaclgan.errors import UserError, one_line

_LONGEST_REASON = 300  # characters: some stores answer with a page of HTML


def is_remote(path: str) -> bool:
    """Whether a path names a file system: SCHEME://..."""
    return "://" in path


def absolute(path: str) -> str:
    """A path as it is found from any working directory."""
    return path if is_remote(path) else os.path.abspath(path)


def require(path: str, flag: str) -> None:
    """UserError if this TensorFlow has no file system for `path`, which was given as `flag`."""
    from tensorflow.io import gfile

    scheme, known = path.partition("://")[0], sorted(filter(None, gfile.get_registered_schemes()))
    if scheme not in known:
        raise UserError(
            f"{flag}={path}: this TensorFlow has no file system for {scheme}:// (it has {', '.join(known)}); "
            "use one of those, or a local folder"
        )


def read(path: str) -> bytes:
    """An object's content."""
    from tensorflow.io import gfile

    with errors_of(path), gfile.GFile(path, "rb") as file:
        return file.read()


def write(path: str, data: bytes) -> None:
    """Makes or replaces an object."""
    from tensorflow.io import gfile

    with errors_of(path), gfile.GFile(path, "wb") as file:
        file.write(data)


def exists(path: str) -> bool:
    """Whether there is an object, or a folder with something in it."""
    from tensorflow.io import gfile

    with errors_of(path):
        return gfile.exists(path)


def names(folder: str) -> list[str]:
    """The names in a folder, sorted; none if there is no such folder."""
    from tensorflow.io import gfile

    try:
        with errors_of(folder):
            found = [name.rstrip("/") for name in gfile.listdir(folder)]  # buckets mark folders with a slash
            return sorted(name for name in found if name)
    except FileNotFoundError:
        return []


def modified(path: str) -> float:
    """When an object was written, in seconds."""
    from tensorflow.io import gfile

    with errors_of(path):
        return gfile.stat(path).mtime_nsec / 1e9


def copy(source: str, target: str) -> None:
    """Copies a file, local or remote, in place of another; other threads run meanwhile."""
    from tensorflow.io import gfile

    with errors_of(source if is_remote(source) else target):
        gfile.copy(source, target, overwrite=True)


def make_folder(path: str) -> None:
    """Makes a folder, for the stores that have any."""
    from tensorflow.io import gfile

    with errors_of(path):
        gfile.makedirs(path)


def remove(path: str) -> None:
    """Removes an object if it is there."""
    from tensorflow.io import gfile

    with contextlib.suppress(FileNotFoundError), errors_of(path):
        gfile.remove(path)


def remove_folder(path: str) -> None:
    """Removes a folder, if it is there, with all in it."""
    from tensorflow.io import gfile

    with contextlib.suppress(FileNotFoundError), errors_of(path):
        gfile.rmtree(path)


@contextlib.contextmanager
def errors_of(path: str) -> Iterator[None]:
    """Turns TensorFlow's errors about `path` into OSErrors."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
    except tf.errors.OpError as error:
        reason = one_line(error)
        raise OSError(errno.EIO, reason[:_LONGEST_REASON], path) from error
