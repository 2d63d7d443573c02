"""Members of zip, tar and tar.gz archives, read where they are: nothing is unpacked to the disk.

An archive may come from anywhere, so it is looked through before the first member is used. Refused, as a whole and
by name: members that point outside (absolute names, "..", drive letters), links and devices, sparse and encrypted
members, names that occur twice, images that declare more than a stated size, and compressed tars that inflate beyond
reason. Reading is limited by the same size, whatever a member declares.
"""

from __future__ import annotations

import bisect
import io
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from tfaclgan.data.images import RejectedError
from tfaclgan.errors import UserError, one_line

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_OTHER_SUFFIXES = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar", ".gz", ".bz2", ".xz")
_MAX_MEMBERS = 20_000_000
_MAX_INFLATION = 100  # images hardly shrink; a tar.gz that grows more than so many times past the first GiB is a bomb
# Not LZMA: a member may ask for gigabytes of dictionary.
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


class Archive(Protocol):
    """An archive that was found sound; names use "/" and are relative."""

    sizes: dict[str, int]

    def read(self, name: str) -> bytes:
        """A member's content; RejectedError if it is damaged."""


def is_archive(path: str) -> bool:
    """Whether the name is an archive's, readable here or not."""
    return path.lower().endswith(SUFFIXES + _OTHER_SUFFIXES)


def open_archive(path: str, *, max_bytes: int, wanted: Callable[[str], bool]) -> Archive:
    """Opens and looks through an archive.

    Args:
        path: a file whose name ends in one of SUFFIXES.
        max_bytes: largest wanted member.
        wanted: says of a (clean, relative) name whether the member will be read; others are passed over.

    Raises:
        UserError: not such a file, damaged, or one of the things the module's text refuses.
    """
    lower = path.lower()
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; name the folder, archive or data set to read with --source")
    if not lower.endswith(SUFFIXES):
        raise UserError(f"{path}: archives are read as {', '.join(SUFFIXES)}; repack it as one of these, or unpack it")
    members = _Members(path, max_bytes, wanted)
    try:
        if lower.endswith(".zip"):
            return _ZipArchive(path, members)
        return _TarArchive(path, members, compressed=not lower.endswith(".tar"))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, struct.error) as error:
        raise UserError(f"{path}: damaged archive ({_short(error)}); fetch it again") from error


def _short(error: Exception) -> str:
    """What went wrong, without the kilobytes of a damaged name that may be quoted in it."""
    return one_line(error)[:200]


class _Members:
    """Collects the wanted members of an archive and refuses what must not be in one."""

    def __init__(self, path: str, max_bytes: int, wanted: Callable[[str], bool]) -> None:
        self._path, self.max_bytes, self._wanted = path, max_bytes, wanted
        self.found: dict[str, Any] = {}
        self.sizes: dict[str, int] = {}
        self._count = 0

    def refuse(self, name: str, why: str) -> None:
        raise UserError(f"{self._path}: member {name!a} {why}; archives with such members are not read")

    def add(self, name: str, size: int, member: Any) -> None:
        """Takes in a regular file."""
        self._count += 1
        if self._count > _MAX_MEMBERS:
            raise UserError(f"{self._path}: more than {_MAX_MEMBERS} members; split it up")
        clean = self.clean(name)
        if not self._wanted(clean):
            return
        if clean in self.found:
            self.refuse(name, "occurs twice")
        if size > self.max_bytes:
            self.refuse(name, f"holds {size} bytes, more than --max_member_mb={self.max_bytes >> 20}")
        self.found[clean], self.sizes[clean] = member, size

    def clean(self, name: str) -> str:
        """The name with "/" between folders and no "./"; refuses names that lead elsewhere."""
        parts = name.replace("\\", "/").split("/")
        if parts[0] == "" or re.match(r"[A-Za-z]:", parts[0]):
            self.refuse(name, "has an absolute path")
        if ".." in parts:
            self.refuse(name, 'leads out of the archive ("..")')
        return "/".join(part for part in parts if part not in ("", "."))


class _ZipArchive:
    def __init__(self, path: str, members: _Members) -> None:
        self._zip, self._members, self.sizes = zipfile.ZipFile(path), members, members.sizes
        for info in self._zip.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind == stat.S_IFLNK:
                members.refuse(info.filename, "is a link")
            members.clean(info.filename)
            if info.is_dir():
                continue
            if kind not in (0, stat.S_IFREG):
                members.refuse(info.filename, "is no regular file")
            if info.flag_bits & 0x1:
                members.refuse(info.filename, "is encrypted")
            if info.compress_type not in _ZIP_METHODS:
                members.refuse(info.filename, f"is compressed by method {info.compress_type}, which is not supported")
            members.add(info.filename, info.file_size, info)

    def read(self, name: str) -> bytes:
        try:
            with self._zip.open(self._members.found[name]) as member:
                return _limited(member, self._members.max_bytes)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
            raise RejectedError(f"damaged in the archive: {_short(error)}") from error


class _TarArchive:
    def __init__(self, path: str, members: _Members, *, compressed: bool) -> None:
        self._members, self.sizes = members, members.sizes
        self._file = GzipReader(path) if compressed else open(path, "rb")  # noqa: SIM115 (kept for later reads)
        limit = 2**30 + _MAX_INFLATION * os.path.getsize(path)
        with tarfile.open(fileobj=self._file, mode="r:") as tar:
            for info in tar:
                if compressed and info.offset_data + info.size > limit:
                    members.refuse(info.name, f"lies {info.offset_data + info.size} bytes into the inflated archive")
                if info.issym() or info.islnk():
                    members.refuse(info.name, "is a link")
                members.clean(info.name)
                if info.isdir():
                    continue
                if not info.isreg() or info.issparse():
                    members.refuse(info.name, "is no regular file")
                members.add(info.name, info.size, (info.offset_data, info.size))
                tar.members = []  # tarfile would keep every header

    def read(self, name: str) -> bytes:
        offset, size = self._members.found[name]
        try:
            self._file.seek(offset)
            data = self._file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise RejectedError(f"damaged in the archive: {_short(error)}") from error
        if len(data) != size:
            raise RejectedError("damaged in the archive: it ends early")
        return data


def _limited(member: Any, max_bytes: int) -> bytes:
    data = member.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise RejectedError(f"more than --max_member_mb={max_bytes >> 20}")
    return data


class GzipReader(io.RawIOBase):
    """A gzip file as a seekable stream that does not inflate from the start at every step back.

    On the way forward the inflater is copied at intervals (a copy takes about 50 kB), and a seek starts from the
    nearest copy before its aim: members of a tar.gz can be read in any order.
    """

    _CHUNK = 1 << 16  # bytes
    _MAX_POINTS = 1000  # copies

    def __init__(self, path: str) -> None:
        super().__init__()
        self._file = open(path, "rb")  # noqa: SIM115 (closed with the reader)
        self._interval = max(1 << 20, os.path.getsize(path) // self._MAX_POINTS)
        self._position = 0  # of the inflated stream, where the inflater is
        self._aim = 0  # where the next read starts
        self._inflater = zlib.decompressobj(wbits=31)
        self._input = b""  # compressed bytes read and not yet inflated
        self._ended = False
        self._points: list[tuple[int, int, Any]] = [(0, 0, self._inflater.copy())]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._aim

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset += self._aim
        elif whence != os.SEEK_SET:
            raise io.UnsupportedOperation("seek from the end")
        self._aim = offset
        return offset

    def readinto(self, buffer: Any) -> int:
        self._go_to(self._aim)
        filled = 0  # a raw stream may give less than it was asked for, but tarfile takes that for the end
        while self._position == self._aim and filled < len(buffer) and (data := self._inflate(len(buffer) - filled)):
            buffer[filled : filled + len(data)] = data
            filled += len(data)
            self._aim += len(data)
        return filled

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

    def _go_to(self, aim: int) -> None:
        """Brings the inflater to byte `aim`, or to the end if that comes first."""
        before = bisect.bisect_right(self._points, aim, key=lambda point: point[0]) - 1
        if aim < self._position or self._points[before][0] > self._position:
            self._position, start, inflater = self._points[before]
            self._inflater, self._input, self._ended = inflater.copy(), b"", False
            self._file.seek(start)
        while self._position < aim and self._inflate(min(aim - self._position, self._CHUNK)):
            pass

    def _inflate(self, size: int) -> bytes:
        """At most `size` next bytes; b"" only at the end."""
        while not self._ended:
            if self._inflater.eof:
                self._next_part()
                continue
            self._input = self._input or self._file.read(self._CHUNK)
            if not self._input:
                raise EOFError("the compressed file ends early")
            data = self._inflater.decompress(self._input, size)
            self._input = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
            if data:
                self._position += len(data)
                if self._position >= self._points[-1][0] + self._interval and not self._inflater.eof:
                    start = self._file.tell() - len(self._input)
                    self._points.append((self._position, start, self._inflater.copy()))
                return data
        return b""

    def _next_part(self) -> None:
        """Past the end of one gzip part: the next one (files may be joined), zero padding, or the end."""
        self._input = (self._input or self._file.read(self._CHUNK)).lstrip(b"\0")
        if self._input:
            self._inflater = zlib.decompressobj(wbits=31)
        elif not self._file.peek(1):
            self._ended = True
