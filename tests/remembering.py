"""A method that remembers, hands on tensors, and steps a spectral norm: all that engines keep for methods."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
from keras import ops
from toy import TOY

from tfaclgan.methods.base import Loss, Memory, Phase

SHAPE = (8, 8, 3)
BATCH = 4
IMAGES = np.random.RandomState(0).randint(0, 256, (32, *SHAPE), dtype=np.uint8)


class PowerDense(keras.layers.Layer):
    """A dense layer divided by its largest singular value, as `Phase.power_step` expects it."""

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], 5), name="kernel")
        self.u = self.add_weight(
            shape=(5,), initializer="ones", trainable=False, aggregation="only_first_replica", name="u"
        )

    def power_step(self):
        right = ops.matmul(self.kernel, self.u)
        left = ops.matmul(ops.transpose(self.kernel), right)
        self.u.assign(left / ops.norm(left))

    def call(self, images):
        sigma = ops.norm(ops.matmul(self.kernel, ops.stop_gradient(self.u)))
        return ops.matmul(images, self.kernel / sigma)


def networks(config, image_shape):
    critic = keras.Sequential(
        [keras.Input((None, None, image_shape[-1])), keras.Sequential([PowerDense(name="power")], name="inner")],
        name="critic",
    )
    return {"critic": critic, "generator": TOY.networks(config, image_shape)["generator"]}


def generator_loss(nets, batch, context, config):
    fake = nets["generator"](batch["a"])
    return Loss({"error": ops.mean(ops.square(fake - batch["b"]))}, carry={"fake": fake})


def critic_loss(nets, batch, context, config):
    """Judges the mean of the last two fakes of each slot."""
    fake = context.carried["fake"]
    slots = ops.concatenate([context.memory["slots"][:, 1:], fake[:, None]], axis=1)
    count = context.memory["count"] + 1
    score = ops.mean(ops.square(nets["critic"](ops.mean(slots, axis=1))))
    watch = {
        "count": ops.mean(ops.cast(count, "float32")),
        "fake": ops.mean(fake),
        "step": ops.cast(context.step, "float32"),
    }
    return Loss({"score": score}, watch, memory={"slots": slots, "count": count})


REMEMBERING = dataclasses.replace(
    TOY,
    networks=networks,
    phases=lambda config: (
        Phase("generator", ("generator",), generator_loss),
        Phase("critic", ("critic",), critic_loss, power_step=("critic",)),
    ),
    memory=lambda config, image_shape: {"slots": Memory((2, *image_shape)), "count": Memory((), "int32")},
)
