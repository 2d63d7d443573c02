"""Foreground masks that the converter makes: from class maps, from a folder, or by a network that finds people.

A mask has 255 in the foreground and 0 elsewhere, at load size. Methods that keep the background as it is (U-GAT-IT's
enhanced fork: its section 7.3 of face masks) read it as "mask_a", "mask_b".

A mask with parts has three planes, stored as RGB: the foreground; the foreground without glasses and mouth; the
glasses. `losses.foreground.without_rims_and_mouth` makes one of them.

The network is MediaPipe's Selfie Segmentation (models/NOTICE.md, Apache-2.0; 256 x 256 pixels in, the probability
of a person out). It finds people in photographs: head, hair and body, not drawn faces, and no parts of a face. The
originals' network knows parts, but its weights are not free; so leaving out glasses or mouth, and masks with parts,
need class maps, which the avatars have, or files made by another parser.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
from typing import Any

import numpy as np
from PIL import Image

from tfaclgan.data import images
from tfaclgan.errors import UserError

_MOST_MASK_BYTES = 64 << 20
KINDS = ("source", "none", "labels", "segmenter", "folder")
EDGES = ("as_is", "soft", "hard")
MODEL = os.path.join(os.path.dirname(__file__), "models", "selfie_segmentation.tflite")
SHA256 = "8d13b7fae74af625c641226813616a2117bd6bca19eb3b75574621fc08557f27"
# Without hat, clothes and background, as the enhanced U-GAT-IT fork's sum over face, ears and hair.
FACE = ("skin", "hair", "eyes", "eyebrows", "mouth", "nose", "facialHair", "accessories")
GLASSES, MOUTH = ("accessories",), ("mouth",)


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """Where masks come from.

    kind: "source", what the source has; "none"; "labels", classes of its label maps; "segmenter"; "folder".
    folder: with masks under the pictures' keys, of any extension and at the pictures' own size.
    classes: numbers of the label map's classes that are foreground.
    edge: "as_is"; "soft": above 0.7 is 1 and up to 0.3 is 0; "hard": from 0.5 on is 1, else 0.
    segmenter: file of the network.
    parts: masks have three planes (above); a folder's files then are RGB.
    glasses, mouth: numbers of the label map's classes that are these parts.
    keep_given: a mask that the source has stays (the avatars' test pictures, whose mask evaluation measures in).
    """

    kind: str = "source"
    folder: str = ""
    classes: tuple[int, ...] = ()
    edge: str = "as_is"
    segmenter: str = ""
    keep_given: bool = False
    parts: bool = False
    glasses: tuple[int, ...] = ()
    mouth: tuple[int, ...] = ()

    @property
    def planes(self) -> int:
        """Channels of the masks."""
        return 3 if self.parts else 1


AS_GIVEN = MaskOptions()


def parse(
    text: str,
    *,
    label_names: tuple[str, ...] = (),
    classes: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    edge: str = "as_is",
    segmenter: str = "",
    parts: bool = False,
    glasses: tuple[str, ...] = (),
    mouth: tuple[str, ...] = (),
    region: dict[str, Any] | None = None,
) -> MaskOptions:
    """The options that `--mask` and the flags beside it ask for.

    Args:
        text: "source", "none", "labels", "segmenter" or "folder:PATH".
        label_names: of the source's classes, () where it has no names.
        classes, without: names or numbers of the foreground's classes, and of those to leave out of it; no classes:
            `FACE`, where the source has these names.
        edge, segmenter, parts: as of `MaskOptions`; no segmenter: the one that comes with the package.
        glasses, mouth: names or numbers of the classes of these parts; none: `GLASSES` and `MOUTH`.
        region: the source's (`records.Manifest`).

    Raises:
        UserError: an unknown kind, class or edge, a missing folder or file, no way to run the network.
    """
    kind, _, rest = text.partition(":")
    if kind not in KINDS or bool(rest) != (kind == "folder"):
        raise UserError(f"--mask={text}: unknown; choose source, none, labels, segmenter or folder:PATH")
    if edge not in EDGES:
        raise UserError(f"--mask_edge={edge}: unknown; choose one of {', '.join(EDGES)}")
    if (classes or without) and kind != "labels":
        raise UserError(f"--mask_classes and --mask_without choose classes of label maps; with --mask={text} drop them")
    if (glasses or mouth) and not (parts and kind == "labels"):
        raise UserError("--mask_glasses and --mask_mouth name classes for --mask=labels --mask_parts; add these")
    if parts and kind not in ("labels", "folder"):
        raise UserError(
            f"--mask_parts: --mask={text} knows no parts of a face; use --mask=labels or --mask=folder:PATH"
        )
    keep = bool(region) and region.get("feature") == "mask"
    options = MaskOptions(kind, rest, edge=edge, keep_given=keep, parts=parts)
    if kind == "folder" and not os.path.isdir(rest):
        raise UserError(f"--mask={text}: no such folder; name the folder that holds the masks")
    if kind == "labels":
        options = dataclasses.replace(options, classes=_classes(label_names, classes, without))
        if not parts:
            return options
        glasses, mouth = (
            tuple(sorted({_number(name, label_names, flag) for name in names or default}))
            for names, default, flag in ((glasses, GLASSES, "--mask_glasses"), (mouth, MOUTH, "--mask_mouth"))
        )
        return dataclasses.replace(options, glasses=glasses, mouth=mouth)
    if kind == "segmenter":
        path = segmenter or MODEL
        if not os.path.isfile(path):
            raise UserError(f"--segmenter={path}: no such file; leave the flag out for the network of the package")
        check_interpreter()
        return dataclasses.replace(options, segmenter=path)
    return options


def _classes(label_names: tuple[str, ...], classes: tuple[str, ...], without: tuple[str, ...]) -> tuple[int, ...]:
    if not classes:
        classes = tuple(name for name in FACE if name in label_names)
        if not classes:
            raise UserError("--mask=labels: this source names no classes of a face; give their numbers, --mask_classes")
    flags = "--mask_classes, --mask_without"
    left = {_number(name, label_names, flags) for name in classes} - {
        _number(name, label_names, flags) for name in without
    }
    if not left:
        raise UserError("--mask_without leaves no class of --mask_classes; leave fewer out")
    return tuple(sorted(left))


def _number(name: str, label_names: tuple[str, ...], flags: str) -> int:
    if name in label_names:
        return label_names.index(name)
    if name.isdecimal() and int(name) < 256:
        return int(name)
    known = ", ".join(label_names) or "numbers from 0 to 255"
    raise UserError(f"{flags}: {name!r} is no class of this source; it has {known}")


def make(
    options: MaskOptions,
    key: str,
    image: Image.Image,
    given: Image.Image | None,
    label_map: Image.Image | None,
    image_options: images.ImageOptions,
) -> Image.Image | None:
    """The mask of one picture at load size, mode L, or RGB if it has parts, or None.

    Args:
        options: where from.
        key: of the record.
        image: the picture at its own size: a network sees more there than at a small load size.
        given: the mask that the source has, at load size.
        label_map: class numbers at load size.
        image_options: how pictures are decoded and resized.

    Raises:
        images.RejectedError: no mask or label map for this picture, or one of another size.
    """
    if options.kind == "source" or (options.keep_given and given is not None):
        # What evaluation measures in has no parts; all masks of a folder have as many planes.
        return Image.merge("RGB", 3 * [given]) if options.parts else given
    if options.kind == "none":
        return None
    if options.kind == "labels":
        if label_map is None:
            raise images.RejectedError("no label map, which --mask=labels needs")
        mask = _of_classes(np.asarray(label_map), options)
    elif options.kind == "segmenter":
        found = Image.fromarray(segment(np.asarray(image.convert("RGB")), options.segmenter))
        mask = np.asarray(images.fit(found, image_options))
    else:
        mask = np.asarray(_from_folder(options, key, image_options, image.size))
    return Image.fromarray(with_edge(mask, options.edge))


def _of_classes(label_map: np.ndarray, options: MaskOptions) -> np.ndarray:
    """Class numbers [h, w] -> uint8 [h, w], or [h, w, 3] with parts."""
    planes = [options.classes]
    if options.parts:
        planes += [tuple(set(options.classes) - {*options.glasses, *options.mouth}), options.glasses]
    found = [np.where(np.isin(label_map, classes), 255, 0).astype(np.uint8) for classes in planes]
    return np.stack(found, -1) if options.parts else found[0]


def with_edge(mask: np.ndarray, edge: str) -> np.ndarray:
    """uint8 [h, w] or [h, w, 3] with its edge as asked; see `MaskOptions`."""
    if edge == "hard":
        return np.where(mask >= 127.5, 255, 0).astype(np.uint8)
    if edge == "soft":
        return np.where(mask > 0.7 * 255, 255, np.where(mask > 0.3 * 255, mask, 0)).astype(np.uint8)
    return mask


def segment(image: np.ndarray, path: str = MODEL) -> np.ndarray:
    """Where a person is: uint8 [h, w, 3] -> uint8 [h, w], 255 for a sure one.

    The picture is squeezed to the network's square and the outcome stretched back, both bilinearly.
    """
    interpreter, inputs, outputs = _interpreter(path)
    _, height, width, _ = inputs["shape"]
    picture = Image.fromarray(image)
    small = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
    interpreter.set_tensor(inputs["index"], small[np.newaxis])
    interpreter.invoke()
    probability = interpreter.get_tensor(outputs["index"])[0, :, :, 0]
    mask = Image.fromarray(np.clip(np.round(255 * probability), 0, 255).astype(np.uint8))
    return np.asarray(mask.resize(picture.size, Image.Resampling.BILINEAR))


def check_interpreter() -> None:
    """UserError if nothing is installed that runs the network."""
    if importlib.util.find_spec("ai_edge_litert") is None and importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            '--mask=segmenter needs LiteRT, not installed; run `pip install ".[faces]"` in the repository, or pass '
            "masks with --mask=folder:PATH"
        )


@functools.cache
def _interpreter(path: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The network, ready, one for a process."""
    if importlib.util.find_spec("ai_edge_litert") is not None:
        from ai_edge_litert.interpreter import Interpreter
    else:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter  # to be removed some day; LiteRT is its successor
    interpreter = Interpreter(model_path=path, num_threads=1)  # pictures are spread over processes
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    if len(inputs["shape"]) != 4 or inputs["shape"][3] != 3 or outputs["shape"][3] != 1:
        raise UserError(
            f"--segmenter={path}: takes {list(inputs['shape'])} and gives {list(outputs['shape'])}, but "
            "[1, h, w, 3] in [0, 1] to [1, h, w, 1] is wanted"
        )
    return interpreter, inputs, outputs


def _from_folder(
    mask_options: MaskOptions, key: str, options: images.ImageOptions, size: tuple[int, int]
) -> Image.Image:
    stem, folder = os.path.splitext(key)[0], mask_options.folder
    for extension in images.EXTENSIONS:
        path = os.path.join(folder, stem + extension)
        if os.path.isfile(path):
            break
    else:
        raise images.RejectedError(f"no mask {stem} of any image type in {folder}")
    try:
        data = images.read_file(path, _MOST_MASK_BYTES, f"{_MOST_MASK_BYTES >> 20} MiB")
    except OSError as error:
        raise images.RejectedError(f"its mask cannot be read: {error.strerror}") from error
    mask = images.decode_mask(data, options, mask_options.planes)
    if mask.size != size:
        raise images.RejectedError(f"its mask is {mask.width}x{mask.height} pixels, the image {size[0]}x{size[1]}")
    return images.fit(mask, options)
