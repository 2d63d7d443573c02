"""A folder to give away: what translates, and nothing that trains.

config.json          method, its options, image shape, step, which networks, size and SHA-256 of the weights
weights.safetensors  the translating networks' weights, averages where the run has them
README.md            the card: what it is, what it was trained on, how it was judged

`tfaclgan.load(folder)` reads it like a run directory. No pickles; the names do not depend on the framework.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import Any

import numpy as np

import tfaclgan
from tfaclgan.data import files
from tfaclgan.errors import UserError
from tfaclgan.inference import card
from tfaclgan.methods import base
from tfaclgan.training.checkpoint import arrays
from tfaclgan.training.rundir import Run, load_networks, shape_of

FORMAT_VERSION = 1
CONFIG, WEIGHTS = "config.json", "weights.safetensors"


def is_pretrained(folder: str) -> bool:
    """Whether `folder` was written by `save_pretrained`."""
    return files.is_there(os.path.join(folder, CONFIG))


def save_pretrained(run_dir: str, folder: str, *, checkpoint: str = "latest") -> str:
    """Writes a run's translating networks as a small folder; returns its path.

    Args:
        run_dir: a run directory.
        folder: new or empty.
        checkpoint: "latest" or "best".

    Raises:
        UserError: no such run or checkpoint, or `folder` holds something.
    """
    import safetensors.numpy

    from tfaclgan.engine.base import named_variables

    files.refuse_remote(folder, "folder")
    run, networks = load_networks(run_dir, checkpoint)
    if os.path.isdir(folder) and os.listdir(folder):
        raise UserError(f"{folder}: not empty; name a new or empty folder")
    kept = [name for name in run.method.ema_networks if name in networks]
    state = {
        f"{name}/{key}": np.ascontiguousarray(variable.numpy())
        for name in kept
        for key, variable in named_variables(networks[name]).items()
    }
    data = safetensors.numpy.save(state)
    config = {
        "format_version": FORMAT_VERSION,
        "made_by": f"tfaclgan {tfaclgan.__version__}",
        "method": run.method.name,
        "config": dataclasses.asdict(run.config),
        "image_shape": list(run.image_shape),
        "flags": {"load_size": run.flags.get("load_size"), "data_dir": ""},
        "networks": kept,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    about = (
        f"Networks that translate ({', '.join(run.method.directions(run.config))}), trained with {config['made_by']}"
    )
    use = (
        "import tfaclgan",
        'translated = tfaclgan.load("THIS_FOLDER").translate(images)   # uint8 [b, h, w, c]',
    )
    contents = {
        WEIGHTS: data,
        CONFIG: (json.dumps(config, indent=1, sort_keys=True) + "\n").encode(),
        card.NAME: card.text(run, run_dir, about=about, use=use).encode(),
    }
    with files.whole_folder(folder) as temporary:
        for name, content in contents.items():
            files.write_flushed(os.path.join(temporary, name), content)
    return folder


def load_pretrained(folder: str) -> tuple[Run, dict[str, Any]]:
    """The run that `folder` describes and its translating networks.

    Raises:
        UserError: a file is missing or damaged, or made by a newer version.
    """
    from tfaclgan.engine import base as engine

    path = os.path.join(folder, CONFIG)
    try:
        content = files.parse_json(files.read_bytes(path).decode())
        if content["format_version"] > FORMAT_VERSION:
            raise UserError(
                f"{path}: format {content['format_version']} is newer than this tfaclgan; install a newer one"
            )
        method = base.get(content["method"])
        config = base.config_of(method, content["config"])
        run = Run(folder, method, config, shape_of(content["image_shape"]), dict(content["flags"]))
        kept, size, digest = list(content["networks"]), content["bytes"], content["sha256"]
        data = files.read_bytes(os.path.join(folder, WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: cannot be read ({error}); get the folder again from where it came") from error
    if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
        raise UserError(
            f"{os.path.join(folder, WEIGHTS)}: does not match the size and SHA-256 in {CONFIG}; "
            "get the folder again from where it came"
        )
    try:
        state = arrays(data)
    except ValueError as error:
        raise UserError(f"{os.path.join(folder, WEIGHTS)}: {error}; get the folder again from where it came") from error
    built = engine.build_networks(method, config, run.image_shape)
    networks = {name: model for name, model in built.items() if name in kept}
    variables = {
        f"{name}/{key}": variable
        for name, model in networks.items()
        for key, variable in engine.named_variables(model).items()
    }
    engine.assign_all(variables, state, folder)
    return run, networks
