"""Features of real images kept on disk, so that each evaluation computes only what is new.

One .npz file holds the features (and logits) of one split under one protocol; its name is the split
and a hash of everything that decides the numbers. Files are written whole or not at all, carry a
checksum, and are made again when they cannot be trusted.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np

_FORMAT = 1  # raised when what a file holds, or how features are computed, changes

Features = tuple[np.ndarray, "np.ndarray | None"]  # float32 [n, d], float32 [n, classes] or None


def features_path(folder: str, name: str, key: dict[str, Any]) -> str:
    """The file of the features called `name` that `key` (JSON-able) decides."""
    text = json.dumps({"format": _FORMAT, **key}, sort_keys=True)
    return os.path.join(folder, f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.npz")


def cached_features(
    folder: str, name: str, key: dict[str, Any], compute: Callable[[], Features], say: Callable[[str], None]
) -> Features:
    """Features from the cache, or computed and put there.

    A file that is damaged, or a folder that cannot be written, costs time and one line on the
    console, never the evaluation.

    Args:
        folder: of the cache, local or remote; "" for none.
        name: of the set of images, part of the file name.
        key: everything that decides the features, with the number of images as "count".
        compute: gives the features.
        say: takes console lines.
    """
    if not folder:
        return compute()
    from tensorflow.io import gfile

    path = features_path(folder, name, key)
    if gfile.exists(path):
        try:
            with gfile.GFile(path, "rb") as file:
                return _unpack(file.read(), key["count"])
        except (ValueError, OSError) as error:
            say(f"metrics: {path} is damaged ({error}); computing these features again")
        except Exception as error:
            if not _is_filesystem_error(error):
                raise
            say(f"metrics: {path} cannot be read ({type(error).__name__}); computing these features again")
    features = compute()
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        gfile.makedirs(folder)
        with gfile.GFile(temporary, "wb") as file:
            file.write(_pack(features))
        gfile.rename(temporary, path, overwrite=True)
    except Exception as error:
        if not _is_filesystem_error(error):
            raise
        say(f"metrics: {path} cannot be written ({type(error).__name__}); going on without the cache")
        try:
            gfile.remove(temporary)
        except Exception as second:
            if not _is_filesystem_error(second):
                raise
    return features


def _pack(features: Features) -> bytes:
    values, logits = features
    logits = np.zeros((0, 0), np.float32) if logits is None else logits
    buffer = io.BytesIO()
    np.savez(buffer, features=values, logits=logits, checksum=np.frombuffer(_checksum(values, logits), np.uint8))
    return buffer.getvalue()


def _unpack(data: bytes, count: int) -> Features:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            values, logits, checksum = arrays["features"], arrays["logits"], arrays["checksum"]
    except Exception as error:  # of zip, zlib, NumPy, or of Python's parser, which NumPy hands headers to
        raise ValueError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if checksum.tobytes() != _checksum(values, logits):
        raise ValueError("its checksum does not fit")
    if len(values) != count:
        raise ValueError(f"it holds {len(values)} images, not {count}")
    return values, logits if logits.size else None


def _checksum(*arrays: np.ndarray) -> bytes:
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.digest()


def _is_filesystem_error(error: Exception) -> bool:
    import tensorflow as tf

    return isinstance(error, (OSError, tf.errors.OpError))
