"""Augmentation inside the compiled training step: `--augment_on=device`.

The host reads, decodes and resizes each picture to one size for its domain (its frame), draws with `augment.plan` what
happens to it, and hands over both: the frame as uint8, the draws as one float32 row. The device does the rest:

    colour        brightness, contrast, saturation and grey as linear maps of RGB, hue as a shift in HSV
    warp          one homography, sampled bilinearly by one gather that fetches all four neighbours; without a warp,
                  a crop by gathering rows and columns

Everything has static shapes. There are no matrix products: TPUs would round their operands to bfloat16. Pictures equal
those of `augment.random_image` but for the order of float32 sums before the rounding to 8 bits.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfaclgan.data import augment
from tfaclgan.data.records import Split
from tfaclgan.errors import UserError

MAPS = ("mask", "label_map")  # nearest neighbours, no colour
_PLAN = "plan_"  # a batch's draws for domain "a" are "plan_a"
# Draws that change nothing, for pictures to which a colour operation does not happen.
_NEUTRAL = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}


@dataclasses.dataclass(frozen=True)
class DeviceAugmentation:
    """What the device does to batches.

    augmentation: what may happen.
    height, width, channels: of a training picture.
    frames: height and width of the pictures that the host sends, by the domain's name in a batch ("a", "blur_a").
    """

    augmentation: augment.Augmentation
    height: int
    width: int
    channels: int
    frames: dict[str, tuple[int, int]]

    def pack(self, drawn: augment.Plan) -> tf.Tensor:
        """A plan's rows as the device takes them: float32 [n, columns]; runs on the host."""
        columns = [self._homography(drawn) if self.augmentation.warps else self._corner_and_flip(drawn)]
        for name in self.augmentation.colours:
            if name == "grey":
                values = tf.cast(drawn["grey?"], tf.float32)
            else:
                values = tf.where(drawn[f"{name}?"], drawn[name], _NEUTRAL[name])
            columns.append(values[:, tf.newaxis])
        return tf.concat(columns, 1)

    @property
    def columns(self) -> int:
        """Width of a row of `pack`."""
        return (8 if self.augmentation.warps else 3) + len(self.augmentation.colours)

    def apply(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The training batch that the host would have made of `batch`; runs on the device.

        Args:
            batch: per domain of `frames` the frames uint8 [b, h, w, c], companions "mask_a" ... of the same size, and
                the draws "plan_a"; other entries stay as they are.

        Returns:
            uint8 [b, height, width, c] in place of frames; without the draws.
        """
        plans = {key.removeprefix(_PLAN): value for key, value in batch.items() if key.startswith(_PLAN)}
        result = {}
        for key, value in batch.items():
            if key.startswith(_PLAN):
                continue
            domain = key if key in plans else key.rpartition("_")[2]
            pictures = value.dtype == tf.uint8 and domain in plans
            result[key] = self._augmented(value, plans[domain], key.startswith(MAPS)) if pictures else value
        return result

    def example(self, rows: int) -> dict[str, tf.Tensor]:
        """A batch of zeros as the host sends it, without companions."""
        batch = {}
        for domain, frame in self.frames.items():
            batch[domain] = tf.zeros((rows, *frame, self.channels), tf.uint8)
            batch[plan_key(domain)] = tf.zeros((rows, self.columns), tf.float32)
        return batch

    def bytes_per_pair(self) -> int:
        """Bytes that the host sends for one picture of each domain, without companions."""
        return sum(height * width * self.channels + 4 * self.columns for height, width in self.frames.values())

    def _augmented(self, images: tf.Tensor, plan: tf.Tensor, is_map: bool) -> tf.Tensor:
        colours = self.augmentation.colours
        if colours and not is_map:
            draws = dict(zip(colours, tf.unstack(plan[:, -len(colours) :, tf.newaxis, tf.newaxis, tf.newaxis], axis=1)))
            images = colour(tf.cast(images, tf.float32), draws)
        if not self.augmentation.warps:
            images = crop(images, tf.cast(plan[:, :3], tf.int32), self.height, self.width)
        else:
            if self.augmentation.resized_crop:  # as in augment.random_image
                images = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
            images = warp(images, plan[:, :8], self.height, self.width, nearest=is_map)
        return images if images.dtype == tf.uint8 else augment.to_uint8(images)

    def _corner_and_flip(self, drawn: augment.Plan) -> tf.Tensor:
        return tf.concat([tf.cast(drawn["corner"], tf.float32), tf.cast(drawn["flip"], tf.float32)[:, tf.newaxis]], 1)

    def _homography(self, drawn: augment.Plan) -> tf.Tensor:
        """The plan's matrices, and the crop and flip as matrices of whole numbers where nothing else happens."""
        corner = tf.cast(drawn["corner"], tf.float32) + (1.0 if self.augmentation.resized_crop else 0.0)  # the border
        none, one = tf.zeros_like(corner[:, 0]), tf.ones_like(corner[:, 0])
        step = tf.where(drawn["flip"], -1.0, 1.0)
        first = corner[:, 1] + tf.where(drawn["flip"], self.width - 1.0, 0.0)
        cropped = tf.stack([step, none, first, none, one, corner[:, 0], none, none], 1)
        return tf.where(drawn["warp"][:, tf.newaxis], drawn["matrix"], cropped)


def make(
    spec: str, height: int, width: int, load_size: int, channels: int, splits: dict[str, Split | None]
) -> DeviceAugmentation:
    """The device's part of an augmentation.

    Args:
        spec: `--augment`.
        height, width: crop, pixels.
        load_size: shorter side before the crop, pixels.
        channels: of the pictures.
        splits: where each domain's pictures come from; None: pictures of load_size as a square.

    Raises:
        UserError: a bad spec, pictures of several sizes, or a crop that needs pictures of several sizes.
    """
    augmentation = augment.parse(spec)
    augment.check_channels(augmentation, channels, spec)
    frames = {}
    for domain, split in splits.items():
        size = (load_size, load_size) if split is None else _one_size(split)
        frame = tuple(int(side) for side in augment.load_shape(tf.constant(size), height, width, load_size).numpy())
        zoom = augmentation.resized_crop
        if zoom and (frame != size or zoom.maximum**0.5 * min(frame[0] / height, frame[1] / width) > 1):
            raise UserError(
                f"--augment_on=device: resized_crop would shrink {size[0]}x{size[1]} pictures to several sizes before "
                "they are sampled, the device takes one; store pictures at the crop's size, or use --augment_on=host"
            )
        frames[domain] = frame
    return DeviceAugmentation(augmentation, height, width, channels, frames)


def plan_key(domain: str) -> str:
    """The name of a domain's draws in a batch."""
    return _PLAN + domain


def _one_size(split: Split) -> tuple[int, int]:
    if split.min_height != split.max_height or split.min_width != split.max_width:
        raise UserError(
            f"--augment_on=device: pictures of {split.name} are {split.min_height} to {split.max_height} pixels high "
            f"and {split.min_width} to {split.max_width} wide, the device takes one size; make all source pictures of "
            "one shape and the data again, or use --augment_on=host"
        )
    return split.min_height, split.min_width


# -- geometry ---------------------------------------------------------------------------------


def crop(images: tf.Tensor, plan: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Windows [b, height, width, c] of `images` [b, h, w, c]; `plan` int32 [b, 3]: top, left, 1 for a mirrored one."""
    top, left, flip = tf.unstack(plan[:, :, tf.newaxis], axis=1)
    rows, columns = tf.range(height)[tf.newaxis], tf.range(width)[tf.newaxis]
    columns = left + tf.where(flip > 0, width - 1 - columns, columns)
    return tf.gather(tf.gather(images, top + rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)


def warp(images: tf.Tensor, matrix: tf.Tensor, height: int, width: int, *, nearest: bool = False) -> tf.Tensor:
    """`images` [b, h, w, c] seen through homographies [b, 8], 0 outside: [b, height, width, c].

    As `augment.warp` does it: bilinear (float32) or nearest, ties of which go away from zero.
    """
    rows, columns = images.shape[1:3]
    # Channels last in the gather would make a TPU move nine times as much memory, by its compiler's count.
    images = tf.transpose(images, [0, 3, 1, 2])
    y = tf.range(height, dtype=tf.float32)[tf.newaxis, :, tf.newaxis]
    x = tf.range(width, dtype=tf.float32)[tf.newaxis, tf.newaxis, :]
    m = tf.unstack(matrix[:, :, tf.newaxis, tf.newaxis], axis=1)
    depth = m[6] * x + m[7] * y + 1.0
    seen = tf.not_equal(depth, 0.0)
    depth = tf.where(seen, depth, 1.0)
    # Places beyond the border of zeros show 0 like the border itself; where nothing is seen is such a place.
    from_x = tf.clip_by_value(tf.where(seen, (m[0] * x + m[1] * y + m[2]) / depth, -1.0), -1.0, float(columns))
    from_y = tf.clip_by_value((m[3] * x + m[4] * y + m[5]) / depth, -1.0, float(rows))
    padded = tf.pad(images, [[0, 0], [0, 0], [1, 1], [1, 1]])
    if nearest:
        return tf.transpose(_pick(padded, _rounded(from_y) + 1, _rounded(from_x) + 1), [0, 2, 3, 1])
    corners = (padded[..., :-1, :-1], padded[..., :-1, 1:], padded[..., 1:, :-1], padded[..., 1:, 1:])
    # The last row and column have a neighbour, the border; a place in the border is one step from the last.
    top, left = tf.minimum(tf.floor(from_y), rows - 1.0), tf.minimum(tf.floor(from_x), columns - 1.0)
    found = _pick(tf.concat(corners, 1), tf.cast(top, tf.int32) + 1, tf.cast(left, tf.int32) + 1)
    down, right = (from_y - top)[:, tf.newaxis], (from_x - left)[:, tf.newaxis]
    upper_left, upper_right, lower_left, lower_right = tf.split(tf.cast(found, tf.float32), 4, axis=1)
    upper = (1.0 - right) * upper_left + right * upper_right
    lower = (1.0 - right) * lower_left + right * lower_right
    return tf.transpose((1.0 - down) * upper + down * lower, [0, 2, 3, 1])


def _rounded(value: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.sign(value) * tf.floor(tf.abs(value) + 0.5), tf.int32)


def _pick(images: tf.Tensor, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Pixels of `images` [b, c, h, w] at whole places y, x [b, height, width]: [b, c, height, width]."""
    count, channels, rows, columns = images.shape
    flat = tf.reshape(images, [count, channels, rows * columns])
    return tf.gather(flat, y * columns + x, axis=2, batch_dims=1)


# -- colour -----------------------------------------------------------------------------------


def colour(images: tf.Tensor, draws: dict[str, tf.Tensor]) -> tf.Tensor:
    """`images` float32 0..255 [b, h, w, 1 or 3] changed by `draws` [b, 1, 1, 1] of some of the operations, in order.

    As in `augment`, and written so that a factor of 1 and 0 turns change nothing at all.
    """
    rgb = images.shape[-1] == 3
    if "brightness" in draws:
        images = augment.adjust_brightness(images, draws["brightness"])
    if "contrast" in draws:
        luma = tf.floor(_luma(images) + 0.5) if rgb else images
        mean = tf.floor(tf.reduce_mean(luma, axis=[1, 2, 3], keepdims=True) + 0.5)
        images = _away_from(mean, images, draws["contrast"])
    if "saturation" in draws and rgb:
        images = _away_from(_luma(images), images, draws["saturation"])
    if "hue" in draws and rgb:
        images = tf.where(tf.equal(draws["hue"], 0.0), images, shift_hue(images, draws["hue"]))
    if "grey" in draws and rgb:
        images = tf.where(draws["grey"] > 0.5, tf.floor(_luma(images) + 0.5), images)
    return images


def _luma(images: tf.Tensor) -> tf.Tensor:
    red, green, blue = tf.split(images, 3, axis=-1)
    return augment.LUMA[0] * red + augment.LUMA[1] * green + augment.LUMA[2] * blue


def _away_from(centre: tf.Tensor, images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(images + (centre - images) * (1.0 - factor), 0.0, 255.0)


def shift_hue(images: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """Hue in HSV shifted by `turns` of the colour circle; `images` float32 [b, h, w, 3], any range from 0 on."""
    red, green, blue = tf.split(images, 3, axis=-1)
    value = tf.reduce_max(images, axis=-1, keepdims=True)
    chroma = value - tf.reduce_min(images, axis=-1, keepdims=True)
    divisor = tf.where(chroma > 0, chroma, 1.0)
    hue = tf.where(
        tf.equal(value, red),
        (green - blue) / divisor,
        tf.where(tf.equal(value, green), (blue - red) / divisor + 2.0, (red - green) / divisor + 4.0),
    )
    hue = hue + 6.0 * turns
    # A channel is `value` less the chroma by how far the hue is from the channel's own, in sixths of the circle.
    place = tf.math.floormod(hue + tf.constant([5.0, 3.0, 1.0]), 6.0)
    return value - chroma * tf.clip_by_value(tf.minimum(place, 4.0 - place), 0.0, 1.0)
