"""What a step is compiled for: some layers are computed in another way on a TPU, and on a GPU with JAX."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

_compiled_for: list[str] = []


@contextlib.contextmanager
def compiling_for(kind: str) -> Iterator[None]:
    """What is traced inside is for devices of `kind` ("cpu", "gpu" or "tpu"), which need not be there.

    The engines trace their steps inside of it. TensorFlow's says so for TPUs only.
    """
    _compiled_for.append(kind)
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


def _jax_device() -> str:
    import jax

    return jax.default_backend()
