"""The reference's recipe for comparing with the official code: float64, weights named as there.

Every parameter is filled from its official full name, so no file of weights is needed.
"""

from __future__ import annotations

import zlib

import keras
import numpy as np
import tensorflow as tf

from tfaclgan.networks import munit_names


class FixedContext:
    """A `methods.base.Context` whose draws are given: {name: array}."""

    replicas = 1

    def __init__(self, draws):
        self.draws = draws

    def normal(self, name, shape):
        value = tf.convert_to_tensor(self.draws[name])
        assert tuple(value.shape) == tuple(shape)
        return value

    def uniform(self, name, shape):
        raise AssertionError("these methods draw normal numbers only")

    def replica_mean(self, value):
        return value


def images(seed, shape=(2, 3, 64, 64)):
    """tanh of a normal draw, official axes [n, c, h, w] -> [b, h, w, c]."""
    return np.tanh(np.random.RandomState(seed).standard_normal(shape)).transpose(0, 2, 3, 1)


def styles():
    """Six styles [2, 8], in the order they are drawn."""
    return np.random.RandomState(3).standard_normal((6, 2, 8))


def build(method, config, image_shape=(64, 64, 3)):
    """The method's networks in float64."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        return method.networks(config, image_shape)
    finally:
        keras.config.set_dtype_policy(before)


def fill(networks, modules, config):
    """Gives every weight its reference value; modules: {network name: official module name}."""
    for name, module in modules.items():
        network = networks[name]
        if name.startswith("g_"):
            names = munit_names.generator_names(config.downsamples, config.residual_blocks)
        else:
            names = munit_names.discriminator_names(config.discriminator_scales, config.discriminator_layers)
        shapes = {variable.path.split("/", 1)[1]: tuple(variable.shape) for variable in network.variables}
        state = {key: _value(f"{module}.{key}", _official_shape(key, shapes[path])) for key, path in names.items()}
        munit_names.assign(network, state, names, "reference recipe")


def _official_shape(name, shape):
    if len(shape) == 4:
        return (shape[3], shape[2], shape[0], shape[1])
    if len(shape) == 2:
        return (shape[1], shape[0], 1, 1) if name.startswith("enc_style") else (shape[1], shape[0])
    return shape


def _value(name, shape):
    value = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return value * np.sqrt(2 / np.prod(shape[1:]))
    return 1 + 0.1 * value if name.endswith("gamma") else 0.1 * value


def gradients(phase, networks, batch, context, config):
    """(Loss, {variable path: gradient}) of a phase."""
    variables = [v for name in phase.networks for v in networks[name].trainable_variables]
    with tf.GradientTape() as tape:
        loss = phase.loss(networks, batch, context, config)
        total = tf.add_n(list(loss.terms.values()))
    values = tape.gradient(total, [v.value for v in variables], unconnected_gradients="zero")
    return loss, {v.path: g.numpy() for v, g in zip(variables, values, strict=True)}


def total(loss):
    return float(sum(loss.terms.values()))


def norm(gradients, prefix):
    """L2 norm over all gradients whose path starts with `prefix`."""
    chosen = [g for path, g in gradients.items() if path.startswith(prefix)]
    assert chosen
    return np.sqrt(sum(np.sum(g * g) for g in chosen))


class NumpyAdam:
    """The official optimiser: torch.optim.Adam with weight decay added to the gradient, float64."""

    def __init__(self, networks, names, learning_rate=1e-4, betas=(0.5, 0.999), epsilon=1e-8, weight_decay=1e-4):
        self.variables = [v for name in names for v in networks[name].trainable_variables]
        self.learning_rate, self.betas, self.epsilon, self.weight_decay = learning_rate, betas, epsilon, weight_decay
        self.slots = {v.path: (0.0, 0.0) for v in self.variables}
        self.time = 0

    def step(self, gradients):
        self.time += 1
        (beta_1, beta_2), t = self.betas, self.time
        for variable in self.variables:
            weight = variable.numpy()
            gradient = gradients[variable.path] + self.weight_decay * weight
            m, v = self.slots[variable.path]
            m = beta_1 * m + (1 - beta_1) * gradient
            v = beta_2 * v + (1 - beta_2) * gradient**2
            self.slots[variable.path] = m, v
            root = np.sqrt(v / (1 - beta_2**t)) + self.epsilon
            variable.assign(weight - self.learning_rate * m / (1 - beta_1**t) / root)
