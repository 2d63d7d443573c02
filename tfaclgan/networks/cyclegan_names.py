"""Names of the official CycleGAN weights, and where they go in `networks/resnet.py`, `unet.py` and `patch.py`.

Each network is a file of its own, a state dict: `latest_net_G_A.pth` is `g_ab`, G_B `g_ba`, D_A (which judges images
of B) `d_b`, D_B `d_a`. The functions give {official name: our path below the network's name} for networks with
instance norm, which has no weights; every convolution has a bias.

Axes: convolution kernels O, I, kh, kw -> kh, kw, I, O; transposed ones I, O, kh, kw -> kh, kw, O, I.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tfaclgan.networks import weight_names

if TYPE_CHECKING:
    import keras

NETWORKS = {"G_A": "g_ab", "G_B": "g_ba", "D_A": "d_b", "D_B": "d_a"}
# Old files: instance norms that kept statistics nothing reads.
UNUSED = (".running_mean", ".running_var", ".num_batches_tracked")


def resnet_names(downsamples: int, residual_blocks: int, dropout: bool = False) -> dict[str, str]:
    """Of a residual generator; with `dropout` its blocks have one entry more between the convolutions."""
    names = _affine("model.1", "stem")
    for i in range(downsamples):
        names |= _affine(f"model.{4 + 3 * i}", f"down{i}")
    first = 4 + 3 * downsamples
    for i in range(residual_blocks):
        names |= _affine(f"model.{first + i}.conv_block.1", f"residual{i}_0")
        names |= _affine(f"model.{first + i}.conv_block.{6 if dropout else 5}", f"residual{i}_1")
    first += residual_blocks
    for i in range(downsamples):
        names |= _affine(f"model.{first + 3 * i}", f"up{i}")
    return names | _affine(f"model.{first + 3 * downsamples + 1}", "output")


def unet_names(downsamples: int) -> dict[str, str]:
    """Of a U-Net, whose levels are nested in each other."""
    names = _affine("model.model.0", "down0") | _affine("model.model.3", "up0")
    level = "model.model.1"
    for i in range(1, downsamples):
        innermost = i == downsamples - 1
        names |= _affine(f"{level}.model.1", f"down{i}")
        names |= _affine(f"{level}.model.{3 if innermost else 5}", f"up{i}")
        level += ".model.3"
    return names


def patch_names(layers: int) -> dict[str, str]:
    """Of a patch discriminator."""
    names = _affine("model.0", "layer0")
    for i in range(1, layers + 1):
        names |= _affine(f"model.{3 * i - 1}", f"layer{i}")
    return names | _affine(f"model.{3 * layers + 2}", "score")


def pixel_names() -> dict[str, str]:
    """Of a pixel discriminator."""
    return _affine("net.0", "layer0") | _affine("net.2", "layer1") | _affine("net.5", "score")


def _affine(official: str, ours: str) -> dict[str, str]:
    return {f"{official}.weight": f"{ours}_conv/kernel", f"{official}.bias": f"{ours}_conv/bias"}


def assign(network: keras.Model, state: Mapping[str, np.ndarray], names: Mapping[str, str], source: str) -> None:
    """Sets every weight of `network` from an official state dict.

    Args:
        network: a generator or discriminator of the method cyclegan.
        state: {official name: array with PyTorch's axes}.
        names: from the functions above.
        source: what to call the state in an error (a file name).

    Raises:
        UserError: a weight is missing, left over, or of another shape; nothing is assigned then.
    """
    variables = {variable.path.split("/", 1)[1]: variable for variable in network.variables}
    if set(variables) != set(names.values()):
        raise ValueError(f"{network.name}: the names are of another architecture")
    state = {name: value for name, value in state.items() if not name.endswith(UNUSED)}
    weight_names.check_names(source, network.name, names.keys() - state.keys(), state.keys() - names.keys())
    values = {path: _to_keras(np.asarray(state[official])) for official, path in names.items()}
    weight_names.assign(source, network.name, variables, values, {path: name for name, path in names.items()}, state)


def _to_keras(value: np.ndarray) -> np.ndarray:
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
