"""Random augmentation of training images, and the resizing and cropping that every image goes through.

A spec (`--augment`) is a preset or a comma list of NAME:VALUE:PROBABILITY; docs/augmentation.md is its manual.
Every draw is a function of the seed that the caller passes, so nothing here has state.

What an image goes through, in this order (as in the originals, which chain PIL operations):

    resize        shorter side to load_size, antialiased as Pillow's bilinear filter
    colour        brightness, contrast, saturation (Pillow's ImageEnhance), hue (shift in HSV), grey
    warp          rotation, translation, perspective, flip and crop as one homography, sampled once (bilinear)

Where the originals resample once per operation and round to 8 bits in between, this resamples and rounds once:
sharper, and more than four times faster (benchmarks/input_pipeline.py).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from tfaclgan.errors import UserError

PRESETS = {
    "none": "",
    # The official code at HEAD, for all tasks; MUNIT's and, at load size 286, U-GAT-IT's PyTorch code too.
    "acl_gan": "flip,crop",
    "munit": "flip,crop",
    "ugatit": "flip,crop",
    # The official code until 2020-11-17, for selfie2anime.
    "acl_gan_selfie2anime": "hue:0.15,grey:0.25,rotate:35,perspective:0.35:0.5,flip,crop",
    # Council-GAN's paper, which ACL-GAN's refers to; not what either code does.
    "council": "hue:0.15,grey:0.25,rotate:35,translate:0.1,perspective:0.35:0.5,flip,crop",
    # Council-GAN's released configurations: glasses and anime, and gender.
    "council_released": "grey:0.05,flip,crop",
    "council_released_gender": "brightness:0.1,contrast:0.1,saturation:0.1,hue:0.1,grey:0.05,flip,crop",
}

LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # ITU-R 601-2 in 16-bit fixed point, Pillow's "L"
_GATED = ("brightness", "contrast", "saturation", "hue", "rotate", "resized_crop")
_UNGATED = ("crop_y", "crop_x", "flip", "translate_x", "translate_y")
# One draw each, in this order: "hue?" decides whether, "hue" how much. Appending keeps all earlier draws.
_SLOTS = (
    *_UNGATED,
    *_GATED,
    *(f"{name}?" for name in (*_GATED, "grey", "translate", "perspective")),
    *(f"corner_{number}" for number in range(8)),
)


@dataclasses.dataclass(frozen=True)
class Jitter:
    """A random amount in -amount..amount, applied with a probability."""

    amount: float = 0.0
    probability: float = 1.0

    def __bool__(self) -> bool:
        return self.amount > 0 and self.probability > 0


@dataclasses.dataclass(frozen=True)
class ResizedCrop:
    """A random window of the image, made as large as the crop.

    minimum, maximum: its area as a share of the largest window of the crop's shape, drawn uniformly.
    """

    minimum: float = 1.0
    maximum: float = 1.0
    probability: float = 0.0

    def __bool__(self) -> bool:
        return self.probability > 0


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image; the default is nothing.

    crop: the crop's place is random; otherwise it is the centre.
    flip, grey: probabilities.
    brightness, contrast, saturation: factor 1 - amount..1 + amount, not below 0.
    hue: turns of the colour circle.
    rotate: degrees.
    translate: shares of width and height.
    perspective: how far a corner may move inwards, as a share of half the side.
    """

    crop: bool = False
    flip: float = 0.0
    brightness: Jitter = Jitter()
    contrast: Jitter = Jitter()
    saturation: Jitter = Jitter()
    hue: Jitter = Jitter()
    grey: float = 0.0
    rotate: Jitter = Jitter()
    translate: Jitter = Jitter()
    perspective: Jitter = Jitter()
    resized_crop: ResizedCrop = ResizedCrop()

    @property
    def colours(self) -> tuple[str, ...]:
        """Names of the colour operations that can happen."""
        names = ("brightness", "contrast", "saturation", "hue", "grey")
        return tuple(name for name in names if getattr(self, name))

    @property
    def warps(self) -> bool:
        """Whether images must be resampled."""
        return bool(self.rotate or self.translate or self.perspective or self.resized_crop)


# -- specs ------------------------------------------------------------------------------------

_MOST = {
    "brightness": 10.0,
    "contrast": 10.0,
    "saturation": 10.0,
    "hue": 0.5,
    "rotate": 180.0,
    "translate": 1.0,
    "perspective": 0.99,
}
_DEFAULT_PROBABILITY = {"perspective": 0.5}  # torchvision's, which both papers leave as it is
_FORMS = {
    "crop": "crop",
    "flip": "flip:PROBABILITY",
    "grey": "grey:PROBABILITY",
    "resized_crop": "resized_crop:MIN_AREA:MAX_AREA:PROBABILITY",
    **{name: f"{name}:AMOUNT:PROBABILITY" for name in _MOST},
}


def parse(spec: str) -> Augmentation:
    """The augmentation that a preset, a comma list or a mix of both describes; a later item replaces an earlier one.

    Raises:
        UserError: an unknown name, a missing, superfluous or malformed number, a value out of range.
    """
    items: list[str] = []
    for item in spec.split(","):
        items += PRESETS.get(item.strip(), item).split(",")
    values = {}
    for item in (item.strip() for item in items):
        if item:
            name, *numbers = item.split(":")
            if name not in _FORMS:
                raise UserError(
                    f"--augment={spec}: {name!r} is neither a preset ({', '.join(PRESETS)}) nor an operation "
                    f"({', '.join(_FORMS)})"
                )
            values[name] = _operation(name, numbers, f"--augment={spec}: {item!r}")
    return Augmentation(**values)


def _operation(name: str, texts: Sequence[str], what: str) -> bool | float | Jitter | ResizedCrop:
    form = f"write {_FORMS[name]}"
    try:
        numbers = [float(text) for text in texts]
    except ValueError as error:
        raise UserError(f"{what}: {error}; {form}") from error

    def probability(position: int, default: float) -> float:
        value = numbers[position] if len(numbers) > position else default
        if not 0 <= value <= 1:
            raise UserError(f"{what}: probability {value:g} is not between 0 and 1; {form}")
        return value

    most = {"crop": 0, "flip": 1, "grey": 1, "resized_crop": 3}.get(name, 2)
    least = {"crop": 0, "flip": 0}.get(name, 1)
    if not least <= len(numbers) <= most:
        raise UserError(f"{what}: {len(numbers)} numbers, {least} to {most} are possible; {form}")
    if name == "crop":
        return True
    if name in ("flip", "grey"):
        return probability(0, 0.5)
    if name == "resized_crop":
        minimum, maximum = numbers[0], numbers[1] if len(numbers) > 1 else 1.0
        if not 0 < minimum <= maximum <= 1:
            raise UserError(f"{what}: areas {minimum:g} and {maximum:g} must rise and lie above 0, up to 1; {form}")
        return ResizedCrop(minimum, maximum, probability(2, 1.0))
    if not 0 <= numbers[0] <= _MOST[name]:
        raise UserError(f"{what}: {numbers[0]:g} is not between 0 and {_MOST[name]:g}; {form}")
    return Jitter(numbers[0], probability(1, _DEFAULT_PROBABILITY.get(name, 1.0)))


def check_channels(augmentation: Augmentation, channels: int, spec: str) -> None:
    """Refuses colour operations where colour has no known meaning.

    Raises:
        UserError: colour operations on images that are neither grey nor RGB.
    """
    if augmentation.colours and channels not in (1, 3):
        raise UserError(
            f"--augment={spec}: {', '.join(augmentation.colours)} cannot be applied to images of {channels} channels; "
            "leave colour operations out, for example --augment=flip,crop"
        )


# -- sizes ------------------------------------------------------------------------------------


def load_shape(image: tf.Tensor, height: int, width: int, load_size: int) -> tf.Tensor:
    """Height and width [2] of `image` [h, w, c] with its shorter side at load_size, the longer one rounded down.

    A side that would not cover the crop [height, width] is made as long as the crop.
    """
    size = tf.shape(image)[:2]
    return tf.maximum(size * load_size // tf.reduce_min(size), [height, width])


def resize(image: tf.Tensor, shape: tf.Tensor, *, nearest: bool = False) -> tf.Tensor:
    """uint8 [h, w, c] at height and width `shape` [2], as Pillow does it: bilinear and antialiased, or nearest.

    Pillow rounds to 8 bits between its horizontal and its vertical pass, this only at the end.
    """

    def resized() -> tf.Tensor:
        if nearest:
            return tf.image.resize(image, shape, "nearest")
        return to_uint8(tf.image.resize(image, shape, "bilinear", antialias=True))

    return tf.cond(tf.reduce_all(tf.equal(tf.shape(image)[:2], shape)), lambda: image, resized)


def centre_crop(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """The middle [height, width, c] of `image` [h, w, c]; an odd rest is larger below and at the right."""
    size = tf.shape(image)
    return tf.slice(image, tf.stack([(size[0] - height) // 2, (size[1] - width) // 2, 0]), [height, width, -1])


def evaluation_image(image: tf.Tensor, height: int, width: int, load_size: int, *, nearest: bool = False) -> tf.Tensor:
    """An image as evaluation sees it: resized and cropped from the centre, uint8 [height, width, c]."""
    return centre_crop(resize(image, load_shape(image, height, width, load_size), nearest=nearest), height, width)


# -- random images ----------------------------------------------------------------------------


def random_image(
    image: tf.Tensor,
    augmentation: Augmentation,
    height: int,
    width: int,
    load_size: int,
    seed: tf.Tensor,
    *,
    is_map: bool = False,
) -> tf.Tensor:
    """An augmented image, a function of its arguments alone.

    Masks and label maps that belong to an image undergo the same geometry when they come with its size and seed.

    Args:
        image: uint8 [h, w, c] as stored.
        augmentation: what may happen.
        height, width: crop, pixels.
        load_size: shorter side before the crop, pixels.
        seed: int64 [2].
        is_map: nearest neighbours instead of interpolation, and no colour.

    Returns:
        uint8 [height, width, c]; 0 where a warp shows what lies outside of the image.
    """
    draws = dict(zip(_SLOTS, tf.unstack(tf.random.stateless_uniform([len(_SLOTS)], seed, alg="philox"))))
    channels = image.shape[-1]
    frame = load_shape(image, height, width, load_size)
    box = _crop_box(augmentation, frame, height, width, draws)
    pixels = resize(image, _source_shape(image, augmentation, frame, box), nearest=is_map)
    source = tf.shape(pixels)[:2]
    if not is_map and (augmentation.colours or augmentation.warps):
        pixels = _colour(tf.cast(pixels, tf.float32), augmentation, draws)
    if not augmentation.warps:
        corner = tf.cast(box[:2], tf.int32)
        pixels = tf.slice(pixels, tf.concat([corner, [0]], 0), [height, width, -1])
        pixels = _sometimes(augmentation.flip, draws["flip"], lambda: tf.reverse(pixels, [1]), lambda: pixels)
    else:
        matrix = _homography(augmentation, frame, box, source, draws)
        if augmentation.resized_crop and not is_map:
            # Magnifying samples up to half a pixel beyond the border, where the image's edge and not black belongs.
            pixels = tf.pad(pixels, [[1, 1], [1, 1], [0, 0]], "SYMMETRIC")
            matrix = tf.linalg.matmul(_shift(1.0, 1.0), matrix)
        pixels = warp(pixels, matrix, height, width, nearest=is_map)
    if pixels.dtype != tf.uint8:
        pixels = to_uint8(pixels)
    return _with_channels(pixels, channels)


def _with_channels(image: tf.Tensor, channels: int) -> tf.Tensor:
    """An RGB image that has become grey has one channel until here."""
    if image.shape[-1] == channels:
        return image
    return tf.broadcast_to(image, tf.concat([tf.shape(image)[:2], [channels]], 0))


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """float32 0..255 rounded to uint8."""
    return tf.cast(tf.clip_by_value(image, 0.0, 255.0) + 0.5, tf.uint8)


def _sometimes(
    probability: float, draw: tf.Tensor, change: Callable[[], tf.Tensor], keep: Callable[[], tf.Tensor]
) -> tf.Tensor:
    if probability <= 0:
        return keep()
    return change() if probability >= 1 else tf.cond(draw < probability, change, keep)


# -- colour -----------------------------------------------------------------------------------


def _colour(image: tf.Tensor, augmentation: Augmentation, draws: dict[str, tf.Tensor]) -> tf.Tensor:
    """float32 0..255 [h, w, c], c = 1 or 3; the result has one channel if the image has, or becomes, grey."""
    channels = image.shape[-1]
    operations = [("brightness", adjust_brightness), ("contrast", adjust_contrast)]
    if channels == 3:  # what these do to a grey image is nothing
        operations += [("saturation", adjust_saturation), ("hue", adjust_hue)]
    for name, operation in operations:
        jitter = getattr(augmentation, name)
        if jitter:
            low, high = (-jitter.amount, jitter.amount) if name == "hue" else _factors(jitter)
            change = functools.partial(operation, image, low + (high - low) * draws[name])
            keep = functools.partial(tf.identity, image)
            image = _sometimes(jitter.probability, draws[f"{name}?"], change, keep)
    if augmentation.grey and channels == 3:
        luma, keep = functools.partial(grey, image), functools.partial(tf.identity, image)
        image = _sometimes(augmentation.grey, draws["grey?"], luma, keep)
    return image


def _factors(jitter: Jitter) -> tuple[float, float]:
    return max(0.0, 1.0 - jitter.amount), 1.0 + jitter.amount


def adjust_brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """`image` (float32 0..255) times `factor`, as Pillow's ImageEnhance.Brightness."""
    return tf.clip_by_value(image * factor, 0.0, 255.0)


def adjust_contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Distance from the mean grey times `factor`, as Pillow's ImageEnhance.Contrast; [h, w, 1 or 3], 0..255."""
    mean = tf.floor(tf.reduce_mean(grey(image)) + 0.5)
    return tf.clip_by_value(mean + (image - mean) * factor, 0.0, 255.0)


def adjust_saturation(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Distance from each pixel's grey times `factor`, as Pillow's ImageEnhance.Color; [h, w, 3], 0..255."""
    luma = tf.constant([[weight] * 3 for weight in LUMA], tf.float32)
    return tf.clip_by_value(_per_pixel(image, luma + (tf.eye(3) - luma) * factor), 0.0, 255.0)


def adjust_hue(image: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """Hue in HSV shifted by `turns` of the colour circle; float32 [h, w, 3], 0..255.

    torchvision does this on Pillow's 8-bit HSV, whose 256 hues are 1.4 degrees apart; this does not quantise.
    """
    return tf.raw_ops.AdjustHue(images=image, delta=turns)


def grey(image: tf.Tensor) -> tf.Tensor:
    """Luma [h, w, 1] of [h, w, 1 or 3], 0..255, in whole steps as Pillow's mode L."""
    if image.shape[-1] == 1:
        return image
    return tf.floor(_per_pixel(image, tf.constant([[weight] for weight in LUMA], tf.float32)) + 0.5)


def _per_pixel(image: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    shape = tf.shape(image)
    flat = tf.linalg.matmul(tf.reshape(image, [-1, matrix.shape[0]]), matrix)
    return tf.reshape(flat, tf.stack([shape[0], shape[1], matrix.shape[1]]))


# -- geometry ---------------------------------------------------------------------------------
#
# Points are (x, y, 1), pixel centres have whole numbers. A matrix maps a point of the result to the point of
# the image that is shown there, so matrices multiply in the order opposite to that of the operations.


def warp(image: tf.Tensor, matrix: tf.Tensor, height: int, width: int, *, nearest: bool = False) -> tf.Tensor:
    """`image` [h, w, c] seen through a homography [3, 3], 0 outside; same type, [height, width, c]."""
    flat = tf.reshape(matrix / matrix[2, 2], [1, 9])[:, :8]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=tf.cast(flat, tf.float32),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="NEAREST" if nearest else "BILINEAR",
        fill_mode="CONSTANT",
    )[0]


def rotation(degrees: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Counter-clockwise rotation about the middle of an image: float64 [3, 3]."""
    angle = tf.cast(degrees, tf.float64) * (math.pi / 180.0)
    x, y = _middle(width), _middle(height)
    cos, sin = tf.cos(angle), tf.sin(angle)
    return _matrix([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y], [0.0, 0.0, 1.0]])


def translation(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The image moved x pixels to the right and y down: float64 [3, 3]."""
    return _shift(-tf.cast(x, tf.float64), -tf.cast(y, tf.float64))


def perspective(corners: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """The image's corners moved to `corners` [4, 2] (x, y of top left, top right, bottom right, bottom left).

    Returns:
        float64 [3, 3].
    """
    corners = tf.cast(corners, tf.float64)
    right, bottom = tf.cast(width - 1, tf.float64), tf.cast(height - 1, tf.float64)
    zero = tf.zeros([], tf.float64)
    to_x, to_y = tf.stack([zero, right, right, zero]), tf.stack([zero, zero, bottom, bottom])
    x, y = corners[:, 0], corners[:, 1]
    none, ones = tf.zeros_like(x), tf.ones_like(x)
    # h0 x + h1 y + h2 - to_x (h6 x + h7 y) = to_x, and the same for y: eight equations.
    rows_x = tf.stack([x, y, ones, none, none, none, -to_x * x, -to_x * y], 1)
    rows_y = tf.stack([none, none, none, x, y, ones, -to_y * x, -to_y * y], 1)
    solution = tf.linalg.solve(tf.concat([rows_x, rows_y], 0), tf.concat([to_x, to_y], 0)[:, tf.newaxis])
    return tf.reshape(tf.concat([solution[:, 0], [1.0]], 0), [3, 3])


def mirror(width: tf.Tensor) -> tf.Tensor:
    """Left and right exchanged: float64 [3, 3]."""
    return _matrix([[-1.0, 0.0, tf.cast(width - 1, tf.float64)], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def _window(top: tf.Tensor, left: tf.Tensor, scale_y: tf.Tensor, scale_x: tf.Tensor) -> tf.Tensor:
    """A window whose pixels are scale times as large as the image's, edges aligned: float64 [3, 3]."""
    return _matrix([[scale_x, 0.0, left + scale_x / 2 - 0.5], [0.0, scale_y, top + scale_y / 2 - 0.5], [0.0, 0.0, 1.0]])


def _shift(x: tf.Tensor | float, y: tf.Tensor | float) -> tf.Tensor:
    return _matrix([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def _matrix(rows: Sequence[Sequence[tf.Tensor | float]]) -> tf.Tensor:
    return tf.reshape(tf.stack([tf.cast(value, tf.float64) for row in rows for value in row]), [3, 3])


def _middle(side: tf.Tensor) -> tf.Tensor:
    return (tf.cast(side, tf.float64) - 1.0) / 2.0


def _crop_corner(
    augmentation: Augmentation, frame: tf.Tensor, height: int, width: int, draws: dict[str, tf.Tensor]
) -> tf.Tensor:
    """Top and left int32 [2] of the crop in an image of height and width `frame` [2]."""
    room = frame - [height, width]
    if not augmentation.crop:
        return room // 2
    drawn = tf.stack([draws["crop_y"], draws["crop_x"]]) * tf.cast(room + 1, tf.float32)
    return tf.minimum(tf.cast(drawn, tf.int32), room)  # the product may round up to room + 1


def _crop_box(
    augmentation: Augmentation, frame: tf.Tensor, height: int, width: int, draws: dict[str, tf.Tensor]
) -> tf.Tensor:
    """Top, left, and size of a pixel of the crop in pixels of the frame: float64 [3]."""
    corner = tf.cast(_crop_corner(augmentation, frame, height, width, draws), tf.float64)
    plain = tf.concat([corner, [1.0]], 0)
    window = augmentation.resized_crop
    if not window:
        return plain
    frame = tf.cast(frame, tf.float64)
    crop = tf.constant([height, width], tf.float64)
    area = window.minimum + (window.maximum - window.minimum) * tf.cast(draws["resized_crop"], tf.float64)
    scale = tf.sqrt(area) * tf.reduce_min(frame / crop)
    place = tf.cast(tf.stack([draws["crop_y"], draws["crop_x"]]), tf.float64) * (frame - crop * scale)
    zoomed = tf.concat([place, [scale]], 0)
    return tf.where(draws["resized_crop?"] < window.probability, zoomed, plain)


def _source_shape(image: tf.Tensor, augmentation: Augmentation, frame: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Height and width at which the warp samples the image.

    The load size, except for resized crops: those shrink the stored image (antialiased) as far as the window asks
    for, or leave it as it is when the window is to be magnified, which the warp does as well.
    """
    if not augmentation.resized_crop:
        return frame
    shrunk = tf.cast(tf.round(tf.cast(frame, tf.float64) / box[2]), tf.int32)
    return tf.minimum(tf.maximum(shrunk, [1, 1]), tf.shape(image)[:2])


def _homography(
    augmentation: Augmentation,
    frame: tf.Tensor,
    box: tf.Tensor,
    source: tf.Tensor,
    draws: dict[str, tf.Tensor],
) -> tf.Tensor:
    """From the result to the image of shape `source`, which shows the whole frame: float64 [3, 3]."""
    rows, columns = frame[0], frame[1]
    parts = [_window(box[0], box[1], box[2], box[2])]  # the last operation comes first
    if augmentation.flip:
        flipped = draws["flip"] < augmentation.flip
        parts.append(tf.where(flipped, mirror(columns), tf.eye(3, dtype=tf.float64)))
    if augmentation.perspective:
        parts.append(perspective(_random_corners(augmentation.perspective, frame, draws), rows, columns))
    if augmentation.translate:
        amount = _gated(augmentation.translate, draws["translate?"])
        x = tf.round((2 * draws["translate_x"] - 1) * amount * tf.cast(columns, tf.float32))
        y = tf.round((2 * draws["translate_y"] - 1) * amount * tf.cast(rows, tf.float32))
        parts.append(translation(x, y))
    if augmentation.rotate:
        degrees = (2 * draws["rotate"] - 1) * _gated(augmentation.rotate, draws["rotate?"])
        parts.append(rotation(degrees, rows, columns))
    if augmentation.resized_crop:
        scale = tf.cast(source, tf.float64) / tf.cast(frame, tf.float64)
        zero = tf.zeros([], tf.float64)
        parts.append(_window(zero, zero, scale[0], scale[1]))
    matrix = parts[0]
    for part in parts[1:]:
        matrix = tf.linalg.matmul(part, matrix)
    return matrix


def _gated(jitter: Jitter, draw: tf.Tensor) -> tf.Tensor:
    return tf.where(draw < jitter.probability, jitter.amount, 0.0)


def _random_corners(jitter: Jitter, frame: tf.Tensor, draws: dict[str, tf.Tensor]) -> tf.Tensor:
    """Corners moved inwards by up to amount * half the side: float64 [4, 2]."""
    half = tf.cast(frame, tf.float64) * 0.5 * tf.cast(_gated(jitter, draws["perspective?"]), tf.float64)
    drawn = tf.cast(tf.stack([draws[f"corner_{i}"] for i in range(8)]), tf.float64)
    inwards = tf.reshape(drawn, [4, 2]) * tf.reverse(half, [0])
    last = tf.cast(tf.reverse(frame, [0]) - 1, tf.float64)
    far = tf.constant([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], tf.float64)
    return far * last + (1.0 - 2.0 * far) * inwards
