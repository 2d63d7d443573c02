"""Attention of convolutional networks: class activation (U-GAT-IT), squeeze and excitation (scSE)."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from tfaclgan.layers.precision import full_precision
from tfaclgan.layers.weights import SpectralDense

Tensor = Any


class ClassActivation(keras.layers.Layer):
    """U-GAT-IT's auxiliary classifier (Kim et al., arXiv 1907.10830) and the weighted maps it gives.

    Two scores are read from the channels' means and from their peaks, l = pooled . w + b; the map's channels are
    then multiplied by each head's w (plus b, where there is one):

        layer(maps [b, h, w, c]) -> (scores [b, 2], weighted maps [b, h, w, 2c]), means' part first

    The scores are kept in full precision.

    Args:
        shared: one head reads means and peaks (TensorFlow code); otherwise two.
        use_bias: of the heads.
        spectral: the heads' kernels are divided by their length for the scores.
        weights: which w multiplies the maps under `spectral`: "normalised", or "raw" (PyTorch code).
        attend: multiply the maps; if not, they are only repeated.
        kernel_initializer, bias_initializer: of the heads.
    """

    def __init__(
        self,
        *,
        shared: bool = False,
        use_bias: bool = True,
        spectral: bool = False,
        weights: str = "normalised",
        attend: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shared, self.use_bias, self.spectral = shared, use_bias, spectral
        self.attention_weights, self.attend = weights, attend
        head = {
            "use_bias": use_bias,
            "spectral": spectral,
            "kernel_initializer": kernel_initializer,
            "bias_initializer": bias_initializer,
            "dtype": keras.DTypePolicy(self.variable_dtype),
        }
        self.mean_head = SpectralDense(1, name="both" if shared else "mean", **head)
        self.peak_head = self.mean_head if shared else SpectralDense(1, name="peak", **head)

    def build(self, input_shape: tuple) -> None:
        self.mean_head.build((None, input_shape[-1]))
        if not self.shared:
            self.peak_head.build((None, input_shape[-1]))

    def call(self, maps: Tensor, judged: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`judged` [b, h, w, c]: maps that the scores are read from instead (the attention still goes on `maps`)."""
        return self.scores(maps if judged is None else judged), self.weigh(maps)

    def scores(self, maps: Tensor) -> Tensor:
        """[b, h, w, c] -> [b, 2], from the means and from the peaks."""
        maps = full_precision(maps)
        means = self.mean_head(ops.mean(maps, axis=(1, 2)))
        return ops.concatenate([means, self.peak_head(ops.max(maps, axis=(1, 2)))], axis=-1)

    def weigh(self, maps: Tensor) -> Tensor:
        """[b, h, w, c] -> [b, h, w, 2c]."""
        if not self.attend:
            return ops.concatenate([maps, maps], axis=-1)
        return ops.concatenate([maps * self._weights_of(head, maps) for head in (self.mean_head, self.peak_head)], -1)

    def _weights_of(self, head: SpectralDense, maps: Tensor) -> Tensor:
        kernel = ops.convert_to_tensor(head.kernel) if self.attention_weights == "raw" else head.used_kernel()
        weights = kernel[:, 0] if head.bias is None else kernel[:, 0] + ops.cast(head.bias, kernel.dtype)
        return ops.cast(weights, maps.dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (input_shape[0], 2), (*input_shape[:-1], 2 * input_shape[-1])


class SpatialChannelExcitation(keras.layers.Layer):
    """Concurrent spatial and channel squeeze and excitation (Roy et al., arXiv 1803.02579), the two added.

    x -> x * sigmoid(W2 relu(W1 mean(x) + b1) + b2) + x * sigmoid(w . x + b), with hidden width max(c / reduction, 8).

    Args:
        reduction: of the channels' hidden layer.
        initializers: function fan_in -> (kernel, bias initializer); None is Keras' default.
    """

    def __init__(self, reduction: int = 4, initializers: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reduction = reduction
        self.initializers = initializers or (lambda fan_in: ("glorot_uniform", "zeros"))

    def build(self, input_shape: tuple) -> None:
        channels = input_shape[-1]
        hidden = max(channels // self.reduction, 8)

        def initial(fan_in: int) -> dict[str, Any]:
            kernel, bias = self.initializers(fan_in)
            return {"kernel_initializer": kernel, "bias_initializer": bias, "dtype": self.dtype_policy}

        self.squeeze = layers.Dense(hidden, activation="relu", name="squeeze", **initial(channels))
        self.excite = layers.Dense(channels, activation="sigmoid", name="excite", **initial(hidden))
        self.place = layers.Dense(1, activation="sigmoid", name="place", **initial(channels))
        self.squeeze.build((None, channels))
        self.excite.build((None, hidden))
        self.place.build((None, None, None, channels))

    def call(self, maps: Tensor) -> Tensor:
        means = ops.cast(ops.mean(full_precision(maps), axis=(1, 2)), maps.dtype)
        channels = self.excite(self.squeeze(means))
        return maps * channels[:, None, None, :] + maps * self.place(maps)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape
