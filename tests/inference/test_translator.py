import dataclasses
import types

import numpy as np
import pytest

from tfaclgan.errors import UserError
from tfaclgan.inference import arrays, translator
from tfaclgan.inference.translator import Translator


def pictures(count, height=32, width=32, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), np.uint8)


def direct(run_and_networks, images, style, direction="a2b"):
    """The method itself, without the translator: images float [-1, 1] of a size the networks accept."""
    import tensorflow as tf

    run, networks = run_and_networks
    return run.method.translate(networks, tf.constant(images), tf.constant(style), direction, run.config)


def test_a_size_the_networks_accept_is_translated_as_the_method_does(acl_gan_run):
    images = arrays.to_float(pictures(3, 32, 48))
    style = np.random.default_rng(1).standard_normal((3, 3)).astype(np.float32)
    wanted = direct(acl_gan_run, images, style)
    full = Translator(*acl_gan_run).translate_full(images, style=style)
    np.testing.assert_allclose(full.image, wanted.image, atol=2e-5)
    np.testing.assert_allclose(full.mask, wanted.mask, atol=2e-5)
    np.testing.assert_allclose(full.raw, wanted.raw, atol=2e-5)


@pytest.mark.parametrize(("height", "width"), [(30, 45), (33, 32), (32, 35)])
def test_other_sizes_are_reflected_evenly_and_cropped_back(acl_gan_run, height, width):
    images = arrays.to_float(pictures(2, height, width))
    style = np.ones((2, 3), np.float32)
    multiple = acl_gan_run[0].method.size_multiple(acl_gan_run[0].config)
    more_rows, more_columns = -height % multiple, -width % multiple
    top, left = more_rows // 2, more_columns // 2
    padded = np.pad(images, ((0, 0), (top, more_rows - top), (left, more_columns - left), (0, 0)), mode="reflect")
    wanted = np.asarray(direct(acl_gan_run, padded, style).image)[:, top : top + height, left : left + width]
    result = Translator(*acl_gan_run).translate(images, style=style)
    assert result.shape == images.shape
    np.testing.assert_allclose(result, wanted, atol=2e-5)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (7, 5)])
def test_images_below_the_smallest_size_keep_their_size(acl_gan_run, height, width):
    images = pictures(2, height, width)
    run = acl_gan_run[0]
    assert min(height, width) < run.method.minimum_size(run.config)
    full = Translator(*acl_gan_run).translate_full(images)
    assert full.image.shape == images.shape
    assert full.mask.shape == (2, height, width, 1)


def test_uint8_and_float_forms_agree(acl_gan_run):
    images = pictures(2)
    translate = Translator(*acl_gan_run).translate
    as_uint8 = translate(images, seed=3)
    as_float = translate(arrays.to_float(images), seed=3)
    assert as_uint8.dtype == np.uint8
    assert as_float.dtype == np.float32
    np.testing.assert_array_equal(as_uint8, arrays.to_uint8(as_float))
    assert translate(arrays.to_float(images).astype(np.float64), seed=3).dtype == np.float64


def test_results_do_not_depend_on_batching(acl_gan_run):
    images = arrays.to_float(pictures(7))
    together = Translator(*acl_gan_run, batch=8).translate(images, seed=5)
    np.testing.assert_allclose(Translator(*acl_gan_run, batch=3).translate(images, seed=5), together, atol=2e-5)
    # The first images keep their styles when fewer are given.
    np.testing.assert_allclose(Translator(*acl_gan_run).translate(images[:2], seed=5), together[:2], atol=2e-5)


def test_batches_are_filled_up_so_that_few_shapes_are_compiled(acl_gan_run):
    loaded = Translator(*acl_gan_run, batch=8)
    for count in range(1, 9):
        assert len(loaded.translate(pictures(count))) == count
    assert len(loaded._compiled) == 4  # 1, 2, 4, 8


def test_old_graphs_are_dropped(make_negative_run):
    loaded = Translator(make_negative_run(), {})
    for side in range(1, 30):
        loaded.translate(pictures(1, side, side))
    assert len(loaded._compiled) == translator.COMPILED_SHAPES
    np.testing.assert_array_equal(loaded.translate(pictures(1, 1, 1)), 255 - pictures(1, 1, 1))


def test_an_empty_array_gives_an_empty_array(acl_gan_run):
    full = Translator(*acl_gan_run).translate_full(np.zeros((0, 20, 24, 3), np.uint8))
    assert full.image.shape == (0, 20, 24, 3)
    assert full.image.dtype == np.uint8
    assert full.mask.shape == (0, 20, 24, 1)


def test_seed_decides_the_style(acl_gan_run):
    loaded, images = Translator(*acl_gan_run), arrays.to_float(pictures(2))
    first = loaded.translate(images, seed=1)
    np.testing.assert_array_equal(loaded.translate(images, seed=1), first)
    assert np.abs(loaded.translate(images, seed=2) - first).max() > 1e-3
    styles = np.stack([arrays.draw_style(1, index, 3) for index in range(2)])
    np.testing.assert_allclose(loaded.translate(images, style=styles), first, atol=1e-6)


def test_one_style_serves_all_images(acl_gan_run):
    loaded, images = Translator(*acl_gan_run), arrays.to_float(pictures(3))
    style = np.array([[0.5, -1.0, 2.0]])
    wanted = loaded.translate(images, style=np.repeat(style, 3, axis=0))
    np.testing.assert_allclose(loaded.translate(images, style=style), wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["acl_gan", "munit"])
def test_style_of_reference_images(make_tiny_run, name):
    import tensorflow as tf

    run, networks = make_tiny_run(name)
    loaded = Translator(run, networks)
    images, references = arrays.to_float(pictures(2)), pictures(2, 40, 24, seed=9)
    wanted_style = run.method.encode_style(
        networks, tf.constant(arrays.to_float(references)), "a2b", run.config
    ).numpy()
    style = loaded.encode_style(references)
    assert style.shape == (2, loaded.style_dim) == (2, 3)
    np.testing.assert_allclose(style, wanted_style, atol=2e-5)
    wanted = loaded.translate(images, style=wanted_style)
    np.testing.assert_allclose(loaded.translate(images, style=references), wanted, atol=2e-5)


def test_mask_blends_raw_over_the_input(acl_gan_run):
    loaded, images = Translator(*acl_gan_run), arrays.to_float(pictures(2, 30, 34))
    full = loaded.translate_full(images, seed=4)
    mask = loaded.mask(images, seed=4)
    assert mask.shape == (2, 30, 34, 1)
    assert mask.dtype == np.float32
    assert mask.min() >= 0
    assert mask.max() <= 1
    np.testing.assert_array_equal(mask, full.mask)
    np.testing.assert_allclose(full.image, full.raw * mask + images * (1 - mask), atol=1e-5)


def test_mask_stays_float_for_uint8_images(acl_gan_run):
    full = Translator(*acl_gan_run).translate_full(pictures(1))
    assert full.mask.dtype == np.float32
    assert full.raw.dtype == np.uint8


def test_both_directions_of_munit_differ_and_a2b_is_the_default(munit_run):
    loaded, images = Translator(*munit_run), arrays.to_float(pictures(1))
    assert loaded.directions == ("a2b", "b2a")
    a2b, b2a = loaded.translate(images, "a2b"), loaded.translate(images, "b2a")
    np.testing.assert_array_equal(loaded.translate(images), a2b)
    assert np.abs(a2b - b2a).max() > 1e-3


def test_the_default_direction_is_the_trained_one(make_tiny_run):
    loaded = Translator(*make_tiny_run("acl_gan", direction="b2a"))
    images = pictures(1)
    np.testing.assert_array_equal(loaded.translate(images), loaded.translate(images, "b2a"))
    with pytest.raises(UserError, match=r"direction a2b.*trained for b2a only"):
        loaded.translate(images, "a2b")


def test_grey_images(make_tiny_run):
    images = pictures(2, channels=1)
    result = Translator(*make_tiny_run("acl_gan", (32, 32, 1))).translate(images)
    assert result.shape == images.shape


def test_bfloat16_networks_give_float32_arrays(make_tiny_run):
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        loaded = Translator(*make_tiny_run("acl_gan"))
    finally:
        keras.config.set_dtype_policy("float32")
    full = loaded.translate_full(arrays.to_float(pictures(1)))
    assert full.image.dtype == full.mask.dtype == np.float32
    assert np.isfinite(full.image).all()


def test_load_asks_the_run_directory(monkeypatch, acl_gan_run):
    asked = []

    def load_networks(run_dir, checkpoint="latest"):
        asked.append((run_dir, checkpoint))
        return acl_gan_run

    import sys

    monkeypatch.setitem(sys.modules, "tfaclgan.training.rundir", types.SimpleNamespace(load_networks=load_networks))
    import tfaclgan

    loaded = tfaclgan.load("runs/x", checkpoint="best")
    assert asked == [("runs/x", "best")]
    assert loaded.run is acl_gan_run[0]


def test_a_method_without_style_takes_none(make_negative_run):
    loaded, images = Translator(make_negative_run(), {}), pictures(2)
    assert loaded.style_dim == 0
    np.testing.assert_array_equal(loaded.translate(images), 255 - images)
    for call in (
        lambda: loaded.translate(images, style=np.zeros((2, 3))),
        lambda: loaded.translate(images, style=images),
        lambda: loaded.encode_style(images),
    ):
        with pytest.raises(UserError, match=r"Negative.*style"):
            call()


def test_a_method_without_mask_says_so(munit_run):
    with pytest.raises(UserError, match="MUNIT") as caught:
        Translator(*munit_run).mask(pictures(1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"direction": "b2a"}, "trained for a2b only"),
        ({"direction": "a to b"}, "trained for a2b only"),
        ({"seed": -1}, "seed -1"),
        ({"style": np.zeros((2, 4))}, r"\[2, 4\]"),
        ({"style": np.zeros((3, 3))}, r"\[3, 3\]"),
        ({"style": np.zeros(3)}, r"\[3\]"),
        ({"style": np.full((2, 3), np.inf)}, "finite"),
        ({"style": np.array([["a", "b", "c"]] * 2)}, "finite"),
        ({"style": np.zeros((3, 8, 8, 3), np.uint8)}, "reference images"),
        ({"style": np.zeros((2, 8, 8, 1), np.uint8)}, "reference images: 1 channels"),
        ({"images": np.zeros((2, 8, 8, 4), np.uint8)}, "4 channels"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(acl_gan_run, arguments, words):
    arguments = {"images": pictures(2), **arguments}
    with pytest.raises(UserError, match=words) as caught:
        Translator(*acl_gan_run).translate(**arguments)
    assert "\n" not in str(caught.value)


def test_a_batch_holds_at_least_one_image(acl_gan_run):
    with pytest.raises(UserError, match="batch 0"):
        Translator(*acl_gan_run, batch=0)


def test_images_that_do_not_fit_in_memory_are_told_in_one_line(make_negative_run):
    import tensorflow as tf

    def exhausted(networks, images, style, direction, config):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nwith shape")

    run = make_negative_run()
    run.method = dataclasses.replace(run.method, translate=exhausted)
    with pytest.raises(UserError, match="2 images of 20 x 30 pixels do not fit") as caught:
        Translator(run, {}).translate(pictures(2, 20, 30))
    assert "\n" not in str(caught.value)


def test_translator_needs_only_the_method_interface(acl_gan_run):
    """A method that knows only what `Method` names is enough: nothing is asked of ACL-GAN in particular."""
    run, networks = acl_gan_run
    renamed = types.SimpleNamespace(**{**vars(run), "method": dataclasses.replace(run.method, name="other")})
    images = pictures(1)
    np.testing.assert_array_equal(
        Translator(renamed, networks).translate(images), Translator(run, networks).translate(images)
    )
