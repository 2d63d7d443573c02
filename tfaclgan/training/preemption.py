"""Being told to stop: SIGTERM and SIGINT ask the loop to save and leave."""

from __future__ import annotations

import signal
import threading
import types


class StopRequest:
    """Set by SIGTERM or the first SIGINT; the loop looks at it after every compiled call.

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
