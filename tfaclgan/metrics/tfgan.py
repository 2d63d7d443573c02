"""TF-GAN's metric code, loaded without the rest of TF-GAN.

`import tensorflow_gan` fails on every TensorFlow from 2.16 on (it wants `tensorflow.estimator`), and
its package `tensorflow_probability` wants `tf_keras`, which brings a second TensorFlow. The file
`tensorflow_gan/python/eval/classifier_metrics.py` needs neither: beside TensorFlow it uses one
function, `tfp.stats.covariance`. So it is imported here with empty parent packages and with a
stand-in for `tensorflow_probability` that has just that function. `sys.modules` is put back as it
was afterwards, so a later import of either package by anyone else is not affected.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.metadata
import os
import sys
import threading
import types
from typing import Any

from tfaclgan.errors import UserError

INSTALL = 'pip install "tensorflow-gan==2.1.0" "tensorflow-hub>=0.14,<0.16"'
_PARENTS = {"tensorflow_gan": "", "tensorflow_gan.python": "python", "tensorflow_gan.python.eval": "python/eval"}
_MODULE = "tensorflow_gan.python.eval.classifier_metrics"
_lock = threading.Lock()


def covariance(x: Any) -> Any:
    """`tfp.stats.covariance(x)` for the one way TF-GAN calls it.

    Args:
        x: float tensor [n, d], one sample a row.

    Returns:
        [d, d]: the covariance of the columns with divisor n.
    """
    import tensorflow as tf

    centred = x - tf.reduce_mean(x, axis=0, keepdims=True)
    return tf.matmul(centred, centred, transpose_a=True) / tf.cast(tf.shape(x)[0], x.dtype)


def classifier_metrics() -> types.ModuleType:
    """The module `tensorflow_gan.python.eval.classifier_metrics`, loaded once.

    Raises:
        UserError: TF-GAN is not installed, or its files are damaged.
    """
    with _lock:
        return _load()


def version() -> str:
    """The installed version of tensorflow-gan, or "unknown"."""
    try:
        return importlib.metadata.version("tensorflow-gan")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@functools.cache
def _load() -> types.ModuleType:
    # PathFinder looks on the disk only: importlib.util.find_spec trips over modules without a spec.
    spec = importlib.machinery.PathFinder.find_spec("tensorflow_gan")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"FID, KID and IS need TF-GAN, which is not installed; run: {INSTALL}")
    root = next(iter(spec.submodule_search_locations))
    kept = {name: module for name, module in sys.modules.items() if _is_ours(name)}
    for name in kept:
        del sys.modules[name]
    try:
        for name, folder in _PARENTS.items():
            parent = types.ModuleType(name)
            parent.__path__ = [os.path.join(root, folder)]
            sys.modules[name] = parent
        probability: Any = types.ModuleType("tensorflow_probability")
        probability.stats = types.SimpleNamespace(covariance=covariance)
        sys.modules["tensorflow_probability"] = probability
        return importlib.import_module(_MODULE)
    except ImportError as error:
        raise UserError(f"TF-GAN's metric code in {root} cannot be imported ({error}); run: {INSTALL}") from error
    finally:
        for name in [name for name in sys.modules if _is_ours(name)]:
            del sys.modules[name]
        sys.modules.update(kept)


def _is_ours(name: str) -> bool:
    return name == "tensorflow_gan" or name.startswith("tensorflow_gan.") or name == "tensorflow_probability"
