"""Weight files of the original codes, unpacked once."""

from __future__ import annotations

import pathlib
import sys
import zipfile

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture(scope="session")
def golden(tmp_path_factory):
    """Folder with the files of golden.zip (made by make_golden.py)."""
    folder = tmp_path_factory.mktemp("originals")
    with zipfile.ZipFile(pathlib.Path(__file__).parent / "golden.zip") as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def expected(golden):
    """What the original codes compute, by "RUN/NETWORK/OUTPUT"."""
    return dict(np.load(golden / "outputs.npz"))
