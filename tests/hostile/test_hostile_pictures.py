"""Pictures of every kind, damaged or made to hurt: a record as it should be, or a reason in one line."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import corpus
import numpy as np
import pytest
from pictures import PictureJob
from PIL import Image

from tfaclgan.data import convert, images

OPTIONS = images.ImageOptions(size=8, min_size=1, max_pixels=1_000_000)
SOUND = corpus.sound()
MANY = pytest.param(4000, marks=pytest.mark.slow)
HERE = os.path.dirname(os.path.abspath(__file__))


def outcome(data, options=OPTIONS):
    """The converter's, checked: a record holds a picture as it says, a reason is one line."""
    [result] = convert.run_jobs([PictureJob("key", data)], options)
    if result.record is None:
        assert result.reason
        assert "\n" not in result.reason
        assert not re.search(r"\b0x[0-9a-f]{6}", result.reason)  # an address in memory would differ from run to run
        return result
    record = result.record
    stored = Image.open(io.BytesIO(record.image))
    stored.load()
    assert stored.mode == "RGB"
    assert (stored.height, stored.width) == (record.height, record.width)
    assert min(stored.size) == options.size
    assert stored.width * stored.height <= options.max_pixels
    return result


@pytest.mark.parametrize("cases", [250, MANY])
def test_damaged_pictures(cases):
    """A kind with checksums never gives other pixels; nor does any file that was cut off."""
    whole = {name: np.asarray(images.decode(data, OPTIONS)) for name, data in SOUND.items()}
    counts = {"rejected": 0, "taken": 0}

    def check(draw):
        name = str(draw.choice(sorted(SOUND)))
        data, how = corpus.damage(SOUND[name], draw)
        result = outcome(data)
        counts["taken" if result.record else "rejected"] += 1
        if result.record and (how == "cut" or name in ("a.png", "stored.png", "alpha.png")):
            np.testing.assert_array_equal(np.asarray(images.decode(data, OPTIONS)), whole[name], err_msg=name)

    corpus.each(cases, check)
    assert min(counts.values()) > cases / 20  # the damage is neither too mild nor too coarse to test anything


@pytest.mark.parametrize("name", sorted(corpus.bombs()))
def test_bombs(name):
    assert outcome(corpus.bombs()[name], images.ImageOptions(size=8, min_size=1)).record is None


@pytest.mark.parametrize("name", sorted(corpus.ill()))
def test_no_pictures(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert outcome(corpus.ill()[name]).record is None
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", sorted(corpus.odd()))
def test_odd_pictures(name):
    assert outcome(corpus.odd()[name]).record is not None


@pytest.mark.parametrize("decode", [images.decode_mask, images.decode_label_map])
@pytest.mark.parametrize("cases", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_masks_and_label_maps(decode, cases):
    def check(draw):
        name = str(draw.choice(sorted(SOUND)))
        try:
            found = decode(corpus.damage(SOUND[name], draw)[0], OPTIONS)
        except images.RejectedError as error:
            corpus.refused(error)
        else:
            assert found.mode == "L"

    corpus.each(cases, check)


def grown(*arguments):
    """MiB that a process of its own grew by, and how many pictures it took, in measure_memory.py."""
    command = [sys.executable, os.path.join(HERE, "measure_memory.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    mib, taken = result.stdout.split()
    return float(mib), int(taken)


def test_refused_pictures_take_no_memory():
    mib, taken = grown("bombs")
    assert taken == 0
    assert mib < 128


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_picture_takes_at_most_24_bytes_a_pixel(kind):
    side = 4000
    mib, taken = grown(kind, str(side))
    assert taken == 1
    assert mib * 2**20 < 24 * side * side + 64 * 2**20
