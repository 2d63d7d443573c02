"""The cloud's notices, from a metadata server of our own on loopback."""

from __future__ import annotations

import threading
import time

import pytest
from metadata_server import serving

from tfaclgan.training.preemption import StopRequest, cloud_notices


@pytest.fixture
def metadata(monkeypatch):
    with serving(monkeypatch) as server:
        yield server


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@pytest.mark.parametrize(
    "key, value, reason",
    [
        ("preempted", "TRUE", "this machine is being taken away (preempted)"),
        ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", "this machine is about to be stopped for maintenance"),
    ],
)
def test_a_notice_stops_the_run(metadata, key, value, reason):
    stop = StopRequest()
    with cloud_notices(stop, every_seconds=0.01):
        assert wait_for(lambda: metadata.asked > 4)
        assert stop.reason is None
        metadata.values[key] = value
        assert wait_for(lambda: stop.reason == reason)
    assert "cloud notices" not in [thread.name for thread in threading.enumerate()]


def test_a_machine_that_moves_or_knows_no_preemption_trains_on(metadata):
    stop = StopRequest()
    metadata.values["maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"
    del metadata.values["preempted"]
    with cloud_notices(stop, every_seconds=0.01):
        assert wait_for(lambda: metadata.asked > 6)
    assert stop.reason is None


def test_maintenance_told_of_before_the_start_does_not_stop_every_new_start(metadata, capsys):
    stop = StopRequest()
    metadata.values["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
    with cloud_notices(stop, every_seconds=0.01):
        assert wait_for(lambda: metadata.asked > 6)
        assert stop.reason is None
        metadata.values["preempted"] = "TRUE"
        assert wait_for(lambda: stop.reason)
    assert "training until then" in capsys.readouterr().err


def test_without_a_server_only_signals_count(metadata, capsys):
    metadata.close()
    stop = StopRequest()
    with cloud_notices(stop, every_seconds=0.01):
        assert wait_for(lambda: "cloud notices" not in [thread.name for thread in threading.enumerate()])
    assert stop.reason is None
    assert "does not answer" in capsys.readouterr().err
