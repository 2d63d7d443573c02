"""CelebA as a source: two domains by one of its 40 attributes, from the official lists."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from tfaclgan.data.records import SPLITS
from tfaclgan.data.sources import FileJob, Item, Job, all_lossless, digest, is_picture, list_folder
from tfaclgan.errors import UserError

_CELEBA_SPLITS = {"0": "train", "1": "test", "2": "test"}  # official train; validation and test
_CELEBA_FOLDERS = ("img_align_celeba", "img_align_celeba_png", "images")


class CelebASource:
    """CelebA by one attribute: A has it, B has not; the official training images, and validation and test together.

    The folder holds the two official lists (also below Anno/ and Eval/, also as .csv) and the images; images are
    found by their name without extension, so that the PNG release is read too.
    """

    region = None
    label_names = ()

    def __init__(self, folder: str, attribute: str, *, images_folder: str, max_images: int, max_bytes: int) -> None:
        values = _read_column(_celeba_list(folder, "list_attr_celeba", "Anno"), attribute)
        partitions = _read_column(_celeba_list(folder, "list_eval_partition", "Eval"), None)
        self._folder, self._max_bytes = images_folder or _celeba_images(folder), max_bytes
        stems = {os.path.splitext(name)[0]: name for name in sorted(list_folder(self._folder)) if is_picture(name)}
        self._splits: dict[str, list[Item]] = {split: [] for split in SPLITS}
        for key in sorted(values):
            if key not in partitions:
                raise UserError(f"{folder}: {key} is in list_attr_celeba, not in list_eval_partition; fetch both again")
            part, value = partitions[key], values[key]
            if part not in _CELEBA_SPLITS or value not in ("1", "-1"):
                raise UserError(
                    f"{folder}: {key} has partition {part!r} and {attribute} {value!r}; known are 0, 1, 2 and 1, -1"
                )
            split = _CELEBA_SPLITS[part] + ("A" if value == "1" else "B")
            name = stems.get(os.path.splitext(key)[0], "")
            missing = "" if name else f"no image of this name in {os.path.basename(self._folder)}"
            self._splits[split].append(Item(name, key, missing=missing))
        if max_images:
            self._splits = {split: items[:max_images] for split, items in self._splits.items()}
        for split in ("trainA", "trainB"):
            if not any(item.name for item in self._splits[split]):
                raise UserError(
                    f"{self._folder}: no images for {split} ({len(self._splits[split])} listed, none of them there); "
                    "name the images' folder with --celeba_images"
                )
        self.counts = {split: len(items) for split, items in self._splits.items()}
        self.lossless = all_lossless(self._splits)
        self.description = {"kind": "celeba", "attribute": attribute, "max_images": max_images}

    def fingerprint(self) -> str:
        return digest(f"{split}/{item}" for split, items in self._splits.items() for item in items)

    def jobs(self, split: str, start: int) -> Iterator[Job]:
        for item in self._splits[split][start:]:
            path = os.path.join(self._folder, item.name)
            yield FileJob(item.key, -1, path, None, None, None, item.missing, self._max_bytes)


def _celeba_list(folder: str, name: str, subfolder: str) -> str:
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder; --source=celeba:FOLDER names the folder of CelebA's lists")
    places = [os.path.join(folder, part, name + end) for part in ("", subfolder) for end in (".txt", ".csv")]
    for place in places:
        if os.path.isfile(place):
            return place
    raise UserError(f"{folder}: no {name}.txt there nor in {subfolder}/; put CelebA's list there")


def _celeba_images(folder: str) -> str:
    for part in ("", "Img"):
        for name in _CELEBA_FOLDERS:
            place = os.path.join(folder, part, name)
            if os.path.isdir(place):
                return place
    raise UserError(
        f"{folder}: none of {', '.join(_CELEBA_FOLDERS)} there; name the images' folder with --celeba_images"
    )


def _read_column(path: str, column: str | None) -> dict[str, str]:
    """{image: value} of one column of a CelebA list, in either of its published forms; None: of the only column."""
    values: dict[str, str] = {}
    names: list[str] = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            row = line.replace(",", " ").split()
            if not row or (number == 1 and len(row) == 1 and row[0].isdigit()):
                continue  # the number of images
            if not names and not values and (column is not None or row[0] == "image_id"):
                names = row[1:] if row[0] == "image_id" else row
                if column is not None and column not in names:
                    raise UserError(f"--attribute={column}: not in CelebA's list; choose from {', '.join(names)}")
                continue
            if len(row) != (len(names) or 1) + 1:
                raise UserError(
                    f"{path}: line {number} has {len(row)} columns, not {(len(names) or 1) + 1}; fetch it again"
                )
            values[row[0]] = sys.intern(row[1 + names.index(column)] if column is not None else row[1])
    if not values:
        raise UserError(f"{path}: lists no images; fetch it again")
    return values
