"""The forms that TensorFlow's CPU is quicker at against its own convolution, values and gradients, in float64."""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.layers import target
from tfaclgan.layers.convolution import Conv2D, convolution
from tfaclgan.layers.padding import edge_pad, reflect_pad
from tfaclgan.layers.picture import HeadConv2D, StemConv2D
from tfaclgan.layers.tensorflow_cpu import processor, winograd
from tfaclgan.layers.tensorflow_cpu.convolution import chosen, halving, of_few, of_many, of_many_of_shape, strided
from tfaclgan.layers.tensorflow_cpu.padding import mirroring

# form, images, kernel, strides: sides that tiles divide and that they do not
CASES = {
    "2x2": (of_many, (2, 11, 7, 3), (2, 2, 3, 4), 1),
    "2x2, whole tiles": (of_many, (1, 11, 16, 2), (2, 2, 2, 2), 1),
    "3x3": (of_many, (2, 9, 13, 3), (3, 3, 3, 4), 1),
    "3x3, whole tiles": (of_many, (1, 10, 14, 2), (3, 3, 2, 2), 1),
    "3x3, one place": (of_many, (1, 3, 3, 2), (3, 3, 2, 2), 1),
    "4x4": (of_many, (2, 8, 12, 3), (4, 4, 3, 4), 1),
    "4x4, whole tiles": (of_many, (1, 9, 12, 2), (4, 4, 2, 2), 1),
    "few channels": (of_few, (2, 10, 13, 3), (7, 7, 3, 9), 1),
    "few filters": (of_few, (2, 10, 14, 9), (7, 7, 9, 3), 1),
    "few filters, odd width": (of_few, (2, 10, 13, 9), (7, 7, 9, 3), 1),
    "one filter": (of_few, (1, 7, 8, 9), (4, 4, 9, 1), 1),
    "4x4, halving": (halving, (2, 12, 10, 3), (4, 4, 3, 4), 2),
    "3x3, strided": (strided, (2, 9, 12, 3), (3, 3, 3, 4), 2),
    "4x4, strided": (strided, (1, 9, 12, 2), (4, 4, 2, 3), 2),
}


def arguments(case):
    form, images, kernel, strides = CASES[case]
    random = np.random.RandomState(0)
    images, kernel = (tf.constant(random.standard_normal(shape)) for shape in (images, kernel))
    return form, images, kernel, lambda x, k: tf.nn.conv2d(x, k, strides, "VALID")


@pytest.mark.parametrize("taps", winograd.TAPS)
def test_transforms_convolve_a_row(taps):
    results, kernel, inputs = winograd.transforms(taps)
    random = np.random.RandomState(0)
    row, weights = random.standard_normal(6), random.standard_normal(taps)
    np.testing.assert_allclose(
        results @ ((kernel @ weights) * (inputs @ row)), np.correlate(row, weights, "valid"), rtol=1e-10
    )


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case):
    form, images, kernel, plain = arguments(case)

    def found(convolve):
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            result = convolve(images, kernel)
            loss = tf.reduce_sum(result * tf.cos(result))
        return result, *tape.gradient(loss, [images, kernel])

    for ours, theirs in zip(found(form), found(plain), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_second_derivatives(case):
    """Of a gradient penalty: the slope by the images has gradients by images and kernel."""
    form, images, kernel, plain = arguments(case)

    def found(convolve):
        with tf.GradientTape() as outer:
            outer.watch([images, kernel])
            with tf.GradientTape() as inner:
                inner.watch([images, kernel])
                loss = tf.reduce_sum(tf.sin(convolve(images, kernel)))
            slopes = inner.gradient(loss, [images, kernel])
            penalty = sum(tf.reduce_sum(slope**3) for slope in slopes)
        return outer.gradient(penalty, [images, kernel])

    for ours, theirs in zip(found(tf.function(form)), found(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8 * np.abs(theirs).max())


@pytest.mark.parametrize("taps, side", [(2, 66), (3, 66), (4, 34)])
def test_precision_in_float32(taps, side):
    """What the module promises, for values and both gradients."""
    random = np.random.RandomState(0)
    images, kernel = random.standard_normal((1, side, side, 128)), random.standard_normal((taps, taps, 128, 128))
    upstream = random.standard_normal((1, side - taps + 1, side - taps + 1, 128))

    def found(convolve, dtype):
        x, k, up = (tf.constant(value, dtype) for value in (images, kernel, upstream))
        with tf.GradientTape() as tape:
            tape.watch([x, k])
            result = convolve(x, k)
        return result, *tape.gradient(result, [x, k], up)

    exact = found(lambda x, k: tf.nn.conv2d(x, k, 1, "VALID"), "float64")
    for ours, theirs in zip(found(of_many, "float32"), exact, strict=True):
        error = ours.numpy() - theirs.numpy()
        assert np.sqrt(np.mean(error**2) / np.mean(theirs.numpy() ** 2)) < 2e-6


@pytest.mark.parametrize(
    "images, kernel, strides, form",
    [
        ((1, 66, 66, 256), (3, 3, 256, 256), 1, of_many),
        ((4, 18, 18, 128), (3, 3, 128, 128), 1, of_many),
        ((3, 18, 18, 128), (3, 3, 128, 128), 1, None),  # few pixels
        ((1, 66, 66, 64), (3, 3, 64, 256), 1, None),
        ((1, 66, 66, 256), (1, 1, 256, 256), 1, None),
        ((1, 66, 66, 256), (5, 5, 256, 256), 1, None),
        ((1, 66, 66, 256), (3, 1, 256, 256), 1, None),
        ((None, 66, 66, 256), (3, 3, 256, 256), 1, None),
        ((1, 66, None, 256), (3, 3, 256, 256), 1, None),
        ((1, 262, 262, 3), (7, 7, 3, 64), 1, of_few),
        ((1, 262, 262, 64), (7, 7, 64, 3), 1, of_few),
        ((1, 70, 70, 16), (7, 7, 16, 3), 1, None),
        ((1, 258, 258, 64), (4, 4, 64, 128), 2, halving),
        ((1, 130, 130, 64), (4, 4, 64, 128), 2, halving),
        ((1, 128, 128, 64), (4, 4, 64, 128), 2, strided),
        ((1, 126, 126, 64), (4, 4, 64, 128), 2, None),
        ((1, 257, 257, 64), (3, 3, 64, 128), 2, strided),
        ((1, 257, 257, 32), (3, 3, 32, 64), 2, None),
        ((1, 258, 258, 3), (4, 4, 3, 64), 2, None),
        ((1, 258, 258, 64), (3, 3, 64, 128), 2, strided),
        ((1, 257, 258, 64), (4, 4, 64, 128), 2, strided),
    ],
)
def test_which_form_is_chosen(images, kernel, strides, form):
    assert chosen(images, kernel, strides) is form


def operations(layer, images, kind):
    """Types of operations in the graph of a training step for devices of `kind`, functions that it calls included."""

    def step(x):
        with target.compiling_for(kind), tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x))
        return tape.gradient(loss, layer.trainable_variables)

    graph = tf.function(step).get_concrete_function(tf.TensorSpec(images, layer.compute_dtype)).graph.as_graph_def()
    own = {node.op for node in graph.node}
    return own, own | {node.op for function in graph.library.function for node in function.node_def}


LAYERS = {
    "many": (lambda **options: Conv2D(128, 3, **options), (1, 34, 34, 128)),
    "halving": (lambda **options: Conv2D(128, 4, strides=2, **options), (1, 130, 130, 32)),
    "strided": (lambda **options: Conv2D(64, 3, strides=2, **options), (1, 193, 193, 64)),
    "stem": (lambda **options: StemConv2D(64, 7, **options), (1, 70, 70, 3)),
    "head": (lambda **options: HeadConv2D(3, 7, **options), (1, 70, 70, 64)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_take_them_on_tensorflows_cpu_only(name, monkeypatch):
    make, images = LAYERS[name]
    slow = {"Conv2DBackpropFilter"} if name == "strided" else {"Conv2DBackpropFilter", "Conv2DBackpropInput"}
    _, everything = operations(make(), images, "cpu")
    assert not slow & everything
    for kind in ("xla cpu", "gpu", "tpu"):
        assert "Conv2DBackpropFilter" in operations(make(), images, kind)[1]
    for matrices_of_bfloat16 in (False, True):
        monkeypatch.setattr(processor, "has", {"amx_bf16": matrices_of_bfloat16}.get)
        taken = name == "many" and not matrices_of_bfloat16
        found = operations(make(dtype="bfloat16"), images, "cpu")[1]
        assert ("Conv2DBackpropFilter" not in found) == taken


def test_images_of_bfloat16_are_convolved_in_float32_and_the_result_rounded(monkeypatch):
    monkeypatch.setattr(processor, "has", lambda feature: False)
    images, kernel = (
        tf.cast(tf.random.stateless_normal(shape, (0, 0)), tf.bfloat16)
        for shape in ((1, 34, 34, 128), (3, 3, 128, 128))
    )
    exact = tf.nn.conv2d(tf.cast(images, tf.float64), tf.cast(kernel, tf.float64), 1, "VALID")
    with target.compiling_for("cpu"):
        found = convolution(images, kernel)
    assert found.dtype == tf.bfloat16
    error = np.abs(tf.cast(found, tf.float64) - exact)
    assert np.all(error < 2**-8 * np.abs(exact) + 1e-5 * np.std(exact))  # to the nearest


def test_what_the_processor_has_is_what_linux_says(monkeypatch, tmp_path):
    def has(feature, text):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(processor, "_DESCRIPTION", str(tmp_path / "cpuinfo"))
        processor._features.cache_clear()
        return processor.has(feature)

    try:
        assert has("amx_bf16", "processor\t: 0\nmodel name\t: X\nflags\t\t: fpu amx_bf16 avx\n\nflags\t\t: fpu\n")
        assert not has("amx_bf16", "flags\t\t: fpu avx512_bf16\n")
        assert has("bf16", "processor : 0\nFeatures\t: fp asimd bf16\n")  # Arm
        assert not has("amx_bf16", "something else")
        monkeypatch.setattr(processor, "_DESCRIPTION", str(tmp_path / "none"))
        processor._features.cache_clear()
        assert not processor.has("amx_bf16")
    finally:
        processor._features.cache_clear()


def test_a_step_keeps_no_gradient_of_its_own(monkeypatch, request):
    """TensorFlow keeps the graph of every custom gradient: these are in graphs of their own, one for each shape."""
    traced = []

    def counted(function):
        def call(*arguments):
            traced.append(function.__name__)
            return function(*arguments)

        return call

    for owner, names in (
        (winograd, ("products", "products_by_tiles", "products_by_kernel")),
        (winograd.Tiling, ("tiled", "transposed_tiled", "results", "transposed_results")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    request.addfinalizer(of_many_of_shape.cache_clear)  # also where this fails: nothing counted stays for other tests
    of_many_of_shape.cache_clear()
    layer = Conv2D(128, 3)
    layer.build((1, 34, 34, 128))

    def step(x):
        with target.compiling_for("cpu"), tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x))
        return tape.gradient(loss, layer.trainable_variables)

    for _ in range(3):
        graph = tf.function(step).get_concrete_function(tf.TensorSpec((1, 34, 34, 128))).graph.as_graph_def()
        assert not [node.name for node in graph.node if "_gradient_op_type" in node.attr]
        assert sorted(traced) == sorted({*traced})
        assert {"tiled", "products", "products_by_kernel", "results", "transposed_results"} <= {*traced}


def test_the_layer_is_kerass_elsewhere():
    """Without a training step around it, as for export, the layer is a plain convolution with the same weights."""
    ours, theirs = Conv2D(128, 3), keras.layers.Conv2D(128, 3)
    images = np.random.RandomState(0).standard_normal((1, 34, 34, 128)).astype("float32")
    ours.build(images.shape)
    theirs.build(images.shape)
    assert [(v.name, v.shape) for v in ours.variables] == [(v.name, v.shape) for v in theirs.variables]
    theirs.set_weights(ours.get_weights())
    np.testing.assert_array_equal(ours(images), theirs(images))
    with target.compiling_for("cpu"):
        np.testing.assert_allclose(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


def test_strides_of_a_plain_convolution():
    images = tf.random.stateless_normal((1, 9, 9, 2), (0, 0))
    kernel = tf.random.stateless_normal((3, 3, 2, 2), (0, 1))
    with target.compiling_for("cpu"):
        found = convolution(images, kernel, 2)
    np.testing.assert_array_equal(found, tf.nn.conv2d(images, kernel, 2, "VALID"))


@pytest.mark.parametrize("before, after, skipped", [(1, 1, 1), (3, 3, 1), (1, 2, 1), (0, 1, 1), (2, 2, 0)])
@pytest.mark.parametrize("sides, axes", [((9, 13), (1, 2)), ((8, 8), (1, 2)), ((9, 4), (1,))])
def test_mirrored_borders(before, after, skipped, sides, axes):
    """Values by numpy; the gradient by a product with the same borders of random maps, as it is linear."""
    random = np.random.RandomState(0)
    images = random.standard_normal((2, *sides, 3))
    around = [(before, after) if axis in axes else (0, 0) for axis in range(4)]
    mode = "reflect" if skipped else "symmetric"
    expected = np.pad(images, around, mode=mode)
    upstream = random.standard_normal(expected.shape)
    pad = mirroring(before, after, axes, skipped)

    x, up = tf.constant(images), tf.constant(upstream)
    with tf.GradientTape() as outer:
        outer.watch(up)
        with tf.GradientTape() as tape:
            tape.watch(x)
            result = pad(x)
        slope = tape.gradient(result, x, up)
    np.testing.assert_array_equal(result, expected)
    other = random.standard_normal(images.shape)  # <pad(other), upstream> = <other, slope>
    np.testing.assert_allclose(np.sum(other * slope), np.sum(np.pad(other, around, mode=mode) * upstream), rtol=1e-10)
    unit = np.zeros(images.shape)
    unit[1, 1, 2, 0] = 1
    np.testing.assert_allclose(slope[1, 1, 2, 0], np.sum(np.pad(unit, around, mode=mode) * upstream), rtol=1e-10)
    np.testing.assert_array_equal(outer.gradient(slope, up, tf.constant(other)), np.pad(other, around, mode=mode))


@pytest.mark.parametrize(
    "kind, shape, dtype, taken",
    [
        ("cpu", (1, 64, 64, 64), "float32", True),
        ("cpu", (1, 64, 64, 64), "bfloat16", True),
        ("cpu", (1, 64, 64, 64), "float64", False),
        ("cpu", (1, 64, 64, 16), "float32", False),
        ("cpu", (None, 64, 64, 64), "float32", False),
        ("cpu", (1, 5, 512, 128), "float32", False),  # the borders of a side meet
        ("xla cpu", (1, 64, 64, 64), "float32", False),
        ("gpu", (1, 64, 64, 64), "float32", False),
        ("tpu", (1, 64, 64, 64), "float32", False),
        (None, (1, 64, 64, 64), "float32", False),
    ],
)
def test_which_borders_are_compiled(kind, shape, dtype, taken):
    def padded(images):
        with target.compiling_for(kind) if kind else contextlib.nullcontext():
            return edge_pad(images, 2) + reflect_pad(images, 2)

    graph = tf.function(padded).get_concrete_function(tf.TensorSpec(shape, dtype)).graph
    operations = {op.type for op in graph.get_operations()}
    assert ("MirrorPad" not in operations) == (taken or kind == "tpu")
    assert any("PartitionedCall" in name for name in operations) == taken
