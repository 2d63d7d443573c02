"""U-GAT-IT's networks: parameter counts and sizes of the reference, and profile tf restated in NumPy."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.engine.base import build_networks, named_variables
from tfaclgan.errors import UserError
from tfaclgan.methods import ugatit
from tfaclgan.networks import ugatit_sizes


def count(make):
    """Trainable numbers of a network that is built without its values: the full generators have a gigabyte."""
    with keras.StatelessScope(initialize_variables=False):
        network = make()
    keras.src.backend.common.global_state.set_global_attribute("uninitialized_variables", [])
    return sum(int(np.prod(variable.shape)) for variable in network.trainable_variables)


@pytest.mark.parametrize(
    "profile, side, light, expected",  # ugatit.md 1.7
    [
        ("tf", 256, 0, 278_970_308),
        ("tf", 128, 0, 77_643_716),
        ("tf", 64, 0, 27_312_068),
        ("tf", 256, 1, 10_600_388),
        ("pt", 256, 0, 278_959_808),
        ("pt", 128, 0, 77_633_216),
        ("pt", 64, 0, 27_301_568),
        ("pt", 128, 1, 10_589_888),
        ("en", 384, 0, 614_512_389),
        ("en", 256, 0, 278_968_069),
        ("en", 256, 1, 10_598_149),
        ("en", 256, 16, 27_309_829),
        ("en", 256, 32, 77_641_477),
    ],
)
def test_parameters_of_a_generator(profile, side, light, expected):
    config = ugatit.Config(profile=profile, light=light)
    assert count(lambda: ugatit.generator(config, (side, side, 3), "g_a2b")) == expected


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"excite": True}, 10_598_149 + 266_760),
        ({"attention_masks": 2}, 15_699_786),
        ({"attention_masks": 2, "attention_input": True}, 15_690_375),
        ({"attention_masks": 2, "attention_input": True, "excite": True}, 16_090_515),
    ],
)
def test_parameters_of_the_forks_options(options, expected):
    config = ugatit.Config(profile="en", light=1, **options)
    assert count(lambda: ugatit.generator(config, (64, 64, 3), "g_a2b")) == expected


@pytest.mark.parametrize(
    "profile, layers, expected",
    [
        ("tf", 7, 53_128_130),
        ("tf", 5, 3_290_050),
        ("pt", 7, 53_130_176),
        ("pt", 5, 3_290_560),
        ("en", 7, 53_130_179),
        ("en", 5, 3_290_563),
        ("en", 6, 13_262_787),
        ("en", 4, 942_403),
        ("en", 3, 243_395),
    ],
)
def test_parameters_of_a_discriminator(profile, layers, expected):
    config = ugatit.Config(profile=profile, global_layers=layers)
    assert count(lambda: ugatit.discriminator(config, 3, "d_global_a")) == expected


@pytest.mark.parametrize(
    "layers, keep, side, expected",  # ugatit.md 1.4: after the strides, after 4x4 of stride 1, scores
    [
        (7, False, 256, [8, 7, 6]),
        (7, True, 256, [8, 8, 8]),
        (5, False, 256, [32, 31, 30]),
        (5, True, 256, [32, 32, 32]),
        (7, False, 128, [4, 3, 2]),
        (5, False, 128, [16, 15, 14]),
    ],
)
def test_sides_of_a_discriminators_maps(layers, keep, side, expected):
    assert ugatit_sizes.discriminator_sides(side, layers, keep)[-3:] == expected


def test_smallest_sizes():
    assert [ugatit_sizes.minimum_side((7, 5), keep) for keep in (False, True)] == [96, 96]
    assert [ugatit_sizes.minimum_side((5,), keep) for keep in (False, True)] == [24, 24]
    for keep in (False, True):
        assert ugatit_sizes.discriminator_accepts(64, 6, keep)
        assert not ugatit_sizes.discriminator_accepts(80, 7, keep)


@pytest.mark.parametrize("profile", ["tf", "pt"])
@pytest.mark.parametrize("layers", [(5, 4), (4, 3)])
def test_the_smallest_size_is_exact(profile, layers):
    """The networks work at it; four pixels less cannot be computed."""
    tiny = {"width": 2, "residual_blocks": 1, "discriminator_width": 2}
    config = ugatit.Config(profile=profile, light=1, global_layers=layers[0], local_layers=layers[1], **tiny)
    side = ugatit.minimum_size(config)
    networks = build_networks(ugatit.METHOD, config, (side, side, 3))
    scores = networks["d_global_a"].judge(networks["g_a2b"].paint(tf.zeros((1, side, side, 3))).image).scores
    assert min(scores.shape[1:3]) >= 1
    ugatit.check(config, (side, side, 3))
    with pytest.raises(UserError, match=f"at least {side} pixels"):
        ugatit.check(config, (side - 4, side, 3))
    if side > 8:
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
            networks["d_global_a"].judge(tf.zeros((1, side - 4, side - 4, 3)))


def test_sizes_are_refused_with_advice():
    with pytest.raises(UserError, match=r"multiples of 4 .* 100 x 256"):
        ugatit.check(ugatit.Config(), (98, 256, 3))
    with pytest.raises(UserError, match=r"at least 96 pixels.*or set --ugatit.global_layers=6"):
        ugatit.check(ugatit.Config(), (64, 64, 3))


def test_the_full_model_takes_one_size():
    config = ugatit.Config(width=2, residual_blocks=1)
    full = ugatit.generator(config, (16, 32, 3), "g_a2b")
    assert full.paint(tf.zeros((2, 16, 32, 3))).image.shape == (2, 16, 32, 3)
    with pytest.raises(ValueError, match="16 x 32"):
        full.paint(tf.zeros((2, 32, 32, 3)))
    light = ugatit.generator(ugatit.Config(width=2, residual_blocks=1, light=3), (16, 32, 3), "g_a2b")
    assert light.paint(tf.zeros((2, 24, 40, 3))).image.shape == (2, 24, 40, 3)


# -- profile tf, restated ---------------------------------------------------------------------


def convolution(x, kernel, bias, stride=1, pad=0):
    """ugatit.md 1.1: top = left = pad; bottom = right = k - s - pad where k - s is odd."""
    side = kernel.shape[0]
    after = pad if (side - stride) % 2 == 0 else side - stride - pad
    x = np.pad(x, ((0, 0), (pad, after), (pad, after), (0, 0)), mode="reflect") if pad else x
    height, width = ((n - side) // stride + 1 for n in x.shape[1:3])
    total = np.zeros((len(x), height, width, kernel.shape[-1])) + bias
    for i in range(side):
        for j in range(side):
            patch = x[:, i : i + stride * height : stride, j : j + stride * width : stride]
            total += patch @ kernel[i, j]
    return total


class Twin:
    """NumPy, float64, from sections 1.1 to 1.6 of the reference, by the weights of one of our networks."""

    def __init__(self, network):
        self.w = {path: variable.numpy() for path, variable in named_variables(network).items()}

    def conv(self, x, path, stride=1, pad=0):
        return convolution(x, self.w[f"{path}/kernel"], self.w[f"{path}/bias"], stride, pad)

    def norm(self, x, axes, ddof=0):
        return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True, ddof=ddof) + 1e-5)

    def instance_norm(self, x, path):
        return self.norm(x, (1, 2)) * self.w[f"{path}/gamma"] + self.w[f"{path}/beta"]

    def mixed(self, x, rho):
        return rho * self.norm(x, (1, 2)) + (1 - rho) * self.norm(x, (1, 2, 3))

    def cam(self, x, kernel, bias):
        gap, gmp = x.mean((1, 2)), x.max((1, 2))
        logits = np.concatenate([gap @ kernel + bias, gmp @ kernel + bias], 1)
        weights = kernel[:, 0] + bias
        return logits, np.concatenate([x * weights, x * weights], -1)

    def generator(self, x, blocks, light):
        for label, stride, pad in (("stem", 1, 3), ("down0", 2, 1), ("down1", 2, 1)):
            x = self.conv(x, f"encoder/{label}_conv", stride, pad)
            x = np.maximum(self.instance_norm(x, f"encoder/{label}_norm"), 0)
        for i in range(blocks):
            y = self.conv(x, f"encoder/block{i}_0_conv", pad=1)
            y = np.maximum(self.instance_norm(y, f"encoder/block{i}_0_norm"), 0)
            y = self.conv(y, f"encoder/block{i}_1_conv", pad=1)
            x = x + self.instance_norm(y, f"encoder/block{i}_1_norm")
        logits, x = self.cam(x, self.w["cam/both/kernel"], self.w["cam/both/bias"])
        x = np.maximum(self.conv(x, "squeeze"), 0)
        heatmap = x.sum(-1, keepdims=True)
        flat = x.mean((1, 2)) if light else x.reshape(len(x), -1)
        for i in range(2):
            flat = np.maximum(flat @ self.w[f"mlp/dense{i}/kernel"] + self.w[f"mlp/dense{i}/bias"], 0)
        gamma, beta = (
            (flat @ self.w[f"mlp/{k}/kernel"] + self.w[f"mlp/{k}/bias"])[:, None, None] for k in ("gamma", "beta")
        )
        for i in range(blocks):
            y = x
            for j in range(2):
                y = self.conv(y, f"decoder/block{i}_{j}_conv", pad=1)
                rho = np.clip(self.w[f"decoder/block{i}_{j}_norm/rho"] - 0.1, 0, 1)
                y = gamma * self.mixed(y, rho) + beta
                y = np.maximum(y, 0) if j == 0 else y
            x = x + y
        for i in range(2):
            x = self.conv(x.repeat(2, 1).repeat(2, 2), f"decoder/up{i}_conv", pad=1)
            path = f"decoder/up{i}_norm"
            x = self.mixed(x, self.w[f"{path}/rho"]) * self.w[f"{path}/gamma"] + self.w[f"{path}/beta"]
            x = np.maximum(x, 0)
        return np.tanh(self.conv(x, "decoder/output_conv", pad=3)), logits, heatmap

    def divided(self, path):
        kernel = self.w[f"{path}/kernel"]
        return kernel / (self.w[f"{path}/v"] @ kernel.reshape(-1, kernel.shape[-1]) @ self.w[f"{path}/u"])

    def discriminator(self, x, depth):
        for label, stride in [(f"down{i}", 2) for i in range(depth - 2)] + [("last", 1)]:
            path = f"trunk/{label}_conv"
            x = convolution(x, self.divided(path), self.w[f"{path}/bias"], stride, 1)
            x = np.where(x > 0, x, 0.2 * x)
        logits, x = self.cam(x, self.divided("cam/both"), self.w["cam/both/bias"])
        x = self.conv(x, "squeeze")
        x = np.where(x > 0, x, 0.2 * x)
        return convolution(x, self.divided("score"), self.w["score/bias"], 1, 1), logits, x.sum(-1, keepdims=True)


@pytest.mark.parametrize("light", [0, 1])
def test_profile_tf_is_the_references(light):
    tiny = {"width": 3, "residual_blocks": 2, "discriminator_width": 3}
    config = ugatit.Config(light=light, global_layers=6, local_layers=5, **tiny)
    networks = build_networks(ugatit.METHOD, config, (64, 48, 3), dtype="float64")
    random = np.random.RandomState(0)
    x = np.tanh(random.standard_normal((2, 64, 48, 3)))
    for name in ("g_a2b", "d_global_a", "d_local_a"):
        for path, variable in named_variables(networks[name]).items():
            if path.endswith("rho"):
                variable.assign(random.uniform(0, 1, variable.shape))
            elif not path.endswith(("/u", "/v")):
                fan = np.prod(variable.shape[:-1]) if len(variable.shape) > 1 else 1
                variable.assign(random.standard_normal(variable.shape) / np.sqrt(fan))
        for layer in networks[name]._flatten_layers():
            if hasattr(layer, "power_step"):
                layer.power_step()
    for actual, expected in zip(
        networks["g_a2b"].paint(tf.constant(x))[:3], Twin(networks["g_a2b"]).generator(x, 2, light), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)
    for name, depth in (("d_global_a", 6), ("d_local_a", 5)):
        for actual, expected in zip(
            networks[name].judge(tf.constant(x)), Twin(networks[name]).discriminator(x, depth), strict=True
        ):
            np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)
