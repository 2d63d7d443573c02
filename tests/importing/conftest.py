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
    """Folder with the files of golden.zip (made by make_golden.py); in `tf1` golden_tf1.zip's (make_tf1_golden.py)."""
    folder = tmp_path_factory.mktemp("originals")
    for name, place in (("golden.zip", folder), ("golden_tf1.zip", folder / "tf1")):
        with zipfile.ZipFile(pathlib.Path(__file__).parent / name) as archive:
            archive.extractall(place)
    return folder


@pytest.fixture(scope="session")
def expected(golden):
    """What the original codes compute, by "RUN/NETWORK/OUTPUT"."""
    return dict(np.load(golden / "outputs.npz")) | dict(np.load(golden / "tf1" / "outputs.npz"))
