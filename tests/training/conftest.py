"""Data that the tests of the loop share."""

from __future__ import annotations

import folder_of_records
import pytest

from tfaclgan.data import records


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The manifest of a folder of 16 px records."""
    return records.load_manifest(folder_of_records.write(tmp_path_factory.mktemp("data")))
