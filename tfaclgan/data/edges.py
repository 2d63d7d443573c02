"""Pictures with blurred edges: what a discriminator that is to ask for sharp ones learns to call fake.

CartoonGAN's idea (Chen, Lai, Liu, CVPR 2018), as the enhanced U-GAT-IT fork has it (`has_blur`): Canny edges of the
grey picture with thresholds 100 and 200, grown by a 5 x 5 square; there, and only there, the picture is replaced by
itself under the 5 x 5 Gaussian [1, 4, 6, 4, 1] / 16, mirrored at the border, fractions cut off.

The fork makes the copies once, from the files at their own size; here they are made of the stored pictures while
training, so they need no space, and edges are as wide in pixels at the stored size.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

LOW, HIGH = 100, 200  # of |dx| + |dy|, Sobel 3 x 3
_SIDE = 5
_KERNEL = np.array([1, 4, 6, 4, 1], np.float32)
_TANGENT = 13573  # of 22.5 degrees, 15 bits after the point


def blur_edges(image: tf.Tensor) -> tf.Tensor:
    """uint8 [h, w, c], c = 1 or 3 and sides of at least 3 -> the same with blurred edges."""
    near = tf.nn.max_pool2d(tf.cast(canny(image), tf.float32)[tf.newaxis, :, :, tf.newaxis], _SIDE, 1, "SAME")[0] > 0
    margin = _SIDE // 2
    padded = tf.pad(tf.cast(image, tf.float32), [[margin, margin], [margin, margin], [0, 0]], "REFLECT")
    weights = np.repeat(np.outer(_KERNEL, _KERNEL)[:, :, np.newaxis, np.newaxis], image.shape[-1], axis=2)
    total = tf.nn.depthwise_conv2d(padded[tf.newaxis], weights, [1, 1, 1, 1], "VALID")[0]  # whole numbers, exact
    blurred = tf.cast(tf.floor(total / np.sum(weights[:, :, 0])), tf.uint8)
    return tf.where(near, blurred, image)


def canny(image: tf.Tensor) -> tf.Tensor:
    """OpenCV's Canny(grey, 100, 200) of uint8 [h, w, 1 or 3] -> bool [h, w]."""
    grey = _grey(image)
    up, middle, down = (tf.pad(grey, [[1, 1], [1, 1]], "SYMMETRIC")[i : i + tf.shape(grey)[0]] for i in range(3))
    column, row = up + 2 * middle + down, down - up
    dx = column[:, 2:] - column[:, :-2]
    dy = row[:, :-2] + 2 * row[:, 1:-1] + row[:, 2:]
    size = tf.abs(dx) + tf.abs(dy)
    candidates = (size > LOW) & _is_ridge(dx, dy, size)
    return _grow(candidates & (size > HIGH), candidates)


def _grey(image: tf.Tensor) -> tf.Tensor:
    """int32 [h, w], as OpenCV's COLOR_RGB2GRAY."""
    values = tf.cast(image, tf.int32)
    if image.shape[-1] == 1:
        return values[:, :, 0]
    r, g, b = tf.unstack(values, axis=2)
    return tf.bitwise.right_shift(9798 * r + 19235 * g + 3735 * b + (1 << 14), 15)


def _is_ridge(dx: tf.Tensor, dy: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Whether a gradient is larger than its neighbours' along its own direction, one of four."""
    padded = tf.pad(size, [[1, 1], [1, 1]])
    height, width = tf.unstack(tf.shape(size))

    def beside(y: int, x: int) -> tf.Tensor:
        return padded[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    x, y = tf.abs(dx), tf.bitwise.left_shift(tf.abs(dy), 15)
    flat = x * _TANGENT
    steep = flat + tf.bitwise.left_shift(x, 16)
    along_x = (size > beside(0, -1)) & (size >= beside(0, 1))
    along_y = (size > beside(-1, 0)) & (size >= beside(1, 0))
    falling = (size > beside(-1, -1)) & (size > beside(1, 1))
    rising = (size > beside(-1, 1)) & (size > beside(1, -1))
    diagonal = tf.where(tf.bitwise.bitwise_xor(dx, dy) < 0, rising, falling)
    return tf.where(y < flat, along_x, tf.where(y > steep, along_y, diagonal))


def _grow(seeds: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    """The candidates that touch a seed, or one that does, and so on (eight neighbours)."""

    def grown(edges: tf.Tensor) -> tf.Tensor:
        wider = tf.nn.max_pool2d(tf.cast(edges, tf.float32)[tf.newaxis, :, :, tf.newaxis], 3, 1, "SAME")
        return (wider[0, :, :, 0] > 0) & candidates

    def changed(edges: tf.Tensor, before: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any(edges != before)

    edges, _ = tf.while_loop(changed, lambda edges, _: (grown(edges), edges), (grown(seeds), seeds))
    return edges
