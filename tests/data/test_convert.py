"""The converter as a function: what it writes, that it writes the same every time, and what it refuses."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from pictures import (
    DyingJob,
    ListSource,
    ModulesJob,
    PictureJob,
    contents,
    encoded,
    four_folders,
    make_folder,
    noise,
    pixels,
    read_folder,
    smooth,
)
from PIL import Image

from tfaclgan.data import convert as convert_module
from tfaclgan.data import records
from tfaclgan.data.convert import ConvertOptions, convert
from tfaclgan.data.images import ImageOptions
from tfaclgan.data.shards import ShardWriter, read_offsets
from tfaclgan.data.sources import FolderSource, LayoutOptions
from tfaclgan.errors import UserError

IMAGE = ImageOptions(size=16, min_size=4, format="png")
OPTIONS = ConvertOptions(IMAGE, workers=1, progress=False)
MEGABYTE = 1 << 20


def options(**changes):
    image = {name: changes.pop(name) for name in list(changes) if hasattr(IMAGE, name)}
    return dataclasses.replace(OPTIONS, image=dataclasses.replace(IMAGE, **image), **changes)


def folder_source(folder, **layout):
    return FolderSource(str(folder), LayoutOptions(**layout), max_bytes=MEGABYTE)


def picture_source(count=6, splits=("trainA", "trainB", "testA"), seed=0):
    generator = np.random.default_rng(seed)
    return ListSource(
        {
            split: [
                PictureJob(f"{split}/{i}", encoded(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)))
                for i in range(count)
            ]
            for split in splits
        }
    )


# ------------------------------------------------------------------------------------------------ what is written


def test_records_hold_what_pillow_makes_of_the_files(tmp_path):
    folder = four_folders(tmp_path / "in")
    summary = convert(folder_source(folder), str(tmp_path / "out"), OPTIONS)
    manifest, found = read_folder(tmp_path / "out")
    for split in ("trainA", "trainB", "testA", "testB"):
        assert [record["image/key"].decode() for record in found[split]] == [f"{split}/{i:03d}.png" for i in range(3)]
        for record in found[split]:
            source = Image.open(os.path.join(folder, record["image/key"].decode()))
            expected = np.asarray(source.resize((24, 16), Image.Resampling.BILINEAR))
            np.testing.assert_array_equal(pixels(record["image/encoded"]), expected)
            assert (record["image/height"], record["image/width"], record["image/channels"]) == (16, 24, 3)
            assert (record["image/format"], record["image/label"]) == (b"png", -1)
            assert record["target/encoded"] == record["mask/encoded"] == record["label_map/encoded"] == b""
    assert manifest["schema_version"] == records.SCHEMA_VERSION
    assert (manifest["name"], manifest["channels"], manifest["load_size"], manifest["format"]) == ("out", 3, 16, "png")
    assert manifest["splits"]["trainA"]["count"] == 3
    assert manifest["splits"]["testB"]["max_width"] == 24
    assert manifest["source"]["kind"] == "folder"
    assert manifest["options"]["resample"] == "bilinear"
    assert summary.manifest.splits == records.load_manifest(str(tmp_path / "out")).splits


def test_dataset_json_states_the_shards_and_the_index_finds_every_record(tmp_path):
    convert(picture_source(7), str(tmp_path / "out"), options(shards=3))
    manifest, found = read_folder(tmp_path / "out")
    for name, split in manifest["splits"].items():
        files = [shard["file"] for shard in split["shards"]]
        assert files == [f"{name}-{i:05d}-of-00003.tfrecord" for i in range(3)]
        data = [(tmp_path / "out" / file).read_bytes() for file in files]
        for shard, raw in zip(split["shards"], data, strict=True):
            assert shard["sha256"] == hashlib.sha256(raw).hexdigest()
            assert shard["bytes"] == len(raw)
        assert [shard["records"] for shard in split["shards"]] == [3, 2, 2]
        index = np.load(tmp_path / "out" / split["index"])
        assert split["index_sha256"] == hashlib.sha256((tmp_path / "out" / split["index"]).read_bytes()).hexdigest()
        assert index.dtype == np.int64
        import tensorflow as tf

        for (number, offset, length), record in zip(index, found[name], strict=True):
            example = tf.train.Example.FromString(data[number][offset : offset + length])
            assert example.features.feature["image/key"].bytes_list.value[0] == record["image/key"]


def test_the_schemas_own_parser_reads_the_records(tmp_path):
    import tensorflow as tf

    convert(picture_source(2), str(tmp_path / "out"), OPTIONS)
    manifest = records.load_manifest(str(tmp_path / "out"))
    data = tf.data.TFRecordDataset(manifest.path(manifest.split("trainB").shards[0].file)).map(records.parse)
    assert [value["image/key"] for value in data.as_numpy_iterator()] == [b"trainB/0", b"trainB/1"]


def test_companions_are_written_at_the_images_size(tmp_path):
    folder = make_folder(tmp_path / "in", ["trainA/a.png", "trainB/b.png", "testA/c.png", "testA_target/c.png"])
    os.makedirs(tmp_path / "in/testA_mask")
    os.makedirs(tmp_path / "in/testA_label_map")
    mask, labels = np.zeros((20, 30), np.uint8), np.random.default_rng(0).integers(0, 9, (20, 30), dtype=np.uint8)
    mask[:, 15:] = 255
    Image.fromarray(mask).save(tmp_path / "in/testA_mask/c.png")
    Image.fromarray(labels).save(tmp_path / "in/testA_label_map/c.png")
    convert(folder_source(folder), str(tmp_path / "out"), options(format="jpeg"))
    manifest, found = read_folder(tmp_path / "out")
    (record,) = found["testA"]
    expected = Image.open(tmp_path / "in/testA_target/c.png").resize((24, 16), Image.Resampling.BILINEAR)
    assert np.abs(pixels(record["target/encoded"]).astype(int) - np.asarray(expected)).mean() < 6  # JPEG of noise
    written = pixels(record["mask/encoded"])
    assert (written[:, :11] == 0).all()
    assert (written[:, 13:] == 255).all()
    nearest = Image.fromarray(labels).resize((24, 16), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(pixels(record["label_map/encoded"]), np.asarray(nearest))
    split = manifest["splits"]["testA"]
    assert (split["has_target"], split["has_mask"], split["has_label_map"]) == (True, True, True)
    assert not manifest["splits"]["trainA"]["has_target"]


def test_companions_of_another_size_are_rejected(tmp_path):
    folder = make_folder(tmp_path / "in", [f"{s}/a.png" for s in ("trainA", "trainB", "testA")] + ["testA/b.png"])
    make_folder(tmp_path / "in", ["testA_target/a.png"], height=10)
    make_folder(tmp_path / "in", ["testA_target/b.png"])
    summary = convert(folder_source(folder), str(tmp_path / "out"), OPTIONS)
    assert summary.rejected == 1
    assert 'testA/a.png,"its target is 30x10 pixels, the image 30x20"' in (tmp_path / "out/rejected.csv").read_text()


def test_folder_labels_reach_the_records(tmp_path):
    folder = make_folder(tmp_path / "in", ["trainA/dog/1.png", "trainA/cat/1.png", "trainB/1.png"])
    convert(folder_source(folder, folder_labels=True), str(tmp_path / "out"), OPTIONS)
    manifest, found = read_folder(tmp_path / "out")
    assert manifest["label_names"] == ["cat", "dog"]
    assert [record["image/label"] for record in found["trainA"]] == [0, 1]
    assert [record["image/label"] for record in found["trainB"]] == [-1]


def test_one_channel(tmp_path):
    convert(picture_source(2), str(tmp_path / "out"), options(channels=1))
    manifest, found = read_folder(tmp_path / "out")
    assert manifest["channels"] == 1
    assert pixels(found["trainA"][0]["image/encoded"]).shape == (16, 19)
    assert found["trainA"][0]["image/channels"] == 1


@pytest.mark.parametrize("extension, expected", [("png", "png"), ("jpg", "jpeg")])
def test_the_format_follows_the_source_where_it_is_left_open(tmp_path, extension, expected):
    folder = make_folder(tmp_path / "in", [f"trainA/a.{extension}", "trainB/b.png"])
    convert(folder_source(folder), str(tmp_path / "out"), options(format="auto"))
    manifest, found = read_folder(tmp_path / "out")
    assert manifest["format"] == expected
    assert all(record["image/format"] == expected.encode() for record in found["trainA"] + found["trainB"])


def test_jpeg_quality_is_high(tmp_path):
    source = ListSource({s: [PictureJob(s, encoded(smooth(40, 40)))] for s in ("trainA", "trainB")})
    convert(source, str(tmp_path / "out"), options(format="jpeg", size=40))
    _, found = read_folder(tmp_path / "out")
    assert np.abs(pixels(found["trainA"][0]["image/encoded"]).astype(int) - smooth(40, 40)).max() <= 6


def test_shards_close_at_their_size(tmp_path):
    convert(picture_source(40, ("trainA", "trainB")), str(tmp_path / "out"), options(shard_mb=0.01))
    manifest, found = read_folder(tmp_path / "out")
    shards = manifest["splits"]["trainA"]["shards"]
    largest = max(len(record["image/encoded"]) for record in found["trainA"]) + 400
    assert len(shards) > 3
    assert all(0.01 * MEGABYTE <= shard["bytes"] < 0.01 * MEGABYTE + largest for shard in shards[:-1])
    assert [record["image/key"].decode() for record in found["trainA"]] == [f"trainA/{i}" for i in range(40)]


@pytest.mark.parametrize("count, shards, sizes", [(5, 5, [1] * 5), (3, 8, [1] * 3), (10, 4, [3, 2, 3, 2]), (6, 1, [6])])
def test_a_number_of_shards(tmp_path, count, shards, sizes):
    convert(picture_source(count, ("trainA", "trainB")), str(tmp_path / "out"), options(shards=shards))
    manifest, _ = read_folder(tmp_path / "out")
    assert [shard["records"] for shard in manifest["splits"]["trainA"]["shards"]] == sizes


def test_shards_without_a_record_are_left_out(tmp_path):
    source = picture_source(6, ("trainA", "trainB"))
    source.splits["trainA"][2:4] = [PictureJob(f"trainA/{i}", b"no image") for i in (2, 3)]
    convert(source, str(tmp_path / "out"), options(shards=3))
    manifest, found = read_folder(tmp_path / "out")
    files = [shard["file"] for shard in manifest["splits"]["trainA"]["shards"]]
    assert files == ["trainA-00000-of-00002.tfrecord", "trainA-00001-of-00002.tfrecord"]
    assert [record["image/key"] for record in found["trainA"]] == [b"trainA/0", b"trainA/1", b"trainA/4", b"trainA/5"]
    assert [shard["records"] for shard in manifest["splits"]["trainA"]["shards"]] == [2, 2]


# ------------------------------------------------------------------------------------------------ the same every time


def test_equal_for_any_number_of_workers_and_nothing_else_is_left(tmp_path):
    source = picture_source(30)
    made = []
    for workers in (1, 2, 3):
        folder = tmp_path / str(workers) / "set"
        convert(source, str(folder), options(workers=workers, shard_mb=0.01))
        made.append(contents(folder))
    assert made[0] == made[1] == made[2]
    names = [name for name in made[0] if not name.endswith(".tfrecord")]
    assert sorted(names) == ["dataset.json", "testA.index.npy", "trainA.index.npy", "trainB.index.npy"]


def test_workers_are_other_processes_without_tensorflow(tmp_path):
    source = ListSource({"trainA": [ModulesJob(f"{i}") for i in range(16)], "trainB": []})
    with pytest.raises(UserError, match=r"trainA: all 16 images were rejected, the first was 0 \(\d+\)") as error:
        convert(source, str(tmp_path / "out"), options(workers=2))
    assert f"({os.getpid()})" not in str(error.value)


def test_a_worker_that_dies_ends_the_run_with_one_line(tmp_path):
    jobs = [PictureJob(f"{i}", encoded(noise(8, 8, seed=i))) for i in range(20)]
    source = ListSource({"trainA": [*jobs, DyingJob("x")], "trainB": jobs})
    with pytest.raises(UserError, match="a worker process was killed, most likely for want of memory"):
        convert(source, str(tmp_path / "out"), options(workers=2))
    assert not (tmp_path / "out" / "dataset.json").exists()


# ----------------------------------------------------------------------------------------- rejected and duplicate ones


def test_unreadable_pictures_are_listed_and_left_out(tmp_path):
    folder = four_folders(tmp_path / "in")
    good = pathlib.Path(folder, "trainA/000.png").read_bytes()
    pathlib.Path(folder, "trainA/001.png").write_bytes(good[:100])
    pathlib.Path(folder, "trainB/new\nline, and comma.png").write_bytes(b"no image")
    pathlib.Path(folder, os.fsdecode(b"testB/\xff.png")).write_bytes(b"")
    summary = convert(folder_source(folder), str(tmp_path / "out"), OPTIONS)
    assert summary.rejected == 3
    _, found = read_folder(tmp_path / "out")
    assert [record["image/key"] for record in found["trainA"]] == [b"trainA/000.png", b"trainA/002.png"]
    import csv

    with open(tmp_path / "out/rejected.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["key", "reason"]
    assert [row[0] for row in rows[1:]] == ["trainA/001.png", "trainB/new\nline, and comma.png", "testB/\udcff.png"]
    assert rows[1][1].startswith("damaged image: ")
    assert rows[2][1] == "not an image, or of a kind that is not supported"
    assert rows[3][1] == "empty file"


def test_too_many_rejected_end_the_run_and_a_higher_limit_resumes_it(tmp_path):
    source = picture_source(10)
    for i in (4, 6, 8):
        source.splits["trainA"][i] = PictureJob(f"trainA/{i}", b"no image")
    out = str(tmp_path / "out" / "set")
    with pytest.raises(UserError, match=r"3 images rejected, more than --max_rejected=2; the last was trainA/8"):
        convert(source, out, options(max_rejected=2, shards=5))
    assert os.listdir(out) == [".converting"]
    summary = convert(source, out, options(max_rejected=3, shards=5, resume=True))
    assert (summary.rejected, summary.reused) == (3, 4)
    convert(source, str(tmp_path / "again" / "set"), options(shards=5))
    assert contents(out) == contents(tmp_path / "again" / "set")


def test_small_pictures_stop_the_run_or_are_left_out(tmp_path):
    source = picture_source(3)
    source.splits["trainB"][1] = PictureJob("trainB/1", encoded(noise(3, 30)))
    with pytest.raises(UserError, match=r"trainB/1: 30x3 pixels, the minimum is 4 \(--min_size\); pass --skip_small"):
        convert(source, str(tmp_path / "out"), OPTIONS)
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert convert(source, str(tmp_path / "out"), options(resume=True, skip_small=True)).rejected == 1
    assert "trainB/1," in (tmp_path / "out/rejected.csv").read_text()


def test_a_picture_that_would_grow_beyond_the_limit_is_rejected(tmp_path):
    source = picture_source(2)
    source.splits["trainA"][0] = PictureJob("trainA/0", encoded(np.zeros((4, 4000, 3), np.uint8)))
    summary = convert(source, str(tmp_path / "out"), options(max_pixels=100_000, size=128))
    assert summary.rejected == 1
    assert "would become 128000x128 pixels at load size" in (tmp_path / "out/rejected.csv").read_text()


def test_a_split_without_one_usable_picture_leaves_nothing(tmp_path):
    source = ListSource({"trainA": [PictureJob("a", b"x")], "trainB": [PictureJob("b", encoded(noise(8, 8)))]})
    with pytest.raises(UserError, match="trainA: all 1 images were rejected, the first was a"):
        convert(source, str(tmp_path / "new" / "out"), OPTIONS)
    assert not (tmp_path / "new").exists()


def test_an_unusable_split_is_refused_on_resuming_too(tmp_path):
    source = picture_source(4, ("trainA", "trainB"))
    source.splits["trainB"] = [PictureJob("trainB/0", b"x")]
    source.counts["trainB"] = 1
    for resume in (False, True):
        with pytest.raises(UserError, match="trainB: all 1 images were rejected"):
            convert(source, str(tmp_path / "out"), options(resume=resume))
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_duplicates_within_and_between_splits(tmp_path):
    folder = four_folders(tmp_path / "in")
    for name in ("trainA/copy.png", "testB/leak.png"):
        shutil.copy(os.path.join(folder, "trainA/001.png"), os.path.join(folder, name))
    summary = convert(folder_source(folder), str(tmp_path / "out"), OPTIONS)
    assert (summary.duplicates, summary.leaks) == (2, 1)
    digest = hashlib.sha256(pathlib.Path(folder, "trainA/001.png").read_bytes()).hexdigest()
    assert (tmp_path / "out/duplicates.csv").read_text().splitlines() == [
        "key,split,duplicate_of,duplicate_split,sha256",
        f"trainA/copy.png,trainA,trainA/001.png,trainA,{digest}",
        f"testB/leak.png,testB,trainA/001.png,trainA,{digest}",
    ]
    assert read_folder(tmp_path / "out")[0]["splits"]["trainA"]["count"] == 4  # reported, not removed


# ----------------------------------------------------------------------------------------------------------- resuming


class StopHere(Exception):
    """Stands for a kill at a chosen place."""


def interrupted(source, folder, chosen, monkeypatch, after):
    """Runs a conversion that is cut off at its `after`-th finished shard."""
    original, count = ShardWriter.close, iter(range(10_000))

    def close(self, *arguments):
        if next(count) == after:
            raise StopHere
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "close", close)
        with pytest.raises(StopHere):
            convert(source, folder, chosen)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A conversion of 12 + 12 + 12 pictures into 4 shards each: (source, contents)."""
    folder = tmp_path_factory.mktemp("whole") / "set"
    source = picture_source(12)
    convert(source, str(folder), options(shards=4))
    return source, contents(folder)


@pytest.mark.parametrize("after", [1, 3, 4, 6, 11])
def test_resuming_gives_the_same_bytes_and_keeps_finished_shards(tmp_path, monkeypatch, whole, after):
    source, expected = whole
    folder = str(tmp_path / "set")
    interrupted(source, folder, options(shards=4), monkeypatch, after)
    assert os.listdir(folder) == [".converting"]
    assert not [name for name in contents(folder) if name.endswith(".partial")]
    asked = []
    original = source.jobs
    monkeypatch.setattr(source, "jobs", lambda split, start: asked.append((split, start)) or original(split, start))
    summary = convert(source, folder, options(shards=4, resume=True, workers=1))
    assert summary.reused == after
    assert asked[0] == (("trainA", "trainB", "testA")[after // 4], after % 4 * 3)
    assert contents(folder) == expected


def test_nothing_finished_leaves_nothing(tmp_path, monkeypatch, whole):
    interrupted(whole[0], str(tmp_path / "new" / "set"), options(shards=4), monkeypatch, 0)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("place", ["rename", "index", "manifest", "remove"])
def test_a_cut_at_the_very_end_is_mended(tmp_path, monkeypatch, whole, place):
    source, expected = whole
    folder = str(tmp_path / "set")
    writes, replace = convert_module.write_atomically, os.replace
    stop = {"index": "trainB.index.npy", "manifest": "dataset.json"}.get(place)

    def write(path, data):
        if os.path.basename(path) == stop:
            raise StopHere
        writes(path, data)

    def rename(source_path, target_path):
        if place == "rename" and target_path.endswith("trainB-00002-of-00004.tfrecord"):
            raise StopHere
        replace(source_path, target_path)

    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "write_atomically", write)
        patch.setattr(os, "replace", rename)
        if place == "remove":
            patch.setattr(convert_module.WorkFolder, "remove", lambda self: (_ for _ in ()).throw(StopHere))
        with pytest.raises(StopHere):
            convert(source, folder, options(shards=4))
    assert os.path.exists(os.path.join(folder, "dataset.json")) == (place == "remove")
    summary = convert(source, folder, options(shards=4, resume=True))
    assert summary.reused == 12
    assert contents(folder) == expected


def test_a_damaged_shard_is_made_again(tmp_path, monkeypatch, whole):
    source, expected = whole
    folder = str(tmp_path / "set")
    interrupted(source, folder, options(shards=4), monkeypatch, 7)
    path = pathlib.Path(folder, ".converting", "trainB-00001.tfrecord")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert convert(source, folder, options(shards=4, resume=True)).reused == 5
    assert contents(folder) == expected


def test_a_journal_line_that_was_cut_off_is_dropped(tmp_path, monkeypatch, whole):
    source, expected = whole
    folder = str(tmp_path / "set")
    interrupted(source, folder, options(shards=4), monkeypatch, 3)
    journal = pathlib.Path(folder, ".converting", "journal.jsonl")
    journal.write_text(journal.read_text()[:-40])
    assert convert(source, folder, options(shards=4, resume=True)).reused == 2
    assert contents(folder) == expected


def test_a_broken_journal_is_named(tmp_path, monkeypatch, whole):
    folder = str(tmp_path / "set")
    interrupted(whole[0], folder, options(shards=4), monkeypatch, 3)
    journal = pathlib.Path(folder, ".converting", "journal.jsonl")
    journal.write_text(journal.read_text() + "{}\n")
    with pytest.raises(UserError, match=r"journal.jsonl: damaged"):
        convert(whole[0], folder, options(shards=4, resume=True))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"size": 17}, r"other options \(size: 16, now 17\)"),
        ({"shards": 5}, r"other options \(shards: 4, now 5\)"),
        ({"name": "other"}, "other name"),
    ],
)
def test_other_options_do_not_resume(tmp_path, monkeypatch, whole, changes, words):
    folder = str(tmp_path / "set")
    interrupted(whole[0], folder, options(shards=4), monkeypatch, 3)
    before = contents(folder)
    with pytest.raises(UserError, match=words):
        convert(whole[0], folder, options(**{"shards": 4, "resume": True, **changes}))
    assert contents(folder) == before


def test_another_source_does_not_resume(tmp_path, monkeypatch, whole):
    folder = str(tmp_path / "set")
    interrupted(whole[0], folder, options(shards=4), monkeypatch, 3)
    with pytest.raises(UserError, match="the earlier run had other pictures"):
        convert(picture_source(11), folder, options(shards=4, resume=True))


def test_a_finished_folder_resumes_to_nothing_unless_it_differs(tmp_path, whole):
    source, expected = whole
    folder = str(tmp_path / "set")
    convert(source, folder, options(shards=4, resume=True))  # nothing to resume is no fault
    assert convert(source, folder, options(shards=4, resume=True)).reused == 12
    assert contents(folder) == expected
    with pytest.raises(UserError, match="finished data set of another options"):
        convert(source, folder, options(shards=3, resume=True))
    with pytest.raises(UserError, match="finished data set of another source"):
        convert(picture_source(13), folder, options(shards=4, resume=True))
    path = pathlib.Path(folder, "trainA-00000-of-00004.tfrecord")
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"trainA-00000-of-00004\.tfrecord: damaged"):
        convert(source, folder, options(shards=4, resume=True))


# ------------------------------------------------------------------------------------------------ what it refuses


@pytest.mark.parametrize(
    "there, resume, words",
    [
        ("some.txt", False, "not empty, it holds something"),
        ("some.txt", True, "no conversion to resume"),
        (".converting/journal.jsonl", False, "unfinished conversion; continue it with --resume"),
        ("dataset.json", False, "not empty"),
    ],
)
def test_folders_in_use_are_left_alone(tmp_path, there, resume, words):
    path = tmp_path / "out" / there
    path.parent.mkdir(parents=True)
    path.write_text("")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=words):
        convert(picture_source(2), str(tmp_path / "out"), options(resume=resume))
    assert contents(tmp_path) == before


def test_a_file_in_the_folders_place_and_buckets(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        convert(picture_source(2), str(tmp_path / "file"), OPTIONS)
    with pytest.raises(UserError, match="then copy the folder to the bucket"):
        convert(picture_source(2), "gs://bucket/set", OPTIONS)


def test_two_converters_do_not_share_a_folder(tmp_path, monkeypatch, whole):
    folder = str(tmp_path / "set")
    interrupted(whole[0], folder, options(shards=4), monkeypatch, 2)
    before = contents(folder)
    with open(os.path.join(folder, ".converting", "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another converter is at work there"):
            convert(whole[0], folder, options(shards=4, resume=True))
        assert contents(folder) == before
    convert(whole[0], folder, options(shards=4, resume=True))  # the lock goes with its holder


def test_a_disk_that_fills_up(tmp_path, monkeypatch, whole):
    import errno

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr("tfaclgan.data.shards.flush", full)
    with pytest.raises(OSError, match="No space left"):
        convert(whole[0], str(tmp_path / "new" / "set"), options(shards=4))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"size": 7}, "--size=7"),
        ({"size": 8193}, "--size=8193"),
        ({"channels": 2}, "--channels=2"),
        ({"jpeg_quality": 96}, "--jpeg_quality=96"),
        ({"shard_mb": 0}, "--shard_mb=0"),
        ({"shards": -1}, "--shards=-1"),
        ({"workers": -1}, "--workers=-1"),
        ({"max_pixels": 0}, "--max_pixels=0"),
    ],
)
def test_options_out_of_range(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        convert(picture_source(1), str(tmp_path / "out"), options(**changes))
    assert not (tmp_path / "out").exists()


def test_offsets_of_a_file_that_ends_inside_a_record(tmp_path):
    convert(picture_source(3), str(tmp_path / "out"), OPTIONS)
    path = tmp_path / "out" / "trainA-00000-of-00001.tfrecord"
    assert len(read_offsets(str(path))) == 3
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="record 2 at byte"):
        read_offsets(str(path))


def test_dataset_json_knows_no_machine_and_no_time(tmp_path):
    folder = four_folders(tmp_path / "one" / "in")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for place in ("one", "two"):
        convert(folder_source(tmp_path / place / "in"), str(tmp_path / place / "out"), OPTIONS)
    assert (tmp_path / "one/out/dataset.json").read_bytes() == (tmp_path / "two/out/dataset.json").read_bytes()
    assert str(tmp_path) not in json.dumps(json.loads((tmp_path / "one/out/dataset.json").read_text()))
    assert folder
