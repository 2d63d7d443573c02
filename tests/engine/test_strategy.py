"""What `strategy.make` does to the process it is called in."""

from __future__ import annotations

import os
import subprocess
import sys

ROUNDS = """
import resource
from tfaclgan.engine import strategy
import tensorflow as tf
strategy.make("cpu")
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tf.reduce_sum((tf.ones([2**23]) + 1.0) * 2.0).numpy()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_of_freed_arrays_is_kept_on_cpus():
    """Three arrays of 32 MiB are 24,576 pages, which the system zeroes each time unless they are kept."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_CPU_")}
    found = subprocess.run([sys.executable, "-c", ROUNDS], env=environment, check=True, capture_output=True, text=True)
    first, *later = [int(line) for line in found.stdout.split()]
    assert first > 10_000
    assert max(later) < 500
