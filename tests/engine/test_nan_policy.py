"""nan_policy="skip": a phase that is not finite moves nothing, on all replicas; otherwise nothing changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from toy import TOY, WHITE_IS_BAD, Config

from tfaclgan.engine import strategy as strategies
from tfaclgan.engine import tensorflow as engines

SHAPE, BATCH = (16, 16, 3), 4
IMAGES = np.random.RandomState(0).randint(0, 255, (40, *SHAPE), dtype=np.uint8)


def engine(replicas=1, policy="skip", **options):
    strategy = strategies.make("cpu", cpu_devices=replicas).strategy
    recipe = dataclasses.replace(TOY.recipe, lr_decay_steps=1)
    return engines.Engine(
        WHITE_IS_BAD, Config(generator_every=1), image_shape=SHAPE, recipe=recipe, strategy=strategy, nan_policy=policy,
        **options,
    )  # fmt: skip


def batches(strategy, white=()):
    """Batches of which those numbered in `white` hold a white picture, the last of their batch."""
    replicas = strategy.num_replicas_in_sync
    images = IMAGES.copy()
    for number in white:
        images[(number + 1) * BATCH - 1] = 255

    def make(_):
        data = tf.data.Dataset.from_tensor_slices({"a": images, "b": IMAGES[::-1]})
        return data.batch(BATCH // replicas, drop_remainder=True)

    return iter(make(None)) if replicas == 1 else iter(strategy.distribute_datasets_from_function(make))


def copies(variable):
    """The variable on each replica."""
    value = getattr(variable, "value", variable)
    return [part.numpy() for part in getattr(value, "values", [value])]


@pytest.mark.parametrize("replicas, xla", [(1, "off"), (1, "on"), (2, "off"), (2, "on")])
def test_a_bad_phase_moves_nothing_anywhere_and_the_next_step_goes_on(replicas, xla):
    subject = engine(replicas, xla=xla)
    iterator = batches(subject.strategy, white=[2])
    assert subject.train(iterator, 2).skipped == 0
    before = subject.state()
    report = subject.train(iterator, 1)
    after = subject.state()
    assert (report.skipped, report.bad_step, report.steps) == (1, -1, 1)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert not [name for name in moved if "critic" in name or name.startswith("memory")]
    assert {"step", "optimizers/generator/iterations", "networks/generator/in/kernel"} <= moved
    assert "critic/loss" not in report.scalars  # nothing of it is in the means
    assert np.isfinite(report.scalars["generator/loss"])
    for variable in subject.networks["critic"].trainable_variables:
        parts = copies(variable)
        assert len(parts) == replicas
        assert all(np.array_equal(parts[0], part) for part in parts)
    report = subject.train(iterator, 2)
    last = subject.state()
    assert report.skipped == 0
    assert int(last["optimizers/critic/iterations"]) == 4
    assert all(np.isfinite(value).all() for value in last.values())
    assert not np.array_equal(last["networks/critic/in/kernel"], after["networks/critic/in/kernel"])
    assert np.all(last["memory/seen"] == 4)
    assert subject.trace_count == 1


def test_without_a_bad_value_skip_is_stop_bit_for_bit():
    states = []
    for policy in ("stop", "skip"):
        subject = engine(policy=policy)
        subject.train(batches(subject.strategy), 6)
        states.append(subject.state())
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


def test_too_many_in_a_row_stop_and_are_named(monkeypatch):
    monkeypatch.setattr(engines, "MOST_SKIPPED", 3)
    subject = engine()
    iterator = batches(subject.strategy, white=[1, 2, 4, 5, 6])
    report = subject.train(iterator, 3)
    assert (report.skipped, report.bad_step) == (2, -1)
    assert np.isfinite(report.scalars["critic/loss"])  # of the step that was sound
    report = subject.train(iterator, 3)  # counted over calls: 4 and 5, after 3, which was sound
    assert (report.skipped, report.bad_step) == (2, -1)
    report = subject.train(iterator, 3)
    assert report.bad_step == 6
    assert {"critic/real", "critic/loss"} <= set(report.non_finite)
    assert "critic/fake" not in report.non_finite
