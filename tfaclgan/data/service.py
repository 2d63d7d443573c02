"""Batches made by other hosts: a `tf.data` service decodes and augments, in the order that one host would have.

Workers take the positions of a run in any order (dynamic sharding: each position goes to one of them). What a batch
holds depends on its position alone, so this host puts them back in order, and makes those itself that a lost worker
took with it: training sees the same batches as without a service, at whatever position it begins.
"""

from __future__ import annotations

import queue
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfaclgan.errors import UserError, one_line, warn

POSITION = "position"  # of a batch, counted from step 0
_CONNECT_SECS = 10.0
_PATIENCE_SECS = 30.0  # without any batch, after which this host makes them itself
_MOST_WAITING = 32  # batches that came too early, after which the one that is missed is made here
_GONE = (tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.CancelledError, tf.errors.NotFoundError)

Batch = dict[str, Any]


def check(address: str, *, name: str = "--data_service") -> tuple[str, int]:
    """Host and port of a dispatcher that answers.

    Raises:
        UserError: no address, or nobody there.
    """
    host, _, port = address.removeprefix("grpc://").rpartition(":")
    if not host or not port.isdigit() or "/" in host or not 0 < int(port) < 65536:
        raise UserError(f"{name}={address}: not grpc://HOST:PORT; write for example grpc://10.0.0.2:5050")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECS).close()
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise UserError(
            f"{name}={address}: nobody answers there ({reason}); start one with python data_tools/data_service.py "
            f"--role=dispatcher --port={port}"
        ) from error
    return host, int(port)


def distributed(
    address: str, first: int, positions: tf.data.Dataset, made_here: Callable[[int], Batch]
) -> tf.data.Dataset:
    """The batches of `positions`, made by the workers of a service and put in order.

    Args:
        address: of the dispatcher, grpc://HOST:PORT.
        first: position of the first batch.
        positions: endless; elements have a scalar int64 `POSITION` and any other tensors, and begin at `first`.
        made_here: the batch of a position, arrays by name.

    Returns:
        The same elements without `POSITION`.

    Raises:
        UserError: nobody answers at `address`.
    """
    host, port = check(address)
    policy = tf.data.experimental.service.ShardingPolicy.DYNAMIC
    remote = positions.apply(
        tf.data.experimental.service.distribute(policy, f"grpc://{host}:{port}", max_outstanding_requests=16)
    )
    signature = {name: spec for name, spec in positions.element_spec.items() if name != POSITION}
    return tf.data.Dataset.from_generator(
        lambda: _in_order(remote, first, made_here, address), output_signature=signature
    )


def _in_order(
    remote: tf.data.Dataset, position: int, made_here: Callable[[int], Batch], address: str
) -> Iterator[Batch]:
    arrivals: queue.Queue[tuple[int, Batch] | Exception] = queue.Queue(1)
    stopped = threading.Event()
    threading.Thread(target=_receive, args=(remote, arrivals, stopped), name="tfaclgan-service", daemon=True).start()
    waiting: dict[int, Batch] = {}
    silent = False
    try:
        while True:
            while position not in waiting:
                arrived = _next(arrivals, 0 if silent else _PATIENCE_SECS)
                if isinstance(arrived, Exception) and not isinstance(arrived, _GONE):
                    raise UserError(f"--data_service={address}: a worker failed: {_reason(arrived)}") from arrived
                if not isinstance(arrived, tuple):
                    if not silent:
                        warn(f"no batches from --data_service={address}; this host makes them itself until some come")
                    silent = True
                    waiting[position] = made_here(position)
                    continue
                silent = False
                if arrived[0] >= position:  # else made here in the meantime
                    waiting[arrived[0]] = arrived[1]
                if len(waiting) > _MOST_WAITING and position not in waiting:
                    waiting[position] = made_here(position)  # a worker has died with it
            yield waiting.pop(position)
            position += 1
    finally:
        stopped.set()


def _reason(error: Exception) -> str:
    """An error of TensorFlow's without the names of its operations."""
    return re.sub(r"\{\{[^}]*\}\}", "", str(error).splitlines()[0]).split("[[")[0].strip()


def _next(arrivals: queue.Queue, seconds: float) -> tuple[int, Batch] | Exception | None:
    try:
        return arrivals.get(timeout=seconds) if seconds else arrivals.get_nowait()
    except queue.Empty:
        return None


def _receive(remote: tf.data.Dataset, arrivals: queue.Queue, stopped: threading.Event) -> None:
    """Hands on what comes, until nobody wants it or nothing more will come."""

    def hand_on(thing: Any) -> None:
        while not stopped.is_set():
            try:
                return arrivals.put(thing, timeout=1)
            except queue.Full:
                continue

    try:
        for batch in remote.as_numpy_iterator():
            hand_on((int(batch.pop(POSITION)), batch))
            if stopped.is_set():
                return
    except tf.errors.OpError as error:
        hand_on(error)


def positions_from(first: int) -> tf.data.Dataset:
    """first, first + 1, ...: what the dispatcher deals out."""
    return tf.data.Dataset.range(first, np.iinfo(np.int64).max)
