"""Drawn faces as data: the quick start's sets, made on the spot from DiceBear styles, without a download.

Three tasks, each with domains A and B:

    glasses   avataaars with glasses -> without. Test pairs share their seed, and the seed fixes everything but
              the glasses, so the picture without them is the exact translation of the one with them. The test
              pictures' mask is where the two differ by more than VISIBLE: the glasses with their smoothed edges.
              (The label map's accessories class is crisp: it misses the edge pixels that are partly glasses.)
    style     avataaars -> adventurer. Other geometry, no ground truth.
    hair      avataaars with short hair, most with a beard -> long hair, no beard. No ground truth: the other
              hair is drawn anew.

Training pictures of A and B never share a seed. Label maps (11 classes, LABEL_NAMES) come from drawing the same
avatar with every shape in its class's colour, shading dropped and edges crisp.

Art: "Avataaars" by Pablo Stanley, free for personal and commercial use; "Adventurer" by Lisa Wischofsky, CC BY 4.0.
Needs dicebear-core, dicebear-styles and resvg-py (the extra `demo`); neither TensorFlow nor a network.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.metadata
import importlib.util
import io
import json
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

from tfaclgan.errors import UserError

TASKS = ("glasses", "style", "hair")
LABEL_NAMES = (
    "background",
    "skin",
    "hair",
    "hat",
    "clothes",
    "eyes",
    "eyebrows",
    "mouth",
    "nose",
    "facialHair",
    "accessories",
)
BACKGROUND, ACCESSORIES = LABEL_NAMES.index("background"), LABEL_NAMES.index("accessories")
VISIBLE = 0.1  # largest difference of a channel, pixels in [-1, 1]
_PACKAGES = {"dicebear": "dicebear-core", "dicebear_styles": "dicebear-styles", "resvg_py": "resvg-py"}
_PALETTE = np.array(
    [
        (0, 0, 0),
        (255, 200, 150),
        (120, 60, 20),
        (0, 160, 160),
        (40, 90, 220),
        (255, 255, 0),
        (140, 0, 140),
        (230, 0, 0),
        (255, 120, 0),
        (90, 140, 0),
        (0, 220, 0),
    ],
    np.uint8,
)
_BACKGROUND_COLOURS = [
    "b6e3f4", "c0aede", "d1d4f9", "ffd5dc", "ffdfbf", "e8e8e8", "cfe8cf", "f4e3b6", "a8c5da", "dabfa8",
]  # fmt: skip
_POSE = {
    "backgroundColor": ["#" + colour for colour in _BACKGROUND_COLOURS],
    "scale": [1.0, 1.15],
    "rotate": [-6, 6],  # degrees
    "translateX": [-3, 3],  # per cent of the canvas
    "translateY": [-3, 1],
}
_GLASSES = ["prescription01", "prescription02", "round", "wayfarers", "sunglasses", "kurt"]
_SHORT_HAIR = [
    "shortCurly", "shortFlat", "shortRound", "shortWaved", "sides", "theCaesar", "theCaesarAndSidePart", "dreads01",
    "dreads02", "frizzle", "shaggy",
]  # fmt: skip
_LONG_HAIR = [
    "bigHair", "bob", "bun", "curly", "curvy", "frida", "longButNotTooLong", "miaWallace", "straight01", "straight02",
    "straightAndStrand", "dreads", "shaggyMullet",
]  # fmt: skip
_AVATAAARS = {**_POSE, "facialHairProbability": 20}
# Shapes below this opacity are shading: none in a face's features, light and shadow alike on hair.
_SOLID = {"eyebrows": 0.0, "nose": 0.0, "mouth": 0.0, "eyes": 0.0, "top": 1.0}
# (task, domain) -> style and its options; probabilities in per cent.
_DOMAINS: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {
    ("glasses", "A"): ("avataaars", {**_AVATAAARS, "accessoriesProbability": 100, "accessoriesVariant": _GLASSES}),
    ("glasses", "B"): ("avataaars", {**_AVATAAARS, "accessoriesProbability": 0}),
    ("style", "A"): ("avataaars", _AVATAAARS),
    ("style", "B"): ("adventurer", _POSE),
    ("hair", "A"): ("avataaars", {**_POSE, "facialHairProbability": 70, "topVariant": _SHORT_HAIR}),
    ("hair", "B"): ("avataaars", {**_POSE, "facialHairProbability": 0, "topVariant": _LONG_HAIR}),
}


@dataclasses.dataclass(frozen=True)
class Drawing:
    """One avatar, all of one size: RGB `image`; None or its exact translation `target` (RGB), the `mask` of what the
    translation changes (mode L, 255 there) and its `label_map` (mode L, numbers into LABEL_NAMES)."""

    image: Image.Image
    target: Image.Image | None
    mask: Image.Image | None
    label_map: Image.Image | None


def check_installed() -> None:
    """Raises UserError naming what is missing for drawing avatars."""
    missing = [package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(
            f'avatars need {", ".join(missing)}, not installed; run `pip install ".[demo]"` in the repository'
        )


def versions() -> str:
    """What the pictures depend on: the installed versions of the drawing packages."""
    return " ".join(f"{package}=={importlib.metadata.version(package)}" for package in _PACKAGES.values())


def seed_text(seed: int, split: str, number: int) -> str:
    """The DiceBear seed of a picture: testA and testB share theirs, trainA and trainB do not."""
    prefix = {"trainA": "a", "trainB": "b", "testA": "t", "testB": "t"}[split]
    return f"{prefix}{number}" if seed == 0 else f"{seed}-{prefix}{number}"


def has_label_map(task: str) -> bool:
    """Whether both domains of the task come with label maps."""
    return all(_DOMAINS[task, domain][0] == "avataaars" for domain in "AB")


def draw(task: str, domain: str, seed: str, size: int, *, paired: bool) -> Drawing:
    """Draws the avatar of one seed.

    Args:
        task: one of TASKS.
        domain: "A" or "B".
        seed: any text; equal seeds give equal pictures.
        size: side in pixels.
        paired: also draw the exact translation (glasses, domain A only).
    """
    style, options = _DOMAINS[task, domain]
    image = _render(_style(style), {**options, "seed": seed}, size)
    target = mask = None
    if paired and (task, domain) == ("glasses", "A"):
        target = _render(_style(style), {**_DOMAINS[task, "B"][1], "seed": seed}, size)
        mask = Image.fromarray(_changed(np.asarray(image), np.asarray(target)))
    label_map = None
    if has_label_map(task):
        coloured = _render(
            _label_style(style), {**options, "seed": seed, "backgroundColor": ["#000000"]}, size, crisp=True
        )
        label_map = Image.fromarray(_classes(np.asarray(coloured)))
    return Drawing(image, target, mask, label_map)


def _changed(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """uint8 [h, w]: 255 where two pictures [h, w, 3] differ visibly, else 0."""
    difference = np.abs(image.astype(np.int16) - target.astype(np.int16)).max(-1) / 127.5
    return np.where(difference > VISIBLE, 255, 0).astype(np.uint8)


def _classes(coloured: np.ndarray) -> np.ndarray:
    """Class numbers uint8 [h, w] of a picture in the palette's colours [h, w, 3]; the nearest colour wins."""
    packed = coloured.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    there, place = np.unique(packed, return_inverse=True)
    colours = np.stack([there >> 16, there >> 8 & 255, there & 255], axis=1)
    distance = np.abs(colours[:, None] - _PALETTE.astype(np.int32)).sum(-1)
    return distance.argmin(-1).astype(np.uint8)[place].reshape(packed.shape)


def _render(style: Any, options: dict[str, Any], size: int, *, crisp: bool = False) -> Image.Image:
    import resvg_py
    from dicebear import Avatar

    svg = Avatar(style, options).to_string()
    if crisp:
        svg = svg.replace('shape-rendering="auto"', 'shape-rendering="crispEdges"')
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGB")


def _definition(name: str) -> dict[str, Any]:
    return json.loads(files("dicebear_styles").joinpath(name + ".json").read_text("utf-8"))


@functools.cache
def _style(name: str) -> Any:
    from dicebear import Style

    return Style(_definition(name))


@functools.cache
def _label_style(name: str) -> Any:
    from dicebear import Style

    return Style(_label_definition(_definition(name)))


def _label_definition(definition: dict[str, Any]) -> dict[str, Any]:
    """The style with every shape in its class's colour; shading and gradients dropped."""
    definition = copy.deepcopy(definition)
    definition["canvas"]["elements"] = _label_elements(definition["canvas"]["elements"], None)
    for name, component in definition["components"].items():
        for variant in component["variants"].values():
            variant["elements"] = _label_elements(variant["elements"], name)
    return definition


def _label_elements(
    elements: list[dict[str, Any]], component: str | None, inherited: Any = None
) -> list[dict[str, Any]]:
    """`inherited` is the fill of the group that holds the elements."""
    kept = []
    for element in elements:
        if element["type"] == "component":
            kept.append(element)
            continue
        if element["name"] == "defs":
            continue
        attributes = element.get("attributes") or {}
        fill = attributes.get("fill", inherited)
        if element["name"] in ("path", "circle", "rect"):
            opacity = float(attributes.get("fill-opacity", attributes.get("opacity", 1)))
            shading = opacity < _SOLID.get(component, 0.55)
            if shading or (isinstance(fill, str) and fill.startswith("url(")):
                continue
            attributes["fill"] = "#{:02x}{:02x}{:02x}".format(*_PALETTE[_label(component, fill)])
            for name in ("fill-opacity", "opacity", "style"):
                attributes.pop(name, None)
        if "children" in element:
            element["children"] = _label_elements(element["children"], component, fill)
        kept.append(element)
    return kept


def _label(component: str | None, fill: Any) -> int:
    """The class of a shape: by the colour group that fills it where one is named, else by its component."""
    if isinstance(fill, dict) and fill["name"] in LABEL_NAMES:
        return LABEL_NAMES.index(fill["name"])
    name = {None: "skin", "top": "hat", "clothesGraphic": "clothes"}.get(component, component)
    return LABEL_NAMES.index(name)
