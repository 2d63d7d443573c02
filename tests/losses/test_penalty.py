"""Gradient penalties against gradients written down by hand, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.losses import penalty

IMAGES = np.random.RandomState(0).standard_normal((3, 4, 4, 2))
KERNEL = np.random.RandomState(1).standard_normal((2, 2, 2, 1))
WEIGHTS = np.random.RandomState(2).standard_normal((4, 4, 2))


def patches_and_whole(images):
    """Two scales: sin of 2 x 2 patches that do not overlap, and one quadratic score of the whole picture."""
    patches = tf.sin(tf.nn.conv2d(images, KERNEL, strides=2, padding="VALID"))
    whole = tf.reduce_sum(images**2 * WEIGHTS, axis=(1, 2, 3))[:, None, None, None]
    return [patches, whole]


def gradient_by_hand(images):
    gradient = 2 * images * WEIGHTS
    for i in range(2):
        for j in range(2):
            patch = images[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            slope = np.cos((patch * KERNEL[..., 0]).sum((1, 2, 3)))[:, None, None, None]
            gradient[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] += slope * KERNEL[..., 0] / np.sqrt(4)
    return gradient


def test_r1_is_half_the_mean_squared_gradient():
    expected = 0.5 * (gradient_by_hand(IMAGES) ** 2).sum((1, 2, 3)).mean()
    assert float(penalty.r1_penalty(patches_and_whole, tf.constant(IMAGES))) == pytest.approx(expected, rel=1e-12)


def test_r1_trains_the_discriminator_and_leaves_the_images_alone():
    scale, images = tf.Variable(1.5, dtype=tf.float64), tf.Variable(IMAGES)
    with tf.GradientTape() as tape:
        value = penalty.r1_penalty(lambda x: [scale * score for score in patches_and_whole(x)], images)
    of_scale, of_images = tape.gradient(value, [scale, images])
    assert float(of_scale) == pytest.approx(2 * float(value) / 1.5, rel=1e-12)
    assert of_images is None
