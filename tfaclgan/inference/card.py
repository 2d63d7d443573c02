"""The card beside weights that are given away: what they are, what they were trained on, how they were judged."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence

from tfaclgan.data import files
from tfaclgan.training.rundir import Run

NAME = "README.md"


def text(run: Run, run_dir: str, *, about: str, use: Sequence[str], sections: Sequence[str] = ()) -> str:
    """The card as Markdown.

    Args:
        run: what the networks are.
        run_dir: where its environment.json and evaluations lie, or do not.
        about: first paragraph, after which the paper is named.
        use: lines of code that show how to use it.
        sections: further lines, put before the training.
    """
    height, width, channels = run.image_shape
    data = os.path.basename(str(run.flags.get("data_dir", "")).rstrip("/"))
    lines = [
        f"# {run.method.title}, {height}x{width}x{channels}",
        "",
        f"{about}; paper: {run.method.paper}.",
        "",
        *(f"    {line}".rstrip() for line in use),
        "",
        *sections,
        "## Training",
        "",
        f"- data: {data or 'unknown'}, SHA-256 of its dataset.json {_fingerprint(run_dir)}",
        *(
            f"- `--{name}={value}`"
            for name, value in sorted(run.flags.items())
            if name not in ("data_dir", "load_size")
        ),
        *(f"- `--{run.method.name}.{name}={value}`" for name, value in dataclasses.asdict(run.config).items()),
        "",
        "## Judged",
        "",
        *(_judgements(run_dir) or ["Not judged: run `--mode=evaluate` before saving to have its figures here."]),
        "",
        "## Licence",
        "",
        "The code that made this is Apache-2.0. Whether these weights may be used also depends on the pictures "
        "they were trained on: state their licence here before giving the folder away.",
        "",
    ]
    return "\n".join(lines)


def _fingerprint(run_dir: str) -> str:
    try:
        content = json.loads(files.read_bytes(os.path.join(run_dir, "environment.json")))
        return content["starts"][-1]["data_fingerprint"]
    except (OSError, ValueError, KeyError, IndexError):
        return "unknown"


def _judgements(run_dir: str) -> list[str]:
    """Each evaluation's metrics with the protocol they were taken by."""
    folder = os.path.join(run_dir, "evaluations")
    lines = []
    for name in files.names_in(folder):
        try:
            result = json.loads(files.read_bytes(os.path.join(folder, name, "metrics.json")))
            metrics = ", ".join(f"{key} {value:.5g}" for key, value in result["metrics"].items() if value is not None)
            lines += [f"- {name}: {metrics}", f"  - protocol: {json.dumps(result['protocol'], sort_keys=True)}"]
        except (OSError, ValueError, KeyError):
            continue
    return lines
