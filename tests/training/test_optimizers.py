"""Adam and its schedule against a float64 numpy twin of the reference's formula (acl_gan.md 4)."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.engine.tensorflow import _ReplicaAdam
from tfaclgan.training.optimizers import CoupledAdam, LinearDecay, StepDecay


def twin(weight, gradients, rate, beta_1, beta_2, epsilon, l2):
    m = v = np.zeros_like(weight)
    for t, gradient in enumerate(gradients, 1):
        g = gradient + l2 * weight
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        weight = weight - rate * (m / (1 - beta_1**t)) / (np.sqrt(v / (1 - beta_2**t)) + epsilon)
    return weight


@pytest.mark.parametrize("optimizer_class", [CoupledAdam, _ReplicaAdam])
@pytest.mark.parametrize("epsilon", [1e-8, 1e-2])  # the large one tells the two places of epsilon apart
def test_update_equals_the_formula(optimizer_class, epsilon):
    random = np.random.RandomState(0)
    start = random.standard_normal((5, 4))
    gradients = [random.standard_normal((5, 4)) * 10.0**-i for i in range(6)]
    variable = keras.Variable(start.astype(np.float32))
    optimizer = optimizer_class(1e-2, 0.5, 0.999, epsilon, l2=0.1)
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient, tf.float32)], [variable])
    expected = twin(start, gradients, 1e-2, 0.5, 0.999, epsilon, 0.1)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("optimizer_class", [CoupledAdam, _ReplicaAdam])
def test_what_all_updates_have_in_common_is_computed_once(optimizer_class):
    def operations(count):
        variables = [keras.Variable(np.ones(3, np.float32)) for _ in range(count)]
        optimizer = optimizer_class(1e-2, l2=0.1)
        optimizer.build(variables)

        @tf.function(autograph=False)
        def step():
            optimizer.apply([tf.ones(3)] * count, variables)

        return [operation.type for operation in step.get_concrete_function().graph.get_operations()]

    assert operations(4).count("Expm1") == operations(1).count("Expm1") == 2


def test_the_rate_is_halved_at_multiples_counted_in_data_iterations():
    every_second = StepDecay(1.0, decay_steps=100, factor=0.5, every=2)
    assert [float(every_second(n)) for n in (0, 49, 50, 99, 100)] == [1.0, 1.0, 0.5, 0.5, 0.25]
    assert float(StepDecay(0.3)(10**6)) == pytest.approx(0.3)


def test_linear_decay_is_ugatits_pytorch_one():
    """ugatit.md 3: full up to step T/2, then less by rate / (T/2) each step, 0 at step T; steps count from 1."""
    total, rate = 1_000_000, 1e-4
    schedule, expected = LinearDecay(rate, total), rate
    wanted = {1, 2, total // 2, total // 2 + 1, 750_000, total - 1, total}
    for step in range(1, total + 1):
        if step > total // 2:
            expected -= rate / (total // 2)
        if step in wanted:
            assert float(schedule(step - 1)) == pytest.approx(expected, rel=1e-5, abs=1e-12), step
    assert float(schedule(total // 2 - 1)) == pytest.approx(1e-4)
    assert float(schedule(total // 2)) == pytest.approx(1e-4 * (1 - 1 / 500_000), rel=1e-7)
    assert float(schedule(total - 1)) == 0
    assert float(schedule(2 * total)) == 0


def test_linear_decay_by_epochs_is_ugatits_tensorflow_one_and_cyclegans():
    """ugatit.md 3: epoch e >= 50 of 100 has rate * (100 - e) / 50; CycleGAN's lambda has one epoch more below it."""
    stairs = LinearDecay(1.0, total=1000, start=500, stair=10)
    for epoch in range(100):
        expected = (100 - epoch) / 50 if epoch >= 50 else 1.0
        for iteration in (10 * epoch, 10 * epoch + 9):
            assert float(stairs(iteration)) == pytest.approx(expected)
    cyclegan = LinearDecay(1.0, total=2000, start=990, stair=10)
    for epoch in range(200):
        expected = 1 - max(0, epoch + 1 - 100) / 101
        assert float(cyclegan(10 * epoch + 5)) == pytest.approx(expected)


def test_linear_decay_counts_data_iterations_of_an_optimiser_due_now_and_then():
    plain, third = LinearDecay(1.0, total=90, start=30), LinearDecay(1.0, total=90, start=30, every=3)
    assert [float(third(n)) for n in range(30)] == [float(plain(3 * n)) for n in range(30)]


@pytest.mark.parametrize("optimizer_class", [CoupledAdam, _ReplicaAdam])
def test_the_penalty_may_be_on_kernels_only(optimizer_class):
    start = np.random.RandomState(0).standard_normal((5, 4))
    kernel, bias = (keras.Variable(start.astype(np.float32), name=name) for name in ("kernel", "bias"))
    optimizer = optimizer_class(1e-2, 0.5, 0.999, 1e-8, l2=0.1, l2_on="kernels")
    optimizer.build([kernel, bias])
    gradients = [np.random.RandomState(i).standard_normal((5, 4)) for i in range(3)]
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient, tf.float32)] * 2, [kernel, bias])
    for variable, l2 in ((kernel, 0.1), (bias, 0.0)):
        expected = twin(start, gradients, 1e-2, 0.5, 0.999, 1e-8, l2)
        np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-5, atol=2e-6)
