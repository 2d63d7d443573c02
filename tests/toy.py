"""A method small enough to train in milliseconds: the engine and the loop are tested on it."""

from __future__ import annotations

import dataclasses

from tfaclgan.lazy import lazy_import
from tfaclgan.methods.base import Loss, Memory, Method, Phase, Recipe, Translation, option

keras = lazy_import("keras")
ops = lazy_import("keras.ops")


@dataclasses.dataclass(frozen=True)
class Config:
    width: int = option(4, "channels", networks=True)
    generator_every: int = option(2, "data iterations between generator updates")
    poison_step: int = option(-1, "step from which the critic's loss is NaN")
    couple: bool = option(False, "add a term that needs the mean over all replicas")


def networks(config, image_shape):
    channels = image_shape[-1]
    layer = keras.layers
    critic = keras.Sequential(
        [
            keras.Input((None, None, channels)),
            layer.Conv2D(config.width, 4, 2, name="in"),
            layer.LeakyReLU(negative_slope=0.2, name="leaky"),
            layer.Conv2D(1, 3, name="out"),
        ],
        name="critic",
    )
    generator = keras.Sequential(
        [
            keras.Input((None, None, channels)),
            layer.Conv2D(config.width, 3, padding="same", activation="relu", name="in"),
            layer.Conv2D(channels, 3, padding="same", activation="tanh", dtype="float32", name="out"),
        ],
        name="generator",
    )
    return {"critic": critic, "generator": generator}


def critic_loss(nets, batch, context, config):
    noise = context.normal("noise", tuple(batch["a"].shape))
    fake = ops.stop_gradient(nets["generator"](batch["a"] + 0.1 * noise))
    real = ops.mean(ops.square(ops.cast(nets["critic"](batch["b"]), "float32") - 1))
    if config.poison_step >= 0:
        real = real + ops.where(context.step >= config.poison_step, float("nan"), 0.0)
    return Loss(
        {"real": real, "fake": ops.mean(ops.square(ops.cast(nets["critic"](fake), "float32")))},
        {"noise": ops.mean(noise)},
    )


def generator_loss(nets, batch, context, config):
    fake = nets["generator"](batch["a"])
    terms = {"adversarial": ops.mean(ops.square(ops.cast(nets["critic"](fake), "float32") - 1))}
    if config.couple:
        terms["couple"] = ops.square(context.replica_mean(ops.mean(fake)) - 0.3)
    return Loss(terms)


def phases(config):
    return (
        Phase("critic", ("critic",), critic_loss),
        Phase("generator", ("generator",), generator_loss, every=config.generator_every, cross_replica=config.couple),
    )


def translate(nets, images, style, direction, config):
    return Translation(nets["generator"](images))


TOY = Method(
    name="toy",
    title="Toy",
    paper="none",
    config=Config,
    recipe=Recipe(
        steps=8,
        batch_size=4,
        image_size=16,
        load_size=16,
        learning_rate=1e-3,
        beta_1=0.5,
        beta_2=0.999,
        weight_decay=1e-4,
        augment="none",
    ),
    networks=networks,
    phases=phases,
    translate=translate,
    ema_networks=("generator",),
    directions=lambda config: ("a2b",),
    size_multiple=lambda config: 1,
    minimum_size=lambda config: 8,
)


def white_critic_loss(networks, batch, context, config):
    """The critic's; a white picture makes its term, on that replica alone, and what it remembers infinite."""
    loss = critic_loss(networks, batch, context, Config())
    white = ops.max(ops.min(batch["a"], axis=(1, 2, 3))) > 0.999
    real = ops.where(white, float("inf"), loss.terms["real"]) * ops.mean(ops.square(networks["critic"](batch["b"])))
    seen = context.memory["seen"] + ops.where(white, float("inf"), 1.0)
    return Loss({**loss.terms, "real": real}, loss.watch, {"seen": seen})


WHITE_IS_BAD = dataclasses.replace(
    TOY,
    phases=lambda config: (dataclasses.replace(TOY.phases(config)[0], loss=white_critic_loss), TOY.phases(config)[1]),
    memory=lambda config, image_shape: {"seen": Memory((1,))},
)
