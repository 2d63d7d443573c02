"""What the originals' weight files hold, and the options of ours that their tensors' shapes decide.

    found = originals.find("acl_gan", ["gen_00350000.pt", "dis_00350000.pt"], config, given=set())

Nothing is built here: `Found` says which file's state dict belongs to which of our networks.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tfaclgan.errors import UserError
from tfaclgan.importing import tensor_files, tf_checkpoints
from tfaclgan.networks import cyclegan_names, ugatit_names, ugatit_tf_names, weight_names

State = Mapping[str, np.ndarray]

# File's dict keys -> our networks, for the files that hold generators and discriminators.
_GENERATORS = {
    "acl_gan": {"AB": "g_t", "BA": "g_s"},
    "munit": {"a": "g_a", "b": "g_b"},
    "ugatit": {theirs: ours for ours, theirs in ugatit_names.NETWORKS.items()},
}
_DISCRIMINATORS = {"acl_gan": {"A": "d_s", "B": "d_t", "2": "d_hat"}, "munit": {"a": "d_a", "b": "d_b"}}
_AVERAGES = {"genA2B_ema": "g_a2b", "genB2A_ema": "g_b2a"}
_READS = {
    "acl_gan": "gen_*.pt (AB, BA), dis_*.pt (A, B, 2) and optimizer.pt",
    "munit": "gen_*.pt (a, b), dis_*.pt (a, b) and optimizer.pt",
    "ugatit": "*_params_*.pt (genA2B, genB2A ...) of the PyTorch code and its fork, and the folder of a TensorFlow 1 "
    "checkpoint",
    "cyclegan": "*_net_G_A.pth, G_B, D_A and D_B, or G_A=FILE",
}
_SMALLEST_FULL_SIDE = 16  # of the bottleneck: what a fork's file reads from a smaller one is its pooled map


@dataclasses.dataclass
class Found:
    """What the files hold.

    config: the asked one with the options that the shapes decide.
    decided: {option: value} of these.
    channels: of the images.
    sides: height, width in pixels where the weights are for one size, else None.
    states: {our network: state dict}; averages: likewise, of its moving average.
    sources: {our network: file}.
    moments: {our phase: [(our network, official name, first moment, second moment)]} of Adam.
    updates: {our phase: number of Adam's updates}.
    step: data iteration of the files, 0 where the optimisers' state is not given.
    beside: further files that were read.
    """

    config: Any
    decided: dict[str, Any]
    channels: int
    sides: tuple[int, int] | None = None
    states: dict[str, State] = dataclasses.field(default_factory=dict)
    averages: dict[str, State] = dataclasses.field(default_factory=dict)
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    moments: dict[str, list[tuple[str, str, np.ndarray, np.ndarray]]] = dataclasses.field(default_factory=dict)
    updates: dict[str, int] = dataclasses.field(default_factory=dict)
    step: int = 0
    beside: list[str] = dataclasses.field(default_factory=list)


def find(
    method: str, paths: Iterable[str], config: Any, given: set[str], sides: tuple[int, int] | None = None
) -> Found:
    """Reads `paths` and decides the config.

    Args:
        method: "acl_gan", "munit", "ugatit" or "cyclegan".
        paths: files, in any order; for CycleGAN also NAME=FILE, NAME one of G_A, G_B, D_A, D_B; for U-GAT-IT also a
            TensorFlow 1 checkpoint: its folder, prefix, or one of its files.
        config: of the method; options that shapes cannot tell are kept.
        given: names of the options that the user set; the weights may not contradict them.
        sides: image height and width that the user set.

    Raises:
        UserError: a file is unreadable, of another method, or says something else than a given option.
    """
    if method not in _READS:
        raise UserError(f"--method={method}: no original's weights are known for it; known: {', '.join(_READS)}")
    files = {"acl_gan": _munit_files, "munit": _munit_files, "ugatit": _ugatit_files, "cyclegan": _cyclegan_files}
    paths = list(paths)
    checkpoints = [prefix for prefix in map(tf_checkpoints.find, paths) if prefix]
    if checkpoints:
        states, averages, sources, optimizer = _tf_checkpoint(method, paths, checkpoints[0])
    else:
        states, averages, sources, optimizer = files[method](method, paths)
    decide = {"acl_gan": _decide_munit, "munit": _decide_munit, "ugatit": _decide_ugatit, "cyclegan": _decide_cyclegan}
    label = next(iter(sources.values()))
    try:
        decided, channels, fixed = decide[method](method, states, config, given, sides, label)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError, ZeroDivisionError) as error:
        raise UserError(
            f"{label}: its weights are not those of {method} as its code saves them ({error} is missing or has an "
            "unknown shape); check --method and --source"
        ) from error
    for name, value in decided.items():
        if name in given and getattr(config, name) != value:
            raise UserError(
                f"--{method}.{name}={getattr(config, name)}: the weights in {label} were trained with {value}; "
                "leave this flag out"
            )
    found = Found(dataclasses.replace(config, **decided), decided, channels, fixed, states, averages, sources)
    if checkpoints:
        found.beside = tf_checkpoints.shards(checkpoints[0])
    if optimizer and checkpoints:
        _take_adam_slots(found, *optimizer)
    elif optimizer:
        _take_optimizer(found, method, *optimizer)
    return found


# -- which file is what -----------------------------------------------------------------------


def _munit_files(method: str, paths: list[str]) -> tuple:
    states: dict[str, State] = {}
    sources: dict[str, str] = {}
    optimizer = None
    for path in paths:
        content = _nested(tensor_files.read(path))
        keys = set(content)
        if keys == {"gen", "dis"} and all("state" in _dict(content[key], path) for key in keys):
            optimizer = path, content
            continue
        generators = keys == set(_GENERATORS[method])
        names = _GENERATORS[method] if generators else _DISCRIMINATORS[method]
        if method == "munit" and keys == set(names):  # both kinds of files have one pair of names
            generators = any(name.startswith("enc_content") for name in _dict(content["a"], path))
            names = (_GENERATORS if generators else _DISCRIMINATORS)[method]
        if keys != set(names):
            raise _other(method, path, content)
        for theirs, ours in names.items():
            if ours in states:
                raise UserError(f"{path}: {theirs} was also in {sources[ours]}; give each file once")
            states[ours], sources[ours] = _state(content[theirs], path), path
    _need(method, states, _GENERATORS[method].values(), paths)
    return states, {}, sources, optimizer


def _ugatit_files(method: str, paths: list[str]) -> tuple:
    states: dict[str, State] = {}
    averages: dict[str, State] = {}
    sources: dict[str, str] = {}
    for path in paths:
        content = _nested(tensor_files.read(path))
        known = _GENERATORS[method] | _AVERAGES
        if not content or not set(content) <= set(known):
            raise _other(method, path, content)
        for theirs, ours in known.items():
            if theirs not in content:
                continue
            group = averages if theirs in _AVERAGES else states
            if ours in group:
                raise UserError(f"{path}: {theirs} was also in {sources[ours]}; give each file once")
            group[ours], sources[ours] = _state(content[theirs], path), path
    for ours, state in averages.items():  # files of averages alone
        states.setdefault(ours, state)
    _need(method, states, ("g_a2b", "g_b2a"), paths, at_least_one=True)
    return states, averages, sources, None


def _tf_checkpoint(method: str, paths: list[str], prefix: str) -> tuple:
    """What a TensorFlow 1 checkpoint of U-GAT-IT holds, by the scopes of its names."""
    if method != "ugatit":
        raise UserError(
            f"{prefix}: is a TensorFlow checkpoint, which of the known codes only U-GAT-IT's writes; {method} reads "
            f"{_READS[method]}; check --method and --source"
        )
    if len(paths) > 1:
        raise UserError(f"--source={','.join(paths)}: a TensorFlow checkpoint holds all networks; give it alone")
    states: dict[str, State] = {}
    slots: dict[str, np.ndarray] = {}
    powers: dict[str, float] = {}
    extra = []
    for name, value in tf_checkpoints.read(prefix).items():
        scope = next((ours for ours, theirs in ugatit_tf_names.NETWORKS.items() if name.startswith(theirs + "/")), "")
        if scope and name.endswith(("/Adam", "/Adam_1")):
            slots[name] = value
        elif scope:
            states.setdefault(scope, {})[name.removeprefix(ugatit_tf_names.NETWORKS[scope] + "/")] = value
        elif re.fullmatch(r"beta[12]_power(_1)?", name) and value.size == 1:
            powers[name] = float(value)
        else:
            extra.append(name)
    if not {"g_a2b", "g_b2a"} & set(states):
        raise UserError(
            f"{prefix}: holds {weight_names.listed(extra) or 'no generator'}, but not generator_A or generator_B of "
            "U-GAT-IT's TensorFlow code; check --method and --source"
        )
    weight_names.check_names(prefix, "U-GAT-IT's TensorFlow code", (), extra)
    return states, {}, dict.fromkeys(states, prefix + ".index"), (prefix, slots, powers) if slots else None


def _cyclegan_files(method: str, paths: list[str]) -> tuple:
    states: dict[str, State] = {}
    sources: dict[str, str] = {}
    for text in paths:
        named = re.match(r"(G_A|G_B|D_A|D_B)=(.+)", text)
        path = named[2] if named else text
        in_name = re.search(r"_net_(G_A|G_B|D_A|D_B|G)\.[a-z]+$", os.path.basename(path))
        if not named and not in_name:
            raise UserError(f"--source={text}: which network it holds is not in its name; write G_A={text} (A to B)")
        theirs = named[1] if named else {"G": "G_A"}.get(in_name[1], in_name[1])
        content = tensor_files.read(path)
        if not all(isinstance(value, np.ndarray) for value in content.values()):
            raise _other(method, path, content)
        ours = cyclegan_names.NETWORKS[theirs]
        if ours in states:
            raise UserError(f"{path}: {theirs} was also in {sources[ours]}; give each file once")
        states[ours], sources[ours] = _state(content, path), path
    _need(method, states, ("g_ab", "g_ba"), paths, at_least_one=True)
    return states, {}, sources, None


def _need(
    method: str, states: Mapping, generators: Iterable[str], paths: list[str], at_least_one: bool = False
) -> None:
    missing = [name for name in generators if name not in states]
    if len(missing) == len(list(generators)) if at_least_one else missing:
        raise UserError(f"--source={','.join(paths)}: holds no generator; {method} reads {_READS[method]}")


def _nested(content: dict[str, Any]) -> dict[str, Any]:
    """Flat names as safetensors have them, "AB.dec.model.0 ...", by their first part."""
    groups = {*_AVERAGES, *(key for keys in (*_GENERATORS.values(), *_DISCRIMINATORS.values()) for key in keys)}
    flat = content and all(isinstance(value, np.ndarray) for value in content.values())
    if not flat or not {str(name).partition(".")[0] for name in content} <= groups:
        return content
    nested: dict[str, Any] = {}
    for name, value in content.items():
        first, _, rest = str(name).partition(".")
        nested.setdefault(first, {})[rest] = value
    return nested


def _dict(value: Any, path: str) -> dict:
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__} where weights should be; give the original's own file")
    return value


def _state(value: Any, path: str) -> State:
    """A state dict without the prefix that PyTorch's data parallelism leaves."""
    state = {str(name): array for name, array in _dict(value, path).items()}
    if not all(isinstance(array, np.ndarray) for array in state.values()):
        raise UserError(f"{path}: holds more than weights where weights should be; give the original's own file")
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): array for name, array in state.items()}
    return state


def _other(method: str, path: str, content: Mapping) -> UserError:
    keys = set(content)
    guess = ""
    for name in ("acl_gan", "munit", "ugatit"):
        signs = [set(_GENERATORS[name]), set(_DISCRIMINATORS.get(name, _GENERATORS[name]))]
        if any(keys == sign for sign in signs) or (name == "ugatit" and keys & {"genA2B", "genB2A"}):
            guess = name
    if any(re.match(r"model\.(model\.)?\d+\.|net\.0\.", str(key)) for key in keys):
        guess = "cyclegan"
    names = sorted(str(key)[:40] for key in keys)
    held = ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")
    hint = f"these are {guess}'s: use --method={guess}" if guess and guess != method else "check --method and --source"
    return UserError(f"{path}: holds {held or 'nothing'}, but {method} reads {_READS[method]}; {hint}")


# -- what the shapes say ----------------------------------------------------------------------


def _count(state: State, pattern: str) -> int:
    """How many of pattern.format(0), pattern.format(1) ... there are."""
    number = 0
    while pattern.format(number) in state:
        number += 1
    return number


def _decide_munit(
    method: str, states: Mapping[str, State], config: Any, given: set[str], sides: Any, label: str
) -> tuple:
    generator = states["g_t" if method == "acl_gan" else "g_a"]
    stem = generator["enc_content.model.0.conv.weight"].shape
    width, channels = stem[:2]
    downsamples = _count(generator, "enc_content.model.{}.conv.weight") - 1
    blocks = f"enc_content.model.{downsamples + 1}.model.{{}}.model.0.conv.weight"
    mlp_dim, style_dim = generator["mlp.model.0.fc.weight"].shape
    decided = {
        "width": int(width),
        "downsamples": downsamples,
        "residual_blocks": _count(generator, blocks),
        "style_dim": int(style_dim),
        "mlp_dim": int(mlp_dim),
    }
    if method == "acl_gan":
        painted = generator[f"dec.model.{2 * downsamples + 1}.conv.weight"].shape[0]
        decided |= {"mask": bool(painted == channels + 1), "direction": "a2b", "both_directions": False}
    judge = states.get("d_s" if method == "acl_gan" else "d_a")
    if judge:
        decided |= {
            "discriminator_width": int(judge["cnns.0.0.conv.weight"].shape[0]),
            "discriminator_scales": _count(judge, "cnns.{}.0.conv.weight"),
            "discriminator_layers": _count(judge, "cnns.0.{}.conv.weight"),
        }
    return decided, int(channels), None


def _decide_ugatit(
    method: str,
    states: Mapping[str, State],
    config: Any,
    given: set[str],
    sides: tuple[int, int] | None,
    label: str,
) -> tuple:
    generator = next(states[name] for name in ("g_a2b", "g_b2a") if name in states)
    if any("/" in name for name in generator):
        return _decide_ugatit_tf(states, generator, given, sides, label)
    width, channels = (int(n) for n in generator["DownBlock.1.weight"].shape[:2])
    deep = int(generator["conv1x1.weight"].shape[0])
    blocks = _count({f"{int(k[9:].split('.')[0]) - 1}": v for k, v in generator.items() if k[:9] == "UpBlock1_"}, "{}")
    hidden, inputs = (int(n) for n in generator["FC.0.weight"].shape)
    profile = "en" if "gap_fc.bias" in generator else "pt"
    decided: dict[str, Any] = {
        "profile": profile,
        "width": width,
        "residual_blocks": blocks,
        "mlp_dim": 0 if hidden == 4 * width else hidden,
        "excite": any(".cSE." in name for name in generator),
    }
    places = inputs // deep
    side = math.isqrt(places)
    fixed = None
    if places == 1:
        decided["light"] = 1
    elif profile == "en" and side * side == places and (config.light == side or side < _SMALLEST_FULL_SIDE):
        decided["light"] = side
    else:
        decided["light"] = 0
        fixed = _sides_of_full_model(places, sides)
    attention = generator.get(f"UpBlock_attention.{blocks + 10}.weight")
    masks = int(attention.shape[0]) if attention is not None else 0
    contents = int(generator["UpBlock2.11.weight"].shape[0]) // channels
    decided |= {"attention_masks": masks, "attention_input": bool(masks and contents == masks - 1)}
    if masks:
        decided["attention_order"] = "fork"
    for scale in ("global", "local"):
        judge = next((states[f"d_{scale}_{d}"] for d in "ab" if f"d_{scale}_{d}" in states), None)
        if judge is None:
            continue
        spectral = "conv.weight_orig" in judge
        kernels = [value.shape for name, value in judge.items() if re.match(r"model\.\d+\.weight(_orig)?$", name)]
        small = sum(shape[2] == 3 for shape in kernels)
        first = judge["model.1.weight_orig" if spectral else "model.1.weight"]
        decided |= {
            f"{scale}_layers": 5 - small if small else len(kernels) + 1,
            "spectral_norm": spectral,
            "discriminator_width": int(first.shape[0]),
        }
    return decided, channels, fixed


def _sides_of_full_model(places: int, sides: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width in pixels of the images whose maps have `places` places."""
    side = 4 * math.isqrt(places)
    fixed = sides if sides and sides[0] * sides[1] == 16 * places else (side, side)
    if fixed[0] * fixed[1] != 16 * places:
        raise UserError(
            f"these weights read maps of {places} places, not of one side: they are for rectangular images; give "
            "--image_size=HEIGHTxWIDTH"
        )
    if sides and sides != fixed:
        raise UserError(
            f"--image_size={sides[0]}x{sides[1]}: the full model's weights are for {fixed[0]}x{fixed[1]} pixels; "
            "leave this flag out"
        )
    return fixed


def _decide_ugatit_tf(
    states: Mapping[str, State], generator: State, given: set[str], sides: tuple[int, int] | None, label: str
) -> tuple:
    channels, width = (int(n) for n in generator["conv/conv2d/kernel"].shape[2:])
    deep = int(generator["conv_1x1/conv2d/kernel"].shape[-1])
    blocks = _count(generator, "resblock_{}/res1/conv_0/conv2d/kernel")
    inputs, hidden = (int(n) for n in generator["MLP/linear_0/dense/kernel"].shape)
    places = inputs // deep
    decided: dict[str, Any] = {
        "profile": "tf",
        "width": width,
        "residual_blocks": blocks,
        "mlp_dim": 0 if hidden == width * blocks else hidden,
        "light": 1 if places == 1 else 0,
    }
    # No weight tells whether rho is used less 0.1; the code's names of folders do.
    folder = os.path.basename(os.path.dirname(os.path.abspath(label)))
    if re.search(r"_\d+resblock_\d+dis_", folder) and "rho_smoothing" not in given:
        decided["rho_smoothing"] = 0.1 if folder.endswith("_smoothing") else 0.0
    for scale in ("global", "local"):
        judge = next((states[f"d_{scale}_{d}"] for d in "ab" if f"d_{scale}_{d}" in states), None)
        if judge:
            spectral = "conv_0/u" in judge
            pattern = "conv_{}/kernel" if spectral else "conv_{}/conv2d/kernel"
            decided |= {
                f"{scale}_layers": _count(judge, pattern) + 2,
                "spectral_norm": spectral,
                "discriminator_width": int(judge[pattern.format(0)].shape[-1]),
            }
    return decided, channels, _sides_of_full_model(places, sides) if places > 1 else None


def _decide_cyclegan(
    method: str, states: Mapping[str, State], config: Any, given: set[str], sides: Any, label: str
) -> tuple:
    generator = next(states[name] for name in ("g_ab", "g_ba") if name in states)
    if any(name.endswith(".filt") for name in generator):
        raise UserError(
            "these weights have blur layers (of contrastive-unpaired-translation), which cyclegan has not; use weights "
            "of pytorch-CycleGAN-and-pix2pix"
        )
    if "model.model.0.weight" in generator:
        width, channels = generator["model.model.0.weight"].shape[:2]
        depth, level = 1, "model.model.1"
        while f"{level}.model.1.weight" in generator:
            depth, level = depth + 1, f"{level}.model.3"
        decided: dict[str, Any] = {"generator": "unet", "downsamples": depth}
        normed = any(name.endswith("running_var") for name in generator) and "model.model.1.model.2.weight" in generator
    else:
        width, channels = generator["model.1.weight"].shape[:2]
        blocks = sorted({int(name.split(".")[1]) for name in generator if ".conv_block." in name})
        decided = {
            "generator": "resnet",
            "downsamples": (blocks[0] - 4) // 3 if blocks else 2,
            "residual_blocks": len(blocks),
            "upsampling": "transposed",
        }
        normed = "model.2.weight" in generator
    if normed:
        raise UserError(
            "these weights have batch norms (--norm batch), which cyclegan has not; its published models have instance "
            "norms"
        )
    judge = next((states[name] for name in ("d_a", "d_b") if name in states), None)
    if judge:
        pixel = "net.0.weight" in judge
        decided |= {
            "discriminator": "pixel" if pixel else "patch",
            "discriminator_width": int(judge["net.0.weight" if pixel else "model.0.weight"].shape[0]),
        }
        if not pixel:
            convolutions = sum(value.ndim == 4 for value in judge.values())
            decided["discriminator_layers"] = convolutions - 2
    return {**decided, "width": int(width)}, int(channels), None


# -- optimisers -------------------------------------------------------------------------------


def _take_optimizer(found: Found, method: str, path: str, content: dict) -> None:
    """Adam's moments from MUNIT's and ACL-GAN's optimizer.pt, which numbers the weights in the files' order."""
    for phase, theirs, groups in (
        ("generators", "gen", _GENERATORS[method]),
        ("discriminators", "dis", _DISCRIMINATORS[method]),
    ):
        order = [
            (ours, name)
            for ours in groups.values()
            if ours in found.states
            for name in found.states[ours]
            if not name.endswith((".running_mean", ".running_var", ".num_batches_tracked"))
        ]
        if not order:
            continue
        try:
            state = content[theirs]["state"]
            numbers = [number for group in content[theirs]["param_groups"] for number in group["params"]]
            if len(numbers) != len(order):
                raise UserError(
                    f"{path}: its {theirs} has {len(numbers)} weights, the weight files have {len(order)}; "
                    "give the files of one training"
                )
            moments, updates = [], 0
            for number, (ours, name) in zip(numbers, order):
                if number not in state:
                    continue
                slot = state[number]
                updates = max(updates, int(slot["step"]))
                moments.append((ours, name, slot["exp_avg"], slot["exp_avg_sq"]))
                if slot["exp_avg"].shape != found.states[ours][name].shape:
                    raise UserError(f"{path}: its moments of {name} have another shape; give the files of one training")
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise UserError(
                f"{path}: not the state of PyTorch's Adam ({error} is missing); give optimizer.pt or leave it out"
            ) from error
        found.moments[phase], found.updates[phase] = moments, updates
    found.step = step_in_name(next(iter(found.sources.values())))


def _take_adam_slots(found: Found, prefix: str, slots: Mapping[str, np.ndarray], powers: Mapping[str, float]) -> None:
    """Adam's moments from a TensorFlow 1 checkpoint, where they are named after their weights."""
    found.step = tf_checkpoints.step_in_name(prefix)
    # The code makes the generators' optimiser first, so TensorFlow numbers the discriminators' powers.
    for phase, first_letter, power in (
        ("generators", "g", "beta2_power"),
        ("discriminators", "d", "beta2_power_1"),
    ):
        moments = []
        for ours, state in found.states.items():
            for name, value in state.items() if ours.startswith(first_letter) else ():
                official = f"{ugatit_tf_names.NETWORKS[ours]}/{name}"
                pair = [slots.get(official + suffix) for suffix in ("/Adam", "/Adam_1")]
                if name.endswith("/u") or any(slot is None for slot in pair):
                    continue
                if any(slot.shape != value.shape for slot in pair):
                    raise UserError(
                        f"{prefix}: Adam's moments of {official} have another shape; get the folder again, whole"
                    )
                moments.append((ours, name, *pair))
        if moments:
            found.moments[phase], found.updates[phase] = moments, _updates(powers.get(power, 0.0), found.step)


def _updates(power: float, step: int) -> int:
    """Adam's updates: `power` is 0.999 to the next one's number as long as float32 can tell; then the files' step."""
    if 1e-5 < power < 1:
        return max(0, round(math.log(power) / math.log(0.999)) - 1)
    return step


def step_in_name(path: str) -> int:
    """The iteration in a name like gen_00350000.pt; 0 if there is none."""
    match = re.search(r"_(\d{4,9})\.[a-z]+$", os.path.basename(path))
    return int(match[1]) if match else 0
