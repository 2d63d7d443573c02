"""Data that the tests of the loop share."""

from __future__ import annotations

import folder_of_records
import pytest
import toy_runs
from toy import TOY

from tfaclgan.data import records
from tfaclgan.methods import base


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The manifest of a folder of 16 px records."""
    return records.load_manifest(folder_of_records.write(tmp_path_factory.mktemp("data")))


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(base._REGISTRY, "toy", TOY)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    path = tmp_path_factory.mktemp("whole")
    toy_runs.start(data, path)
    return path
