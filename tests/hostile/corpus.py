"""What a hostile or unlucky user may hand in: damaged files of every kind, and files made to hurt.

Everything is made here from a seed; nothing is fetched and nothing of it is ever written outside a test's folder.
"""

from __future__ import annotations

import functools
import io
import json
import struct
import zlib

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from tfaclgan.errors import one_line


def each(cases, check):
    """Calls `check(numpy Generator)` for that many seeds; the same ones each time."""

    @settings(
        max_examples=cases,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**32 - 1))
    def run(seed):
        check(np.random.default_rng(seed))

    run()


def refused(error):
    """A complaint as a user should see it: one line, once folded as commands fold it, of a length that can be read."""
    assert 0 < len(one_line(error)) < 2000


# -- sound pictures ---------------------------------------------------------------------------


def picture(height=24, width=20, channels=3, seed=0):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(pixels, kind, **options):
    stream = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(stream, kind, **options)
    return stream.getvalue()


@functools.cache
def sound():
    """{name: bytes} of small sound pictures of every kind and way of storing."""
    colour, grey = picture(), picture(channels=1)
    alpha = picture(channels=4)
    frames = [Image.fromarray(picture(seed=i)) for i in range(3)]
    animated = {"save_all": True, "append_images": frames[1:]}
    return {
        "a.jpg": encode(colour, "JPEG"),
        "progressive.jpg": encode(colour, "JPEG", progressive=True),
        "grey.jpg": encode(grey, "JPEG"),
        "cmyk.jpg": encode(Image.fromarray(colour).convert("CMYK"), "JPEG"),
        "exif.jpg": encode(colour, "JPEG", exif=exif(6)),
        "a.png": encode(colour, "PNG"),
        "stored.png": encode(colour, "PNG", compress_level=0),
        "alpha.png": encode(alpha, "PNG"),
        "palette.png": encode(Image.fromarray(colour).quantize(16), "PNG", transparency=3),
        "deep.png": encode(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
        "a.gif": encode(Image.fromarray(colour).quantize(16), "GIF"),
        "animated.gif": encode(frames[0], "GIF", **animated),
        "a.webp": encode(colour, "WEBP", lossless=True),
        "lossy.webp": encode(colour, "WEBP"),
        "animated.webp": encode(frames[0], "WEBP", **animated),
        "a.bmp": encode(colour, "BMP"),
        "palette.bmp": encode(Image.fromarray(grey), "BMP"),
        "a.tif": encode(colour, "TIFF"),
        "lzw.tif": encode(colour, "TIFF", compression="tiff_lzw"),
        "deflate.tif": encode(colour, "TIFF", compression="tiff_adobe_deflate"),
        "fax.tif": encode(Image.fromarray(grey).convert("1"), "TIFF", compression="group4"),
        "a.ppm": encode(colour, "PPM"),
    }


# -- damage -----------------------------------------------------------------------------------


def damage(data, draw):
    """(damaged bytes, how): cut off, or changed in one of several ways."""
    data, way = bytearray(data), draw.integers(7)
    size = len(data)
    if way == 0:
        return bytes(data[: draw.integers(size)]), "cut"
    start = int(draw.integers(size))
    length = int(min(size - start, 1 + draw.integers(64)))
    if way == 1:  # single bits
        for place in draw.integers(size, size=1 + draw.integers(4)):
            data[place] ^= 1 << int(draw.integers(8))
    elif way == 2:  # a block of nothing
        data[start : start + length] = bytes(length)
    elif way == 3:  # a block of noise
        data[start : start + length] = draw.bytes(length)
    elif way == 4:  # something goes missing
        del data[start : start + length]
    elif way == 5:  # something comes twice
        data[start:start] = data[start : start + length]
    else:  # a large number where a size may stand, near the beginning
        place = int(draw.integers(min(size, 64)))
        data[place : place + 4] = draw.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\x80\0\x80"])
    return bytes(data), "changed"


# -- JSON ------------------------------------------------------------------------------------


def leaves(value, path=()):
    """Paths of all values inside a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*path, key))


WRONG = (None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1.5, float("nan"), float("inf"), "", "x", "../x", "/etc/passwd",
         "\n", "\0", [], [[]], {}, {"x": 1}, ["x"] * 3, "trainA")  # fmt: skip


def replaced(text, draw):
    """The JSON `text` with one value replaced, removed, or added."""
    value = json.loads(text)
    places = list(leaves(value))
    path = places[draw.integers(1, len(places))]
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    way = draw.integers(8)
    if way == 0:
        del parent[path[-1]]
    elif way == 1 and isinstance(parent, dict):
        parent["unknown"] = parent[path[-1]]
    else:
        parent[path[-1]] = WRONG[draw.integers(len(WRONG))]
    return json.dumps(value)


DEEP = (b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"null", b"1" * 5000)


# -- pictures made to hurt --------------------------------------------------------------------


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, depth=8, colour=2, content=b"", extra=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", content) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def zeros(count):
    """Deflated zeros without having them all in memory."""
    deflate, parts, block = zlib.compressobj(9), [], bytes(1 << 20)
    for _ in range(count >> 20):
        parts.append(deflate.compress(block))
    parts.append(deflate.compress(bytes(count & (1 << 20) - 1)))
    return b"".join([*parts, deflate.flush()])


def exif(orientation, entries=1, count=1, offset=0, following=0):
    """EXIF with `entries` orientation tags and the position of the next directory."""
    tag = struct.pack("<HHII", 0x0112, 3, count, orientation if count == 1 else offset)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, entries & 0xFFFF) + tag * entries + struct.pack("<I", following)


def tiff(width, height, entries=(), value=b"", following=0):
    """A little-endian TIFF of one strip, uncompressed grey, with further (tag, type, count, value) entries."""
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 277: (3, 1, 1),
            278: (4, 1, height), 279: (4, 1, len(value))}  # fmt: skip
    tags.update({tag: rest for tag, *rest in entries})
    start = 8
    data = start + 2 + 12 * (len(tags) + 1) + 4
    tags.setdefault(273, (4, 1, data))
    body = b"".join(struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", start, len(tags)) + body + struct.pack("<I", following) + value


@functools.cache
def bombs():
    """{name: bytes} of pictures that declare or inflate to far more than they are: all must be refused."""
    return {
        "hundred_thousand.png": png(100_000, 100_000),
        "largest.png": png(2**31 - 1, 2**31 - 1),
        "square_20000.png": png(20_000, 20_000, 1, 0, zeros(20_000 * 2_501)),
        "deep_20000.png": png(20_000, 20_000, 16, 6, zeros(1 << 20)),
        "text.png": png(20, 20, content=zeros(61 * 20), extra=chunk(b"zTXt", b"a\0\0" + zeros(1 << 27))),
        "profile.png": png(20, 20, content=zeros(61 * 20), extra=chunk(b"iCCP", b"a\0\0" + zeros(1 << 27)))[:-40],
        "canvas.gif": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08\x01\0\0;",
        "canvas.webp": b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff" + bytes(12),
        "sides.jpg": b"\xff\xd8\xff\xc0\0\x11\x08\xff\xdc\xff\xdc\x03\x01\x22\0\x02\x11\x01\x03\x11\x01\xff\xd9",
        "sides.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, *[0] * 6),
        "sides.tif": tiff(2**32 - 1, 2**32 - 1, value=bytes(64)),
        "sides.ppm": b"P6 4000000000 4000000000 255\n" + bytes(64),
    }


@functools.cache
def ill():
    """{name: bytes} of pictures that are wrong in some other way: all must be refused."""
    nan = np.full((20, 20), np.nan, np.float32)
    return {
        "empty.png": b"",
        "nan.tif": encode(Image.fromarray(nan), "TIFF"),
        "infinite.tif": encode(Image.fromarray(nan * 0 + np.float32(np.inf)), "TIFF"),
        "float.tif": encode(Image.fromarray(np.zeros((20, 20), np.float32)), "TIFF"),
        "wide.tif": encode(Image.fromarray(np.full((20, 20), -5, np.int32)), "TIFF"),
        "no_pixels.png": png(0, 0),
        "no_height.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 20, 0, 1, 24, *[0] * 6),
        "no_data.png": png(20, 20),
        "no_strip.tif": tiff(20, 20),
        "counts.tif": tiff(20, 20, entries=[(273, 4, 2**32 - 1, 8)], value=bytes(400)),
        "samples.tif": tiff(20, 20, entries=[(277, 3, 1, 65535)], value=bytes(400)),
        "bits.tif": tiff(20, 20, entries=[(258, 3, 1, 65535)], value=bytes(400)),
        "text.jpg": b"this is no picture\n" * 40,
        "script.jpg": b"#!/bin/sh\ntouch witness\n",
        "page.png": b"<html><script>alert(1)</script></html>",
        "vector.png": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "program.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n(%pipe%touch witness)(w) file\n",
        "pickle.png": b"\x80\x04\x95\x1e\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
        "digits.ppm": b"P3 " + b"9" * 5000 + b" 1 255 0 0 0",
        "lone_marker.jpg": b"\xff\xd8",
        "archive.png": b"PK\x03\x04" + bytes(60),
    }


@functools.cache
def odd():
    """{name: bytes} of pictures that are odd and sound: all must be taken."""
    colour = picture()
    self_loop = tiff(20, 20, value=bytes(400), following=8)
    return {
        "one.png": encode(picture(1, 1), "PNG"),
        "one.jpg": encode(picture(1, 1), "JPEG"),
        "one.gif": encode(Image.fromarray(picture(1, 1)).quantize(2), "GIF"),
        "long.png": encode(np.zeros((2, 20_000, 3), np.uint8), "PNG"),
        "tall.jpg": encode(np.zeros((20_000, 8, 3), np.uint8), "JPEG"),
        "orientation_0.jpg": encode(colour, "JPEG", exif=exif(0)),
        "orientation_99.jpg": encode(colour, "JPEG", exif=exif(99)),
        "orientation_65535.jpg": encode(colour, "JPEG", exif=exif(65535)),
        "many_tags.jpg": encode(colour, "JPEG", exif=exif(1, entries=4000)),
        "far_offset.jpg": encode(colour, "JPEG", exif=exif(1, count=2**31, offset=2**32 - 1)),
        "loop.jpg": encode(colour, "JPEG", exif=exif(1, following=8)),
        "half_exif.jpg": encode(colour, "JPEG", exif=exif(6)[:13]),
        "loop.tif": self_loop,
        "wrong_suffix.jpg": encode(colour, "PNG"),
        "tail.png": encode(colour, "PNG") + b"PK\x03\x04" + bytes(1000),
    }


# -- names ------------------------------------------------------------------------------------

NAMES = (
    "new\nline",
    "carriage\rreturn",
    "tab\tand  spaces ",
    "日本語",
    "עברית",
    "русский-Ελληνικά",
    "e\u0301 and é",
    "🙂" * 20,
    "\u202egnp.exe",
    "-rf",
    "--flag=value",
    "$(touch witness)",
    "`touch witness`",
    "a;b|c&d",
    "per%cent%s%n",
    "back\\slash",
    "quo'te\"s",
    "{format} {0}",
    "[brackets]*?",
    "\x7f\x1b[31mred",
    "con.aux.nul",
    ".".join(["dots"] * 10),
    "n" * 240,
    "字" * 80,
    b"\xff\xfe bytes".decode("utf-8", "surrogateescape"),
)
