"""Augmentation specs and the geometry every image goes through; see docs/augmentation.md."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfaclgan.errors import UserError

PRESETS = {"none": "", "acl_gan": "flip,crop"}


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image; 0 and False: never.

    crop: crop at random; otherwise from the centre.
    flip: probability of a horizontal flip.
    """

    crop: bool = False
    flip: float = 0.0


def parse(spec: str) -> Augmentation:
    """The augmentation that a preset or a comma list describes.

    Raises:
        UserError: an unknown name or a value out of range.
    """
    values: dict[str, object] = {}
    for part in PRESETS.get(spec, spec).split(","):
        name, *numbers = part.strip().split(":")
        if not name:
            continue
        if name == "crop" and not numbers:
            values["crop"] = True
        elif name == "flip" and len(numbers) < 2:
            values["flip"] = float(numbers[0]) if numbers else 0.5
        else:
            raise UserError(f"--augment={spec}: {part!r} is not known; see docs/augmentation.md")
    return Augmentation(**values)


def resize(image: tf.Tensor, height: int, width: int, load_size: int) -> tf.Tensor:
    """The image with its shorter side at load_size, as Pillow's bilinear filter does it.

    The longer side is rounded down. An image that would then not cover the crop grows until it does.

    Args:
        image: uint8 [h, w, c].
        height, width, load_size: pixels.
    """
    size = tf.shape(image)[:2]
    shorter = tf.reduce_min(size)
    target = tf.maximum(size * load_size // shorter, [height, width])

    def resized() -> tf.Tensor:
        new = tf.image.resize(image, target, "bilinear", antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(new), 0.0, 255.0), tf.uint8)

    return tf.cond(tf.reduce_all(tf.equal(size, target)), lambda: image, resized)


def centre_crop(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """The middle [height, width, c] of `image` [h, w, c]; an odd margin is larger below and at the right."""
    size = tf.shape(image)
    return tf.slice(image, tf.stack([(size[0] - height) // 2, (size[1] - width) // 2, 0]), [height, width, -1])


def random_image(
    image: tf.Tensor,
    augmentation: Augmentation,
    height: int,
    width: int,
    load_size: int,
    seed: tf.Tensor,
    active: tf.Tensor,
) -> tf.Tensor:
    """A training image: uint8 [height, width, c] out of uint8 [h, w, c], a function of `seed` alone."""
    image = resize(image, height, width, load_size)
    draws = tf.random.stateless_uniform([3], seed)
    if augmentation.crop:
        room = tf.shape(image)[:2] - [height, width]
        corner = tf.cast(draws[:2] * tf.cast(room + 1, tf.float32), tf.int32)
        image = tf.slice(image, tf.concat([tf.minimum(corner, room), [0]], 0), [height, width, -1])
    else:
        image = centre_crop(image, height, width)
    if augmentation.flip:
        image = tf.cond(active & (draws[2] < augmentation.flip), lambda: tf.reverse(image, [1]), lambda: image)
    return image
