"""Council-GAN against the official PyTorch code in float64 (council_golden.npz; see make_council_golden.py)."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from make_council_golden import MEMBERS, MODULES, OPTIONS, SIZE, STYLE, WEIGHTS, image, styles, value
from munit_oracle import NumpyAdam, build, gradients

from tfaclgan.losses import focus
from tfaclgan.methods import council_gan

GOLDEN = dict(np.load(pathlib.Path(__file__).parent / "council_golden.npz"))
CONFIG = council_gan.Config(
    members=MEMBERS,
    style_dim=STYLE,
    adversarial_weight=WEIGHTS["gan"],
    council_weight=WEIGHTS["council"],
    council_start=0,
    colleague_style=0.7,
    match_history=7,
    focus_start=0,
    mask_indecision_weight=WEIGHTS["indecision"],
    mask_size_weight=WEIGHTS["size"],
    mask_variation_weight=WEIGHTS["variation"],
    **OPTIONS,
)
BATCH = {"a": image(1), "b": image(2)}


def official_names():
    """{our path inside a network of the kind: official name inside its module}, kernels and biases together."""
    generator, judge, council = {}, {}, {}
    for i, stem in enumerate(("stem", "down0", "down1")):
        generator[f"content/{stem}_conv"] = f"enc_content.model.{i}.conv"
    for i in range(OPTIONS["residual_blocks"]):
        for j in range(2):
            generator[f"content/residual{i}_{j}_conv"] = f"enc_content.model.3.model.{i}.model.{j}.conv"
            generator[f"decoder/residual{i}_{j}_conv"] = f"dec.model.0.model.{i}.model.{j}.conv"
    for i in range(2):
        for j in range(2):
            generator[f"decoder/up{i}_{j}_conv"] = f"dec.model.{2 + 3 * i + j}.conv"
        generator[f"decoder/mix{i}_conv"] = f"dec.model.{7 + i}.conv"
    generator["decoder/output_conv"] = "dec.model.9.conv"
    for i in range(3):
        generator[f"mlp/dense{i}"] = f"mlp.model.{i}.fc"
    count = OPTIONS["discriminator_layers"]
    for scale in range(2):
        for i in range(count):
            judge[f"scale{scale}_{i}_conv"] = council[f"scale{scale}_{i}_conv"] = f"cnns.{scale}.{i}.conv"
        judge[f"scale{scale}_score_conv"] = council[f"scale{scale}_mix_conv"] = f"cnns.{scale}.{count}"
        council[f"scale{scale}_score_conv"] = f"cnns.{scale}.{count + 1}"
    return {"g": generator, "d": judge, "c": council}


def fill(networks):
    names = official_names()
    for name, network in networks.items():
        kind, member = name.split("_")
        for variable in network.trainable_variables:
            layer, part = variable.path.split("/", 1)[1].rsplit("/", 1)
            shape = tuple(variable.shape)
            official = (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape[::-1]
            suffix = {"kernel": "weight", "bias": "bias"}[part]
            drawn = value(f"{MODULES[kind]}.{member}.{names[kind][layer]}.{suffix}", official)
            variable.assign(drawn.transpose(2, 3, 1, 0) if len(shape) == 4 else drawn.T)
    return networks


class Context:
    """What the losses may draw and keep, on one replica."""

    replicas = 1

    def __init__(self, step, style, memory):
        self.step, self.style, self.memory = tf.constant(step, tf.int64), style, memory

    def normal(self, name, shape):
        return tf.reshape(tf.constant(self.style), shape)

    def uniform(self, name, shape):
        """The first colleague has the smallest number: it is the one seen twice."""
        return tf.constant(np.tile(np.arange(1, shape[1] + 1) / 10, (shape[0], 1)))

    def replica_mean(self, values):
        return values


@pytest.fixture(scope="module")
def networks():
    return fill(build(council_gan, CONFIG, (SIZE, SIZE, 3)))


def test_forward(networks):
    painted, masks = networks["g_1"](BATCH["a"], styles()[0, 0])
    np.testing.assert_allclose(painted[:, ::3, ::3], GOLDEN["image"], atol=1e-10)
    np.testing.assert_allclose(masks[:, ::3, ::3], GOLDEN["masks"], atol=1e-10)
    scores = networks["d_1"](BATCH["a"])
    np.testing.assert_allclose([s.numpy().mean() for s in scores], GOLDEN["d"], rtol=1e-10)
    scores = networks["c_1"](np.concatenate([BATCH["a"], BATCH["b"]], axis=-1))
    np.testing.assert_allclose([s.numpy().mean() for s in scores], GOLDEN["c"], rtol=1e-10)


def test_two_turns_of_all_three_phases(networks):
    """The council is heard from step 0 and scaled by its history; masks are judged after step 0, in the second turn."""
    phases = council_gan.phases(CONFIG)
    batch = {key: tf.constant(images) for key, images in BATCH.items()}
    optimizers = [NumpyAdam(networks, phase.networks) for phase in phases]
    shape = council_gan.memory(CONFIG, (SIZE, SIZE, 3))["terms"].shape
    memory = {"terms": tf.zeros((2, *shape), tf.float64)}
    for turn in (0, 1):
        for phase, optimizer, style in zip(phases, optimizers, styles()[turn], strict=True):
            loss, gradient = gradients(phase, networks, batch, Context(turn, style, memory), CONFIG)
            memory = {**memory, **loss.memory}
            optimizer.step(gradient)
            terms = {name: float(term) for name, term in loss.terms.items()}
            if phase.name != "generators":
                # Biases in front of norms have no true gradient; Adam makes steps of rounding, unseen by the outputs.
                kind = phase.name[0]
                actual = [terms[f"{kind}_{i}"] for i in range(MEMBERS)]
                np.testing.assert_allclose(actual, GOLDEN[f"{turn}/{phase.name}"], rtol=1e-6)
                continue
            for official, ours, weight in (("adversarial", "adversarial", WEIGHTS["gan"]), ("heard", "council", 1)):
                actual = [terms[f"{ours}_{i}"] / weight for i in range(MEMBERS)]
                np.testing.assert_allclose(actual, GOLDEN[f"{turn}/{official}"], rtol=1e-6)
            assert sum(terms.values()) == pytest.approx(GOLDEN[f"{turn}/generators"].sum(), rel=1e-6)


def test_parameters():
    """The reference's figures, less the style encoder that nothing trains."""
    generator, style_encoder, judge, council = (int(count) for count in GOLDEN["parameters"])
    assert 4 * (generator + judge + council) == 115_834_176
    built = council_gan.networks(council_gan.Config(members=2), (256, 256, 3))
    assert built["g_0"].count_params() == generator - style_encoder == 14_624_908
    assert built["d_0"].count_params() == judge == 5_514_114
    assert built["c_0"].count_params() == council == 6_040_194


def test_the_council_takes_turns():
    config = council_gan.Config(council_start=10, council_on_steps=3, council_off_steps=2)
    on = [bool(council_gan._council_is_on(tf.constant(step), config)) for step in range(20)]
    assert on == [step >= 10 and step % 5 < 3 for step in range(20)]


def test_variation_counts_differences_of_neighbours():
    masks = np.random.RandomState(0).uniform(size=(2, 4, 5, 3))
    expected = np.abs(np.diff(masks, axis=1)).sum() + np.abs(np.diff(masks, axis=2)).sum()
    assert float(focus.variation(tf.constant(masks))) == pytest.approx(expected / masks.size, rel=1e-12)


def test_each_image_sees_every_colleague_and_one_again():
    config = council_gan.Config(members=4, comparisons=4)

    class Draws:
        def uniform(self, name, shape):
            return tf.constant(np.random.RandomState(0).uniform(size=shape))

    shares = np.stack(council_gan._shares(1, 5, Draws(), config), axis=1)
    assert shares.shape == (5, 3)
    assert (shares.sum(axis=1) == 4).all()
    assert sorted(np.unique(shares)) == [1, 2]
