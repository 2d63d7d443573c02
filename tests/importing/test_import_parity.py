"""Runs made of the originals' files compute what the originals do (golden.zip; see make_golden.py)."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from make_golden import SIZE, STEP, few, images, styles

import tfaclgan
from tfaclgan.engine.tensorflow import Engine
from tfaclgan.importing import importer, originals
from tfaclgan.methods import base
from tfaclgan.training import checkpoint, rundir

FILES = {
    "acl_gan": ("acl_gan", ["acl_gan/gen_00350000.pt", "acl_gan/dis_00350000.pt", "acl_gan/optimizer.pt"]),
    "munit": ("munit", ["munit/dis_00350000.pt", "munit/gen_00350000.pt"]),
    "ugatit_light": ("ugatit", ["ugatit/light_params_0001000.pt"]),
    "ugatit_full": ("ugatit", ["ugatit/full_params_0001000.pt"]),
    "ugatit_fork": ("ugatit", ["ugatit/fork_params_0002000.pt"]),
    "tf_full": ("ugatit", ["tf1/UGATIT_tiny_lsgan_4resblock_4dis_1_1_10_10_1000_sn_smoothing"]),
    "tf_light": ("ugatit", ["tf1/UGATIT_light_tiny_lsgan_4resblock_4dis_1_1_10_10_1000/UGATIT_light.model-4.index"]),
    "cyclegan": ("cyclegan", [f"cyclegan/latest_net_{n}.pth" for n in ("G_A", "G_B", "D_A", "D_B")]),
    "cyclegan_unet": ("cyclegan", [f"cyclegan_unet/latest_net_{n}.pth" for n in ("G_A", "D_A")]),
}
X = images(1)
_LARGEST = {}


def make(golden, folder, kind):
    name, files = FILES[kind]
    method = base.get(name)
    found = originals.find(name, [str(golden / file) for file in files], method.config(), given=set())
    recipe = method.recipe_for(found.config) if method.recipe_for else method.recipe
    run = rundir.Run(str(folder / kind), method, found.config, (*(found.sides or (SIZE, SIZE)), found.channels), {})
    lines = importer.write(found, run, recipe)
    return found, recipe, lines


@pytest.fixture(scope="module")
def runs(golden, tmp_path_factory):
    """kind -> (Found, Recipe, console lines, Translator), made when first asked for."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def get(kind):
        if kind not in made:
            found, recipe, lines = make(golden, folder, kind)
            made[kind] = found, recipe, lines, tfaclgan.load(str(folder / kind))
        return made[kind]

    return get


def equal(kind, actual, expected):
    actual = few(np.asarray(actual))
    assert actual.shape == expected.shape
    difference = float(np.max(np.abs(actual - expected)))
    _LARGEST[kind] = max(_LARGEST.get(kind, 0.0), difference)
    assert difference < 1e-4
    assert np.max(np.abs(expected)) > 1e-3  # something was compared
    print(f"{kind}: largest difference {_LARGEST[kind]:.1e}")


def test_acl_gan(runs, expected):
    _, _, _, translator = runs("acl_gan")
    config = translator.run.config
    assert (config.width, config.downsamples, config.residual_blocks, config.mlp_dim, config.style_dim) == (
        1,
        2,
        1,
        4,
        3,
    )
    assert (config.discriminator_width, config.discriminator_scales, config.discriminator_layers) == (1, 2, 2)
    result = translator.translate_full(X, style=styles())
    equal("acl_gan", result.image, expected["acl_gan/translation"])
    equal("acl_gan", result.mask, expected["acl_gan/mask"])
    equal("acl_gan", translator.encode_style(X), expected["acl_gan/style"])
    g_s = translator.networks["g_s"]
    equal("acl_gan", g_s.decode(g_s.content(X), styles()), expected["acl_gan/back"])
    for name, seen in (("d_s", X), ("d_t", X), ("d_hat", np.concatenate([X, images(2)], axis=-1))):
        for i, scores in enumerate(translator.networks[name](seen)):
            equal("acl_gan", scores, expected[f"acl_gan/{name}/{i}"])


def test_optimizer_of_acl_gan(runs, expected):
    """Second-last weight of a list: a kernel of the MLP's end, and a score's kernel."""
    _, _, _, translator = runs("acl_gan")
    found, state = checkpoint.load_newest(translator.run.folder("checkpoints"))
    assert found.step == STEP == int(state["step"])
    assert int(state["optimizers/generators/iterations"]) == 2
    assert int(state["optimizers/discriminators/iterations"]) == 3
    for phase, network, path, axes in (
        ("generators", "g_s", "mlp/dense2/kernel", (1, 0)),
        ("discriminators", "d_hat", "scale1_score/kernel", (2, 3, 1, 0)),
    ):
        moments = expected[f"acl_gan/moments/{network}"]
        for slot, value in zip("mv", moments, strict=True):
            ours = state[f"optimizers/{phase}/{slot}/{network}/{path}"]
            np.testing.assert_array_equal(ours, value.transpose(axes))
            assert np.any(ours)


def test_munit(runs, expected):
    _, _, _, translator = runs("munit")
    equal("munit", translator.translate(X, "a2b", styles()), expected["munit/a2b"])
    equal("munit", translator.translate(X, "b2a", styles()), expected["munit/b2a"])
    equal("munit", translator.encode_style(X, "a2b"), expected["munit/style"])
    for name in ("d_a", "d_b"):
        for i, scores in enumerate(translator.networks[name](X)):
            equal("munit", scores, expected[f"munit/{name}/{i}"])


@pytest.mark.parametrize("kind", ["ugatit_light", "ugatit_full", "ugatit_fork"])
def test_ugatit(runs, expected, kind):
    found, _, _, translator = runs(kind)
    config = translator.run.config
    assert config.light == {"ugatit_light": 1, "ugatit_full": 0, "ugatit_fork": 2}[kind]
    assert found.sides == ((SIZE, SIZE) if kind == "ugatit_full" else None)
    average = "_ema" if kind == "ugatit_fork" else ""
    for name, network in translator.networks.items():
        if name.startswith("g_"):  # what translations use
            made, key = network.paint(X), f"{kind}/{name}{average}"
        else:
            made, key = network.judge(X), f"{kind}/{name}"
        outputs = {"image": made[0], "logits": made.logits, "heatmap": made.heatmap}
        if average and name.startswith("g_"):
            outputs["masks"] = made.masks
        for output, value in outputs.items():
            equal(kind, value, expected[f"{key}/{output}"])
    equal(kind, translator.translate(X), expected[f"{kind}/g_a2b{average}/image"])


def test_the_fork_keeps_weights_and_averages(runs, expected):
    found, _, lines, translator = runs("ugatit_fork")
    config = found.config
    assert (config.profile, config.excite, config.attention_masks, config.attention_input) == ("en", True, 2, True)
    assert (config.global_layers, config.local_layers, config.spectral_norm) == (5, 4, True)
    assert any("moving averages" in line for line in lines)
    _, state = checkpoint.load_newest(translator.run.folder("checkpoints"))
    network = translator.networks["g_a2b"]
    before = [variable.numpy() for variable in network.variables]
    importer.assign(network, found.states["g_a2b"], config, "ugatit", "file")
    equal("ugatit_fork", network.paint(X).image, expected["ugatit_fork/g_a2b/image"])
    kernel = "encoder/stem_conv/kernel"
    assert np.any(state[f"networks/g_a2b/{kernel}"] != state[f"averages/g_a2b/{kernel}"])
    for variable, value in zip(network.variables, before, strict=True):
        variable.assign(value)


@pytest.mark.parametrize("kind", ["tf_full", "tf_light"])
def test_ugatit_of_tensorflow_1(runs, expected, kind):
    found, _, lines, translator = runs(kind)
    full = kind == "tf_full"
    config = translator.run.config
    assert (config.profile, config.light, config.width, config.residual_blocks) == ("tf", 1 - full, 1, 4)
    assert (config.global_layers, config.local_layers, config.discriminator_width) == (5, 3, 1)
    assert (config.spectral_norm, config.rho_smoothing) == (full, 0.1 if full else 0.0)
    assert found.sides == ((SIZE, SIZE) if full else None)
    for name, network in translator.networks.items():
        made = network.paint(X) if name.startswith("g_") else network.judge(X)
        for output, value in {"image": made[0], "logits": made.logits, "heatmap": made.heatmap}.items():
            equal(kind, value, few(expected[f"{kind}/{name}/{output}"]))
    equal(kind, translator.translate(X), few(expected[f"{kind}/g_a2b/image"]))
    assert any("optimiser states at step 4 (updates: generators 3, discriminators 3)" in line for line in lines)
    _, state = checkpoint.load_newest(translator.run.folder("checkpoints"))
    for slot, value in zip("mv", expected[f"{kind}/moments"], strict=True):
        ours = state[f"optimizers/generators/{slot}/g_b2a/decoder/block3_1_conv/kernel"]
        np.testing.assert_array_equal(ours, value)
        assert np.any(ours)


def test_spectral_norms_of_tensorflow_1_are_a_power_step_further(runs):
    """The code keeps u only and steps in every pass: v is made of the kernel, and both are unit vectors."""
    found, _, _, translator = runs("tf_full")
    theirs, layer = found.states["d_local_b"], translator.networks["d_local_b"].trunk.get_layer("last_conv")
    matrix = theirs["conv_last/kernel"].reshape(-1, layer.filters).astype(np.float64)
    v = matrix @ theirs["conv_last/u"][0]
    u = v @ matrix
    np.testing.assert_allclose(layer.v, v / np.linalg.norm(v), atol=1e-6)
    np.testing.assert_allclose(layer.u, u / np.linalg.norm(u), atol=1e-6)
    assert np.max(np.abs(np.asarray(layer.u))) > 0.1


@pytest.mark.parametrize("kind", ["cyclegan", "cyclegan_unet"])
def test_cyclegan(runs, expected, kind):
    _, _, lines, translator = runs(kind)
    equal(kind, translator.translate(X, "a2b"), expected[f"{kind}/G_A"])
    equal(kind, translator.networks["d_b"](X), expected[f"{kind}/D_A"])
    if kind == "cyclegan":
        equal(kind, translator.translate(X, "b2a"), expected[f"{kind}/G_B"])
        equal(kind, translator.networks["d_a"](X), expected[f"{kind}/D_B"])
    else:
        assert any("not in the files: g_ba, d_a" in line for line in lines)


@pytest.mark.parametrize("kind", FILES)
def test_training_takes_the_checkpoint(runs, kind):
    """Every name and shape that the engine wants is there."""
    _, recipe, _, translator = runs(kind)
    run = rundir.read_run(translator.run.path)
    engine = Engine(run.method, run.config, image_shape=run.image_shape, recipe=recipe, xla="off")
    found, state = checkpoint.load_newest(run.folder("checkpoints"))
    engine.load_state(state, found.path)
    origin = json.loads(pathlib.Path(run.folder("imported.json")).read_text())
    assert origin["files"]
    assert all(len(file["sha256"]) == 64 for file in origin["files"])
