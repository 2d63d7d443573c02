"""Generator and multi-scale discriminator of MUNIT, which ACL-GAN uses too.

Papers: Huang et al., "Multimodal Unsupervised Image-to-Image Translation", arXiv 1804.04732; Zhao et al.,
"Unpaired Image-to-Image Translation using Adversarial Consistency Loss", arXiv 2003.04858. Official code:
NVlabs/MUNIT and hyperplane-lab/ACL-GAN (names of their weights: networks/munit_names.py).

Every convolution is reflect-padded and has a bias; order: pad, convolution, norm, activation. A generator
owns a content encoder, a style encoder, an MLP that turns a style into the decoder's AdaIN numbers, and a
decoder; nothing is shared between two generators. With a mask the decoder has one more channel than the
images.

Initial values: kernels of the generator normal with deviation sqrt(2 / fan_in), of the discriminators
normal(0, 0.02), biases 0, scales of the decoder's sample norm uniform in [0, 1). They are drawn from Keras'
global seed (`keras.utils.set_random_seed`).

Deviations from the official code: flat channels (layers/norm.py: instance_norm); `skip`, off by default. Otherwise
none in exact arithmetic (float64: to the last printed digit of its figures).
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfaclgan.layers.activation import LeakyReLU
from tfaclgan.layers.convolution import Conv2D
from tfaclgan.layers.norm import AdaptiveInstanceNorm, InstanceNorm, SampleNorm
from tfaclgan.layers.padding import ReflectPad2D
from tfaclgan.layers.picture import HeadConv2D, StemConv2D
from tfaclgan.layers.precision import full_dtype
from tfaclgan.layers.resampling import CountedAveragePool, UpsampleConv2D
from tfaclgan.networks.munit_sizes import STYLE_DOWNSAMPLES

Tensor = Any

LEAKY_SLOPE = 0.2


def blend(raw: Tensor, background: Tensor) -> tuple[Tensor, Tensor | None]:
    """The translated image and its mask from a decoder's raw output.

    Args:
        raw: [b, h, w, c] or, with a mask channel at the end, [b, h, w, c + 1], in (-1, 1).
        background: [b, h, w, c] in [-1, 1], seen where the mask is 0.

    Returns:
        (image [b, h, w, c], mask [b, h, w, 1] in (0, 1) or None).
    """
    channels = background.shape[-1]
    if raw.shape[-1] == channels:
        return raw, None
    colours, mask = colours_and_mask(raw)
    background = ops.cast(background, raw.dtype)
    return colours * mask + background * (1 - mask), mask


def colours_and_mask(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Raw output with a mask channel -> colours [b, h, w, c] in (-1, 1), mask [b, h, w, 1] in (0, 1)."""
    return raw[..., :-1], (raw[..., -1:] + 1) / 2


class Generator(keras.Model):
    """Content encoder, style encoder, MLP and decoder of one domain.

    Images are [b, h, w, channels] in [-1, 1] with sides that are multiples of 2**downsamples.

    Args:
        channels: of the images.
        mask: the decoder gives one more channel, the mask before its mapping to (0, 1).
        width: channels after the first convolution; each downsampling doubles them.
        downsamples: of the content encoder, each by 2.
        residual_blocks: in the content encoder, and again in the decoder.
        style_dim: numbers in a style.
        mlp_dim: width of the MLP.
        skip: the decoder also sees the images, at every size: mean-pooled beside the content (a 3x3 convolution and
            ReLU come before the first residual block) and beside the maps of each upsampling, and whole before the
            output's convolution (again 3x3, ReLU). Not in the papers, whose decoders know the image by its content
            alone: at a fourth of its size, normalised, so that colours are lost. Narrow networks learn to copy and to
            fill in with colours from beside much sooner.
        initial: of the MLP's last layer: "official", as every other layer, so that AdaIN begins with random
            factors around 0; or "balanced", factors around 1 and shifts around 0 with a tenth of the deviation.
        name: unique among the networks of a method; the first part of every weight's path.
    """

    def __init__(
        self,
        channels: int,
        *,
        mask: bool,
        width: int,
        downsamples: int,
        residual_blocks: int,
        style_dim: int,
        mlp_dim: int,
        name: str,
        initial: str = "official",
        skip: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.skip = skip
        self.arguments = {
            "channels": channels,
            "mask": mask,
            "width": width,
            "downsamples": downsamples,
            "residual_blocks": residual_blocks,
            "style_dim": style_dim,
            "mlp_dim": mlp_dim,
            "initial": initial,
            "skip": skip,
        }
        content_width = width * 2**downsamples
        with keras.name_scope(name):
            self.content_encoder = _content_encoder(channels, width, downsamples, residual_blocks)
            self.style_encoder = _style_encoder(channels, width, style_dim)
            self.mlp = _mlp(style_dim, mlp_dim, 2 * residual_blocks, content_width, initial)
            self.decoder = _decoder(
                channels + mask, content_width, downsamples, residual_blocks, sees=channels if skip else 0
            )
        self.built = True

    def content(self, images: Tensor) -> Tensor:
        """[b, h, w, channels] -> [b, h / 2**downsamples, w / 2**downsamples, width * 2**downsamples]."""
        return self.content_encoder(images)

    def style(self, images: Tensor) -> Tensor:
        """[b, h, w, channels] -> [b, style_dim]."""
        return self.style_encoder(images)

    def decode(self, content: Tensor, style: Tensor, images: Tensor | None = None) -> Tensor:
        """Content and style -> raw output [b, h, w, channels (+ 1 with a mask)] in (-1, 1); see `blend`.

        images: [b, h, w, channels], those of the content; read only with `skip`.
        """
        inputs = [content, self.mlp(style)]
        return self.decoder([*inputs, ops.convert_to_tensor(images)] if self.skip else inputs)

    def call(self, images: Tensor) -> Tensor:
        return self.decode(self.content(images), self.style(images), images)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, **self.arguments}


def discriminator(
    channels: int, *, width: int, scales: int, layers_per_scale: int, name: str, initial: str = "official"
) -> keras.Model:
    """Patch discriminators with weights of their own on a pyramid of `scales` image sizes, no norm.

    Args:
        channels: of the input (a pair of images is stacked along the channels, the source first).
        width: channels after the first convolution; each further one doubles them.
        scales: sizes; each is the counted 3x3 average pooling of the one before.
        layers_per_scale: convolutions 4x4 with stride 2.
        name: of the network; the first part of every weight's path.
        initial: of the kernels: "official", normal(0, 0.02), or "balanced", normal with deviation
            sqrt(2 / fan_in). The first shrinks the scores of narrow networks to nothing: at width 16 with 4
            layers by some 0.003, at the paper's 64 by 0.05.

    Returns:
        A model: [b, h, w, channels] -> list of score maps [b, h', w', 1] without activation, in full
        precision, largest first.
    """
    inputs = keras.Input((None, None, channels), name="images", dtype=full_dtype())
    outputs = []
    images = inputs
    with keras.name_scope(name):
        for scale in range(scales):
            if scale:
                images = CountedAveragePool(name=f"scale{scale}_pool")(images)
            x = images
            for i in range(layers_per_scale):
                label = f"scale{scale}_{i}"
                x = ReflectPad2D(1, name=f"{label}_pad")(x)
                x = Conv2D(
                    width * 2**i, 4, strides=2, kernel_initializer=_discriminator_kernel(initial), name=f"{label}_conv"
                )(x)
                x = LeakyReLU(LEAKY_SLOPE, name=f"{label}_activation")(x)
            head = Conv2D(
                1, 1, kernel_initializer=_discriminator_kernel(initial), dtype=full_dtype(), name=f"scale{scale}_score"
            )
            outputs.append(head(x))
    return _Pyramid(inputs, outputs, name=name)


class _Pyramid(keras.Model):
    """A functional model that gives a list also for one scale, where Keras gives the bare tensor."""

    def call(self, *arguments: Any, **keywords: Any) -> list[Tensor]:
        scores = super().call(*arguments, **keywords)
        return list(scores) if isinstance(scores, (list, tuple)) else [scores]


def _content_encoder(channels: int, width: int, downsamples: int, residual_blocks: int) -> keras.Model:
    inputs = keras.Input((None, None, channels), name="images", dtype=full_dtype())
    with keras.name_scope("content"):
        x = _block(inputs, width, 7, 1, 3, "stem", normalise=True, layer=StemConv2D)
        for i in range(downsamples):
            x = _block(x, width * 2 ** (i + 1), 4, 2, 1, f"down{i}", normalise=True)
        for i in range(residual_blocks):
            skip = x
            x = _block(x, x.shape[-1], 3, 1, 1, f"residual{i}_0", normalise=True)
            x = _block(x, x.shape[-1], 3, 1, 1, f"residual{i}_1", normalise=True, activate=False)
            x = layers.Add(name=f"residual{i}_add")([skip, x])
    return keras.Model(inputs, x, name="content")


def _style_encoder(channels: int, width: int, style_dim: int) -> keras.Model:
    inputs = keras.Input((None, None, channels), name="images", dtype=full_dtype())
    with keras.name_scope("style"):
        x = _block(inputs, width, 7, 1, 3, "stem", layer=StemConv2D)
        for i in range(STYLE_DOWNSAMPLES):
            x = _block(x, width * 2 ** min(i + 1, 2), 4, 2, 1, f"down{i}")
        x = layers.GlobalAveragePooling2D(dtype=full_dtype(), name="mean")(x)
        # The official 1x1 convolution on a 1x1 map.
        x = layers.Dense(style_dim, kernel_initializer=_generator_kernel(), dtype=full_dtype(), name="head")(x)
    return keras.Model(inputs, x, name="style")


def _mlp(style_dim: int, mlp_dim: int, norms: int, width: int, initial: str) -> keras.Model:
    inputs = keras.Input((style_dim,), name="style", dtype=full_dtype())
    last: dict[str, Any] = {"kernel_initializer": _generator_kernel()}
    if initial == "balanced":
        shifts_and_factors = np.tile(np.repeat(np.array([0.0, 1.0], "float32"), width), norms)
        last["kernel_initializer"] = keras.initializers.VarianceScaling(0.02, "fan_in", "untruncated_normal")
        last["bias_initializer"] = lambda shape, dtype=None: ops.convert_to_tensor(shifts_and_factors, dtype)
    with keras.name_scope("mlp"):
        x = inputs
        for i in range(2):
            x = layers.Dense(mlp_dim, activation="relu", kernel_initializer=_generator_kernel(), name=f"dense{i}")(x)
        x = layers.Dense(norms * 2 * width, name="dense2", **last)(x)
    return keras.Model(inputs, x, name="mlp")


def _decoder(channels: int, width: int, downsamples: int, residual_blocks: int, sees: int) -> keras.Model:
    """channels: of the output; sees: of the images it sees too, 0 if it sees none."""
    compute = keras.config.dtype_policy().compute_dtype
    content = keras.Input((None, None, width), name="content", dtype=compute)
    numbers = keras.Input((2 * residual_blocks * 2 * width,), name="numbers", dtype=compute)
    inputs = [content, numbers]
    if sees:
        inputs.append(keras.Input((None, None, sees), name="images", dtype=full_dtype()))

    def with_images(x: Tensor, halvings: int) -> Tensor:
        images = inputs[-1]
        if halvings:
            images = layers.AveragePooling2D(2**halvings, name=f"seen{halvings}")(images)
        return layers.Concatenate(name=f"skip{halvings}")([x, images])

    def mixed(x: Tensor, filters: int, label: str) -> Tensor:
        x = _convolution(x, filters, 3, 1, 1, label)
        return layers.ReLU(name=f"{label}_activation")(x)

    with keras.name_scope("decoder"):
        x = content
        if sees:
            x = mixed(with_images(x, downsamples), width, "skip_content")
        for i in range(residual_blocks):
            skip = x
            for j in range(2):
                label = f"residual{i}_{j}"
                x = _convolution(x, width, 3, 1, 1, label)
                x = AdaptiveInstanceNorm((2 * i + j) * 2 * width, name=f"{label}_norm")([x, numbers])
                if j == 0:
                    x = layers.ReLU(name=f"{label}_activation")(x)
            x = layers.Add(name=f"residual{i}_add")([skip, x])
        for i in range(downsamples):
            width //= 2
            x = UpsampleConv2D(width, _generator_kernel(), name=f"up{i}_conv")(x)
            x = SampleNorm(name=f"up{i}_norm")(x)
            x = layers.ReLU(name=f"up{i}_activation")(x)
            if sees:
                x = with_images(x, downsamples - 1 - i)
        if sees:
            x = mixed(x, width, "skip")
        x = _convolution(x, channels, 7, 1, 3, "output", HeadConv2D)
        x = layers.Activation("tanh", dtype=full_dtype(), name="output_tanh")(x)
    return keras.Model(inputs, x, name="decoder")


def _block(
    x: Tensor,
    filters: int,
    kernel: int,
    stride: int,
    padding: int,
    label: str,
    *,
    normalise: bool = False,
    activate: bool = True,
    layer: type = Conv2D,
) -> Tensor:
    x = _convolution(x, filters, kernel, stride, padding, label, layer)
    if normalise:
        x = InstanceNorm(name=f"{label}_norm")(x)
    if activate:
        x = layers.ReLU(name=f"{label}_activation")(x)
    return x


def _convolution(
    x: Tensor, filters: int, kernel: int, stride: int, padding: int, label: str, layer: type = Conv2D
) -> Tensor:
    x = ReflectPad2D(padding, name=f"{label}_pad")(x)
    return layer(filters, kernel, strides=stride, kernel_initializer=_generator_kernel(), name=f"{label}_conv")(x)


def _generator_kernel() -> keras.initializers.Initializer:
    """Normal, not truncated, deviation sqrt(2 / fan_in) (Keras' HeNormal truncates)."""
    return keras.initializers.VarianceScaling(2.0, mode="fan_in", distribution="untruncated_normal")


def _discriminator_kernel(initial: str) -> keras.initializers.Initializer:
    return _generator_kernel() if initial == "balanced" else keras.initializers.RandomNormal(0.0, 0.02)
