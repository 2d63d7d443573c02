"""A run directory: what it holds, how a second start is compared with the first, how it is loaded.

run.json           method, config, image shape, data folder: what the networks are
run.flags          a flagfile: `python -m tfaclgan.main --flagfile=RUN/run.flags` goes on with the run
environment.json   versions, commit, devices and data fingerprint of every start
checkpoints/ best/ metrics.jsonl samples/ evaluations/ events/ events.out.tfevents.* projector/
.lock              held by the process that trains here
"""

from __future__ import annotations

import dataclasses
import fcntl
import glob
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

from tfaclgan.data import files, remote
from tfaclgan.data.files import parse_json
from tfaclgan.errors import UserError
from tfaclgan.methods import base

_RUN, _FLAGS, _ENVIRONMENT = "run.json", "run.flags", "environment.json"
LOCK = ".lock"
_TENSORFLOWS = ("tensorflow", "tensorflow-cpu", "tensorflow-tpu")
_PACKAGES = ("tfaclgan", *_TENSORFLOWS, "keras", "jax", "jaxlib", "numpy", "tensorflow-gan")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run directory says about its networks.

    image_shape: height, width, channels of a training image.
    flags: settings of the last start that do not change the networks, by flag name.
    remote: where the run directory is if `path` is only this process's working copy of it; see `mirror`.
    """

    path: str
    method: base.Method
    config: Any
    image_shape: base.ImageShape
    flags: dict[str, Any]
    remote: str = ""

    def folder(self, name: str) -> str:
        return os.path.join(self.path, name)

    @property
    def name(self) -> str:
        """The run directory as the user knows it."""
        return self.remote or self.path

    def shown(self, path: str) -> str:
        """A path in the run's folder as the user knows it."""
        return self.name + path.removeprefix(self.path)


def read_run(run_dir: str) -> Run:
    """The run in `run_dir`, local or remote; UserError if there is none or it is another program's."""
    path = os.path.join(run_dir, _RUN)
    if not (files.is_there(run_dir) if remote.is_remote(run_dir) else os.path.isdir(run_dir)):
        raise UserError(
            f"--run_dir={run_dir}: no such folder; name the folder of a trained run, or train one with --mode=train"
        )
    if not files.is_there(path):
        raise UserError(
            f"{path}: not found, so this is not a run directory; name the folder of a run, "
            "or train one with --mode=train"
        )
    try:
        content = parse_json(files.read_bytes(path).decode())
        method = base.get(content["method"])
        known = {field.name for field in dataclasses.fields(method.config)}
        unknown = sorted(set(content["config"]) - known)
        if unknown:
            raise UserError(
                f"{path}: made by another version: {method.name} has no option {', '.join(unknown)}; use that version"
            )
        config = base.config_of(method, content["config"])
        return Run(run_dir, method, config, shape_of(content["image_shape"]), dict(content["flags"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); restore it from a copy, or use another --run_dir"
        ) from error


def shape_of(value: Any) -> base.ImageShape:
    """A file's image shape; ValueError if it is none."""
    if not isinstance(value, list) or len(value) != 3 or not all(type(n) is int and 0 < n < 2**20 for n in value):
        raise ValueError(f"image shape {str(value)[:80]}")
    return tuple(value)


def compare(run: Run) -> list[str]:
    """Compares `run` with what is in its folder, local or remote, if there is anything.

    Returns:
        Lines that name the settings which differ from the last start, for the console.

    Raises:
        UserError: the folder holds another method, other networks, or something that is no run.
    """
    if files.is_there(os.path.join(run.path, _RUN)):
        return _compare(read_run(run.path), run)
    if any(not _is_ours(name) for name in files.names_in(run.path)):
        raise UserError(f"--run_dir={run.name}: the folder is not empty and holds no run; name an empty or new folder")
    return []


def open_run(run: Run) -> list[str]:
    """Creates the run's folder, or compares `run` with what is in it; see `compare`."""
    changes = compare(run)
    files.make_folder(run.path)
    content = {
        "method": run.method.name,
        "config": dataclasses.asdict(run.config),
        "image_shape": list(run.image_shape),
        "flags": run.flags,
    }
    write_text(os.path.join(run.path, _RUN), json.dumps(content, indent=1, sort_keys=True) + "\n")
    return changes


def _is_ours(name: str) -> bool:
    """Whether a file may stand in a new run's folder: hidden ones, and run.json as a kill left it half written."""
    return name.startswith(".") or name == f"{_RUN}.partial"


def _compare(before: Run, now: Run) -> list[str]:
    where = f"--run_dir={now.name}"
    if before.method.name != now.method.name:
        raise UserError(
            f"{where}: holds a run of {before.method.name}, not {now.method.name}; "
            f"use --method={before.method.name} or another --run_dir"
        )
    if before.image_shape[-1] != now.image_shape[-1]:
        raise UserError(
            f"{where}: was trained on {before.image_shape[-1]}-channel images, the data has {now.image_shape[-1]}; "
            "use another --run_dir"
        )
    changes, refused = [], []
    for field in dataclasses.fields(now.config):
        old, new = getattr(before.config, field.name), getattr(now.config, field.name)
        if old != new:
            line = f"--{now.method.name}.{field.name}: {old} -> {new}"
            (refused if field.metadata["networks"] else changes).append(line)
    if refused:
        raise UserError(
            f"{where}: these flags would change its networks: {'; '.join(refused)}; "
            "use the run's own values or another --run_dir"
        )
    if before.image_shape != now.image_shape:
        changes.append(f"--image_size: {_size(before)} -> {_size(now)}")
    changes += [
        f"--{k}: {before.flags.get(k)} -> {v}" for k, v in sorted(now.flags.items()) if before.flags.get(k) != v
    ]
    return changes


def _size(run: Run) -> str:
    return f"{run.image_shape[0]}x{run.image_shape[1]}"


def load_networks(run_dir: str, checkpoint: str = "latest") -> tuple[Run, dict[str, Any]]:
    """A run and its networks with the weights users should see (moving averages where it has them).

    Args:
        run_dir: the run directory.
        checkpoint: "latest" or "best".
    """
    from tfaclgan.engine import base as engine
    from tfaclgan.training import checkpoint as checkpoints

    run = read_run(run_dir)
    folder = run.folder("checkpoints" if checkpoint == "latest" else "best")
    loaded = checkpoints.load_newest(folder)
    if loaded is None:
        hint = (
            "train it first" if checkpoint == "latest" else "use --checkpoint=latest, or train with --eval_every_steps"
        )
        raise UserError(f"{folder}: holds no checkpoint yet; {hint}")
    found, state = loaded
    networks = engine.build_networks(run.method, run.config, run.image_shape)
    for name, model in networks.items():
        variables = engine.named_variables(model)
        prefix, average = f"networks/{name}/", f"averages/{name}/"
        values = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        values.update({key[len(average) :]: value for key, value in state.items() if key.startswith(average)})
        engine.assign_all(variables, values, found.path)
    return run, networks


def lock(run_dir: str, name: str = "") -> Any:
    """Holds the run directory for this process; the lock dies with it. Keep the returned object.

    Args:
        run_dir: the folder.
        name: the run directory as the user knows it, if that is another.
    """
    files.make_folder(run_dir)
    file = open(os.path.join(run_dir, LOCK), "a+")  # noqa: SIM115 (held for the life of the process)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise UserError(
            f"--run_dir={name or run_dir}: another process is training here; wait for it, stop it, or use another "
            "--run_dir"
        ) from error
    return file


def sweep(run_dir: str) -> None:
    """Removes the half-written files that a killed process left; only for who holds the directory's lock."""
    from tfaclgan.training import checkpoint as checkpoints

    for name in ("checkpoints", "best", "broken", "projector"):
        checkpoints.sweep(os.path.join(run_dir, name))
    for pattern in ("*.partial", "samples/*.partial", "events/*/*.partial", "evaluations/step_*/*.tmp"):
        for path in glob.glob(os.path.join(glob.escape(run_dir), pattern)):
            os.remove(path)


def record_start(run: Run, devices: str, data_fingerprint: str, step: int) -> None:
    """Appends this start to environment.json."""
    path = run.folder(_ENVIRONMENT)
    starts = []
    if os.path.exists(path):
        try:
            with open(path, encoding="utf-8") as file:
                starts = list(parse_json(file.read())["starts"])
        except (ValueError, KeyError, TypeError):
            print(f"tfaclgan: warning: {path}: cannot be read; written anew", file=sys.stderr)
    starts.append(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "step": step,
            "command": sys.argv,
            "devices": devices,
            "data_fingerprint": data_fingerprint,
            "commit": _commit(),
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "packages": _versions(),
        }
    )
    write_text(path, json.dumps({"starts": starts}, indent=1) + "\n")


def write_flags(run: Run, text: str, folder: str = "") -> None:
    """Writes run.flags, into `folder` if the run's own is not there yet."""
    away = remote.is_remote(run.name)  # flagfiles are read on this machine only
    copied, path = (", with a copy of this file", _FLAGS) if away else ("", run.folder(_FLAGS))
    header = f"# {run.method.title}; go on with this run{copied}: python -m tfaclgan.main --flagfile={path}\n"
    write_text(os.path.join(folder or run.path, _FLAGS), header + text)


def data_fingerprint(data_dir: str) -> str:
    """SHA-256 of dataset.json, which holds the hash of every shard."""
    return hashlib.sha256(files.read_bytes(os.path.join(data_dir, "dataset.json"))).hexdigest()


def write_text(path: str, text: str) -> None:
    """Writes a small file so that it is either the old one or the new one, never half of either."""
    files.write_atomically(path, text.encode())


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str:
    """The commit of the source tree this package runs from, "" outside one."""
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    try:
        return subprocess.run(
            ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
