"""Reads PyTorch's `.pt`/`.pth` files and safetensors: tensors and nothing else, without PyTorch.

A PyTorch file is a pickle, which is a program. The interpreter here (`_Pickle`) knows the few instructions that
describe dicts, lists, numbers, texts and tensors; it imports nothing and calls nothing from the file, so a file can
ask for whatever it likes: anything else is refused by name. What a file declares is compared with the bytes that are
there before memory is taken.

Formats: the zip archive (PyTorch 1.6 and later), the stream of pickles and raw storages before it, safetensors.
Values come out as float32 or int64 NumPy arrays, whatever their type in the file.
"""

from __future__ import annotations

import io
import math
import os
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from tfaclgan.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C  # of the stream format
_STREAM_PROTOCOL = 1001
_ARCHIVE_VERSIONS = ("1", "2", "3")
_TENSOR_LIMIT = 200_000  # instructions of a pickle are parsed one by one; the largest original has some 1,000 tensors
_DTYPES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",  # the upper half of a float32
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "u1",
}
_MARK = object()
_PYTHON = (ValueError, LookupError, TypeError, RuntimeError, OverflowError, AttributeError, MemoryError)
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, *_PYTHON)


class _Refused(Exception):
    """The file holds something else than tensors; the text says what."""


def read(path: str) -> dict[str, Any]:
    """The dict that a file holds: names to arrays, or to further dicts, lists and numbers.

    Args:
        path: a PyTorch file (either format) or a safetensors file, recognised by its content. Names of a safetensors
            file stay as they are ("AB.dec.model.0 ...").

    Raises:
        UserError: not there, cut off, of an unknown version, or it asks for anything but tensors.
    """
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            start = file.read(16)
            file.seek(0)
            if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
                content = _read_archive(file, size)
            elif start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
                content = _read_safetensors(file.read())
            elif start[:1] == b"\x80":
                content = _read_stream(_Bounded(file, size))
            else:
                raise _Refused("it is neither a PyTorch file nor a safetensors file")
        if not isinstance(content, dict):
            raise _Refused(f"it holds a {type(content).__name__}, not a dict of weights")
        return content
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give the weight file's path") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder; give the weight file itself") from error
    except _Refused as error:
        raise UserError(f"{path}: refused: {error}; give a file of weights as the original code saves it") from error
    except _DAMAGED as error:
        raise UserError(
            f"{path}: cut off or damaged ({type(error).__name__}: {error}); get the file again, whole"
        ) from error


# -- formats ----------------------------------------------------------------------------------


def _read_archive(file: BinaryIO, size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        if len(entries) != len(archive.infolist()):
            raise _Refused("two entries of the archive have one name")
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _Refused("the zip archive has no data.pkl, so PyTorch did not write it")
        root = pickles[0].removesuffix("data.pkl")
        if root + "constants.pkl" in entries:
            raise _Refused("it is a TorchScript program, not a file of weights")
        for info in entries.values():
            # PyTorch compresses nothing; so no entry can be larger than the file.
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise _Refused(f"its entry {info.filename} is compressed, which PyTorch's never are")
            if info.file_size > size:
                raise EOFError(f"entry {info.filename} is larger than the file")
        version = (
            archive.read(root + "version").decode("ascii", "replace").strip() if root + "version" in entries else ""
        )
        if version not in _ARCHIVE_VERSIONS:
            raise _Refused(
                f"its archive version {version or 'none'!r} is unknown (known: {', '.join(_ARCHIVE_VERSIONS)})"
            )
        order = (
            archive.read(root + "byteorder").decode("ascii", "replace") if root + "byteorder" in entries else "little"
        )
        if order not in ("little", "big"):
            raise _Refused(f"its byte order {order[:20]!r} is unknown")
        storages: dict[str, np.ndarray] = {}

        def storage(kind: str, key: str, count: int) -> np.ndarray:
            if key not in storages:
                dtype = np.dtype(_DTYPES[kind]).newbyteorder("<" if order == "little" else ">")
                name = f"{root}data/{key}"
                if name not in entries:
                    raise EOFError(f"entry {name} is missing")
                if entries[name].file_size != count * dtype.itemsize:
                    raise EOFError(f"entry {name} has {entries[name].file_size} bytes for {count} numbers")
                storages[key] = np.frombuffer(archive.read(name), dtype)
            return storages[key]

        content = _Pickle(io.BytesIO(archive.read(pickles[0]))).load()
        return _Resolver(storage, size).resolve(content)


def _read_stream(file: _Bounded) -> Any:
    magic = _Pickle(file).load()
    if magic != _MAGIC:
        raise _Refused("it is a pickle, but not one that PyTorch wrote")
    protocol = _Pickle(file).load()
    if protocol != _STREAM_PROTOCOL:
        raise _Refused(f"its version {protocol!r} is unknown (known: {_STREAM_PROTOCOL})")
    system = _Pickle(file).load()
    pickled = _Pickle(file)
    content = pickled.load()
    kinds = {storage.key: storage for storage in pickled.storages}
    order = "<" if not isinstance(system, dict) or system.get("little_endian", True) else ">"
    arrays = {}
    for key in _Pickle(file).load():
        count = int.from_bytes(file.read(8), "little", signed=True)
        storage = kinds[key]
        dtype = np.dtype(_DTYPES[storage.kind]).newbyteorder(order)
        if count != storage.count or count * dtype.itemsize > file.left():
            raise EOFError(f"storage {key} of {storage.count} numbers is not there")
        arrays[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return _Resolver(lambda kind, key, count: arrays[key], file.size).resolve(content)


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    import safetensors
    import safetensors.numpy

    try:
        return {name: _as_known(value) for name, value in safetensors.numpy.load(data).items()}
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from error


class _Bounded:
    """A file whose `read` never asks for more than is there."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size = file, size

    def left(self) -> int:
        return self.size - self._file.tell()

    def read(self, count: int) -> bytes:
        return self._file.read(max(0, min(count, self.left())))

    def readline(self) -> bytes:
        return self._file.readline(4096)

    def tell(self) -> int:
        return self._file.tell()


# -- pickles ----------------------------------------------------------------------------------


class _Global:
    """A name that the pickle asks for; compared, never looked up."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Storage:
    """Numbers that lie elsewhere in the file."""

    def __init__(self, kind: str, key: str, count: int) -> None:
        self.kind, self.key, self.count = kind, key, count


class _Tensor:
    """Part of a storage."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> None:
        if not isinstance(storage, _Storage):
            raise _Refused("a tensor has no storage")
        numbers = (offset, *shape, *strides)
        if not all(type(number) is int and number >= 0 for number in numbers) or len(shape) != len(strides):
            raise _Refused("a tensor has no sensible shape")
        self.storage, self.offset, self.shape, self.strides = storage, offset, tuple(shape), tuple(strides)

    def array(self, values: np.ndarray) -> np.ndarray:
        last = self.offset + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides))
        if math.prod(self.shape) > len(values) or (math.prod(self.shape) and last >= len(values)):
            raise EOFError("a tensor reaches past the end of its storage")
        strides = [stride * values.itemsize for stride in self.strides]
        part = np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides)
        if self.storage.kind == "BFloat16Storage":
            part = (part.astype(np.uint32) << 16).view(np.float32)
        return _as_known(part)


def _as_known(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value, np.float32 if value.dtype.kind == "f" else np.int64).reshape(value.shape)


def _ordered_dict(pairs: Any = ()) -> dict:
    return {_key(key): value for key, value in pairs}


def _key(key: Any) -> Any:
    if not isinstance(key, (str, int)):
        raise _Refused(f"a name in it is a {type(key).__name__}")
    return key


# What a pickle may "call": each stands for an own function.
_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _Tensor,
    "torch._utils._rebuild_parameter": lambda data, *rest: data,
    "collections.OrderedDict": _ordered_dict,
}
_STORAGE_NAMES = {f"torch.{kind}": kind for kind in _DTYPES}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = (  # instructions that stand for the number, text or bytes behind them
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
)
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Pickle:
    """Interprets one pickle of a file; the file stands behind it afterwards."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self.storages: list[_Storage] = []

    def load(self) -> Any:
        stack, count = self._stack, 0
        for opcode, argument, _ in pickletools.genops(self._file):
            name, count = opcode.name, count + 1
            if count > 100 * _TENSOR_LIMIT:
                raise _Refused("its pickle is endless")
            if name in _VALUES:
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in _EMPTY:
                stack.append(_EMPTY[name]())
            elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
                self._memo[int(argument)] = stack[-1]
            elif name == "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                stack.append(self._memo[int(argument)])
            elif name == "STOP":
                return stack.pop()
            elif name not in ("PROTO", "FRAME"):
                self._step(name, argument)
        raise EOFError("its pickle has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name == "MARK":
            stack.append(_MARK)
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name == "LIST":
            stack.append(self._since_mark())
        elif name == "DICT":
            stack.append(_ordered_dict(_pairs(self._since_mark())))
        elif name in _TUPLES:
            parts = [stack.pop() for _ in range(_TUPLES[name])]
            stack.append(tuple(reversed(parts)))
        elif name in ("SETITEM", "SETITEMS"):
            items = self._since_mark() if name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            _must_be(stack[-1], dict).update(_ordered_dict(_pairs(items)))
        elif name in ("APPEND", "APPENDS"):
            items = self._since_mark() if name == "APPENDS" else [stack.pop()]
            _must_be(stack[-1], list).extend(items)
        elif name == "GLOBAL":
            self._ask_for(argument.replace(" ", "."))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            self._ask_for(f"{module}.{attribute}")
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            if not isinstance(called, _Global) or called.name not in _CALLS:
                raise _Refused("its pickle calls something that is no tensor")
            stack.append(_CALLS[called.name](*_must_be(arguments, tuple)))
        elif name == "BINPERSID":
            self.storages.append(_storage_of(stack.pop()))
            stack.append(self.storages[-1])
        elif name == "BUILD":
            # The attribute `_metadata` of a state dict: versions of its modules, which nothing needs.
            stack.pop()
            _must_be(stack[-1], dict)
        elif name == "POP":
            stack.pop()
        else:
            raise _Refused(f"its pickle uses the instruction {name}, which tensors do not need")

    def _ask_for(self, name: str) -> None:
        if name not in _CALLS and name not in _STORAGE_NAMES:
            raise _Refused(f"it asks for {name[:80]}, which is no tensor")
        self._stack.append(_Global(name))

    def _since_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(items[::2], items[1::2], strict=True)


def _must_be(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise _Refused(f"its pickle treats a {type(value).__name__} as a {kind.__name__}")
    return value


def _storage_of(description: Any) -> _Storage:
    """From PyTorch's ("storage", type, key, device, count, view or nothing)."""
    parts = _must_be(description, tuple)
    if len(parts) not in (5, 6) or parts[0] != "storage" or not isinstance(parts[1], _Global):
        raise _Refused("its pickle points to something that is no storage")
    if len(parts) == 6 and parts[5] is not None:
        raise _Refused("its storages are parts of others, as only PyTorch before 0.4 wrote them")
    kind, key, count = _STORAGE_NAMES.get(parts[1].name), parts[2], parts[4]
    if kind is None or not isinstance(key, (str, int)) or type(count) is not int or count < 0:
        raise _Refused("its pickle points to something that is no storage")
    return _Storage(kind, str(key), count)


class _Resolver:
    """Puts arrays in place of descriptions.

    A pickle may name one list or tensor a million times, so what comes out is counted: there can be no more numbers
    than bytes in the file, nor more parts than an original has.
    """

    def __init__(self, storage: Callable[[str, str, int], np.ndarray], size: int) -> None:
        self._storage, self._numbers, self._parts = storage, size, 10 * _TENSOR_LIMIT

    def resolve(self, content: Any, depth: int = 0) -> Any:
        self._parts -= 1
        if depth > 8 or self._parts < 0:
            raise _Refused("its dicts and lists are nested too deeply or too many")
        if isinstance(content, _Tensor):
            self._numbers -= math.prod(content.shape)
            if self._numbers < 0:
                raise _Refused("its tensors hold more numbers than the file has bytes")
            return content.array(self._storage(content.storage.kind, content.storage.key, content.storage.count))
        if isinstance(content, dict):
            return {key: self.resolve(value, depth + 1) for key, value in content.items()}
        if isinstance(content, (list, tuple)):
            return [self.resolve(value, depth + 1) for value in content]
        if isinstance(content, (_Storage, _Global)):
            raise _Refused("it holds something that is no tensor")
        return content
