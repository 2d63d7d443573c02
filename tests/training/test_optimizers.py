"""Adam and its schedule against a float64 numpy twin of the reference's formula (acl_gan.md 4)."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.engine.tensorflow import _ReplicaAdam
from tfaclgan.training.optimizers import CoupledAdam, StepDecay


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


def test_the_rate_is_halved_at_multiples_counted_in_data_iterations():
    every_second = StepDecay(1.0, decay_steps=100, factor=0.5, every=2)
    assert [float(every_second(n)) for n in (0, 49, 50, 99, 100)] == [1.0, 1.0, 0.5, 0.5, 0.25]
    assert float(StepDecay(0.3)(10**6)) == pytest.approx(0.3)
