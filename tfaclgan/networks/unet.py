"""The U-Net generator of pix2pix and CycleGAN.

Paper: Isola et al., arXiv 1611.07004. Official code: junyanz/pytorch-CycleGAN-and-pix2pix (`unet_128` with 7
halvings, `unet_256` with 8). Every convolution is 4x4 with stride 2; a decoder level sees the level below and, in
front of it along the channels, the encoder's map of its own size. Instance norm without weights, except on the first
convolution, the innermost one (a map of one pixel has no variance) and the last; biases everywhere.

Deviations: no dropout. pix2pix uses it as its noise; CycleGAN's default is without (`no_dropout`), and a draw inside
a network could not be the same on one device and on many. Flat channels: layers/norm.py, instance_norm.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from tfaclgan.layers.activation import LeakyReLU
from tfaclgan.layers.norm import InstanceNorm
from tfaclgan.layers.precision import full_dtype
from tfaclgan.layers.resampling import DoublingConv2DTranspose
from tfaclgan.networks.blocks import LEAKY_SLOPE, convolution, small_normal

Tensor = Any


def generator(channels: int, *, width: int, downsamples: int, name: str) -> keras.Model:
    """[b, h, w, channels] -> the same shape in (-1, 1), in full precision; sides are multiples of 2**downsamples.

    Args:
        channels: of the images.
        width: channels after the first convolution; they double with each halving up to 8 widths.
        downsamples: halvings, at least 2.
        name: of the network; the first part of every weight's path.
    """
    inputs = keras.Input((None, None, channels), name="images", dtype=full_dtype())
    widths = [width * min(2**i, 8) for i in range(downsamples)]
    with keras.name_scope(name):
        x, skips = inputs, []
        for i, filters in enumerate(widths):
            label = f"down{i}"
            if i:
                skips.append(x)
                x = LeakyReLU(LEAKY_SLOPE, name=f"{label}_activation")(x)
            x = convolution(x, filters, 4, label, stride=2, padding=1)
            if 0 < i < downsamples - 1:
                x = InstanceNorm(name=f"{label}_norm")(x)
        for i in reversed(range(1, downsamples)):
            label = f"up{i}"
            x = layers.ReLU(name=f"{label}_activation")(x)
            x = _double(x, widths[i - 1], label)
            x = InstanceNorm(name=f"{label}_norm")(x)
            x = layers.Concatenate(name=f"{label}_skip")([skips.pop(), x])
        x = layers.ReLU(name="up0_activation")(x)
        x = _double(x, channels, "up0")
        x = layers.Activation("tanh", dtype=full_dtype(), name="output_tanh")(x)
    return keras.Model(inputs, x, name=name)


def _double(x: Tensor, filters: int, label: str) -> Tensor:
    return DoublingConv2DTranspose(filters, 4, (1, 1), kernel_initializer=small_normal(), name=f"{label}_conv")(x)
