"""How TensorFlow uses the cores of a CPU: each for an operation of its own where a step has branches for all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

_BRANCHES = 2  # that a training step has in most places: domains, directions, real and translated


def one_for_each_operation() -> None:
    """Has TensorFlow compute every operation on one core, and so many at a time, where there are two cores.

    Its default is two operations at a time, each shared out to both cores: four threads that wait for each other.
    Training steps are 9 to 17 % faster so (docs/engines.md). With more cores than branches some would
    be idle; there the default stays, as it does where TensorFlow has started already or was told otherwise
    (`TF_NUM_INTRAOP_THREADS` in the environment, or `tf.config.threading`).
    """
    import tensorflow as tf

    told = os.environ.get("TF_NUM_INTRAOP_THREADS") or tf.config.threading.get_intra_op_parallelism_threads()
    if not told and _cores() == _BRANCHES:
        with contextlib.suppress(RuntimeError):  # it has started
            tf.config.threading.set_intra_op_parallelism_threads(1)


def branches() -> int:
    """Parts of a batch that a function without branches of its own is to compute side by side."""
    import tensorflow as tf

    return min(_cores(), _BRANCHES) if tf.config.threading.get_intra_op_parallelism_threads() == 1 else 1


def in_branches(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call` of parts of the batch, where cores would be idle otherwise: `branches` of them, if the batch divides.

    Args:
        call: arrays [b, ...] -> an array, or a tuple, list or dict of them, each [b, ...] and of independent images.
    """
    import tensorflow as tf

    def in_parts(*arrays: Any) -> Any:
        count = branches()
        if count == 1 or any(array.shape[0] is None or array.shape[0] % count for array in arrays):
            return call(*arrays)
        parts = [call(*part) for part in zip(*(tf.split(array, count) for array in arrays), strict=True)]
        return tf.nest.map_structure(lambda *values: tf.concat(values, 0), *parts)

    return in_parts


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
