"""TensorBoard's event files of a run: nothing twice, nothing lost, however often the run is interrupted.

    RUN/events.out.tfevents.N.tfaclgan                     scalars, one file a start; N grows with each start
    RUN/events/samples/events.out.tfevents.STEP.tfaclgan   sample sheets, one file a sampled step
    RUN/events/histograms/events.out.tfevents.STEP.tfaclgan

TensorBoard reads the files of a folder in the order of their names and does not come back to one it has left, so the
names must grow even where the clock jumps back, and what is removed after a while (`keep_newest`) has its own folders.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tfaclgan.data import files
from tfaclgan.training import samples

_NAME = re.compile(r"^events\.out\.tfevents\.(\d+)\.")
_VERSION = "brain.Event:2"
_BINS = 30  # of a histogram, as TensorBoard's own


class EventFile:
    """One event file that grows; it is made with the first event, with all folders above it.

    Args:
        path: of the file, one that is not there yet.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._writer: Any = None

    def add(self, step: int, summary: Any) -> None:
        """Adds a summary; whoever reads the file sees it once this returns."""
        from tensorboard.compat.proto import event_pb2

        if self._writer is None:
            self._open()
        self._write(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def sync(self) -> None:
        """Waits until all that was added is on the disk."""
        if self._writer is not None:
            files.flush(self.path)
            files.flush(os.path.dirname(self.path))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> None:
        import tensorflow as tf
        from tensorboard.compat.proto import event_pb2

        files.make_folder(os.path.dirname(self.path))
        self._writer = tf.io.TFRecordWriter(self.path)
        self._write(event_pb2.Event(wall_time=time.time(), file_version=_VERSION))

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())


def next_file(folder: str) -> EventFile:
    """The event file of a new start: its name comes after all that are there."""
    numbers = [int(match[1]) for match in map(_NAME.match, _names(folder)) if match]
    number = max([int(time.time()), *(number + 1 for number in numbers)])
    return EventFile(os.path.join(folder, f"events.out.tfevents.{number:010d}.tfaclgan"))


def write_step(folder: str, step: int, summary: Any) -> None:
    """Writes the event file of one step, whole and on the disk; an earlier one of that step goes."""
    path = os.path.join(folder, _step_name(step))
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
    file = EventFile(path)
    file.add(step, summary)
    file.close()
    files.flush(path)
    files.flush(folder)


def keep_newest(folder: str, count: int) -> None:
    """Removes all but the files of the newest `count` steps that `write_step` wrote; 0: none."""
    steps = sorted(int(match[1]) for match in map(_NAME.match, _names(folder)) if match)
    for step in steps[:-count] if count else ():
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder, _step_name(step)))


def drop_after(folder: str, step: int, prefix: str = "") -> None:
    """Removes events of later steps than `step`, and what a kill cut short, from a folder's event files.

    With `prefix` those of `step` itself go too whose first name begins with it. What stays is on the disk then.
    """
    for name in _names(folder):
        path = os.path.join(folder, name)
        kept, whole = [], True
        for data, event_step, name in _read(path):
            if event_step is None or event_step > step or (prefix and event_step == step and name.startswith(prefix)):
                whole = False
            else:
                kept.append(data)
        if whole:
            files.flush(path)
        else:
            _rewrite(path, kept)
    if os.path.isdir(folder):
        files.flush(folder)


def scalars(values: Mapping[str, float]) -> Any:
    """A summary of numbers."""
    from tensorboard.plugins.scalar import summary_v2

    summary = _summary()
    for name, value in values.items():
        summary.MergeFrom(summary_v2.scalar_pb(name, value))
    return summary


def images(pictures: Mapping[str, np.ndarray]) -> Any:
    """A summary of pictures uint8 [h, w, 3]."""
    from tensorboard.compat.proto import tensor_pb2, types_pb2
    from tensorboard.plugins.image import metadata

    summary = _summary()
    for name, picture in pictures.items():
        height, width = picture.shape[:2]
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING)
        tensor.tensor_shape.dim.add(size=3)
        tensor.string_val.extend([str(width).encode(), str(height).encode(), samples.png(picture)])
        about = metadata.create_summary_metadata(display_name=None, description=None)
        summary.value.add(tag=name, tensor=tensor, metadata=about)
    return summary


def histograms(arrays: Mapping[str, np.ndarray]) -> Any:
    """A summary of arrays: for each, bins [from, to, count] over its finite numbers."""
    from tensorboard.plugins.histogram import metadata
    from tensorboard.util import tensor_util

    summary = _summary()
    for name, array in arrays.items():
        values = np.asarray(array, np.float64).ravel()
        counts, edges = np.histogram(values[np.isfinite(values)], _BINS)
        summary.value.add(
            tag=name,
            tensor=tensor_util.make_tensor_proto(np.stack([edges[:-1], edges[1:], counts], 1)),
            metadata=metadata.create_summary_metadata(display_name=None, description=None),
        )
    return summary


def _summary() -> Any:
    from tensorboard.compat.proto import summary_pb2

    return summary_pb2.Summary()


def _names(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    return sorted(name for name in os.listdir(folder) if "tfevents" in name and not name.endswith(".partial"))


def _step_name(step: int) -> str:
    return f"events.out.tfevents.{step:010d}.tfaclgan"


def _read(path: str) -> Iterator[tuple[bytes, int | None, str]]:
    """(event, its step, its first name) of a file; a step of None for one that is not whole, which ends it."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto import event_pb2

    records = iter(tf.data.TFRecordDataset(path).as_numpy_iterator())
    while True:
        try:
            data = next(records)
            event = event_pb2.Event.FromString(data)
        except StopIteration:
            return
        except (tf.errors.DataLossError, DecodeError):
            yield b"", None, ""
            return
        yield data, event.step, event.summary.value[0].tag if event.summary.value else ""


def _rewrite(path: str, events: list[bytes]) -> None:
    import tensorflow as tf

    if len(events) < 2:  # nothing but the format's version
        os.remove(path)
        return
    partial = f"{path}.partial"
    with tf.io.TFRecordWriter(partial) as writer:
        for event in events:
            writer.write(event)
    files.flush(partial)
    os.replace(partial, path)
    files.flush(os.path.dirname(path))
