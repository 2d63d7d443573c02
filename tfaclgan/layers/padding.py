"""Reflection padding: MUNIT, ACL-GAN and CycleGAN pad this way before every convolution."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfaclgan.layers import target

Tensor = Any
ROWS, COLUMNS = 1, 2  # axes of a batch of images


class ReflectPad2D(keras.layers.Layer):
    """Mirrors `padding` pixels on all four sides without repeating the edge.

    A pair is (above and left, below and right), as U-GAT-IT's TensorFlow code pads.
    [b, h, w, c] -> [b, h + 2 padding, w + 2 padding, c]; both sides must be larger than `padding`.
    """

    def __init__(self, padding: int | tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.padding = padding

    def call(self, images: Tensor) -> Tensor:
        return reflect_pad(images, self.padding)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, height, width, channels = input_shape
        extra = sum(_pair(self.padding))
        return (batch, height and height + extra, width and width + extra, channels)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": self.padding}


def reflect_pad(images: Tensor, padding: int | tuple[int, int], axes: tuple[int, ...] = (ROWS, COLUMNS)) -> Tensor:
    """`ReflectPad2D` as a function, on some axes."""
    before, after = _pair(padding)
    if target.on_jax_gpu():
        return _gathered(images, before, after, axes, 1)
    if keras.backend.backend() == "jax" or target.on_tpu():
        # JAX's own gradient passes over the map once for each side; of TensorFlow's op XLA reverses whole maps.
        return mirrored_strips(images, before, after, axes, 1)
    if _is_compiled(images, before + after):
        return _compiled(images, before, after, axes, 1)
    return ops.pad(images, _around(before, after, axes), mode="reflect")


def edge_pad(images: Tensor, padding: int, axes: tuple[int, ...] = (ROWS, COLUMNS)) -> Tensor:
    """Mirrors `padding` pixels on both sides of some axes, the edge included (NumPy's "symmetric")."""
    if target.on_jax_gpu():
        return _gathered(images, padding, padding, axes, 0)
    if target.on_tpu():
        return mirrored_strips(images, padding, padding, axes, 0)
    if _is_compiled(images, 2 * padding):
        return _compiled(images, padding, padding, axes, 0)
    return ops.pad(images, _around(padding, padding, axes), mode="symmetric")


def add_to_ends(images: Tensor, first: Tensor, last: Tensor, axis: int) -> Tensor:
    """`images` with `first` added to the first row (or column) and `last` to the last."""
    if target.on_jax_gpu():
        rest = images.shape[axis] - 1
        return images + _placed(first, axis, 0, rest) + _placed(last, axis, rest, 0)
    shape = [*ops.shape(images)]
    shape[axis] = shape[axis] - 2
    return images + ops.concatenate([first, ops.zeros(shape, images.dtype), last], axis=axis)


def _around(before: int, after: int, axes: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((before, after) if axis in axes else (0, 0) for axis in range(4))


def mirrored_strips(images: Tensor, before: int, after: int, axes: tuple[int, ...], skipped: int) -> Tensor:
    """What `_gathered` computes, by concatenation of mirrored strips."""
    for axis in axes:
        end = images.shape[axis] - skipped
        first, last = strip(images, skipped, before + skipped, axis), strip(images, end - after, end, axis)
        images = ops.concatenate([ops.flip(first, axis), images, ops.flip(last, axis)], axis=axis)
    return images


def strip(images: Tensor, first: int, end: int, axis: int) -> Tensor:
    """These rows or columns."""
    return images[:, first:end] if axis == ROWS else images[:, :, first:end]


def _placed(part: Tensor, axis: int, before: int, after: int) -> Tensor:
    """`part` among zeros."""
    return ops.pad(part, _around(before, after, (axis,)))


def _gathered(images: Tensor, before: int, after: int, axes: tuple[int, ...], skipped: int) -> Tensor:
    """Mirrors rows and columns for XLA on a GPU, where this is one pass over memory, fused with what comes before.

    A concatenation is not: its kernel reaches a fifth of the memory's rate (measured: docs/engines.md). The gradient is
    written out, because that of a gather adds up pixel by pixel.

    Args:
        images: [b, h, w, c], a JAX array.
        before, after: pixels to mirror.
        axes: where.
        skipped: 1 if the edge itself is not repeated, 0 if it is.
    """
    import jax
    import jax.numpy as jnp

    @jax.custom_vjp
    def padded(images: Tensor) -> Tensor:
        for axis in axes:
            side = images.shape[axis]
            places = np.pad(np.arange(side), (before, after), mode="reflect" if skipped else "symmetric")
            images = jnp.take(images, places, axis=axis, mode="clip")
        return images

    def gradient(_: None, upstream: Tensor) -> tuple[Tensor]:
        for axis in reversed(axes):
            side = upstream.shape[axis] - before - after
            first, last = strip(upstream, 0, before, axis), strip(upstream, before + side, None, axis)
            end = side - skipped
            upstream = (
                strip(upstream, before, before + side, axis)
                + _placed(ops.flip(first, axis), axis, skipped, side - skipped - before)
                + _placed(ops.flip(last, axis), axis, end - after, skipped)
            )
        return (upstream,)

    padded.defvjp(lambda images: (padded(images), None), gradient)
    return padded(images)


def _is_compiled(images: Tensor, mirrored: int) -> bool:
    """Whether layers/tensorflow_cpu/padding.py is quicker, and the borders of a side do not meet."""
    return target.compiles_passes(images) and mirrored + 2 <= min(images.shape[ROWS], images.shape[COLUMNS])


def _compiled(images: Tensor, before: int, after: int, axes: tuple[int, ...], skipped: int) -> Tensor:
    from tfaclgan.layers.tensorflow_cpu.padding import mirroring

    return mirroring(before, after, tuple(axes), skipped)(ops.convert_to_tensor(images))


def _pair(padding: int | tuple[int, int]) -> tuple[int, int]:
    return (padding, padding) if isinstance(padding, int) else tuple(padding)
