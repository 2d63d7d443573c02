"""Generator and discriminator of U-GAT-IT, as its two official codes and the enhanced fork have them.

Paper: Kim, Kim, Kang, Lee, "U-GAT-IT: Unsupervised Generative Attentional Networks with Adaptive Layer-Instance
Normalization for Image-to-Image Translation", ICLR 2020, arXiv 1907.10830. Codes: taki0112/UGATIT (TensorFlow),
znxlwm/UGATIT-pytorch, zheng-yuwei/enhanced-UGATIT. They differ in padding, biases, norms and heads; every difference
is an argument here, and methods/ugatit.py says which code has which.

Every convolution is reflect-padded. Deviations from the codes: flat channels and blank samples are normalised to 0
and pass no gradient (layers/norm.py); the width of the MLP's hidden layers is free of the number of blocks; the first
dense layer reads the map in the order rows, columns, channels. Stride-2 convolutions of the generator are padded by
one row above and one column on the left, which for even sides is what both codes compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import layers, ops

from tfaclgan.layers.activation import LeakyReLU
from tfaclgan.layers.attention import ClassActivation, SpatialChannelExcitation
from tfaclgan.layers.convolution import Conv2D
from tfaclgan.layers.norm import AdaptiveLayerInstanceNorm, InstanceNorm, LayerInstanceNorm
from tfaclgan.layers.padding import ReflectPad2D
from tfaclgan.layers.picture import HeadConv2D, StemConv2D
from tfaclgan.layers.precision import full_dtype, full_precision
from tfaclgan.layers.resampling import DoublingConv2DTranspose, SmallUpsampleConv2D, area_pool
from tfaclgan.layers.weights import SpectralConv2D, pytorch_initializers
from tfaclgan.networks.ugatit_sizes import DOWNSAMPLES, fillers

Tensor = Any
Initializers = Callable[[int], tuple[Any, Any]]

LEAKY_SLOPE = 0.2


class Painted(NamedTuple):
    """A generator's outputs.

    image: [b, h, w, channels] in [-1, 1].
    logits: [b, 2], large where the auxiliary classifier takes the input for one of its source domain.
    heatmap: [b, h / 4, w / 4, 1], at least 0: where the attention lies.
    masks: [b, h, w, n], sum 1 over n, or None without attention masks; with the input as a content its mask is first.
    """

    image: Tensor
    logits: Tensor
    heatmap: Tensor
    masks: Tensor | None = None


class Judgement(NamedTuple):
    """A discriminator's outputs: scores [b, h', w', 1] and logits [b, 2] (no activation), heatmap [b, h'', w'', 1]."""

    scores: Tensor
    logits: Tensor
    heatmap: Tensor


def initializers(kind: str) -> Initializers:
    """fan_in -> (kernel, bias initializer): "normal", N(0, 0.02) and 0, or "pytorch", see layers/weights.py."""
    if kind == "pytorch":
        return pytorch_initializers
    return lambda fan_in: (keras.initializers.RandomNormal(0.0, 0.02), "zeros")


class Generator(keras.Model):
    """Encoder, class activation, MLP and decoder of one direction.

    Args:
        image_shape: height, width (multiples of 4), channels. The full model takes only this size.
        width: channels after the first convolution; the bottleneck has four times as many.
        blocks: residual blocks of the encoder, and adaptive ones of the decoder.
        light: side to which the map is mean-pooled before the MLP; 0: not at all (the full model).
        mlp_dim: width of the MLP's hidden layers.
        affine: instance norms have a scale and a shift.
        encoder_bias, decoder_bias, mlp_bias: biases of stem, downsamplings and residual blocks; of adaptive blocks,
            upsamplings and head; of the MLP.
        shared_head, cam_bias: of the class activation.
        unbiased, rho_initial, rho_maximum, rho_smoothing: of AdaLIN (LIN: its own start 0, maximum 1, no smoothing).
        initial: "normal" or "pytorch".
        excite: scSE at the end of every block.
        masks: attention masks, each for a content of its own; 0: one picture.
        input_content: the first content is the input.
        fork_order: channels of the contents are grouped by colour as in the fork (with the input as a content its
            contents mix colours), not by content.
        deconvolution: upsample by transposed convolutions.
        name: unique among the networks of a method; the first part of every weight's path.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        width: int,
        blocks: int,
        light: int,
        mlp_dim: int,
        affine: bool,
        encoder_bias: bool,
        decoder_bias: bool,
        mlp_bias: bool,
        shared_head: bool,
        cam_bias: bool,
        unbiased: bool,
        rho_initial: float,
        rho_maximum: float,
        rho_smoothing: float,
        initial: str,
        excite: bool = False,
        masks: int = 0,
        input_content: bool = False,
        fork_order: bool = False,
        deconvolution: bool = False,
        name: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        height, wide, channels = image_shape
        deep = width * 2**DOWNSAMPLES
        self.light, self.masks = light, masks
        self.input_content, self.fork_order = input_content, fork_order
        self.map_shape = (height // 2**DOWNSAMPLES, wide // 2**DOWNSAMPLES, deep)
        start = initializers(initial)
        make = _Maker(start, affine, excite, deconvolution, unbiased)
        with keras.name_scope(name):
            self.encoder = _encoder(make, channels, width, blocks, encoder_bias)
            kernel, bias = start(deep)
            self.cam = ClassActivation(
                shared=shared_head, use_bias=cam_bias, kernel_initializer=kernel, bias_initializer=bias, name="cam"
            )
            self.cam.build((None, None, None, deep))
            kernel, bias = start(2 * deep)
            self.squeeze = Conv2D(
                deep, 1, kernel_initializer=kernel, bias_initializer=bias, activation="relu", name="squeeze"
            )
            self.squeeze.build((None, None, None, 2 * deep))
            inputs = light * light * deep if light else self.map_shape[0] * self.map_shape[1] * deep
            self.mlp = _mlp(make, inputs, mlp_dim, deep, mlp_bias)
            rho = {"initial": rho_initial, "upper": rho_maximum, "smoothing": rho_smoothing}
            contents = max(1, masks - input_content)
            self.decoder = _decoder(make, channels * contents, deep, blocks, decoder_bias, rho)
            if masks:
                self.mask_decoder = _mask_decoder(make, masks, deep, blocks, encoder_bias)
        self.built = True

    def paint(self, images: Tensor) -> Painted:
        """[b, h, w, channels] in [-1, 1] -> all outputs."""
        maps = self.encoder(images)
        logits, weighted = self.cam(maps)
        maps = self.squeeze(weighted)
        heatmap = ops.sum(full_precision(maps), axis=-1, keepdims=True)
        gamma, beta = self.mlp(ops.cast(self._flat(maps), maps.dtype))
        image = self.decoder([maps, gamma, beta])
        if not self.masks:
            return Painted(image, logits, heatmap)
        masks = self.mask_decoder(maps)
        return Painted(self._blend(image, masks, images), logits, heatmap, masks)

    def _flat(self, maps: Tensor) -> Tensor:
        """[b, h, w, c] -> [b, n], rows, columns, channels."""
        if self.light:
            maps = area_pool(maps, self.light, self.light)
            return ops.reshape(maps, (-1, self.light * self.light * self.map_shape[-1]))
        if tuple(maps.shape[1:]) != self.map_shape:
            height, width = (4 * side for side in self.map_shape[:2])
            raise ValueError(f"{self.name}: the full model takes images of {height} x {width} pixels only")
        return ops.reshape(maps, (-1, math.prod(self.map_shape)))

    def _blend(self, raw: Tensor, masks: Tensor, images: Tensor) -> Tensor:
        """Sum over contents of mask times content."""
        channels = images.shape[-1]
        batch, height, width, _ = ops.shape(raw)
        if self.input_content:
            raw = ops.concatenate([ops.cast(images, raw.dtype), raw], axis=-1)
        if self.fork_order:
            contents = ops.reshape(raw, (batch, height, width, channels, self.masks))
            return ops.sum(contents * masks[:, :, :, None, :], axis=-1)
        contents = ops.reshape(raw, (batch, height, width, self.masks, channels))
        return ops.sum(contents * masks[..., None], axis=-2)

    def call(self, images: Tensor) -> Tensor:
        return self.paint(images).image


class Discriminator(keras.Model):
    """Patch discriminator with class activation.

    layers - 2 convolutions 4x4 of stride 2, if `filled` for fewer than five layers 5 - layers 3x3 ones of stride 1
    (the fork's rule), one 4x4 of stride 1, class activation with a 1x1 convolution, and a 4x4 one to one score a place.
    The official code's global and local discriminators have 7 and 5 layers.

    Args:
        channels: of the images.
        width: channels after the first convolution, doubled by each further 4x4 one.
        depth: number of layers, at least 3.
        keep_size: the 4x4 convolutions of stride 1 keep the size (border 1 before, 2 after).
        filled: 3x3 convolutions stand for the missing ones of fewer than five layers.
        spectral: spectral norm on all but the 1x1 convolution.
        score_bias: of the last convolution.
        shared_head, cam_bias, raw_attention, attend: of the class activation.
        initial: "normal" or "pytorch".
        name: unique among the networks of a method; the first part of every weight's path.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int,
        depth: int,
        keep_size: bool,
        filled: bool,
        spectral: bool,
        score_bias: bool,
        shared_head: bool,
        cam_bias: bool,
        raw_attention: bool,
        attend: bool = True,
        initial: str,
        name: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        start = initializers(initial)
        border = (1, 2) if keep_size else 1
        deep = width * 2 ** (depth - 2)
        with keras.name_scope(name):
            self.trunk = _trunk(start, channels, width, depth, fillers(depth, filled), border, spectral)
            kernel, bias = start(deep)
            self.cam = ClassActivation(
                shared=shared_head,
                use_bias=cam_bias,
                spectral=spectral,
                weights="raw" if raw_attention else "normalised",
                attend=attend,
                kernel_initializer=kernel,
                bias_initializer=bias,
                name="cam",
            )
            self.cam.build((None, None, None, deep))
            kernel, bias = start(2 * deep)
            self.squeeze = Conv2D(deep, 1, kernel_initializer=kernel, bias_initializer=bias, name="squeeze")
            self.squeeze.build((None, None, None, 2 * deep))
            self.activation = LeakyReLU(LEAKY_SLOPE, name="activation")
            self.pad = ReflectPad2D(border, name="score_pad")
            kernel, bias = start(16 * deep)
            self.score = SpectralConv2D(
                1,
                4,
                use_bias=score_bias,
                spectral=spectral,
                kernel_initializer=kernel,
                bias_initializer=bias,
                dtype=full_dtype(),
                name="score",
            )
            self.score.build((None, None, None, deep))
        self.built = True

    def judge(self, images: Tensor, cam_images: Tensor | None = None, mask: Tensor | None = None) -> Judgement:
        """[b, h, w, channels] in [-1, 1] -> all outputs.

        Args:
            images: what is judged.
            cam_images: the class activation's logits are read from these instead (the fork's seg_D_cam_inp_mask).
            mask: [b, h, w, 1], mean-pooled and multiplied on the map the logits are read from (seg_D_cam_fea_mask).
        """
        maps = self.trunk(images)
        judged = maps if cam_images is None else self.trunk(cam_images)
        if mask is not None:
            judged = full_precision(judged) * area_pool(mask, *judged.shape[1:3])
        logits, weighted = self.cam(maps, judged)
        maps = self.activation(self.squeeze(weighted))
        heatmap = ops.sum(full_precision(maps), axis=-1, keepdims=True)
        return Judgement(self.score(self.pad(maps)), logits, heatmap)

    def call(self, images: Tensor) -> Tensor:
        return self.judge(images).scores


def _trunk(
    start: Initializers,
    channels: int,
    width: int,
    depth: int,
    same: int,
    border: int | tuple[int, int],
    spectral: bool,
) -> keras.Model:
    inputs = keras.Input((None, None, channels), name="images", dtype=full_dtype())
    widths = [width * 2**i for i in range(depth - 2)]
    plan = [(f"down{i}", filters, 4, 2, 1) for i, filters in enumerate(widths)]
    plan += [(f"same{i}", widths[-1], 3, 1, 1) for i in range(same)]
    plan += [("last", 2 * widths[-1], 4, 1, border)]
    with keras.name_scope("trunk"):
        x = inputs
        for label, filters, side, stride, padding in plan:
            kernel, bias = start(x.shape[-1] * side * side)
            x = ReflectPad2D(padding, name=f"{label}_pad")(x)
            x = SpectralConv2D(
                filters,
                side,
                strides=stride,
                spectral=spectral,
                kernel_initializer=kernel,
                bias_initializer=bias,
                name=f"{label}_conv",
            )(x)
            x = LeakyReLU(LEAKY_SLOPE, name=f"{label}_activation")(x)
    return keras.Model(inputs, x, name="trunk")


class _Maker:
    """The blocks that encoder, decoder and mask branch are made of."""

    def __init__(self, start: Initializers, affine: bool, excite: bool, deconvolution: bool, unbiased: bool) -> None:
        self.start, self.affine, self.excite = start, affine, excite
        self.deconvolution, self.unbiased = deconvolution, unbiased

    def convolution(
        self,
        x: Tensor,
        filters: int,
        side: int,
        label: str,
        *,
        padding: int | tuple[int, int],
        stride: int = 1,
        use_bias: bool,
        layer: type = Conv2D,
    ) -> Tensor:
        kernel, bias = self.start(x.shape[-1] * side * side)
        x = ReflectPad2D(padding, name=f"{label}_pad")(x) if padding else x
        return layer(
            filters,
            side,
            strides=stride,
            use_bias=use_bias,
            kernel_initializer=kernel,
            bias_initializer=bias,
            name=f"{label}_conv",
        )(x)

    def instance_norm(self, x: Tensor, label: str) -> Tensor:
        return InstanceNorm(affine=self.affine, name=f"{label}_norm")(x)

    def block(self, x: Tensor, label: str, use_bias: bool, norm: Callable[[Tensor, str], Tensor]) -> Tensor:
        """x + [conv norm ReLU conv norm (scSE)], 3x3."""
        skip = x
        for i in range(2):
            x = self.convolution(x, x.shape[-1], 3, f"{label}_{i}", padding=1, use_bias=use_bias)
            x = norm(x, f"{label}_{i}")
            if i == 0:
                x = layers.ReLU(name=f"{label}_{i}_activation")(x)
        if self.excite:
            x = SpatialChannelExcitation(initializers=self.start, name=f"{label}_excite")(x)
        return layers.Add(name=f"{label}_add")([skip, x])

    def residual_block(self, x: Tensor, label: str, use_bias: bool) -> Tensor:
        return self.block(x, label, use_bias, self.instance_norm)

    def up(self, x: Tensor, filters: int, label: str, use_bias: bool) -> Tensor:
        """Twice the sides: convolution 3x3, LIN, ReLU."""
        if self.deconvolution:
            # PyTorch's padding 1 and output padding 1. Its default start takes the outputs' channels for fan-in.
            kernel, bias = self.start(9 * filters)
            x = DoublingConv2DTranspose(
                filters,
                3,
                (1, 0),
                use_bias=use_bias,
                kernel_initializer=kernel,
                bias_initializer=bias,
                name=f"{label}_conv",
            )(x)
        else:
            kernel, bias = self.start(9 * x.shape[-1])
            x = SmallUpsampleConv2D(
                filters, use_bias=use_bias, kernel_initializer=kernel, bias_initializer=bias, name=f"{label}_conv"
            )(x)
        x = LayerInstanceNorm(0.0, unbiased=self.unbiased, name=f"{label}_norm")(x)
        return layers.ReLU(name=f"{label}_activation")(x)


def _encoder(make: _Maker, channels: int, width: int, blocks: int, use_bias: bool) -> keras.Model:
    inputs = keras.Input((None, None, channels), name="images", dtype=full_dtype())
    plan = [("stem", width, 7, 1, 3)]
    plan += [(f"down{i}", width * 2 ** (i + 1), 3, 2, (1, 0)) for i in range(DOWNSAMPLES)]
    with keras.name_scope("encoder"):
        x = inputs
        for label, filters, side, stride, padding in plan:
            layer = StemConv2D if label == "stem" else Conv2D
            x = make.convolution(
                x, filters, side, label, padding=padding, stride=stride, use_bias=use_bias, layer=layer
            )
            x = layers.ReLU(name=f"{label}_activation")(make.instance_norm(x, label))
        for i in range(blocks):
            x = make.residual_block(x, f"block{i}", use_bias)
    return keras.Model(inputs, x, name="encoder")


def _mlp(make: _Maker, inputs: int, hidden: int, outputs: int, use_bias: bool) -> keras.Model:
    flat = keras.Input((inputs,), name="map", dtype=keras.config.dtype_policy().compute_dtype)

    def dense(x: Tensor, units: int, label: str, activation: str | None = None) -> Tensor:
        kernel, bias = make.start(x.shape[-1])
        return layers.Dense(
            units,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel,
            bias_initializer=bias,
            name=label,
        )(x)

    with keras.name_scope("mlp"):
        x = flat
        for i in range(2):
            x = dense(x, hidden, f"dense{i}", "relu")
        gamma, beta = dense(x, outputs, "gamma"), dense(x, outputs, "beta")
    return keras.Model(flat, [gamma, beta], name="mlp")


def _decoder(make: _Maker, channels: int, deep: int, blocks: int, use_bias: bool, rho: dict[str, float]) -> keras.Model:
    compute = keras.config.dtype_policy().compute_dtype
    maps = keras.Input((None, None, deep), name="maps", dtype=compute)
    gamma = keras.Input((deep,), name="gamma", dtype=compute)
    beta = keras.Input((deep,), name="beta", dtype=compute)

    def norm(x: Tensor, label: str) -> Tensor:
        layer = AdaptiveLayerInstanceNorm(unbiased=make.unbiased, name=f"{label}_norm", **rho)
        return layer([x, gamma, beta])

    with keras.name_scope("decoder"):
        x = maps
        for i in range(blocks):
            x = make.block(x, f"block{i}", use_bias, norm)
        for i in range(DOWNSAMPLES):
            x = make.up(x, deep // 2 ** (i + 1), f"up{i}", use_bias)
        x = make.convolution(x, channels, 7, "output", padding=3, use_bias=use_bias, layer=HeadConv2D)
        x = layers.Activation("tanh", dtype=full_dtype(), name="output_tanh")(x)
    return keras.Model([maps, gamma, beta], x, name="decoder")


def _mask_decoder(make: _Maker, masks: int, deep: int, blocks: int, block_bias: bool) -> keras.Model:
    maps = keras.Input((None, None, deep), name="maps", dtype=keras.config.dtype_policy().compute_dtype)
    with keras.name_scope("masks"):
        x = maps
        for i in range(blocks):
            x = make.residual_block(x, f"block{i}", block_bias)
        for i in range(DOWNSAMPLES):
            x = make.up(x, deep // 2 ** (i + 1), f"up{i}", use_bias=True)
        x = make.convolution(x, masks, 1, "output", padding=0, use_bias=True)
        x = layers.Softmax(dtype=full_dtype(), name="output_softmax")(x)
    return keras.Model(maps, x, name="masks")
