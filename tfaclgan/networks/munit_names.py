"""Names of the official MUNIT and ACL-GAN weights, and where they go in `networks/munit.py`.

A generator's or discriminator's PyTorch state dict names its tensors by position in nested lists; the
functions here give {official name: our path below the network's name}. In the official files a generator
file is a dict of state dicts {"AB", "BA"} (`g_t`, `g_s` of the method acl_gan trained a2b) or {"a", "b"}
(MUNIT), a discriminator file {"A", "B", "2"} (`d_s`, `d_t`, `d_hat`) or {"a", "b"}.

Axes: convolution kernels O, I, kh, kw -> kh, kw, I, O; linear kernels out, in -> in, out; vectors as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tfaclgan.networks import weight_names
from tfaclgan.networks.munit_sizes import STYLE_DOWNSAMPLES

if TYPE_CHECKING:
    import keras

# The official AdaIN layers carry running statistics that nothing reads.
UNUSED = (".running_mean", ".running_var", ".num_batches_tracked")


def generator_names(downsamples: int, residual_blocks: int) -> dict[str, str]:
    """{official name: path below the network's name} of a generator's weights."""
    names = {}
    for i, label in enumerate(["stem", *(f"down{i}" for i in range(STYLE_DOWNSAMPLES))]):
        names |= _affine(f"enc_style.model.{i}.conv", f"style/{label}_conv")
    names |= _affine(f"enc_style.model.{STYLE_DOWNSAMPLES + 2}", "style/head")  # between them: the pooling
    for i, label in enumerate(["stem", *(f"down{i}" for i in range(downsamples))]):
        names |= _affine(f"enc_content.model.{i}.conv", f"content/{label}_conv")
    for i in range(residual_blocks):
        for j in range(2):
            names |= _affine(
                f"enc_content.model.{downsamples + 1}.model.{i}.model.{j}.conv", f"content/residual{i}_{j}_conv"
            )
            names |= _affine(f"dec.model.0.model.{i}.model.{j}.conv", f"decoder/residual{i}_{j}_conv")
    for i in range(downsamples):
        official = f"dec.model.{2 * i + 2}"  # the odd numbers are the upsamplings
        names |= _affine(f"{official}.conv", f"decoder/up{i}_conv")
        names |= {f"{official}.norm.{vector}": f"decoder/up{i}_norm/{vector}" for vector in ("gamma", "beta")}
    names |= _affine(f"dec.model.{2 * downsamples + 1}.conv", "decoder/output_conv")
    for i in range(3):
        names |= _affine(f"mlp.model.{i}.fc", f"mlp/dense{i}")
    return names


def discriminator_names(scales: int, layers_per_scale: int) -> dict[str, str]:
    """{official name: path below the network's name} of a discriminator's weights."""
    names = {}
    for scale in range(scales):
        for i in range(layers_per_scale):
            names |= _affine(f"cnns.{scale}.{i}.conv", f"scale{scale}_{i}_conv")
        names |= _affine(f"cnns.{scale}.{layers_per_scale}", f"scale{scale}_score")
    return names


def _affine(official: str, ours: str) -> dict[str, str]:
    return {f"{official}.weight": f"{ours}/kernel", f"{official}.bias": f"{ours}/bias"}


def to_keras(value: np.ndarray) -> np.ndarray:
    """A PyTorch tensor with its axes in Keras' order."""
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim)
    return np.transpose(value, axes) if axes else value


def assign(network: keras.Model, state: Mapping[str, np.ndarray], names: Mapping[str, str], source: str) -> None:
    """Sets every weight of `network` from an official state dict.

    Args:
        network: a `Generator` or a discriminator.
        state: {official name: array with PyTorch's axes}.
        names: from `generator_names` or `discriminator_names`.
        source: what to call the state in an error (a file name).

    Raises:
        UserError: a weight is missing, left over, or of another shape; nothing is assigned then.
    """
    variables = {variable.path.split("/", 1)[1]: variable for variable in network.variables}
    if set(variables) != set(names.values()):
        raise ValueError(f"{network.name}: the names are of another architecture")
    state = {name: value for name, value in state.items() if not name.endswith(UNUSED)}
    weight_names.check_names(source, network.name, names.keys() - state.keys(), state.keys() - names.keys())
    values = {}
    for official, path in names.items():
        value = to_keras(np.asarray(state[official]))
        if value.shape == (1, 1, *variables[path].shape):  # the style encoder's 1x1 convolution is a dense layer here
            value = value[0, 0]
        values[path] = value
    weight_names.assign(source, network.name, variables, values, {path: name for name, path in names.items()}, state)
