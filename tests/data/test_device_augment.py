"""Augmentation on the device against the host's: the same pictures from the same draws.

Tolerance: one level of 255 at one value in a thousand, and as many pixels of maps. Both sides compute the same formulas
in float32, in other orders: places differ by some 1e-5 pixels, levels by less than 1e-2, so that only what lies that
near to the middle between two levels (or, in maps, between two pixels) falls to the other side when it is rounded.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import record_folder
import tensorflow as tf
from toy import TOY, Config

from tfaclgan.data import augment, device_augment, pipeline
from tfaclgan.engine import strategy as strategies
from tfaclgan.engine import tpu_compiler
from tfaclgan.engine.tensorflow import Engine
from tfaclgan.errors import EXIT_OK, UserError
from tfaclgan.methods import base
from tfaclgan.training import checkpoint, loop, rundir

COUNT = 12
FRAME, CROP = (40, 56), (32, 36)
NOISE = np.random.RandomState(0).randint(0, 256, (*FRAME, 4), dtype=np.uint8)
COLOUR = ("brightness:0.9:0.7", "contrast:0.9:0.7", "saturation:0.9:0.7", "hue:0.5:0.7", "grey:0.5")
WARP = ("rotate:180:0.7", "translate:0.3:0.7", "perspective:0.9:0.7")
EVERYTHING = ",".join(("council", *COLOUR, *WARP))


def split_of(height, width):
    return pipeline.records.Split("trainA", 1, (), "", "", height, height, width, width)


def both(spec, image, crop=CROP, load=None, active=None):
    """{"a", "mask_a"} [COUNT, *crop, c] of the host and of the device under XLA; the mask is one channel of `image`."""
    stored, parsed = image.shape[:2], augment.parse(spec)
    seeds = np.stack([np.full(COUNT, 5), np.arange(COUNT)], 1).astype(np.int64)
    sizes = np.tile(np.array(stored, np.int32), (COUNT, 1))
    load = load or min(stored)
    drawn = augment.plan(parsed, tf.constant(seeds), tf.constant(sizes), *crop, load, active)
    device = device_augment.make(spec, *crop, load, image.shape[-1], {"a": split_of(*stored)})
    host, batch = {}, {"plan_a": device.pack(drawn)}
    assert batch["plan_a"].shape == (COUNT, device.columns)
    for key, picture in (("a", image), ("mask_a", image[..., :1])):
        is_map = key != "a"
        rows = [{name: value[number] for name, value in drawn.items()} for number in range(COUNT)]
        picture = tf.constant(picture)
        host[key] = np.stack([augment.random_image(picture, parsed, row, *crop, is_map=is_map) for row in rows])
        ready = augment.resize(picture, tf.constant(device.frames["a"]), nearest=is_map)
        batch[key] = tf.repeat(ready[tf.newaxis], COUNT, 0)
    result = tf.function(device.apply, jit_compile=True)(batch)
    return host, {key: value.numpy() for key, value in result.items()}


def assert_same_pictures(host, device):
    assert host.keys() == device.keys()
    for key in host:
        assert host[key].dtype == device[key].dtype
        assert host[key].shape == device[key].shape
        if host[key].dtype != np.uint8:
            np.testing.assert_array_equal(host[key], device[key])
            continue
        gap = np.abs(host[key].astype(int) - device[key].astype(int))
        assert np.mean(gap > 0) <= 1e-3, key
        if not key.startswith(device_augment.MAPS):
            assert gap.max() <= 1, key


@pytest.mark.parametrize("spec", ["none", "acl_gan", "flip:1"])
def test_crops_and_flips_are_the_same_to_the_byte(spec):
    host, device = both(spec, NOISE[..., :3])
    assert len(np.unique(host["a"], axis=0)) == {"none": 1, "acl_gan": COUNT, "flip:1": 1}[spec]
    for key in host:
        np.testing.assert_array_equal(host[key], device[key])


@pytest.mark.parametrize(
    "spec", [*COLOUR, *WARP, *(name for name in augment.PRESETS if augment.PRESETS[name] not in ("", "flip,crop"))]
)
def test_each_operation_and_each_preset_equals_the_host(spec):
    """On noise, where neighbours differ most."""
    host, device = both(spec, NOISE[..., :3])
    assert len(np.unique(host["a"], axis=0)) > 1
    assert_same_pictures(host, device)


@pytest.mark.parametrize("spec", ["resized_crop:0.5:1:0.5", "flip,resized_crop:0.748:1:0.5,crop,rotate:20:0.5"])
def test_windows_of_pictures_of_the_crop_s_size(spec):
    assert_same_pictures(*both(spec, NOISE[:36, :36, :3], (36, 36)))


def test_pictures_are_resized_by_the_host():
    assert_same_pictures(*both(EVERYTHING, record_folder.photo(70, 61, seed=3), load=40))


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels(channels):
    spec = EVERYTHING if channels == 1 else ",".join((*WARP, "flip", "crop"))
    assert_same_pictures(*both(spec, NOISE[..., :channels]))


def test_places_that_no_camera_sees_are_black():
    """The horizon of a strong perspective: division by zero, and places far outside."""
    image = tf.constant(NOISE[np.newaxis, ..., :3], tf.float32)
    matrix = tf.constant([[1e6, 0, 3, 0, 1, 2, 0, -1 / 8]], tf.float32)
    for nearest in (False, True):
        ours = device_augment.warp(image, matrix, *CROP, nearest=nearest)[0]
        theirs = augment.warp(image[0], matrix[0], *CROP, nearest=nearest)
        np.testing.assert_allclose(ours, theirs, atol=0.05)
        assert not np.any(ours[8])


def test_what_the_device_cannot_do_is_refused_in_one_line(tmp_path):
    options = pipeline.PipelineOptions(16, 16, 16, augment="council", augment_on="device")
    images = [NOISE[:side, :24, :3] for side in (20, 30)]
    manifest = record_folder.make(tmp_path, {"trainA": images[:1], "trainB": images})
    with pytest.raises(UserError, match=r"pictures of trainB are 20 to 30 pixels high .* --augment_on=host") as caught:
        pipeline.training_dataset(manifest, options, global_batch=1)
    assert "\n" not in str(caught.value)
    zoom = dataclasses.replace(options, augment="resized_crop:0.5")
    with pytest.raises(UserError, match="resized_crop would shrink 18x18 pictures"):
        pipeline.device_augmentation(dataclasses.replace(zoom, load_size=18), 3, None)
    assert pipeline.device_augmentation(zoom, 3, None).frames == {"a": (16, 16), "b": (16, 16)}
    with pytest.raises(UserError, match="cannot be applied to images of 4 channels"):
        pipeline.device_augmentation(options, 4, None)


# -- the pipeline and the engine --------------------------------------------------------------


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    def items(count, height, width, seed):
        for number in range(count):
            image = record_folder.photo(height, width, seed + number)
            mask = (image[..., :1] > 127).astype(np.uint8)
            yield {"image": image, "mask": mask * 255, "target": 255 - image, "label_map": mask * 7, "label": number}

    splits = {"trainA": list(items(5, 20, 24, 0)), "trainB": list(items(4, 22, 22, 9))}
    return record_folder.make(tmp_path_factory.mktemp("data"), splits)


OPTIONS = pipeline.PipelineOptions(16, 16, 18, augment="flip,crop,rotate:30,hue:0.2", augment_until_step=2, seed=3)


def on_device(options):
    return dataclasses.replace(options, augment_on="device")


def take(manifest, count, options, **arguments):
    dataset = pipeline.training_dataset(manifest, options, **arguments)
    return [{name: value.numpy() for name, value in batch.items()} for batch in dataset.take(count)]


def test_batches_equal_the_host_s_at_every_step(manifest):
    """Companions, matched histograms, blurred copies, the step from which only the crop stays."""
    options = dataclasses.replace(
        OPTIONS, companions=("mask", "target", "label_map"), match_histograms="rgb", blurred_copies=True
    )
    host = take(manifest, 3, options, global_batch=2)
    raw = take(manifest, 3, on_device(options), global_batch=2)
    device = pipeline.device_augmentation(on_device(options), 3, manifest)
    assert device.frames == {"a": (18, 21), "b": (18, 18), "blur_a": (18, 21), "blur_b": (18, 18)}
    example = device.example(2)
    assert {(name, value.shape, str(value.dtype)) for name, value in raw[0].items() if name in example} == {
        (name, tuple(value.shape), value.dtype.name) for name, value in example.items()
    }
    apply = tf.function(device.apply, jit_compile=True)

    def augmented(batch):
        made = apply({name: value for name, value in batch.items() if value.dtype != object})
        made = {name: value.numpy() for name, value in made.items()}
        return {**made, **{name: value for name, value in batch.items() if value.dtype == object}}

    for left, right in zip(host, raw, strict=True):
        assert_same_pictures(left, augmented(right))


def test_any_start_and_any_replicas_see_the_same_batches(manifest):
    options = dataclasses.replace(on_device(OPTIONS), companions=())
    whole = take(manifest, 4, options, global_batch=2)
    later = take(manifest, 2, options, global_batch=2, first_step=2)
    parts = take(manifest, 4, options, global_batch=2, replicas_per_host=2)
    for name in whole[0]:
        for step in (2, 3):
            np.testing.assert_array_equal(later[step - 2][name], whole[step][name])
        np.testing.assert_array_equal(np.concatenate([parts[2][name], parts[3][name]]), whole[1][name])


def trained(manifest, options, replicas=1, xla="on", steps=4):
    strategy = strategies.make("cpu", cpu_devices=replicas).strategy
    augmentation = pipeline.device_augmentation(options, 3, manifest)
    subject = Engine(
        TOY, Config(), image_shape=(16, 16, 3), recipe=TOY.recipe, strategy=strategy, xla=xla, augmentation=augmentation
    )

    def make(_):
        dataset = pipeline.training_dataset(manifest, options, global_batch=4, replicas_per_host=replicas)
        return dataset.map(lambda batch: {name: value for name, value in batch.items() if value.dtype != tf.string})

    iterator = iter(make(None) if replicas == 1 else strategy.distribute_datasets_from_function(make))
    subject.train(iterator, steps)
    assert subject.trace_count == 1
    return subject.state()


def assert_same_state(left, right):
    """Pictures differ in a value of a thousand by one level; four steps of Adam hardly notice."""
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def expected(manifest):
    return trained(manifest, OPTIONS, xla="off")


@pytest.mark.parametrize(("replicas", "xla"), [(1, "on"), (2, "off"), pytest.param(2, "on", marks=pytest.mark.slow)])
def test_training_equals_that_on_the_host_s_pictures(manifest, expected, replicas, xla):
    assert_same_state(trained(manifest, on_device(OPTIONS), replicas, xla), expected)


def test_the_tpu_s_step_holds_the_augmentation(manifest):
    """No op without a TPU kernel, static shapes: HLO has no others."""
    options = dataclasses.replace(on_device(OPTIONS), augment=EVERYTHING)
    augmentation = pipeline.device_augmentation(options, 3, manifest)
    recipe = dataclasses.replace(TOY.recipe, batch_size=2)
    subject = Engine(TOY, Config(), image_shape=(16, 16, 3), recipe=recipe, xla="on", augmentation=augmentation)
    hlo = tpu_compiler.step_hlo(subject, 1)
    assert b"augmentation" in hlo
    assert b"gather" in hlo


def test_a_run_that_was_stopped_goes_on_with_the_same_pictures(manifest, tmp_path, monkeypatch):
    monkeypatch.setitem(base._REGISTRY, "toy", TOY)

    def start(path, steps):
        recipe = dataclasses.replace(TOY.recipe, steps=steps)
        run = rundir.Run(str(tmp_path / path), TOY, Config(), (16, 16, 3), {"load_size": 18})
        settings = loop.Settings(recipe, on_device(OPTIONS), steps_per_loop=2, sample_every=0, checkpoint_every=2)
        assert loop.train(run, manifest, strategies.make("cpu"), settings) == EXIT_OK
        return checkpoint.load_newest(os.path.join(run.path, "checkpoints"))[1]

    whole = start("whole", 4)
    start("parts", 2)
    for name, value in start("parts", 4).items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)
