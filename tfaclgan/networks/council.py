"""Generator and discriminators of Council-GAN: MUNIT's, with zero padding and layers of paint.

Paper: Nizan, Tal, "Breaking the cycle: colleagues are all you need", CVPR 2020, arXiv 1911.10538. Official code:
Onr/Council-GAN. Beside MUNIT (networks/munit.py): zeros around every map, AdaIN in the doublings too (two 3x3
convolutions each), three 1x1 convolutions at the end, and an output of several layers, colours and a mask each,
painted one over the other on the input picture.

Initial values as there: generators normal with deviation sqrt(2 / fan_in), discriminators normal(0, 0.02), biases 0.

Deviations: no style encoder. The official one is built and saved, but nothing trains it and no translation uses it.
Flat channels: layers/norm.py, instance_norm.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfaclgan.layers.activation import LeakyReLU
from tfaclgan.layers.norm import AdaptiveInstanceNorm, InstanceNorm
from tfaclgan.layers.precision import full_dtype, full_precision
from tfaclgan.layers.resampling import CountedAveragePool, Double
from tfaclgan.networks.blocks import LEAKY_SLOPE, ScoreList, convolution, small_normal

Tensor = Any

SHARPNESS = 10  # of the masks: tanh(10 t) is nearly a step


def paint(raw: Tensor, background: Tensor, paint_layers: int) -> tuple[Tensor, Tensor]:
    """Paints a generator's layers over a picture, the first one lowest.

    Args:
        raw: [b, h, w, paint_layers * (c + 1)] in (-1, 1): the colours of every layer, then the masks of all.
        background: [b, h, w, c] in [-1, 1].
        paint_layers: how many.

    Returns:
        (image [b, h, w, c], masks [b, h, w, paint_layers] in (0, 1)), in full precision.
    """
    raw, image = full_precision(raw), full_precision(background)
    channels = background.shape[-1]
    masks = (ops.tanh(SHARPNESS * raw[..., -paint_layers:]) + 1) / 2
    for i in range(paint_layers):
        mask = masks[..., i : i + 1]
        image = (1 - mask) * image + mask * raw[..., i * channels : (i + 1) * channels]
    return image, masks


class Generator(keras.Model):
    """Content encoder, MLP and decoder of one member.

    Images are [b, h, w, channels] in [-1, 1] with sides that are multiples of 2**downsamples.

    Args:
        channels: of the images.
        paint_layers: pictures with a mask each that the decoder gives, see `paint`.
        width: channels after the first convolution; each downsampling doubles them.
        downsamples: of the content encoder, each by 2.
        residual_blocks: in the content encoder, and again in the decoder.
        style_dim: numbers in a style.
        mlp_dim: width of the MLP.
        initial: of the MLP's last layer: "official", or "balanced", as in networks/munit.py.
        name: unique among the networks of a method; the first part of every weight's path.
    """

    def __init__(
        self,
        channels: int,
        *,
        paint_layers: int,
        width: int,
        downsamples: int,
        residual_blocks: int,
        style_dim: int,
        mlp_dim: int,
        name: str,
        initial: str = "official",
    ) -> None:
        super().__init__(name=name)
        self.paint_layers = paint_layers
        content_width = width * 2**downsamples
        widths = [content_width] * 2 * residual_blocks
        widths += [content_width // 2 ** (i + 1) for i in range(downsamples) for _ in range(2)]
        with keras.name_scope(name):
            self.content_encoder = _content_encoder(channels, width, downsamples, residual_blocks)
            self.mlp = _mlp(style_dim, mlp_dim, widths, initial)
            self.decoder = _decoder(paint_layers * (channels + 1), widths, residual_blocks)
        self.built = True

    def content(self, images: Tensor) -> Tensor:
        """[b, h, w, channels] -> [b, h / 2**downsamples, w / 2**downsamples, width * 2**downsamples]."""
        return self.content_encoder(images)

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        """Content and style [b, style_dim] -> raw output [b, h, w, paint_layers * (channels + 1)] in (-1, 1)."""
        return self.decoder([content, self.mlp(style)])

    def call(self, images: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """Images and styles -> painted images [b, h, w, channels] and masks [b, h, w, paint_layers]; see `paint`."""
        return paint(self.decode(self.content(images), style), images, self.paint_layers)


def _content_encoder(channels: int, width: int, downsamples: int, residual_blocks: int) -> keras.Model:
    inputs = keras.Input((None, None, channels), name="images", dtype=full_dtype())
    with keras.name_scope("content"):
        x = _normed(_convolution(inputs, width, 7, "stem", padding=3), "stem")
        for i in range(downsamples):
            width *= 2
            x = _normed(_convolution(x, width, 4, f"down{i}", stride=2, padding=1), f"down{i}")
        for i in range(residual_blocks):
            skip, label = x, f"residual{i}"
            x = _normed(_convolution(x, width, 3, f"{label}_0", padding=1), f"{label}_0")
            x = _convolution(x, width, 3, f"{label}_1", padding=1)
            x = layers.Add(name=f"{label}_add")([skip, InstanceNorm(name=f"{label}_1_norm")(x)])
    return keras.Model(inputs, x, name="content")


def _mlp(style_dim: int, mlp_dim: int, widths: list[int], initial: str) -> keras.Model:
    inputs = keras.Input((style_dim,), name="style", dtype=full_dtype())
    last: dict[str, Any] = {"kernel_initializer": _kaiming()}
    if initial == "balanced":
        shifts_and_factors = np.concatenate([np.repeat(np.float32([0, 1]), width) for width in widths])
        last["kernel_initializer"] = keras.initializers.VarianceScaling(0.02, "fan_in", "untruncated_normal")
        last["bias_initializer"] = lambda shape, dtype=None: ops.convert_to_tensor(shifts_and_factors, dtype)
    with keras.name_scope("mlp"):
        x = inputs
        for i in range(2):
            x = layers.Dense(mlp_dim, activation="relu", kernel_initializer=_kaiming(), name=f"dense{i}")(x)
        x = layers.Dense(2 * sum(widths), name="dense2", **last)(x)
    return keras.Model(inputs, x, name="mlp")


def _decoder(outputs: int, widths: list[int], residual_blocks: int) -> keras.Model:
    compute = keras.config.dtype_policy().compute_dtype
    content = keras.Input((None, None, widths[0]), name="content", dtype=compute)
    numbers = keras.Input((2 * sum(widths),), name="numbers", dtype=compute)
    offsets = [2 * sum(widths[:i]) for i in range(len(widths))]
    with keras.name_scope("decoder"):
        x = content
        for i, (width, offset) in enumerate(zip(widths, offsets, strict=True)):
            residual, second = i < 2 * residual_blocks, i % 2
            label = f"residual{i // 2}_{second}" if residual else f"up{i // 2 - residual_blocks}_{second}"
            if residual and not second:
                skip = x
            if not residual and not second:
                x = Double(name=f"{label}_double")(x)
            x = _convolution(x, width, 3, label, padding=1)
            x = AdaptiveInstanceNorm(offset, name=f"{label}_norm")([x, numbers])
            if residual and second:
                x = layers.Add(name=f"{label}_add")([skip, x])
            else:
                x = layers.ReLU(name=f"{label}_activation")(x)
        for i in range(2):
            x = layers.ReLU(name=f"mix{i}_activation")(_convolution(x, widths[-1], 1, f"mix{i}"))
        x = _convolution(x, outputs, 1, "output")
        x = layers.Activation("tanh", dtype=full_dtype(), name="output_tanh")(x)
    return keras.Model([content, numbers], x, name="decoder")


def discriminator(
    channels: int, *, width: int, scales: int, layers_per_scale: int, name: str, initial: str = "official"
) -> keras.Model:
    """MUNIT's discriminator (networks/munit.py) with zero padding; arguments and result as there."""
    return _pyramid(channels, width, scales, layers_per_scale, name, initial, council=False)


def council_discriminator(
    channels: int, *, width: int, scales: int, layers_per_scale: int, name: str, initial: str = "official"
) -> keras.Model:
    """Judges a member's picture beside the source: [b, h, w, 2 channels] (picture, then source) -> score maps.

    As `discriminator`, but the first convolution is 3x3 and keeps the sides, and a 1x1 convolution comes before
    the score. `channels` are those of both pictures together.
    """
    return _pyramid(channels, width, scales, layers_per_scale, name, initial, council=True)


def _pyramid(
    channels: int, width: int, scales: int, layers_per_scale: int, name: str, initial: str, council: bool
) -> keras.Model:
    inputs = keras.Input((None, None, channels), name="images", dtype=full_dtype())
    kernel = _kaiming if initial == "balanced" else small_normal
    outputs, images = [], inputs
    with keras.name_scope(name):
        for scale in range(scales):
            if scale:
                images = CountedAveragePool(name=f"scale{scale}_pool")(images)
            x = images
            for i in range(layers_per_scale):
                label = f"scale{scale}_{i}"
                size, stride = (3, 1) if council and i == 0 else (4, 2)
                x = convolution(x, width * 2**i, size, label, stride=stride, padding=1, kernel_initializer=kernel())
                x = LeakyReLU(LEAKY_SLOPE, name=f"{label}_activation")(x)
            if council:
                x = convolution(x, x.shape[-1], 1, f"scale{scale}_mix", kernel_initializer=kernel())
            head = convolution(x, 1, 1, f"scale{scale}_score", kernel_initializer=kernel(), dtype=full_dtype())
            outputs.append(head)
    return ScoreList(inputs, outputs, name=name)


def _convolution(x: Tensor, filters: int, kernel: int, label: str, **options: Any) -> Tensor:
    return convolution(x, filters, kernel, label, kernel_initializer=_kaiming(), **options)


def _normed(x: Tensor, label: str) -> Tensor:
    return layers.ReLU(name=f"{label}_activation")(InstanceNorm(name=f"{label}_norm")(x))


def _kaiming() -> keras.initializers.Initializer:
    """Normal, not truncated, deviation sqrt(2 / fan_in)."""
    return keras.initializers.VarianceScaling(2.0, mode="fan_in", distribution="untruncated_normal")
