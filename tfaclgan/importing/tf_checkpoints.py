"""Reads TensorFlow 1's checkpoints (`NAME.index` and `NAME.data-00000-of-00001`): arrays and nothing else.

TensorFlow's own reader of its tables is used. Such a file holds arrays by name and no program (the graph would be in
`.meta`, which is not opened). What it declares is compared with the bytes that are there before memory is taken.
"""

from __future__ import annotations

import glob
import math
import os
import re

import numpy as np

from tfaclgan.errors import UserError, one_line

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_LIMIT = 100_000  # arrays; the largest original has some 1,000
_NUMBERS = ("float16", "bfloat16", "float32", "float64", "int32", "int64")


def find(path: str) -> str:
    """The prefix of the checkpoint that `path` means, "" if it means none.

    Args:
        path: the folder of a checkpoint, its prefix, or one of its files. Of several in a folder the one that the
            folder's `checkpoint` file names is taken, without it that of the highest step.

    Raises:
        UserError: a checkpoint without its .index or its data.
    """
    if os.path.isdir(path):
        return _newest(path)
    prefix = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path)
    if not _is_there(prefix):
        return ""
    return _checked(prefix)


def step_in_name(prefix: str) -> int:
    """The iteration in a name like UGATIT.model-1000000; 0 if there is none."""
    match = re.search(r"-(\d+)$", prefix)
    return int(match[1]) if match else 0


def _is_there(prefix: str) -> bool:
    return os.path.isfile(prefix + ".index") or bool(shards(prefix))


def shards(prefix: str) -> list[str]:
    """The checkpoint's .data files."""
    return sorted(glob.glob(glob.escape(prefix) + ".data-[0-9]*-of-[0-9]*"))


def _newest(folder: str) -> str:
    prefixes = [path.removesuffix(".index") for path in glob.glob(os.path.join(glob.escape(folder), "*.index"))]
    named = _named(folder)
    if named and _is_there(named):
        return _checked(named)
    if not prefixes:
        raise UserError(
            f"{folder}: no TensorFlow checkpoint is in it (no .index file); give the folder that holds the .index and "
            ".data files, or the path of one of them"
        )
    return _checked(max(prefixes, key=lambda prefix: (step_in_name(prefix), prefix)))


def _named(folder: str) -> str:
    """The prefix that the folder's `checkpoint` file names, in this folder whatever folder it says."""
    try:
        with open(os.path.join(folder, "checkpoint"), encoding="utf-8", errors="replace") as file:
            match = re.search(r'^model_checkpoint_path: "([^"\n]+)"', file.read(1 << 20), re.MULTILINE)
    except OSError:
        return ""
    return os.path.join(folder, os.path.basename(match[1])) if match else ""


def _checked(prefix: str) -> str:
    data = shards(prefix)
    for there, what in ((os.path.isfile(prefix + ".index"), "index"), (data, "data-00000-of-00001")):
        if not there:
            raise UserError(f"{prefix}.{what}: is not there, and a checkpoint needs it; get the folder again, whole")
    count = int(data[0].rsplit("-", 1)[1])
    if len(data) != count:
        raise UserError(f"{prefix}: {len(data)} of its {count} .data files are there; get the folder again, whole")
    return prefix


def read(prefix: str) -> dict[str, np.ndarray]:
    """All arrays of the checkpoint, numbers as float32 or int64.

    Args:
        prefix: from `find`.

    Raises:
        UserError: cut off or damaged, not of TensorFlow 1, or it holds something that is no number.
    """
    from tfaclgan import quiet

    quiet.import_tensorflow()
    import tensorflow as tf

    with quiet.held_stderr():
        try:
            reader = tf.train.load_checkpoint(prefix)
            shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
            _check(prefix, shapes, types)
            return {name: _known(reader.get_tensor(name)) for name in sorted(shapes)}
        except (tf.errors.OpError, ValueError, RuntimeError, TypeError, MemoryError, SystemError) as error:
            raise UserError(
                f"{prefix}: cut off or damaged ({one_line(error)[:200]}); get the folder again, whole"
            ) from error


def _check(prefix: str, shapes: dict, types: dict) -> None:
    if _OBJECT_GRAPH in shapes:
        raise UserError(
            f"{prefix}: is a checkpoint of TensorFlow 2, whose names are its own; give one that the original "
            "TensorFlow 1 code saved"
        )
    strange = sorted(name for name, kind in types.items() if kind.name not in _NUMBERS)
    if strange:
        raise UserError(
            f"{prefix}: refused: {strange[0][:80]} in it holds no numbers but {types[strange[0]].name}; give a "
            "checkpoint as the original code saves it"
        )
    declared = sum(math.prod(shape) * types[name].size for name, shape in shapes.items())
    there = sum(os.path.getsize(path) for path in shards(prefix))
    if declared > there or len(shapes) > _LIMIT:
        raise UserError(
            f"{prefix}: cut off or damaged (its index declares {declared:,} bytes, its data have {there:,}); get the "
            "folder again, whole"
        )


def _known(value: np.ndarray) -> np.ndarray:
    return np.asarray(value, np.int64 if value.dtype.kind == "i" else np.float32)
