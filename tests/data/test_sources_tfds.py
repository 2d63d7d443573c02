"""A tiny TensorFlow Datasets builder, prepared on the spot: splits and classes as domains."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import pixels

from tfaclgan.data.source_tfds import TfdsOptions, TfdsSource
from tfaclgan.data.sources import LayoutOptions
from tfaclgan.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")


SIZES = {"trainA": 5, "trainB": 4, "testA": 3, "testB": 2, "mixed": 12}


def picture(split, number):
    return np.random.default_rng([len(split), ord(split[-1]), number]).integers(0, 256, (20, 24, 3), dtype=np.uint8)


class TinyPairs(tfds.core.GeneratorBasedBuilder):
    """Splits as cycle_gan has them, and one of two classes mixed."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(20, 24, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=["cat", "dog", "owl"]),
                "depth": tfds.features.Image(shape=(20, 24, 1), dtype=np.float32),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(name) for name in SIZES}

    def _generate_examples(self, split):
        for i in range(SIZES[split]):
            depth = np.zeros((20, 24, 1), np.float32)
            yield i, {"image": picture(split, i), "label": i % 3, "depth": depth}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    TinyPairs(data_dir=folder).download_and_prepare()
    return folder


def source(data_dir, *, one_domain=False, test_fraction=0.1, max_images=0, **options):
    layout = LayoutOptions(one_domain=one_domain, test_fraction=test_fraction, max_images=max_images)
    return TfdsSource("tiny_pairs", TfdsOptions(data_dir=data_dir, **options), layout)


def stored(made, split, start=0):
    return [(job.key, job.label, pixels(job.load(64).image)) for job in made.jobs(split, start)]


def as_library_reads(data_dir, split):
    data = TinyPairs(data_dir=data_dir).as_dataset(split=split, shuffle_files=False)
    return [(example["image"], int(example["label"])) for example in data.as_numpy_iterator()]


def test_splits_of_the_usual_names_are_found(data_dir):
    made = source(data_dir)
    assert made.counts == {"trainA": 5, "trainB": 4, "testA": 3, "testB": 2}
    assert made.label_names == ("cat", "dog", "owl")
    assert (made.description["version"], made.description["kind"]) == ("1.0.0", "tfds")
    for split in made.counts:
        jobs, expected = stored(made, split), as_library_reads(data_dir, split)
        assert [key for key, _, _ in jobs] == [f"{split}/{i:08d}" for i in range(len(expected))]
        for (_, label, image), (wanted, wanted_label) in zip(jobs, expected, strict=True):
            np.testing.assert_array_equal(image, wanted)
            assert label == wanted_label
    assert [key for key, _, _ in stored(made, "trainA", 3)] == ["trainA/00000003", "trainA/00000004"]


def test_named_splits_and_their_test_images(data_dir):
    made = source(data_dir, splits=("mixed[:50%]", "testA"), test_fraction=0.34)
    assert made.counts == {"trainA": 4, "trainB": 2, "testA": 2, "testB": 1}
    keys = [key for split in ("trainA", "testA") for key, _, _ in stored(made, split)]
    assert sorted(keys) == [f"mixed[:50%]/{i:08d}" for i in range(6)]


@pytest.mark.parametrize("classes", [("cat", "owl"), ("0", "2")])
def test_classes_as_domains(data_dir, classes):
    made = source(data_dir, classes=classes, train="mixed", test="trainA")
    expected = {
        split: [image for image, label in as_library_reads(data_dir, spec) if label == number]
        for split, spec, number in (
            ("trainA", "mixed", 0),
            ("trainB", "mixed", 2),
            ("testA", "trainA", 0),
            ("testB", "trainA", 2),
        )
    }
    assert made.counts == {split: len(images) for split, images in expected.items()}
    for split, images in expected.items():
        for (_, _, image), wanted in zip(stored(made, split), images, strict=True):
            np.testing.assert_array_equal(image, wanted)


def test_without_a_test_split_a_fraction_is_put_aside(data_dir):
    made = source(data_dir, classes=("cat", "dog"), train="mixed", test_fraction=0.25)
    assert made.counts == {"trainA": 3, "trainB": 3, "testA": 1, "testB": 1}


def test_one_domain_and_limits(data_dir):
    assert source(data_dir, one_domain=True).counts == {"trainA": 5, "trainB": 0, "testA": 3, "testB": 0}
    assert source(data_dir, max_images=2).counts == {"trainA": 2, "trainB": 2, "testA": 2, "testB": 2}
    assert source(data_dir, one_domain=True, classes=("dog",), train="mixed", test="").counts["trainA"] == 4


def test_a_prepared_folder_needs_no_code_of_the_data_set(data_dir, monkeypatch):
    monkeypatch.delitem(tfds.core.registered._DATASET_REGISTRY, "tiny_pairs")
    assert source(data_dir).counts["trainA"] == 5


@pytest.mark.parametrize(
    "options, words",
    [
        ({"splits": ("trainA", "nothing")}, "no split 'nothing'; there are "),
        ({"splits": ("trainA", "trainB", "testA")}, "say which splits are A and B with --tfds_splits"),
        ({"classes": ("cat", "fish"), "train": "mixed"}, "no class 'fish'; there are cat, dog, owl"),
        ({"classes": ("cat", "3"), "train": "mixed"}, "no class '3'"),
        ({"classes": ("cat",), "train": "mixed"}, "--tfds_classes=cat: give 2, A first"),
        ({"classes": ("cat", "dog")}, "no split 'train'"),
        ({"classes": ("cat", "dog"), "label_key": "image", "train": "mixed"}, "'image' is no class label"),
        ({"image_key": "label"}, "'label' is no image feature"),
        ({"image_key": "picture"}, "'picture' is no image feature"),
        ({"image_key": "depth"}, "images of float32"),
        ({"classes": ("cat", "owl"), "train": "testB", "test": ""}, "no images for trainB in testB"),
    ],
)
def test_what_is_wrong_is_said(data_dir, options, words):
    with pytest.raises(UserError, match=words) as error:
        source(data_dir, **options)
    assert "\n" not in str(error.value)


def test_a_set_that_is_not_prepared_is_not_fetched_unasked(tmp_path):
    with pytest.raises(UserError, match=r"tiny_pairs: not prepared in .*; pass --tfds_download"):
        source(str(tmp_path))
    assert not list(tmp_path.iterdir())
    assert source(str(tmp_path), download=True).counts["trainA"] == 5


def test_a_set_that_cannot_be_fetched(tmp_path, monkeypatch):
    def no_network(self, **options):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(TinyPairs, "download_and_prepare", no_network)
    with pytest.raises(
        UserError, match=r"could not be fetched \(ConnectionError: no route to host\); check the network"
    ):
        source(str(tmp_path), download=True)


def test_a_set_that_nobody_knows(tmp_path):
    with pytest.raises(UserError, match="tfds:no_such_set: no such data set, neither known nor prepared") as error:
        TfdsSource("no_such_set", TfdsOptions(data_dir=str(tmp_path)), LayoutOptions())
    assert "\n" not in str(error.value)
