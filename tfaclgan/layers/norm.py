"""Normalisation: parameter-free norms, and layers that scale and shift what they return.

The norms are those of MUNIT (arXiv 1804.04732), ACL-GAN (arXiv 2003.04858) and U-GAT-IT (arXiv 1907.10830).
Statistics are always those of the sample at hand, in training and at test, and are taken in float32 under half
precision.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfaclgan.layers import target
from tfaclgan.layers.precision import full_precision, is_half

Tensor = Any
EPSILON = 1e-5
# `_instance_norm` takes samples one by one if they are fewer than this, have at most so many pixels, and at least so
# many values (measured: with 16 channels at 64 px it is no quicker).
_MANY, _LARGE, _SMALL = 5, 256 * 256, 256 * 64 * 64
FLAT = 1e-6  # a channel that varies less, relative to its mean, varies by rounding only


def instance_norm(images: Tensor, epsilon: float = EPSILON, unbiased: bool = False) -> Tensor:
    """Each channel of each sample to mean 0 and variance 1 (biased, or with n - 1); epsilon inside the root.

    A flat channel becomes exactly 0 and passes no gradient. The formula would multiply its rounding errors, and
    the gradient, by 1 / sqrt(epsilon) = 316 in every layer: through the eleven norms of MUNIT's content encoder
    a single blank picture makes a gradient of 1e47, which float32 cannot hold.

    [b, h, w, c] -> the same shape, in full precision.
    """
    return full_precision(_instance_norm(images, epsilon, unbiased))


def _instance_norm(images: Tensor, epsilon: float = EPSILON, unbiased: bool = False) -> Tensor:
    """`instance_norm`, but bfloat16 stays what it is where TensorFlow's CPU has one operation for the whole of it."""
    half = keras.backend.standardize_dtype(images.dtype) == "bfloat16"
    if target.on_tensorflow_cpu() and half and None not in images.shape:
        batch, *sides, channels = images.shape
        pixels = math.prod(sides)
        if batch < _MANY and pixels <= _LARGE and pixels * channels >= _SMALL:
            return _batch_normed_one_by_one(images, epsilon, unbiased)
    return _standardise(images, (1, 2), epsilon, unbiased)


def _batch_normed_one_by_one(images: Tensor, epsilon: float, unbiased: bool) -> Tensor:
    """`instance_norm` by oneDNN's batch norm of each sample; the result is rounded to the images' type.

    A third of the time of the written-out formula, and less memory (docs/engines.md). It adds up pixels one after the
    other in float32: exact for a flat channel of bfloat16 with up to `_LARGE` of them, which is why that is the limit.
    """
    import tensorflow as tf

    count, channels = images.shape[1] * images.shape[2], images.shape[3]
    factor = count / (count - 1) if unbiased else 1.0  # rsqrt(factor v + e) = rsqrt(v + e / factor) / sqrt(factor)
    empty = tf.zeros([0])
    normal = []
    for sample in tf.split(images, images.shape[0]) if images.shape[0] > 1 else [images]:
        result = tf.raw_ops.FusedBatchNormV3(
            x=sample,
            scale=tf.fill([channels], factor**-0.5),
            offset=tf.zeros([channels]),
            mean=empty,
            variance=empty,
            epsilon=epsilon / factor,
            is_training=True,
        )
        variance = result.batch_variance * ((count - 1) / count)  # TensorFlow's is the unbiased one
        varies = tf.stop_gradient(variance > tf.square(FLAT * result.batch_mean))
        normal.append(result.y * tf.cast(varies, images.dtype))
    return tf.concat(normal, 0) if len(normal) > 1 else normal[0]


def layer_norm(images: Tensor, epsilon: float = EPSILON, unbiased: bool = False) -> Tensor:
    """Each sample, over height, width and channels together, to mean 0 and variance 1; otherwise as `instance_norm`.

    Unlike `sample_norm`, epsilon stands inside the root. [b, h, w, c] -> the same shape, in full precision.
    """
    return _standardise(images, (1, 2, 3), epsilon, unbiased)


def _standardise(images: Tensor, axes: tuple[int, ...], epsilon: float, unbiased: bool) -> Tensor:
    return _normalise(images, axes, _one_over_the_deviation(epsilon, unbiased))


@functools.cache
def _one_over_the_deviation(epsilon: float, unbiased: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    def scale(mean: Tensor, variance: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        flat = variance <= ops.square(FLAT * mean)
        factor = count / (count - 1) if unbiased else 1
        scale = ops.where(flat, 0, ops.rsqrt(factor * variance + epsilon))
        return scale, -0.5 * factor * scale * scale * scale

    return scale


def sample_norm(images: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Each sample, over height, width and channels together, to mean 0 and standard deviation 1.

    MUNIT's layer norm: the deviation is the unbiased one (n - 1) and epsilon is added to it, outside
    the root. [b, h, w, c] -> the same shape, in full precision.
    """

    return _normalise(images, (1, 2, 3), _one_over_the_deviation_and(epsilon))


@functools.cache
def _one_over_the_deviation_and(epsilon: float) -> Callable[..., tuple[Tensor, Tensor]]:
    def scale(mean: Tensor, variance: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        # The root has no gradient at 0; a constant sample gets none, as in PyTorch.
        positive = variance > 0
        factor = count / (count - 1)
        deviation = ops.sqrt(factor * ops.where(positive, variance, 1))
        scale = 1 / (ops.where(positive, deviation, 0) + epsilon)
        return scale, ops.where(positive, -0.5 * factor * scale * scale / deviation, 0)

    return scale


def _normalise(images: Tensor, axes: tuple[int, ...], scale_of: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
    """(images - mean) * scale, in full precision; on JAX with a gradient that reads the images once for all its sums.

    What frameworks derive of mean and variance adds up over the images, and then again what depends on these sums: two
    passes over memory where one does, since the centred images add up to 0. (TensorFlow would keep each graph that has
    such a gradient for as long as the process lives.)

    Args:
        images: [b, h, w, c].
        axes: that mean and (biased) variance are taken over.
        scale_of: (mean, variance, how many values) -> the scale and its derivative by the variance.
    """

    images = ops.convert_to_tensor(images)
    if target.compiles_passes(images):
        from tfaclgan.layers.tensorflow_cpu.norm import normalising

        return normalising(axes, scale_of)(full_precision(images))

    def parts(images: Tensor, full: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = _moments_of_half(images, full, axes) if is_half(images) else _moments(full, axes)
        count = ops.cast(ops.prod([ops.shape(full)[axis] for axis in axes]), mean.dtype)
        return mean, *scale_of(mean, variance, count)

    if keras.backend.backend() != "jax":
        full = full_precision(images)  # once: gradients add up before they are rounded
        mean, scale, _ = parts(images, full)
        return (full - mean) * scale

    @ops.custom_gradient
    def normal(images: Tensor) -> tuple[Tensor, Callable]:
        mean, scale, slope = parts(images, full_precision(images))

        def centred() -> Tensor:
            return full_precision(images) - mean

        def gradient(upstream: Tensor) -> Tensor:
            along = _mean(upstream * centred(), axes)
            result = scale * (upstream - _mean(upstream, axes)) + centred() * (2 * slope * along)
            return ops.cast(result, images.dtype)

        return centred() * scale, gradient

    return normal(images)


def _moments(full: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over `axes`, kept as axes of 1."""
    mean = _mean(full, axes)
    return mean, _mean(ops.square(full - mean), axes)


def _moments_of_half(images: Tensor, full: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """`_moments` of `full`, which are `images` of a half type in float32, from one pass over memory.

    Sums of differences from the first pixel keep what such images have of digits, and are exactly 0 for a flat channel.
    That pixel is cut out before it is cast: cut out of `full`, the TPU's compiler writes all of these to memory, and a
    norm takes five times the cycles (docs/tpu.md).
    """
    first = images[:, :1, :1, :] if axes == (1, 2) else images[:, :1, :1, :1]
    pivot = full_precision(ops.stop_gradient(first))
    above = full - pivot
    mean = _mean(above, axes)
    variance = _mean(ops.square(above), axes) - ops.square(mean)
    return pivot + mean, ops.maximum(variance, 0)


def _mean(images: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The mean over `axes`, kept as axes of 1.

    TensorFlow's CPU adds up a channel's pixels one after the other in float32, which for 65,536 of them is a seventh
    of the precision of adding up rows first, and no faster. Over the channels too it adds in another order.
    """
    if axes == (1, 2):
        return ops.mean(ops.mean(images, axis=2, keepdims=True), axis=1, keepdims=True)
    return ops.mean(images, axis=axes, keepdims=True)


class InstanceNorm(keras.layers.Layer):
    """`instance_norm` as a layer, without running statistics.

    Args:
        affine: learn a scale `gamma`, from 1, and a shift `beta`, from 0, for each channel.
    """

    def __init__(self, affine: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.affine = affine

    def build(self, input_shape: tuple) -> None:
        if self.affine:
            _add_gamma_and_beta(self, input_shape[-1])

    def call(self, images: Tensor) -> Tensor:
        if not self.affine:
            return ops.cast(_instance_norm(images), self.compute_dtype)
        normal = instance_norm(images)
        normal = normal * ops.cast(self.gamma, normal.dtype) + ops.cast(self.beta, normal.dtype)
        return ops.cast(normal, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "affine": self.affine}


def _add_gamma_and_beta(layer: keras.layers.Layer, channels: int) -> None:
    layer.gamma = layer.add_weight(name="gamma", shape=(channels,), initializer="ones", autocast=False)
    layer.beta = layer.add_weight(name="beta", shape=(channels,), initializer="zeros", autocast=False)


class AdaptiveInstanceNorm(keras.layers.Layer):
    """Instance norm, then a scale and a shift that a style gives.

    `layer([images, numbers])`: images [b, h, w, c]; numbers [b, n], of which this layer reads 2c from
    `offset`: first the shifts beta, then the scales gamma (MUNIT's order). gamma multiplies the
    normalised map; it is no deviation and may be negative.
    """

    def __init__(self, offset: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.offset = offset

    def call(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        images, numbers = inputs
        channels = images.shape[-1]
        middle = self.offset + channels
        normal = instance_norm(images)
        numbers = ops.cast(numbers, normal.dtype)
        beta = numbers[:, None, None, self.offset : middle]
        gamma = numbers[:, None, None, middle : middle + channels]
        return ops.cast(normal * gamma + beta, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape[0]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "offset": self.offset}


class SampleNorm(keras.layers.Layer):
    """`sample_norm`, then a learnt scale and shift for each channel (MUNIT's `LayerNorm`).

    Not Keras' LayerNormalization: that one uses the biased deviation and puts epsilon inside the root.
    gamma starts uniform in [0, 1), beta at 0, as in MUNIT.
    """

    def build(self, input_shape: tuple) -> None:
        shape = (input_shape[-1],)
        initial = keras.initializers.RandomUniform(0.0, 1.0)
        self.gamma = self.add_weight(name="gamma", shape=shape, initializer=initial, dtype=self.variable_dtype)
        self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros", dtype=self.variable_dtype)

    def call(self, images: Tensor) -> Tensor:
        normal = sample_norm(images)
        gamma = ops.cast(self.gamma, normal.dtype)
        beta = ops.cast(self.beta, normal.dtype)
        return ops.cast(normal * gamma + beta, self.compute_dtype)


class Between(keras.constraints.Constraint):
    """Clips a weight to [lower, upper] after each update."""

    def __init__(self, lower: float, upper: float) -> None:
        self.lower, self.upper = lower, upper

    def __call__(self, weight: Tensor) -> Tensor:
        return ops.clip(weight, self.lower, self.upper)

    def get_config(self) -> dict[str, Any]:
        return {"lower": self.lower, "upper": self.upper}


class _MixedNorm(keras.layers.Layer):
    """rho * instance norm + (1 - rho) * layer norm, rho learnt for each channel; both norms as U-GAT-IT's.

    Args:
        initial: of rho.
        upper: rho is clipped to [0, upper] after each update.
        smoothing: the forward pass uses clip(rho - smoothing, 0, 1).
        unbiased: both variances divide by n - 1.
    """

    def __init__(
        self, initial: float, upper: float = 1.0, smoothing: float = 0.0, unbiased: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.initial, self.upper, self.smoothing, self.unbiased = initial, upper, smoothing, unbiased

    def _add_rho(self, channels: int) -> None:
        self.rho = self.add_weight(
            name="rho",
            shape=(channels,),
            initializer=keras.initializers.Constant(self.initial),
            constraint=Between(0.0, self.upper),
            aggregation="only_first_replica",  # the constraint assigns on each replica
            autocast=False,
        )

    def _mixed(self, images: Tensor) -> Tensor:
        instance = instance_norm(images, unbiased=self.unbiased)
        layer = layer_norm(images, unbiased=self.unbiased)
        rho = ops.cast(self.rho, instance.dtype)
        if self.smoothing:
            rho = ops.clip(rho - self.smoothing, 0.0, 1.0)
        return rho * instance + (1 - rho) * layer

    def get_config(self) -> dict[str, Any]:
        names = ("initial", "upper", "smoothing", "unbiased")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class AdaptiveLayerInstanceNorm(_MixedNorm):
    """AdaLIN (Kim et al., arXiv 1907.10830): a learnt mixture of both norms, scaled and shifted by the network.

    `layer([images, gamma, beta])`: images [b, h, w, c]; gamma and beta [b, c]. Arguments as of `_MixedNorm`.
    """

    def build(self, input_shape: Any) -> None:
        self._add_rho(input_shape[0][-1])

    def call(self, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        images, gamma, beta = inputs
        mixed = self._mixed(images)
        gamma, beta = (ops.cast(value, mixed.dtype)[:, None, None, :] for value in (gamma, beta))
        return ops.cast(mixed * gamma + beta, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        return input_shape[0]


class LayerInstanceNorm(_MixedNorm):
    """LIN of U-GAT-IT: the mixture of both norms with a learnt scale `gamma`, from 1, and shift `beta`, from 0.

    Arguments as of `_MixedNorm`. [b, h, w, c] -> the same shape.
    """

    def build(self, input_shape: tuple) -> None:
        self._add_rho(input_shape[-1])
        _add_gamma_and_beta(self, input_shape[-1])

    def call(self, images: Tensor) -> Tensor:
        mixed = self._mixed(images)
        return ops.cast(
            mixed * ops.cast(self.gamma, mixed.dtype) + ops.cast(self.beta, mixed.dtype), self.compute_dtype
        )

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape
