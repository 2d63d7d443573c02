"""Foreground masks: from class maps, folders, and the network that finds people."""

from __future__ import annotations

import hashlib
import io
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from tfaclgan.data import avatars, masks, pipeline, records, verify
from tfaclgan.data.convert import ConvertOptions, convert, make_record
from tfaclgan.data.images import ImageOptions, RejectedError
from tfaclgan.data.sources import AvatarSource, BytesJob, Loaded
from tfaclgan.errors import UserError

OPTIONS = ImageOptions(size=32)
REGION = {"feature": "mask", "classes": [], "name": "glasses"}


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def opened(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture(scope="module")
def astronaut():
    return pytest.importorskip("skimage.data").astronaut()


@pytest.fixture(scope="module")
def avatar_folder(tmp_path_factory):
    """Glasses, with the face as foreground in training and in B's test pictures."""
    source = AvatarSource("glasses", train_count=3, test_count=2, seed=0)
    mask = masks.parse("labels", label_names=source.label_names, without=("accessories", "mouth"), region=source.region)
    folder = str(tmp_path_factory.mktemp("avatars") / "out")
    convert(source, folder, ConvertOptions(ImageOptions(size=64, format="png"), workers=1, progress=False, mask=mask))
    return folder


def test_label_masks_of_avatars_reach_the_batches(avatar_folder):
    manifest = records.load_manifest(avatar_folder)
    assert manifest.splits["trainA"].has_mask
    assert manifest.splits["trainB"].has_mask
    assert manifest.options["mask"]["kind"] == "labels"
    options = pipeline.PipelineOptions(48, 48, 52, augment="flip,crop,rotate:20", companions=("mask", "label_map"))
    batch = next(iter(pipeline.training_dataset(manifest, options, global_batch=3)))
    left_out = [avatars.LABEL_NAMES.index(name) for name in ("background", "hat", "clothes", "accessories", "mouth")]
    for domain in "ab":
        mask, labels = batch[f"mask_{domain}"].numpy(), batch[f"label_map_{domain}"].numpy()
        assert mask.shape == (3, 48, 48, 1)
        assert mask.dtype == np.uint8
        # Mask and class map went through the same geometry, pixel for pixel.
        np.testing.assert_array_equal(mask, np.where(np.isin(labels, left_out), 0, 255))
        assert 0.1 < (mask > 0).mean() < 0.7


def test_masks_that_evaluation_measures_in_stay(avatar_folder):
    """testA's mask is the glasses (the region); the other splits' is the face."""
    manifest = records.load_manifest(avatar_folder)
    assert manifest.region == REGION
    shares = {}
    for split in ("testA", "testB"):
        options = pipeline.PipelineOptions(64, 64, 64)
        batch = next(iter(pipeline.evaluation_dataset(manifest, split, options, batch=2)))
        shares[split] = (batch["mask"].numpy() > 0).mean()
    assert shares["testA"] < 0.1 < shares["testB"]


@pytest.mark.parametrize(
    "edge, expected",
    [
        ("as_is", [0, 76, 77, 127, 128, 178, 179, 255]),
        ("soft", [0, 0, 77, 127, 128, 178, 255, 255]),
        ("hard", [0, 0, 0, 0, 255, 255, 255, 255]),
    ],
)
def test_edges(edge, expected):
    """The reference's thresholds 0.3, 0.7 and 0.5 lie at 76.5, 178.5 and 127.5 of 255."""
    values = np.array([[0, 76, 77, 127, 128, 178, 179, 255]], np.uint8)
    assert masks.with_edge(values, edge).tolist() == [expected]


def test_the_shipped_network_is_the_published_one():
    with open(masks.MODEL, "rb") as file:
        assert hashlib.sha256(file.read()).hexdigest() == masks.SHA256


def test_the_network_finds_the_astronaut(astronaut):
    """The reference measured 54 % person; her face and suit are inside, the flag and the shuttle beside her not."""
    mask = masks.segment(astronaut)
    assert mask.shape == astronaut.shape[:2]
    assert (mask > 127).mean() == pytest.approx(0.54, abs=0.02)
    assert (mask[60:160, 180:260] > 230).mean() > 0.95  # her face
    assert (mask[350:500, 150:350] > 127).mean() > 0.95  # the suit
    assert (mask[20:200, 20:80] < 25).mean() > 0.95  # the flag
    assert (mask[20:140, 400:480] < 25).mean() > 0.95  # the shuttle


def test_a_photograph_becomes_a_record_with_its_mask(astronaut):
    options = masks.parse("segmenter", edge="hard")
    record = make_record(Loaded(png(astronaut)), BytesJob("a/astronaut.png"), OPTIONS, options)
    mask = opened(record.mask)
    assert mask.shape == (32, 32)
    assert set(np.unique(mask)) == {0, 255}
    grey = make_record(Loaded(png(astronaut)), BytesJob("a.png"), ImageOptions(size=32, channels=1), options)
    assert (opened(grey.mask) == mask).mean() > 0.8


def test_masks_of_a_folder(tmp_path):
    picture = np.random.RandomState(0).randint(0, 256, (48, 64, 3), dtype=np.uint8)
    mask = np.zeros((48, 64), np.uint8)
    mask[:, :32] = 255
    (tmp_path / "trainA").mkdir()
    Image.fromarray(mask).save(tmp_path / "trainA" / "one.png")
    options = masks.parse(f"folder:{tmp_path}")
    record = make_record(Loaded(png(picture)), BytesJob("trainA/one.jpg"), OPTIONS, options)
    assert opened(record.mask)[:, :20].min() == 255
    assert opened(record.mask)[:, -20:].max() == 0
    with pytest.raises(RejectedError, match="no mask trainA/two"):
        make_record(Loaded(png(picture)), BytesJob("trainA/two.jpg"), OPTIONS, options)
    with pytest.raises(RejectedError, match="mask is 64x48 pixels, the image 48x48"):
        make_record(Loaded(png(picture[:, :48])), BytesJob("trainA/one.jpg"), OPTIONS, options)


def test_parts_of_label_maps_and_folders_are_planes(tmp_path):
    """The foreground, the foreground without glasses and mouth, and the glasses."""
    labels = np.random.RandomState(0).randint(0, 19, (32, 32), dtype=np.uint8)
    picture = png(np.zeros((32, 32, 3), np.uint8))
    options = masks.parse("labels", classes=("1", "6", "11", "17"), parts=True, glasses=("6",), mouth=("11",))
    record = make_record(Loaded(picture, label_map=png(labels)), BytesJob("x.png"), OPTIONS, options)
    planes = [np.isin(labels, classes) for classes in ((1, 6, 11, 17), (1, 17), (6,))]
    np.testing.assert_array_equal(opened(record.mask), 255 * np.stack(planes, -1))

    soft = np.random.RandomState(1).randint(0, 256, (32, 32, 3), dtype=np.uint8)  # a parser's probabilities
    (tmp_path / "x.png").write_bytes(png(soft))
    record = make_record(Loaded(picture), BytesJob("x.jpg"), OPTIONS, masks.parse(f"folder:{tmp_path}", parts=True))
    np.testing.assert_array_equal(opened(record.mask), soft)
    (tmp_path / "x.png").write_bytes(png(soft[..., 0]))
    with pytest.raises(RejectedError, match="one for each of its three planes; this is L"):
        make_record(Loaded(picture), BytesJob("x.jpg"), OPTIONS, masks.parse(f"folder:{tmp_path}", parts=True))


def test_parts_of_avatars_from_the_converter_to_the_batches(tmp_path):
    source = AvatarSource("glasses", train_count=3, test_count=2, seed=0)
    mask = masks.parse("labels", label_names=source.label_names, parts=True, region=source.region)
    folder = str(tmp_path / "out")
    convert(source, folder, ConvertOptions(ImageOptions(size=64, format="png"), workers=1, progress=False, mask=mask))
    manifest = records.load_manifest(folder)
    verify.verify(folder)
    for place in ("host", "device"):
        options = pipeline.PipelineOptions(
            48, 48, 52, augment="flip,crop,rotate:20", augment_on=place, companions=("mask", "label_map")
        )
        batch = next(iter(pipeline.training_dataset(manifest, options, global_batch=3)))
        device = pipeline.device_augmentation(options, 3, manifest)
        batch = device.apply(batch) if device else batch
        for domain in "ab":
            labels = batch[f"label_map_{domain}"].numpy()
            glasses, mouth = (labels == avatars.LABEL_NAMES.index(name) for name in ("accessories", "mouth"))
            face = np.isin(labels, [avatars.LABEL_NAMES.index(name) for name in masks.FACE])
            expected = 255 * np.concatenate([face, face & ~glasses & ~mouth, glasses], -1)
            np.testing.assert_array_equal(batch[f"mask_{domain}"].numpy(), expected)
            assert glasses.any() == (domain == "a")
            assert mouth.any()
    options = pipeline.PipelineOptions(64, 64, 64)
    for split in ("testA", "testB"):  # evaluation has one plane; A's is the glasses (the region)
        batch = next(iter(pipeline.evaluation_dataset(manifest, split, options, batch=2)))
        assert batch["mask"].shape == (2, 64, 64, 1)
        assert ((batch["mask"].numpy() > 0).mean() < 0.1) == (split == "testA")


def test_other_numbers_of_planes_are_refused(avatar_folder, tmp_path):
    text = json.dumps({**json.loads(pathlib.Path(avatar_folder, "dataset.json").read_text()), "mask_planes": 2})
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError, match="mask_planes is 2, not 1 or 3"):
        records.load_manifest(str(tmp_path))


def test_a_given_mask_stays_or_goes():
    picture, mask = np.zeros((32, 32, 3), np.uint8), np.full((32, 32), 255, np.uint8)
    loaded, job = Loaded(png(picture), mask=png(mask)), BytesJob("x.png")
    assert make_record(loaded, job, OPTIONS).mask
    assert not make_record(loaded, job, OPTIONS, masks.parse("none")).mask
    assert make_record(loaded, job, OPTIONS, masks.parse("none", region=REGION)).mask


def test_a_picture_without_the_label_map_is_rejected():
    options = masks.parse("labels", classes=("1",))
    with pytest.raises(RejectedError, match="no label map"):
        make_record(Loaded(png(np.zeros((32, 32, 3), np.uint8))), BytesJob("x.png"), OPTIONS, options)


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("faces", {}, "unknown; choose source"),
        ("folder", {}, "unknown; choose source"),
        ("folder:nowhere", {}, "no such folder"),
        ("labels", {}, "names no classes of a face"),
        ("labels", {"classes": ("nose",)}, "'nose' is no class"),
        ("labels", {"classes": ("7",), "without": ("7",)}, "leaves no class"),
        ("source", {"without": ("1",)}, "choose classes of label maps"),
        ("segmenter", {"edge": "round"}, "choose one of as_is"),
        ("segmenter", {"parts": True}, "--mask=segmenter knows no parts"),
        ("labels", {"classes": ("1",), "glasses": ("6",)}, "for --mask=labels --mask_parts"),
        ("labels", {"classes": ("1",), "parts": True}, "--mask_glasses: 'accessories' is no class"),
        ("segmenter", {"segmenter": "nowhere.tflite"}, "no such file"),
    ],
)
def test_bad_options_are_user_errors(text, options, message):
    with pytest.raises(UserError, match=message):
        masks.parse(text, **options)


def test_without_an_interpreter_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(masks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"\[faces\]"):
        masks.parse("segmenter")
