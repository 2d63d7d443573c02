"""Names of U-GAT-IT's official TensorFlow 1 weights, and where they go in `networks/ugatit.py` (profile tf).

The functions give {official name below its scope: our path below the network's name}. `NETWORKS` has the scopes.
Axes are ours already. The code keeps only u of a spectral norm, and makes a power step in every pass; u and v become
what that step makes of it, so that a pass here divides by the same sigma as a pass there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tfaclgan.networks import ugatit_names, weight_names
from tfaclgan.networks.ugatit_sizes import DOWNSAMPLES

if TYPE_CHECKING:
    import keras

    from tfaclgan.networks import ugatit

NETWORKS = {
    "g_a2b": "generator_B",
    "g_b2a": "generator_A",
    "d_global_a": "discriminator_A/global",
    "d_local_a": "discriminator_A/local",
    "d_global_b": "discriminator_B/global",
    "d_local_b": "discriminator_B/local",
}
_FLOOR = 1e-12


def generator_names(blocks: int) -> dict[str, str]:
    """{official name: path} of a generator."""
    names = _affine("conv/conv2d", "encoder/stem_conv") | _norm("ins_norm", "encoder/stem_norm")
    for i in range(DOWNSAMPLES):
        names |= _affine(f"conv_{i}/conv2d", f"encoder/down{i}_conv")
        names |= _norm(f"ins_norm_{i}", f"encoder/down{i}_norm")
        names |= _affine(f"up_conv_{i}/conv2d", f"decoder/up{i}_conv")
        names |= _norm(f"layer_ins_norm_{i}", f"decoder/up{i}_norm")
        names[f"layer_ins_norm_{i}/rho"] = f"decoder/up{i}_norm/rho"
    for i in range(blocks):
        for j in range(2):
            residual, adaptive = f"resblock_{i}/res{j + 1}", f"adaptive_resblock{i}/res{j + 1}"
            names |= _affine(f"{residual}/conv_0/conv2d", f"encoder/block{i}_{j}_conv")
            names |= _norm(f"{residual}/instance_norm", f"encoder/block{i}_{j}_norm")
            names |= _affine(f"{adaptive}/conv_0/conv2d", f"decoder/block{i}_{j}_conv")
            names[f"{adaptive}/instance_layer_norm/rho"] = f"decoder/block{i}_{j}_norm/rho"
    names |= _affine("CAM_logit", "cam/both") | _affine("conv_1x1/conv2d", "squeeze")
    for theirs, ours in (("linear_0", "dense0"), ("linear_1", "dense1"), ("gamma", "gamma"), ("beta", "beta")):
        names |= _affine(f"MLP/{theirs}/dense", f"mlp/{ours}")
    return names | _affine("G_logit/conv2d", "decoder/output_conv")


def discriminator_names(depth: int, spectral: bool) -> dict[str, str]:
    """{official name: path} of a global or local discriminator of `depth` layers."""
    places = {f"conv_{i}": f"trunk/down{i}_conv" for i in range(depth - 2)}
    places |= {"conv_last": "trunk/last_conv", "CAM_logit": "cam/both", "D_logit": "score"}
    names = _affine("conv_1x1/conv2d", "squeeze")
    for official, ours in places.items():
        # Without a spectral norm the code makes its convolutions by tf.layers, which name a scope of their own.
        names |= _affine(official if spectral or official == "CAM_logit" else f"{official}/conv2d", ours)
        if spectral:
            names[f"{official}/u"] = f"{ours}/u"
    return names


def _affine(official: str, ours: str) -> dict[str, str]:
    return {f"{official}/kernel": f"{ours}/kernel", f"{official}/bias": f"{ours}/bias"}


def _norm(official: str, ours: str) -> dict[str, str]:
    return {f"{official}/gamma": f"{ours}/gamma", f"{official}/beta": f"{ours}/beta"}


def names_of(network: ugatit.Generator | ugatit.Discriminator) -> dict[str, str]:
    """{official name: path} of a network of profile tf."""
    if hasattr(network, "trunk"):
        spectral = any(variable.path.endswith("/u") for variable in network.variables)
        return discriminator_names(ugatit_names.depth_of(network)[0], spectral)
    return generator_names(ugatit_names.blocks_of(network))


def assign(network: keras.Model, state: Mapping[str, np.ndarray], source: str) -> None:
    """Sets every weight of `network` from the variables below its scope.

    Args:
        network: a `networks.ugatit.Generator` or `Discriminator` of profile tf.
        state: {official name below the scope: array}.
        source: what to call the state in an error (a file name).

    Raises:
        UserError: a weight is missing, left over, or of another shape; nothing is assigned then.
    """
    variables = {variable.path.split("/", 1)[1]: variable for variable in network.variables}
    names = names_of(network)
    unknown = set(variables) - set(names.values()) - {path for path in variables if path.endswith("/v")}
    if unknown:
        raise ValueError(f"{network.name}: the code has no weight {sorted(unknown)[0]}")
    weight_names.check_names(source, network.name, set(names) - set(state), set(state) - set(names))
    values = {path: np.asarray(state[official]) for official, path in names.items()}
    for path in [path for path in values if path.endswith("/u")]:
        u, v = _after_a_power_step(values[path], values[path.removesuffix("u") + "kernel"])
        values |= {path: u, path.removesuffix("u") + "v": v}
    officials = {path: official for official, path in names.items()}
    officials |= {path: officials[path.removesuffix("v") + "u"] for path in values if path.endswith("/v")}
    weight_names.assign(source, network.name, variables, values, officials, state)


def _after_a_power_step(u: np.ndarray, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """u and v of layers/weights.py from the code's u [1, outputs]; u as it is where it does not fit the kernel."""
    matrix = kernel.reshape(-1, kernel.shape[-1]) if kernel.ndim else kernel.reshape(1, 1)
    if u.size != matrix.shape[-1]:
        return u, u
    v = matrix @ u.reshape(-1)
    v = v / max(np.linalg.norm(v), _FLOOR)
    u = v @ matrix
    return u / max(np.linalg.norm(u), _FLOOR), v
