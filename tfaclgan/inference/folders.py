"""Translates a picture or a folder of pictures on disk.

Pictures are read as the data converter reads them (tfaclgan/data/images.py): upright by their EXIF orientation,
transparency laid on white, 16 bits reduced to 8, the first frame of an animation, colour or grey as the run's
networks want it. Results are written without metadata, each by renaming a finished file, so an interrupted run
leaves no half picture and can be started again.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tqdm import tqdm

from tfaclgan.data import images as source_images
from tfaclgan.errors import EXIT_OK, EXIT_USER_ERROR, UserError, one_line
from tfaclgan.inference import arrays

if TYPE_CHECKING:
    from tfaclgan.inference.translator import Translator

FORMATS = ("png", "jpeg", "webp", "keep")
_SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_WRITERS = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 95}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
}
# Of an input; more is refused before it fills the memory.
_MAX_PIXELS, _MAX_BYTES = 256_000_000, 2**30
_READERS, _WRITERS_AT_ONCE = 1, 2  # threads; the decoder changes settings of Pillow that threads share
_SHOWN_FAILURES = 20
_WAITING_BATCHES = 4  # decoded pictures of different sizes that wait for company, in batches


@dataclasses.dataclass
class FolderResult:
    """What became of a folder.

    translated: pictures translated.
    kept: pictures whose results were all there already and stayed.
    failed: (path, reason) of pictures that could not be read.
    files: files written.
    seconds: spent, from the first picture on.
    """

    translated: int = 0
    kept: int = 0
    failed: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    files: int = 0
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0, or 2 if a picture could not be read."""
        return EXIT_USER_ERROR if self.failed else EXIT_OK


@dataclasses.dataclass(frozen=True)
class _Job:
    """One picture: its path, its name relative to the input, and the paths of its results.

    images, masks, raws: one path for each style; masks and raws are empty if they are not wanted.
    panels: of the strip of panels, or () if it is not wanted.
    """

    path: str
    name: str
    images: tuple[str, ...]
    masks: tuple[str, ...]
    raws: tuple[str, ...]
    panels: tuple[str, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        return (*self.images, *self.masks, *self.raws, *self.panels)


def translate_folder(
    translator: Translator,
    input: str,
    output: str,
    *,
    direction: str | None = None,
    styles: int = 1,
    style_reference: str | None = None,
    seed: int = 0,
    save_mask: bool = False,
    save_raw: bool = False,
    save_panels: bool = False,
    resize: int | tuple[int, int] = 0,
    crop: int | tuple[int, int] = 0,
    resample: str = "bilinear",
    batch: int = 0,
    overwrite: bool = False,
    stretch: bool = False,
    style_scale: float = 1.0,
    format: str = "png",
    progress: bool = True,
) -> FolderResult:
    """Translates a file or a folder (with its sub-folders) into folder `output`.

    Names and sub-folders are kept: in/a/b.jpg becomes out/a/b.png; with several styles b_style0.png, b_style1.png
    ...; masks b_mask.png (grey, white = painted), unblended colours b_raw.png, strips b_panels.png. Where two inputs
    would get the same name (b.jpg and b.png), both keep their suffix too: b.jpg.png, b.png.png.

    Args:
        translator: the loaded run.
        input: a picture, or a folder; hidden files and files without a picture's suffix are passed over.
        output: a folder, made if needed; may lie inside the input, then it is not translated itself.
        direction: "a2b" or "b2a"; None is the run's.
        styles: results per picture, each with another random style.
        style_reference: a picture of the target domain whose style is used; then `styles` must be 1.
        seed: of random styles. A picture's style depends on the seed, its name (relative to the input) and the
            style's number only, not on the other pictures of the folder.
        save_mask: write masks too (methods that have them).
        save_raw: write the generator's colours before blending too (methods that have them).
        save_panels: write the strip of all the method shows of a picture too, from top to bottom.
        resize: before the translation, pixels: the shorter side, or height and width, whatever that does to the
            ratio; 0: original size.
        crop: what is kept of the middle after that, pixels: the side of a square, or height and width; 0: all.
        resample: filter of `resize`, a name in `data.images.RESAMPLING`.
        batch: pictures of one size in one call of the networks; 0: the translator's.
        overwrite: write again what is there; otherwise a picture with all its results is left alone.
        stretch: write each result stretched to its full range of values, as the original scripts do.
        style_scale: factor on random styles (ACL-GAN's folder script: 2).
        format: "png", "jpeg", "webp", or "keep" for the input's own (PNG where it cannot be written).
            Masks are always PNG.
        progress: show a progress bar with pictures a second on stderr.

    Returns:
        Counts, and the pictures that could not be read; these are also listed on stderr at the end.

    Raises:
        UserError: nothing to translate, options that do not fit the run, an output that is no folder.
    """
    direction = translator.resolve_direction(direction)
    batch = batch or translator.batch
    fitting = _Fitting.of(resize, crop, resample)
    _check_options(translator, styles, style_reference, seed, batch, style_scale, format)
    if save_panels and not translator.has_panels:
        raise UserError(f"save_panels: {translator.run.method.title} shows no more than its translation; leave it out")
    jobs = _jobs(input, output, styles, save_mask, save_raw, save_panels, format)
    reading = source_images.ImageOptions(
        size=1, channels=translator.channels, min_size=1, max_pixels=_MAX_PIXELS, resample=resample
    )
    reference = _reference_style(translator, style_reference, reading, fitting, direction)

    style = _Styles(translator.style_dim, seed, style_scale, reference)
    wanted = [job for job in jobs if overwrite or not all(os.path.exists(path) for path in job.outputs)]
    result = FolderResult(kept=len(jobs) - len(wanted))
    started = time.monotonic()
    with (
        tqdm(total=len(wanted), unit="img", disable=not progress, dynamic_ncols=True) as bar,
        concurrent.futures.ThreadPoolExecutor(_READERS) as readers,
        concurrent.futures.ThreadPoolExecutor(_WRITERS_AT_ONCE) as writers,
    ):
        writes: collections.deque[concurrent.futures.Future] = collections.deque()
        for group in _groups(wanted, reading, fitting, batch, readers, result):
            for path, pixels in _translate(translator, group, direction, style, stretch):
                writes.append(writers.submit(_write, path, pixels))
            while len(writes) > _WAITING_BATCHES * batch:
                writes.popleft().result()
                result.files += 1
            result.translated += len(group)
            bar.update(result.translated + len(result.failed) - bar.n)
        for write in writes:
            write.result()
            result.files += 1
        bar.update(result.translated + len(result.failed) - bar.n)
    result.seconds = time.monotonic() - started
    _report(result, output)
    return result


@dataclasses.dataclass(frozen=True)
class _Styles:
    """Where a picture's style comes from: the reference's [1, dimension], or drawn and scaled."""

    dimension: int
    seed: int
    scale: float
    reference: np.ndarray | None

    def of(self, names: Sequence[str], number: int) -> np.ndarray | None:
        """Style `number` of the pictures called `names`: [len(names), dimension]; None without styles."""
        if not self.dimension:
            return None
        if self.reference is not None:
            return np.repeat(self.reference, len(names), axis=0)
        keys = (zlib.crc32(os.fsencode(name)) for name in names)
        return self.scale * np.stack([arrays.draw_style(self.seed, key, self.dimension, number) for key in keys])


@dataclasses.dataclass(frozen=True)
class _Fitting:
    """What is done to a decoded picture: `resize` and `crop` of `translate_folder`, None for nothing.

    resize: shorter side, or (height, width).
    crop: (height, width).
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None

    @classmethod
    def of(cls, resize: int | tuple[int, int], crop: int | tuple[int, int], resample: str) -> _Fitting:
        """Checked; UserError for sizes and filters that are none."""
        for name, value in (("resize", resize), ("crop", crop)):
            sides = value if isinstance(value, tuple) else (value,)
            if len(sides) > 2 or min(sides) < (value != 0):
                raise UserError(
                    f"{name} {value}: not a side or height and width in pixels; 0 leaves pictures as they are"
                )
        if resample not in source_images.RESAMPLING:
            raise UserError(f"resample {resample!r}: unknown; choose one of {', '.join(source_images.RESAMPLING)}")
        return cls(resize or None, ((crop, crop) if isinstance(crop, int) else crop) if crop else None)

    def apply(self, image: Image.Image, reading: source_images.ImageOptions) -> Image.Image:
        """RejectedError if the picture is smaller than the crop."""
        if isinstance(self.resize, int):
            image = source_images.fit(image, dataclasses.replace(reading, size=self.resize))
        elif self.resize and self.resize[::-1] != image.size:
            image = image.resize(self.resize[::-1], source_images.RESAMPLING[reading.resample])
        if self.crop:
            height, width = self.crop
            top, left = (image.height - height) // 2, (image.width - width) // 2
            if min(top, left) < 0:
                raise source_images.RejectedError(
                    f"is {image.width} x {image.height} pixels, smaller than the crop of {width} x {height}"
                )
            image = image.crop((left, top, left + width, top + height))
        return image


def _check_options(
    translator: Translator,
    styles: int,
    style_reference: str | None,
    seed: int,
    batch: int,
    style_scale: float,
    format: str,
) -> None:
    if format not in FORMATS:
        raise UserError(f"format {format!r}: unknown; choose one of {', '.join(FORMATS)}")
    for name, value, least in (("styles", styles, 1), ("batch", batch, 1), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"{name} {value}: too small; give {least} or more")
    if not np.isfinite(style_scale):
        raise UserError(f"style_scale {style_scale}: not a finite number; 1 leaves styles as they are drawn")
    if translator.channels not in (1, 3):
        raise UserError(
            f"this run's images have {translator.channels} channels, which picture files cannot hold; "
            "translate arrays in Python with tfaclgan.load"
        )
    if not translator.style_dim and (styles > 1 or style_reference):
        raise UserError(
            f"{translator.run.method.title} has no style, so there is one result a picture; leave styles out"
        )
    if style_reference and styles > 1:
        raise UserError(f"styles {styles} with a style reference: one reference gives one style; give one or the other")


def _jobs(
    input: str, output: str, styles: int, save_mask: bool, save_raw: bool, save_panels: bool, format: str
) -> list[_Job]:
    """One job a picture, in the order of names; no two write the same file, and none writes over an input."""
    if os.path.exists(output) and not os.path.isdir(output):
        raise UserError(f"{output}: is a file, but results go into a folder; name a folder")
    pictures = _pictures(input, output)

    def job(path: str, name: str, stem: str) -> _Job:
        base = os.path.join(output, stem)
        suffix = _suffix(name, format)
        parts = [f"_style{number}" for number in range(styles)] if styles > 1 else [""]
        return _Job(
            path,
            name,
            images=tuple(f"{base}{part}{suffix}" for part in parts),
            masks=tuple(f"{base}{part}_mask.png" for part in parts) if save_mask else (),
            raws=tuple(f"{base}{part}_raw{suffix}" for part in parts) if save_raw else (),
            panels=(f"{base}_panels.png",) if save_panels else (),
        )

    whole: set[str] = set()  # names that keep their suffix
    while True:
        jobs = [job(path, name, name if name in whole else os.path.splitext(name)[0]) for path, name in pictures]
        counts = collections.Counter(path for j in jobs for path in _folded(j))
        clashing = {j.name for j in jobs if any(counts[path] > 1 for path in _folded(j))} - whole
        if not clashing:
            break
        whole |= clashing
    inputs = {os.path.realpath(path) for path, _ in pictures}
    for path in (path for j in jobs for path in j.outputs):
        if os.path.realpath(path) in inputs:
            raise UserError(f"{path}: the result would replace an input; name another output folder")
    _refuse_links_out(output, {os.path.dirname(path) for j in jobs for path in j.outputs})
    return jobs


def _refuse_links_out(output: str, subfolders: set[str]) -> None:
    """UserError if a link inside the output folder would take results somewhere else."""
    root = os.path.realpath(output)
    for folder in sorted(subfolders):
        real = os.path.realpath(folder)
        if os.path.commonpath((root, real)) != root:
            raise UserError(f"{folder}: is a link out of {output}; remove it, or name another output folder")


def _folded(job: _Job) -> set[str]:
    """The job's results as a file system that ignores case sees them."""
    return {path.casefold() for path in job.outputs}


def _suffix(name: str, format: str) -> str:
    own = os.path.splitext(name)[1].lower()
    if format == "keep":
        return own if own in _WRITERS else ".png"
    return _SUFFIXES[format]


def _pictures(input: str, output: str) -> list[tuple[str, str]]:
    """(path, name relative to the input) of every picture, sorted by name."""
    if os.path.isfile(input):
        return [(input, os.path.basename(input))]
    if not os.path.isdir(input):
        raise UserError(f"{input or 'input'}: no such picture or folder; name one with --input")
    if os.path.realpath(input) == os.path.realpath(output):
        raise UserError(f"{output}: is the input folder too; name another output folder")
    found = []
    for folder, subfolders, files in os.walk(input):
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and os.path.realpath(os.path.join(folder, name)) != os.path.realpath(output)
        ]
        for name in files:
            if not name.startswith(".") and name.lower().endswith(tuple(source_images.EXTENSIONS)):
                path = os.path.join(folder, name)
                found.append((path, os.path.relpath(path, input)))
    if not found:
        raise UserError(f"{input}: holds no pictures ({' '.join(source_images.EXTENSIONS)}); name a folder that does")
    return sorted(found, key=lambda picture: picture[1])


def _reference_style(
    translator: Translator,
    path: str | None,
    reading: source_images.ImageOptions,
    fitting: _Fitting,
    direction: str,
) -> np.ndarray | None:
    """The style [1, style_dim] of the picture at `path`."""
    if not path:
        return None
    try:
        pixels = _read(path, reading, fitting)
    except (source_images.RejectedError, OSError) as error:
        raise UserError(f"{path}: the style reference cannot be read ({one_line(error)}); name a picture") from error
    return translator.encode_style(pixels[None], direction)


def _read(path: str, reading: source_images.ImageOptions, fitting: _Fitting) -> np.ndarray:
    """The picture as uint8 [h, w, c], resized and cropped as asked."""
    data = source_images.read_file(path, _MAX_BYTES, f"{_MAX_BYTES >> 20} MiB")
    image = fitting.apply(source_images.decode(data, reading), reading)
    return np.asarray(image).reshape(image.height, image.width, reading.channels)


def _groups(
    jobs: Sequence[_Job],
    reading: source_images.ImageOptions,
    fitting: _Fitting,
    batch: int,
    readers: concurrent.futures.Executor,
    result: FolderResult,
) -> Iterator[list[tuple[_Job, np.ndarray]]]:
    """Pictures of equal size in groups of at most `batch`, read ahead by `readers`; failures go into `result`."""
    waiting: dict[tuple[int, ...], list[tuple[_Job, np.ndarray]]] = {}
    ahead: collections.deque[tuple[_Job, concurrent.futures.Future]] = collections.deque()
    remaining = iter(jobs)
    while True:
        while len(ahead) < 2 * batch and (job := next(remaining, None)) is not None:
            ahead.append((job, readers.submit(_read, job.path, reading, fitting)))
        if not ahead:
            break
        job, future = ahead.popleft()
        try:
            pixels = future.result()
        except (source_images.RejectedError, OSError) as error:
            result.failed.append((job.path, getattr(error, "strerror", None) or one_line(error)))
            continue
        group = waiting.setdefault(pixels.shape, [])
        group.append((job, pixels))
        if len(group) == batch or sum(map(len, waiting.values())) >= _WAITING_BATCHES * batch:
            yield waiting.pop(max(waiting, key=lambda shape: len(waiting[shape])))
    yield from waiting.values()


def _translate(
    translator: Translator,
    group: Sequence[tuple[_Job, np.ndarray]],
    direction: str,
    style: _Styles,
    stretch: bool,
) -> Iterator[tuple[str, np.ndarray]]:
    """(path, uint8 [h, w, c]) of every result of a group."""
    jobs = [job for job, _ in group]
    images = arrays.to_float(np.stack([pixels for _, pixels in group]))
    finish = arrays.stretch if stretch else arrays.to_uint8
    for number in range(len(jobs[0].images)):
        translation = translator.translate_full(images, direction, style.of([job.name for job in jobs], number))
        if jobs[0].masks and translation.mask is None:
            raise UserError(f"save_mask: this run's {translator.run.method.title} has no mask; leave it out")
        if jobs[0].raws and translation.raw is None:
            raise UserError(f"save_raw: this run's {translator.run.method.title} blends nothing; leave it out")
        for i, job in enumerate(jobs):
            yield job.images[number], finish(translation.image[i])
            if job.masks:
                yield job.masks[number], finish(2 * translation.mask[i] - 1)
            if job.raws:
                yield job.raws[number], finish(translation.raw[i])
    if jobs[0].panels:
        shown = translator.panels(np.stack([pixels for _, pixels in group]), direction)
        for i, job in enumerate(jobs):
            yield job.panels[0], strip([value[i] for value in shown.values()])


def strip(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 pictures [h, w, 1 or 3] of one size below each other, [n h, w, 3]."""
    return np.concatenate([np.broadcast_to(picture, (*picture.shape[:2], 3)) for picture in pictures])


def _write(path: str, pixels: np.ndarray) -> None:
    """Writes uint8 [h, w, 1 or 3] so that `path` is either the whole picture or not there."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    format, options = _WRITERS[os.path.splitext(name)[1]]
    # Its own name may be as long as names can be.
    unfinished = os.path.join(folder, f".{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(unfinished, format, **options)
        os.replace(unfinished, path)
    except BaseException:
        if os.path.exists(unfinished):
            os.remove(unfinished)
        raise


def _report(result: FolderResult, output: str) -> None:
    rate = f", {result.translated / result.seconds:.1f} img/s" if result.translated else ""
    print(f"{output}: {result.translated} pictures translated, {result.files} files written{rate}", file=sys.stderr)
    if result.kept:
        print(f"{result.kept} pictures were there already and were kept; --overwrite makes them anew", file=sys.stderr)
    if result.failed:
        print(f"{len(result.failed)} pictures could not be read:", file=sys.stderr)
        for path, reason in result.failed[:_SHOWN_FAILURES]:
            print(f"  {one_line(Exception(path))}: {reason}", file=sys.stderr)
        if len(result.failed) > _SHOWN_FAILURES:
            print(f"  and {len(result.failed) - _SHOWN_FAILURES} more", file=sys.stderr)
