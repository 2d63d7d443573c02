"""Shared test setup: CPU only, two logical devices, a small memory of TensorFlow's chatter."""

from __future__ import annotations

import gc
import os
import sys
import time
import weakref

import pytest

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The compilers' optimisations are most of the tests' time and none of their matter.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
sys.path.insert(0, os.path.dirname(__file__))  # the toy method


def pytest_configure(config):
    import tensorflow as tf

    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

    # Before any test saves flags: absl's flagsaver takes away those that were defined inside of it, and `define` would
    # not define them again.
    from tfaclgan import flags

    flags.define()


@pytest.fixture(autouse=True)
def _collector_works():
    """Fails a test after which Python frees no cycle any more: a collection under way that does not come back."""
    yield
    deadline = time.monotonic() + 20
    while not _cycles_are_freed():  # or one is under way in another thread
        assert time.monotonic() < deadline, (
            "Python's collector stands still in another thread (tfaclgan/data/batches.py)"
        )
        time.sleep(0.1)


class _Cycle:
    def __init__(self):
        self.itself = self


def _cycles_are_freed():
    freed = weakref.ref(_Cycle())
    gc.collect(0)
    return freed() is None
