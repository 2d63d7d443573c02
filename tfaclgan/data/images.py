"""Source images of any common kind to 8-bit RGB or grey at load size, with Pillow alone.

What happens to each kind (documented for users in docs/data.md):

    orientation     the EXIF orientation is applied
    transparency    RGBA, LA and palettes with a transparent entry lie on the background colour
    CMYK            Pillow's plain conversion; colour profiles are not applied
    16 bits         reduced to the high byte, as Pillow does for 16-bit RGB
    32 bits, float  refused: their range is not known
    animation       the first frame
    size            the shorter side becomes `size` pixels, the longer one keeps the ratio (rounded down, as
                    torchvision does); antialiased when it shrinks; smaller images grow, as in the originals

No TensorFlow here: the converter's workers import this module.
"""

from __future__ import annotations

import dataclasses
import io
import os
import stat
import warnings

import numpy as np
from PIL import Image

LOSSLESS_EXTENSIONS = (".png", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", *LOSSLESS_EXTENSIONS)  # compared in lower case
RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Only these decoders: others run programs (EPS) or are rarely tested against hostile files.
# JPEG opens MPO too.
_DECODERS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class RejectedError(Exception):
    """An image that cannot become a record; the text says why, in one line."""


class TooSmallError(RejectedError):
    """An image below the stated minimum."""


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """How images are read and stored.

    size: shorter side of the stored image, pixels.
    channels: 3 (RGB) or 1 (grey, ITU-R 601 luma).
    format: "jpeg" or "png".
    jpeg_quality: 1 to 95, Pillow's scale; colour is stored at full resolution (4:4:4).
    resample: a name in RESAMPLING.
    background: RGB that transparent pixels lie on.
    max_pixels: larger images are refused before they are decoded.
    min_size: images whose shorter side is below it are refused, pixels.
    """

    size: int
    channels: int = 3
    format: str = "png"
    jpeg_quality: int = 95
    resample: str = "bilinear"
    background: tuple[int, int, int] = (255, 255, 255)
    max_pixels: int = 64_000_000
    min_size: int = 16


def read_file(path: str, max_bytes: int, limit: str) -> bytes:
    """A picture file's bytes.

    Args:
        path: of the file; a link is followed.
        max_bytes: a larger file is refused before it is read.
        limit: what to call that, for the message.

    Raises:
        RejectedError: larger, or a pipe or device, which could keep a reader waiting or never end.
        OSError: it cannot be read.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise RejectedError("no regular file")
    if status.st_size > max_bytes:
        raise RejectedError(f"more than {limit}")
    with open(path, "rb") as file:
        return file.read(status.st_size)


def decode(data: bytes, options: ImageOptions) -> Image.Image:
    """The upright image, mode RGB or L by `options.channels`, at its own size.

    Raises:
        RejectedError: not an image of a kind named above, damaged, or above `max_pixels`.
        TooSmallError: shorter side below `min_size`.
    """
    image = open_image(data, options.max_pixels)
    if min(image.size) < options.min_size:
        raise TooSmallError(f"{image.width}x{image.height} pixels, the minimum is {options.min_size}")
    return to_channels(_upright(image), options)


def decode_mask(data: bytes, options: ImageOptions, planes: int = 1) -> Image.Image:
    """A mask as mode L, upright: 255 = foreground; colours become grey, transparent pixels 0.

    With three planes it is RGB, whose channels are three masks (tfaclgan/data/masks.py).

    Raises:
        RejectedError: as `decode`, or three planes are wanted and the file has one.
    """
    image = _upright(open_image(data, options.max_pixels))
    if planes == 3 and len(image.getbands()) < 3 and image.mode != "P":
        raise RejectedError(f"a mask with parts has colours, one for each of its three planes; this is {image.mode}")
    return to_channels(image, dataclasses.replace(options, channels=planes, background=(0, 0, 0)))


def decode_label_map(data: bytes, options: ImageOptions) -> Image.Image:
    """A map of class numbers as mode L, upright; a palette image gives its indices.

    Raises:
        RejectedError: as `decode`, or the file has colours (RGB) or classes above 255.
    """
    image = _upright(open_image(data, options.max_pixels))
    if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
        raise RejectedError(f"a label map has one channel of class numbers, this one is {image.mode}")
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 255:
        raise RejectedError(f"class numbers from {values.min()} to {values.max()}, they must be 0 to 255")
    return Image.fromarray(values.astype(np.uint8))


def to_channels(image: Image.Image, options: ImageOptions) -> Image.Image:
    """`image` as 8-bit RGB or L, transparent pixels laid on the background."""
    mode = "RGB" if options.channels == 3 else "L"
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise RejectedError("32-bit whole numbers have no known range; convert to 8 or 16 bits first")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise RejectedError("floating-point pixels have no known range; convert to 8 or 16 bits first")
    elif "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        if image.mode == "La":
            image = image.convert("LA")
        ground = Image.new("RGBA", image.size, (*options.background, 255))
        image = Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    if image.mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"):
        raise RejectedError(f"Pillow mode {image.mode} is not supported; convert to RGB first")
    if image.mode in ("CMYK", "YCbCr", "HSV", "P", "RGBX"):
        image = image.convert("RGB")
    return image.convert(mode)


def fitted_size(width: int, height: int, size: int) -> tuple[int, int]:
    """(width, height) with the shorter side `size`, the ratio kept, the longer side rounded down."""
    if width <= height:
        return size, size * height // width
    return size * width // height, size


def fit(image: Image.Image, options: ImageOptions) -> Image.Image:
    """The image with its shorter side at load size."""
    size = fitted_size(image.width, image.height, options.size)
    return image if size == image.size else image.resize(size, RESAMPLING[options.resample])


def fit_label_map(image: Image.Image, options: ImageOptions) -> Image.Image:
    """The label map at the size `fit` gives its image, without mixing classes."""
    size = fitted_size(image.width, image.height, options.size)
    return image if size == image.size else image.resize(size, Image.Resampling.NEAREST)


def encode(image: Image.Image, options: ImageOptions) -> bytes:
    """JPEG or PNG bytes; nothing of the source's metadata is kept, equal pixels give equal bytes."""
    clean = Image.fromarray(np.asarray(image))
    stream = io.BytesIO()
    if options.format == "jpeg":
        clean.save(stream, "JPEG", quality=options.jpeg_quality, subsampling=0)
    else:
        clean.save(stream, "PNG")
    return stream.getvalue()


def parse_colour(text: str) -> tuple[int, int, int]:
    """An RGB triple from "#rrggbb" or a colour name that Pillow knows; ValueError otherwise."""
    from PIL import ImageColor

    return tuple(ImageColor.getrgb(text)[:3])


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """The first frame behind `data`, checked and decoded, in whatever mode it is stored.

    Raises:
        RejectedError: Pillow cannot decode it, or it has more than `max_pixels` pixels.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # our own limit, checked before decoding, stands instead
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of oddities that it then handles
            image = Image.open(io.BytesIO(data), formats=_DECODERS)
            if image.width * image.height > max_pixels:
                raise RejectedError(f"{image.width}x{image.height} pixels, more than --max_pixels={max_pixels}")
            image.load()
            return image
    except RejectedError:
        raise
    except Image.UnidentifiedImageError:
        # Pillow's text holds a memory address, which would differ from run to run.
        raise RejectedError("not an image, or of a kind that is not supported" if data else "empty file") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RejectedError(f"damaged image: {reason}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF data; the pixels are sound
        return image
    operation = _TRANSPOSE.get(orientation)
    return image if operation is None else image.transpose(operation)
