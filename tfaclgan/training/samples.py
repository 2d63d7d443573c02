"""Sample grids: the same test pictures, translated with the same styles, every time."""

from __future__ import annotations

import io
import os
from typing import Any, NamedTuple

import numpy as np

from tfaclgan.data import files

_GAP = 2  # pixels between pictures


def grid(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Rows of pictures uint8 [h, w, 1 or 3] of one size as one sheet uint8 [H, W, 3] on white."""
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            top, left = _GAP + r * (height + _GAP), _GAP + c * (width + _GAP)
            sheet[top : top + height, left : left + width] = rgb(picture)
    return sheet


def rgb(picture: np.ndarray) -> np.ndarray:
    """A picture uint8 [h, w, c] as [h, w, 3]: grey three times, the first three of more channels."""
    channels = picture.shape[-1]
    if channels == 3:
        return picture
    if channels == 1:
        return np.repeat(picture, 3, axis=-1)
    return np.repeat(picture[..., :1], 3, axis=-1) if channels == 2 else picture[..., :3]


def png(sheet: np.ndarray) -> bytes:
    """A sheet uint8 [H, W, 3] as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG")
    return buffer.getvalue()


def write_png(path: str, sheet: np.ndarray) -> None:
    """Writes a sheet, whole or not at all."""
    files.make_folder(os.path.dirname(path))
    files.write_atomically(path, png(sheet))


def keep_newest(folder: str, direction: str, count: int) -> None:
    """Removes all but the newest `count` sheets of a direction; 0: none."""
    names = sorted(n for n in os.listdir(folder) if n.startswith(f"{direction}_") and n.endswith(".png"))
    for name in names[:-count] if count else ():
        os.remove(os.path.join(folder, name))


class Sample(NamedTuple):
    """sheet: uint8 [H, W, 3]; outputs: translations uint8 [n, h, w, c], one array a style; mask: the first one's."""

    sheet: np.ndarray
    outputs: list[np.ndarray]
    mask: np.ndarray | None


def draw(translator: Any, images: np.ndarray, direction: str, styles: int = 2) -> Sample:
    """A sample sheet: one row an input, columns input, `styles` translations, the first one's mask.

    Args:
        translator: an `inference.translator.Translator`.
        images: uint8 [n, h, w, c].
        direction: "a2b" or "b2a".
        styles: translations of each input; 1 for methods without styles.

    A method with panels shows those instead, from top to bottom: one column an input.
    """
    if translator.has_panels:
        panels = translator.panels(images, direction)
        return Sample(grid([list(row) for row in panels.values()]), [panels["translation"]], None)
    outcomes = [
        translator.translate_full(images, direction, seed=seed) for seed in range(styles if translator.style_dim else 1)
    ]
    outputs, mask = [outcome.image for outcome in outcomes], outcomes[0].mask
    columns = [images, *outputs]
    if mask is not None:
        columns.append(np.round(mask * 255).astype(np.uint8))
    return Sample(grid([list(row) for row in zip(*columns, strict=True)]), outputs, mask)
