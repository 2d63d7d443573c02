"""Iterators over a pipeline that may be dropped anywhere.

A pipeline reads its records with a Python function, which TensorFlow calls from threads of the pipeline's own. If
Python's collector happens to run in such a thread and finds the pipeline's iterator in a cycle that nobody needs any
more, freeing the iterator waits for all of its threads, this one too: it never comes back, and with a collection under
way for ever Python frees no cycle in this process again (TensorFlow 2.20 and 2.21).
"""

from __future__ import annotations

import functools
import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Any


class Batches(Iterator[Any]):
    """What an iterator yields; never frees it in one of its own threads.

    Args:
        iterator: of a `tf.data.Dataset`, plain, distributed or of numpy arrays, that nothing else holds.
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._held = [iterator]  # so that whoever empties the list has the last reference, whatever else is freed
        weakref.finalize(self, _free, self._held, _dropped()).atexit = False

    @property
    def iterator(self) -> Iterator[Any]:
        """TensorFlow's own, for a call of a `tf.function`."""
        return self._held[0]

    def __next__(self) -> Any:
        return next(self.iterator)


def _free(held: list[Iterator[Any]], dropped: queue.SimpleQueue[list[Iterator[Any]]]) -> None:
    """Called by whatever thread collects."""
    if threading.get_ident() != threading.main_thread().ident:  # which reads for no pipeline
        dropped.put(held)


@functools.cache
def _dropped() -> queue.SimpleQueue[list[Iterator[Any]]]:
    """What a thread empties that does nothing else."""
    dropped: queue.SimpleQueue[list[Iterator[Any]]] = queue.SimpleQueue()

    def free() -> None:
        while True:
            dropped.get().clear()

    threading.Thread(target=free, name="tfaclgan-iterators", daemon=True).start()
    return dropped
