"""What the engine keeps and hands on for a method: memories, carried tensors, power steps."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import tensorflow as tf
from remembering import BATCH, IMAGES, REMEMBERING, SHAPE
from toy import TOY, Config

from tfaclgan.engine import strategy as strategies
from tfaclgan.engine.tensorflow import Engine


def batches(strategy, first=0):
    def make(_):
        data = tf.data.Dataset.from_tensor_slices({"a": IMAGES, "b": IMAGES[::-1]}).repeat()
        return data.skip(first * BATCH).batch(BATCH // strategy.num_replicas_in_sync, drop_remainder=True)

    if strategy.num_replicas_in_sync == 1:
        return iter(make(None))
    return iter(strategy.distribute_datasets_from_function(make))


def engine(replicas=1, **options):
    hardware = strategies.make("cpu", cpu_devices=replicas)
    recipe = dataclasses.replace(TOY.recipe, batch_size=BATCH, weight_decay=0.0)
    return Engine(REMEMBERING, Config(), image_shape=SHAPE, recipe=recipe, strategy=hardware.strategy, **options)


def trained(steps, **options):
    subject = engine(**options)
    return subject, subject.train(batches(subject.strategy), steps)


@pytest.fixture(scope="module")
def one():
    return trained(3)


def test_memory_carry_and_step_reach_the_loss(one):
    subject, report = one
    state = subject.state()
    assert state["memory/slots"].shape == (BATCH, 2, *SHAPE)
    assert np.array_equal(state["memory/count"], np.full(BATCH, 3))
    assert report.scalars["critic/step"] == pytest.approx(1.0)  # the mean of 0, 1, 2
    newest = state["memory/slots"][:, 1]
    assert newest.std() > 0
    assert not np.array_equal(newest, state["memory/slots"][:, 0])


def test_carried_fakes_are_those_made_before_the_update(one):
    subject, fresh = one[0], engine()
    fakes = fresh.networks["generator"](tf.cast(IMAGES[:BATCH], tf.float32) / 127.5 - 1).numpy()
    fresh.train(batches(fresh.strategy), 1)
    np.testing.assert_allclose(fresh.state()["memory/slots"][:, 1], fakes, atol=1e-6)
    assert subject.trace_count == 1


def test_two_replicas_remember_the_same_as_one(one):
    two, report = trained(3, replicas=2)
    for name, value in one[0].state().items():
        np.testing.assert_allclose(two.state()[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert report.scalars == pytest.approx(one[1].scalars, rel=1e-4, abs=1e-5)


def test_memories_of_two_replicas_give_no_warning(monkeypatch):
    """AutoGraph did, ten lines at every checkpoint."""
    said = []
    monkeypatch.setattr(logging.getLogger("tensorflow"), "handle", lambda record: said.append(record.getMessage()))
    two = engine(replicas=2)
    two.load_state(two.state(), "state")
    assert not [message for message in said if "AutoGraph" in message]


def test_xla_remembers_the_same(one):
    compiled, _ = trained(3, xla="on")
    for name, value in one[0].state().items():
        np.testing.assert_allclose(compiled.state()[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("replicas", [1, 2])
def test_memory_survives_a_checkpoint_between_replica_counts(one, replicas):
    first, _ = trained(2)
    second = engine(replicas=replicas)
    second.load_state(first.state(), "checkpoint")
    second.train(batches(second.strategy, first=2), 1)
    for name, value in one[0].state().items():
        np.testing.assert_allclose(second.state()[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_power_step_comes_before_the_gradient():
    subject = engine()
    kernel = subject.state()["networks/critic/inner/power/kernel"].astype(np.float64)
    subject.train(batches(subject.strategy), 1)
    expected = kernel.T @ kernel @ np.ones(5)
    np.testing.assert_allclose(
        subject.state()["networks/critic/inner/power/u"], expected / np.linalg.norm(expected), rtol=1e-5
    )


@pytest.mark.parametrize("value", [0, 1, 2**24 + 1, 10**9 + 7])
def test_sums_over_replicas_are_exact_beyond_what_float32_counts(value):
    assert strategies.make("cpu", cpu_devices=2).sum_over_replicas(value) == 2 * value
