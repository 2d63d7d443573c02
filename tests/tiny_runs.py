"""Tiny runs with random weights, and a method without weights whose results are known exactly."""

from __future__ import annotations

import types

import numpy as np

from tfaclgan.methods import base

TINY = {"width": 4, "residual_blocks": 1, "mlp_dim": 8, "style_dim": 3, "discriminator_width": 4}
SMALL_DISCRIMINATORS = {"discriminator_scales": 1, "discriminator_layers": 2}


def tiny_run(name: str, image_shape=(32, 32, 3), seed=0, **options):
    """(run, networks) of a method with small networks; weights differ between seeds."""
    import keras

    method = base.get(name)
    config = method.config(**{**TINY, **SMALL_DISCRIMINATORS, **options})
    keras.utils.set_random_seed(seed)
    networks = method.networks(config, image_shape)
    run = types.SimpleNamespace(method=method, config=config, image_shape=image_shape, flags={}, path="run")
    return run, networks


def negative_run(channels=3, style_dim=0, multiple=1, minimum=1, mask=False):
    """A run whose translation is the negative, plus the style's first number if there are styles.

    The mask is 1 in the image's left half of columns (of what the network sees) and raw is the image itself.
    """

    def translate(networks, images, style, direction, config):
        shift = 0 if style is None else style[:, None, None, :1]
        left = np.zeros((1, *images.shape[1:3], 1), np.float32)
        left[:, :, : images.shape[2] // 2] = 1
        painted = left + 0 * images[..., :1]
        return base.Translation(-images + shift, *((painted, images) if mask else ()))

    def encode_style(networks, images, direction, config):
        import tensorflow as tf

        mean = tf.reduce_mean(images, axis=(1, 2, 3))
        return tf.stack([mean] * style_dim, axis=1)

    method = base.Method(
        name="negative",
        title="Negative",
        paper="none",
        config=dict,
        recipe=base.get("acl_gan").recipe,
        networks=lambda config, image_shape: {},
        phases=lambda config: (),
        translate=translate,
        ema_networks=(),
        directions=lambda config: ("a2b",),
        size_multiple=lambda config: multiple,
        minimum_size=lambda config: minimum,
        style_dim=lambda config: style_dim,
        encode_style=encode_style if style_dim else None,
    )
    return types.SimpleNamespace(method=method, config=None, image_shape=(32, 32, channels), flags={}, path="negative")
