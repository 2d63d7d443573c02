"""The cache of real images' features: found again, never trusted when damaged, never in the way."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tfaclgan.metrics import cache

KEY = {"split": "trainB", "count": 3, "extractor_sha256": "ab"}
FEATURES = (np.arange(12, dtype=np.float32).reshape(3, 4), np.ones((3, 2), np.float32))


class Computer:
    def __init__(self, features=FEATURES):
        self.features, self.calls, self.lines = features, 0, []

    def __call__(self):
        self.calls += 1
        return self.features

    def get(self, folder, key=KEY):
        return cache.cached_features(str(folder), "trainB", key, self, self.lines.append)


@pytest.mark.parametrize("features", [FEATURES, (FEATURES[0], None)])
def test_features_are_computed_once(tmp_path, features):
    computer = Computer(features)
    for _ in range(3):
        got = computer.get(tmp_path / "new" / "folder")
        np.testing.assert_array_equal(got[0], features[0])
        assert (got[1] is None) == (features[1] is None)
    assert (computer.calls, computer.lines) == (1, [])
    assert [name.endswith(".npz") for name in os.listdir(tmp_path / "new" / "folder")] == [True]


@pytest.mark.parametrize("change", [{"count": 4}, {"extractor_sha256": "cd"}, {"feature_resize": "tf1_bilinear"}])
def test_anything_in_the_key_makes_another_file(tmp_path, change):
    assert cache.features_path("f", "trainB", KEY) != cache.features_path("f", "trainB", {**KEY, **change})
    assert cache.features_path("f", "trainB", KEY) == cache.features_path("f", "trainB", dict(reversed(KEY.items())))


def test_no_folder_is_no_cache():
    computer = Computer()
    computer.get("")
    computer.get("")
    assert computer.calls == 2


def damage_cut(data):
    return data[: len(data) // 2]


def damage_flip(data):
    at = data.index(FEATURES[0].tobytes())
    return data[: at + 5] + bytes([data[at + 5] ^ 1]) + data[at + 6 :]


def damage_empty(data):
    return b""


def damage_other(data):
    return cache._pack((FEATURES[0][:2], None))


def damage_pickle(data):
    import io

    buffer = io.BytesIO()
    np.savez(buffer, features=np.array([{}], dtype=object), logits=FEATURES[1], checksum=np.zeros(32, np.uint8))
    return buffer.getvalue()


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, damage_empty, damage_other, damage_pickle])
def test_a_damaged_file_is_noticed_and_made_again(tmp_path, damage):
    Computer().get(tmp_path)
    path = cache.features_path(str(tmp_path), "trainB", KEY)
    with open(path, "rb") as file:
        data = damage(file.read())
    with open(path, "wb") as file:
        file.write(data)
    computer = Computer()
    np.testing.assert_array_equal(computer.get(tmp_path)[0], FEATURES[0])
    assert computer.calls == 1
    assert len(computer.lines) == 1
    assert path in computer.lines[0]
    assert "computing these features again" in computer.lines[0]
    computer.get(tmp_path)
    assert computer.calls == 1


def test_a_folder_that_cannot_be_written_costs_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    computer = Computer()
    np.testing.assert_array_equal(computer.get(tmp_path / "file" / "cache")[0], FEATURES[0])
    assert len(computer.lines) == 1
    assert "going on without the cache" in computer.lines[0]


def test_an_interrupted_write_leaves_no_half_file(tmp_path, monkeypatch):
    from tensorflow.io import gfile

    def fail(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(gfile, "rename", fail)
    with pytest.raises(KeyboardInterrupt):
        Computer().get(tmp_path)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".npz")]
