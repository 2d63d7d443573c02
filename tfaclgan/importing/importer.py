"""Makes a run directory of an original's weights."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfaclgan.data import files, remote
from tfaclgan.errors import UserError
from tfaclgan.importing.originals import Found
from tfaclgan.methods.base import Recipe
from tfaclgan.networks import cyclegan_names, munit_names, ugatit_names, ugatit_tf_names
from tfaclgan.training import checkpoint, mirror, rundir


def check_target(run_dir: str) -> None:
    """UserError unless `run_dir` is new or empty."""
    a_file = os.path.exists(run_dir) and not os.path.isdir(run_dir)
    if a_file or files.names_in(run_dir):
        raise UserError(f"--run_dir={run_dir}: is not empty, and an import overwrites nothing; name a new folder")


def write(found: Found, run: rundir.Run, recipe: Recipe, *, seed: int = 0, flag_text: str = "") -> list[str]:
    """Writes the run directory `run.path` with the weights of `found`; it appears whole or not at all.

    Networks that are in no file keep their initial weights.

    Args:
        found: from `originals.find`.
        run: method, config and image shape of the new run.
        recipe: training settings; they decide which moving averages and memories a checkpoint has.
        seed: of initial weights.
        flag_text: of run.flags.

    Returns:
        Lines for the console: what was taken, and what was not there.

    Raises:
        UserError: weights do not fit, the image size does not, or the folder is not empty.
    """
    check_target(run.path)
    run.method.check(run.config, run.image_shape)
    from tfaclgan import engine as engines

    engine = engines.current().Engine(run.method, run.config, image_shape=run.image_shape, recipe=recipe, seed=seed)
    state = _state_of(engine, found, run)
    with _whole_run(run.path) as temporary:
        unfinished = dataclasses.replace(run, path=temporary)
        rundir.open_run(unfinished)
        rundir.write_flags(run, flag_text, folder=temporary)
        rundir.write_text(os.path.join(temporary, "imported.json"), json.dumps(_origin(found), indent=1) + "\n")
        checkpoint.save(unfinished.folder("checkpoints"), state, found.step)
    return _describe(engine, found)


@contextlib.contextmanager
def _whole_run(run_dir: str) -> Iterator[str]:
    """A folder to fill, which becomes the run directory, local or remote, when the block ends."""
    if not remote.is_remote(run_dir):
        with files.whole_folder(run_dir) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield temporary
        mirror.put_new(temporary, run_dir)


def assign(network: Any, state: Any, config: Any, method: str, source: str) -> None:
    """Sets one network's weights from an original's state dict; UserError if they do not fit."""
    if method == "ugatit" and config.profile == "tf":
        ugatit_tf_names.assign(network, state, source)
    elif method == "ugatit":
        ugatit_names.assign(network, state, source)
    elif method == "cyclegan":
        cyclegan_names.assign(network, state, _cyclegan_names(network.name, state, config), source)
    else:
        munit_names.assign(network, state, _munit_names(network.name, config), source)


def _munit_names(name: str, config: Any) -> dict[str, str]:
    if name.startswith("g_"):
        return munit_names.generator_names(config.downsamples, config.residual_blocks)
    return munit_names.discriminator_names(config.discriminator_scales, config.discriminator_layers)


def _cyclegan_names(name: str, state: Any, config: Any) -> dict[str, str]:
    if name.startswith("d_"):
        if config.discriminator == "pixel":
            return cyclegan_names.pixel_names()
        return cyclegan_names.patch_names(config.discriminator_layers)
    if config.generator == "unet":
        return cyclegan_names.unet_names(config.downsamples)
    dropout = any(key.endswith(".conv_block.6.weight") for key in state)
    return cyclegan_names.resnet_names(config.downsamples, config.residual_blocks, dropout)


def _state_of(engine: Any, found: Found, run: rundir.Run) -> dict[str, np.ndarray]:
    """A checkpoint's arrays."""

    def fill(name: str, state: Any) -> None:
        assign(engine.networks[name], state, run.config, run.method.name, found.sources[name])

    averages: dict[str, np.ndarray] = {}
    for name, average in found.averages.items():
        fill(name, average)
        averages.update(_weights(engine, name, "averages"))
    for name, weights in found.states.items():
        fill(name, weights)
    for name in run.method.ema_networks:
        if engine.averages and name in engine.networks and name not in found.averages:
            averages.update(_weights(engine, name, "averages"))
    state = engine.state() | averages
    state["step"] = np.asarray(found.step, state["step"].dtype)
    for phase, moments in found.moments.items():
        state[f"optimizers/{phase}/iterations"] = np.asarray(
            found.updates[phase], state[f"optimizers/{phase}/iterations"].dtype
        )
        for name, official, first, second in moments:
            if run.method.name == "ugatit":
                path, convert = ugatit_tf_names.names_of(engine.networks[name])[official], np.asarray
            else:
                path, convert = _munit_names(name, run.config)[official], munit_names.to_keras
            for slot, value in (("m", first), ("v", second)):
                key = f"optimizers/{phase}/{slot}/{name}/{path}"
                state[key] = convert(value).reshape(state[key].shape)
    return state


def _weights(engine: Any, name: str, group: str) -> dict[str, np.ndarray]:
    prefix = f"networks/{name}/"
    return {
        f"{group}/{name}/{key.removeprefix(prefix)}": np.array(variable.numpy())
        for key, variable in engine.variables().items()
        if key.startswith(prefix)
    }


def _origin(found: Found) -> dict[str, Any]:
    """imported.json: which files the weights are from."""
    hashes = {path: files.hash_file(path) for path in sorted({*found.sources.values(), *found.beside})}
    return {
        "command": sys.argv,
        "networks": {name: os.path.basename(path) for name, path in found.sources.items()},
        "averages": sorted(found.averages),
        "optimizers": sorted(found.moments),
        "files": [{"name": os.path.basename(path), "sha256": value} for path, value in hashes.items()],
    }


def _describe(engine: Any, found: Found) -> list[str]:
    weights = sum(int(np.prod(value.shape)) for state in found.states.values() for value in state.values())
    lines = [
        f"imported {', '.join(found.states)}: {weights:,} numbers; "
        + ", ".join(f"{name}={value}" for name, value in found.decided.items())
    ]
    if found.averages:
        lines.append(f"moving averages of {', '.join(found.averages)}: translations use them")
    if found.moments:
        updates = ", ".join(f"{phase} {count}" for phase, count in found.updates.items())
        lines.append(f"optimiser states at step {found.step} (updates: {updates})")
    missing = [name for name in engine.networks if name not in found.states]
    if missing:
        lines.append(
            f"not in the files: {', '.join(missing)}; these start from random weights, so train them or do not use them"
        )
    return lines
