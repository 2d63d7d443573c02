"""benchmarks/single_operations.py; its forms are tested in a process of their own, on JAX."""

from __future__ import annotations

import os
import subprocess
import sys

import on_jax
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPT = os.path.join(on_jax.ROOT, "benchmarks", "single_operations.py")


@pytest.mark.slow
def test_on_jax():
    on_jax.run(os.path.join(HERE, "operations_on_jax.py"))


def test_an_operation_that_is_not_there_is_one_line():
    command = [sys.executable, SCRIPT, "--only", "fourier"]
    done = subprocess.run(command, env=on_jax.environment(), capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr.strip().splitlines()[-1].startswith("single_operations.py: error: no operation's name has fourier")
    )
