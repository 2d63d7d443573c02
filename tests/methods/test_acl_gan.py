"""ACL-GAN's options against the reference's formulas, written out step by step with one call for each image."""

from __future__ import annotations

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from munit_oracle import FixedContext, build, gradients

from tfaclgan.errors import UserError
from tfaclgan.methods import acl_gan

SMALL = {
    "width": 2,
    "downsamples": 1,
    "residual_blocks": 1,
    "style_dim": 3,
    "mlp_dim": 4,
    "discriminator_width": 2,
    "discriminator_scales": 2,
    "discriminator_layers": 2,
}
SHAPE = (2, 16, 20, 3)
VARIANTS = {
    "released": {},
    "aclmaskpermg": {"identity_mask": True},
    "basic": {"mask_bound": "square", "mask_bound_scale": "code"},
    "aclmaskidt": {"judge_round_trip": False},
    "aclencode": {"style_weight": 0.7},
    "aclidt": {"identity_style": "zero"},
    "aclmix": {"both_directions": True, "mask": False},
    "no mask": {"mask": False},
    "non-saturating": {"adversarial": "non_saturating"},
    "paper's bound": {"mask_bound": "image", "mask_lower": 0.55, "mask_upper": 0.6},
    "code's strength": {"mask_bound_scale": "code", "mask_lower": 0.7, "mask_upper": 0.8, "focus_delta": 0.1},
    "skip": {"skip": True},
    "weights": {"adversarial_weight": 2.0, "consistency_weight": 0.3, "identity_weight": 5.0, "alpha": 0.5},
    "everything": {"style_weight": 1.0, "identity_mask": True, "judge_round_trip": False, "mask_bound": "image"},
    "mix and more": {"both_directions": True, "mask": False, "style_weight": 0.5, "direction": "b2a"},
}


def config_of(**options):
    return acl_gan.Config(**{**SMALL, "mask_lower": 0.6, "mask_upper": 0.7, **options})


def make_batch(shape=SHAPE, seed=0):
    random = np.random.RandomState(seed)
    return {key: random.uniform(-1, 1, shape) for key in ("a", "b")}


def make_context(config, batch=SHAPE[0]):
    random = np.random.RandomState(7)
    count = 6 if config.both_directions else 3
    names = [f"{step}/z{i + 1}" for step in ("discriminators", "generators") for i in range(count)]
    return FixedContext({name: random.standard_normal((batch, config.style_dim)) for name in names})


def make_networks(config, channels=3):
    """Float64 networks with weights away from their initial values; made once for what decides their shapes."""
    return _make_networks(config.mask, config.both_directions, channels, config.skip)


@functools.lru_cache
def _make_networks(mask, both_directions, channels, skip=False):
    config = config_of(mask=mask, both_directions=both_directions, skip=skip)
    keras.utils.set_random_seed(1)
    networks = build(acl_gan, config, (16, 20, channels))
    random = np.random.RandomState(5)
    for network in networks.values():
        for variable in network.variables:
            scale = 0.5 if network.name.startswith("d_") and variable.path.endswith("kernel") else 0.1
            variable.assign(variable.numpy() + scale * random.standard_normal(variable.shape))
    return networks


# -- the reference, written out -------------------------------------------------------------------------------


def paint(generator, content, style, background, config):
    raw = generator.decode(content, style, background)
    if not config.mask:
        return raw, raw, None
    mask = (raw[..., 3:] + 1) / 2
    return raw[..., :3], raw[..., :3] * mask + background * (1 - mask), mask


def real(scores, config):
    if config.adversarial == "least_squares":
        return sum(tf.reduce_mean((s - 1) ** 2) for s in scores)
    return sum(tf.reduce_mean(-tf.math.log(tf.sigmoid(s))) for s in scores)


def fake(scores, config):
    if config.adversarial == "least_squares":
        return sum(tf.reduce_mean(s**2) for s in scores)
    return sum(tf.reduce_mean(-tf.math.log(1 - tf.sigmoid(s))) for s in scores)


def l1(a, b):
    return tf.reduce_mean(tf.abs(a - b))


def written_out(step, networks, batch, context, config):
    """The step's total as section 3 has it; `step` is "discriminators" or "generators"."""
    x_s, x_t = (batch["a"], batch["b"]) if config.direction == "a2b" else (batch["b"], batch["a"])
    x_s, x_t = tf.constant(x_s), tf.constant(x_t)
    g_s, g_t = networks["g_s"], networks["g_t"]
    z = [None, *(tf.constant(context.draws[f"{step}/z{i}"]) for i in range(1, 7 if config.both_directions else 4))]

    def one_way(own, other, x, z_bar, z_tilde, z_hat):
        _, bar, mask_bar = paint(other, other.content(x), z_bar, x, config)
        _, tilde, mask_tilde = paint(own, own.content(x), config.alpha * z_tilde, x, config)
        _, hat, mask_hat = paint(own, own.content(bar), z_hat, bar, config)
        cut = tf.stop_gradient(bar)
        _, judged, _ = paint(own, own.content(cut), z_hat, cut, config)
        return bar, tilde, hat, judged, (mask_bar, mask_tilde, mask_hat)

    bar, tilde, hat, judged, masks = one_way(g_s, g_t, x_s, *z[1:4])
    w, cw = config.adversarial_weight, config.consistency_weight
    if config.both_directions:
        bar_s, tilde_t, hat_t, judged_t, _ = one_way(g_t, g_s, x_t, *z[4:7])
        fakes_s, fakes_t = [tilde, judged, bar_s], [tilde_t, judged_t, bar]
        pairs = [("d_hat_s", x_s, tilde, hat), ("d_hat_t", x_t, tilde_t, hat_t)]
    else:
        fakes_s, fakes_t = [tilde, hat] if config.judge_round_trip else [tilde], [bar]
        pairs = [("d_hat", x_s, tilde, hat)]

    total = 0.0
    for name, x, fakes in (("d_s", x_s, fakes_s), ("d_t", x_t, fakes_t)):
        d = networks[name]
        for candidate in fakes:
            if step == "generators":
                total += w / len(fakes) * real(d(candidate), config)
            else:
                cut = tf.stop_gradient(candidate)
                total += w / len(fakes) * (fake(d(cut), config) + real(d(x), config))
    for name, x, twin, back in pairs:
        d = networks[name]
        scores_twin, scores_back = (d(tf.concat([x, candidate], -1)) for candidate in (twin, back))
        if step == "generators":
            total += cw * (real(scores_twin, config) + fake(scores_back, config))
        else:
            total += cw * (fake(scores_twin, config) + real(scores_back, config))
    if step == "discriminators":
        return total

    for own, x in ((g_s, x_s), (g_t, x_t)):
        style = (
            own.style(x) if config.identity_style == "encoded" else tf.zeros((x.shape[0], config.style_dim), x.dtype)
        )
        colours, blended, _ = paint(own, own.content(x), style, x, config)
        total += config.identity_weight * l1(blended if config.identity_mask else colours, x)
    if config.style_weight:
        reached = l1(g_t.style(bar), z[1]) + l1(g_s.style(tilde), z[2]) + l1(g_s.style(hat), z[3])
        if config.both_directions:
            reached += l1(g_s.style(bar_s), z[4]) + l1(g_t.style(tilde_t), z[5]) + l1(g_t.style(hat_t), z[6])
        total += config.style_weight * reached
    if config.mask:
        total += config.focus_weight * focus_written_out(masks, config)
    return total


def focus_written_out(masks, config):
    n, height, width, _ = masks[0].shape
    everywhere = n * height * width
    total = 0.0
    for mask in masks:
        digit = tf.reduce_sum(1 / (tf.abs(mask - 0.5) + config.focus_epsilon)) / everywhere
        whole = [mask] if config.mask_bound != "image" else [mask[i : i + 1] for i in range(n)]
        for part in whole:
            pixels = everywhere if config.mask_bound != "image" else height * width
            area = tf.reduce_sum(part)
            if config.mask_bound == "square":
                size = config.focus_delta * area**2 / pixels
            else:
                above, below = (
                    tf.nn.relu(area - config.mask_upper * pixels),
                    tf.nn.relu(config.mask_lower * pixels - area),
                )
                size = config.focus_delta * (above**2 + below**2) / pixels
            if config.mask_bound_scale == "normalised":
                size *= 3 * 256 * 256 / pixels
            total += size / len(whole)
        total += digit
    return total if config.mask_bound == "square" else total / 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant(variant):
    """Total and every gradient, in both phases."""
    config = config_of(**VARIANTS[variant])
    networks, batch, context = make_networks(config), make_batch(), make_context(config)
    for phase in acl_gan.phases(config):
        loss, ours = gradients(phase, networks, batch, context, config)
        variables = [v for name in phase.networks for v in networks[name].trainable_variables]
        with tf.GradientTape() as tape:
            expected = written_out(phase.name, networks, batch, context, config)
        assert float(sum(loss.terms.values())) == pytest.approx(float(expected), rel=1e-10)
        values = tape.gradient(expected, [v.value for v in variables], unconnected_gradients="zero")
        assert any(np.abs(v).max() > 1e-3 for v in values)
        for variable, value in zip(variables, values, strict=True):
            np.testing.assert_allclose(ours[variable.path], value, rtol=1e-7, atol=1e-11, err_msg=variable.path)


# -- properties -----------------------------------------------------------------------------------------------


def test_b2a_is_a2b_with_the_domains_swapped():
    a2b, b2a = config_of(), config_of(direction="b2a")
    networks, batch, context = make_networks(a2b), make_batch(), make_context(a2b)
    swapped = {"a": batch["b"], "b": batch["a"]}
    for phase in acl_gan.phases(a2b):
        first = phase.loss(networks, batch, context, a2b)
        second = phase.loss(networks, swapped, context, b2a)
        assert {k: float(v) for k, v in first.terms.items()} == {k: float(v) for k, v in second.terms.items()}


@pytest.mark.parametrize("bound", ["batch", "image", "square"])
def test_strength_of_the_normalised_bound_is_independent_of_batch_and_resolution(bound):
    config = config_of(mask_bound=bound)
    terms = []
    for shape in ((3, 256, 256, 1), (1, 64, 64, 1), (8, 16, 32, 1)):
        masks = [tf.fill(shape, tf.constant(value, tf.float64)) for value in (0.1, 0.65, 0.9)]
        terms.append(float(acl_gan._mask_terms(masks, FixedContext({}), config)[0]))
    assert terms[0] > 1
    assert terms == pytest.approx([terms[0]] * 3, rel=1e-12)


@pytest.mark.parametrize("bound", ["batch", "square"])
def test_both_strengths_agree_at_the_papers_setting(bound):
    masks = [tf.fill((3, 256, 256, 1), tf.constant(value, tf.float64)) for value in (0.1, 0.65, 0.9)]
    sizes = [
        float(acl_gan._mask_terms(masks, FixedContext({}), config_of(mask_bound=bound, mask_bound_scale=scale))[0])
        for scale in ("normalised", "code")
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-12)


def test_effective_coefficient_of_the_released_model():
    """focus_loss * delta * N / 3: 1.64 at batch 3 and 256 pixels, 0.14 at batch 1 and 128 (reference 3.3)."""
    for shape, scale, coefficient in (
        ((3, 256, 256, 1), "code", 1.64),
        ((1, 128, 128, 1), "code", 0.14),
        ((1, 128, 128, 1), "normalised", 1.64),
    ):
        config = acl_gan.Config(mask_bound_scale=scale)
        outside = tf.fill(shape, tf.constant(0.9, tf.float64))  # 0.4 above the upper bound
        inside = tf.fill(shape, tf.constant(0.4, tf.float64))
        size, _, _ = acl_gan._mask_terms([outside, inside, inside], FixedContext({}), config)
        assert config.focus_weight * float(size) / 0.4**2 == pytest.approx(coefficient, abs=0.005)


@pytest.mark.parametrize("scale", ["normalised", "code"])
def test_batch_bound_over_two_replicas_is_that_of_the_whole_batch(scale):
    config = config_of(mask_bound_scale=scale, mask_lower=0.2, mask_upper=0.3)
    whole = [tf.constant(np.random.RandomState(i).uniform(size=(4, 8, 8, 1)) ** (1 + i)) for i in range(3)]
    halves = [[mask[:2] for mask in whole], [mask[2:] for mask in whole]]
    mean = sum(tf.stack([tf.reduce_mean(mask) for mask in half]) for half in halves) / 2

    class Replica(FixedContext):
        replicas = 2

        def replica_mean(self, value):
            assert tuple(value.shape) == (3,)
            return mean

    expected, _, watched = acl_gan._mask_terms(whole, FixedContext({}), config)
    for half in halves:
        size, _, means = acl_gan._mask_terms(half, Replica({}), config)
        assert float(size) == pytest.approx(float(expected), rel=1e-12)
        np.testing.assert_allclose(means, watched, rtol=1e-12)


def test_only_a_bound_on_the_batch_needs_the_other_replicas():
    def crosses(**options):
        return [phase.cross_replica for phase in acl_gan.phases(config_of(**options))]

    assert crosses() == crosses(mask_bound="square") == [False, True]
    assert crosses(mask_bound="image") == crosses(mask=False) == crosses(focus_weight=0.0) == [False, False]


def test_phases_draw_different_noise_and_only_what_they_use():
    config = config_of()
    networks, batch = make_networks(config), make_batch()
    for phase in acl_gan.phases(config):
        context = make_context(config)
        used = []
        draw = context.normal
        context.normal = lambda name, shape, draw=draw, used=used: used.append(name) or draw(name, shape)
        phase.loss(networks, batch, context, config)
        assert used == [f"{phase.name}/z{i}" for i in (1, 2, 3)]


def test_nothing_is_computed_twice_or_in_vain():
    """How often each part runs: a discriminators' step runs no style encoder and no identity image."""
    config = config_of()
    networks = _make_networks.__wrapped__(config.mask, config.both_directions, 3)  # not the shared ones
    batch, context = make_batch(), make_context(config)
    calls = {}
    for name, network in networks.items():
        parts = ["content_encoder", "style_encoder", "mlp", "decoder"] if name.startswith("g_") else [None]
        for part in parts:
            model = getattr(network, part) if part else network
            key = f"{name}.{part}" if part else name

            def counted(*args, original=model.call, key=key, **named):
                calls[key] = calls.get(key, 0) + 1
                return original(*args, **named)

            model.call = counted
    discriminators, generators = acl_gan.phases(config)
    discriminators.loss(networks, batch, context, config)
    once = {"d_s": 1, "d_t": 1, "d_hat": 1, "g_t.content_encoder": 1, "g_t.mlp": 1, "g_t.decoder": 1}
    assert calls == {**once, "g_s.content_encoder": 2, "g_s.mlp": 2, "g_s.decoder": 2}
    calls.clear()
    generators.loss(networks, batch, context, config)
    assert calls == {
        **once,
        "g_t.style_encoder": 1,
        "g_s.style_encoder": 1,
        "g_s.content_encoder": 2,
        "g_s.mlp": 2,
        "g_s.decoder": 2,
    }


def test_discriminators_step_gives_generators_no_gradient():
    config = config_of()
    networks, batch, context = make_networks(config), make_batch(), make_context(config)
    with tf.GradientTape() as tape:
        loss = acl_gan.discriminator_loss(networks, batch, context, config)
        total = tf.add_n(list(loss.terms.values()))
    variables = [v.value for name in ("g_s", "g_t") for v in networks[name].trainable_variables]
    assert all(gradient is None for gradient in tape.gradient(total, variables))


def test_every_weight_learns_from_some_phase():
    config = config_of()
    networks, batch, context = make_networks(config), make_batch(), make_context(config)
    for phase in acl_gan.phases(config):
        for path, gradient in gradients(phase, networks, batch, context, config)[1].items():
            if path.endswith("bias") and ("content/" in path or "decoder/residual" in path):
                assert np.abs(gradient).max() < 1e-9  # a norm takes them away again
            else:
                assert np.abs(gradient).max() > 0, path


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("variant", ["released", "aclmix"])
def test_other_numbers_of_channels(channels, variant):
    config = config_of(**VARIANTS[variant])
    networks, batch = make_networks(config, channels), make_batch((2, 16, 20, channels))
    for phase in acl_gan.phases(config):
        loss = phase.loss(networks, batch, make_context(config), config)
        assert all(np.isfinite(term) for term in loss.terms.values())
    result = acl_gan.translate(networks, tf.constant(batch["a"]), np.zeros((2, 3)), "a2b", config)
    assert tuple(result.image.shape) == (2, 16, 20, channels)


def test_translate_and_its_parts():
    config = config_of()
    networks, images = make_networks(config), tf.constant(make_batch((2, 24, 16, 3))["a"])
    style = np.random.RandomState(1).standard_normal((2, 3))
    image, mask, raw = acl_gan.translate(networks, images, style, "a2b", config)
    assert tuple(mask.shape) == (2, 24, 16, 1)
    np.testing.assert_allclose(image, raw * mask + images * (1 - mask), rtol=1e-12)
    expected, _, _ = acl_gan.translate(networks, images[:1], style[:1], "a2b", config)
    np.testing.assert_allclose(image[:1], expected, rtol=1e-10)
    styles = acl_gan.encode_style(networks, images, "a2b", config)
    np.testing.assert_array_equal(styles, networks["g_t"].style(images))


def test_without_a_mask_there_is_none_to_return():
    config = config_of(mask=False)
    images = tf.constant(make_batch()["a"])
    _, mask, raw = acl_gan.translate(make_networks(config), images, np.zeros((2, 3)), "a2b", config)
    assert mask is None
    assert raw is None


def test_directions():
    assert acl_gan.directions(config_of()) == ("a2b",)
    assert acl_gan.directions(config_of(direction="b2a")) == ("b2a",)
    assert set(acl_gan.directions(config_of(both_directions=True, mask=False))) == {"a2b", "b2a"}
    both = config_of(both_directions=True, mask=False, direction="b2a")
    networks, images = make_networks(both), tf.constant(make_batch()["a"])
    for direction, name in (("b2a", "g_t"), ("a2b", "g_s")):
        expected = networks[name].decode(networks[name].content(images), tf.zeros((2, 3), tf.float64))
        result = acl_gan.translate(networks, images, tf.zeros((2, 3), tf.float64), direction, both)
        np.testing.assert_allclose(result.image, expected, rtol=1e-12)


def test_untrained_direction_is_refused():
    config = config_of()
    for use in (acl_gan.translate, acl_gan.encode_style):
        rest = (np.zeros((2, 3)),) if use is acl_gan.translate else ()
        with pytest.raises(UserError, match=r"b2a: this ACL-GAN was trained for a2b only.*both_directions"):
            use({}, np.zeros(SHAPE), *rest, "b2a", config)


@pytest.mark.parametrize(
    "options, shape, message",
    [
        ({"both_directions": True}, (64, 64, 3), "both_directions.*mask is on.*mask=false"),
        ({"mask_lower": 0.5, "mask_upper": 0.1}, (64, 64, 3), "mask_lower=0.5 is above.*mask_upper=0.1"),
        ({}, (15, 20, 3), "15 x 20.*multiples of 2"),
        ({}, (16, 14, 3), "16 x 14.*at least 16"),
    ],
)
def test_check_refuses(options, shape, message):
    with pytest.raises(UserError, match=message) as caught:
        acl_gan.check(config_of(**options), shape)
    assert "\n" not in str(caught.value)


def test_check_accepts_the_released_model_and_the_smallest_size():
    acl_gan.check(acl_gan.Config(), (256, 256, 3))
    config = config_of()
    side = acl_gan.minimum_size(config)
    acl_gan.check(config, (side, side, 1))
    assert acl_gan.minimum_size(acl_gan.Config()) == 64
    assert acl_gan.minimum_size(acl_gan.Config(discriminator_scales=1)) == 16
    assert acl_gan.size_multiple(acl_gan.Config(downsamples=3)) == 8


def test_released_defaults():
    """The official male-to-female configuration (reference 4 and 5)."""
    config, recipe = acl_gan.Config(), acl_gan.METHOD.recipe
    assert (config.adversarial_weight, config.consistency_weight, config.focus_weight) == (1, 0.2, 0.025)
    assert (config.mask_lower, config.mask_upper, config.focus_delta, config.focus_epsilon) == (0.3, 0.5, 0.001, 0.01)
    assert (config.identity_weight, config.style_weight, config.alpha) == (1, 0, 1)
    assert (recipe.steps, recipe.batch_size, recipe.image_size, recipe.load_size) == (350_000, 3, 256, 256)
    assert (recipe.learning_rate, recipe.beta_1, recipe.beta_2) == (1e-4, 0.5, 0.999)
    assert (recipe.adam_epsilon, recipe.weight_decay) == (1e-8, 1e-4)
    assert (recipe.lr_decay_steps, recipe.lr_decay_factor, recipe.ema_decay) == (100_000, 0.5, 0)
    assert [phase.every for phase in acl_gan.phases(config)] == [1, 2]


def test_paths_are_unique_over_all_networks():
    for config in (config_of(), config_of(both_directions=True, mask=False)):
        networks = acl_gan.networks(config, (16, 16, 3))
        paths = [variable.path for network in networks.values() for variable in network.variables]
        assert len(set(paths)) == len(paths)


def test_bfloat16_keeps_losses_in_float32_and_near_the_exact_ones():
    config = config_of()
    exact = make_networks(config)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        networks = acl_gan.networks(config, (16, 20, 3))
    finally:
        keras.config.set_dtype_policy(before)
    for name, network in networks.items():
        for mine, theirs in zip(network.variables, exact[name].variables, strict=True):
            mine.assign(theirs.numpy())
    batch, context = make_batch(), make_context(config)
    single = FixedContext({key: value.astype("float32") for key, value in context.draws.items()})
    images = {key: value.astype("float32") for key, value in batch.items()}
    for phase in acl_gan.phases(config):
        expected = phase.loss(exact, batch, context, config)
        loss, grads = gradients(phase, networks, images, single, config)
        for name, term in loss.terms.items():
            assert term.dtype == tf.float32
            assert float(term) == pytest.approx(float(expected.terms[name]), rel=0.1, abs=0.02), name
        assert all(np.isfinite(gradient).all() for gradient in grads.values())


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_a_blank_picture_leaves_gradients_finite_in_float32(value):
    """At the paper's depth; the formula's gradient is 1e47 here, where the official code makes NaN weights."""
    config = config_of(downsamples=2, residual_blocks=4)
    keras.utils.set_random_seed(0)
    networks = acl_gan.networks(config, (32, 32, 3))
    batch = {key: images.astype("float32") for key, images in make_batch((2, 32, 32, 3)).items()}
    batch["a"][0] = value
    draws = {name: draw.astype("float32") for name, draw in make_context(config).draws.items()}
    for phase in acl_gan.phases(config):
        loss, values = gradients(phase, networks, batch, FixedContext(draws), config)
        assert all(np.isfinite(term) for term in loss.terms.values())
        norm = np.sqrt(sum(np.sum(np.square(v, dtype="float64")) for v in values.values()))
        assert norm < 1e4


def test_config_fields_say_what_changes_weights():
    marked = {field.name for field in dataclasses.fields(acl_gan.Config) if field.metadata["networks"]}
    assert marked == {*SMALL, "mask", "both_directions", "direction", "skip"}
    assert all(field.metadata["help"] for field in dataclasses.fields(acl_gan.Config))
