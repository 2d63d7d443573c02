"""Where images come from: folders, archives and drawn avatars here, others in source_celeba.py and source_tfds.py.

A source lists its pictures, split by split in the order of their keys, and hands out jobs. A job is small, can be
pickled, and loads one picture wherever it is run: the converter runs jobs in worker processes, which import no
TensorFlow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from PIL import Image

from tfaclgan.data import archives, avatars, images
from tfaclgan.data.records import COMPANIONS, SPLITS
from tfaclgan.errors import UserError

Picture = bytes | Image.Image


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A picture as the source has it (encoded bytes, or drawn at load size), and what belongs to it."""

    image: Picture
    target: Picture | None = None
    mask: Picture | None = None
    label_map: Picture | None = None


class Job(Protocol):
    """One picture to be made a record."""

    key: str
    label: int

    def load(self, size: int) -> Loaded:
        """Reads or draws it; `size` is the load size, which drawn pictures have from the start.

        Raises:
            images.RejectedError: it cannot be read.
        """


class Source(Protocol):
    """A data set to convert.

    counts: pictures of each split; keys are sorted within a split and unique.
    label_names, region: as in the manifest.
    lossless: whether the pictures were stored without loss, which --format=auto follows.
    description: what the manifest says of the source; equal sources give equal descriptions.
    """

    counts: dict[str, int]
    label_names: tuple[str, ...]
    region: dict[str, Any] | None
    lossless: bool
    description: dict[str, Any]

    def fingerprint(self) -> str:
        """Changes when the list of pictures does (names, and sizes where they are known)."""

    def jobs(self, split: str, start: int) -> Iterator[Job]:
        """The split's jobs in order, from number `start` on."""


# ---------------------------------------------------------------------------------------------------------- avatars


@dataclasses.dataclass(frozen=True)
class AvatarJob:
    """Draws one avatar."""

    key: str
    task: str
    domain: str
    seed: str
    paired: bool
    label: int = -1

    def load(self, size: int) -> Loaded:
        drawing = avatars.draw(self.task, self.domain, self.seed, size, paired=self.paired)
        return Loaded(drawing.image, drawing.target, drawing.mask, drawing.label_map)


class AvatarSource:
    """Avatars of one task (tfaclgan/data/avatars.py), `train_count` and `test_count` a domain."""

    lossless = True

    def __init__(self, task: str, *, train_count: int, test_count: int, seed: int) -> None:
        if task not in avatars.TASKS:
            raise UserError(f"--source=avatars:{task}: no such task; choose from {', '.join(avatars.TASKS)}")
        if train_count < 1 or test_count < 0:
            raise UserError(
                f"--train_count={train_count} --test_count={test_count}: at least 1 picture to train on, none below 0"
            )
        avatars.check_installed()
        self._task, self._seed = task, seed
        self.counts = {split: train_count if split.startswith("train") else test_count for split in SPLITS}
        self.label_names = avatars.LABEL_NAMES if avatars.has_label_map(task) else ()
        self.region = {"feature": "mask", "classes": [], "name": "glasses"} if task == "glasses" else None
        self.description = {"kind": "avatars", "task": task, "seed": seed}

    def fingerprint(self) -> str:
        return digest([avatars.versions(), str(self.description), str(self.counts)])

    def jobs(self, split: str, start: int) -> Iterator[Job]:
        for number in range(start, self.counts[split]):
            yield AvatarJob(
                key=f"{split}/{number:07d}",
                task=self._task,
                domain=split[-1],
                seed=avatars.seed_text(self._seed, split, number),
                paired=split == "testA",
            )


# ------------------------------------------------------------------------------------- layout of folders and archives


@dataclasses.dataclass(frozen=True)
class LayoutOptions:
    """How names are sorted into splits.

    domain_a, domain_b: folder names that hold A and B where there are no trainA, trainB.
    test_fraction: share of each domain put aside for testing where the source has no test split.
    one_domain: only A is wanted (generation); a flat folder of images is then A.
    folder_labels: the first folder below a split's names the class of its images.
    max_images: keep the first so many of each split, 0 for all.
    seed: of the choice of test images.
    """

    domain_a: str = "A"
    domain_b: str = "B"
    test_fraction: float = 0.1
    one_domain: bool = False
    folder_labels: bool = False
    max_images: int = 0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Item:
    """A picture inside a folder or archive and what lies beside it, by name; `missing` names what does not."""

    name: str
    key: str
    label: int = -1
    target: str | None = None
    mask: str | None = None
    label_map: str | None = None
    missing: str = ""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The items of each split, sorted by key."""

    splits: dict[str, list[Item]]
    label_names: tuple[str, ...] = ()


def arrange(names: Iterable[str], options: LayoutOptions, where: str) -> Layout:
    """Sorts file names (relative, with "/") into splits.

    The first of these that fits, looked for at the top and, where everything lies in one folder, inside it:

        trainA/ trainB/ testA/ testB/        (any depth of folders inside)
        train/<domain_a> train/<domain_b>    (tests from test/, else from val/)
        <domain_a>/ <domain_b>/              (tests: `test_fraction` of each, drawn by seed and name)
        images, with `one_domain`            (the same)

    Beside a folder F of pictures, F_target/, F_mask/ and F_label_map/ hold what belongs to the picture of the same
    relative name, whatever its extension.

    Raises:
        UserError: no layout fits, or a domain is empty.
    """
    pictures = sorted((name for name in names if is_picture(name)), key=os.fsencode)
    prefix, folders = _find_layout(pictures, options, where)
    members = {split: [name for name in pictures if name.startswith(folder)] for split, folder in folders.items()}
    for split in ("trainA",) if options.one_domain else ("trainA", "trainB"):
        if not members[split]:
            raise UserError(
                f"{where}: no images for {split} in {folders[split]} (known are {' '.join(images.EXTENSIONS)}); "
                + ("put images there" if split == "trainA" else "put images there, or pass --one_domain")
            )
    if "testA" not in folders:
        for domain in "AB":
            if members.get(f"train{domain}"):
                folders[f"test{domain}"] = folders[f"train{domain}"]
                members[f"train{domain}"], members[f"test{domain}"] = part(
                    members[f"train{domain}"], options, len(prefix)
                )
    beside = {
        (folder, companion): _stems(pictures, f"{folder[:-1]}_{companion}/")
        for folder in folders.values()
        if folder
        for companion in COMPANIONS
    }
    label_names = ()
    if options.folder_labels:
        labels = {_class_folder(name, folders[split]) for split, kept in members.items() for name in kept}
        label_names = tuple(sorted(labels - {""}))
    splits: dict[str, list[Item]] = {}
    for split in SPLITS:
        wanted = not (options.one_domain and split.endswith("B"))
        kept = members.get(split, []) if wanted else []
        kept = kept[: options.max_images] if options.max_images else kept
        splits[split] = [_item(name, prefix, folders[split], beside, label_names) for name in kept]
    return Layout(splits, label_names)


def is_picture(name: str) -> bool:
    """Whether a file is taken for an image: by its extension, unless it is hidden."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
    return not hidden and name.lower().endswith(images.EXTENSIONS)


def _find_layout(pictures: list[str], options: LayoutOptions, where: str) -> tuple[str, dict[str, str]]:
    """The folder all lies in ("" or "top/") and the folder of each split, from the top, with a closing "/"."""
    a, b = options.domain_a, options.domain_b
    tops = {name.split("/", 1)[0] for name in pictures if "/" in name}
    prefixes = [""] + [f"{top}/" for top in tops if len(tops) == 1 and all("/" in name for name in pictures)]
    for prefix in prefixes:
        rest = [name[len(prefix) :].split("/") for name in pictures]
        first = {parts[0] for parts in rest if len(parts) > 1}
        second = {"/".join(parts[:2]) for parts in rest if len(parts) > 2}
        if first.intersection(SPLITS):
            return prefix, {split: f"{prefix}{split}/" for split in SPLITS}
        if second.intersection((f"train/{a}", f"train/{b}")):
            test = "test" if "test" in first else "val"
            found = {"trainA": f"train/{a}", "trainB": f"train/{b}", "testA": f"{test}/{a}", "testB": f"{test}/{b}"}
            return prefix, {split: f"{prefix}{folder}/" for split, folder in found.items()}
        if first.intersection((a, b)):
            return prefix, {"trainA": f"{prefix}{a}/", "trainB": f"{prefix}{b}/"}
    if options.one_domain and pictures:
        return "", {"trainA": ""}
    raise UserError(
        f"{where}: {len(pictures)} images, but no folders trainA and trainB, nor {a} and {b} (--domain_a, --domain_b); "
        "name the domains' folders so, or pass --one_domain to take all images as one domain"
    )


def part(names: list[str], options: LayoutOptions, skip: int = 0) -> tuple[list[str], list[str]]:
    """Parts names into (train, test), in their order.

    The test images are those with the smallest hashes (of the names without their first `skip` characters): a new
    file moves few others.
    """

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{options.seed}/".encode() + os.fsencode(name[skip:])).digest()

    count = min(round(options.test_fraction * len(names)), len(names) - 1)
    test = set(sorted(names, key=rank)[:count])
    return [name for name in names if name not in test], [name for name in names if name in test]


def _stems(pictures: list[str], folder: str) -> dict[str, str]:
    """Names in `folder` by their relative name without extension."""
    return {os.path.splitext(name[len(folder) :])[0]: name for name in pictures if name.startswith(folder)}


def _class_folder(name: str, folder: str) -> str:
    parts = name[len(folder) :].split("/")
    return parts[0] if len(parts) > 1 else ""


def _item(
    name: str, prefix: str, folder: str, beside: dict[tuple[str, str], dict[str, str]], label_names: tuple[str, ...]
) -> Item:
    stem = os.path.splitext(name[len(folder) :])[0]
    found, missing = {}, ""
    for companion in COMPANIONS:
        available = beside.get((folder, companion))
        if available:
            found[companion] = available.get(stem)
            if found[companion] is None:
                missing = f"no {companion} of this name in {folder[:-1]}_{companion}"
    class_folder = _class_folder(name, folder)
    label = label_names.index(class_folder) if class_folder in label_names else -1
    return Item(name, name[len(prefix) :], label, missing=missing, **found)


# ---------------------------------------------------------------------------------------------------------- folders


@dataclasses.dataclass(frozen=True)
class FileJob:
    """Reads one picture and what belongs to it from files of at most `max_bytes` each."""

    key: str
    label: int
    image: str
    target: str | None
    mask: str | None
    label_map: str | None
    missing: str
    max_bytes: int

    def load(self, size: int) -> Loaded:
        del size
        if self.missing:
            raise images.RejectedError(self.missing)
        paths = {"image": self.image, **{name: getattr(self, name) for name in COMPANIONS}}
        return Loaded(**{name: path and self._read(path) for name, path in paths.items()})

    def _read(self, path: str) -> bytes:
        try:
            return images.read_file(path, self.max_bytes, f"--max_member_mb={self.max_bytes >> 20}")
        except OSError as error:
            raise images.RejectedError(f"cannot be read: {error.strerror}") from error


class FolderSource:
    """Images in folders; see `arrange`. Links to files and folders are followed."""

    region = None

    def __init__(self, folder: str, options: LayoutOptions, *, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        layout = arrange(list_folder(folder), options, folder)
        self._splits = layout.splits
        self.counts = {split: len(items) for split, items in layout.splits.items()}
        self.label_names = layout.label_names
        self.lossless = all_lossless(layout.splits)
        self.description = {"kind": "folder", "name": base_name(folder), **dataclasses.asdict(options)}

    def fingerprint(self) -> str:
        return digest(
            f"{split}/{item}/{_size(os.path.join(self._folder, item.name))}"
            for split, items in self._splits.items()
            for item in items
        )

    def jobs(self, split: str, start: int) -> Iterator[Job]:
        for item in self._splits[split][start:]:
            paths = {"image": self._path(item.name), **{part: self._path(getattr(item, part)) for part in COMPANIONS}}
            yield FileJob(item.key, item.label, **paths, missing=item.missing, max_bytes=self._max_bytes)

    def _path(self, name: str | None) -> str | None:
        return None if name is None else os.path.join(self._folder, name)


def list_folder(folder: str) -> list[str]:
    """Names of all files below `folder`, relative, with "/"; links are followed, but not into a folder around them."""
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder; name the folder, archive or data set to read with --source")
    names: list[str] = []
    waiting: list[tuple[str, frozenset[str]]] = [("", frozenset())]  # folder, real paths of the folders around it
    while waiting:
        relative, around = waiting.pop()
        path = os.path.join(folder, relative)
        real = os.path.realpath(path)
        if real in around:
            continue
        with os.scandir(path) as entries:
            for entry in entries:
                if _is_folder(entry):
                    waiting.append((f"{relative}{entry.name}/", around | {real}))
                else:
                    names.append(f"{relative}{entry.name}")
    return names


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; its job will say so
        return False


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # a dangling link; its job will say so
        return -1


def all_lossless(splits: dict[str, list[Item]]) -> bool:
    """Whether every image that is there is of a lossless kind, by its extension."""
    names = [item.name for items in splits.values() for item in items if item.name]
    return all(name.lower().endswith(images.LOSSLESS_EXTENSIONS) for name in names)


def base_name(path: str) -> str:
    """A path's last part, also of "." and of "folder/"."""
    return os.path.basename(os.path.abspath(path))


def digest(lines: Iterable[str]) -> str:
    """SHA-256 of texts, in hex."""
    state = hashlib.sha256()
    for line in lines:
        state.update(line.encode("utf-8", "surrogateescape") + b"\0")
    return state.hexdigest()


# --------------------------------------------------------------------------------------------------------- archives


@dataclasses.dataclass(frozen=True)
class BytesJob:
    """A picture whose bytes the main process has read, or the `problem` it met."""

    key: str
    label: int = -1
    image: bytes = b""
    target: bytes | None = None
    mask: bytes | None = None
    label_map: bytes | None = None
    problem: str = ""

    def load(self, size: int) -> Loaded:
        del size
        if self.problem:
            raise images.RejectedError(self.problem)
        return Loaded(self.image, self.target, self.mask, self.label_map)


class ArchiveSource:
    """A zip or tar of image folders (see `arrange`), read without unpacking it."""

    region = None

    def __init__(self, path: str, options: LayoutOptions, *, max_bytes: int) -> None:
        self._archive = archives.open_archive(path, max_bytes=max_bytes, wanted=is_picture)
        layout = arrange(self._archive.sizes, options, path)
        self._splits = layout.splits
        self.counts = {split: len(items) for split, items in layout.splits.items()}
        self.label_names = layout.label_names
        self.lossless = all_lossless(layout.splits)
        self.description = {"kind": "archive", "name": base_name(path), **dataclasses.asdict(options)}

    def fingerprint(self) -> str:
        return digest(
            f"{split}/{item}/{self._archive.sizes[item.name]}"
            for split, items in self._splits.items()
            for item in items
        )

    def jobs(self, split: str, start: int) -> Iterator[Job]:
        for item in self._splits[split][start:]:
            if item.missing:
                yield BytesJob(item.key, problem=item.missing)
                continue
            try:
                names = {"image": item.name, **{part: getattr(item, part) for part in COMPANIONS}}
                read = {part: self._archive.read(name) for part, name in names.items() if name is not None}
                yield BytesJob(item.key, item.label, **read)
            except images.RejectedError as error:
                yield BytesJob(item.key, problem=str(error))
