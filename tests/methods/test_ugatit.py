"""U-GAT-IT's options on their formulas: profiles, losses, masks, panels, and what is refused."""

from __future__ import annotations

import dataclasses
import types
import zlib

import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.data import augment
from tfaclgan.engine.base import build_networks
from tfaclgan.errors import UserError
from tfaclgan.inference import arrays
from tfaclgan.inference.folders import translate_folder
from tfaclgan.inference.translator import Translator
from tfaclgan.layers.resampling import area_pool
from tfaclgan.losses import foreground, penalty
from tfaclgan.losses.reconstruction import total_variation
from tfaclgan.methods import ugatit
from tfaclgan.training import samples

SIDE = 32
TINY = {
    "light": 1,
    "width": 4,
    "residual_blocks": 1,
    "discriminator_width": 4,
    "global_layers": 5,
    "local_layers": 4,
}


def pictures(seed, channels=3):
    return np.tanh(np.random.RandomState(seed).standard_normal((2, SIDE, SIDE, channels)))


BATCH = {"a": pictures(0), "b": pictures(1), "blur_a": pictures(2), "blur_b": pictures(3)}
MASKS = {f"mask_{key}": np.random.RandomState(seed).uniform(size=(2, SIDE, SIDE, 1)) for seed, key in enumerate("ab")}


@pytest.fixture(scope="module")
def networks():
    """Profile tf, light, with larger weights than at the start, so that every part shows."""
    built = build_networks(ugatit.METHOD, ugatit.Config(**TINY), (SIDE, SIDE, 3), dtype="float64")
    random = np.random.RandomState(5)
    for name, network in built.items():
        for variable in network.trainable_variables:
            if variable.name == "kernel":
                # Some judges are steeper than 1, which their spectral norms would not let them be.
                size = 6 if name in ("d_local_a", "d_global_b") and "squeeze" in variable.path else 1
                variable.assign(size * random.standard_normal(variable.shape) / np.sqrt(np.prod(variable.shape[:-1])))
        for layer in network._flatten_layers():
            if hasattr(layer, "power_step"):
                layer.power_step()
    return built


def draw(name, shape):
    return np.random.RandomState(zlib.crc32(name.encode())).uniform(size=shape)


def losses(networks, phase, batch=None, carried=None, **options):
    config = ugatit.Config(**{**TINY, **options})
    given = {key: tf.convert_to_tensor(value) for key, value in {**BATCH, **(batch or {})}.items()}
    function = {"d": ugatit.discriminator_loss, "g": ugatit.generator_loss}[phase]
    return function(networks, given, types.SimpleNamespace(carried=carried or {}, uniform=draw), config)


def terms(*arguments, **options):
    return {name: float(value) for name, value in losses(*arguments, **options).terms.items()}


@pytest.fixture(scope="module")
def outputs(networks):
    """Every network's output a step needs, from separate calls."""
    a, b = (tf.constant(BATCH[key]) for key in "ab")
    there, back = networks["g_a2b"], networks["g_b2a"]
    made = {"fake_b": there.paint(a), "fake_a": back.paint(b), "same_b": there.paint(b), "same_a": back.paint(a)}
    made["again_a"], made["again_b"] = back.paint(made["fake_b"].image), there.paint(made["fake_a"].image)
    for domain in "ab":
        for scale in ("global", "local"):
            judge = networks[f"d_{scale}_{domain}"]
            for kind, images in (("real", BATCH[domain]), ("fake", made[f"fake_{domain}"].image)):
                made[f"{kind}_{scale}_{domain}"] = judge.judge(tf.constant(images))
            made[f"blur_{scale}_{domain}"] = judge.judge(tf.constant(BATCH[f"blur_{domain}"]))
    return made


def squares(values, target):
    return np.mean((np.asarray(values) - target) ** 2)


def test_discriminators_loss_is_the_references_formula(networks, outputs):
    actual = terms(networks, "d", adversarial_weight=3.0, adversarial_weight_a=0.5, discriminator_cam_weight=0.25)
    assert len(actual) == 8
    for domain, weight in (("a", 1.5), ("b", 3.0)):
        for scale in ("global", "local"):
            real, fake = outputs[f"real_{scale}_{domain}"], outputs[f"fake_{scale}_{domain}"]
            name = f"{scale}_{domain}"
            assert actual[name] == pytest.approx(weight * (squares(real.scores, 1) + squares(fake.scores, 0)))
            expected = 0.25 * weight * (squares(real.logits, 1) + squares(fake.logits, 0))
            assert actual[f"cam_{name}"] == pytest.approx(expected)


def test_generators_loss_is_the_references_formula(networks, outputs):
    actual = terms(networks, "g", adversarial_weight_b=2.0, cam_weight=7.0)
    for domain, weight in (("a", 1.0), ("b", 2.0)):
        for scale in ("global", "local"):
            fake = outputs[f"fake_{scale}_{domain}"]
            assert actual[f"adversarial_{scale}_{domain}"] == pytest.approx(weight * squares(fake.scores, 1))
            assert actual[f"adversarial_cam_{scale}_{domain}"] == pytest.approx(weight * squares(fake.logits, 1))
        assert actual[f"cycle_{domain}"] == pytest.approx(
            10 * np.mean(np.abs(outputs[f"again_{domain}"].image - BATCH[domain]))
        )
        assert actual[f"identity_{domain}"] == pytest.approx(
            10 * np.mean(np.abs(outputs[f"same_{domain}"].image - BATCH[domain]))
        )
        of_source, of_target = (np.asarray(outputs[f"{kind}_{domain}"].logits) for kind in ("fake", "same"))
        entropy = np.mean(np.log1p(np.exp(-of_source))) + np.mean(np.log1p(np.exp(of_target)))
        assert actual[f"cam_{'ba'['ab'.index(domain)]}2{domain}"] == pytest.approx(7 * entropy)
    assert len(actual) == 14


def entropy(logits, target):
    """Sigmoid cross-entropy, with both logarithms."""
    probability = 1 / (1 + np.exp(-logits))
    return -(target * np.log(probability) + (1 - target) * np.log(1 - probability))


KINDS = {  # the TensorFlow code's gan_type: a real image's, a fake's and the generators' term (ugatit.md 2)
    "non_saturating": (lambda s: entropy(s, 1), lambda s: entropy(s, 0), lambda s: entropy(s, 1)),
    "hinge": (lambda s: np.maximum(1 - s, 0), lambda s: np.maximum(1 + s, 0), lambda s: -s),
    "wasserstein_gp": (lambda s: -s, lambda s: s, lambda s: -s),
    "wasserstein_lp": (lambda s: -s, lambda s: s, lambda s: -s),
    "dragan": (lambda s: entropy(s, 1), lambda s: entropy(s, 0), lambda s: entropy(s, 1)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_gan_hold_for_scores_and_classifiers(networks, outputs, kind):
    on_real, on_fake, on_own_fake = KINDS[kind]
    options = {"adversarial": kind, "adversarial_weight": 2.0, "discriminator_cam_weight": 0.5}
    judging, painting = (terms(networks, p, gradient_penalty_weight=0.0, **options) for p in "dg")
    assert len(judging) == 8
    for domain in "ab":
        for scale in ("global", "local"):
            real, fake = (outputs[f"{k}_{scale}_{domain}"] for k in ("real", "fake"))
            for output, prefix, weight in (("scores", "", 2.0), ("logits", "cam_", 1.0)):
                values, of_fake = (np.asarray(getattr(judgement, output)) for judgement in (real, fake))
                name = f"{prefix}{scale}_{domain}"
                expected = weight * (on_real(values).mean() + on_fake(of_fake).mean())
                assert judging[name] == pytest.approx(expected)
                assert painting[f"adversarial_{name}"] == pytest.approx(weight * on_own_fake(of_fake).mean())


SMALL = 24  # the smallest side that TINY's discriminators take: differences are taken in every number of an image


def lengths(judge, images, step=1e-6):
    """{output: [b]}: Euclidean lengths of the images' gradients, by central differences."""
    found = {"scores": [], "logits": []}
    for image in images:
        moves = step * np.eye(image.size).reshape(-1, *image.shape)
        judged = judge.judge(tf.constant(np.concatenate([image + moves, image - moves])))
        for output, values in found.items():
            sums = np.asarray(getattr(judged, output)).reshape(2, image.size, -1).sum(-1)
            values.append(np.sqrt(np.sum(((sums[0] - sums[1]) / (2 * step)) ** 2)))
    return {output: np.array(values) for output, values in found.items()}


@pytest.fixture(scope="module")
def small():
    batch = {key: images[:, :SMALL, :SMALL] for key, images in BATCH.items()}
    carried = {f"fake_{d}": tf.constant(np.tanh(pictures(seed)[:, :SMALL, :SMALL])) for seed, d in ((7, "a"), (8, "b"))}
    return {"batch": batch, "carried": carried, "share_fakes": True}


@pytest.mark.parametrize("near", ["fakes", "neighbours"])
def test_penalties_are_taken_of_scores_and_of_classifiers(networks, small, near):
    """10 (|gradient| - 1)^2 or its one-sided form, at mixtures with fakes (wgan) or noisy images (dragan)."""
    kinds = ("wasserstein_gp", "wasserstein_lp") if near == "fakes" else ("dragan",)
    options = {**small, "discriminator_cam_weight": 0.5, "adversarial_weight_b": 3.0}
    actual = {kind: terms(networks, "d", adversarial=kind, **options) for kind in kinds}
    seen = []
    for domain, weight in (("a", 10.0), ("b", 30.0)):
        images = small["batch"][domain]
        other = np.asarray(small["carried"][f"fake_{domain}"])
        if near == "neighbours":
            spread = np.sqrt(np.mean((images - images.mean((1, 2, 3), keepdims=True)) ** 2, (1, 2, 3), keepdims=True))
            other = images + 0.5 * spread * draw(f"penalty_{domain}/noise", images.shape)
        share = draw(f"penalty_{domain}/share", (len(images),)).reshape(-1, 1, 1, 1)
        for scale in ("global", "local"):
            found = lengths(networks[f"d_{scale}_{domain}"], share * images + (1 - share) * other)
            for output, prefix, factor in (("scores", "", 1.0), ("logits", "cam_", 0.5)):
                excess = found[output] - 1
                seen.extend(excess)
                for kind in kinds:
                    squared = np.maximum(excess, 0) ** 2 if kind == "wasserstein_lp" else excess**2
                    expected = weight * factor * squared.mean()
                    name = f"penalty_{prefix}{scale}_{domain}"
                    assert actual[kind][name] == pytest.approx(expected, rel=1e-5, abs=1e-9), (kind, name)
    assert min(seen) < -0.05  # both sides are tried
    assert max(seen) > 0.05
    assert not [name for name in terms(networks, "g", adversarial=kinds[0], batch=small["batch"]) if "penalty" in name]


def agrees_with_differences(value, variables, jits=(False, True)):
    """Compiled gradients of `value()`, along a random direction, against a central difference."""
    random = np.random.RandomState(3)
    ways = [random.standard_normal(v.shape) / np.sqrt(np.prod(v.shape)) for v in variables]

    def moved(length):
        for variable, way in zip(variables, ways, strict=True):
            variable.assign_add(length * way)
        return float(value())

    def step():
        with tf.GradientTape() as tape:
            total = value()
        return total, tape.gradient(total, [v.value for v in variables], unconnected_gradients="zero")

    difference = (moved(1e-7) - moved(-2e-7)) / 2e-7
    here = moved(1e-7)
    for jit in jits:
        total, gradients = tf.function(step, autograph=False, jit_compile=jit)()
        along = sum(np.sum(np.asarray(g) * way) for g, way in zip(gradients, ways, strict=True))
        assert along == pytest.approx(difference, rel=1e-4, abs=1e-6)
        assert float(total) == pytest.approx(here)


def test_penalties_have_their_gradients_under_xla(networks, small):
    """They need second derivatives, which not every operation has (mirrored borders, peaks)."""
    judge = networks["d_local_a"]
    real, fake = tf.constant(small["batch"]["a"][:1]), small["carried"]["fake_a"][:1]

    def value():
        outputs = (lambda x: judge.judge(x).scores, lambda x: judge.judge(x).logits)
        return sum(penalty.gradient_penalty(output, real, fake, tf.constant([0.3], real.dtype)) for output in outputs)

    agrees_with_differences(value, judge.trainable_variables, jits=(True,))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_every_kind_has_its_gradient_with_and_without_xla(networks, small, kind):
    variables = [v for name in ugatit.DISCRIMINATORS for v in networks[name].trainable_variables]
    agrees_with_differences(lambda: sum(losses(networks, "d", adversarial=kind, **small).terms.values()), variables)


def test_without_their_weight_the_discriminators_classifiers_have_no_terms(networks):
    assert not [n for n in terms(networks, "d", discriminator_cam_weight=0.0) if "cam" in n]
    assert not [n for n in terms(networks, "g", discriminator_cam_weight=0.0) if "adversarial_cam" in n]
    steep = terms(networks, "d", discriminator_cam_weight=0.0, adversarial="wasserstein_gp")
    assert len(steep) == 8
    assert not [n for n in steep if "cam" in n]
    assert not ugatit.choices(ugatit.Config(discriminator_cam_weight=0.0)).attend


def test_blurred_images_are_fake_for_every_discriminator(networks, outputs):
    plain, blurred = terms(networks, "d"), terms(networks, "d", blur_loss=True)
    for domain in "ab":
        for scale in ("global", "local"):
            blur = outputs[f"blur_{scale}_{domain}"]
            name = f"{scale}_{domain}"
            assert blurred[name] - plain[name] == pytest.approx(squares(blur.scores, 0))
            assert blurred[f"cam_{name}"] - plain[f"cam_{name}"] == pytest.approx(squares(blur.logits, 0))
    assert terms(networks, "g", blur_loss=True) == terms(networks, "g")


def test_background_counts_as_judged_right(networks, outputs):
    """seg_D_mask (ugatit.md 7.1): a fake of domain A shows the foreground of its source of domain B."""
    options = {"batch": MASKS, "background_unjudged": True, "mask_edge": "as_is"}
    judging, painting = terms(networks, "d", **options), terms(networks, "g", **options)
    for domain, source in ("ab", "ba"):
        for scale in ("global", "local"):
            real, fake = (np.asarray(outputs[f"{k}_{scale}_{domain}"].scores) for k in ("real", "fake"))
            own, of_source = (
                np.asarray(area_pool(tf.constant(MASKS[f"mask_{d}"]), *real.shape[1:3])) for d in (domain, source)
            )
            expected = squares(real * own + 1 - own, 1) + squares(fake * of_source, 0)
            assert judging[f"{scale}_{domain}"] == pytest.approx(expected)
            expected = squares(fake * of_source + 1 - of_source, 1)
            assert painting[f"adversarial_{scale}_{domain}"] == pytest.approx(expected)


def test_hidden_pixels_are_hidden_from_the_judges_classifiers_only(networks, outputs):
    """seg_D_cam_inp_mask in both steps; hidden features, and both, stand in test_ugatit_parity.py."""
    options = {"batch": MASKS, "background_hidden": "pixels", "mask_edge": "as_is"}
    judging, painting = terms(networks, "d", **options), terms(networks, "g", **options)
    for domain, source in ("ab", "ba"):
        fake = outputs[f"fake_{domain}"].image
        for scale in ("global", "local"):
            judge, name = networks[f"d_{scale}_{domain}"], f"{scale}_{domain}"
            real = judge.judge(tf.constant(BATCH[domain] * MASKS[f"mask_{domain}"])).logits
            faked = judge.judge(fake * MASKS[f"mask_{source}"]).logits
            assert judging[f"cam_{name}"] == pytest.approx(squares(real, 1) + squares(faked, 0))
            assert painting[f"adversarial_cam_{name}"] == pytest.approx(squares(faked, 1))
            scores = squares(outputs[f"real_{name}"].scores, 1) + squares(outputs[f"fake_{name}"].scores, 0)
            assert judging[name] == pytest.approx(scores)


def test_background_is_held_by_the_eroded_mask(networks, outputs):
    for erosion in (False, True):
        actual = terms(networks, "g", batch=MASKS, background_weight=50.0, mask_erosion=erosion)
        for domain, source in ("ab", "ba"):
            mask = MASKS[f"mask_{source}"]
            mask = np.asarray(foreground.soft_edge(foreground.eroded(mask) if erosion else mask))
            change = (outputs[f"fake_{domain}"].image - BATCH[source]) * (1 - mask)
            assert actual[f"background_{domain}"] == pytest.approx(50 * np.mean(np.abs(change)))


def test_detached_background_has_equal_values_and_no_adversarial_gradient(networks):
    def judged_gradient(**options):
        variables = [v.value for v in networks["g_a2b"].trainable_variables]
        with tf.GradientTape() as tape:
            total = losses(networks, "g", batch=batch, **options).terms["adversarial_global_b"]
        return float(total), tape.gradient(total, variables)

    batch = {"mask_a": np.zeros((2, SIDE, SIDE, 1)), "mask_b": np.ones((2, SIDE, SIDE, 1))}
    value, gradients = judged_gradient()
    detached, stopped = judged_gradient(background_detached=True)
    assert detached == pytest.approx(value)
    assert any(g is not None and np.abs(g).max() > 0 for g in gradients)
    assert all(g is None or np.abs(g).max() == 0 for g in stopped)


def test_total_variation_is_one():
    images = np.random.RandomState(0).standard_normal((2, 5, 4, 3))
    expected = np.abs(np.diff(images, axis=1)).mean() + np.abs(np.diff(images, axis=2)).mean()
    assert float(total_variation(tf.constant(images))) == pytest.approx(expected)
    assert float(total_variation(tf.ones((1, 5, 4, 3)))) == 0


def test_total_variation_of_the_translations(networks, outputs):
    actual = terms(networks, "g", variation_weight=3.0)
    for domain in "ab":
        expected = 3 * float(total_variation(outputs[f"fake_{domain}"].image))
        assert actual[f"variation_{domain}"] == pytest.approx(expected)


def test_edges_of_masks():
    mask = np.array([0.0, 0.29, 0.3, 0.31, 0.5, 0.7, 0.71, 1.0]).reshape((1, 1, -1, 1))
    soft = np.asarray(foreground.soft_edge(tf.constant(mask)))[0, 0, :, 0]
    np.testing.assert_allclose(soft, [0, 0, 0, 0.31, 0.5, 0.7, 1, 1])  # the fork makes 0.7 a 0
    hard = np.asarray(foreground.hard_edge(tf.constant(mask)))[0, 0, :, 0]
    np.testing.assert_array_equal(hard, [0, 0, 0, 0, 1, 1, 1, 1])


def closed_and_eroded(mask):
    """float64 [h, w], by SciPy, as OpenCV does it beyond the border."""
    from scipy import ndimage

    ellipse = np.ones((5, 5), bool)  # cv2.getStructuringElement(MORPH_ELLIPSE, (5, 5))
    ellipse[[0, 0, 0, 0, 4, 4, 4, 4], [0, 1, 3, 4, 0, 1, 3, 4]] = False
    grown = ndimage.grey_dilation(mask, footprint=ellipse, mode="constant", cval=-np.inf)
    closed = ndimage.grey_erosion(grown, footprint=ellipse, mode="constant", cval=np.inf)
    return ndimage.grey_erosion(closed, footprint=ellipse, mode="constant", cval=np.inf)


def test_erosion_is_the_fork_s_close_then_erode():
    from scipy import ndimage

    mask = ndimage.gaussian_filter(np.random.RandomState(0).uniform(size=(20, 24)), 1.5)
    expected = closed_and_eroded(mask)
    np.testing.assert_allclose(foreground.eroded(tf.constant(mask[None, ..., None]))[0, ..., 0], expected)


def probabilities(seed):
    """float64 [2, SIDE, SIDE, 19]: a face parser's classes, in patches with soft borders, glasses and mouth large."""
    from scipy import ndimage

    logits = np.random.RandomState(seed).standard_normal((2, SIDE, SIDE, 19))
    logits[..., [6, 11]] += 0.3  # they are to meet each other, the background and the rest of the face
    logits = 30 * ndimage.gaussian_filter(logits, (0, 2.5, 2.5, 0))
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


@pytest.mark.parametrize("edge", ["soft", "hard"])
@pytest.mark.parametrize("erosion", [True, False])
def test_rims_and_mouths_are_held(networks, outputs, edge, erosion):
    """seg_fix_glass_mouth (ugatit.md 7.3) from the probabilities of 19 classes, restated in float64."""
    face = [*range(1, 14), 17]
    plain = [number for number in face if number not in (6, 11)]
    batch, factors = {}, {}

    def edged(mask):
        if edge == "hard":
            return np.where(mask >= 0.5, 1.0, 0.0)
        return np.where(mask > 0.7, 1.0, np.where(mask <= 0.3, 0.0, mask))

    def shrunk(mask):
        return np.stack([closed_and_eroded(one) for one in mask]) if erosion else mask

    for seed, domain in enumerate("ab"):
        p = probabilities(seed)
        batch[f"mask_{domain}"] = np.stack([p[..., face].sum(-1), p[..., plain].sum(-1), p[..., 6]], -1)
        kept = edged(shrunk(p[..., face].sum(-1)))
        factors[domain] = kept * edged(np.maximum(p[..., plain].sum(-1), shrunk(p[..., 6])))
        assert 0.05 < np.mean(factors[domain] != kept) < 0.9  # else the test could not tell the option from none
    options = {"batch": batch, "background_weight": 50.0, "mask_edge": edge, "mask_erosion": erosion}
    actual = terms(networks, "g", background_rims_and_mouth=True, **options)
    without = terms(networks, "g", **options)
    for domain, source in ("ab", "ba"):
        change = (np.asarray(outputs[f"fake_{domain}"].image) - BATCH[source]) * (1 - factors[source][..., None])
        assert actual[f"background_{domain}"] == pytest.approx(50 * np.mean(np.abs(change)), rel=1e-5)
        assert actual[f"background_{domain}"] > without[f"background_{domain}"]
    first = {key: mask[..., :1] for key, mask in batch.items()}
    assert terms(networks, "g", **{**options, "batch": first}) == without  # the other options see the foreground alone


def test_glasses_lose_their_rims_and_mouths_their_inside():
    """On an exact label map: a face, on it glasses of 9 x 9 pixels and a mouth."""
    labels = np.zeros((44, 44), int)
    labels[6:38, 6:38] = 1
    labels[10:19, 10:19] = 6
    labels[24:28, 14:24] = 11
    parts = np.stack([labels > 0, labels == 1, labels == 6], -1)[None].astype(float)
    kept = np.asarray(foreground.without_rims_and_mouth(tf.constant(parts), foreground.soft_edge))[0, ..., 0]
    expected = np.zeros((44, 44))
    expected[8:36, 8:36] = 1  # the face loses its edge, two pixels, as without the option
    expected[10:19, 10:19] = 0  # the rim goes
    expected[12:17, 12:17] = 1  # what is behind the glass stays
    expected[24:28, 14:24] = 0
    np.testing.assert_array_equal(kept, expected)


def test_shared_fakes_are_handed_on(networks):
    config = ugatit.Config(**TINY, share_fakes=True)
    assert [phase.name for phase in ugatit.phases(config)] == ["generators", "discriminators"]
    assert [phase.name for phase in ugatit.phases(ugatit.Config())] == ["discriminators", "generators"]
    carried = losses(networks, "g", share_fakes=True).carry
    assert terms(networks, "d", carried=carried, share_fakes=True) == pytest.approx(terms(networks, "d"))
    assert not losses(networks, "g").carry


def test_what_the_profiles_stand_for():
    """ugatit.md 1.2 and 1.6, line by line."""
    rows = {p: ugatit.choices(ugatit.Config(profile=p)) for p in ("tf", "pt", "en")}

    def column(name):
        return [getattr(rows[p], name) for p in ("tf", "pt", "en")]

    assert column("unbiased") == [False, True, True]
    assert column("rho_initial") == [1.0, 0.9, 0.9]
    assert column("rho_maximum") == [1.0, 1.0, 0.9]
    assert column("rho_smoothing") == [0.1, 0.0, 0.0]
    assert column("encoder_bias") == [True, False, False]
    assert column("decoder_bias") == [True, False, True]
    assert column("mlp_bias") == [True, False, True]
    assert column("affine") == [True, False, True]
    assert column("shared_head") == [True, False, False]
    assert column("cam_bias") == [True, False, True]
    assert column("raw_attention") == [False, True, True]
    assert column("score_bias") == [True, False, True]
    assert column("keep_size") == [True, False, False]
    assert column("initial") == ["normal", "pytorch", "pytorch"]
    assert column("generators_power_step") == [True, True, False]


def test_every_choice_of_a_profile_can_be_set_alone():
    defaults = ugatit.choices(ugatit.Config(profile="pt"))
    other = ugatit.choices(ugatit.Config(profile="pt", variance="biased", rho_smoothing=0.05, mlp_dim=32))
    changed = {f.name for f in dataclasses.fields(other) if getattr(defaults, f.name) != getattr(other, f.name)}
    assert changed == {"unbiased", "rho_smoothing", "mlp_dim"}
    assert ugatit.choices(ugatit.Config(residual_blocks=6)).mlp_dim == 6 * 64
    assert ugatit.choices(ugatit.Config(profile="en", residual_blocks=6)).mlp_dim == 4 * 64


def test_recipes_of_the_profiles():
    tensorflow, official, fork = (ugatit.recipe_for(ugatit.Config(profile=p)) for p in ("tf", "pt", "en"))
    assert (tensorflow.weight_decay, tensorflow.weight_decay_on, tensorflow.lr_decay_steps) == (1e-4, "kernels", 10_000)
    assert (official.weight_decay_on, official.lr_decay_steps, official.ema_decay) == ("all", 0, 0.0)
    assert (fork.ema_decay, fork.ema_start, fork.image_size) == (0.9999, 0.5, 384)
    assert (tensorflow.augment, official.augment) == ("flip,crop", "flip,crop")
    assert augment.parse(fork.augment).resized_crop == augment.ResizedCrop(0.748, 1.0, 0.2)
    assert {r.lr_schedule for r in (tensorflow, official, fork)} == {"linear"}


def test_initial_weights():
    for profile, deviation in (("tf", 0.02), ("pt", (64 * 9 * 3) ** -0.5)):
        config = ugatit.Config(**{**TINY, "width": 16, "profile": profile})
        network = ugatit.generator(config, (SIDE, SIDE, 3), "g_a2b")
        kernel = next(v for v in network.variables if "decoder/block0_0_conv/kernel" in v.path)
        assert np.std(kernel.numpy()) == pytest.approx(deviation, rel=0.03)


@pytest.mark.parametrize(
    "phase, options, message",
    [
        ("d", {"background_unjudged": True}, "need foreground masks, and the data have none of domain A"),
        ("g", {"background_weight": 1.0}, "need foreground masks"),
        ("g", {"background_weight": 1.0, "background_rims_and_mouth": True}, "need foreground masks"),
    ],
)
def test_data_without_masks_are_told(networks, phase, options, message):
    with pytest.raises(UserError, match=message):
        losses(networks, phase, **options)


def test_masks_without_parts_are_told(networks):
    with pytest.raises(UserError, match="make the data again with --mask_parts"):
        losses(networks, "g", batch=MASKS, background_weight=1.0, background_rims_and_mouth=True)


def test_data_without_blurred_copies_are_told(networks):
    batch = {key: tf.constant(BATCH[key]) for key in "ab"}
    context = types.SimpleNamespace(carried={})
    with pytest.raises(UserError, match="needs blurred copies"):
        ugatit.discriminator_loss(networks, batch, context, ugatit.Config(**TINY, blur_loss=True))


def test_options_that_exclude_each_other_are_refused():
    with pytest.raises(UserError, match="give 2 masks or more"):
        ugatit.check(ugatit.Config(attention_input=True, attention_masks=1), (256, 256, 3))
    with pytest.raises(UserError, match="only least squares"):
        ugatit.check(ugatit.Config(background_unjudged=True, adversarial="non_saturating"), (256, 256, 3))
    with pytest.raises(UserError, match="give it a weight"):
        ugatit.check(ugatit.Config(background_rims_and_mouth=True), (256, 256, 3))


@pytest.mark.parametrize("options", [{"attention_masks": 3}, {"attention_masks": 2, "attention_input": True}])
def test_contents_are_blended_picture_by_picture(options):
    """Also for the input as a content, where the fork mixes colours; its order stands in test_ugatit_parity.py."""
    config = ugatit.Config(**TINY, **options)
    network = ugatit.generator(config, (SIDE, SIDE, 3), "g_a2b")
    images = tf.constant(BATCH["a"], tf.float32)
    painted = network.paint(images)
    masks = np.asarray(painted.masks)
    np.testing.assert_allclose(masks.sum(-1), 1, rtol=1e-5)
    maps = network.squeeze(network.cam(network.encoder(images))[1])
    raw = np.asarray(network.decoder([maps, *network.mlp(tf.reduce_mean(maps, (1, 2)))]))
    contents = [raw[..., 3 * i : 3 * i + 3] for i in range(raw.shape[-1] // 3)]
    contents = [images, *contents] if config.attention_input else contents
    assert len(contents) == config.attention_masks
    expected = sum(masks[..., i : i + 1] * content for i, content in enumerate(contents))
    np.testing.assert_allclose(painted.image, expected, rtol=1e-4, atol=1e-6)
    translation = ugatit.translate({"g_a2b": network}, images, None, "a2b", config)
    if config.attention_input:
        np.testing.assert_allclose(translation.mask, 1 - masks[..., :1])
    else:
        assert translation.mask is None


def test_transposed_upsampling_is_pytorchs():
    """k3 s2 padding 1 output padding 1: output 2i + k - 1 gets input i times tap k (dense, NumPy)."""
    config = ugatit.Config(**TINY, deconvolution=True)
    network = ugatit.generator(config, (SIDE, SIDE, 3), "g_a2b")
    up = network.decoder.get_layer("up0_conv")
    x = np.random.RandomState(0).standard_normal((1, 4, 5, 16)).astype(np.float32)
    kernel, bias = (v.numpy() for v in up.weights)
    up.bias.assign(bias + 0.5)
    expected = np.full((1, 8, 10, 8), 0.5)
    for i in range(4):
        for j in range(5):
            for k in range(3):
                for m in range(3):
                    row, column = 2 * i + k - 1, 2 * j + m - 1
                    if 0 <= row < 8 and 0 <= column < 10:
                        expected[0, row, column] += kernel[k, m] @ x[0, i, j]
    np.testing.assert_allclose(up(x), expected, rtol=1e-4, atol=1e-5)


def run_of(config, networks, side=SIDE):
    run = types.SimpleNamespace(method=ugatit.METHOD, config=config, image_shape=(side, side, 3), flags={}, path="run")
    return Translator(run, networks)


def test_panels_and_sheet(networks, outputs):
    """The seven rows of the PyTorch code, then the discriminators' maps; sizes of photos that do not fit."""
    config = ugatit.Config(**TINY)
    translator = run_of(config, networks)
    photos = np.random.RandomState(0).randint(0, 256, (3, 40, 33, 3), dtype=np.uint8)
    shown = translator.panels(photos, "b2a")
    assert list(shown) == [
        "input", "heat_identity", "identity", "heat_translation", "translation", "heat_cycle", "cycle", "heat_global",
        "heat_local",
    ]  # fmt: skip
    assert {value.shape for value in shown.values()} == {photos.shape}
    np.testing.assert_array_equal(shown["input"], photos)
    np.testing.assert_array_equal(shown["translation"], translator.translate(photos, "b2a"))
    sheet = samples.draw(translator, photos, "a2b").sheet
    assert sheet.shape == (9 * 42 + 2, 3 * 35 + 2, 3)
    images = arrays.to_uint8(BATCH["a"])
    identity = translator.panels(images, "a2b")["identity"]
    np.testing.assert_allclose(identity, arrays.to_uint8(np.asarray(outputs["same_a"].image)), atol=3)


def test_strips_of_a_folder(networks, tmp_path):
    """The bare translation under the input's name, and the strip beside it when it is asked for."""
    from PIL import Image

    translator = run_of(ugatit.Config(**TINY), networks)
    photo = np.random.RandomState(0).randint(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(photo).save(tmp_path / "in" / "me.png")
    translate_folder(translator, str(tmp_path / "in"), str(tmp_path / "out"), save_panels=True, progress=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["me.png", "me_panels.png"]
    strip, translation = (np.asarray(Image.open(tmp_path / "out" / name)) for name in ("me_panels.png", "me.png"))
    assert strip.shape == (9 * SIDE, SIDE, 3)
    np.testing.assert_array_equal(strip[:SIDE], photo)
    np.testing.assert_array_equal(strip[4 * SIDE : 5 * SIDE], translation)


def test_maps_in_false_colours():
    """The ends and the middle of OpenCV's JET, and an empty map, which the PyTorch code divides by zero."""
    maps = np.array([[0.0, 1.0, 2.0, 4.0]], np.float32)[None, ..., None]
    colours = arrays.false_colours(np.concatenate([maps, 0 * maps + 7]))
    np.testing.assert_array_equal(colours[0, 0], [[0, 0, 128], [0, 128, 255], [128, 255, 128], [128, 0, 0]])
    np.testing.assert_array_equal(colours[1], np.broadcast_to([0, 0, 128], (1, 4, 3)))


def test_the_full_model_translates_pictures_of_any_size():
    config = ugatit.Config(**{**TINY, "light": 0})
    networks = build_networks(ugatit.METHOD, config, (SIDE, SIDE, 3))
    translator = run_of(config, networks)
    images = arrays.to_uint8(BATCH["a"])
    direct = networks["g_a2b"].paint(tf.constant(arrays.to_float(images))).image
    np.testing.assert_allclose(translator.translate(images), arrays.to_uint8(np.asarray(direct)), atol=1)
    photos = np.random.RandomState(0).randint(0, 256, (1, 50, 41, 3), dtype=np.uint8)
    assert translator.translate(photos).shape == photos.shape
