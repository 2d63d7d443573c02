"""ACL-GAN against figures of the official PyTorch code in float64 (reference, section 13)."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from munit_oracle import FixedContext, NumpyAdam, build, fill, gradients, images, norm, styles, total

from tfaclgan.layers.resampling import average_pool_counted
from tfaclgan.losses.adversarial import LEAST_SQUARES
from tfaclgan.methods import acl_gan
from tfaclgan.networks import munit
from tfaclgan.training.optimizers import CoupledAdam

MODULES = {"g_t": "gen_AB", "g_s": "gen_BA", "d_s": "dis_A", "d_t": "dis_B", "d_hat": "dis_2"}
CONFIG = acl_gan.Config(mask_bound_scale="code")
DISCRIMINATORS, GENERATORS = acl_gan.phases(CONFIG)
BATCH = {"a": images(1), "b": images(2)}
PIXELS = 2 * 64 * 64


def context():
    z = styles()
    names = [f"{step}/z{i}" for step in ("discriminators", "generators") for i in (1, 2, 3)]
    return FixedContext(dict(zip(names, z, strict=True)))


def close(value, expected, digits=9):
    """Equal to the figure as printed, to half a unit of its last digit and 1e-9 relative."""
    return value == pytest.approx(expected, rel=1e-9, abs=0.6 * 10**-digits)


@pytest.fixture(scope="module")
def networks():
    built = build(acl_gan, CONFIG)
    fill(built, MODULES, CONFIG)
    return built


@pytest.fixture(scope="module")
def discriminator_step(networks):
    return gradients(DISCRIMINATORS, networks, BATCH, context(), CONFIG)


@pytest.fixture(scope="module")
def generator_step(networks):
    return gradients(GENERATORS, networks, BATCH, context(), CONFIG)


def test_parameters(networks):
    assert sum(network.count_params() for network in networks.values()) == 54_881_377


def test_content(networks):
    content = networks["g_t"].content(BATCH["a"]).numpy()
    assert close(np.abs(content).mean(), 1.692857520)
    assert close(content[0, 0, 0, 0], -3.535234497)
    assert close(content[1, 15, 15, 255], 0.220950926)


def test_style(networks):
    style = networks["g_t"].style(BATCH["a"]).numpy()
    for value, expected in zip(style[0], (1.072162924, 0.143972769, -0.360922682)):
        assert close(value, expected)


def test_adain_numbers(networks):
    numbers = networks["g_t"].mlp(styles()[0]).numpy()
    assert close(np.abs(numbers).mean(), 1.081565363)
    assert close(numbers[0, 0], -0.880239865)
    assert close(numbers[0, 256], 1.325488849)
    assert close(numbers[1, 4095], -1.266630968)


def test_decode(networks):
    generator = networks["g_t"]
    raw = generator.decode(generator.content(BATCH["a"]), styles()[0]).numpy()
    for value, expected in zip(raw.mean((0, 1, 2)), (0.786616622, -0.220134988, -0.701667820, 0.443959695)):
        assert close(value, expected)
    assert close(raw[1, 63, 63, 3], 0.714470571)


def test_scores(networks):
    alone = networks["d_s"](BATCH["a"])
    assert [tuple(s.shape) for s in alone] == [(2, 4, 4, 1), (2, 2, 2, 1), (2, 1, 1, 1)]
    for score, expected in zip(alone, (-0.879511856, 0.032178461, 0.449116863)):
        assert close(score.numpy().mean(), expected)
    pairs = networks["d_hat"](np.concatenate([BATCH["a"], BATCH["b"]], -1))
    for score, expected in zip(pairs, (0.470651605, 0.190286591, 0.044738898)):
        assert close(score.numpy().mean(), expected)


def test_pooling():
    pooled = average_pool_counted(tf.constant(BATCH["a"])).numpy()
    assert close(pooled[0, 0, 0, 0], 0.189375278)
    assert close(pooled[0, 31, 31, 0], -0.191438592)
    assert close(np.abs(pooled).mean(), 0.169563939)


def test_discriminator_loss(discriminator_step):
    loss, _ = discriminator_step
    assert close(float(loss.terms["d_s"]), 7.160853016)
    assert close(float(loss.terms["d_t"]), 3.530426348)
    assert close(float(loss.terms["d_hat"]), 0.2 * 2.743067872)
    assert close(total(loss), 11.239892938, digits=8)


def test_discriminator_gradients(discriminator_step):
    _, grads = discriminator_step
    assert close(norm(grads, "d_s/"), 209.731497511)
    assert close(norm(grads, "d_t/"), 109.338284804)
    assert close(norm(grads, "d_hat/"), 15.670246376)


def test_adversarial_terms_of_generators(generator_step):
    loss, _ = generator_step
    assert close(float(loss.terms["adversarial_d_s"]), 3.300609806)
    assert close(float(loss.terms["adversarial_d_t"]), 2.311111023)
    assert close(float(loss.terms["consistency_d_hat"]), 0.2 * 2.784833097)


def test_mask_terms(networks, generator_step):
    """Each mask's terms by the printed sums, and their sum as the loss has it."""
    z = styles()[3:]
    source = BATCH["a"]
    bar, mask_bar = munit.blend(networks["g_t"].decode(networks["g_t"].content(source), z[0]), source)
    _, mask_tilde = munit.blend(networks["g_s"].decode(networks["g_s"].content(source), z[1]), source)
    _, mask_hat = munit.blend(networks["g_s"].decode(networks["g_s"].content(bar), z[2]), bar)
    sizes = (5282.401699645, 5767.043717812, 8318.254867122)
    digits = (46452.819688359, 43415.077334393, 32556.368802736)
    for mask, size, digit in zip((mask_bar, mask_tilde, mask_hat), sizes, digits):
        size_term, digit_term, _ = acl_gan._mask_terms([mask], context(), CONFIG)
        assert close(float(size_term) * PIXELS, size)
        assert close(float(digit_term) * PIXELS, digit)
    loss, _ = generator_step
    assert close(float(loss.terms["mask_size"]), 0.025 * sum(sizes) / (3 * PIXELS))
    assert close(float(loss.terms["mask_indecision"]), 0.025 * sum(digits) / (3 * PIXELS))


def test_identities_and_total(generator_step):
    loss, _ = generator_step
    assert close(float(loss.terms["identity_g_s"]), 0.736219138)
    assert close(float(loss.terms["identity_g_t"]), 0.775519791)
    assert close(total(loss), 7.824664623)


def test_generator_gradients(generator_step):
    _, grads = generator_step
    assert close(norm(grads, "g_t/"), 261.257811725)
    assert close(norm(grads, "g_s/"), 97.609556633)
    assert close(norm(grads, "g_t/mlp/"), 46.698479415)


@pytest.fixture
def changing_networks(networks):
    """The networks, set back afterwards."""
    variables = [variable for network in networks.values() for variable in network.variables]
    before = [variable.numpy() for variable in variables]
    yield networks
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)


@pytest.mark.parametrize("ours", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["CoupledAdam", "by hand"])
def test_one_round_of_updates(discriminator_step, generator_step, changing_networks, ours):
    """A discriminators' update seen by the generators' loss, and theirs by the discriminators' loss."""
    networks = changing_networks

    def update(phase, grads):
        if not ours:
            NumpyAdam(networks, phase.networks).step(grads)
            return
        variables = [v for name in phase.networks for v in networks[name].trainable_variables]
        optimizer = CoupledAdam(1e-4, 0.5, 0.999, 1e-8, l2=1e-4)
        optimizer.build(variables)
        optimizer.apply([tf.constant(grads[v.path]) for v in variables], variables)

    # CoupledAdam holds its learning rate in float32.
    tolerance = {"rel": 1e-7} if ours else {"rel": 1e-9}
    update(DISCRIMINATORS, discriminator_step[1])
    loss, grads = gradients(GENERATORS, networks, BATCH, context(), CONFIG)
    assert total(loss) == pytest.approx(43.630733302, **tolerance)
    update(GENERATORS, grads)
    loss = DISCRIMINATORS.loss(networks, BATCH, context(), CONFIG)
    assert total(loss) == pytest.approx(17.473967122, **tolerance)


@pytest.mark.slow
def test_float32_stays_close(networks):
    """The same weights in float32: the losses keep six digits, as the official code does in float32."""
    single = acl_gan.networks(CONFIG, (64, 64, 3))
    for name, network in single.items():
        for ours, exact in zip(network.variables, networks[name].variables, strict=True):
            ours.assign(exact.numpy())
    batch = {key: value.astype("float32") for key, value in BATCH.items()}
    draws = {key: value.astype("float32") for key, value in context().draws.items()}
    for phase, expected in ((DISCRIMINATORS, 11.239892938), (GENERATORS, 7.824664623)):
        loss = phase.loss(single, batch, FixedContext(draws), CONFIG)
        assert all(term.dtype == "float32" for term in loss.terms.values())
        assert total(loss) == pytest.approx(expected, rel=3e-6)


def test_scores_can_be_split_after_one_call(networks):
    """One call on a concatenated batch gives what separate calls give."""
    together = networks["d_s"](np.concatenate([BATCH["a"], BATCH["b"]]))
    for part, name in enumerate(("a", "b")):
        alone = networks["d_s"](BATCH[name])
        mine = acl_gan.adversarial.split(together, 2)[part]
        assert float(LEAST_SQUARES.real(alone)) == pytest.approx(float(LEAST_SQUARES.real(mine)), rel=1e-12)
