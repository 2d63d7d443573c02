"""Archives that lead out of themselves, lie about sizes or are damaged: refused by name, and nothing is unpacked."""

from __future__ import annotations

import io
import os
import pathlib
import stat
import tarfile
import zipfile

import corpus
import pytest
from pictures import contents

from tfaclgan.data import images
from tfaclgan.data.sources import ArchiveSource, LayoutOptions
from tfaclgan.errors import UserError

PICTURE = corpus.sound()["a.png"]
PLAIN = {f"{split}/{i}.png": PICTURE for split in ("trainA", "trainB") for i in range(3)}
SUFFIXES = (".zip", ".tar", ".tar.gz")


def packed(folder, members, suffix):
    """`members`: {name: bytes}; a name may also stand for a prepared ZipInfo or TarInfo."""
    path = str(folder / f"set{suffix}")
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz" if suffix.endswith("gz") else "w") as archive:
        for name, data in members.items():
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return path


def read_all(path):
    """{key: bytes} of the pictures that are not rejected."""
    source = ArchiveSource(path, LayoutOptions(), max_bytes=1 << 20)
    found = {}
    for split in source.counts:
        for job in source.jobs(split, 0):
            try:
                found[job.key] = job.load(16).image
            except images.RejectedError as error:
                corpus.refused(error)
    return found


@pytest.fixture
def nothing_unpacked(tmp_path, monkeypatch):
    """A folder to work in; nothing may be in it, or around it, that the test did not put there."""
    inside = tmp_path / "deep" / "work"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    yield inside
    assert {path for path in contents(tmp_path) if not path.startswith("deep/work/set.")} == set()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "name",
    ["../evil.png", "trainA/../../evil.png", "/tmp/evil.png", "C:\\evil.png", "..\\evil.png", "//host/evil.png",
     "trainA/..", "trainA/../trainB/../../x.png"],
)  # fmt: skip
def test_names_that_lead_out(nothing_unpacked, suffix, name):
    path = packed(nothing_unpacked, {**PLAIN, name: PICTURE}, suffix)
    with pytest.raises(UserError, match=r"leads out of|absolute path"):
        read_all(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_links_and_devices_in_a_tar(nothing_unpacked, suffix, kind):
    info = tarfile.TarInfo("trainA/x.png")
    info.type, info.linkname = kind, "/etc/passwd"
    path = packed(nothing_unpacked, {**PLAIN, info: b""}, suffix)
    with pytest.raises(UserError, match=r"is a link|is no regular file"):
        read_all(path)


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_a_zip(nothing_unpacked, mode):
    info = zipfile.ZipInfo("trainA/x.png")
    info.external_attr = (mode | 0o777) << 16
    with zipfile.ZipFile(nothing_unpacked / "set.zip", "w") as archive:
        for name, data in [*PLAIN.items(), (info, b"/etc/passwd")]:
            archive.writestr(name, data)
    with pytest.raises(UserError, match=r"is a link|is no regular file"):
        read_all(str(nothing_unpacked / "set.zip"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_odd_names(nothing_unpacked, suffix):
    names = [name for name in corpus.NAMES if ("\\" not in name and name.isprintable()) or "\n" in name]
    members = {**PLAIN, **{f"trainA/{name}.png": PICTURE for name in names}}
    found = read_all(packed(nothing_unpacked, members, suffix))
    assert set(found) == set(members)
    assert set(found.values()) == {PICTURE}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("cases", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_damaged_archives(nothing_unpacked, suffix, cases):
    """What is read is what was packed, or a file that its own format cannot check (a tar has no sums of contents)."""
    path = pathlib.Path(packed(nothing_unpacked, PLAIN, suffix))
    whole = path.read_bytes()

    def check(draw):
        damaged, _ = corpus.damage(whole, draw)
        path.write_bytes(damaged)
        try:
            found = read_all(str(path))
        except UserError as error:
            corpus.refused(error)
            return
        if suffix == ".zip":
            assert set(found.values()) <= {PICTURE}

    corpus.each(cases, check)
    assert os.listdir(nothing_unpacked) == [path.name]
