"""Random access to records: checksums, caching, every kind of damage, and how damage is told."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import struct

import numpy as np
import pytest
import record_folder
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfaclgan.data import pipeline, reading
from tfaclgan.errors import UserError

OPTIONS = pipeline.PipelineOptions(height=16, width=16, load_size=16)


def images(count, seed=0):
    return list(np.random.RandomState(seed).randint(0, 256, (count, 16, 16, 3), dtype=np.uint8))


@pytest.fixture
def manifest(tmp_path):
    return record_folder.make(tmp_path / "data", {"trainA": images(7), "trainB": images(5, 1)}, shards=3)


def bitwise_crc32c(data):
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this and the next four: RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (
            bytes.fromhex(
                "01c00000" + "0" * 24 + "140000000000040000000014000000182800000000000000" + "0200000000000000"
            ),
            0xD9963A56,
        ),
    ],
)
def test_checksum_of_published_vectors(data, expected):
    assert reading.crc32c(data) == expected


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=700))
def test_checksum_against_bit_by_bit_definition(data):
    assert reading.crc32c(data) == bitwise_crc32c(data)


def test_checksum_of_long_data():
    data = np.random.RandomState(0).bytes(33333)
    assert reading.crc32c(data) == bitwise_crc32c(data)


def test_checksum_as_tensorflow_writes_it(tmp_path):
    payload = np.random.RandomState(1).bytes(1000)
    path = str(tmp_path / "one.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(payload)
    frame = open(path, "rb").read()
    assert struct.unpack("<I", frame[8:12])[0] == reading.masked_crc32c(frame[:8])
    assert struct.unpack("<I", frame[-4:])[0] == reading.masked_crc32c(payload)


@pytest.mark.parametrize("cache_mb", [0, 10])
def test_records_are_those_that_tensorflow_reads(manifest, cache_mb):
    reader = reading.SplitReader(manifest, "trainA", cache_mb=cache_mb)
    paths = [manifest.path(shard.file) for shard in manifest.splits["trainA"].shards]
    expected = [payload.numpy() for payload in tf.data.TFRecordDataset(paths)]
    assert len(reader) == len(expected) == 7
    numbers = [3, 6, 0, 0, 5, 1, 4, 2]
    assert list(reader.read_many(np.array(numbers))) == [expected[number] for number in numbers]


def test_cache_holds_what_was_read_if_all_of_it_fits(manifest):
    index = np.load(manifest.path("trainA.index.npy"))
    assert not reading.SplitReader(manifest, "trainA", cache_mb=0).cached
    reader = reading.SplitReader(manifest, "trainA", cache_mb=1)
    assert reader.cached
    assert index[:, 2].sum() < 2**20
    before = [reader.read(number) for number in range(7)]
    for shard in manifest.splits["trainA"].shards:
        with open(manifest.path(shard.file), "r+b") as file:
            file.truncate(0)
    assert [reader.read(number) for number in range(7)] == before


def test_cache_is_bounded_by_all_payloads_together(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (2, 450, 450, 3), dtype=np.uint8)  # 0.6 MiB each as PNG
    manifest = record_folder.make(tmp_path, {"trainA": list(pixels)})
    assert not reading.SplitReader(manifest, "trainA", cache_mb=1).cached
    assert reading.SplitReader(manifest, "trainA", cache_mb=2).cached


def test_threads_share_a_reader(manifest):
    reader = reading.SplitReader(manifest, "trainA")
    expected = [reader.read(number) for number in range(7)]
    numbers = np.random.RandomState(0).randint(0, 7, 400)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(reader.read, numbers)) == [expected[number] for number in numbers]


def test_folders_behind_tensorflow_file_systems():
    manifest = record_folder.make("ram://reading/data", {"trainA": images(40)}, shards=3)
    reader = reading.SplitReader(manifest, "trainA")
    paths = [manifest.path(shard.file) for shard in manifest.splits["trainA"].shards]
    expected = [payload.numpy() for payload in tf.data.TFRecordDataset(paths)]
    assert list(reader.read_many(np.arange(39, -1, -1))) == expected[::-1]


# -- damage -----------------------------------------------------------------------------------


def change(path, position, change):
    data = bytearray(open(path, "rb").read())
    data[position] ^= change
    open(path, "wb").write(bytes(data))


def place(manifest, number, split="trainA"):
    """Path, offset and length of a record's payload."""
    shard, offset, length = np.load(manifest.path(f"{split}.index.npy"))[number].tolist()
    return manifest.path(manifest.splits[split].shards[shard].file), offset, length


def complaint(manifest, number=4):
    with pytest.raises(UserError) as caught:
        reading.SplitReader(manifest, "trainA").read(number)
    message = str(caught.value)
    assert "\n" not in message
    assert f"record {number} of trainA" in message
    path, offset, _ = place(manifest, number)
    assert path in message
    assert f"at byte {offset}" in message
    assert f"(key trainA/{number})" in message or "(key unreadable)" in message or "cannot be read" in message
    return message


@pytest.mark.parametrize("where", ["first", "middle", "last", "checksum"])
def test_damaged_payload(manifest, where):
    path, offset, length = place(manifest, 4)
    change(path, offset + {"first": 0, "middle": length // 2, "last": length - 1, "checksum": length + 3}[where], 1)
    assert "its checksum is wrong" in complaint(manifest)
    others = reading.SplitReader(manifest, "trainA")
    assert all(others.read(number) for number in range(7) if number != 4)


@pytest.mark.parametrize("where", range(-12, 0))
def test_damaged_length(manifest, where):
    path, offset, _ = place(manifest, 4)
    change(path, offset + where, 0x10)
    assert "its length is damaged" in complaint(manifest)


@pytest.mark.parametrize("cut", [0, 5, 12, 20, -1])
def test_truncated_shard(manifest, cut):
    path, offset, length = place(manifest, 4)
    with open(path, "r+b") as file:
        file.truncate(offset - 12 + cut if cut >= 0 else offset + length + 3)
    assert "cut off" in complaint(manifest)


def test_shard_removed_after_the_manifest_was_read(manifest):
    os.remove(place(manifest, 4)[0])
    assert "cannot be read" in complaint(manifest)


def test_index_that_points_elsewhere(manifest):
    path = manifest.path("trainA.index.npy")
    index = np.load(path)
    index[4, 1] += 1
    index[4, 2] -= 1
    np.save(path, index)
    assert "does not begin where the index says" in complaint(manifest)


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda index: index[:-1], "asks for int64 [7, 3]"),
        (lambda index: index.astype(np.int32), "int32 [7, 3]"),
        (lambda index: index.astype(object), "cannot be read as an index"),
        (lambda index: index + np.array([9, 0, 0]), "record 0 would lie outside"),
        (lambda index: index - np.array([0, 20, 0]), "record 0 would lie outside"),
        (lambda index: index + np.array([0, 10**9, 0]), "record 0 would lie outside"),
        (lambda index: index * np.array([1, 1, -1]), "record 0 would lie outside"),
    ],
)
def test_index_that_does_not_fit(manifest, spoil, words):
    path = manifest.path("trainA.index.npy")
    np.save(path, spoil(np.load(path)), allow_pickle=True)
    with pytest.raises(UserError) as caught:
        reading.SplitReader(manifest, "trainA")
    assert words in str(caught.value)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not numpy", b"\x93NUMPY\x01\x00"])
def test_index_that_is_no_index(manifest, content):
    open(manifest.path("trainA.index.npy"), "wb").write(content)
    with pytest.raises(UserError, match="cannot be read as an index"):
        reading.SplitReader(manifest, "trainA")


def test_index_that_is_gone(manifest):
    os.remove(manifest.path("trainA.index.npy"))
    with pytest.raises(UserError, match="cannot be read as an index"):
        reading.SplitReader(manifest, "trainA")


def test_split_that_is_missing(manifest):
    with pytest.raises(UserError, match="split testA is missing"):
        reading.SplitReader(manifest, "testA")


# -- how damage reaches the user --------------------------------------------------------------


def failure(dataset, batches=20):
    with pytest.raises(tf.errors.OpError) as caught:
        for _ in dataset.take(batches):
            pass
    return caught.value


@pytest.mark.parametrize("cache_mb", [0, 10])
def test_damage_met_while_training_is_told_in_one_line(manifest, cache_mb):
    path, offset, _ = place(manifest, 4)
    change(path, offset, 1)
    options = dataclasses.replace(OPTIONS, cache_mb=cache_mb)
    error = reading.explain(failure(pipeline.training_dataset(manifest, options, global_batch=2)))
    assert isinstance(error, UserError)
    start = f"{path}: record 4 of trainA at byte {offset} (key unreadable) is damaged: its checksum is wrong; "
    assert str(error).startswith(start)
    assert str(error).endswith("data_tools/make_tfrecords.py")
    assert "\n" not in str(error)


def test_the_key_is_named_where_damage_left_it_readable(tmp_path):
    items = [{"image": image, "key": f"猫\n{number}.png"} for number, image in enumerate(images(3))]
    manifest = record_folder.make(tmp_path, {"trainA": items, "trainB": images(2)}, shards=1)
    path, offset, length = place(manifest, 1)
    payload = open(path, "rb").read()[offset : offset + length]
    change(path, offset + payload.index(b"IDAT") + 8, 1)
    with pytest.raises(UserError, match=r"\(key 猫 1\.png\) is damaged: its checksum is wrong"):
        reading.SplitReader(manifest, "trainA").read(1)
    error = reading.explain(failure(pipeline.training_dataset(manifest, OPTIONS, global_batch=2)))
    assert "(key 猫 1.png) is damaged" in str(error)


def test_damage_met_inside_a_compiled_loop(manifest):
    path, offset, _ = place(manifest, 4)
    change(path, offset, 1)
    iterator = iter(pipeline.training_dataset(manifest, OPTIONS, global_batch=2))

    @tf.function
    def steps(iterator):
        total = tf.zeros([], tf.int64)
        for _ in tf.range(10):
            total += tf.reduce_sum(tf.cast(next(iterator)["a"], tf.int64))
        return total

    with pytest.raises(tf.errors.OpError) as caught:
        steps(iterator)
    assert "record 4 of trainA" in str(reading.explain(caught.value))


def test_damage_met_while_evaluating(manifest):
    path, offset, _ = place(manifest, 2, "trainB")
    change(path, offset, 1)
    error = failure(pipeline.evaluation_dataset(manifest, "trainB", OPTIONS, batch=2))
    assert "record 2 of trainB" in str(reading.explain(error))
    with pytest.raises(UserError, match="record 2 of trainB"):
        pipeline.read_images(manifest, "trainB", 5, OPTIONS)


@pytest.mark.parametrize(
    "encoded", [b"", b"\xff\xd8\xff\xe0 no picture", b"GIF or what", record_folder.png(images(1)[0])[:60]]
)
def test_undecodable_image_is_named(tmp_path, encoded):
    items = [{"image": image} for image in images(5)]
    items[3] = {"image": items[3]["image"], "encoded": encoded or b"\0", "key": "cats/3.png"}
    manifest = record_folder.make(tmp_path, {"trainA": items, "trainB": images(2)})
    error = failure(pipeline.training_dataset(manifest, OPTIONS, global_batch=2))
    told = reading.explain(error, manifest)
    assert isinstance(told, UserError)
    assert "record 3 of trainA" in str(told)
    assert "(key cats/3.png) cannot be used: its image cannot be decoded" in str(told)
    assert "\n" not in str(told)
    with pytest.raises(UserError, match=r"\(key cats/3.png\) cannot be used: its image cannot be decoded"):
        pipeline.read_images(manifest, "trainA", 5, OPTIONS)


def test_undecodable_mask_is_named(tmp_path):
    items = [{"image": image, "mask": image[..., :1]} for image in images(3)]
    manifest = record_folder.make(tmp_path, {"trainA": items, "trainB": images(2)}, shards=1)
    reader = reading.SplitReader(manifest, "trainA")
    payload = reader.read(1)
    start = payload.index(record_folder.png(items[1]["mask"])) + 30
    spoilt = payload[:start] + bytes(40) + payload[start + 40 :]
    path, offset, length = place(manifest, 1)
    frame = bytearray(open(path, "rb").read())
    frame[offset : offset + length + 4] = spoilt + struct.pack("<I", reading.masked_crc32c(spoilt))
    open(path, "wb").write(bytes(frame))
    told = reading.explain(failure(pipeline.training_dataset(manifest, OPTIONS, global_batch=1)), manifest)
    assert "record 1 of trainA" in str(told)
    assert "its mask cannot be decoded" in str(told)


# -- bad records passed over ------------------------------------------------------------------


def spoilt(tmp_path):
    """Seven records in trainA of which 2 and 3 are bad: a wrong checksum, and no picture behind a right one."""
    items = [{"image": image} for image in images(7)]
    items[3] = {**items[3], "encoded": b"no picture"}
    manifest = record_folder.make(tmp_path, {"trainA": items, "trainB": images(2)})
    path, offset, _ = place(manifest, 2)
    change(path, offset, 1)
    return manifest


@pytest.mark.parametrize("cache_mb", [0, 10])
def test_the_next_sound_record_stands_for_a_bad_one(tmp_path, cache_mb):
    manifest, told = spoilt(tmp_path), []
    bad = reading.BadRecords(told.append)
    reader = reading.SplitReader(manifest, "trainA", cache_mb=cache_mb, bad_records=bad)
    alone = reading.SplitReader(manifest, "trainA")
    for _ in range(2):
        assert [reader.read(n) for n in range(7)] == [alone.read(n) for n in (0, 1, 4, 4, 4, 5, 6)]
    assert bad.count == 2
    assert "record 2 of trainA" in told[0]
    assert "its checksum is wrong" in told[0]
    assert "record 3 of trainA" in told[1]
    assert "(key trainA/3) cannot be used: its image cannot be decoded" in told[1]
    assert len(told) == 2


def test_the_last_record_is_followed_by_the_first(manifest):
    path, offset, _ = place(manifest, 6)
    change(path, offset, 1)
    reader = reading.SplitReader(manifest, "trainA", bad_records=reading.BadRecords(str))
    assert reader.read(6) == reader.read(0)


def test_a_picture_of_another_size_than_its_record_says_is_bad(tmp_path):
    items = [{"image": image} for image in images(3)]
    items[1] = {**items[1], "encoded": record_folder.png(np.zeros((9, 8, 3), np.uint8))}
    manifest = record_folder.make(tmp_path, {"trainA": items})
    bad = reading.BadRecords(str)
    reader = reading.SplitReader(manifest, "trainA", bad_records=bad)
    assert reader.read(1) == reader.read(2)
    assert bad.count == 1


def test_a_record_that_another_thread_finds_bad_meanwhile_is_passed_over(tmp_path, monkeypatch):
    bad = reading.BadRecords(str)
    reader = reading.SplitReader(spoilt(tmp_path), "trainA", bad_records=bad)
    kept, others = reader._kept, []

    def kept_while_another_reads(number):
        payload = kept(number)
        if not others:
            others.append(number)
            others.append(reader.read(number))  # between this thread's reading and its looking
        return payload

    monkeypatch.setattr(reader, "_kept", kept_while_another_reads)
    assert reader.read(3) == others[1] == reader.read(4)
    assert bad.count == 1


def test_skipping_ends_where_every_record_is_bad(tmp_path):
    items = [{"image": image, "encoded": b"no picture"} for image in images(2)]
    manifest = record_folder.make(tmp_path, {"trainA": items})
    reader = reading.SplitReader(manifest, "trainA", bad_records=reading.BadRecords(str))
    with pytest.raises(UserError, match="all 2 records of trainA are bad"):
        reader.read(0)


def test_a_shard_that_cannot_be_read_is_not_skipped(manifest):
    os.remove(place(manifest, 4)[0])
    bad = reading.BadRecords(str)
    with pytest.raises(UserError, match="cannot be read"):
        reading.SplitReader(manifest, "trainA", bad_records=bad).read(4)
    assert bad.count == 0


def test_many_bad_records_do_not_flood_the_screen():
    told = []
    bad = reading.BadRecords(told.append)
    for number in range(100):
        bad.add(f"place {number}", reading.BadRecordError("bad"))
    assert len(told) == 20
    assert "only counted" in told[-1]
    assert bad.count == 100


def test_batches_where_bad_records_are_passed_over(tmp_path):
    manifest = spoilt(tmp_path)
    bad = reading.BadRecords(str)
    dataset = pipeline.training_dataset(manifest, OPTIONS, global_batch=7, bad_records=bad)
    keys = sorted(next(iter(dataset))["key_a"].numpy().tolist())
    assert keys == sorted(f"trainA/{n}".encode() for n in (0, 1, 4, 4, 4, 5, 6))
    assert bad.count == 2
    assert len(pipeline.read_images(manifest, "trainA", 4, OPTIONS, bad)) == 4
    assert "record 2 of trainA" in str(
        reading.explain(failure(pipeline.evaluation_dataset(manifest, "trainA", OPTIONS, batch=2)))
    )


def test_other_errors_are_not_about_records(manifest):
    assert reading.explain(ValueError("UserError: no")) is None
    assert reading.explain(tf.errors.ResourceExhaustedError(None, None, "out of memory"), manifest) is None
    assert reading.explain(tf.errors.InvalidArgumentError(None, None, "shapes differ"), manifest) is None
    mine = UserError("as it is")
    assert reading.explain(mine) is mine
