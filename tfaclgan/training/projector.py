"""What TensorBoard's projector shows of a run: the styles of test pictures, and tables of class embeddings.

    RUN/projector_config.pbtxt
    RUN/projector/step_N/style_b.tsv, style_b_pictures.tsv, style_b.png   styles that a2b would borrow from testB
    RUN/projector/step_N/NETWORK_LAYER.tsv, NETWORK_LAYER_classes.tsv     weights of an embedding layer

Only the newest step's are kept; the file that names them changes last.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfaclgan.data import files
from tfaclgan.data.files import printable
from tfaclgan.data.records import Manifest
from tfaclgan.training import samples

if TYPE_CHECKING:
    from tfaclgan.data.pipeline import PipelineOptions
    from tfaclgan.inference.translator import Translator

_MOST_PICTURES = 256  # of a domain
_THUMBNAIL = 64  # pixels, longest side in the sheet of pictures
_CONFIG, _FOLDER = "projector_config.pbtxt", "projector"


class _Embedding(NamedTuple):
    """vectors: [n, d]; columns: what is known of each vector, by name; pictures: uint8 [n, h, w, c] or None."""

    name: str
    vectors: np.ndarray
    columns: dict[str, list[str]]
    pictures: np.ndarray | None = None


def write(translator: Translator, manifest: Manifest, options: PipelineOptions, step: int) -> bool:
    """Writes the embeddings of a run's networks at `step`; returns False if they have none.

    Args:
        translator: with the weights to show.
        manifest: of the data; up to 256 test pictures of each domain are used (training ones where it has no others).
        options: of the run's data.
        step: data iteration.

    Raises:
        UserError: a picture that cannot be read.
        OSError: the disk is full or not writable; what was shown before stays.
    """
    from google.protobuf import text_format
    from tensorboard.plugins.projector import projector_config_pb2

    found = [*_styles(translator, manifest, options), *_class_embeddings(translator.networks)]
    if not found:
        return False
    run_dir = translator.run.path
    config = projector_config_pb2.ProjectorConfig()
    files.make_folder(os.path.join(run_dir, _FOLDER))
    relative = os.path.join(_FOLDER, f"step_{step:09d}")
    with files.whole_folder(os.path.join(run_dir, relative), replace=True) as temporary:
        for embedding in found:
            _write(embedding, temporary, relative, config.embeddings.add())
    files.write_atomically(os.path.join(run_dir, _CONFIG), text_format.MessageToString(config).encode())
    for name in os.listdir(os.path.join(run_dir, _FOLDER)):
        if name != os.path.basename(relative):
            shutil.rmtree(os.path.join(run_dir, _FOLDER, name), ignore_errors=True)
    return True


def _styles(translator: Translator, manifest: Manifest, options: PipelineOptions) -> list[_Embedding]:
    """The styles of each direction's target domain, as the method reads them from pictures."""
    if not translator.style_dim or translator.run.method.encode_style is None:
        return []
    found = []
    for direction in translator.directions:
        domain = direction[-1]
        split = f"test{domain.upper()}"
        if split not in manifest.splits or not manifest.splits[split].count:
            split = f"train{domain.upper()}"
        pictures, columns = _pictures(manifest, split, options)
        vectors = translator.encode_style(pictures, direction)
        found.append(_Embedding(f"style_{domain}", vectors, columns, pictures))
    return found


def _pictures(manifest: Manifest, split: str, options: PipelineOptions) -> tuple[np.ndarray, dict[str, list[str]]]:
    """The first pictures of a split, and what their records say of them."""
    import tensorflow as tf

    from tfaclgan.data import pipeline, reading

    def label(number: int) -> str:
        return manifest.label_names[number] if 0 <= number < len(manifest.label_names) else str(number)

    pictures: list[np.ndarray] = []
    columns: dict[str, list[str]] = {"picture": [], "label": [], "split": []}
    try:
        for element in pipeline.evaluation_dataset(manifest, split, options, batch=8).as_numpy_iterator():
            for number in np.flatnonzero(element["valid"]):
                pictures.append(element["image"][number])
                columns["picture"].append(printable(element["key"][number].decode("utf-8", "surrogateescape")))
                columns["label"].append(label(int(element["label"][number])))
                columns["split"].append(split)
            if len(pictures) >= _MOST_PICTURES:
                break
    except tf.errors.OpError as error:
        raise reading.explain(error, manifest) or error from error
    return np.stack(pictures[:_MOST_PICTURES]), {name: values[:_MOST_PICTURES] for name, values in columns.items()}


def _class_embeddings(networks: Any) -> list[_Embedding]:
    """The tables of all embedding layers."""
    import keras

    found = []
    for network, model in networks.items():
        for layer in model._flatten_layers(include_self=False):
            if isinstance(layer, keras.layers.Embedding):
                table = keras.ops.convert_to_numpy(layer.embeddings)
                classes = [str(number) for number in range(len(table))]
                found.append(_Embedding(f"{network}_{layer.name}", table, {"class": classes}))
    return found


def _write(embedding: _Embedding, folder: str, relative: str, info: Any) -> None:
    """Writes an embedding's files into `folder`; `info` names them as they are seen from the run directory."""

    def put(name: str, content: bytes) -> str:
        files.write_flushed(os.path.join(folder, name), content)
        return os.path.join(relative, name)

    rows = ("\t".join(f"{value:.9g}" for value in row) for row in embedding.vectors)
    info.tensor_name = embedding.name
    info.tensor_shape.extend(embedding.vectors.shape)
    info.tensor_path = put(f"{embedding.name}.tsv", ("\n".join(rows) + "\n").encode())
    names = list(embedding.columns)
    about = ["\t".join(row) for row in zip(*embedding.columns.values(), strict=True)]
    if len(names) > 1:  # TensorBoard takes a single column to have no line of titles
        about = ["\t".join(names), *about]
    what = "classes" if embedding.pictures is None else "pictures"
    info.metadata_path = put(f"{embedding.name}_{what}.tsv", ("\n".join(about) + "\n").encode())
    if embedding.pictures is not None:
        sheet, sides = _sheet(embedding.pictures)
        info.sprite.image_path = put(f"{embedding.name}.png", samples.png(sheet))
        info.sprite.single_image_dim.extend(sides)


def _sheet(pictures: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Small pictures side by side in a square, row by row: uint8 [H, W, 3], and their width and height."""
    from PIL import Image

    height, width = pictures.shape[1:3]
    scale = min(1.0, _THUMBNAIL / max(height, width))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    across = int(np.ceil(np.sqrt(len(pictures))))
    sheet = np.full((across * height, across * width, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // across * height, number % across * width
        small = Image.fromarray(samples.rgb(picture)).resize((width, height), Image.Resampling.BOX)
        sheet[top : top + height, left : left + width] = np.asarray(small)
    return sheet, (width, height)
