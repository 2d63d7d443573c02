"""Files of tests that need a process of their own, run by a test of another file."""

from __future__ import annotations

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run(file, *arguments, env=None):
    """Runs a file of tests, slow ones too, in the repository's root; fails with its output, which it returns.

    env: the process's whole environment; None: this one's.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "", "-p", "no:cacheprovider", file, *arguments]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
