"""U-GAT-IT against the official PyTorch code and the enhanced fork, run in float64 on the same weights.

The figures are in ugatit_golden.npz; make_ugatit_golden.py makes them from the folders of both codes.
"""

from __future__ import annotations

import dataclasses
import pathlib
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import ugatit_recipe as recipe

from tfaclgan.engine.base import build_networks, named_variables
from tfaclgan.errors import UserError
from tfaclgan.methods import ugatit
from tfaclgan.networks import ugatit_names
from tfaclgan.training.optimizers import CoupledAdam

SMALL = {
    "width": recipe.WIDTH,
    "residual_blocks": recipe.BLOCKS,
    "discriminator_width": recipe.WIDTH,
    "global_layers": 6,
    "local_layers": 5,
}
SHAPE = (recipe.SIZE, recipe.SIZE, 3)


@pytest.fixture(scope="module")
def golden():
    packed = np.load(pathlib.Path(__file__).with_name("ugatit_golden.npz"))
    parts = np.split(packed["values"], np.cumsum(packed["sizes"])[:-1])
    return dict(zip(packed["names"].tolist(), parts, strict=True))


def build(dtype="float64", only="", **options):
    """Networks in this precision, all or only one, and their config."""
    config = ugatit.Config(**{**SMALL, **options})
    method = ugatit.METHOD
    if only.startswith("g"):
        method = dataclasses.replace(method, networks=lambda *given: {only: ugatit.generator(*given, only)})
    elif only:
        method = dataclasses.replace(method, networks=lambda c, shape: {only: ugatit.discriminator(c, 3, only)})
    return build_networks(method, config, SHAPE, dtype=dtype), config


def official_names(network):
    """{our path: the name the codes give this weight}."""
    paths = {v.path.split("/", 1)[1] for v in network.variables}
    chosen = {}
    for official, path in ugatit_names._names_of(network)[0].items():
        spectral = path.replace("/kernel", "/u") in paths and path.endswith("/kernel")
        if path in paths and not (spectral and official.endswith("weight")):
            chosen.setdefault(path, official)
    return chosen


def official_shape(path, shape):
    if len(shape) == 4:
        return (shape[3], shape[2], *shape[:2])
    if len(shape) == 2:
        return (*shape[::-1], 1, 1) if "_excite/" in path else shape[::-1]
    lin = path.endswith("/rho") or ("/up" in path and path.endswith(("gamma", "beta")))
    return (1, *shape, 1, 1) if lin else shape


def fill(network, name):
    state = {}
    for path, official in official_names(network).items():
        variable = named_variables(network)[path]
        state[official] = recipe.value(name, official, official_shape(path, tuple(variable.shape)))
    ugatit_names.assign(network, state, "recipe")


def to_official(path, value):
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return (value.T if value.ndim == 2 else value).reshape(official_shape(path, value.shape))


def check(golden, key, outputs, tolerance=1e-9):
    for name, output in zip(("image", "logits", "heatmap", "masks"), outputs, strict=False):
        if output is None:
            assert f"{key}/{name}" not in golden
        else:
            np.testing.assert_allclose(
                recipe.summary(output), golden[f"{key}/{name}"], rtol=tolerance, atol=tolerance, err_msg=name
            )


GENERATORS = {
    "pt/generator_light0": {"profile": "pt", "light": 0},
    "pt/generator_light1": {"profile": "pt", "light": 1},
    "en/generator_plain": {"profile": "en"},
    "en/generator_light2": {"profile": "en", "light": 2, "excite": True},
    "en/generator_masks": {"profile": "en", "light": 1, "attention_masks": 3, "attention_order": "fork"},
    "en/generator_masks_input": {
        "profile": "en",
        "light": 1,
        "attention_masks": 2,
        "attention_input": True,
        "attention_order": "fork",
        "excite": True,
    },
}


def generator(name, dtype):
    options = GENERATORS[name]
    networks, _ = build(dtype, "g_a2b", **options)
    fill(networks["g_a2b"], "g_a2b")
    return networks["g_a2b"]


@pytest.mark.parametrize("name", GENERATORS)
def test_generator(golden, name):
    check(golden, name, generator(name, "float64").paint(tf.constant(recipe.images("forward"))))


def test_generator_in_single_precision(golden):
    """What a user sees: the drawn weights are larger than trained ones, and so are rounding errors."""
    for name in ("pt/generator_light0", "en/generator_plain"):
        painted = generator(name, "float32").paint(tf.constant(recipe.images("forward"), tf.float32))
        np.testing.assert_allclose(recipe.summary(painted.image)[:-1], golden[f"{name}/image"][:-1], atol=5e-5)
        np.testing.assert_allclose(painted.logits, golden[f"{name}/logits"][:-2].reshape(-1, 2), atol=5e-5)


@pytest.mark.parametrize("depth", [5, 6])
def test_official_discriminator_in_training_and_evaluation(golden, depth):
    """One power step before the first pass, none after: both passes agree, here and there."""
    networks, _ = build(only="d_global_a", profile="pt", global_layers=depth)
    judge = networks["d_global_a"]
    fill(judge, "d_global_a")
    for layer in judge._flatten_layers():
        if hasattr(layer, "power_step"):
            layer.power_step()
    judgement = judge.judge(tf.constant(recipe.images("forward")))
    check(golden, f"pt/discriminator{depth}_train", judgement)
    check(golden, f"pt/discriminator{depth}_eval", judgement)


@pytest.mark.parametrize(
    "depth, spectral, attend", [(6, True, True), (4, True, True), (3, True, False), (5, False, True)]
)
def test_forks_discriminator(golden, depth, spectral, attend):
    networks, _ = build(
        only="d_global_a",
        profile="en",
        global_layers=depth,
        spectral_norm=spectral,
        discriminator_attention=attend,
    )
    judge = networks["d_global_a"]
    fill(judge, "d_global_a")
    for layer in judge._flatten_layers():
        if hasattr(layer, "power_step"):
            layer.power_step()
    x, m = tf.constant(recipe.images("forward")), tf.constant(recipe.mask("forward"))
    key = f"en/discriminator{depth}_{int(spectral)}{int(attend)}"
    check(golden, key, judge.judge(x))
    check(golden, f"{key}_hidden", judge.judge(x, x * m, m))


STEPS = {
    "pt/step_sgd": {},
    "pt/step_adam": {},
    "en/step_plain_adam": {"adversarial_weight": 2.0, "adversarial_weight_a": 0.5, "adversarial_weight_b": 1.5},
    "en/step_blur_sgd": {"blur_loss": True, "discriminator_cam_weight": 0.7},
    "en/step_background_sgd": {
        "background_weight": 50.0,
        "background_unjudged": True,
        "background_detached": True,
        "background_hidden": "both",
        "blur_loss": True,
    },
    "en/step_nocam_sgd": {
        "discriminator_cam_weight": 0.0,
        "discriminator_attention": False,
        "attention_masks": 2,
        "attention_order": "fork",
        "background_hidden": "features",
    },
}
EXACT = {"mask_edge": "as_is", "mask_erosion": False}  # the masks were given to the fork as they are


def settle_norms(network):
    """u and v at the power iteration's end."""
    for layer in network._flatten_layers():
        if hasattr(layer, "power_step") and getattr(layer, "spectral", False):
            left, _, right = np.linalg.svd(
                layer.kernel.numpy().reshape(-1, layer.kernel.shape[-1]), full_matrices=False
            )
            layer.v.assign(left[:, 0])
            layer.u.assign(right[0])


@pytest.mark.parametrize("name", STEPS)
def test_step(golden, name):
    """A data iteration: losses, then every weight's change in the discriminators' and in the generators' step."""
    options = STEPS[name]
    networks, config = build(
        profile=name[:2],
        light=1,
        local_layers=4 if name.startswith("en") else 5,
        residual_blocks=recipe.STEP_BLOCKS,
        **EXACT,
        **options,
    )
    for key, network in networks.items():
        fill(network, key)
        settle_norms(network)
    before = {key: {p: v.numpy() for p, v in named_variables(n).items()} for key, n in networks.items()}
    keys = ["a", "b", "blur_a", "blur_b"] if config.blur_loss else ["a", "b"]
    batch = {key: tf.constant(recipe.images(key)) for key in keys}
    batch |= {f"mask_{key}": tf.constant(recipe.mask(key)) for key in "ab"}
    losses = []
    for phase in ugatit.phases(config):
        for network in phase.power_step:
            for layer in networks[network]._flatten_layers():
                if hasattr(layer, "power_step"):
                    layer.power_step()
        variables = [v for network in phase.networks for v in networks[network].trainable_variables]
        with tf.GradientTape() as tape:
            total = sum(phase.loss(networks, batch, types.SimpleNamespace(carried={}), config).terms.values())
        losses.append(float(total))
        # What nothing depends on, e.g. a classifier that is not used, stays as it is.
        pairs = zip(tape.gradient(total, [v.value for v in variables]), variables, strict=True)
        gradients, variables = zip(*((g, v) for g, v in pairs if g is not None), strict=True)
        if name.endswith("sgd"):
            for variable, gradient in zip(variables, gradients, strict=True):
                variable.assign(variable - recipe.RATE * (gradient + recipe.L2 * variable))
                if variable.constraint is not None:
                    variable.assign(variable.constraint(variable))
        else:
            optimizer = CoupledAdam(recipe.RATE, 0.5, 0.999, 1e-8, l2=recipe.L2)
            optimizer.build(variables)
            optimizer.apply(gradients, variables)
    # The official code prints eight decimals; keras' learning rate is a float32.
    np.testing.assert_allclose(losses, golden[f"{name}/losses"], rtol=1e-8, atol=1e-8)
    compared = 0
    for key, network in networks.items():
        for path, official in official_names(network).items():
            if not named_variables(network)[path].trainable:
                continue
            change = named_variables(network)[path].numpy() - before[key][path]
            expected = golden[f"{name}/{key}/{official}"]
            np.testing.assert_allclose(
                recipe.footprint(official, to_official(path, change)), expected, rtol=1e-5, atol=1e-9, err_msg=official
            )
            compared += 1
    assert compared == sum(k.startswith(f"{name}/") for k in golden) - 1


def test_weights_of_another_model_are_refused():
    networks, _ = build(only="g_a2b", profile="pt", light=1)
    network = networks["g_a2b"]
    names = official_names(network)
    state = {
        official: recipe.value("g", official, official_shape(path, tuple(named_variables(network)[path].shape)))
        for path, official in names.items()
    }
    with pytest.raises(UserError, match=r"nothing for cam/mean/kernel"):
        ugatit_names.assign(network, {k: v for k, v in state.items() if k != "gap_fc.weight"}, "file.pt")
    with pytest.raises(UserError, match=r"1 left over \(left over: gap_fc.bias\)"):
        ugatit_names.assign(network, {**state, "gap_fc.bias": np.zeros(1)}, "file.pt")
    with pytest.raises(UserError, match=r"FC.0.weight has shape"):
        ugatit_names.assign(network, {**state, "FC.0.weight": np.zeros((16, 32))}, "file.pt")
    assert keras.backend.standardize_dtype(network.variables[0].dtype) == "float64"
