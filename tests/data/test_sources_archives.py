"""Archives: the same pictures as from the folder, and nothing hostile gets through."""

from __future__ import annotations

import contextlib
import gzip
import io
import pathlib
import random
import stat
import tarfile
import zipfile

import pytest
from pictures import encoded, four_folders, noise

from tfaclgan.data import images
from tfaclgan.data.archives import GzipReader, is_archive, open_archive
from tfaclgan.data.sources import ArchiveSource, FolderSource, LayoutOptions
from tfaclgan.errors import UserError

MEGABYTE = 1 << 20
PICTURE = encoded(noise(20, 30))


def anything(name):
    return True


def opened(path, max_bytes=MEGABYTE, wanted=anything):
    return open_archive(str(path), max_bytes=max_bytes, wanted=wanted)


def pack_zip(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return str(path)


def pack_tar(path, members, mode="w"):
    """`members`: (name or TarInfo, bytes)."""
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.isreg():
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def pack_tar_gz(path, members):
    return pack_tar(path, members, "w:gz")


PACKERS = {".zip": pack_zip, ".tar": pack_tar, ".tar.gz": pack_tar_gz, ".tgz": pack_tar_gz}


@pytest.fixture(params=sorted(PACKERS))
def pack(request, tmp_path):
    """Packs (name, bytes) members into an archive of each kind."""
    return lambda members: PACKERS[request.param](tmp_path / f"a{request.param}", members)


def test_archives_give_what_the_folder_gives(tmp_path, pack):
    folder = four_folders(tmp_path / "set")
    plain = FolderSource(folder, LayoutOptions(), max_bytes=MEGABYTE)
    names = [f"{split}/{i:03d}.png" for split in ("testB", "trainB", "trainA", "testA") for i in (2, 0, 1)]
    members = [("set/" + name, pathlib.Path(folder, name).read_bytes()) for name in names]
    packed = ArchiveSource(pack([("set/readme.txt", b"hello"), *members]), LayoutOptions(), max_bytes=MEGABYTE)
    assert packed.counts == plain.counts
    for split in plain.counts:
        expected = [(job.key, job.load(64)) for job in plain.jobs(split, 0)]
        assert [(job.key, job.load(64)) for job in packed.jobs(split, 0)] == expected
        assert [job.key for job in packed.jobs(split, 2)] == [expected[2][0]]


def test_members_are_read_in_any_order(pack):
    members = [(f"{i:03d}.bin", random.Random(i).randbytes(i * 700)) for i in range(60)]
    archive = opened(pack(members))
    for name, data in random.Random(0).sample(members, len(members)):
        assert archive.read(name) == data


@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "..\\evil.png", "C:\\evil.png", "C:/evil.png"]
)
def test_paths_that_lead_out_are_refused(pack, name):
    with pytest.raises(UserError, match=r"member '.*evil.png' (leads out|has an absolute path)") as error:
        opened(pack([("trainA/a.png", PICTURE), (name, PICTURE)]))
    assert "\n" not in str(error.value)


def test_paths_that_lead_out_are_refused_though_unwanted(pack):
    with pytest.raises(UserError, match="leads out"):
        opened(pack([("../evil.sh", b"rm")]), wanted=lambda name: False)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_tars(tmp_path, kind):
    info = tarfile.TarInfo("trainA/link.png")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(UserError, match=r"member 'trainA/link.png' (is a link|is no regular file)"):
        opened(pack_tar(tmp_path / "a.tar", [(info, b"")]))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO])
def test_links_and_pipes_in_zips(tmp_path, kind):
    info = zipfile.ZipInfo("trainA/link.png")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    with pytest.raises(UserError, match=r"member 'trainA/link.png' (is a link|is no regular file)"):
        opened(pack_zip(tmp_path / "a.zip", [(info, "/etc/passwd")]))


def test_folders_in_archives_are_no_members(tmp_path):
    info = tarfile.TarInfo("trainA")
    info.type = tarfile.DIRTYPE
    assert opened(pack_tar(tmp_path / "a.tar", [(info, b""), ("./trainA/a.png", b"x")])).sizes == {"trainA/a.png": 1}
    assert opened(pack_zip(tmp_path / "a.zip", [("trainA/", b""), ("trainA/a.png", b"x")])).sizes == {"trainA/a.png": 1}


def test_members_above_the_limit_are_refused_if_wanted(pack):
    path = pack([("trainA/large.png", bytes(3 * MEGABYTE)), ("small.txt", b"x")])
    with pytest.raises(UserError, match=r"'trainA/large.png' holds 3145728 bytes, more than --max_member_mb=1"):
        opened(path)
    assert opened(path, wanted=lambda name: name.endswith(".txt")).sizes == {"small.txt": 1}
    assert opened(path, max_bytes=3 * MEGABYTE).read("trainA/large.png") == bytes(3 * MEGABYTE)


def test_a_zip_that_lies_about_its_size_is_not_believed(tmp_path):
    path = pack_zip(tmp_path / "a.zip", [("trainA/bomb.png", bytes(4 * MEGABYTE))])
    data = bytearray(pathlib.Path(path).read_bytes())
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # both headers' field for the inflated size
        start = data.index(signature) + at
        data[start : start + 4] = (1000).to_bytes(4, "little")
    pathlib.Path(path).write_bytes(data)
    archive = opened(path)
    assert archive.sizes == {"trainA/bomb.png": 1000}
    with pytest.raises(images.RejectedError, match="damaged in the archive"):
        archive.read("trainA/bomb.png")


def test_a_tar_that_inflates_without_end(tmp_path):
    info = tarfile.TarInfo("padding.bin")  # unwanted, but in the way
    info.size = 40 << 30
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(info.tobuf())
        file.write(bytes(1 << 20))
    with pytest.raises(UserError, match=r"'padding.bin' lies 429\d* bytes into the inflated archive"):
        opened(tmp_path / "a.tar.gz")


def test_encrypted_and_unknown_methods(tmp_path):
    path = pack_zip(tmp_path / "a.zip", [("a.png", b"x")])
    data = bytearray(pathlib.Path(path).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    pathlib.Path(path).write_bytes(data)
    with pytest.raises(UserError, match=r"'a\.png' is encrypted"):
        opened(path)
    with pytest.raises(UserError, match="compressed by method 14"):
        opened(pack_zip(tmp_path / "b.zip", [("a.png", b"x")], zipfile.ZIP_LZMA))


def test_names_that_occur_twice(pack):
    with pytest.warns(UserWarning, match="Duplicate name") if pack([]).endswith("zip") else contextlib.nullcontext():
        path = pack([("trainA/a.png", b"1"), ("trainA/a.png", b"2")])
    with pytest.raises(UserError, match="occurs twice"):
        opened(path)


def test_damaged_archives(tmp_path, pack):
    members = [(f"trainA/{i}.png", random.Random(i).randbytes(20_000)) for i in range(10)]
    path = pack(members)
    data = pathlib.Path(path).read_bytes()
    for damaged in (b"", data[: len(data) // 2], b"not an archive at all" * 100):
        pathlib.Path(path).write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged archive|no images|0 images"):
            ArchiveSource(path, LayoutOptions(), max_bytes=MEGABYTE)


def test_a_damaged_member_is_rejected_alone(tmp_path):
    members = [(f"{split}/{i}.png", PICTURE) for split in ("trainA", "trainB") for i in range(3)]
    path = pack_zip(tmp_path / "a.zip", members, zipfile.ZIP_STORED)
    data = bytearray(pathlib.Path(path).read_bytes())
    data[data.index(PICTURE) + len(PICTURE) // 2] ^= 1
    pathlib.Path(path).write_bytes(data)
    first, second, _ = ArchiveSource(path, LayoutOptions(), max_bytes=MEGABYTE).jobs("trainA", 0)
    with pytest.raises(images.RejectedError, match="damaged in the archive: Bad CRC-32"):
        first.load(64)
    assert second.load(64).image == PICTURE


def test_other_archives_are_named(tmp_path):
    for name in ("a.tar.bz2", "a.7z", "a.rar", "a.tar.xz"):
        (tmp_path / name).write_bytes(b"x")
        assert is_archive(name)
        with pytest.raises(UserError, match=r"archives are read as \.zip, \.tar, \.tar\.gz, \.tgz"):
            opened(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        opened(tmp_path / "none.zip")


def test_names_are_kept_and_odd_ones_come_through(tmp_path):
    for pack_, suffix in ((pack_zip, ".zip"), (pack_tar, ".tar")):
        archive = opened(pack_(tmp_path / f"n{suffix}", [("trainA/日本\n語.png", b"x")]))
        assert list(archive.sizes) == ["trainA/日本\n語.png"]
    assert list(opened(pack_zip(tmp_path / "w.zip", [("trainA\\a.png", b"x")])).sizes) == ["trainA/a.png"]


class TestGzipReader:
    @pytest.fixture
    def stream(self, tmp_path):
        """(path, what it inflates to): three gzip parts in a row, as joined files are, 6 MB."""
        parts = [random.Random(0).randbytes(2_000_000), bytes(2_000_000), random.Random(1).randbytes(2_000_000)]
        path = tmp_path / "x.gz"
        path.write_bytes(b"".join(gzip.compress(part, 1) for part in parts))
        return str(path), b"".join(parts)

    def test_reads_at_random_places(self, stream):
        path, data = stream
        draw = random.Random(5)
        with GzipReader(path) as reader:
            for _ in range(60):
                start, size = draw.randrange(len(data) + 1000), draw.randrange(1, 50_000)
                reader.seek(start)
                assert reader.read(size) == data[start : start + size]

    def test_reads_to_the_end(self, stream):
        path, data = stream
        with GzipReader(path) as reader:
            assert reader.read() == data
            assert reader.read(5) == b""
            reader.seek(0)
            assert reader.read(10) == data[:10]

    def test_steps_back_without_starting_over(self, stream):
        path, data = stream
        with GzipReader(path) as reader:
            reader.read()
            counted = []
            original = reader._inflate
            reader._inflate = lambda size: counted.append(len(original(size))) or b"x" * counted[-1]
            reader.seek(4_500_000)
            reader._go_to(4_500_000)
            assert sum(counted) <= 1 << 20
        assert data  # the fixture's content, not the stand-in's

    def test_zero_padding_after_the_end_is_ignored(self, tmp_path):
        (tmp_path / "x.gz").write_bytes(gzip.compress(b"hello") + bytes(512))
        with GzipReader(str(tmp_path / "x.gz")) as reader:
            assert reader.read() == b"hello"

    def test_a_cut_off_file(self, stream):
        path, _ = stream
        data = pathlib.Path(path).read_bytes()
        pathlib.Path(path).write_bytes(data[:-3])
        with GzipReader(path) as reader, pytest.raises(EOFError):
            reader.read()
