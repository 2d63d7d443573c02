"""The residual generator of CycleGAN: a stem, two halvings, residual blocks, two doublings.

Papers: Johnson et al., arXiv 1603.08155; Zhu et al., CycleGAN, arXiv 1703.10593. Official code:
junyanz/pytorch-CycleGAN-and-pix2pix (`resnet_9blocks`, `resnet_6blocks`). Instance norm without weights, biases
everywhere, kernels normal(0, 0.02). Deviations: flat channels (layers/norm.py: instance_norm); no dropout in the
residual blocks, CycleGAN's own default (`no_dropout`).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from tfaclgan.layers.picture import HeadConv2D, StemConv2D
from tfaclgan.layers.precision import full_dtype
from tfaclgan.layers.resampling import Double, DoublingConv2DTranspose
from tfaclgan.networks.blocks import convolution, normalise, small_normal

Tensor = Any


def generator(
    channels: int, *, width: int, downsamples: int, residual_blocks: int, upsampling: str, name: str
) -> keras.Model:
    """[b, h, w, channels] -> the same shape in (-1, 1), in full precision; sides are multiples of 2**downsamples.

    Args:
        channels: of the images.
        width: channels after the first convolution; each halving doubles them.
        downsamples: halvings.
        residual_blocks: in the middle; 9 for 256 px and more, 6 below.
        upsampling: "transposed" convolutions 3x3 as published, or "nearest": each pixel doubled, then a 3x3
            convolution behind one mirrored pixel, which leaves no checkerboard.
        name: of the network; the first part of every weight's path.
    """
    inputs = keras.Input((None, None, channels), name="images", dtype=full_dtype())
    with keras.name_scope(name):
        x = normalise(convolution(inputs, width, 7, "stem", padding=3, reflect=True, layer=StemConv2D), "stem")
        for i in range(downsamples):
            width *= 2
            x = normalise(convolution(x, width, 3, f"down{i}", stride=2, padding=1), f"down{i}")
        for i in range(residual_blocks):
            x = _residual(x, width, f"residual{i}")
        for i in range(downsamples):
            width //= 2
            x = normalise(_double(x, width, upsampling, f"up{i}"), f"up{i}")
        x = convolution(x, channels, 7, "output", padding=3, reflect=True, layer=HeadConv2D)
        x = layers.Activation("tanh", dtype=full_dtype(), name="output_tanh")(x)
    return keras.Model(inputs, x, name=name)


def _residual(x: Tensor, width: int, label: str) -> Tensor:
    skip = x
    x = normalise(convolution(x, width, 3, f"{label}_0", padding=1, reflect=True), f"{label}_0")
    x = convolution(x, width, 3, f"{label}_1", padding=1, reflect=True)
    x = normalise(x, f"{label}_1", activate=False)
    return layers.Add(name=f"{label}_add")([skip, x])


def _double(x: Tensor, width: int, upsampling: str, label: str) -> Tensor:
    if upsampling == "transposed":
        start = small_normal()
        return DoublingConv2DTranspose(width, 3, (1, 0), kernel_initializer=start, name=f"{label}_conv")(x)
    x = Double(name=f"{label}_double")(x)
    return convolution(x, width, 3, label, padding=1, reflect=True)
