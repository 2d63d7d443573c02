"""Names of the PyTorch codes' weights, and where they go in `networks/ugatit.py`.

The functions give {official name: our path below the network's name} for the official PyTorch code and the enhanced
fork; biases and affine norms that a profile has not are left out by looking at the network. A checkpoint is a dict
of state dicts: genA2B `g_a2b`, genB2A `g_b2a` (in the fork also genA2B_ema, genB2A_ema), disGA `d_global_a`, disLA
`d_local_a`, disGB `d_global_b`, disLB `d_local_b`.

Axes: convolution kernels O, I, kh, kw -> kh, kw, I, O; transposed ones I, O, kh, kw -> kh, kw, O, I; linear kernels
out, in -> in, out; the first dense layer's inputs channels, rows, columns -> rows, columns, channels; the spectral
norms' v likewise; vectors flat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tfaclgan.networks import weight_names
from tfaclgan.networks.ugatit_sizes import DOWNSAMPLES

if TYPE_CHECKING:
    import keras

    from tfaclgan.networks import ugatit

NETWORKS = {
    "g_a2b": "genA2B",
    "g_b2a": "genB2A",
    "d_global_a": "disGA",
    "d_local_a": "disLA",
    "d_global_b": "disGB",
    "d_local_b": "disLB",
}


def generator_names(blocks: int) -> dict[str, str]:
    """{official name: path} of whatever a generator of either code may have."""
    names: dict[str, str] = {}
    for i, label in enumerate(["stem", *(f"down{i}" for i in range(DOWNSAMPLES))]):
        names |= _affine(f"DownBlock.{4 * i + 1}", f"encoder/{label}_conv")
        names |= _norm(f"DownBlock.{4 * i + 2}", f"encoder/{label}_norm")
    for i in range(blocks):
        first = 4 * (DOWNSAMPLES + 1)
        names |= _residual_block(f"DownBlock.{first + i}.conv_block", f"encoder/block{i}")
        adaptive = f"UpBlock1_{i + 1}"
        for j in range(2):
            names |= _affine(f"{adaptive}.conv{j + 1}", f"decoder/block{i}_{j}_conv")
            names[f"{adaptive}.norm{j + 1}.rho"] = f"decoder/block{i}_{j}_norm/rho"
        names |= _excite(f"{adaptive}.se", f"decoder/block{i}_excite")
        names |= _residual_block(f"UpBlock_attention.{i}.conv_block", f"masks/block{i}")
    names |= _affine("gap_fc", "cam/mean") | _affine("gmp_fc", "cam/peak") | _affine("conv1x1", "squeeze")
    names |= _affine("FC.0", "mlp/dense0") | _affine("FC.2", "mlp/dense1")
    names |= _affine("gamma", "mlp/gamma") | _affine("beta", "mlp/beta")
    for i in range(DOWNSAMPLES):
        names |= _up(f"UpBlock2.{5 * i + 2}", f"UpBlock2.{5 * i + 3}", f"decoder/up{i}")
        first = blocks + 5 * i
        names |= _up(f"UpBlock_attention.{first + 2}", f"UpBlock_attention.{first + 3}", f"masks/up{i}")
    names |= _affine(f"UpBlock2.{5 * DOWNSAMPLES + 1}", "decoder/output_conv")
    names |= _affine(f"UpBlock_attention.{blocks + 5 * DOWNSAMPLES}", "masks/output_conv")
    return names


def discriminator_names(depth: int, same: int) -> dict[str, str]:
    """{official name: path} of whatever a discriminator of either code may have; `same`: its 3x3 convolutions."""
    labels = [f"down{i}" for i in range(depth - 2)] + [f"same{i}" for i in range(same)] + ["last"]
    places = {f"model.{3 * i + 1}": f"trunk/{label}_conv" for i, label in enumerate(labels)}
    places |= {"gap_fc": "cam/mean", "gmp_fc": "cam/peak", "conv1x1": "squeeze", "conv": "score"}
    names: dict[str, str] = {}
    for official, ours in places.items():
        names |= _affine(official, ours)
        names |= {f"{official}.weight_orig": f"{ours}/kernel"}
        names |= {f"{official}.weight_{vector}": f"{ours}/{vector}" for vector in "uv"}
    return names


def _affine(official: str, ours: str) -> dict[str, str]:
    return {f"{official}.weight": f"{ours}/kernel", f"{official}.bias": f"{ours}/bias"}


def _norm(official: str, ours: str) -> dict[str, str]:
    return {f"{official}.weight": f"{ours}/gamma", f"{official}.bias": f"{ours}/beta"}


def _residual_block(official: str, ours: str) -> dict[str, str]:
    names = _affine(f"{official}.1", f"{ours}_0_conv") | _norm(f"{official}.2", f"{ours}_0_norm")
    names |= _affine(f"{official}.5", f"{ours}_1_conv") | _norm(f"{official}.6", f"{ours}_1_norm")
    return names | _excite(f"{official}.7", f"{ours}_excite")


def _excite(official: str, ours: str) -> dict[str, str]:
    names = _affine(f"{official}.cSE.se.1", f"{ours}/squeeze") | _affine(f"{official}.cSE.se.3", f"{ours}/excite")
    return names | _affine(f"{official}.sSE.conv", f"{ours}/place")


def _up(convolution: str, norm: str, ours: str) -> dict[str, str]:
    vectors = {f"{norm}.{vector}": f"{ours}_norm/{vector}" for vector in ("rho", "gamma", "beta")}
    return _affine(convolution, f"{ours}_conv") | vectors


def to_keras(value: np.ndarray, path: str, shape: tuple[int, ...], map_shape: tuple[int, ...] = ()) -> np.ndarray:
    """A PyTorch tensor in the order of our weight.

    Args:
        value: with PyTorch's axes.
        path: of our weight below the network's name.
        shape: of our weight.
        map_shape: rows, columns, channels that the first dense layer reads.
    """
    if path == "mlp/dense0/kernel" and map_shape and value.shape == shape[::-1]:
        rows, columns, channels = map_shape
        value = value.reshape(len(value), channels, rows, columns)
        return value.transpose(2, 3, 1, 0).reshape(-1, len(value))
    if path.endswith("/v"):
        return value  # its order depends on the kernel: `assign` sees to it
    if value.ndim == 4 and min(value.shape[2:]) == 1 and len(shape) == 1:
        return value.reshape(-1)  # rho, gamma, beta: [1, c, 1, 1]
    if value.ndim == 4 and len(shape) == 2:
        return value[:, :, 0, 0].T  # scSE's 1x1 convolutions are dense layers here
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.T if value.ndim == 2 else value


def assign(network: keras.Model, state: Mapping[str, np.ndarray], source: str) -> None:
    """Sets every weight of `network` from a PyTorch state dict.

    Args:
        network: a `networks.ugatit.Generator` or `Discriminator` of profile pt or en.
        state: {official name: array with PyTorch's axes}.
        source: what to call the state in an error (a file name).

    Raises:
        UserError: a weight is missing, left over, or of another shape; nothing is assigned then.
    """
    variables = {variable.path.split("/", 1)[1]: variable for variable in network.variables}
    names, map_shape = _names_of(network)
    names = {official: path for official, path in names.items() if path in variables}
    wanted = set(names.values())
    known = {official: path for official, path in names.items() if official in state}
    missing, extra = sorted(wanted - set(known.values())), sorted(set(state) - set(known))
    if set(variables) - wanted:
        raise ValueError(f"{network.name}: the codes have no weight {sorted(set(variables) - wanted)[0]}")
    weight_names.check_names(source, network.name, [f"nothing for {path}" for path in missing], extra)
    values = {}
    for official, path in known.items():
        shape = tuple(variables[path].shape)
        value = to_keras(np.asarray(state[official]), path, shape, map_shape)
        if path.endswith("/v"):
            kernel = variables[path.removesuffix("/v") + "/kernel"].shape
            if len(kernel) == 4 and value.size == math.prod(kernel[:3]):
                value = value.reshape(kernel[2], *kernel[:2]).transpose(1, 2, 0).reshape(-1)
        values[path] = value
    weight_names.assign(source, network.name, variables, values, {path: name for name, path in known.items()}, state)


def depth_of(network: ugatit.Discriminator) -> tuple[int, int]:
    """Number of layers, and of 3x3 convolutions that stand for missing ones."""
    layers = {v.path.split("/")[2] for v in network.trunk.variables}
    return tuple(start + sum(layer.startswith(kind) for layer in layers) for start, kind in ((2, "down"), (0, "same")))


def blocks_of(network: ugatit.Generator) -> int:
    """Number of residual blocks of the decoder."""
    layers = {v.path.split("/")[2] for v in network.decoder.variables}
    return sum(layer.endswith("_0_conv") for layer in layers)


def _names_of(network: ugatit.Generator | ugatit.Discriminator) -> tuple[dict[str, str], tuple[int, ...]]:
    if hasattr(network, "trunk"):
        return discriminator_names(*depth_of(network)), ()
    blocks = blocks_of(network)
    light, deep = network.light, network.map_shape[-1]
    return generator_names(blocks), (light, light, deep) if light else network.map_shape
