"""The JAX engine: devices agree, schedules count, bad values stop it or are skipped, state round-trips.

Run by test_jax_engine.py in a process with Keras' JAX backend.
"""

from __future__ import annotations

import dataclasses
import json
import os

import jax
import keras
import numpy as np
import on_jax
import profiles
import pytest
import remembering
import toy
from toy import TOY, WHITE_IS_BAD, Config

from tfaclgan.engine import jax as engines
from tfaclgan.engine import jax_hardware
from tfaclgan.engine.jax import Engine, _Context
from tfaclgan.errors import UserError
from tfaclgan.layers import norm as norms
from tfaclgan.layers import resampling, target
from tfaclgan.layers.padding import edge_pad, reflect_pad
from tfaclgan.layers.picture import HeadConv2D, StemConv2D
from tfaclgan.losses import focus, reconstruction
from tfaclgan.methods.base import Loss, Phase

SHAPE, BATCH = (16, 16, 3), 4
IMAGES = np.random.RandomState(0).randint(0, 256, (32, *SHAPE), dtype=np.uint8)

on_jax.reuse_compiled()


def batches(first=0, images=IMAGES, others=IMAGES[::-1]):
    count = len(images) // BATCH
    while True:
        rows = slice(first % count * BATCH, (first % count + 1) * BATCH)
        yield {"a": images[rows], "b": others[rows]}
        first += 1


def engine(replicas=1, config=None, method=TOY, shape=SHAPE, recipe=None, **options):
    return Engine(
        method,
        config or Config(),
        image_shape=shape,
        recipe=recipe or TOY.recipe,
        hardware=on_jax.hardware(replicas),
        **options,
    )


def trained(steps=6, **options):
    subject = engine(**options)
    return subject, subject.train(batches(), steps)


def assert_same(left, right, tolerance=1e-5):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=tolerance, atol=1e-6, err_msg=name)


def assert_equal(left, right):
    assert left.keys() == right.keys()
    assert not [name for name in left if not np.array_equal(left[name], right[name])]


@pytest.mark.parametrize("couple", [False, True])
def test_two_devices_equal_one(couple):
    options = {"config": Config(couple=couple), "recipe": dataclasses.replace(TOY.recipe, ema_decay=0.9)}
    (one, report_one), (two, report_two) = trained(**options), trained(replicas=2, **options)
    assert_same(report_one.scalars, report_two.scalars)
    assert_same(one.state(), two.state())


def test_each_phase_is_due_when_it_should_be_and_compiles_once():
    subject, report = trained(steps=6)
    state = subject.state()
    assert report.steps == 6
    assert (state["step"], state["step"].dtype) == (6, np.int64)
    assert state["optimizers/critic/iterations"] == 6
    assert state["optimizers/generator/iterations"] == 3
    subject.train(batches(), 4)
    assert subject.trace_count == 1
    with pytest.raises(ValueError, match="period"):
        subject.train(batches(), 3)


def test_a_step_is_lowered_for_devices_with_a_sum_of_each_gradient():
    one, two = (engine(replicas).lowered(0).as_text() for replicas in (1, 2))
    assert "all_reduce" not in one
    # Of the kernels and biases of two layers of both networks, and the report.
    assert two.count("stablehlo.all_reduce") == 2 * 4 + 1


def test_the_rate_halves_by_data_iterations_for_every_phase():
    subject = engine(recipe=dataclasses.replace(TOY.recipe, lr_decay_steps=4, learning_rate=0.1))
    seen = []
    for _ in range(3):
        seen.append({name: round(rate, 6) for name, rate in subject.learning_rates().items()})
        subject.train(batches(), 2)
    assert seen == [{"critic": rate, "generator": rate} for rate in (0.1, 0.1, 0.05)]


def test_stops_at_the_first_step_that_is_not_finite_and_names_the_term():
    subject, report = trained(20, config=Config(poison_step=3))
    assert report.bad_step == 3
    assert "critic/real" in report.non_finite
    assert "critic/fake" not in report.non_finite
    assert report.steps <= 3 + 1 + 2 * subject.period  # two calls may have been in flight
    assert np.isfinite(report.scalars["critic/fake"])


def test_an_interrupted_run_equals_an_uninterrupted_one_bit_for_bit():
    recipe = dataclasses.replace(TOY.recipe, ema_decay=0.75, ema_start=0.5)
    reference, _ = trained(8, recipe=recipe)
    first, _ = trained(4, recipe=recipe)
    second = engine(recipe=recipe)
    second.load_state(first.state(), "test")
    second.train(batches(4), 4)
    assert_equal(reference.state(), second.state())


def test_an_iterator_that_ends_leaves_what_was_trained():
    subject = engine()
    source = batches()
    with pytest.raises(StopIteration):
        subject.train(iter([next(source), next(source)]), 4)
    reference, _ = trained(2)
    assert_equal(reference.state(), subject.state())


def test_state_of_other_networks_is_refused():
    with pytest.raises(UserError, match="of another shape"):
        engine(config=Config(width=8)).load_state(engine().state(), "checkpoint X")


def test_moving_average_copies_until_its_start():
    """Start 0.5 of 8 steps: after step 4 a copy, after step 6 the mean of the weights after 4, 5 and 6."""
    recipe = dataclasses.replace(TOY.recipe, ema_decay=0.75, ema_start=0.5, steps=8)
    subject = engine(config=Config(generator_every=1), recipe=recipe)
    source, weights = batches(), []
    for _ in range(6):
        subject.train(source, 1)
        weights.append(subject.state()["networks/generator/in/kernel"])
        if len(weights) == 4:
            average = subject.state()["averages/generator/in/kernel"]
            np.testing.assert_allclose(average, weights[3], rtol=1e-6, atol=1e-8)
    expected = 0.75 * (0.75 * weights[3] + 0.25 * weights[4]) + 0.25 * weights[5]
    np.testing.assert_allclose(subject.state()["averages/generator/in/kernel"], expected, rtol=1e-5, atol=1e-7)


def test_bfloat16_stays_finite_and_keeps_float32_weights():
    subject, report = trained(2, dtype="bfloat16")
    assert not report.non_finite
    assert {str(v.dtype) for m in subject.networks.values() for v in m.trainable_variables} == {"float32"}


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_bad_phase_moves_nothing_anywhere_and_the_next_step_goes_on(replicas):
    images = np.random.RandomState(0).randint(0, 255, (40, *SHAPE), dtype=np.uint8)
    images[3 * BATCH - 1] = 255  # the last of batch 2: on one device alone
    source = batches(images=images, others=images[::-1] // 2)
    subject = engine(replicas, Config(generator_every=1), WHITE_IS_BAD, nan_policy="skip")
    assert subject.train(source, 2).skipped == 0
    before = subject.state()
    report = subject.train(source, 1)
    after = subject.state()
    assert (report.skipped, report.bad_step, report.steps) == (1, -1, 1)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert not [name for name in moved if "critic" in name or name.startswith("memory")]
    assert {"step", "optimizers/generator/iterations", "networks/generator/in/kernel"} <= moved
    assert "critic/loss" not in report.scalars  # nothing of it is in the means
    assert np.isfinite(report.scalars["generator/loss"])
    report = subject.train(source, 2)
    last = subject.state()
    assert report.skipped == 0
    assert int(last["optimizers/critic/iterations"]) == 4
    assert all(np.isfinite(value).all() for value in last.values())
    assert not np.array_equal(last["networks/critic/in/kernel"], after["networks/critic/in/kernel"])
    assert np.all(last["memory/seen"] == 4)


def test_too_many_in_a_row_stop_and_are_named(monkeypatch):
    monkeypatch.setattr(engines, "MOST_SKIPPED", 3)
    images = np.random.RandomState(0).randint(0, 255, (40, *SHAPE), dtype=np.uint8)
    for number in (1, 2, 4, 5, 6):
        images[(number + 1) * BATCH - 1] = 255
    source = batches(images=images, others=images[::-1] // 2)
    subject = engine(1, Config(generator_every=1), WHITE_IS_BAD, nan_policy="skip")
    report = subject.train(source, 3)
    assert (report.skipped, report.bad_step) == (2, -1)
    assert np.isfinite(report.scalars["critic/loss"])  # of the step that was sound
    report = subject.train(source, 3)  # counted over calls: 4 and 5, after 3, which was sound
    assert (report.skipped, report.bad_step) == (2, -1)
    report = subject.train(source, 3)
    assert report.bad_step == 6
    assert {"critic/real", "critic/loss"} <= set(report.non_finite)
    assert "critic/fake" not in report.non_finite


def remembering_engine(replicas=1):
    recipe = dataclasses.replace(TOY.recipe, batch_size=BATCH, weight_decay=0.0)
    return engine(replicas, method=remembering.REMEMBERING, shape=remembering.SHAPE, recipe=recipe)


def remembering_batches(first=0):
    return batches(first, remembering.IMAGES, remembering.IMAGES[::-1])


@pytest.mark.parametrize("replicas", [1, 2])
def test_memory_carry_and_power_steps_are_the_same_on_any_number_of_devices(replicas):
    one = remembering_engine()
    report_one = one.train(remembering_batches(), 3)
    state = one.state()
    assert np.array_equal(state["memory/count"], np.full(BATCH, 3))
    assert state["memory/count"].dtype == np.int32
    assert report_one.scalars["critic/step"] == pytest.approx(1.0)  # the mean of 0, 1, 2
    first = remembering_engine()
    fakes = np.array(first.networks["generator"](remembering.IMAGES[:BATCH] / np.float32(127.5) - 1))
    kernel = first.state()["networks/critic/inner/power/kernel"].astype(np.float64)
    first.train(remembering_batches(), 1)
    # Carried fakes are those made before the update, and a power step comes before the gradient.
    np.testing.assert_allclose(first.state()["memory/slots"][:, 1], fakes, atol=1e-6)
    u = kernel.T @ (kernel @ np.ones(5))
    np.testing.assert_allclose(
        first.state()["networks/critic/inner/power/u"], u / np.linalg.norm(u), rtol=1e-5, atol=1e-6
    )
    second = remembering_engine(replicas)
    second.load_state(first.state(), "checkpoint")
    second.train(remembering_batches(1), 2)
    for name, value in state.items():
        np.testing.assert_allclose(second.state()[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def stopped_loss(nets, batch, context, config):
    """The critic's loss in a phase that also trains the generator, which no gradient reaches."""
    loss = toy.critic_loss(nets, batch, context, config)
    return Loss({"real": loss.terms["real"], "fake": loss.terms["fake"]})


def test_a_weight_that_no_gradient_reaches_is_not_decayed():
    phases = (Phase("both", ("critic", "generator"), stopped_loss),)
    subject = engine(method=dataclasses.replace(TOY, phases=lambda config: phases))
    before = subject.state()
    subject.train(batches(), 2)
    after = subject.state()
    assert not np.array_equal(before["networks/critic/in/kernel"], after["networks/critic/in/kernel"])
    assert np.array_equal(before["networks/generator/in/kernel"], after["networks/generator/in/kernel"])


def test_constraints_hold_after_an_update():
    def networks(config, image_shape):
        made = TOY.networks(config, image_shape)
        made["critic"].get_layer("out").bias.constraint = keras.constraints.NonNeg()
        return made

    subject = engine(
        method=dataclasses.replace(TOY, networks=networks), recipe=dataclasses.replace(TOY.recipe, learning_rate=0.1)
    )
    subject.networks["critic"].get_layer("out").bias.assign(np.array([1.5]))  # above what is aimed at: pushed down
    for _ in range(6):
        subject.train(batches(), 2)
        assert subject.state()["networks/critic/out/bias"].min() >= 0


def test_rematerialised_maps_are_computed_again_for_equal_weights():
    kept, again = engine(config=Config(generator_every=1)), engine(config=Config(generator_every=1), rematerialise=True)
    arguments = [(s._values(), s._no_totals(), s._placed_batch(next(batches()))) for s in (kept, again)]
    convolutions = [
        str(s._jitted(s._due(0)).lower(*a).as_text()).count("stablehlo.convolution(")
        for s, a in zip((kept, again), arguments, strict=True)
    ]
    assert convolutions[1] > convolutions[0]
    kept.train(batches(), 2)
    again.train(batches(), 2)
    assert_same(kept.state(), again.state())


@pytest.mark.parametrize("name", ["augmentation", "xla"])
def test_what_only_tensorflow_has_is_refused(name):
    with pytest.raises(UserError, match="tensorflow") as caught:
        engine(**{"augmentation": {"augmentation": object()}, "xla": {"xla": "off"}}[name])
    assert "\n" not in str(caught.value)


def test_draws_are_those_of_the_tensorflow_engine():
    """Its context works in this process too: it needs no Keras."""
    import tensorflow as tf

    from tfaclgan.engine.tensorflow import _Context as TensorFlowContext

    for seed, step in ((0, 0), (3, 70_000)):
        theirs = TensorFlowContext(seed, "p", tf.constant(step, tf.int64), tf.constant(0), 1)
        ours = _Context(seed, "p", jax.numpy.int32(step), 0, 1)
        assert np.array_equal(theirs.uniform("u", (4, 7)).numpy(), np.asarray(ours.uniform("u", (4, 7))))
        normal = np.asarray(ours.normal("z", (4, 9)))
        np.testing.assert_allclose(theirs.normal("z", (4, 9)).numpy(), normal, rtol=2e-6, atol=1e-6)
        halves = [np.asarray(_Context(seed, "p", jax.numpy.int32(step), r, 2).normal("z", (2, 9))) for r in (0, 1)]
        assert np.array_equal(np.concatenate(halves), normal)


def test_losses_are_those_of_the_tensorflow_engine():
    """`TFACLGAN_THEIRS`: a folder with weights, and what the TensorFlow engine made of them."""
    folder = os.environ["TFACLGAN_THEIRS"]
    with open(os.path.join(folder, "reports.json")) as file:
        theirs = json.load(file)
    with np.load(os.path.join(folder, "before.npz")) as before, np.load(os.path.join(folder, "after.npz")) as after:
        recipe = dataclasses.replace(TOY.recipe, ema_decay=0.9)
        subject = engine(config=Config(generator_every=1), recipe=recipe)
        subject.load_state(dict(before), "theirs")
        source = batches()
        for expected in theirs:
            assert subject.train(source, 1).scalars == pytest.approx(expected, rel=1e-5, abs=1e-7)
        assert_same(dict(after), subject.state(), 1e-4)
        assert {name: value.dtype for name, value in after.items()} == {
            name: value.dtype for name, value in subject.state().items()
        }
    np.savez(os.path.join(folder, "ours.npz"), **subject.state())


def test_losses_have_no_slope_where_nothing_differs():
    """JAX's |x| has the derivative 1 at 0, TensorFlow's and PyTorch's 0."""
    grey = jax.numpy.full((2, *SHAPE), 0.5)
    terms = (
        lambda values: reconstruction.mean_absolute_error(values, grey),
        reconstruction.total_variation,
        lambda values: focus.indecision(values, 0.01),
        focus.variation,
    )
    for term in terms:
        assert not np.asarray(jax.grad(term)(grey)).any()
        assert np.asarray(jax.grad(term)(jax.numpy.asarray(IMAGES[:2] / 255.0))).any()


@pytest.mark.parametrize("kind", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize(
    "padding, axes, mode",
    [
        (1, (1, 2), "reflect"),
        (3, (1, 2), "reflect"),
        ((1, 0), (1, 2), "reflect"),
        ((0, 2), (2,), "reflect"),
        (1, (1, 2), "symmetric"),
        (2, (1,), "symmetric"),
    ],
)
def test_mirrored_borders_and_their_gradient(padding, axes, mode, kind):
    """NumPy's, and by the rule that <pad(x), y> = <x, gradient(y)> for a linear map."""
    random, sides = np.random.RandomState(0), (padding, padding) if isinstance(padding, int) else padding
    images = random.normal(size=(2, 7, 9, 3)).astype("float32")
    expected = np.pad(images, [sides if axis in axes else (0, 0) for axis in range(4)], mode=mode)
    pad = reflect_pad if mode == "reflect" else edge_pad
    with target.compiling_for(kind):
        padded, back = jax.vjp(lambda x: pad(x, padding, axes), jax.numpy.asarray(images))
    np.testing.assert_array_equal(padded, expected)
    for weights in random.normal(size=(4, *expected.shape)).astype("float32"):
        assert (back(weights)[0] * images).sum() == pytest.approx((expected * weights).sum(), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("resample", [resampling.upsample_convolution, resampling.small_upsample_convolution])
def test_what_is_computed_otherwise_on_a_gpu_has_the_same_values_and_gradients(resample):
    random, taps = np.random.RandomState(0), 5 if resample is resampling.upsample_convolution else 3
    images, kernel = (random.normal(size=s).astype("float32") for s in ((2, 6, 4, 3), (taps, taps, 3, 4)))
    weights = random.normal(size=(2, 12, 8, 4)).astype("float32")
    results = []
    for kind in ("cpu", "gpu"):
        with target.compiling_for(kind):
            result, back = jax.vjp(resample, images, kernel)
        results.append([result, *back(weights)])
    for gpu, cpu in zip(*results, strict=True):
        np.testing.assert_allclose(gpu, cpu, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "crop"), [(3, (1, 0)), (4, (1, 1)), (3, (0, 0))])
def test_transposed_convolutions_without_the_rows_that_are_not_wanted(size, crop):
    random = np.random.RandomState(0)
    images = random.normal(size=(2, 3, 5, 2)).astype("float32")
    kernel = random.normal(size=(size, size, 4, 2)).astype("float32")
    whole = keras.ops.conv_transpose(images, kernel, 2, "valid")
    expected = np.asarray(whole)[:, crop[0] : whole.shape[1] - crop[1], crop[0] : whole.shape[2] - crop[1]]
    found = resampling.transposed_convolution(images, kernel, crop)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-5, atol=1e-5)


def test_doubled_maps_are_the_same_on_a_gpu():
    images = np.random.RandomState(0).normal(size=(2, 3, 5, 4)).astype("float32")
    with target.compiling_for("gpu"):
        np.testing.assert_array_equal(resampling.Double()(images), images.repeat(2, 1).repeat(2, 2))


@pytest.mark.parametrize("kind", [HeadConv2D, StemConv2D])
def test_first_and_last_convolutions_on_tensor_cores(kind):
    """bfloat16, which a GPU computes in groups of columns: as Keras' own layer but for what bfloat16 rounds."""
    images = np.random.RandomState(0).normal(size=(2, 12, 22, 3)).astype("float32")
    layer, plain = kind(4, 7, dtype="bfloat16"), keras.layers.Conv2D(4, 7, dtype="bfloat16")
    for one in (layer, plain):
        one.build(images.shape)
    plain.set_weights(layer.get_weights())
    with target.compiling_for("gpu"):
        lowered = jax.jit(lambda x: layer(x)).lower(images).as_text()
        found = np.asarray(layer(images), np.float32)
    assert "x24x" in lowered  # eight columns of three channels
    np.testing.assert_allclose(found, np.asarray(plain(images), np.float32), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("norm", [norms.instance_norm, norms.layer_norm, norms.sample_norm])
def test_norms_and_their_two_derivatives(norm):
    """Against difference quotients of the values, then of the gradient (a gradient penalty needs both)."""
    random = np.random.RandomState(0)
    images, weights, direction = random.normal(size=(3, 2, 6, 5, 3)).astype("float32")

    def first(x):
        return jax.grad(lambda x: jax.numpy.sum(weights * jax.numpy.sin(norm(x))))(x)

    step = 1e-2
    sides = [images + sign * step * direction for sign in (1, -1)]
    values = [float(jax.numpy.sum(weights * jax.numpy.sin(norm(x)))) for x in sides]
    assert (first(images) * direction).sum() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-2)
    second = jax.grad(lambda x: jax.numpy.sum(first(x) ** 2))(images)
    values = [float(jax.numpy.sum(first(x) ** 2)) for x in sides]
    assert (second * direction).sum() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-2)


@pytest.mark.parametrize(
    "name, words", [("moon", "unknown"), ("mirrored", "no GPU"), ("tpu", "no TPU"), ("multiworker", "TF_CONFIG")]
)
def test_missing_hardware_is_one_clear_line(name, words, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match=words) as caught:
        engines.make_hardware(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind, already, expected", [("gpu", "", "/compiled"), ("gpu", "mine", "mine"), ("cpu", "", "")]
)
def test_programs_for_accelerators_are_kept_from_start_to_start(kind, already, expected, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(jax_hardware, "_all", lambda: dataclasses.replace(on_jax.hardware(1), kind=kind))
    try:
        jax.config.update("jax_compilation_cache_dir", already or None)
        engines.make_hardware("auto")
        found = jax.config.jax_compilation_cache_dir or ""
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert found.endswith(expected)
    assert bool(found) == bool(expected)
    assert "~" not in found


def test_a_profile_tells_data_iterations_and_phases_apart(tmp_path):
    judged, painted = TOY.phases(Config())
    phases = (dataclasses.replace(judged, name="judges"), dataclasses.replace(painted, name="paints"))
    # A program unlike the other tests': names are no part of what the cache of compiled programs goes by.
    recipe = dataclasses.replace(TOY.recipe, beta_1=0.25)
    subject = engine(method=dataclasses.replace(TOY, phases=lambda config: phases), recipe=recipe)
    subject.train(batches(), 2)
    subject.start_profile(str(tmp_path))
    subject.train(batches(2), 4)
    subject.stop_profile()
    trace, instructions = profiles.read(tmp_path), profiles.instructions(tmp_path)
    assert [stats["step_num"] for name, stats in trace if name == "train"] == [2, 3, 4, 5]
    assert not [name for name, _ in trace if name.startswith("$")]  # Python's own calls
    ran = {(stats["program_id"], stats["hlo_op"]) for _, stats in trace if "hlo_op" in stats}
    convolutions = [instructions[key][1] for key in ran if instructions[key][0] == "convolution"]
    for phase in ("judges", "paints"):
        assert [name for name in convolutions if f"/{phase}/" in name]
    # XLA for CPUs drops the name of some that it rewrites; no name is without a phase.
    assert not [name for name in convolutions if name and "/judges/" not in name and "/paints/" not in name]
