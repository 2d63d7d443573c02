"""Random augmentation of training images, and the resizing and cropping that every image goes through.

A spec (`--augment`) is a preset or a comma list of NAME:VALUE:PROBABILITY; docs/augmentation.md is its manual.
Every draw is a function of the seed that the caller passes, so nothing here has state.

What an image goes through, in this order (as in the originals, which chain PIL operations):

    resize        shorter side to load_size, antialiased as Pillow's bilinear filter
    colour        brightness, contrast, saturation (Pillow's ImageEnhance), hue (shift in HSV), grey
    warp          rotation, translation, perspective, flip and crop as one homography, sampled once (bilinear)

Where the originals resample once per operation and round to 8 bits in between, this resamples and rounds once:
sharper and cheaper (benchmarks/input_pipeline.py prints by how much).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

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
Plan = dict[str, tf.Tensor]
# One draw an image each, in this order: "hue?" decides whether, "hue" how much. Appending keeps all earlier draws.
_AMOUNTS = ("crop_y", "crop_x", "flip", "brightness", "contrast", "saturation", "hue")
_WARPS = ("rotate", "translate_x", "translate_y", "resized_crop", *(f"corner_{number}" for number in range(8)))
_GATES = ("brightness", "contrast", "saturation", "hue", "grey", "rotate", "translate", "perspective", "resized_crop")
_SLOTS = (*_AMOUNTS, *_WARPS, *(f"{name}?" for name in _GATES))


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


def load_shape(size: tf.Tensor, height: int, width: int, load_size: int) -> tf.Tensor:
    """Height and width [..., 2] of images of `size` [..., 2] whose shorter side becomes load_size; rounded down.

    A side that would not cover the crop [height, width] is made as long as the crop.
    """
    return tf.maximum(size * load_size // tf.reduce_min(size, axis=-1, keepdims=True), [height, width])


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
    shape = load_shape(tf.shape(image)[:2], height, width, load_size)
    return centre_crop(resize(image, shape, nearest=nearest), height, width)


# -- random images ----------------------------------------------------------------------------


def plan(
    augmentation: Augmentation,
    seeds: tf.Tensor,
    sizes: tf.Tensor,
    height: int,
    width: int,
    load_size: int,
    active: tf.Tensor | None = None,
) -> Plan:
    """Draws what happens to n images; cheaper for many at once.

    Args:
        augmentation: what may happen.
        seeds: int64 [n, 2], one seed an image.
        sizes: int32 [n, 2], height and width of the stored images, pixels.
        height, width: crop, pixels.
        load_size: shorter side before the crop, pixels.
        active: bool [n], False for images of which only the crop is random; None: all True.

    Returns:
        Tensors of n rows, one row of which `random_image` takes:
        "shape" int32 [n, 2]: what to resize to; "corner" int32 [n, 2]: top and left of the crop; "flip", "warp",
        "grey?": bool [n]; "matrix" float32 [n, 8]: the warp; "brightness", "contrast", "saturation", "hue": float32
        [n], and each with "?" added: bool [n].
    """
    count = tf.shape(seeds)[0]
    active = tf.fill([count], True) if active is None else active
    uniform = tf.map_fn(
        lambda seed: tf.random.stateless_uniform([len(_SLOTS)], seed, alg="philox"),
        seeds,
        fn_output_signature=tf.float32,
    )
    draws = dict(zip(_SLOTS, tf.unstack(uniform, axis=1)))
    happens = {
        "flip": active & (draws["flip"] < augmentation.flip),
        "grey": active & (draws["grey?"] < augmentation.grey),
    }
    for name in ("brightness", "contrast", "saturation", "hue", "rotate", "translate", "perspective", "resized_crop"):
        operation = getattr(augmentation, name)
        probability = operation.probability if operation else 0.0
        happens[name] = active & (draws[f"{name}?"] < probability)
    frames = load_shape(sizes, height, width, load_size)
    room = frames - [height, width]
    if augmentation.crop:
        drawn = tf.stack([draws["crop_y"], draws["crop_x"]], 1) * tf.cast(room + 1, tf.float32)
        corner = tf.minimum(tf.cast(drawn, tf.int32), room)  # the product may round up to room + 1
    else:
        corner = room // 2
    result = {"shape": frames, "corner": corner, "flip": happens["flip"], "grey?": happens["grey"]}
    for name in ("brightness", "contrast", "saturation", "hue"):
        amount = getattr(augmentation, name).amount
        low, high = (-amount, amount) if name == "hue" else (max(0.0, 1.0 - amount), 1.0 + amount)
        result[name] = low + (high - low) * draws[name]
        result[f"{name}?"] = happens[name]
    if augmentation.warps:
        result.update(_plan_warp(augmentation, draws, happens, sizes, frames, corner, height, width))
    return result


def random_image(
    image: tf.Tensor,
    augmentation: Augmentation,
    drawn: Plan,
    height: int,
    width: int,
    *,
    is_map: bool = False,
    always: bool = False,
) -> tf.Tensor:
    """An augmented image.

    Masks and label maps that belong to an image undergo the same geometry with the same plan.

    Args:
        image: uint8 [h, w, c] as stored.
        augmentation: as given to `plan`.
        drawn: one row of the plan.
        height, width: crop, pixels.
        is_map: nearest neighbours instead of interpolation, and no colour.
        always: no image was inactive in the plan, so what has probability 1 happens.

    Returns:
        uint8 [height, width, c]; 0 where a warp shows what lies outside of the image.
    """
    channels = image.shape[-1]
    pixels = resize(image, drawn["shape"], nearest=is_map)
    if augmentation.colours and not is_map:
        pixels = _colour(tf.cast(pixels, tf.float32), augmentation, drawn, always)

    def cropped() -> tf.Tensor:
        window = tf.slice(pixels, tf.concat([drawn["corner"], [0]], 0), [height, width, -1])
        if augmentation.flip:
            window = tf.cond(drawn["flip"], lambda: tf.reverse(window, [1]), lambda: window)
        return _finished(window, channels)

    def warped() -> tf.Tensor:
        source = pixels
        if not is_map:
            source = tf.cast(source, tf.float32)
        if augmentation.resized_crop:
            # Magnifying samples up to half a pixel beyond the border, where the image's edge and not black belongs.
            source = tf.pad(source, [[1, 1], [1, 1], [0, 0]], "SYMMETRIC")
        return _finished(warp(source, drawn["matrix"], height, width, nearest=is_map), channels)

    if not augmentation.warps:
        return cropped()
    return tf.cond(drawn["warp"], warped, cropped)


def _finished(image: tf.Tensor, channels: int) -> tf.Tensor:
    """As uint8 of the stored number of channels: an RGB image that became grey has one until here."""
    if image.dtype != tf.uint8:
        image = to_uint8(image)
    if image.shape[-1] != channels:
        image = tf.broadcast_to(image, tf.concat([tf.shape(image)[:2], [channels]], 0))
    return image


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """float32 0..255 rounded to uint8."""
    return tf.cast(tf.clip_by_value(image, 0.0, 255.0) + 0.5, tf.uint8)


# -- colour -----------------------------------------------------------------------------------


def _colour(image: tf.Tensor, augmentation: Augmentation, drawn: Plan, always: bool) -> tf.Tensor:
    """float32 0..255 [h, w, c], c = 1 or 3; the result has one channel if the image has, or becomes, grey."""
    operations = [("brightness", adjust_brightness), ("contrast", adjust_contrast)]
    rgb = image.shape[-1] == 3
    if rgb:  # what these do to a grey image is nothing
        operations += [("saturation", adjust_saturation), ("hue", adjust_hue)]
    for name, operation in operations:
        jitter = getattr(augmentation, name)
        if jitter:
            change = functools.partial(operation, image, drawn[name])
            if always and jitter.probability >= 1:
                image = change()
            else:
                image = tf.cond(drawn[f"{name}?"], change, functools.partial(tf.identity, image))
    if augmentation.grey and rgb:
        image = tf.cond(drawn["grey?"], functools.partial(grey, image), functools.partial(tf.identity, image))
    return image


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
# the image that is shown there, so matrices multiply in the order opposite to that of the operations. All of these
# take n values and give float64 [n, 3, 3].


def warp(image: tf.Tensor, matrix: tf.Tensor, height: int, width: int, *, nearest: bool = False) -> tf.Tensor:
    """`image` [h, w, c] seen through a homography [8] (the ninth entry is 1), 0 outside: [height, width, c]."""
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=matrix[tf.newaxis],
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="NEAREST" if nearest else "BILINEAR",
        fill_mode="CONSTANT",
    )[0]


def flat(matrix: tf.Tensor) -> tf.Tensor:
    """Homographies [n, 3, 3] as `warp` takes them: float32 [n, 8]."""
    return tf.cast(tf.reshape(matrix / matrix[:, 2:, 2:], [-1, 9])[:, :8], tf.float32)


def rotation(degrees: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Counter-clockwise rotations about the middle of images of these heights and widths."""
    angle = tf.cast(degrees, tf.float64) * (math.pi / 180.0)
    x, y = (tf.cast(width, tf.float64) - 1.0) / 2.0, (tf.cast(height, tf.float64) - 1.0) / 2.0
    cos, sin = tf.cos(angle), tf.sin(angle)
    return _matrices([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y], [0.0, 0.0, 1.0]])


def translation(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Images moved x pixels to the right and y down."""
    return _matrices([[1.0, 0.0, -tf.cast(x, tf.float64)], [0.0, 1.0, -tf.cast(y, tf.float64)], [0.0, 0.0, 1.0]])


def perspective(corners: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Images whose corners moved to `corners` [n, 4, 2] (x, y of top left, top right, bottom right, bottom left)."""
    x, y = tf.unstack(tf.cast(corners, tf.float64), axis=2)
    none, ones = tf.zeros_like(x), tf.ones_like(x)
    to_x = tf.cast(width - 1, tf.float64)[:, tf.newaxis] * [0.0, 1.0, 1.0, 0.0]
    to_y = tf.cast(height - 1, tf.float64)[:, tf.newaxis] * [0.0, 0.0, 1.0, 1.0]
    # h0 x + h1 y + h2 - to_x (h6 x + h7 y) = to_x, and the same for y: eight equations.
    rows_x = tf.stack([x, y, ones, none, none, none, -to_x * x, -to_x * y], 2)
    rows_y = tf.stack([none, none, none, x, y, ones, -to_y * x, -to_y * y], 2)
    right = tf.concat([to_x, to_y], 1)[:, :, tf.newaxis]
    entries = tf.linalg.solve(tf.concat([rows_x, rows_y], 1), right)[:, :, 0]
    return tf.reshape(tf.pad(entries, [[0, 0], [0, 1]], constant_values=1.0), [-1, 3, 3])


def mirror(width: tf.Tensor) -> tf.Tensor:
    """Left and right of images of these widths exchanged."""
    return _matrices([[-1.0, 0.0, tf.cast(width - 1, tf.float64)], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def window(corner: tf.Tensor, pixel: tf.Tensor) -> tf.Tensor:
    """Windows that begin at `corner` [n, 2] (top, left) and whose pixels are `pixel` [n, 2] times as high and wide."""
    y, x = tf.unstack(tf.cast(corner, tf.float64), axis=1)
    tall, wide = tf.unstack(tf.cast(pixel, tf.float64), axis=1)
    return _matrices([[wide, 0.0, x + wide / 2 - 0.5], [0.0, tall, y + tall / 2 - 0.5], [0.0, 0.0, 1.0]])


def _matrices(rows: Sequence[Sequence[tf.Tensor | float]]) -> tf.Tensor:
    entries = [tf.cast(value, tf.float64) for row in rows for value in row]
    count = tf.reduce_max(tf.stack([tf.size(entry) for entry in entries]))
    return tf.reshape(tf.stack([tf.broadcast_to(entry, [count]) for entry in entries], 1), [-1, 3, 3])


def _plan_warp(
    augmentation: Augmentation,
    draws: Plan,
    happens: Plan,
    sizes: tf.Tensor,
    frames: tf.Tensor,
    corner: tf.Tensor,
    height: int,
    width: int,
) -> Plan:
    """The homography from the result to the image it is sampled from, and the shape [n, 2] of that image."""
    rows, columns = frames[:, 0], frames[:, 1]
    place, pixel = tf.cast(corner, tf.float64), tf.ones_like(frames, tf.float64)
    if augmentation.resized_crop:
        zoomed_place, zoomed_pixel = _random_window(augmentation.resized_crop, draws, frames, height, width)
        zoomed = happens["resized_crop"][:, tf.newaxis]
        place, pixel = tf.where(zoomed, zoomed_place, place), tf.where(zoomed, zoomed_pixel, pixel)
    parts = [window(place, pixel)]  # the last operation comes first
    if augmentation.flip:
        parts.append(_where(happens["flip"], mirror(columns)))
    if augmentation.perspective:
        parts.append(perspective(_random_corners(augmentation.perspective, draws, happens, frames), rows, columns))
    if augmentation.translate:
        reach = tf.where(happens["translate"], augmentation.translate.amount, 0.0)
        x = tf.round((2 * draws["translate_x"] - 1) * reach * tf.cast(columns, tf.float32))
        y = tf.round((2 * draws["translate_y"] - 1) * reach * tf.cast(rows, tf.float32))
        parts.append(translation(x, y))
    if augmentation.rotate:
        reach = tf.where(happens["rotate"], augmentation.rotate.amount, 0.0)
        parts.append(rotation((2 * draws["rotate"] - 1) * reach, rows, columns))
    shape = frames
    if augmentation.resized_crop:
        # Shrinking must be antialiased, so it is done beforehand, as far as the window asks for; a window to be
        # magnified is sampled from the stored image. Beyond the border lies one more pixel, see `random_image`.
        asked = tf.cast(tf.round(tf.cast(frames, tf.float64) / pixel), tf.int32)
        shape = tf.where(zoomed, tf.minimum(tf.maximum(asked, 1), sizes), frames)
        parts.append(window(tf.zeros_like(pixel), tf.cast(shape, tf.float64) / tf.cast(frames, tf.float64)))
        parts.append(translation(-1.0, -1.0))
    matrix = parts[0]
    for part in parts[1:]:
        matrix = tf.linalg.matmul(part, matrix)
    changed = happens["rotate"] | happens["translate"] | happens["perspective"] | happens["resized_crop"]
    return {"matrix": flat(matrix), "warp": changed, "shape": shape}


def _where(condition: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    return tf.where(condition[:, tf.newaxis, tf.newaxis], matrix, tf.eye(3, dtype=tf.float64))


def _random_window(
    crop: ResizedCrop, draws: Plan, frames: tf.Tensor, height: int, width: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Top and left, and the height and width of a pixel, of windows in the frames: float64 [n, 2] each."""
    room = tf.cast(frames, tf.float64)
    side = tf.constant([height, width], tf.float64)
    area = crop.minimum + (crop.maximum - crop.minimum) * tf.cast(draws["resized_crop"], tf.float64)
    pixel = tf.sqrt(area)[:, tf.newaxis] * tf.reduce_min(room / side, axis=1, keepdims=True)
    place = tf.cast(tf.stack([draws["crop_y"], draws["crop_x"]], 1), tf.float64) * (room - side * pixel)
    return place, tf.broadcast_to(pixel, tf.shape(room))


def _random_corners(jitter: Jitter, draws: Plan, happens: Plan, frames: tf.Tensor) -> tf.Tensor:
    """The frames' corners moved inwards by up to amount * half the side: float64 [n, 4, 2]."""
    sides = tf.reverse(tf.cast(frames, tf.float64), [1])[:, tf.newaxis]
    reach = tf.where(happens["perspective"], jitter.amount / 2, 0.0)
    drawn = tf.stack([draws[f"corner_{number}"] for number in range(8)], 1) * reach[:, tf.newaxis]
    inwards = tf.reshape(tf.cast(drawn, tf.float64), [-1, 4, 2]) * sides
    far = tf.constant([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], tf.float64)
    return far * (sides - 1.0) + (1.0 - 2.0 * far) * inwards
