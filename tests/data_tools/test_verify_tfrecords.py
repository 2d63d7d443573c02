"""The checker finds every kind of damage and names the record; the contact sheet shows the pictures."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest
from pictures import encoded, four_folders, make_folder, noise, read_folder, run_tool
from PIL import Image

from tfaclgan.data import records, verify
from tfaclgan.data.convert import ConvertOptions, convert
from tfaclgan.data.images import ImageOptions
from tfaclgan.data.shards import read_offsets
from tfaclgan.data.sources import FolderSource, LayoutOptions
from tfaclgan.errors import UserError

OPTIONS = ConvertOptions(ImageOptions(size=16, min_size=4, format="png"), workers=1, progress=False, shards=2)
SHARD = "trainB-00001-of-00002.tfrecord"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    source = four_folders(root / "in", count=4)
    make_folder(root / "in", [f"testA_{side}/{i:03d}.png" for side in ("target", "mask") for i in range(4)])
    convert(FolderSource(source, LayoutOptions(), max_bytes=1 << 20), str(root / "set"), OPTIONS)
    return root / "set"


@pytest.fixture
def folder(made, tmp_path):
    """A copy that a test may spoil."""
    return pathlib.Path(shutil.copytree(made, tmp_path / "set"))


def damage(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def rewrite(folder, change, shard=SHARD):
    """Writes a shard anew with TensorFlow after `change(list of tf.train.Example)`, and mends every hash and count."""
    import tensorflow as tf

    path = folder / shard
    examples = [tf.train.Example.FromString(raw) for raw in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()]
    change(examples)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            writer.write(example.SerializeToString(deterministic=True))
    manifest = json.loads((folder / "dataset.json").read_text())
    split = manifest["splits"][shard.split("-")[0]]
    rows = []
    for number, entry in enumerate(split["shards"]):
        data = (folder / entry["file"]).read_bytes()
        offsets = read_offsets(str(folder / entry["file"]))
        entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), records=len(offsets))
        rows += [(number, *row) for row in offsets.tolist()]
    split["count"] = len(rows)
    np.save(folder / split["index"], np.array(rows, np.int64).reshape(-1, 3))
    split["index_sha256"] = hashlib.sha256((folder / split["index"]).read_bytes()).hexdigest()
    (folder / "dataset.json").write_text(json.dumps(manifest))


def put(example, name, value):
    feature = example.features.feature[name]
    (feature.bytes_list if isinstance(value, bytes) else feature.int64_list).value[0] = value


def test_a_sound_folder(made):
    counted = []
    manifest = verify.verify(str(made), counted.append)
    assert sum(counted) == 16
    lines = verify.summary(manifest)
    assert lines[0] == "set: 3 channels, load size 16, png, source folder"
    size = sum(os.path.getsize(path) for path in made.glob("testA-*.tfrecord")) / 2**20
    assert lines[3] == (
        f"testA: 4 images, 16 x 24 pixels (height x width), 2 shards, {size:.1f} MiB, with target, mask"
    )


@pytest.mark.parametrize("place", ["header", "payload", "footer"])
def test_a_flipped_byte_is_found_with_shard_offset_and_key(folder, place):
    offset, length = read_offsets(str(folder / SHARD))[1]
    damage(
        folder / SHARD, {"header": offset - 2, "payload": offset + length // 2, "footer": offset + length + 1}[place]
    )
    with pytest.raises(UserError) as error:
        verify.verify(str(folder))
    assert re.search(
        rf"{SHARD}: bad record at byte {offset} \(key trainB/003.png\): its CRC is wrong", str(error.value)
    )


def test_a_key_that_cannot_be_read_is_said(folder):
    offset, _ = read_offsets(str(folder / SHARD))[0]
    damage(folder / SHARD, offset)  # the message's first tag
    with pytest.raises(UserError, match=rf"bad record at byte {offset} \(key unreadable\)"):
        verify.verify(str(folder))


def test_a_length_that_leads_nowhere(folder):
    damage(folder / SHARD, 3)
    with pytest.raises(UserError, match=r"record 0 at byte 0 runs past the end"):
        verify.verify(str(folder))


@pytest.mark.parametrize(
    "feature, value, words",
    [
        ("image/encoded", b"x", "its image does not decode"),
        ("image/encoded", encoded(noise(17, 24)), "its image is 24x17 RGB, not 24x16"),
        ("image/encoded", encoded(noise(16, 24, channels=1)), "its image is 24x16 L"),
        ("image/encoded", encoded(noise(16, 24), "BMP"), "its image is BMP, not png"),
        ("image/height", 15, "its image is 24x16 RGB, not 24x15"),
        ("image/channels", 1, "shorter side 16 and 1 channels"),
        ("image/key", b"trainB/000.png", "its key occurs twice"),
    ],
)
def test_records_that_are_not_what_they_say(folder, feature, value, words):
    rewrite(folder, lambda examples: put(examples[1], feature, value))
    offset = read_offsets(str(folder / SHARD))[1][0]
    with pytest.raises(UserError, match=rf"{SHARD}: bad record at byte {offset} \(key trainB/00.\.png\): .*{words}"):
        verify.verify(str(folder))


def test_a_missing_feature_and_a_missing_companion(folder):
    shard = "testA-00000-of-00002.tfrecord"
    rewrite(folder, lambda examples: put(examples[0], "target/encoded", b""), shard)
    with pytest.raises(UserError, match=r"no target, but dataset\.json says every record has one"):
        verify.verify(str(folder))
    rewrite(folder, lambda examples: examples[0].features.feature.pop("image/label"), shard)
    with pytest.raises(UserError, match="feature 'image/label' is missing"):
        verify.verify(str(folder))


def test_hashes_and_index(folder):
    rewrite(folder, lambda examples: None)  # unchanged, so it is still sound
    verify.verify(str(folder))
    manifest = json.loads((folder / "dataset.json").read_text())
    manifest["splits"]["trainB"]["shards"][1]["sha256"] = "0" * 64
    (folder / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"{SHARD}: its records are sound, but its SHA-256 is not that of dataset.json"):
        verify.verify(str(folder))
    damage(folder / "trainA.index.npy", 140)
    with pytest.raises(UserError, match=r"trainA\.index\.npy: its SHA-256 is not"):
        verify.verify(str(folder))


@pytest.mark.parametrize("file", [SHARD, "trainA.index.npy"])
def test_hashes_alone(folder, file):
    manifest = records.load_manifest(str(folder))
    sizes = [path.stat().st_size for path in folder.iterdir() if path.suffix in (".npy", ".tfrecord")]
    assert verify.check_hashes(manifest) == sum(sizes)
    damage(folder / file, 140)
    with pytest.raises(UserError, match=f"{file}: its SHA-256 is not that of dataset.json"):
        verify.check_hashes(records.load_manifest(str(folder)))


def test_an_index_of_another_size_is_refused_at_once(folder):
    path = folder / "testB.index.npy"
    path.write_bytes(path.read_bytes()[:-24])
    with pytest.raises(UserError, match=r"testB\.index\.npy: \d+ bytes cannot hold the places of 4 records"):
        records.load_manifest(str(folder))


def test_an_index_that_points_elsewhere(folder):
    path = folder / "trainB.index.npy"
    index = np.load(path)
    index[0, 1] += 1
    np.save(path, index)
    manifest = json.loads((folder / "dataset.json").read_text())
    manifest["splits"]["trainB"]["index_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="does not fit the records of trainB-00000"):
        verify.verify(str(folder))


def test_counts_and_sides_of_the_manifest(folder):
    text = (folder / "dataset.json").read_text()
    manifest = json.loads(text)
    manifest["splits"]["trainB"]["max_width"] = 99
    (folder / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="split trainB has sides"):
        verify.verify(str(folder))
    manifest = json.loads(text)
    manifest["splits"]["trainB"]["shards"][0]["records"] = 1
    manifest["splits"]["trainB"]["shards"][1]["records"] = 3
    (folder / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"2 records, but dataset\.json says 1"):
        verify.verify(str(folder))


def test_the_contact_sheet_shows_the_records(made):
    manifest = records.load_manifest(str(made))
    sheet = np.asarray(verify.contact_sheet(manifest, columns=2, cell=24))
    assert sheet.shape == (6 * (24 + 14), 2 * 26, 3)  # four splits, a target row, a mask row
    _, found = read_folder(made)
    for row, (split, part, chosen) in enumerate(
        [
            ("trainA", "image", (0, 3)),
            ("trainB", "image", (0, 3)),
            ("testA", "image", (0, 3)),
            ("testA", "target", (0, 3)),
        ]
    ):
        for column, number in enumerate(chosen):
            picture = np.asarray(Image.open(io.BytesIO(found[split][number][f"{part}/encoded"])))
            top, left = row * 38 + 14, column * 26
            np.testing.assert_array_equal(sheet[top : top + 16, left : left + 24], picture)


def test_the_command(folder, tmp_path):
    result = run_tool("verify_tfrecords.py", f"--data_dir={folder}", f"--contact_sheet={tmp_path / 'sheet.png'}")
    assert result.returncode == 0, result.stderr
    assert "all records are sound" in result.stdout
    assert Image.open(tmp_path / "sheet.png").size == (12 * 98, 6 * 110)
    damage(folder / SHARD, 200)
    result = run_tool("verify_tfrecords.py", f"--data_dir={folder}")
    assert result.returncode == 2
    assert re.search(
        rf"verify_tfrecords: error: .*{SHARD}: bad record at byte 12 \(key trainB/002.png\)", result.stderr
    )
    assert "Traceback" not in result.stderr


def test_a_folder_without_data(tmp_path):
    assert run_tool("verify_tfrecords.py").returncode == 2
    with pytest.raises(UserError, match=r"dataset\.json: not found"):
        verify.verify(str(tmp_path))
