"""Being told to stop: signals and the cloud's notices ask the loop to save and leave.

SIGTERM and SIGINT come to the process. Google Cloud takes spot machines away with 30 seconds' notice and others for
maintenance with a minute to an hour's; both are told by the metadata server, which each virtual machine can ask:

    instance/preempted          TRUE once the machine is being taken away
    instance/maintenance-event  NONE, MIGRATE_ON_HOST_MAINTENANCE (it moves and runs on), TERMINATE_ON_HOST_MAINTENANCE
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import threading
import types
import urllib.error
import urllib.request
from collections.abc import Iterator

from tfaclgan.errors import warn

# The variable that Google's own libraries read for another address.
_HOST_VARIABLE = "GCE_METADATA_HOST"
_HOST = "metadata.google.internal"
_KEYS = "computeMetadata/v1/instance"
_TIMEOUT_SECONDS = 2.0


class StopRequest:
    """Set by SIGTERM, the first SIGINT or a notice; the loop looks at it after every compiled call.

    Use as a context manager; handlers are put back on exit. A second SIGINT interrupts at once.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        if self.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name


@contextlib.contextmanager
def cloud_notices(stop: StopRequest, every_seconds: float = 5.0) -> Iterator[None]:
    """While the block runs, a thread sets `stop` when the metadata server tells of an end of this machine.

    A machine without a metadata server is left alone after the first question, with a warning. Maintenance that was
    already told of when the block began does not stop it again: a supervisor starts the command anew within seconds,
    and the machine may have most of an hour left.
    """
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(stop, over, every_seconds), name="cloud notices", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(2 * _TIMEOUT_SECONDS + 1)


def _watch(stop: StopRequest, over: threading.Event, every_seconds: float) -> None:
    host = os.environ.get(_HOST_VARIABLE, _HOST)
    try:
        leaving = _leaving_for_maintenance(host)
    except OSError as error:
        warn(f"{host} does not answer ({error}), so only signals stop this run; --preemption_notice=none asks nobody")
        return
    if leaving:
        warn("this machine is about to be stopped for maintenance; training until then")
    while True:
        try:
            if _ask(host, "preempted") == "TRUE":
                stop.reason = stop.reason or "this machine is being taken away (preempted)"
                return
            if not leaving and _leaving_for_maintenance(host):
                stop.reason = stop.reason or "this machine is about to be stopped for maintenance"
                return
        except OSError:
            pass  # a server that does not answer once is asked again
        if over.wait(every_seconds):
            return


def _leaving_for_maintenance(host: str) -> bool:
    return _ask(host, "maintenance-event") == "TERMINATE_ON_HOST_MAINTENANCE"


def _ask(host: str, key: str) -> str:
    """A key's value; "" for one that this machine does not have. OSError without an answer."""
    request = urllib.request.Request(f"http://{host}/{_KEYS}/{key}", headers={"Metadata-Flavor": "Google"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy: it is this machine's
    try:
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
            return answer.read(256).decode("ascii", "replace").strip()
    except urllib.error.HTTPError:
        return ""
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
