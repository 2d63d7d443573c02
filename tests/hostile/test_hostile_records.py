"""Data folders that are damaged anywhere: their records as they were written, or one line."""

from __future__ import annotations

import json
import pathlib
import shutil

import corpus
import numpy as np
import pytest
import record_folder

from tfaclgan.data import reading, records, verify
from tfaclgan.errors import UserError

MANY = pytest.param(1000, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "set"
    images = list(np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8))
    record_folder.make(folder, {"trainA": images, "trainB": images[:2]}, load_size=8)
    return folder


@pytest.fixture(scope="module")
def payloads(made):
    manifest = records.load_manifest(str(made))
    return {split: [reading.SplitReader(manifest, split).read(n) for n in range(manifest.splits[split].count)]
            for split in manifest.splits}  # fmt: skip


@pytest.fixture
def folder(made, tmp_path):
    return pathlib.Path(shutil.copytree(made, tmp_path / "set"))


def read_all(folder):
    manifest = records.load_manifest(str(folder))
    found = {}
    for split in manifest.splits:
        reader = reading.SplitReader(manifest, split)
        found[split] = [reader.read(number) for number in range(len(reader))]
    return manifest, found


@pytest.mark.parametrize("cases", [120, MANY])
def test_damaged_files(folder, made, payloads, cases):
    """Every byte of shards and indices counts: what is read is what was written."""
    names = sorted(path.name for path in made.iterdir() if path.suffix != ".json")
    refusals = []

    def check(draw):
        name = str(draw.choice(names))
        whole = (made / name).read_bytes()
        damaged, _ = corpus.damage(whole, draw)
        (folder / name).write_bytes(damaged)
        try:
            found = read_all(folder)[1]
            assert found == payloads or damaged == whole
        except UserError as error:
            corpus.refused(error)
            refusals.append(name)
        try:
            verify.check_hashes(records.load_manifest(str(folder)))
            assert damaged == whole
        except UserError as error:
            corpus.refused(error)
        (folder / name).write_bytes(whole)

    corpus.each(cases, check)
    assert len(refusals) > 0.7 * cases


@pytest.mark.parametrize("cases", [150, MANY])
def test_manifests_that_say_something_else(folder, made, payloads, cases):
    whole = (made / "dataset.json").read_text()

    def check(draw):
        text = corpus.replaced(whole, draw)
        (folder / "dataset.json").write_text(text)
        try:
            manifest, found = read_all(folder)
            verify.summary(manifest)
            for split, expected in found.items():
                assert expected == payloads[split]
            verify.check_hashes(manifest)
        except UserError as error:
            corpus.refused(error)

    corpus.each(cases, check)


@pytest.mark.parametrize("cases", [60, MANY])
def test_manifests_with_damaged_bytes(folder, made, payloads, cases):
    whole = (made / "dataset.json").read_bytes()

    def check(draw):
        (folder / "dataset.json").write_bytes(corpus.damage(whole, draw)[0])
        try:
            found = read_all(folder)[1]
            for split, expected in found.items():
                assert expected == payloads[split]
        except UserError as error:
            corpus.refused(error)

    corpus.each(cases, check)


@pytest.mark.parametrize("content", corpus.DEEP)
def test_json_that_is_deep_or_none(folder, content):
    (folder / "dataset.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_all(folder)
    corpus.refused(caught.value)


def test_an_index_that_is_a_pickle(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "witness",))

    array = np.empty((5, 3), object)
    array[:] = Evil()
    np.save(folder / "trainA.index.npy", array, allow_pickle=True)
    for read in (lambda: read_all(folder), lambda: verify.verify(str(folder))):
        with pytest.raises(UserError):
            read()
    assert not (tmp_path / "witness").exists()


def test_files_named_outside_the_folder(folder, made, tmp_path):
    """dataset.json may name files of its folder only, whether they exist or not."""
    shutil.copy(made / "trainA.index.npy", tmp_path / "index.npy")
    content = json.loads((folder / "dataset.json").read_text())
    content["splits"]["trainA"]["index"] = "../index.npy"
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="index"):
        read_all(folder)
