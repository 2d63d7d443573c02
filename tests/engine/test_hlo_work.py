"""Operations counted in HLO text against counts by hand and against NumPy's own convolution."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.engine import hlo_work

TEXT = """
ENTRY %main (a: f32[8,32,32,3], w: f32[4,4,3,64]) -> f32[8,16,16,64] {
  %a = bf16[8,32,32,3]{3,2,1,0} parameter(0)
  %w = bf16[4,4,3,64]{3,2,1,0} parameter(1)
  %c = bf16[8,15,15,64]{3,2,1,0} convolution(%a, %w), window={size=4x4 stride=2x2}, dim_labels=b01f_01io->b01f
  ROOT %d = f32[8,10]{1,0} convolution(bf16[8,128]{1,0} %x, bf16[128,10]{1,0} %y), dim_labels=bf_io->bf
}
"""


def test_features_are_padded_to_the_matrix_unit():
    convolution, product = 2 * (8 * 15 * 15) * (4 * 4), 2 * 8
    assert hlo_work.flops(TEXT) == convolution * 3 * 64 + product * 128 * 10
    assert sum(p.padded_flops(128) for p in hlo_work.products(TEXT)) == convolution * 128 * 128 + product * 128 * 128


def test_a_kernel_s_gradient_fills_the_unit_with_the_kernel_s_features():
    """It contracts images and places: 3 by 64 features on 128 lanes, not 8 images by 64."""
    text = "%g = f32[3,4,4,64] convolution(f32[8,19,19,3] %a, f32[8,16,16,64] %g), window={size=16x16}, "
    product = hlo_work.products(text + "dim_labels=f01b_i01o->b01f")[0]
    assert product.flops == 2 * (8 * 16 * 16) * (4 * 4) * 3 * 64
    assert product.padded_flops(128) == product.flops * 128 * 128 / (3 * 64)


def program(function, *arguments):
    return tf.function(function, jit_compile=True).experimental_get_compiler_ir(*arguments)(stage="hlo")


def test_matrix_products():
    text = program(lambda a, b: tf.einsum("bij,bjk->bik", a, b), tf.zeros((2, 3, 5)), tf.zeros((2, 5, 7)))
    assert hlo_work.flops(text) == 2 * 2 * 3 * 5 * 7


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_and_its_gradients_cost_what_they_meet(stride):
    """Both gradients meet what the forward pass met: zeros between the rows of a strided one are not work."""
    image, kernel = tf.zeros((2, 9, 9, 3)), tf.zeros((4, 4, 3, 5))

    def step(image, kernel):
        with tf.GradientTape() as tape:
            tape.watch([image, kernel])
            # Not linear: otherwise the program has no need of the forward pass.
            loss = tf.reduce_sum(tf.nn.conv2d(image, kernel, stride, "VALID") ** 2)
        return tape.gradient(loss, [image, kernel])

    places = len(range(0, 9 - 4 + 1, stride))
    forward = 2 * 2 * places**2 * 16 * 3 * 5
    assert hlo_work.flops(program(step, image, kernel)) == 3 * forward


def test_padding_is_not_work():
    """Taps that meet an image of ones, summed by NumPy."""
    image = np.ones((1, 6, 6, 1), np.float32)
    met = tf.nn.conv2d(image, tf.ones((3, 3, 1, 1)), 1, "SAME").numpy().sum()
    text = program(lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"), tf.constant(image), tf.ones((3, 3, 1, 1)))
    assert hlo_work.flops(text) == 2 * met
