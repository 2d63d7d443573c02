"""The engine: replicas agree, XLA agrees, schedules count, non-finite values stop it, state round-trips."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from toy import TOY, Config

from tfaclgan.engine import strategy as strategies
from tfaclgan.engine.tensorflow import Engine
from tfaclgan.errors import UserError

SHAPE = (16, 16, 3)
BATCH = 4
IMAGES = np.random.RandomState(0).randint(0, 256, (32, *SHAPE), dtype=np.uint8)


def batches(strategy, first=0):
    replicas = strategy.num_replicas_in_sync

    def make(_):
        data = tf.data.Dataset.from_tensor_slices({"a": IMAGES, "b": IMAGES[::-1]}).repeat()
        return data.skip(first * BATCH).batch(BATCH // replicas, drop_remainder=True)

    if replicas == 1:
        return iter(make(None))
    return iter(strategy.distribute_datasets_from_function(make))


def engine(replicas=1, config=None, recipe=None, **options):
    hardware = strategies.make("cpu", cpu_devices=replicas)
    return Engine(
        TOY, config or Config(), image_shape=SHAPE, recipe=recipe or TOY.recipe, strategy=hardware.strategy, **options
    )


def trained(steps=6, **options):
    subject = engine(**options)
    report = subject.train(batches(subject.strategy), steps)
    return subject, report


def assert_same(left, right, tolerance=1e-5):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=tolerance, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("couple", [False, True])
def test_two_replicas_equal_one(couple):
    config = Config(couple=couple)
    one, report_one = trained(config=config, recipe=dataclasses.replace(TOY.recipe, ema_decay=0.9))
    two, report_two = trained(replicas=2, config=config, recipe=dataclasses.replace(TOY.recipe, ema_decay=0.9))
    assert_same(report_one.scalars, report_two.scalars)
    assert_same(one.state(), two.state())


def test_xla_equals_plain():
    plain, _ = trained(xla="off")
    compiled, _ = trained(xla="on")
    assert_same(plain.state(), compiled.state(), 1e-4)


def test_two_replicas_under_xla_equal_one():
    one, _ = trained()
    two, _ = trained(replicas=2, xla="on")
    assert_same(one.state(), two.state(), 1e-4)


def test_updates_match_the_reference_optimiser():
    """One critic step against float64 numpy Adam on the gradient of an independent tape."""
    subject = engine()
    before = {k: v.numpy().astype(np.float64) for k, v in zip(range(9), subject.networks["critic"].trainable_variables)}
    a, b = (tf.cast(x[:BATCH], tf.float32) / 127.5 - 1 for x in (IMAGES, IMAGES[::-1]))
    from tfaclgan.engine.tensorflow import _Context

    context = _Context(0, "critic", tf.constant(0, tf.int64), tf.constant(0), 1)
    with tf.GradientTape() as tape:
        loss = TOY.phases(Config())[0].loss(subject.networks, {"a": a, "b": b}, context, Config())
        total = tf.add_n(list(loss.terms.values()))
    gradients = tape.gradient(total, subject.networks["critic"].trainable_variables)
    report = subject.train(batches(subject.strategy), 2)
    one_step = engine(config=Config(generator_every=1))
    one_step.train(batches(one_step.strategy), 1)
    for index, gradient in enumerate(gradients):
        g = gradient.numpy().astype(np.float64) + 1e-4 * before[index]
        expected = before[index] - 1e-3 * g / (
            np.abs(g) + 1e-8
        )  # bias-corrected first step: m/(1-b1) = g, v/(1-b2) = g^2
        np.testing.assert_allclose(
            one_step.networks["critic"].trainable_variables[index].numpy(), expected, rtol=2e-4, atol=2e-6
        )
    assert report.steps == 2


def test_each_phase_is_due_when_it_should_be():
    subject, _ = trained(steps=6)
    assert int(subject.step) == 6
    assert int(subject.optimizers["critic"].iterations) == 6
    assert int(subject.optimizers["generator"].iterations) == 3
    assert subject.trace_count == 1
    subject.train(batches(subject.strategy), 4)
    assert subject.trace_count == 1


def test_the_rate_halves_by_data_iterations_for_every_phase():
    recipe = dataclasses.replace(TOY.recipe, lr_decay_steps=4, learning_rate=0.1)
    subject = engine(recipe=recipe)
    seen = []
    for _ in range(3):
        seen.append(subject.learning_rates())
        subject.train(batches(subject.strategy), 2)
    assert [round(r["critic"], 6) for r in seen] == [0.1, 0.1, 0.05]
    assert [round(r["generator"], 6) for r in seen] == [0.1, 0.1, 0.05]


def test_noise_depends_on_step_name_and_seed_and_differs_per_sample():
    from tfaclgan.engine.tensorflow import _Context

    def draw(seed=0, phase="p", step=0, name="z", replica=0, replicas=1, n=4):
        context = _Context(seed, phase, tf.constant(step, tf.int64), tf.constant(replica), replicas)
        return context.normal(name, (n, 8)).numpy()

    base = draw()
    assert np.array_equal(base, draw())
    for other in (draw(seed=1), draw(phase="q"), draw(step=1), draw(name="y")):
        assert np.abs(base - other).max() > 0.1
    halves = np.concatenate([draw(replica=r, replicas=2, n=2) for r in (0, 1)])
    assert np.array_equal(base, halves)
    assert np.abs(base[:2] - base[2:]).max() > 0.1


def test_stops_at_the_first_non_finite_step_and_names_the_term():
    subject = engine(config=Config(poison_step=3))
    report = subject.train(batches(subject.strategy), 20)
    assert report.bad_step == 3
    assert "critic/real" in report.non_finite
    assert "critic/fake" not in report.non_finite
    assert report.steps <= 4
    assert all(np.isfinite(v) for k, v in report.scalars.items() if k == "critic/fake")


def test_state_round_trip_between_replica_counts():
    reference, _ = trained(steps=8)
    first = engine(replicas=2)
    first.train(batches(first.strategy), 4)
    second = engine(replicas=1, seed=5)
    second.load_state(first.state(), "test")
    second.seed = 0
    second.train(batches(second.strategy, first=4), 4)
    # The noise of `second` was traced with its own seed only if seed was set before tracing, as here.
    assert_same(reference.state(), second.state(), 1e-4)


def test_resume_is_bit_exact_on_one_replica():
    reference, _ = trained(steps=8)
    first, _ = trained(steps=4)
    second = engine()
    second.load_state(first.state(), "test")
    second.train(batches(second.strategy, first=4), 4)
    left, right = reference.state(), second.state()
    assert all(np.array_equal(left[k], right[k]) for k in left)


def test_state_of_other_networks_is_refused():
    with pytest.raises(UserError, match="of another shape"):
        engine(config=Config(width=8)).load_state(engine().state(), "checkpoint X")


def test_moving_average_follows_its_formula():
    recipe = dataclasses.replace(TOY.recipe, ema_decay=0.5)
    subject = engine(recipe=recipe)
    weight = subject.networks["generator"].trainable_variables[0]
    expected = weight.numpy()
    for _ in range(2):
        values = []
        for _ in range(1):
            subject.train(batches(subject.strategy), 2)
            values.append(weight.numpy())
        # The generator moves at the even iteration only, so both iterations average the same value.
        expected = 0.25 * expected + 0.75 * values[-1]
    np.testing.assert_allclose(subject.averages["generator/in/kernel"].numpy(), expected, rtol=1e-5, atol=1e-7)


def test_bfloat16_stays_finite_and_keeps_float32_weights():
    subject, report = trained(dtype="bfloat16")
    assert not report.non_finite
    assert all(v.dtype == "float32" for v in subject.networks["generator"].trainable_variables)


@pytest.mark.parametrize(
    "name, words", [("moon", "unknown"), ("mirrored", "no GPU"), ("tpu", "no TPU"), ("multiworker", "TF_CONFIG")]
)
def test_missing_hardware_is_one_clear_line(name, words, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match=words) as caught:
        strategies.make(name)
    assert "\n" not in str(caught.value)


def test_draws_are_standard_normal_and_inside_the_unit_interval():
    from tfaclgan.engine.tensorflow import _Context

    context = _Context(3, "p", tf.constant(1, tf.int64), tf.constant(0), 1)
    normal, uniform = context.normal("z", (200_000,)).numpy(), context.uniform("u", (200_000,)).numpy()
    assert abs(normal.mean()) < 0.01
    assert abs(normal.std() - 1) < 0.01
    assert abs(np.mean(normal**4) - 3) < 0.1
    assert 0 < uniform.min() < uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.005


@pytest.mark.parametrize("replicas", [1, 2])
def test_moving_average_copies_until_its_start(replicas):
    """Start 0.5 of 8 steps: after step 4 a copy, after step 6 the mean of the weights after 4, 5 and 6."""
    recipe = dataclasses.replace(TOY.recipe, ema_decay=0.75, ema_start=0.5, steps=8)
    subject = engine(replicas, config=Config(generator_every=1), recipe=recipe)
    iterator = batches(subject.strategy)
    weights = []
    for _ in range(6):
        subject.train(iterator, 1)
        weights.append(subject.state()["networks/generator/in/kernel"])
        if len(weights) == 4:
            average = subject.state()["averages/generator/in/kernel"]
            np.testing.assert_allclose(average, weights[3], rtol=1e-6, atol=1e-8)
    expected = 0.75 * (0.75 * weights[3] + 0.25 * weights[4]) + 0.25 * weights[5]
    average = subject.state()["averages/generator/in/kernel"]
    np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("replicas", "xla"), [(1, "off"), (1, "on"), (2, "off")])
def test_gradients_to_look_at_are_those_of_the_next_update(replicas, xla):
    """Adam's first moment after one update is (1 - beta_1) times the gradient; a rate of 0 leaves the weights alone."""
    recipe = dataclasses.replace(TOY.recipe, learning_rate=0.0, weight_decay=0.0)
    subject = engine(replicas=replicas, xla=xla, config=Config(generator_every=1), recipe=recipe)
    before = subject.state()
    found = subject.gradients(next(batches(subject.strategy)))
    after = subject.state()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    subject.train(batches(subject.strategy), 1)
    moments = {k: v for k, v in subject.state().items() if "/m/" in k}
    assert len(found) == len(moments)
    for name, gradient in found.items():
        phase, path = name.split("/", 1)
        moment = moments[f"optimizers/{phase}/m/{path}"]
        np.testing.assert_allclose(gradient * (1 - TOY.recipe.beta_1), moment, rtol=1e-4, atol=1e-7, err_msg=name)
