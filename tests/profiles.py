"""Reads what `--profile_steps` left, without the profiler's own reader."""

from __future__ import annotations

import pathlib
import re

from tensorflow.tsl.profiler.protobuf import xplane_pb2


def planes(run_dir):
    """The planes of a run's one trace, {name: plane}."""
    (path,) = pathlib.Path(run_dir, "plugins", "profile").glob("*/*.xplane.pb")
    space = xplane_pb2.XSpace()
    space.ParseFromString(path.read_bytes())
    return {plane.name: plane for plane in space.planes}


def read(run_dir):
    """[(name, {statistic: value})] of what the host did, in order."""
    plane = planes(run_dir)["/host:CPU"]
    events = [(line.timestamp_ns * 1000 + e.offset_ps, e) for line in plane.lines for e in line.events]
    return [
        (plane.event_metadata[event.metadata_id].name, {name: value for name, value in _statistics(plane, event)})
        for _, event in sorted(events, key=lambda pair: pair[0])
    ]


def _statistics(plane, event):
    for stat in event.stats:
        value = getattr(stat, stat.WhichOneof("value"))
        if stat.WhichOneof("value") == "ref_value":
            value = plane.stat_metadata[value].name
        yield plane.stat_metadata[stat.metadata_id].name, value


def outside(operations, phases):
    """Kinds of the operations ("a/name:Kind") that have no phase in their name; of convolutions all are "Conv2D"."""
    named = re.compile(rf"/({'|'.join(phases)})(_\d+)?/")
    kinds = {name.rpartition(":")[2] for name in operations if not named.search(name)}
    return {"Conv2D" if "Conv2D" in kind else kind for kind in kinds}


def instructions(run_dir):
    """{(program's number, instruction): (its kind, the name it was given in Python)} of what XLA compiled."""
    from tensorflow.compiler.xla.service import hlo_pb2

    plane, found = planes(run_dir)["/host:metadata"], {}
    for entry in plane.event_metadata.values():
        program = int(re.search(r"\((\d+)\)$", entry.name)[1])  # names repeat
        for stat in entry.stats:
            if plane.stat_metadata[stat.metadata_id].name == "Hlo Proto":
                module = hlo_pb2.HloProto.FromString(stat.bytes_value).hlo_module
                found.update(
                    {
                        (program, instruction.name): (instruction.opcode, instruction.metadata.op_name)
                        for computation in module.computations
                        for instruction in computation.instructions
                    }
                )
    return found
