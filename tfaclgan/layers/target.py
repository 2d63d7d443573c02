"""What a step is compiled for: some layers are computed in another way on some devices."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras

_LARGE = 64 * 64 * 64  # values of a sample
_compiled_for: list[str] = []


@contextlib.contextmanager
def compiling_for(kind: str) -> Iterator[None]:
    """What is traced inside is for devices of `kind`, which need not be there: "cpu", "gpu", "tpu", or "xla cpu".

    With TensorFlow "cpu" says that its own kernels compute, and "xla cpu" that XLA does.

    The engines trace their steps inside of it, for the devices they run on; the outermost one holds.
    """
    _compiled_for.append(_compiled_for[0] if _compiled_for else kind)
    try:
        yield
    finally:
        _compiled_for.pop()


def on_jax_gpu() -> bool:
    """Whether what is traced now is for a GPU, on JAX: inside `compiling_for` what that says, else JAX's own device."""
    if keras.backend.backend() != "jax":
        return False
    if _compiled_for:
        return _compiled_for[-1] == "gpu"
    return _jax_device() == "gpu"


def on_tpu() -> bool:
    """Whether what is traced now is for a TPU: inside `compiling_for` what that says, else JAX's own device."""
    if _compiled_for:
        return _compiled_for[-1] == "tpu"
    return keras.backend.backend() == "jax" and _jax_device() == "tpu"


def on_tensorflow_cpu() -> bool | None:
    """Whether what is traced now is a training step for TensorFlow's own CPU kernels; None outside `compiling_for`.

    There, a network may be traced for export, to formats that do not have all of TensorFlow's operations.
    """
    if not _compiled_for:
        return None
    return keras.backend.backend() == "tensorflow" and _compiled_for[-1] == "cpu"


def has_forms(images: Any) -> bool:
    """Whether layers/tensorflow_cpu/ may compute with `images` here: a step for TensorFlow's CPU, not in float64."""
    return bool(on_tensorflow_cpu()) and keras.backend.standardize_dtype(images.dtype) in ("float32", "bfloat16")


def compiles_passes(images: Any) -> bool:
    """Whether XLA is to compile what only passes over `images`, [b, h, w, c], here: norms, borders.

    In a training step for TensorFlow's CPU, for maps large enough to be quicker (docs/engines.md).
    """
    return has_forms(images) and None not in images.shape and math.prod(images.shape[1:]) >= _LARGE


def _jax_device() -> str:
    import jax

    return jax.default_backend()
