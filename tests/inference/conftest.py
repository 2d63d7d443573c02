"""The tiny runs of `tiny_runs.py` as fixtures."""

from __future__ import annotations

import pytest
from tiny_runs import negative_run, tiny_run


@pytest.fixture(scope="session")
def make_tiny_run():
    return tiny_run


@pytest.fixture(scope="session")
def make_negative_run():
    return negative_run


@pytest.fixture(scope="session")
def acl_gan_run():
    return tiny_run("acl_gan")


@pytest.fixture(scope="session")
def munit_run():
    return tiny_run("munit")
