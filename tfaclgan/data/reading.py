"""Any record of a split by its number: the index file says where it lies, checksums say whether it is whole.

A TFRecord file is a row of frames: length of the payload (8 bytes, little endian), masked CRC-32C of those 8
bytes, payload, masked CRC-32C of the payload (4 bytes each). The index holds [shard number, byte offset of the
payload, byte length of the payload] for each record, so that a record is one read at a known place. Local files
are read with `os.pread`, all others (`gs://...`) through `tf.io.gfile`.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import re
import struct
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tfaclgan.data import records, remote
from tfaclgan.data.files import parse_array
from tfaclgan.errors import UserError, one_line, warn

if TYPE_CHECKING:
    import tensorflow as tf

_HEADER_BYTES = 12
_FOOTER_BYTES = 4
_BUFFER_BYTES = 2**16  # of a reader of one record
_BLOCK_BYTES = 128  # a checksum's blocks are taken in parallel, so this is the number of steps times four
_CASTAGNOLI = 0x82F63B78  # reflected polynomial of CRC-32C
_REMOTE_READS = 16  # at once; each waits tens of milliseconds for an object store
_UNSEEN, _SOUND, _BAD = range(3)  # verdicts on records
_MOST_TOLD = 20  # bad records that are passed over, each in a line of its own
_MEND = "copy the data again, or make it again with data_tools/make_tfrecords.py"


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`, the checksum of TFRecord files.

    A CRC is linear over GF(2) and blind to leading zeros when it starts from 0. So the data, its first four bytes
    inverted (which is what starting from all ones means), is padded in front and cut into blocks whose checksums
    are computed side by side, and then joined pairwise.
    """
    if len(data) < 4:
        return _crc32c_of_few(data)
    padded = np.zeros(-(-len(data) // _BLOCK_BYTES) * _BLOCK_BYTES, np.uint8)
    start = len(padded) - len(data)
    padded[start:] = np.frombuffer(data, np.uint8)
    padded[start : start + 4] ^= 0xFF
    words = np.ascontiguousarray(padded.view("<u4").reshape(-1, _BLOCK_BYTES // 4).T)
    sums = np.zeros(words.shape[1], np.uint32)
    low, high = _advance_tables(4)
    for row in words:
        sums ^= row
        sums = low[sums & 0xFFFF] ^ high[sums >> 16]
    length = _BLOCK_BYTES
    while len(sums) > 1:
        if len(sums) % 2:
            sums = np.concatenate([np.zeros(1, np.uint32), sums])
        low, high = _advance_tables(length)
        left, right = sums[0::2], sums[1::2]
        sums = low[left & 0xFFFF] ^ high[left >> 16] ^ right
        length *= 2
    return int(sums[0]) ^ 0xFFFFFFFF


def _crc32c_of_few(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (_CASTAGNOLI if state & 1 else 0)
    return state ^ 0xFFFFFFFF


@functools.cache
def _advance_tables(count: int) -> tuple[np.ndarray, np.ndarray]:
    """What `count` zero bytes (a power of two) make of a state, as tables over its lower and upper 16 bits."""
    images = np.empty(32, np.uint32)
    if count == 1:
        for bit in range(32):
            state = 1 << bit
            for _ in range(8):
                state = state >> 1 ^ (_CASTAGNOLI if state & 1 else 0)
            images[bit] = state
    else:
        low, high = _advance_tables(count // 2)
        half = low[1 << np.arange(16)], high[1 << np.arange(16)]
        states = np.concatenate(half)
        images[:] = low[states & 0xFFFF] ^ high[states >> 16]
    tables = []
    for part in (images[:16], images[16:]):
        table = np.zeros(1 << 16, np.uint32)
        for bit in range(16):
            table[1 << bit : 2 << bit] = table[: 1 << bit] ^ part[bit]
        tables.append(table)
    return tables[0], tables[1]


def masked_crc32c(data: bytes) -> int:
    """The checksum as TFRecord files store it: rotated by 15 bits, plus a constant."""
    value = crc32c(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


class BadRecordError(UserError):
    """A record that is not what was written, or holds no picture; names shard, record, byte offset and key."""


class BadRecords:
    """The bad records that a run has met and passed over (`--on_bad_record=skip`); safe to use from several threads."""

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self._say = say or warn
        self._places: set[str] = set()
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many different records, since this process started to read."""
        return len(self._places)

    def add(self, place: str, error: BadRecordError) -> None:
        """Counts the record at `place`, and tells of it if it is new and not one of very many."""
        with self._lock:
            new = place not in self._places
            self._places.add(place)
            count = len(self._places)
        if new and count <= _MOST_TOLD:
            last = "; further ones are only counted" if count == _MOST_TOLD else ""
            self._say(f"{error}; passed over{last}")


class SplitReader:
    """Reads the records of one split by number; safe to use from several threads.

    With `bad_records`, each record is decoded once when it is first read, and the next sound one stands for a bad one:
    which that is depends on the files alone, so a resumed run sees what an uninterrupted one does.

    Args:
        manifest: the data folder.
        split: "trainA", "trainB", "testA" or "testB".
        cache_mb: records are kept in memory once read if all of the split's payloads fit this many MiB.
        bad_records: where bad records are counted; None: they are errors.

    Raises:
        UserError: the split is missing or empty, or its index does not fit its shards.
    """

    def __init__(
        self, manifest: records.Manifest, split: str, *, cache_mb: int = 0, bad_records: BadRecords | None = None
    ) -> None:
        self._split = manifest.split(split)
        self._paths = [manifest.path(shard.file) for shard in self._split.shards]
        self._index = _load_index(manifest, self._split)
        self._files: list[_File | None] = [None] * len(self._paths)
        self._lock = threading.Lock()
        far = any(remote.is_remote(path) for path in self._paths)
        self._pool = concurrent.futures.ThreadPoolExecutor(_REMOTE_READS) if far else None
        fits = int(self._index[:, 2].sum()) <= cache_mb * 2**20
        self._cache: list[bytes | None] | None = [None] * self._split.count if fits else None
        self._manifest, self._bad_records = manifest, bad_records
        self._verdicts = np.full(self._split.count if bad_records else 0, _UNSEEN, np.uint8)

    def __len__(self) -> int:
        return self._split.count

    @property
    def cached(self) -> bool:
        """Whether records stay in memory once read."""
        return self._cache is not None

    def read(self, number: int) -> bytes:
        """Payload of record `number`, checked, or of the next sound one if bad ones are passed over.

        Raises:
            UserError: truncated or damaged; names shard, offset, record and key.
        """
        if self._bad_records is None:
            return self._kept(number)
        for ahead in range(self._split.count):
            candidate = (number + ahead) % self._split.count
            if self._verdicts[candidate] == _BAD:
                continue
            try:
                payload = self._kept(candidate)
                if self._verdicts[candidate] != _SOUND:  # also where another thread has found it bad meanwhile
                    self._inspect(candidate, payload)
                    self._verdicts[candidate] = _SOUND
                return payload
            except BadRecordError as error:
                self._verdicts[candidate] = _BAD
                self._bad_records.add(self.where(candidate), error)
        raise UserError(f"{self._paths[0]}: all {self._split.count} records of {self._split.name} are bad; {_MEND}")

    def inspect(self, number: int) -> None:
        """Reads and decodes record `number` as training would.

        Raises:
            BadRecordError: it is not sound.
        """
        self._inspect(number, self._kept(number))

    def _kept(self, number: int) -> bytes:
        """Payload of record `number` from memory or from its shard."""
        if self._cache is None:
            return self._read(number)
        kept = self._cache[number]
        if kept is None:
            kept = self._cache[number] = self._read(number)
        return kept

    def _inspect(self, number: int, payload: bytes) -> None:
        import tensorflow as tf

        try:
            record = records.features(payload)
        except (ValueError, KeyError) as error:
            raise self._bad(number, payload, "does not hold the fields of an image") from error
        size = (record["image/height"], record["image/width"])
        for name in ("image", *records.COMPANIONS):
            encoded = record[f"{name}/encoded"]
            if not encoded and name != "image" and not getattr(self._split, f"has_{name}"):
                continue
            try:
                with tf.device("CPU"):
                    found = tuple(records.decode(encoded, self._manifest.channels_of(name)).shape[:2])
            except tf.errors.OpError as error:
                problem = f"cannot be used: its {name} cannot be decoded ({one_line(error)})"
                raise self._bad(number, payload, problem) from error
            if found != size:
                problem = f"cannot be used: its {name} has {found[1]}x{found[0]} pixels, not {size[1]}x{size[0]}"
                raise self._bad(number, payload, problem)

    def read_many(self, numbers: np.ndarray) -> np.ndarray:
        """Payloads of the records `numbers` [n] as an object array [n] of bytes."""
        payloads = np.empty(len(numbers), object)
        read = self._pool.map if self._pool else map
        for row, payload in enumerate(read(self.read, numbers.tolist())):
            payloads[row] = payload
        return payloads

    def read_in_graph(self, numbers: tf.Tensor) -> tf.Tensor:
        """Payloads of the records `numbers` int64 [n]: string [n], read by TensorFlow alone, so on any host.

        Checksums are looked at, but nothing is kept in memory and no bad record passed over.
        """
        import tensorflow as tf

        paths = [remote.absolute(path) for path in self._paths]
        one = {"output_types": [tf.string], "output_shapes": [[]]}

        def read(number: tf.Tensor) -> tf.Tensor:
            place = tf.gather(self._index, number)
            shard = tf.raw_ops.TFRecordDatasetV2(
                filenames=tf.gather(paths, place[:1]),
                compression_type="",
                buffer_size=tf.constant(_BUFFER_BYTES, tf.int64),
                byte_offsets=place[1:2] - _HEADER_BYTES,
            )
            first = tf.raw_ops.TakeDataset(input_dataset=shard, count=tf.constant(1, tf.int64), **one)
            return tf.raw_ops.DatasetToSingleElement(dataset=first, **one)[0]

        return tf.map_fn(read, numbers, fn_output_signature=tf.string)

    def _read(self, number: int) -> bytes:
        shard, offset, length = (int(value) for value in self._index[number])
        try:
            frame = self._file(shard).read(offset - _HEADER_BYTES, _HEADER_BYTES + length + _FOOTER_BYTES)
        except _file_errors() as error:
            raise UserError(f"{self.where(number)} cannot be read ({one_line(error)}); {_MEND}") from error
        stored = frame[_HEADER_BYTES : _HEADER_BYTES + length]
        if len(frame) != _HEADER_BYTES + length + _FOOTER_BYTES:
            raise self._bad(number, stored, "is cut off: the shard ends before it")
        stored_length, length_sum = struct.unpack("<QI", frame[:_HEADER_BYTES])
        if stored_length != length or masked_crc32c(frame[:8]) != length_sum:
            raise self._bad(number, stored, "does not begin where the index says, or its length is damaged")
        if masked_crc32c(stored) != struct.unpack("<I", frame[-_FOOTER_BYTES:])[0]:
            raise self._bad(number, stored, "is damaged: its checksum is wrong")
        return stored

    def where(self, number: int) -> str:
        """Shard, record and byte offset of record `number`, for messages."""
        shard, offset, _ = (int(value) for value in self._index[number])
        return f"{self._paths[shard]}: record {number} of {self._split.name} at byte {offset}"

    def _bad(self, number: int, payload: bytes, problem: str) -> BadRecordError:
        key = records.key_of(payload)
        named = f"key {key}" if key else "key unreadable"
        return BadRecordError(f"{self.where(number)} ({named}) {problem}; {_MEND}")

    def _file(self, shard: int) -> _File:
        with self._lock:
            file = self._files[shard]
            if file is None:
                file = self._files[shard] = _open(self._paths[shard])
            return file


_SHARED: dict[tuple[int, str, int, int], SplitReader] = {}


def shared_reader(
    manifest: records.Manifest, split: str, *, cache_mb: int = 0, bad_records: BadRecords | None = None
) -> SplitReader:
    """The process' `SplitReader` of these arguments, made at the first call.

    TensorFlow never lets go of a function that a dataset calls: with a reader of its own each dataset (samples,
    evaluations, histograms make one each time) would leave open files and an index behind.
    """
    key = (id(manifest), split, cache_mb, id(bad_records))  # the reader keeps both, so no other object gets their ids
    if key not in _SHARED:
        _SHARED[key] = SplitReader(manifest, split, cache_mb=cache_mb, bad_records=bad_records)
    return _SHARED[key]


class _File:
    """A file read at given places; `read` returns less than asked for at the end of the file."""

    def read(self, offset: int, length: int) -> bytes:
        raise NotImplementedError


class _LocalFile(_File):
    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, offset: int, length: int) -> bytes:
        parts = []
        while length:
            part = os.pread(self._descriptor, length, offset)
            if not part:
                break
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)


class _RemoteFile(_File):
    """Through TensorFlow's file systems; a handle has one position, so each thread opens its own."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._local = threading.local()

    def read(self, offset: int, length: int) -> bytes:
        from tensorflow.io import gfile

        if not hasattr(self._local, "file"):
            self._local.file = gfile.GFile(self._path, "rb")
        self._local.file.seek(offset)
        return self._local.file.read(length)


def _open(path: str) -> _File:
    return _RemoteFile(path) if remote.is_remote(path) else _LocalFile(path)


def _file_errors() -> tuple[type[Exception], ...]:
    import tensorflow as tf

    return (OSError, tf.errors.OpError)


def _load_index(manifest: records.Manifest, split: records.Split) -> np.ndarray:
    from tensorflow.io import gfile

    path = manifest.path(split.index)
    try:
        with gfile.GFile(path, "rb") as file:
            index = parse_array(file.read())
    except (ValueError, *_file_errors()) as error:
        raise UserError(f"{path}: cannot be read as an index ({one_line(error)}); {_MEND}") from error
    if index.shape != (split.count, 3) or index.dtype != np.int64:
        raise UserError(
            f"{path}: holds {index.dtype} {list(index.shape)} where {records.MANIFEST_NAME} asks for int64 "
            f"[{split.count}, 3]; {_MEND}"
        )
    sizes = np.array([shard.bytes for shard in split.shards], np.int64)
    shard, offset, length = index.T
    sound = (shard >= 0) & (shard < len(sizes)) & (offset >= _HEADER_BYTES) & (length >= 0)
    sound &= offset + length + _FOOTER_BYTES <= sizes[np.clip(shard, 0, len(sizes) - 1)]
    if not sound.all():
        number = int(np.argmin(sound))
        raise UserError(f"{path}: record {number} would lie outside of its shard; {_MEND}")
    return index


_MARKED = re.compile(r"\b(?:UserError|BadRecordError): ([^\n]+)")
_UNDECODABLE = re.compile(r"JPEG|PNG|image file format|decode|Example", re.IGNORECASE)


def explain(error: BaseException, manifest: records.Manifest | None = None) -> UserError | None:
    """What a failed step has to say to the user, if a record is at fault.

    tf.data turns an exception raised while reading into one of `tf.errors`, with a traceback in its text, and a
    decoder's complaint does not say whose bytes those were.

    Args:
        error: what came out of the iterator or the compiled step.
        manifest: if given, an undecodable image is searched for and named (reads the data once).

    Returns:
        The error to raise instead, or None if this one is not about a record.
    """
    if isinstance(error, UserError):
        return error
    import tensorflow as tf

    if not isinstance(error, tf.errors.OpError):
        return None
    marked = _MARKED.search(str(error))
    if marked:
        return UserError(marked.group(1).strip())
    if not isinstance(error, tf.errors.InvalidArgumentError) or not _UNDECODABLE.search(str(error)):
        return None
    return _first_undecodable(manifest) if manifest is not None else None


def _first_undecodable(manifest: records.Manifest) -> UserError | None:
    for split in (name for name in records.SPLITS if name in manifest.splits and manifest.splits[name].count):
        reader = SplitReader(manifest, split)
        for number in range(len(reader)):
            try:
                reader.inspect(number)
            except UserError as error:
                return error
    return None
