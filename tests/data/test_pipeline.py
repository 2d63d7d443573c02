"""Order, addressing by step, hosts and replicas, what is in a batch, evaluation."""

from __future__ import annotations

import dataclasses
import io
import itertools
import os

import numpy as np
import pytest
import record_folder
import tensorflow as tf
from PIL import Image
from scipy import stats

from tfaclgan.data import augment, pipeline, reading
from tfaclgan.errors import UserError

EVERYTHING = "council,brightness:0.2:0.5,contrast:0.2,saturation:0.3:0.5,resized_crop:0.5:1:0.3"
OPTIONS = pipeline.PipelineOptions(height=16, width=16, load_size=18, augment="flip,crop,rotate:30:0.5,hue:0.2", seed=3)
ALL_OPTIONS = dataclasses.replace(OPTIONS, augment=EVERYTHING)


def pictures(count, height=20, width=24, seed=0):
    return list(np.random.RandomState(seed).randint(0, 256, (count, height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    splits = {"trainA": pictures(7), "trainB": pictures(5, seed=1), "testA": pictures(5, seed=2)}
    return record_folder.make(tmp_path_factory.mktemp("data"), splits)


def take(manifest, batches, options=OPTIONS, **arguments):
    dataset = pipeline.training_dataset(manifest, options, **arguments)
    return [{name: value.numpy() for name, value in batch.items()} for batch in dataset.take(batches)]


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def keys(batches, domain):
    return [key.decode() for batch in batches for key in batch[f"key_{domain}"]]


# -- order ------------------------------------------------------------------------------------


def test_batches_have_static_shapes(manifest):
    spec = pipeline.training_dataset(manifest, OPTIONS, global_batch=4, replicas_per_host=2).element_spec
    assert {name: (tuple(entry.shape), entry.dtype) for name, entry in spec.items()} == {
        "a": ((2, 16, 16, 3), tf.uint8),
        "b": ((2, 16, 16, 3), tf.uint8),
        "label_a": ((2,), tf.int32),
        "label_b": ((2,), tf.int32),
        "key_a": ((2,), tf.string),
        "key_b": ((2,), tf.string),
    }
    batch = take(manifest, 1, global_batch=4)[0]
    assert batch["a"].shape == (4, 16, 16, 3)
    assert len(np.unique(batch["a"])) > 50


def test_each_epoch_of_each_domain_holds_every_record_once(manifest):
    """Domains of 7 and 5 records, batches of 4: each domain counts its own epochs."""
    batches = take(manifest, 35, global_batch=4)
    for domain, count in (("a", 7), ("b", 5)):
        order = np.array([int(key.split("/")[1]) for key in keys(batches, domain)]).reshape(-1, count)
        np.testing.assert_array_equal(np.sort(order, 1), np.tile(np.arange(count), (len(order), 1)))
        assert len(set(map(tuple, order))) > len(order) * 0.7  # of 5 records there are 120 orders only


@pytest.mark.parametrize("count", [1, 2, 3, 100, 2048, 2049, 5000])
def test_epochs_are_permutations(count):
    epochs = 3
    numbers = pipeline.record_numbers(tf.range(epochs * count, dtype=tf.int64), count, 5, 1).numpy()
    np.testing.assert_array_equal(np.sort(numbers.reshape(epochs, count), 1), np.tile(np.arange(count), (epochs, 1)))
    # Any stretch gives the same records, whatever else is asked for with it.
    part = pipeline.record_numbers(tf.constant([count, 0, 2 * count], tf.int64), count, 5, 1).numpy()
    np.testing.assert_array_equal(part, numbers[[count, 0, 2 * count]])


@pytest.mark.parametrize("count", [4, 2049])
def test_orders_are_uniform_and_many(count):
    """First records of many epochs. The op alone, given the epoch as a seed, knows 256 orders."""
    epochs = 600
    sample = tf.range(epochs, dtype=tf.int64)[:, tf.newaxis] * count + tf.range(2, dtype=tf.int64)
    numbers = pipeline.record_numbers(tf.reshape(sample, [-1]), count, 0, 0).numpy().reshape(epochs, 2)
    bins = np.minimum(numbers[:, 0] * 4 // count, 3)
    assert stats.chisquare(np.bincount(bins, minlength=4)).pvalue > 1e-3
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.15
    distinct = len(set(map(tuple, numbers)))
    assert distinct == 12 if count == 4 else distinct > 590


def test_order_depends_on_seed_and_domain(manifest):
    sample = tf.range(50, dtype=tf.int64)
    orders = [pipeline.record_numbers(sample, 50, seed, domain).numpy() for seed in (0, 1, 2**40) for domain in (0, 1)]
    for left, right in itertools.combinations(orders, 2):
        assert np.mean(left == right) < 0.2


def test_starting_at_a_step_is_the_uninterrupted_run(manifest):
    whole = take(manifest, 12, ALL_OPTIONS, global_batch=3)
    for first in (1, 7):
        for left, right in zip(
            whole[first:], take(manifest, 12 - first, ALL_OPTIONS, global_batch=3, first_step=first)
        ):
            assert_equal(left, right)


@pytest.mark.parametrize("hosts, replicas", [(2, 1), (1, 3), (2, 3)])
def test_hosts_and_replicas_share_the_same_global_batch(manifest, hosts, replicas):
    first, steps = 4, 3
    whole = take(manifest, steps, global_batch=12, first_step=first)
    parts = [
        take(
            manifest,
            steps * replicas,
            global_batch=12,
            first_step=first,
            host=host,
            hosts=hosts,
            replicas_per_host=replicas,
        )
        for host in range(hosts)
    ]
    for step in range(steps):
        mine = [parts[host][step * replicas + replica] for host in range(hosts) for replica in range(replicas)]
        assert_equal({name: np.concatenate([part[name] for part in mine]) for name in mine[0]}, whole[step])


def test_replicas_of_a_strategy_get_their_rows(manifest):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    whole = take(manifest, 2, global_batch=4)

    def make(_):
        dataset = pipeline.training_dataset(manifest, OPTIONS, global_batch=4, replicas_per_host=2)
        return dataset.map(lambda batch: {"a": batch["a"]})

    iterator = iter(strategy.distribute_datasets_from_function(make))
    for step in range(2):
        values = strategy.experimental_local_results(next(iterator)["a"])
        np.testing.assert_array_equal(np.concatenate([value.numpy() for value in values]), whole[step]["a"])


def test_cache_and_threads_change_nothing(manifest):
    whole = take(manifest, 6, global_batch=4)
    for options in (
        dataclasses.replace(OPTIONS, cache_mb=0),
        dataclasses.replace(OPTIONS, parallel_calls=5),
    ):
        for left, right in zip(whole, take(manifest, 6, options, global_batch=4)):
            assert_equal(left, right)


def test_repeated_images_are_augmented_anew(manifest):
    batches = take(manifest, 14, global_batch=4)
    images = {}
    for batch in batches:
        for key, image in zip(batch["key_a"], batch["a"]):
            images.setdefault(key, []).append(image)
    for repeats in images.values():
        assert len(repeats) == 8
        assert all((left != right).any() for left, right in itertools.combinations(repeats, 2))


def test_domains_of_one_image(tmp_path):
    manifest = record_folder.make(tmp_path, {"trainA": pictures(1), "trainB": pictures(1, seed=1)}, shards=1)
    batches = take(manifest, 2, global_batch=3)
    assert keys(batches, "a") == ["trainA/0"] * 6
    assert len(np.unique(np.concatenate([batch["a"] for batch in batches]), axis=0)) == 6


def test_unordered_delivery_is_possible(manifest):
    options = dataclasses.replace(OPTIONS, deterministic=False)
    batches = take(manifest, 5, options, global_batch=4)
    assert all(batch["a"].shape == (4, 16, 16, 3) for batch in batches)


# -- content ----------------------------------------------------------------------------------


def plain(**changes):
    return dataclasses.replace(OPTIONS, **{"height": 20, "width": 24, "load_size": 20, "augment": "none", **changes})


def test_unaugmented_images_are_the_stored_ones(manifest):
    stored = {f"trainA/{number}": image for number, image in enumerate(pictures(7))}
    stored.update({f"trainB/{number}": image for number, image in enumerate(pictures(5, seed=1))})
    for batch in take(manifest, 4, plain(), global_batch=3):
        for domain in "ab":
            for key, image in zip(batch[f"key_{domain}"], batch[domain]):
                np.testing.assert_array_equal(image, stored[key.decode()])


def test_flip_and_crop_show_windows_of_the_stored_image(manifest):
    stored = dict(enumerate(pictures(7)))
    options = plain(height=16, width=16, augment="acl_gan")
    found = set()
    for batch in take(manifest, 12, options, global_batch=4):
        for key, image in zip(batch["key_a"], batch["a"]):
            source = stored[int(key.decode().split("/")[1])]
            places = [
                (top, left, flip)
                for top in range(5)
                for left in range(9)
                for flip in (1, -1)
                if (source[top : top + 16, left : left + 16][:, ::flip] == image).all()
            ]
            assert len(places) == 1
            found.update(places)
    assert {place[0] for place in found} == set(range(5))
    assert {place[1] for place in found} == set(range(9))
    assert {place[2] for place in found} == {1, -1}


def test_augmentation_ends_at_its_step(manifest):
    """From that step on the crop's place is all that is random, and it is what it would have been."""
    until = dataclasses.replace(ALL_OPTIONS, augment_until_step=3)
    crop = dataclasses.replace(OPTIONS, augment="crop")
    always, ending, only = (take(manifest, 6, options, global_batch=4) for options in (ALL_OPTIONS, until, crop))
    for step in range(6):
        assert_equal(ending[step], always[step] if step < 3 else only[step])
        assert (always[step]["a"] != only[step]["a"]).any()
    after = take(manifest, 2, until, global_batch=4, first_step=4)
    assert_equal(after[0], only[4])


def test_augmentation_that_only_crops_never_ends(manifest):
    crop = dataclasses.replace(OPTIONS, augment="crop", augment_until_step=1)
    for left, right in zip(
        take(manifest, 3, crop, global_batch=4),
        take(manifest, 3, dataclasses.replace(crop, augment_until_step=0), global_batch=4),
    ):
        assert_equal(left, right)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels(tmp_path, channels):
    images = list(np.random.RandomState(0).randint(0, 256, (4, 20, 24, channels), dtype=np.uint8))
    manifest = record_folder.make(tmp_path, {"trainA": images, "trainB": images}, channels=channels)
    spec = "flip,crop,rotate:20" + (",brightness:0.2" if channels == 1 else "")
    batch = take(manifest, 1, plain(height=16, width=16, augment=spec), global_batch=2)[0]
    assert batch["a"].shape == (2, 16, 16, channels)
    shown = take(manifest, 1, plain(), global_batch=4)[0]
    for key, image in zip(shown["key_a"], shown["a"]):
        np.testing.assert_array_equal(image, images[int(key.decode().split("/")[1])])
    if channels == 1:
        take(manifest, 1, dataclasses.replace(OPTIONS), global_batch=2)
    else:
        with pytest.raises(UserError, match="cannot be applied to images of 4 channels"):
            take(manifest, 1, OPTIONS, global_batch=2)


def test_images_of_many_sizes(tmp_path):
    random = np.random.RandomState(0)
    shapes = [(16, 16), (40, 17), (17, 90), (200, 31), (3, 5), (1, 1)]
    images = [random.randint(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    manifest = record_folder.make(tmp_path, {"trainA": images, "trainB": images[::-1], "testA": images})
    for spec in ("none", "acl_gan", EVERYTHING):
        for batch in take(manifest, 4, dataclasses.replace(OPTIONS, augment=spec), global_batch=3):
            assert batch["a"].shape == batch["b"].shape == (3, 16, 16, 3)
    assert pipeline.read_images(manifest, "testA", 10, OPTIONS).shape == (6, 16, 16, 3)


@pytest.mark.parametrize("subsampling", [0, 2])
def test_jpeg_is_decoded_as_pillow_does(tmp_path, subsampling):
    image = record_folder.photo(40, 56)
    encoded = record_folder.jpeg(image, subsampling=subsampling)
    item = {"image": image, "encoded": encoded}
    manifest = record_folder.make(tmp_path, {"testA": [item]}, shards=1)
    ours = pipeline.read_images(manifest, "testA", 1, plain(height=40, width=56, load_size=40))[0]
    theirs = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    assert np.abs(ours.astype(int) - theirs).max() <= 1  # equal, where both use the same libjpeg


def test_masks_and_targets_travel_with_their_image(tmp_path):
    """Companions drawn from the image itself stay drawn from it after augmentation."""
    items = []
    for number in range(4):
        image = np.repeat(np.zeros((20, 24, 1), np.uint8), 3, -1)
        image[4 + number : 14 + number, 5:17] = 255
        items.append({"image": image, "mask": image[..., :1], "target": image, "label_map": image[..., :1] // 255 * 7})
    manifest = record_folder.make(tmp_path, {"trainA": items, "trainB": [item["image"] for item in items]})
    spec = "flip,crop,rotate:35,translate:0.1,perspective:0.3,resized_crop:0.5:1:0.5"
    options = dataclasses.replace(OPTIONS, augment=spec, companions=("mask", "target", "label_map"))
    for batch in take(manifest, 8, options, global_batch=2):
        assert set(batch) == {
            *("a", "b", "mask_a", "target_a", "label_map_a", "label_a", "label_b", "key_a", "key_b"),
        }
        np.testing.assert_array_equal(batch["a"], batch["target_a"])
        np.testing.assert_array_equal(batch["mask_a"] // 255 * 7, batch["label_map_a"])
        assert batch["mask_a"].shape == (2, 16, 16, 1)
        assert set(np.unique(batch["mask_a"])) <= {0, 255}
        decided = (batch["a"][..., :1] < 40) | (batch["a"][..., :1] > 215)
        agree = (batch["a"][..., :1] > 127) == (batch["mask_a"] > 127)
        assert agree[decided].mean() > 0.98
    coloured = dataclasses.replace(options, augment="brightness:0.5,hue:0.5,crop")
    for batch in take(manifest, 2, coloured, global_batch=2):
        np.testing.assert_array_equal(batch["a"], batch["target_a"])  # the same picture, so the same colours
        assert set(np.unique(batch["label_map_a"])) <= {0, 7}
    assert "target_a" not in take(manifest, 1, dataclasses.replace(options, companions=("mask",)), global_batch=2)[0]


def test_labels_and_keys(tmp_path):
    items = [{"image": image, "label": 5 + n, "key": f"Käfer/{n}.png"} for n, image in enumerate(pictures(3))]
    manifest = record_folder.make(tmp_path, {"trainA": items, "trainB": pictures(2)})
    batch = take(manifest, 1, global_batch=3)[0]
    assert {key.decode(): label for key, label in zip(batch["key_a"], batch["label_a"])} == {
        "Käfer/0.png": 5,
        "Käfer/1.png": 6,
        "Käfer/2.png": 7,
    }
    assert set(batch["label_b"]) == {-1}


# -- evaluation -------------------------------------------------------------------------------


def pillow_test_image(image, height, width, load):
    scale = load / min(image.shape[:2])
    resized = Image.fromarray(image).resize(
        (int(image.shape[1] * scale), int(image.shape[0] * scale)), Image.Resampling.BILINEAR
    )
    top, left = (resized.height - height) // 2, (resized.width - width) // 2
    return np.asarray(resized)[top : top + height, left : left + width]


@pytest.mark.parametrize("batch, valid", [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (8, [5])])
def test_evaluation_is_in_order_and_padded(manifest, batch, valid):
    elements = list(pipeline.evaluation_dataset(manifest, "testA", OPTIONS, batch=batch))
    assert [int(np.sum(element["valid"])) for element in elements] == valid
    images = np.concatenate([element["image"][element["valid"]] for element in elements])
    names = np.concatenate([element["key"][element["valid"]] for element in elements])
    assert [name.decode() for name in names] == [f"testA/{number}" for number in range(5)]
    for ours, stored in zip(images, pictures(5, seed=2)):
        assert np.abs(ours.astype(int) - pillow_test_image(stored, 16, 16, 18)).max() <= 1
    spec = pipeline.evaluation_dataset(manifest, "testA", OPTIONS, batch=batch).element_spec
    assert all(entry.shape.is_fully_defined() for entry in spec.values())
    assert spec["image"].shape == (batch, 16, 16, 3)
    assert set(spec) == {"image", "key", "label", "valid"}
    np.testing.assert_array_equal(pipeline.read_images(manifest, "testA", 9, OPTIONS), images)
    np.testing.assert_array_equal(pipeline.read_images(manifest, "testA", 2, OPTIONS), images[:2])


def test_evaluation_companions(tmp_path):
    items = [
        {"image": image, "target": 255 - image, "mask": image[..., :1] // 128 * 255, "label_map": image[..., :1] // 30}
        for image in pictures(3)
    ]
    manifest = record_folder.make(tmp_path, {"testA": items})
    options = plain(height=16, width=18)
    (element,) = pipeline.evaluation_dataset(manifest, "testA", options, batch=3)
    for number, item in enumerate(items):
        for name in ("image", "target", "mask", "label_map"):
            np.testing.assert_array_equal(element[name][number], item[name][2:18, 3:21], err_msg=name)


def test_nothing_asked_for_is_nothing_read(manifest):
    assert pipeline.read_images(manifest, "testA", 0, OPTIONS).shape == (0, 16, 16, 3)


# -- what users get wrong ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"global_batch": 3, "hosts": 2}, "batch size 3 cannot be shared by 2 replicas"),
        ({"global_batch": 4, "hosts": 2, "replicas_per_host": 4}, "cannot be shared by 8 replicas"),
        ({"global_batch": 0}, "batch size 0"),
        ({"global_batch": 4, "host": 2, "hosts": 2}, "host 2 of 2 does not exist"),
    ],
)
def test_impossible_batches(manifest, arguments, words):
    with pytest.raises(UserError, match=words):
        pipeline.training_dataset(manifest, OPTIONS, **arguments)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"load_size": 15}, "load size 15 is below the crop's shorter side 16"),
        ({"height": 0}, "crop 0x16"),
        ({"companions": ("shadow",)}, "records hold no 'shadow'"),
        ({"augment": "blur"}, "'blur' is neither a preset"),
    ],
)
def test_impossible_options(manifest, changes, words):
    options = dataclasses.replace(OPTIONS, **changes)
    with pytest.raises(UserError, match=words) as caught:
        pipeline.training_dataset(manifest, options, global_batch=2)
    assert "\n" not in str(caught.value)
    if "augment" not in changes:
        with pytest.raises(UserError, match=words):
            pipeline.evaluation_dataset(manifest, "testA", options, batch=2)
        with pytest.raises(UserError, match=words):
            pipeline.read_images(manifest, "testA", 2, options)


def test_missing_splits_and_odd_manifests(manifest):
    with pytest.raises(UserError, match="split testB is missing"):
        pipeline.evaluation_dataset(manifest, "testB", OPTIONS, batch=2)
    without = dataclasses.replace(manifest, splits={"trainA": manifest.splits["trainA"]})
    with pytest.raises(UserError, match="split trainB is missing"):
        pipeline.training_dataset(without, OPTIONS, global_batch=2)
    with pytest.raises(UserError, match="2 channels"):
        pipeline.training_dataset(dataclasses.replace(manifest, channels=2), OPTIONS, global_batch=2)
    with pytest.raises(UserError, match="batch size 0"):
        pipeline.evaluation_dataset(manifest, "testA", OPTIONS, batch=0)


def test_a_split_cached_in_memory_is_read_from_disk_once(manifest, monkeypatch):
    reads = []
    original = reading.SplitReader._read
    monkeypatch.setattr(reading.SplitReader, "_read", lambda self, n: reads.append(n) or original(self, n))
    fresh = dataclasses.replace(manifest)  # readers are shared by all datasets of one
    take(fresh, 20, dataclasses.replace(OPTIONS, augment="none"), global_batch=4)
    # Two reads may meet in the same record once, before either has stored it.
    assert len(reads) <= 2 * (7 + 5)
    assert set(reads) == set(range(7))


def test_further_datasets_leave_no_files_open(tmp_path):
    manifest = record_folder.make(tmp_path, {"trainA": pictures(7), "trainB": pictures(5), "testA": pictures(5)})

    def open_shards():
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        return sorted(os.readlink(link) for link in links if os.path.lexists(link))

    def use():
        take(manifest, 1, global_batch=2)
        list(pipeline.evaluation_dataset(manifest, "testA", OPTIONS, batch=2).take(1))
        pipeline.read_images(manifest, "testA", 2, OPTIONS)
        return [path for path in open_shards() if path.startswith(str(tmp_path))]

    for _ in range(3):
        paths = use()
        assert paths
        assert len(set(paths)) == len(paths), "a shard is open twice"


def test_plans_use_the_records_sizes(manifest):
    """The plan is drawn before an image is decoded, so its height and width come from the record."""
    assert augment.parse(EVERYTHING).warps
    batch = take(manifest, 1, plain(height=16, width=16, augment="translate:1"), global_batch=4)[0]
    assert (batch["a"] == 0).mean() > 0.2
