"""Norms against float64 written-out definitions (MUNIT, ACL-GAN; reference 2.1)."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.layers import target
from tfaclgan.layers.norm import (
    AdaptiveInstanceNorm,
    AdaptiveLayerInstanceNorm,
    InstanceNorm,
    LayerInstanceNorm,
    SampleNorm,
    instance_norm,
    layer_norm,
    sample_norm,
)

IMAGES = 3 * np.random.RandomState(0).standard_normal((2, 5, 7, 4)) + 1


def numpy_instance_norm(images):
    result = np.empty_like(images)
    for i in range(images.shape[0]):
        for c in range(images.shape[3]):
            plane = images[i, :, :, c]
            result[i, :, :, c] = (plane - plane.mean()) / np.sqrt(plane.var() + 1e-5)
    return result


def numpy_sample_norm(images):
    return np.stack([(x - x.mean()) / (x.std(ddof=1) + 1e-5) for x in images])


def test_instance_norm():
    np.testing.assert_allclose(instance_norm(tf.constant(IMAGES)), numpy_instance_norm(IMAGES), rtol=1e-12, atol=1e-13)
    layer = InstanceNorm(dtype="float64")
    np.testing.assert_allclose(layer(IMAGES), numpy_instance_norm(IMAGES), rtol=1e-12, atol=1e-13)
    assert not layer.weights


def test_instance_norm_of_many_pixels_is_exact():
    """Added up one after the other in float32, 65,536 pixels are off by 7e-6."""
    images = np.random.RandomState(0).standard_normal((1, 256, 256, 16)).astype(np.float32) + 2
    exact = images.astype(np.float64)
    exact = (exact - exact.mean((1, 2), keepdims=True)) / np.sqrt(exact.var((1, 2), keepdims=True) + 1e-5)
    assert np.abs(instance_norm(images) - exact).max() < 2e-6


def test_instance_norm_of_small_variance_shows_where_epsilon_stands():
    small = 1e-3 * IMAGES
    np.testing.assert_allclose(instance_norm(tf.constant(small)), numpy_instance_norm(small), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_sample_norm(scale):
    images = scale * IMAGES
    np.testing.assert_allclose(sample_norm(tf.constant(images)), numpy_sample_norm(images), rtol=1e-9, atol=1e-12)


def test_sample_norm_layer_scales_and_shifts_channels():
    layer = SampleNorm(dtype="float64")
    layer.build(IMAGES.shape)
    gamma, beta = np.array([0.5, -1.0, 2.0, 0.0]), np.array([0.0, 1.0, -2.0, 3.0])
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    np.testing.assert_allclose(layer(IMAGES), numpy_sample_norm(IMAGES) * gamma + beta, rtol=1e-10, atol=1e-12)


def test_sample_norm_starts_uniform():
    layer = SampleNorm()
    layer.build((None, 1, 1, 5000))
    gamma = layer.gamma.numpy()
    assert gamma.min() >= 0
    assert gamma.max() < 1
    assert abs(gamma.mean() - 0.5) < 0.02
    assert not layer.beta.numpy().any()


@pytest.mark.parametrize("norm", [instance_norm, sample_norm])
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_gradient_of_a_constant_image_is_finite(norm, value):
    images = tf.Variable(tf.fill((2, 4, 4, 3), tf.constant(value, tf.float64)))
    weights = tf.constant(np.random.RandomState(1).standard_normal((2, 4, 4, 3)))
    with tf.GradientTape() as tape:
        result = tf.reduce_sum(norm(images) * weights)
    assert np.isfinite(tape.gradient(result, images)).all()
    assert float(result) == pytest.approx(0, abs=1e-9)


def test_flat_channels_become_zero_and_others_are_untouched():
    images = IMAGES.copy()
    images[1, :, :, 2] = 0.7 + 1e-9 * images[1, :, :, 2]
    variable = tf.Variable(images)
    with tf.GradientTape() as tape:
        result = instance_norm(variable)
        total = tf.reduce_sum(result * IMAGES)
    expected = numpy_instance_norm(images)
    expected[1, :, :, 2] = 0
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-13)
    gradient = tape.gradient(total, variable).numpy()
    assert not gradient[1, :, :, 2].any()
    assert (np.abs(np.delete(gradient, 2, axis=3)).max(axis=(1, 2)) > 0).all()


def test_gradient_of_sample_norm_is_the_difference_quotient():
    weights = np.random.RandomState(1).standard_normal(IMAGES.shape)
    images = tf.Variable(IMAGES)
    with tf.GradientTape() as tape:
        result = tf.reduce_sum(sample_norm(images) * weights)
    gradient = tape.gradient(result, images).numpy()
    for place in ((0, 0, 0, 0), (1, 4, 6, 3)):
        step = np.zeros_like(IMAGES)
        step[place] = 1e-6
        change = np.sum((numpy_sample_norm(IMAGES + step) - numpy_sample_norm(IMAGES - step)) * weights) / 2e-6
        assert gradient[place] == pytest.approx(change, rel=1e-6)


def test_adaptive_norm_reads_shift_before_scale_at_its_offset():
    numbers = np.random.RandomState(2).standard_normal((2, 24))
    layer = AdaptiveInstanceNorm(offset=8, dtype="float64")
    beta, gamma = numbers[:, None, None, 8:12], numbers[:, None, None, 12:16]
    assert (gamma < 0).any()
    expected = numpy_instance_norm(IMAGES) * gamma + beta
    np.testing.assert_allclose(layer([IMAGES, numbers]), expected, rtol=1e-11, atol=1e-12)
    assert AdaptiveInstanceNorm.from_config(layer.get_config()).offset == 8


@pytest.mark.parametrize("norm", [InstanceNorm, SampleNorm])
def test_half_precision_keeps_statistics_in_float32(norm):
    images = (100 + 0.5 * np.random.RandomState(3).standard_normal((1, 64, 64, 2))).astype("float32")
    rounded = tf.cast(tf.cast(images, tf.bfloat16), tf.float64).numpy()
    result = norm(dtype="mixed_bfloat16")(tf.cast(images, tf.bfloat16))
    assert result.dtype == tf.bfloat16
    if norm is InstanceNorm:
        np.testing.assert_allclose(tf.cast(result, tf.float64), numpy_instance_norm(rounded), rtol=2**-7, atol=2**-9)
    else:
        layer = norm(dtype="mixed_bfloat16")
        layer.build(images.shape)
        layer.gamma.assign([1.0, 1.0])
        result = layer(tf.cast(images, tf.bfloat16))
        np.testing.assert_allclose(tf.cast(result, tf.float64), numpy_sample_norm(rounded), rtol=2**-7, atol=2**-9)


def test_affine_instance_norm():
    layer = InstanceNorm(affine=True, dtype="float64")
    layer.build(IMAGES.shape)
    np.testing.assert_allclose(layer(IMAGES), numpy_instance_norm(IMAGES), rtol=1e-12, atol=1e-13)
    gamma, beta = np.arange(4.0) - 1, np.arange(4.0) * 2
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    np.testing.assert_allclose(layer(IMAGES), numpy_instance_norm(IMAGES) * gamma + beta, rtol=1e-12, atol=1e-12)


def numpy_mixture(images, rho, ddof):
    """ugatit.md 1.2, written out: PyTorch's variances have ddof 1, TensorFlow's 0."""
    result = np.empty_like(images)
    for i, image in enumerate(images):
        layer = (image - image.mean()) / np.sqrt(image.var(ddof=ddof) + 1e-5)
        for c in range(image.shape[-1]):
            plane = image[..., c]
            instance = (plane - plane.mean()) / np.sqrt(plane.var(ddof=ddof) + 1e-5)
            result[i, ..., c] = rho[c] * instance + (1 - rho[c]) * layer[..., c]
    return result


RHO = np.array([0.0, 0.05, 0.6, 1.0])


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_adaptive_layer_instance_norm(unbiased, smoothing):
    layer = AdaptiveLayerInstanceNorm(0.9, unbiased=unbiased, smoothing=smoothing, dtype="float64")
    gamma, beta = np.random.RandomState(1).standard_normal((2, 2, 4))
    layer.build([IMAGES.shape, gamma.shape, beta.shape])
    np.testing.assert_allclose(layer.rho.numpy(), [0.9] * 4, rtol=1e-6)
    layer.rho.assign(RHO)
    used = np.clip(RHO - smoothing, 0, 1)
    expected = numpy_mixture(IMAGES, used, int(unbiased)) * gamma[:, None, None] + beta[:, None, None]
    np.testing.assert_allclose(layer([IMAGES, gamma, beta]), expected, rtol=1e-10, atol=1e-12)


def test_smoothed_rho_has_no_gradient_below_the_smoothing():
    layer = AdaptiveLayerInstanceNorm(0.9, smoothing=0.1, dtype="float64")
    ones = np.ones((2, 4))
    layer.build([IMAGES.shape, ones.shape, ones.shape])
    layer.rho.assign(RHO)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer([IMAGES, ones, ones]) * tf.constant(IMAGES))
    gradient = tape.gradient(total, layer.rho.value).numpy()
    assert (gradient[:2] == 0).all()
    assert gradient[2:].all()


def test_layer_instance_norm():
    layer = LayerInstanceNorm(0.0, unbiased=True, dtype="float64")
    layer.build(IMAGES.shape)
    np.testing.assert_allclose(layer(IMAGES), numpy_mixture(IMAGES, [0.0] * 4, 1), rtol=1e-10, atol=1e-12)
    gamma, beta = np.arange(4.0) - 1, np.arange(4.0) * 2
    for variable, value in ((layer.rho, RHO), (layer.gamma, gamma), (layer.beta, beta)):
        variable.assign(value)
    np.testing.assert_allclose(layer(IMAGES), numpy_mixture(IMAGES, RHO, 1) * gamma + beta, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("replicas", [1, 2])
def test_rho_is_clipped_after_the_update(replicas):
    """By the engine's optimiser, on one device and on two."""
    from tfaclgan.engine import strategy as strategies
    from tfaclgan.engine.tensorflow import _ReplicaAdam

    strategy = strategies.make("cpu", cpu_devices=replicas).strategy
    with strategy.scope():
        layer = LayerInstanceNorm(0.5, upper=0.9)
        layer.build(IMAGES.shape)
        optimizer = _ReplicaAdam(1.0, 0.5, 0.999)
        optimizer.build(layer.trainable_variables)

    @tf.function
    def update():
        gradients = [tf.constant([-1.0, 1.0, 1e-3, 0.0]) for _ in layer.trainable_variables]
        strategy.run(lambda: optimizer.apply(gradients, layer.trainable_variables))

    update()
    values = {v.name: v.numpy() for v in layer.trainable_variables}
    np.testing.assert_allclose(values["rho"], [0.9, 0.0, 0.0, 0.5], atol=1e-6)
    np.testing.assert_allclose(values["gamma"], [2.0, 0.0, 0.0, 1.0], atol=2e-5)


def test_mixed_norms_of_a_blank_picture_are_finite():
    layer = LayerInstanceNorm(0.5, unbiased=True)
    blank = tf.ones((1, 8, 8, 4)) * 0.3
    with tf.GradientTape() as tape:
        tape.watch(blank)
        total = tf.reduce_sum(tf.square(layer(blank) - 1))
    assert np.isfinite(tape.gradient(total, blank).numpy()).all()


def written_out(images, kind):
    """The norms as one writes them, whose derivatives are TensorFlow's own."""
    axes = (1, 2) if kind.startswith("instance") else (1, 2, 3)
    count = float(np.prod([images.shape[axis] for axis in axes]))
    factor = count / (count - 1) if kind in ("instance unbiased", "sample") else 1.0
    mean = tf.reduce_mean(images, axes, keepdims=True)
    variance = factor * tf.reduce_mean(tf.square(images - mean), axes, keepdims=True)
    return (images - mean) / (tf.sqrt(variance) + 1e-5 if kind == "sample" else tf.sqrt(variance + 1e-5))


NORMS = {
    "instance": instance_norm,
    "instance unbiased": lambda x: instance_norm(x, unbiased=True),
    "layer": layer_norm,
    "sample": sample_norm,
}


def two_derivatives(norm, images, weights):
    """Of a loss by the images, and of the length of that gradient, as a gradient penalty needs it."""
    with tf.GradientTape() as outer:
        outer.watch(images)
        with tf.GradientTape() as inner:
            inner.watch(images)
            loss = tf.reduce_sum(weights * tf.sin(norm(images)))
        first = tf.cast(inner.gradient(loss, images), weights.dtype)
        length = tf.reduce_sum(first * first * tf.cos(weights))
    return first, outer.gradient(length, images)


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("compiled", [False, True])
def test_derivatives_of_norms_are_those_of_the_formula(kind, compiled):
    images, weights = tf.constant(IMAGES), tf.constant(np.random.RandomState(1).standard_normal(IMAGES.shape))
    run = tf.function(two_derivatives) if compiled else two_derivatives
    found = run(NORMS[kind], images, weights)
    expected = two_derivatives(lambda x: written_out(x, kind), images, weights)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("mean", [0.0, 20.0])
def test_norms_of_half_precision_are_as_exact_as_their_input(kind, mean):
    """Their one pass over the images loses nothing: against float64 on the same rounded images."""
    random = np.random.RandomState(0)
    images = tf.cast(random.standard_normal((2, 64, 64, 3)) + mean, "bfloat16")
    upstream = tf.constant(random.standard_normal(images.shape), "float32")
    results = []
    for norm, x in ((NORMS[kind], images), (lambda x: written_out(x, kind), tf.cast(images, "float64"))):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = norm(x)
            loss = tf.reduce_sum(y * tf.cast(upstream, y.dtype))
        results.append([np.asarray(y, np.float64), np.asarray(tf.cast(tape.gradient(loss, x), "float64"))])
    (y, dx), (exact_y, exact_dx) = results
    assert np.abs(y - exact_y).max() < 1e-5
    assert np.abs(dx - exact_dx).max() < 2**-8 * np.abs(exact_dx).max()  # rounded to bfloat16


def test_flat_channels_of_half_precision_become_zero():
    images = tf.fill((1, 16, 16, 2), tf.constant(0.7, "bfloat16"))
    assert not np.any(instance_norm(images))


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("norm", [instance_norm, sample_norm])
def test_a_traced_norm_has_no_gradient_that_tensorflow_registers(norm, dtype):
    """Its registry keeps the graph of every custom gradient: 140 MB for each small network that was trained."""
    graph = tf.function(norm).get_concrete_function(tf.TensorSpec((1, 4, 4, 2), dtype)).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    assert nodes
    assert not [node.name for node in nodes if "_gradient_op_type" in node.attr]


@pytest.mark.parametrize("norm", [instance_norm, sample_norm])
def test_the_pixel_that_is_subtracted_is_cut_out_of_the_half_images(norm):
    """Cut out of the float32 ones, the TPU's compiler writes all of those to memory: five times a norm's cycles."""
    graph = tf.function(norm).get_concrete_function(tf.TensorSpec((1, 8, 8, 2), tf.bfloat16)).graph
    cuts = [op for op in graph.get_operations() if op.type == "StridedSlice" and len(op.inputs[0].shape) == 4]
    assert [op.inputs[0].dtype for op in cuts] == [tf.bfloat16]


@pytest.fixture
def small_maps_too(monkeypatch):
    monkeypatch.setattr("tfaclgan.layers.norm._SMALL", 0)


def kernels(norm, images):
    """Names of the operations that `norm` becomes in a training step on a CPU."""
    with target.compiling_for("cpu"):
        graph = tf.function(norm).get_concrete_function(tf.TensorSpec(images, "bfloat16")).graph
    return [operation.type for operation in graph.get_operations()]


@pytest.mark.usefixtures("small_maps_too")
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("unbiased", [False, True])
def test_instance_norm_by_the_kernel_of_batch_norms(batch, unbiased):
    """In bfloat16 on TensorFlow's CPU: as the formula in float64 on the same images, but for the last rounding."""
    random = np.random.RandomState(0)
    images = tf.cast(random.standard_normal((batch, 16, 12, 3)) * (0.01, 1, 5) + 2, "bfloat16")
    upstream = tf.cast(random.standard_normal(images.shape), "bfloat16")

    def formula(x):
        return written_out(x, "instance unbiased" if unbiased else "instance")

    results = []
    for norm, x in ((lambda x: instance_norm(x, unbiased=unbiased), images), (formula, tf.cast(images, "float64"))):
        with target.compiling_for("cpu"), tf.GradientTape() as tape:
            tape.watch(x)
            y = norm(x)
            loss = tf.reduce_sum(y * tf.cast(upstream, y.dtype))
        results.append([np.asarray(value, np.float64) for value in (y, tape.gradient(loss, x))])
    for found, exact in zip(*results, strict=True):
        assert np.abs(found - exact).max() < 2**-8 * np.abs(exact).max()
    assert kernels(instance_norm, (batch, 16, 12, 3)).count("FusedBatchNormV3") == batch


@pytest.mark.usefixtures("small_maps_too")
@pytest.mark.parametrize("value", [0.7, -300.0])
def test_flat_channels_are_zero_by_the_kernel_too(value):
    """At the largest map it takes: further pixels would be added up inexactly, and the channel not be flat."""
    images = tf.fill((1, 256, 256, 2), tf.constant(value, "bfloat16"))
    with target.compiling_for("cpu"), tf.GradientTape() as tape:
        tape.watch(images)
        normal = instance_norm(images)
    upstream = tf.cast(np.random.RandomState(0).standard_normal(images.shape), "float32")
    assert "FusedBatchNormV3" in kernels(instance_norm, images.shape)
    assert not np.any(normal)
    assert not np.any(tape.gradient(normal, images, upstream))


@pytest.mark.usefixtures("small_maps_too")
@pytest.mark.parametrize("shape", [(5, 8, 8, 2), (1, 256, 257, 2), (None, 8, 8, 2), (1, None, 8, 2)])
def test_what_the_kernel_of_batch_norms_does_not_take(shape):
    assert "FusedBatchNormV3" not in kernels(instance_norm, shape)
    assert "FusedBatchNormV3" not in kernels(lambda x: instance_norm(tf.cast(x, "float32")), (1, 8, 8, 2))
    with target.compiling_for("xla cpu"):  # there it is another formula: E[x^2] - E[x]^2
        assert "FusedBatchNormV3" not in kernels(instance_norm, (1, 8, 8, 2))


def test_small_maps_keep_the_formula():
    assert "FusedBatchNormV3" not in kernels(instance_norm, (1, 64, 64, 128))
    assert "FusedBatchNormV3" in kernels(instance_norm, (1, 64, 64, 256))


@pytest.mark.usefixtures("small_maps_too")
def test_second_derivatives_through_the_kernel():
    images = tf.cast(IMAGES, "bfloat16")
    weights = tf.constant(np.random.RandomState(1).standard_normal(IMAGES.shape), "float32")
    with target.compiling_for("cpu"):
        found = two_derivatives(instance_norm, images, weights)
    exact = tf.cast(images, "float64")
    expected = two_derivatives(lambda x: written_out(x, "instance"), exact, tf.cast(weights, "float64"))
    for one, other in zip(found, expected, strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other)
        assert np.abs(one - other).max() < 0.03 * np.abs(other).max()


@pytest.fixture
def small_float32_maps_too(monkeypatch):
    monkeypatch.setattr("tfaclgan.layers.target._LARGE", 0)


@pytest.mark.usefixtures("small_float32_maps_too")
@pytest.mark.parametrize("kind", NORMS)
def test_norms_that_xla_compiles_on_tensorflows_cpu(kind):
    """Values, first and second derivatives as those of the written-out formula in float64."""
    weights = tf.constant(np.random.RandomState(1).standard_normal(IMAGES.shape), "float32")
    with target.compiling_for("cpu"):
        found = two_derivatives(NORMS[kind], tf.constant(IMAGES, "float32"), weights)
    exact = tf.cast(tf.constant(IMAGES, "float32"), "float64")
    expected = two_derivatives(lambda x: written_out(x, kind), exact, tf.cast(weights, "float64"))
    for one, other in zip(found, expected, strict=True):
        assert np.abs(np.asarray(one, np.float64) - other).max() < 1e-5 * np.abs(other).max()


@pytest.mark.parametrize("value", [0.7, -300.0, 1e-8])
@pytest.mark.parametrize("kind", NORMS)
def test_flat_maps_are_zero_where_xla_compiles(kind, value):
    """And pass no gradient; `sample_norm` passes that of the centring, divided by its epsilon, as PyTorch does."""
    images = tf.fill((1, 256, 256, 4), value)
    with target.compiling_for("cpu"), tf.GradientTape() as tape:
        tape.watch(images)
        normal = NORMS[kind](images)
    upstream = np.random.RandomState(0).standard_normal(images.shape)
    expected = 1e5 * (upstream - upstream.mean()) if kind == "sample" else np.zeros_like(upstream)
    assert not np.any(normal)
    np.testing.assert_allclose(
        tape.gradient(normal, images, tf.cast(upstream, "float32")), expected, rtol=1e-5, atol=1e-6 * expected.max()
    )


@pytest.mark.parametrize("kind", NORMS)
def test_images_of_bfloat16_where_xla_compiles(kind):
    """Their norm is that of the same values in float64: exact zeros for flat maps, small deviations kept."""
    random = np.random.RandomState(0).standard_normal((1, 256, 256, 4))
    for values in (random, 100 + random, np.full_like(random, -300)):
        images = tf.cast(values, tf.bfloat16)
        with target.compiling_for("cpu"):
            normal = NORMS[kind](images)
        expected = written_out(tf.cast(images, tf.float64), kind)
        assert np.any(expected) or not np.any(normal)
        np.testing.assert_allclose(tf.cast(normal, tf.float64), expected, rtol=2**-8, atol=1e-4)


def test_which_norms_xla_compiles():
    def compiled(shape, dtype, kind):
        with target.compiling_for(kind):
            graph = tf.function(lambda x: sample_norm(x)).get_concrete_function(tf.TensorSpec(shape, dtype)).graph
        return bool(graph.as_graph_def().library.function)

    assert compiled((1, 64, 64, 64), "float32", "cpu")
    assert not compiled((1, 64, 64, 32), "float32", "cpu")
    assert not compiled((None, 64, 64, 64), "float32", "cpu")
    assert compiled((1, 64, 64, 64), "bfloat16", "cpu")
    assert not compiled((1, 64, 64, 64), "float64", "cpu")
    assert not compiled((1, 64, 64, 64), "float32", "xla cpu")
