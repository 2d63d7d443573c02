"""Sample grids: the same test pictures, translated with the same styles, every time."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

_GAP = 2  # pixels between pictures


def grid(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Rows of pictures uint8 [h, w, 1 or 3] of one size as one sheet uint8 [H, W, 3] on white."""
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            top, left = _GAP + r * (height + _GAP), _GAP + c * (width + _GAP)
            sheet[top : top + height, left : left + width] = _rgb(picture)
    return sheet


def _rgb(picture: np.ndarray) -> np.ndarray:
    channels = picture.shape[-1]
    if channels == 3:
        return picture
    if channels == 1:
        return np.repeat(picture, 3, axis=-1)
    return np.repeat(picture[..., :1], 3, axis=-1) if channels == 2 else picture[..., :3]


def write_png(path: str, sheet: np.ndarray) -> None:
    """Writes a sheet atomically."""
    from PIL import Image

    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.writing-{os.getpid()}"
    Image.fromarray(sheet).save(temporary, format="PNG")
    os.replace(temporary, path)


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
