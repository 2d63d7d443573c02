"""Discriminators that judge patches: one score for each of many overlapping windows of an image.

Paper: Isola et al., arXiv 1611.07004 (PatchGAN). Official code: junyanz/pytorch-CycleGAN-and-pix2pix (`basic` is
`patch` with 3 layers, seeing 70 x 70 pixels a score; `n_layers`; `pixel`). Instance norm without weights, biases
everywhere, kernels normal(0, 0.02). Deviation: flat channels (layers/norm.py: instance_norm).
"""

from __future__ import annotations

from typing import Any

import keras

from tfaclgan.layers.activation import LeakyReLU
from tfaclgan.layers.norm import InstanceNorm
from tfaclgan.layers.precision import full_dtype
from tfaclgan.networks.blocks import LEAKY_SLOPE, convolution

Tensor = Any


def discriminator(channels: int, *, width: int, layers: int, norm: str = "instance", name: str) -> keras.Model:
    """`layers` halvings by 4x4 convolutions, one 4x4 without stride, and a 4x4 that scores.

    Args:
        channels: of the images.
        width: channels after the first convolution; they double up to 8 widths.
        layers: convolutions of stride 2 (3: the 70 x 70 PatchGAN).
        norm: "instance", on all but the first and the last convolution, or "none".
        name: of the network; the first part of every weight's path.

    Returns:
        A model: [b, h, w, channels] -> scores [b, h', w', 1] without activation, in full precision; 256 px give 30.
    """
    inputs = keras.Input((None, None, channels), name="images", dtype=full_dtype())
    with keras.name_scope(name):
        x = inputs
        for i in range(layers + 1):
            label = f"layer{i}"
            x = convolution(x, width * min(2**i, 8), 4, label, stride=2 if i < layers else 1, padding=1)
            if i and norm == "instance":
                x = InstanceNorm(name=f"{label}_norm")(x)
            x = LeakyReLU(LEAKY_SLOPE, name=f"{label}_activation")(x)
        scores = convolution(x, 1, 4, "score", padding=1, dtype=full_dtype())
    return keras.Model(inputs, scores, name=name)


def pixel_discriminator(channels: int, *, width: int, norm: str = "instance", name: str) -> keras.Model:
    """1x1 convolutions only: a score a pixel. [b, h, w, channels] -> [b, h, w, 1], in full precision.

    Args: as `discriminator`.
    """
    inputs = keras.Input((None, None, channels), name="images", dtype=full_dtype())
    with keras.name_scope(name):
        x = convolution(inputs, width, 1, "layer0")
        x = LeakyReLU(LEAKY_SLOPE, name="layer0_activation")(x)
        x = convolution(x, 2 * width, 1, "layer1")
        if norm == "instance":
            x = InstanceNorm(name="layer1_norm")(x)
        x = LeakyReLU(LEAKY_SLOPE, name="layer1_activation")(x)
        scores = convolution(x, 1, 1, "score", dtype=full_dtype())
    return keras.Model(inputs, scores, name=name)
