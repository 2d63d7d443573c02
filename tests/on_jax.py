"""What tests that run on Keras' JAX backend share, each file in a process of its own (see `run`)."""

from __future__ import annotations

import os
import tempfile

import own_process
import pytest
from own_process import ROOT

DEVICES = 2
# The compiler's optimisations are most of these tests' time and none of their matter.
FLAGS = (
    f"--xla_force_host_platform_device_count={DEVICES} --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
)


def environment():
    """Of a process with Keras' JAX backend and two CPU devices."""
    return {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": FLAGS,
        "PYTHONPATH": os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")]),
    }


def run(file, *arguments):
    """Runs a file of tests in a process of its own; fails with its output. Skips where JAX is not to be had."""
    pytest.importorskip("jax", reason="JAX needs Python 3.11")
    return own_process.run(file, *arguments, env=environment())


def reuse_compiled():
    """Equal programs of one process are compiled once."""
    import jax

    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(prefix="compiled-"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def hardware(replicas):
    """The first CPU devices of this process."""
    import jax

    from tfaclgan.engine.jax_hardware import Hardware

    return Hardware(tuple(jax.devices()[:replicas]))
