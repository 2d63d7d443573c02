"""Penalties on how steep a discriminator is.

All take the gradient of the **sum** of the scores with respect to the images and measure it in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfaclgan.layers.precision import full_precision

Tensor = Any
Discriminator = Callable[[Tensor], Tensor]


def image_gradient(discriminator: Discriminator, images: Tensor) -> Tensor:
    """The gradient of sum(discriminator(images)) with respect to images [b, h, w, c], itself differentiable.

    The only place where a loss needs the backend: Keras has no call for a gradient.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as backend

        with backend.GradientTape() as tape:
            tape.watch(images)
            total = ops.sum(full_precision(discriminator(images)))
        return tape.gradient(total, images)
    if keras.backend.backend() == "jax":
        import jax as backend

        return backend.grad(lambda x: ops.sum(full_precision(discriminator(x))))(images)
    raise NotImplementedError(f"gradient penalties have no form for the Keras backend {keras.backend.backend()}")


def squared_norms(gradient: Tensor) -> Tensor:
    """[b, h, w, c] -> the squared Euclidean length of each image's gradient [b]."""
    return ops.sum(ops.square(full_precision(gradient)), axis=(1, 2, 3))


def gradient_penalty(
    discriminator: Discriminator, images: Tensor, fakes: Tensor, share: Tensor, one_sided: bool = False
) -> Tensor:
    """WGAN-GP (Gulrajani et al., arXiv 1704.00028): mean (|gradient| - 1)^2 between images and fakes.

    Args:
        discriminator: [b, h, w, c] -> scores; must judge each image by itself (no batch norm).
        images, fakes: [b, h, w, c].
        share: [b], uniform in (0, 1): of the image in the mixture.
        one_sided: only lengths above 1 count (WGAN-LP, arXiv 1709.08894).
    """
    share = ops.cast(ops.reshape(share, (-1, 1, 1, 1)), images.dtype)
    mixed = ops.stop_gradient(share * images + (1 - share) * ops.cast(fakes, images.dtype))
    # The root has no gradient at 0; what is added is below what float32 resolves beside a length of 1.
    excess = ops.sqrt(squared_norms(image_gradient(discriminator, mixed)) + 1e-12) - 1
    return ops.mean(ops.square(ops.relu(excess) if one_sided else excess))


def neighbourhood(images: Tensor, noise: Tensor) -> Tensor:
    """What DRAGAN (Kodali et al., arXiv 1705.07215) takes for fakes in `gradient_penalty`, as U-GAT-IT's code has it.

    images [b, h, w, c] + 0.5 * deviation * noise; noise of the same shape, uniform in (0, 1). The deviation is the
    biased one of all an image's numbers; the code's is that of the batch, so that images would depend on each other.
    """
    deviation = ops.std(full_precision(images), axis=(1, 2, 3), keepdims=True)
    return images + ops.cast(0.5 * deviation, images.dtype) * ops.cast(noise, images.dtype)
