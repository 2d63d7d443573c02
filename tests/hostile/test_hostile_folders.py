"""Folders of pictures through the converter and through translation: odd names, links, damage of every kind.

Everything in the folder is either done or listed with its reason, the inputs stay as they are, and nothing appears
outside of the folder that was named for the results.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import pathlib

import corpus
import numpy as np
import pytest
from pictures import contents, read_folder
from PIL import Image
from tiny_runs import negative_run

from tfaclgan.data import images, masks, verify
from tfaclgan.data.convert import ConvertOptions, convert
from tfaclgan.data.sources import FolderSource, LayoutOptions
from tfaclgan.errors import UserError
from tfaclgan.inference import folders
from tfaclgan.inference.translator import Translator

SOUND = corpus.sound()
PICTURE = SOUND["a.png"]
OPTIONS = ConvertOptions(images.ImageOptions(size=8, min_size=1, format="png"), workers=1, progress=False)


def snapshot(folder):
    """What there is, links as links."""
    found = {}
    for path in sorted(pathlib.Path(folder).rglob("*")):
        link = path.is_symlink()
        found[str(path)] = os.readlink(path) if link else path.read_bytes() if path.is_file() else None
    return found


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "around" / "in"
    for split in ("trainA", "trainB"):
        (folder / split).mkdir(parents=True)
        (folder / split / "sound.png").write_bytes(PICTURE)
    return folder


@pytest.fixture(scope="module")
def negative():
    return Translator(negative_run(), {})


def make_data(source, out):
    return convert(FolderSource(str(source), LayoutOptions(), max_bytes=1 << 20), str(out), OPTIONS)


def translate(translator, source, out, **options):
    return folders.translate_folder(translator, str(source), str(out), progress=False, **options)


def rejected(folder):
    """Keys in rejected.csv."""
    with open(folder / "rejected.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        return {row[0] for row in csv.reader(file)} - {"key"}


def spill(source, tmp_path, draw, count):
    """Fills trainA with pictures of every kind, sound, odd and damaged; the names."""
    made = {**corpus.ill(), **corpus.odd()}
    names = set()
    for number in range(count):
        kind = draw.integers(4)
        if kind == 0:
            name = str(draw.choice(sorted(made)))
            data = made[name]
        else:
            name = str(draw.choice(sorted(SOUND)))
            data = corpus.damage(SOUND[name], draw)[0] if kind < 3 else SOUND[name]
        odd = corpus.NAMES[draw.integers(len(corpus.NAMES))] if draw.integers(2) else "x"
        odd = "".join(odd[: 200 // max(1, len(os.fsencode(odd)) // len(odd))])
        path = source / "trainA" / f"{odd}{number}{os.path.splitext(name)[1]}"
        path.write_bytes(data)
        names.add(path.name)
    return names


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_folders_of_anything(source, tmp_path, negative, count):
    names = spill(source, tmp_path, np.random.default_rng(count), count)
    before = snapshot(tmp_path)
    summary = make_data(source, tmp_path / "around" / "set")
    records = read_folder(tmp_path / "around" / "set")[1]
    taken = {record["image/key"].decode("utf-8", "surrogateescape") for split in records.values() for record in split}
    refused = rejected(tmp_path / "around" / "set") if summary.rejected else set()
    assert {name for name in taken | refused if name.startswith("trainA")} == {
        f"trainA/{name}" for name in {*names, "sound.png"}
    }
    assert not taken & refused
    verify.verify(str(tmp_path / "around" / "set"))

    result = translate(negative, source, tmp_path / "around" / "out")
    assert result.translated + len(result.failed) == len(names) + 2
    for _, reason in result.failed:
        assert reason
        assert "\n" not in reason
    outputs = contents(tmp_path / "around" / "out")
    assert len(outputs) == result.translated
    for data in outputs.values():
        Image.open(io.BytesIO(data)).load()
    after = snapshot(tmp_path)
    assert {path: after.get(path) for path in before} == before
    new = set(after) - set(before)
    allowed = (str(tmp_path / "around" / "set"), str(tmp_path / "around" / "out"))
    assert all(path.startswith(allowed) for path in new)


@pytest.mark.parametrize("name", corpus.NAMES, ids=range(len(corpus.NAMES)))
def test_odd_names(source, tmp_path, negative, name):
    path = source / "trainA" / f"{name}.png"
    path.write_bytes(PICTURE)
    assert make_data(source, tmp_path / "set").rejected == 0
    keys = [r["image/key"].decode("utf-8", "surrogateescape") for r in read_folder(tmp_path / "set")[1]["trainA"]]
    assert f"trainA/{name}.png" in keys
    result = translate(negative, source / "trainA", tmp_path / "out")
    assert (result.translated, result.failed) == (2, [])
    assert (tmp_path / "out" / f"{name}.png").is_file()


def test_odd_names_of_rejected_pictures_can_be_read_back(source, tmp_path):
    for name in corpus.NAMES:
        (source / "trainA" / f"{name}.png").write_bytes(b"no picture")
    assert make_data(source, tmp_path / "set").rejected == len(corpus.NAMES)
    assert rejected(tmp_path / "set") == {f"trainA/{name}.png" for name in corpus.NAMES}


def test_the_longest_name_a_file_can_have(source, tmp_path, negative):
    (source / "trainA" / f"{'n' * 251}.png").write_bytes(PICTURE)
    result = translate(negative, source / "trainA", tmp_path / "out")
    assert (result.translated, result.failed) == (2, [])


def test_links_out_of_the_source_are_read_as_what_they_point_to(source, tmp_path, negative):
    """The source is the user's own; a link to no picture is listed, one that leads nowhere too."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "other.png").write_bytes(PICTURE)
    (outside / "secret.txt").write_text("no picture")
    (source / "trainA" / "link.png").symlink_to(outside / "other.png")
    (source / "trainA" / "secret.png").symlink_to(outside / "secret.txt")
    (source / "trainA" / "nowhere.png").symlink_to(outside / "none.png")
    (source / "trainA" / "itself.png").symlink_to(source / "trainA" / "itself.png")
    (source / "trainA" / "up").symlink_to(source)
    (source / "trainA" / "null.png").symlink_to("/dev/null")
    before = snapshot(tmp_path)
    assert make_data(source, tmp_path / "set").rejected == 4
    result = translate(negative, source / "trainA", tmp_path / "out")
    assert len(result.failed) == 4
    after = snapshot(tmp_path)
    assert {path: after.get(path) for path in before} == before


@pytest.mark.parametrize("kind", ["folder", "file", "itself", "nowhere"])
def test_links_in_the_output_do_not_lead_out(source, tmp_path, negative, kind):
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    (outside / "kept.png").write_bytes(b"kept")
    out.mkdir()
    (source / "sub").mkdir()
    (source / "sub" / "kept.png").write_bytes(PICTURE)
    if kind == "file":  # replaced, not followed
        (out / "sub").mkdir()
        (out / "sub" / "kept.png").symlink_to(outside / "kept.png")
        translate(negative, source, out, overwrite=True)
        assert not (out / "sub" / "kept.png").is_symlink()
    else:
        (out / "sub").symlink_to({"folder": outside, "itself": out / "sub", "nowhere": outside / "new"}[kind])
        with pytest.raises((UserError, OSError)) as caught:
            translate(negative, source, out)
        assert str(out / "sub") in str(caught.value)
    assert contents(outside) == {"kept.png": b"kept"}


def test_an_output_that_is_a_link_itself_is_followed(source, tmp_path, negative):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert translate(negative, source, tmp_path / "out").translated == 2
    assert set(contents(tmp_path / "disk")) == {"trainA/sound.png", "trainB/sound.png"}


def test_pipes_and_devices_are_not_waited_for(source, tmp_path, negative):
    os.mkfifo(source / "trainA" / "pipe.png")
    assert make_data(source, tmp_path / "set").rejected == 1
    result = translate(negative, source, tmp_path / "out")
    assert [path for path, _ in result.failed] == [str(source / "trainA" / "pipe.png")]


def test_masks_too_large_to_be_read_reject_their_picture(source, tmp_path):
    for name in ("trainA", "trainB"):
        (tmp_path / "masks" / name).mkdir(parents=True)
    (tmp_path / "masks" / "trainB" / "sound.png").write_bytes(SOUND["a.png"])
    (source / "trainA" / "huge.png").write_bytes(PICTURE)
    (tmp_path / "masks" / "trainA" / "sound.png").write_bytes(SOUND["a.png"])
    with open(tmp_path / "masks" / "trainA" / "huge.png", "wb") as file:
        file.truncate(1 << 42)
    options = dataclasses.replace(OPTIONS, mask=masks.MaskOptions("folder", str(tmp_path / "masks")))
    source_ = FolderSource(str(source), LayoutOptions(), max_bytes=1 << 20)
    assert convert(source_, str(tmp_path / "set"), options).rejected == 1
    assert "more than 64 MiB" in (tmp_path / "set" / "rejected.csv").read_text()


def test_files_too_large_to_be_read_are_not(source, tmp_path, negative):
    with open(source / "trainA" / "huge.png", "wb") as file:
        file.truncate(1 << 42)  # a hole: four tebibytes that take no disk
    assert make_data(source, tmp_path / "set").rejected == 1
    result = translate(negative, source, tmp_path / "out")
    assert [reason for _, reason in result.failed] == ["more than 1024 MiB"]
