"""Histogram matching: one picture of a pair takes on the other's distribution of colours.

An option of the enhanced U-GAT-IT fork (zheng-yuwei/enhanced-UGATIT, `match_histograms`), before augmentation, on
uint8. A spec is MODE[:PROBABILITY[:RATIO[:FORM]]]: with PROBABILITY b is matched to a, else a to b.

    mode    "rgb", "hsv" or "hsl": the channels that are matched, each by itself, in OpenCV's 8-bit form with hues of
            0..255 (HSV_FULL, HLS_FULL)
    form    "cdf": out(v) is the smallest r with CDF'(r) >= CDF_source(v), where
                CDF' = (1 - RATIO) CDF_source + RATIO CDF_reference        (the code)
            "blend": (1 - RATIO) picture + RATIO fully matched picture     (what the fork's README describes)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfaclgan.errors import UserError

MODES = ("rgb", "hsv", "hsl")
FORMS = ("cdf", "blend")
_SHIFT = 12  # bits after the point in OpenCV's tables of 8-bit HSV


@dataclasses.dataclass(frozen=True)
class Matching:
    """mode "" is none; the rest as in the module docstring."""

    mode: str = ""
    probability: float = 0.5
    ratio: float = 1.0
    form: str = "cdf"

    def __bool__(self) -> bool:
        return bool(self.mode)


def parse(spec: str, channels: int = 3) -> Matching:
    """The matching that a spec describes; "" is none.

    Raises:
        UserError: an unknown mode or form, a number out of range, colours of pictures that have none.
    """
    if not spec:
        return Matching()
    mode, *rest = spec.split(":")
    form = "write --match_histograms=MODE[:PROBABILITY[:RATIO[:FORM]]], e.g. hsl:0.5:1:cdf"
    if mode not in MODES or len(rest) > 3 or (len(rest) == 3 and rest[2] not in FORMS):
        raise UserError(
            f"--match_histograms={spec}: modes are {', '.join(MODES)}, forms are {', '.join(FORMS)}; {form}"
        )
    try:
        probability, ratio = [float(text) for text in rest[:2]] + [0.5, 1.0][len(rest[:2]) :]
    except ValueError as error:
        raise UserError(f"--match_histograms={spec}: {error}; {form}") from error
    if not (0 <= probability <= 1 and 0 <= ratio <= 1):
        raise UserError(f"--match_histograms={spec}: probability and ratio lie between 0 and 1; {form}")
    if channels != 3 and mode != "rgb":
        raise UserError(f"--match_histograms={spec}: pictures of {channels} channels have no hue; use rgb")
    return Matching(mode, probability, ratio, rest[2] if len(rest) == 3 else "cdf")


def match_pair(matching: Matching, a: tf.Tensor, b: tf.Tensor, draw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Both pictures uint8 [h, w, c], one of them changed: b if `draw` (scalar in [0, 1)) is below the probability."""

    def b_to_a() -> tuple[tf.Tensor, tf.Tensor]:
        return a, match(b, a, matching)

    def a_to_b() -> tuple[tf.Tensor, tf.Tensor]:
        return match(a, b, matching), b

    return tf.cond(draw < matching.probability, b_to_a, a_to_b)


def match(picture: tf.Tensor, reference: tf.Tensor, matching: Matching) -> tf.Tensor:
    """`picture` uint8 [h, w, c] with the histograms of `reference` uint8 [h', w', c]."""
    forward, back = _SPACES[matching.mode]
    ratio = matching.ratio if matching.form == "cdf" else 1.0
    source, target = forward(picture), forward(reference)
    channels = [
        _match_channel(one, other, ratio) for one, other in zip(tf.unstack(source, axis=2), tf.unstack(target, axis=2))
    ]
    matched = back(tf.stack(channels, axis=2))
    if matching.form == "blend" and matching.ratio < 1:
        mixed = (1 - matching.ratio) * tf.cast(picture, tf.float32) + matching.ratio * tf.cast(matched, tf.float32)
        matched = tf.cast(tf.round(mixed), tf.uint8)
    return tf.ensure_shape(matched, picture.shape)


def _match_channel(source: tf.Tensor, reference: tf.Tensor, ratio: float) -> tf.Tensor:
    """int32 [h, w] values 0..255 -> int32 [h, w]."""
    own = _cumulative(source)
    wanted = (1 - ratio) * own + ratio * _cumulative(reference)
    table = tf.searchsorted(wanted, own, side="left")
    # Rounding can leave the last values without a partner; they take their predecessor's, the largest there is.
    table = tf.where(table < 256, table, tf.reduce_max(tf.where(table < 256, table, 0)))
    return tf.gather(table, source)


def _cumulative(values: tf.Tensor) -> tf.Tensor:
    """The share of values up to 0, 1, ..., 255: float64 [256]."""
    counts = tf.math.bincount(tf.reshape(values, [-1]), minlength=256, maxlength=256)
    return tf.cumsum(tf.cast(counts, tf.float64)) / tf.cast(tf.size(values), tf.float64)


# -- OpenCV's 8-bit colour spaces, hues 0..255 --------------------------------------------------


def rgb_to_hsv(image: tf.Tensor) -> tf.Tensor:
    """uint8 RGB [h, w, 3] -> int32 hue, saturation, value, as OpenCV's COLOR_RGB2HSV_FULL."""
    r, g, b = tf.unstack(tf.cast(image, tf.int32), axis=2)
    value = tf.maximum(tf.maximum(r, g), b)
    spread = value - tf.minimum(tf.minimum(r, g), b)
    sector = tf.where(value == r, g - b, tf.where(value == g, b - r + 2 * spread, r - g + 4 * spread))
    half = 1 << (_SHIFT - 1)
    hue = tf.bitwise.right_shift(sector * _table(256 / 6, spread) + half, _SHIFT)
    saturation = tf.bitwise.right_shift(spread * _table(255, value) + half, _SHIFT)
    return tf.stack([tf.minimum(tf.where(hue < 0, hue + 256, hue), 255), saturation, value], axis=2)


def _table(numerator: float, divisor: tf.Tensor) -> tf.Tensor:
    """round(numerator / divisor) in OpenCV's fixed point; 0 where the divisor is 0."""
    quotient = numerator * (1 << _SHIFT) / tf.cast(tf.maximum(divisor, 1), tf.float64)
    return tf.where(divisor > 0, tf.cast(tf.round(quotient), tf.int32), 0)


def hsv_to_rgb(image: tf.Tensor) -> tf.Tensor:
    """int32 hue, saturation, value -> uint8 RGB, as OpenCV's COLOR_HSV2RGB_FULL."""
    hue, saturation, value = _unit(image)
    sector = tf.floor(hue)
    rest = hue - sector
    low = value * (1 - saturation)
    falling, rising = value * (1 - saturation * rest), value * (1 - saturation * (1 - rest))
    return _from_sector(sector, value, low, falling, rising)


def rgb_to_hsl(image: tf.Tensor) -> tf.Tensor:
    """uint8 RGB [h, w, 3] -> int32 hue, lightness, saturation, as OpenCV's COLOR_RGB2HLS_FULL.

    Where a value lies between two whole numbers, in 3 of 100, rounding may go the other way.
    """
    r, g, b = tf.unstack(tf.cast(image, tf.float32) / 255, axis=2)
    high, low = tf.maximum(tf.maximum(r, g), b), tf.minimum(tf.minimum(r, g), b)
    spread, total = high - low, high + low
    colourful = spread > 1e-7
    divisor = tf.where(colourful, spread, 1.0)
    hue = tf.where(high == r, (g - b) / divisor, tf.where(high == g, 2 + (b - r) / divisor, 4 + (r - g) / divisor))
    hue = tf.where(hue < 0, hue + 6, hue) * (255 / 6)
    saturation = spread / tf.where(colourful, tf.where(total < 1, total, 2 - total), 1.0)
    values = tf.stack([hue, 255 * total / 2, 255 * saturation], axis=2)
    values = tf.where(colourful[:, :, tf.newaxis] | [False, True, False], values, 0.0)
    return tf.minimum(tf.cast(tf.round(values), tf.int32), 255)


def hsl_to_rgb(image: tf.Tensor) -> tf.Tensor:
    """int32 hue, lightness, saturation -> uint8 RGB, as OpenCV's COLOR_HLS2RGB_FULL."""
    hue, lightness, saturation = _unit(image)
    high = tf.where(lightness <= 0.5, lightness * (1 + saturation), lightness + saturation - lightness * saturation)
    low = 2 * lightness - high
    sector = tf.floor(hue)
    step = (high - low) * (hue - sector)
    return _from_sector(sector, high, low, high - step, low + step)


def _unit(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Hue in sixths of the circle, the others in [0, 1]: float32.

    OpenCV has 256 hues on the way to HSV and 255 on all others, so a round trip through HSV turns hues a little.
    """
    first, second, third = tf.unstack(tf.cast(image, tf.float32), axis=2)
    return first * (6 / 255), second / 255, third / 255


def _from_sector(sector: tf.Tensor, high: tf.Tensor, low: tf.Tensor, falling: tf.Tensor, rising: tf.Tensor) -> Any:
    """uint8 RGB of a hue's sixth of the circle and the four levels its channels can have."""
    orders = [
        (high, rising, low), (falling, high, low), (low, high, rising),
        (low, falling, high), (rising, low, high), (high, low, falling),
    ]  # fmt: skip
    which = tf.cast(sector, tf.int32) % 6
    channels = [tf.add_n([tf.where(which == i, order[c], 0.0) for i, order in enumerate(orders)]) for c in range(3)]
    return tf.cast(tf.clip_by_value(tf.round(255 * tf.stack(channels, axis=2)), 0, 255), tf.uint8)


_SPACES = {
    "rgb": (lambda image: tf.cast(image, tf.int32), lambda image: tf.cast(image, tf.uint8)),
    "hsv": (rgb_to_hsv, hsv_to_rgb),
    "hsl": (rgb_to_hsl, hsl_to_rgb),
}
