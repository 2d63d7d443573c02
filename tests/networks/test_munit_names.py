"""Official weight names."""

from __future__ import annotations

import numpy as np
import pytest

from tfaclgan.errors import UserError
from tfaclgan.networks import munit
from tfaclgan.networks.munit_names import assign, discriminator_names, generator_names, to_keras

SIZES = {"width": 4, "downsamples": 2, "residual_blocks": 1, "style_dim": 3, "mlp_dim": 8}


def generator():
    return munit.Generator(3, mask=True, name="g_t", **SIZES)


def official_state():
    """Random weights for `generator`, with the official names and axes, beside the unused statistics."""
    shapes = {v.path.split("/", 1)[1]: tuple(v.shape) for v in generator().variables}
    random = np.random.RandomState(0)
    state = {}
    for name, path in generator_names(2, 1).items():
        shape = shapes[path]
        shape = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[len(shape)]
        shape = tuple(shapes[path][i] for i in shape)
        if name.startswith("enc_style.model.6.weight"):
            shape = (*shape, 1, 1)
        state[name] = random.standard_normal(shape).astype("float32")
    state["dec.model.0.model.0.model.0.norm.running_mean"] = np.zeros(16)
    return state


def test_names_of_the_released_generator():
    names = generator_names(downsamples=2, residual_blocks=4)
    for official in (
        "enc_style.model.4.conv.weight",
        "enc_style.model.6.bias",
        "enc_content.model.2.conv.weight",
        "enc_content.model.3.model.3.model.1.conv.bias",
        "dec.model.0.model.3.model.1.conv.weight",
        "dec.model.2.norm.gamma",
        "dec.model.4.norm.beta",
        "dec.model.5.conv.weight",
        "mlp.model.2.fc.weight",
    ):
        assert official in names
    network = munit.Generator(3, mask=True, name="g", **{**SIZES, "residual_blocks": 4})
    assert sorted(names.values()) == sorted(v.path.split("/", 1)[1] for v in network.variables)


def test_names_of_the_released_discriminator():
    names = discriminator_names(scales=3, layers_per_scale=4)
    assert {"cnns.0.0.conv.weight", "cnns.2.3.conv.bias", "cnns.1.4.weight"} <= set(names)
    network = munit.discriminator(3, width=2, scales=3, layers_per_scale=4, name="d")
    assert sorted(names.values()) == sorted(v.path.split("/", 1)[1] for v in network.variables)


def test_axes():
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert to_keras(kernel)[1, 2, 0, 1] == kernel[1, 0, 1, 2]
    assert to_keras(kernel[0, 0]).shape == (5, 4)
    np.testing.assert_array_equal(to_keras(kernel[0, 0, 0]), kernel[0, 0, 0])


def test_assign_sets_every_weight():
    network, state = generator(), official_state()
    assign(network, state, generator_names(2, 1), "gen.pt")
    by_path = {v.path: v.numpy() for v in network.variables}
    np.testing.assert_array_equal(by_path["g_t/style/head/kernel"], state["enc_style.model.6.weight"][:, :, 0, 0].T)
    np.testing.assert_array_equal(by_path["g_t/mlp/dense2/bias"], state["mlp.model.2.fc.bias"])
    kernel = state["dec.model.2.conv.weight"]
    np.testing.assert_array_equal(by_path["g_t/decoder/up0_conv/kernel"], kernel.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(by_path["g_t/decoder/up1_norm/gamma"], state["dec.model.4.norm.gamma"])


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda state: state.pop("mlp.model.0.fc.bias"), "gen.pt.*1 weights missing, 0 left over.*mlp.model.0.fc.bias"),
        (lambda state: state.update(extra=np.zeros(3)), "gen.pt.*0 weights missing, 1 left over.*extra"),
        (
            lambda state: state.update({"dec.model.5.conv.bias": np.zeros(3)}),
            r"gen.pt.*dec.model.5.conv.bias has shape \[3\].*decoder/output_conv/bias \[4\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(spoil, message):
    network, state = generator(), official_state()
    before = [v.numpy() for v in network.variables]
    spoil(state)
    with pytest.raises(UserError, match=message) as caught:
        assign(network, state, generator_names(2, 1), "gen.pt")
    assert "\n" not in str(caught.value)
    assert all(np.array_equal(a, v.numpy()) for a, v in zip(before, network.variables))


def test_names_of_another_architecture_are_a_defect_of_the_caller():
    with pytest.raises(ValueError, match="another architecture"):
        assign(generator(), official_state(), generator_names(2, 2), "gen.pt")
