"""What TensorFlow's profiler wrote, made so that TensorBoard's profile page finds the steps in it."""

from __future__ import annotations

import glob
import os
import socket

from tfaclgan.data import files

FOLDER = os.path.join("plugins", "profile")


def written(folder: str) -> set[str]:
    """This host's traces below a run's folder."""
    return set(glob.glob(os.path.join(glob.escape(folder), FOLDER, "*", f"{socket.gethostname()}*.xplane.pb")))


def let_markers_be_steps(path: str) -> None:
    """Takes the iteration numbers of `tf.while_loop` out of a trace.

    The profile page's steps are what has step markers (`Engine.train` sets them), except in a trace with a
    `tf.while_loop` in it, where each of the loop's iterations would be a step if it had a name: it has none, and the
    page says "no step marker observed".
    """
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    with open(path, "rb") as file:
        space.ParseFromString(file.read())
    for plane in space.planes:
        numbers = {key for key, stat in plane.stat_metadata.items() if stat.name == "iter_num"}
        for event in (event for line in plane.lines for event in line.events):
            kept = [stat for stat in event.stats if stat.metadata_id not in numbers]
            if len(kept) < len(event.stats):
                del event.stats[:]
                event.stats.extend(kept)
    files.write_atomically(path, space.SerializeToString())
