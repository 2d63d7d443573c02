"""Convolution and dense layers whose kernel is divided by its largest singular value (spectral norm).

Miyato et al., "Spectral Normalization for Generative Adversarial Networks", arXiv 1802.05957, in the form of PyTorch's
`spectral_norm`: with the kernel as a matrix W [outputs, inputs],

    power step:  v <- W^T u / |W^T u|,  u <- W v / |W v|        (u, v kept between steps)
    forward:     sigma = u^T W v with u and v constant; the layer uses W / sigma

The raw kernel is what is trained, stored and decayed, and the gradient passes through sigma. A forward pass never
changes u and v: the engine calls `power_step()` where a phase asks for it (`methods.base.Phase`), so that a compiled
step has no hidden state. Keras' own SpectralNormalization overwrites the kernel and cuts the gradient through sigma.

u starts as a random unit vector and v as W^T u / |W^T u|, so that sigma is positive before the first power step (with
PyTorch's random v it may be anything).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfaclgan.layers.convolution import convolution

Tensor = Any
FLOOR = 1e-12  # of the lengths that are divided by, as in PyTorch


def unit(vector: Tensor) -> Tensor:
    """`vector` divided by its length, or by `FLOOR` if that is longer."""
    return vector / ops.maximum(ops.sqrt(ops.sum(ops.square(vector))), FLOOR)


class _SpectralLayer(keras.layers.Layer):
    """The kernel [..., inputs, outputs], bias, and spectral norm that both layers share."""

    def __init__(
        self,
        *,
        use_bias: bool,
        spectral: bool,
        kernel_initializer: Any,
        bias_initializer: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.use_bias, self.spectral = use_bias, spectral
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def _add_weights(self, kernel_shape: tuple[int, ...]) -> None:
        # Not cast to a half type when read: sigma is taken in full precision.
        self.kernel = self.add_weight(
            name="kernel", shape=kernel_shape, initializer=self.kernel_initializer, autocast=False
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=kernel_shape[-1:], initializer=self.bias_initializer)
        if not self.spectral:
            return
        normal = keras.initializers.RandomNormal(0.0, 1.0)
        state = {"trainable": False, "autocast": False, "aggregation": "only_first_replica"}
        self.u = self.add_weight(
            name="u",
            shape=kernel_shape[-1:],
            initializer=lambda shape, dtype=None: unit(normal(shape, dtype)),
            **state,
        )
        inputs = 1
        for size in kernel_shape[:-1]:
            inputs *= size
        self.v = self.add_weight(
            name="v",
            shape=(inputs,),
            initializer=lambda shape, dtype=None: unit(ops.matmul(self._matrix(), ops.convert_to_tensor(self.u))),
            **state,
        )

    def _matrix(self) -> Tensor:
        """The kernel as [inputs, outputs], the transpose of W."""
        kernel = ops.convert_to_tensor(self.kernel)
        return ops.reshape(kernel, (-1, kernel.shape[-1]))

    def power_step(self) -> None:
        """One step of the power iteration on u and v; nothing without a spectral norm."""
        if not self.spectral:
            return
        matrix = ops.stop_gradient(self._matrix())
        v = unit(ops.matmul(matrix, ops.convert_to_tensor(self.u)))
        u = unit(ops.matmul(v, matrix))
        self.u.assign(u)
        self.v.assign(v)

    def sigma(self) -> Tensor:
        """u^T W v: the largest singular value as far as u and v know it; differentiable in the kernel."""
        u = ops.stop_gradient(ops.convert_to_tensor(self.u))
        v = ops.stop_gradient(ops.convert_to_tensor(self.v))
        return ops.sum(ops.matmul(v, self._matrix()) * u)

    def _finished(self, result: Tensor) -> Tensor:
        """Divided by sigma, with the bias: dividing the kernel is the same, but for deep layers it is the larger."""
        if self.spectral:
            result = result * ops.cast(1 / self.sigma(), result.dtype)
        return result if self.bias is None else result + ops.cast(self.bias, result.dtype)

    def used_kernel(self) -> Tensor:
        """The kernel that `call` stands for, in the dtype of the weights."""
        kernel = ops.convert_to_tensor(self.kernel)
        return kernel / self.sigma() if self.spectral else kernel

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "use_bias": self.use_bias,
            "spectral": self.spectral,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


class SpectralConv2D(_SpectralLayer):
    """Convolution without padding, [b, h, w, c] -> [b, (h - k) // s + 1, (w - k) // s + 1, filters].

    Args:
        filters: channels of the output.
        kernel_size: k, height and width of the kernel [k, k, c, filters].
        strides: s, in both directions.
        use_bias: add a bias (never normalised).
        spectral: divide the kernel by its largest singular value; False is a plain convolution.
        kernel_initializer, bias_initializer: of the raw weights.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        *,
        strides: int = 1,
        use_bias: bool = True,
        spectral: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            use_bias=use_bias,
            spectral=spectral,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            **kwargs,
        )
        self.filters, self.kernel_size, self.strides = filters, kernel_size, strides

    def build(self, input_shape: tuple) -> None:
        self._add_weights((self.kernel_size, self.kernel_size, input_shape[-1], self.filters))

    def call(self, images: Tensor) -> Tensor:
        kernel = ops.cast(ops.convert_to_tensor(self.kernel), images.dtype)
        result = convolution(images, kernel, self.strides)
        return self._finished(result)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, height, width, _ = input_shape
        sides = [side and (side - self.kernel_size) // self.strides + 1 for side in (height, width)]
        return (batch, *sides, self.filters)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
        }


class SpectralDense(_SpectralLayer):
    """Dense layer, [..., c] -> [..., units].

    Args:
        units: of the output.
        use_bias: add a bias (never normalised).
        spectral: divide the kernel [c, units] by its largest singular value; False is a plain dense layer.
        kernel_initializer, bias_initializer: of the raw weights.
    """

    def __init__(
        self,
        units: int,
        *,
        use_bias: bool = True,
        spectral: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            use_bias=use_bias,
            spectral=spectral,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            **kwargs,
        )
        self.units = units

    def build(self, input_shape: tuple) -> None:
        self._add_weights((input_shape[-1], self.units))

    def call(self, values: Tensor) -> Tensor:
        return self._finished(ops.matmul(values, ops.cast(ops.convert_to_tensor(self.kernel), values.dtype)))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def pytorch_initializers(fan_in: int) -> tuple[keras.initializers.Initializer, keras.initializers.Initializer]:
    """PyTorch's default for convolutions and linear layers: kernel and bias uniform in +-1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return keras.initializers.RandomUniform(-bound, bound), keras.initializers.RandomUniform(-bound, bound)
