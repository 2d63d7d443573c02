"""How a phase's gradient is taken and applied: one engine for each Keras backend that trains.

Imports nothing heavy: an engine is chosen before Keras is imported, which reads its backend then and never again.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types

from tfaclgan.errors import UserError

ENGINES = ("tensorflow", "jax")


def choose(name: str, *, deterministic: bool = False) -> None:
    """Makes `name` the backend of Keras in this process; `deterministic`: JAX takes only such kernels on a GPU.

    Raises:
        UserError: JAX is not installed, or Keras already runs on another backend.
    """
    if name == "jax" and importlib.util.find_spec("jax") is None:
        raise UserError(
            '--engine=jax: JAX is not installed; run `pip install ".[jax]"` in the repository (Python 3.11 or newer; '
            "for GPUs see docs/engines.md), or leave --engine out"
        )
    keras = sys.modules.get("keras")
    running = keras.backend.backend() if keras is not None and hasattr(keras, "backend") else name
    if running != name:
        raise UserError(f"--engine={name}: Keras already runs on {running} in this process; start a new one")
    os.environ["KERAS_BACKEND"] = name
    if name == "jax" and deterministic:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()


def current() -> types.ModuleType:
    """The engine of Keras' backend: a module with `Engine` and `make_hardware`.

    Raises:
        UserError: there is none for this backend.
    """
    import keras

    name = keras.backend.backend()
    if name not in ENGINES:
        raise UserError(f"Keras' backend {name}: no engine; set KERAS_BACKEND to one of {', '.join(ENGINES)}")
    return importlib.import_module(f"{__name__}.{name}")
