"""Which image sizes MUNIT's networks accept; plain arithmetic, so that it can be asked without Keras.

A border of p reflected pixels needs a map of more than p pixels; here every padded map is walked.
"""

from __future__ import annotations

from tfaclgan.errors import UserError

_MOST_HALVINGS = 18  # sides of 262,144 pixels
STYLE_DOWNSAMPLES = 4  # of the style encoder, whatever the content encoder has


def minimum_side(downsamples: int, scales: int, layers_per_scale: int) -> int:
    """The smallest side in pixels, a multiple of 2**downsamples, that every network accepts.

    Args:
        downsamples: halvings of the content encoder, at least 1.
        scales: image sizes of the discriminators; each is half of the one before, rounded up.
        layers_per_scale: stride-2 convolutions 4x4 of each scale.

    Raises:
        UserError: so many halvings that no picture is large enough; the search below would never end.
    """
    halvings = max(downsamples, scales + layers_per_scale)
    if halvings > _MOST_HALVINGS:
        raise UserError(
            f"{halvings} halvings of a picture: none is large enough; use fewer downsamples, discriminator_scales or "
            "discriminator_layers"
        )
    multiple = 2**downsamples
    side = multiple
    while not (_generator_accepts(side, downsamples) and _discriminator_accepts(side, scales, layers_per_scale)):
        side += multiple
    return side


def check_size(method: str, image_shape: tuple[int, int, int], multiple: int, minimum: int) -> None:
    """UserError if a side of `image_shape` (height, width, channels) is no multiple of `multiple`, or too small."""
    height, width, _ = image_shape
    if height % multiple or width % multiple:
        raise UserError(
            f"image size {height} x {width}: both sides must be multiples of {multiple} for the generators of {method} "
            f"(2 ** --{method}.downsamples); choose e.g. {_up(height, multiple)} x {_up(width, multiple)}"
        )
    if min(height, width) < minimum:
        raise UserError(
            f"image size {height} x {width}: {method} needs sides of at least {minimum} pixels, or a reflected border "
            f"does not fit in its smallest map; use larger images or lower --{method}.discriminator_scales "
            f"or --{method}.discriminator_layers"
        )


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _generator_accepts(side: int, downsamples: int) -> bool:
    content = side // 2**downsamples
    stem = side > 3  # 7x7 convolutions
    residual = content > 1  # 3x3; implies the downsamplings' 4x4 (2 content > 1) and the 5x5 (2 content > 2)
    style = side // 2 ** (STYLE_DOWNSAMPLES - 1) > 1  # the last 4x4
    return stem and residual and style


def _discriminator_accepts(side: int, scales: int, layers_per_scale: int) -> bool:
    for _ in range(scales - 1):
        side = -(-side // 2)
    return side // 2 ** (layers_per_scale - 1) > 1
