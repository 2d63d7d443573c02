"""Which image sizes U-GAT-IT's networks accept; plain arithmetic, so that it can be asked without Keras.

A border of p reflected pixels needs a map of more than p pixels; here every padded map is walked.
"""

from __future__ import annotations

from tfaclgan.errors import UserError

DOWNSAMPLES = 2  # of the generator
MULTIPLE = 2**DOWNSAMPLES
FEWEST_LAYERS = 3  # of a discriminator
_MOST_LAYERS = 18  # halve a side of 262,144 pixels


def fillers(layers: int, filled: bool) -> int:
    """Number of 3x3 convolutions of stride 1 that the fork puts into discriminators of fewer than five layers."""
    return max(0, 5 - layers) if filled else 0


def discriminator_sides(side: int, layers: int, keep: bool, filled: bool = True) -> list[int]:
    """Sides of a discriminator's maps for images of `side` pixels: after each convolution, scores last.

    Args:
        side: of the images, pixels.
        layers: as `networks.ugatit.Discriminator`.
        keep: the convolutions of stride 1 keep the size (TensorFlow code) instead of losing a pixel.
        filled: see `fillers`.

    Returns:
        Sides as long as the borders fit; a list shorter than layers + 1 means the images are too small.
    """
    sides = []
    last_border, loss = (2, 0) if keep else (1, 1)
    convolutions = [(1, None)] * (layers - 2) + [(1, 0)] * fillers(layers, filled) + [(last_border, loss)] * 2
    for border, lost in convolutions:
        if side <= border:
            break
        side = side // 2 if lost is None else side - lost
        if side < 1:
            break
        sides.append(side)
    return sides


def discriminator_accepts(side: int, layers: int, keep: bool, filled: bool = True) -> bool:
    """Whether every border fits and a score is left."""
    return len(discriminator_sides(side, layers, keep, filled)) == layers - 2 + fillers(layers, filled) + 2


def minimum_side(layers: tuple[int, ...], keep: bool, filled: bool = True) -> int:
    """The smallest side in pixels, a multiple of 4, that the generator and discriminators of these depths accept.

    Raises:
        UserError: so many layers that no picture is large enough; the search below would never end.
    """
    if max(layers) > _MOST_LAYERS:
        raise UserError(
            f"discriminators of {max(layers)} layers: no picture is large enough; use at most {_MOST_LAYERS} for "
            "--ugatit.global_layers and --ugatit.local_layers"
        )
    side = 2 * MULTIPLE  # the residual blocks' borders need maps of two pixels
    while not all(discriminator_accepts(side, depth, keep, filled) for depth in layers):
        side += MULTIPLE
    return side


def check_size(
    image_shape: tuple[int, int, int], global_layers: int, local_layers: int, keep: bool, filled: bool = True
) -> None:
    """UserError if a side of `image_shape` (height, width, channels) is no multiple of 4, or too small."""
    height, width, _ = image_shape
    if height % MULTIPLE or width % MULTIPLE:
        up = [-(-side // MULTIPLE) * MULTIPLE for side in (height, width)]
        raise UserError(
            f"image size {height} x {width}: both sides must be multiples of {MULTIPLE} for U-GAT-IT's generators; "
            f"choose e.g. {up[0]} x {up[1]}"
        )
    smallest, side = minimum_side((global_layers, local_layers), keep, filled), min(height, width)
    if side < smallest:
        fitting = [d for d in range(FEWEST_LAYERS, global_layers) if discriminator_accepts(side, d, keep, filled)]
        advice = f" or set --ugatit.global_layers={fitting[-1]}" if fitting else ""
        raise UserError(
            f"image size {height} x {width}: discriminators of {global_layers} and {local_layers} layers need sides of "
            f"at least {smallest} pixels, or a reflected border does not fit in their smallest map; use larger images"
            f"{advice}"
        )
