"""Image arrays on the way into and out of networks: value forms, padding, random styles. NumPy only."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tfaclgan.errors import UserError

RANGE_SLACK = 1e-3  # float images may leave [-1, 1] by rounding, not by another convention such as [0, 255]


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 0..255 -> float32 in [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1.0


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Float in [-1, 1] (beyond is clipped) -> uint8 0..255."""
    return np.round(np.clip(images.astype(np.float32) * 127.5 + 127.5, 0.0, 255.0)).astype(np.uint8)


def check_images(images: Any, channels: int, what: str = "images") -> np.ndarray:
    """`images` as an array [b, h, w, channels], uint8 or float in [-1, 1].

    Raises:
        UserError: another rank, no pixels, another number of channels, another type, values out of range.
    """
    images = np.asarray(images)
    if images.ndim != 4:
        hint = "; add a batch axis, images[None]" if images.ndim == 3 else ""
        raise UserError(f"{what}: shape {list(images.shape)}, but [batch, height, width, channels] is wanted{hint}")
    if images.shape[-1] != channels:
        raise UserError(f"{what}: {images.shape[-1]} channels, but this run was trained with {channels}; convert them")
    if 0 in images.shape[1:3]:
        raise UserError(f"{what}: shape {list(images.shape)} holds no pixels; give images of at least 1 x 1")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise UserError(f"{what}: type {images.dtype}, but uint8 in 0..255 or float in [-1, 1] is wanted; convert them")
    if images.size and not (images.min() >= -1 - RANGE_SLACK and images.max() <= 1 + RANGE_SLACK):
        raise UserError(
            f"{what}: float values from {images.min():g} to {images.max():g}, but [-1, 1] is wanted; "
            "scale them with x / 127.5 - 1, or give uint8 in 0..255"
        )
    return images


class Border(NamedTuple):
    """Rows and columns added around images [b, h, w, c]: before and after, pixels."""

    top: int
    bottom: int
    left: int
    right: int


def border(height: int, width: int, multiple: int, minimum: int) -> Border:
    """The border that brings both sides to the next multiple of `multiple` that is at least `minimum`.

    It is split evenly, so that what the networks do at a border is the same on opposite sides.
    """
    sides = []
    for side in (height, width):
        wanted = -(-max(side, minimum) // multiple) * multiple
        before = (wanted - side) // 2
        sides += [before, wanted - side - before]
    return Border(*sides)


def pad(images: np.ndarray, around: Border) -> np.ndarray:
    """images [b, h, w, c] with a reflected border (again and again where it is wider than the image)."""
    if not any(around):
        return images
    return np.pad(images, ((0, 0), (around.top, around.bottom), (around.left, around.right), (0, 0)), mode="reflect")


def crop(images: np.ndarray, around: Border) -> np.ndarray:
    """Undoes `pad`."""
    height, width = images.shape[1:3]
    return images[:, around.top : height - around.bottom, around.left : width - around.right]


def resize(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Float images [b, h, w, c] by Pillow's antialiased bicubic filter, kept in each image's range of values."""
    if images.shape[1:3] == (height, width):
        return images
    from PIL import Image

    result = np.empty((len(images), height, width, images.shape[-1]), np.float32)
    for i, image in enumerate(images.astype(np.float32)):
        for c in range(image.shape[-1]):
            plane = Image.fromarray(np.ascontiguousarray(image[..., c]))
            result[i, ..., c] = np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC))
        result[i] = np.clip(result[i], image.min(), image.max())
    return result


def false_colours(maps: np.ndarray) -> np.ndarray:
    """Maps [b, h, w, 1] as uint8 [b, h, w, 3]: blue at a map's smallest value, over green, to red at its largest.

    A map that is the same everywhere, e.g. an empty one, is blue.
    """
    maps = maps.astype(np.float32)
    low = maps.min(axis=(1, 2, 3), keepdims=True)
    span = maps.max(axis=(1, 2, 3), keepdims=True) - low
    share = (maps - low) / np.where(span > 0, span, 1)
    colours = np.clip(1.5 - np.abs(4 * share - np.array([3, 2, 1], np.float32)), 0, 1)
    return np.round(colours * 255).astype(np.uint8)


def pad_batch(array: np.ndarray, batch: int) -> np.ndarray:
    """array [n, ...] filled up to [batch, ...] with copies of its last row."""
    missing = batch - len(array)
    return array if not missing else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])


def draw_style(seed: int, image: int, dimension: int, number: int = 0) -> np.ndarray:
    """N(0, 1) of shape [dimension], a function of the arguments alone.

    Args:
        seed: the user's, at least 0.
        image: number of the image, at least 0.
        dimension: of a style.
        number: which of several styles of the image, at least 0.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, image, number))))
    return generator.standard_normal(dimension, dtype=np.float32)


def stretch(image: np.ndarray) -> np.ndarray:
    """Float [h, w, c] -> uint8 with its smallest value at 0 and its largest at 255, over all channels.

    How the original scripts of MUNIT and ACL-GAN save images and masks; it changes contrast, and FID with it.
    """
    image = image.astype(np.float32)
    low, high = image.min(), image.max()
    scaled = (image - low) / max(high - low, np.float32(1e-5))
    return np.round(scaled * 255.0).astype(np.uint8)
