"""Feature extractors: images to the vectors that FID and KID compare, and the logits that IS reads.

An extractor is named by a spec:

    efficientnet_lite0                ImageNet EfficientNet-Lite0 from a pip package (the default)
    inception:PATH                    the Inception network of TF-GAN or of the first FID code: a
                                      SavedModel folder (outputs pool_3, logits) or a frozen .pb graph
    PATH                              a .keras file or a SavedModel folder of your own

followed by options, as in `nets/mine.keras,size=128,pixels=unit`:

    size=N       side the images are resized to, pixels (default: the network's own input size)
    resize=NAME  clean_bicubic | pil_bicubic | pil_bilinear | tf1_bilinear (see `resize`)
    pixels=NAME  signed: -1 to 1 | unit: 0 to 1 | byte: 0 to 255 | inception: (byte - 128) / 128
    layer=NAME   the layer (.keras) or output (SavedModel) that gives the features

Distances under different extractors, resizings or sizes are different metrics.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tfaclgan.errors import UserError, one_line
from tfaclgan.metrics import efficientnet

DEFAULT = "efficientnet_lite0"
_INCEPTION_SIZE = 299  # pixels
_OPTIONS = ("size", "resize", "pixels", "layer")
_PIXELS: dict[str, tuple[float, float]] = {  # (byte - first) / second
    "signed": (127.5, 127.5),
    "unit": (0.0, 255.0),
    "byte": (0.0, 1.0),
    "inception": (128.0, 128.0),
    "lite0": (127.0, 128.0),
}
RESIZES = ("clean_bicubic", "pil_bicubic", "pil_bilinear", "tf1_bilinear")
_FEATURE_KEYS = ("pool_3", "features", "feature", "pool", "embedding")

Run = Callable[[np.ndarray], tuple[np.ndarray, "np.ndarray | None"]]  # [batch, s, s, c] -> features, logits


class FeatureExtractor:
    """A network whose pooled activations stand for an image.

    name: of the network; sha256: of its weight file (of all files of a SavedModel folder), hex.
    layer: which output; input_size: pixels; resize, pixels: as in the module docstring.
    channels: of the images it takes; grey images are repeated to 3.
    """

    def __init__(
        self, name: str, sha256: str, layer: str, input_size: int, resize: str, pixels: str, run: Run, batch: int
    ) -> None:
        self.name, self.sha256, self.layer = name, sha256, layer
        self.input_size, self.resize, self.pixels = input_size, resize, pixels
        self.channels, self.batch = 3, batch
        self._run = run

    @functools.cached_property
    def dimension(self) -> int:
        """Length of a feature vector."""
        return int(self(np.zeros((1, self.input_size, self.input_size, 3), np.uint8)).shape[1])

    def protocol(self) -> dict[str, Any]:
        """What decides the features, for a result and for a cache key; JSON-able."""
        return {
            "extractor": self.name,
            "extractor_sha256": self.sha256,
            "layer": self.layer,
            "feature_size": self.input_size,
            "feature_resize": self.resize,
            "feature_pixels": self.pixels,
        }

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features of uint8 images [n, h, w, c], float32 [n, dimension]."""
        return self.features_and_logits(images)[0]

    def logits(self, images: np.ndarray) -> np.ndarray | None:
        """Logits of uint8 images [n, h, w, c], float32 [n, classes]; None if the network has none."""
        return self.features_and_logits(images)[1]

    def features_and_logits(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Both in one pass over uint8 images [n, h, w, c] with 1 or 3 channels, n at least 1.

        Raises:
            UserError: images with another number of channels.
        """
        collector = Collector(self)
        collector.add(images)
        return collector.result()

    def _batch(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Runs at most `batch` images; fewer are padded, so that the network sees one shape only."""
        count = len(images)
        if images.shape[-1] == 1:
            images = np.repeat(images, 3, axis=-1)
        if images.shape[-1] != 3:
            raise UserError(
                f"extractor {self.name} takes colour or grey images, not {images.shape[-1]} channels; "
                "evaluate without FID, KID and IS (extractor none)"
            )
        first, second = _PIXELS[self.pixels]
        inputs = np.zeros((self.batch, self.input_size, self.input_size, 3), np.float32)
        inputs[:count] = (resize(images, self.input_size, self.resize) - first) / second
        features, logits = self._run(inputs)
        features = np.asarray(features, np.float32)
        if features.ndim == 4:
            features = features.mean(axis=(1, 2))
        if features.ndim != 2 or len(features) != self.batch:
            raise UserError(
                f"extractor {self.name}: output {self.layer} has shape {features.shape}, but features must be "
                f"[{self.batch}, d] or [{self.batch}, h, w, d]; name another output with layer=NAME"
            )
        if logits is not None:
            logits = np.asarray(logits, np.float32).reshape(self.batch, -1)[:count]
        return features[:count], logits


class Collector:
    """Gathers images of any counts into full batches for an extractor."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        self._extractor = extractor
        self._waiting: list[np.ndarray] = []
        self._count = 0
        self._done: list[tuple[np.ndarray, np.ndarray | None]] = []

    def add(self, images: np.ndarray) -> None:
        """Takes uint8 images [n, h, w, c]; whole batches run at once."""
        self._waiting.append(images)
        self._count += len(images)
        size = self._extractor.batch
        if self._count >= size:
            images = np.concatenate(self._waiting)
            whole = self._count - self._count % size
            self._done += [self._extractor._batch(images[start : start + size]) for start in range(0, whole, size)]
            self._waiting, self._count = [images[whole:]], self._count - whole

    def result(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Features [n, d] and logits [n, classes] or None of everything added, in order."""
        if self._count:
            self._done.append(self._extractor._batch(np.concatenate(self._waiting)))
            self._waiting, self._count = [], 0
        features = np.concatenate([features for features, _ in self._done])
        if self._done[0][1] is None:
            return features, None
        return features, np.concatenate([logits for _, logits in self._done])


def get_extractor(spec: str = DEFAULT, *, batch: int = 32) -> FeatureExtractor:
    """The extractor that `spec` (module docstring) names; loaded once in a process.

    Raises:
        UserError: unknown name or option, missing package or file, a network that cannot be used.
    """
    target, options = _parse(spec)
    kind, path = ("inception", target[len("inception:") :]) if target.startswith("inception:") else ("path", target)
    if target == DEFAULT:
        return _lite0(tuple(sorted(options.items())), batch)
    if not os.path.exists(path):
        raise UserError(
            f"extractor {spec}: {path or 'an empty path'} does not exist; give {DEFAULT}, a .keras file, "
            "a SavedModel folder or inception:PATH"
        )
    return _from_path(kind, os.path.realpath(path), tuple(sorted(options.items())), batch, _stamp(path))


def resize(images: np.ndarray, size: int, method: str) -> np.ndarray:
    """Resizes to a square on the host (the aspect ratio is not kept, as in every FID code).

    Args:
        images: uint8 [n, h, w, c].
        size: side, pixels; images of that size pass unchanged.
        method: clean_bicubic: Pillow's bicubic, antialiased, in float, then limited to 0..255 (the
            definition of clean-fid, arXiv:2104.11222); pil_bicubic, pil_bilinear: Pillow on bytes,
            antialiased; tf1_bilinear: four neighbours, no antialiasing, corners at 0 (TensorFlow 1
            and the first FID code).

    Returns:
        float32 [n, size, size, c], 0 to 255.
    """
    from PIL import Image

    if images.shape[1:3] == (size, size):
        return images.astype(np.float32)
    if method == "tf1_bilinear":
        return _tf1_bilinear(images, size)
    output = np.empty((len(images), size, size, images.shape[-1]), np.float32)
    if method == "clean_bicubic":
        for index, image in enumerate(images):
            for channel in range(image.shape[-1]):
                plane = Image.fromarray(image[..., channel].astype(np.float32))
                output[index, ..., channel] = np.asarray(plane.resize((size, size), Image.Resampling.BICUBIC))
        return output.clip(0, 255)
    filters = {"pil_bicubic": Image.Resampling.BICUBIC, "pil_bilinear": Image.Resampling.BILINEAR}
    for index, image in enumerate(images):
        output[index] = np.asarray(Image.fromarray(image).resize((size, size), filters[method]))
    return output


def _tf1_bilinear(images: np.ndarray, size: int) -> np.ndarray:
    def positions(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.arange(size, dtype=np.float32) * np.float32(side / size)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, side - 1), at - low

    values = images.astype(np.float32)
    top, bottom, down = positions(images.shape[1])
    values = values[:, top] + (values[:, bottom] - values[:, top]) * down[None, :, None, None]
    left, right, across = positions(images.shape[2])
    return values[:, :, left] + (values[:, :, right] - values[:, :, left]) * across[None, None, :, None]


def _parse(spec: str) -> tuple[str, dict[str, str]]:
    target, options = spec, {}
    while match := re.fullmatch(r"(.*),([a-z]+)=([^,]*)", target):
        target, key, value = match.groups()
        if key not in _OPTIONS or key in options:
            raise UserError(f"extractor {spec}: {key}={value} is not an option (or given twice); choose {_OPTIONS}")
        options[key] = value
    if "size" in options and not (options["size"].isdigit() and 0 < int(options["size"]) <= 4096):
        raise UserError(f"extractor {spec}: size={options['size']} is not a number of pixels from 1 to 4096")
    for key, known in (("resize", RESIZES), ("pixels", tuple(name for name in _PIXELS if name != "lite0"))):
        if key in options and options[key] not in known:
            raise UserError(f"extractor {spec}: {key}={options[key]} is unknown; choose one of {', '.join(known)}")
    if target == DEFAULT and set(options) - {"resize"}:
        raise UserError(f"extractor {spec}: {DEFAULT} takes no option but resize; leave the others out")
    return target, options


@functools.lru_cache(maxsize=4)
def _lite0(options: tuple[tuple[str, str], ...], batch: int) -> FeatureExtractor:
    path = efficientnet.weights_path()
    model = efficientnet.build(efficientnet.read_weights(path))
    return FeatureExtractor(
        name=DEFAULT,
        sha256=_sha256(path),
        layer="global average pool, 1280",
        input_size=efficientnet.INPUT_SIZE,
        resize=dict(options).get("resize", "pil_bicubic"),
        pixels="lite0",
        run=_run_keras(model, batch),
        batch=batch,
    )


@functools.lru_cache(maxsize=4)
def _from_path(kind: str, path: str, pairs: tuple[tuple[str, str], ...], batch: int, stamp: tuple) -> FeatureExtractor:
    """`stamp` is there for the cache: a changed file is loaded again."""
    options = dict(pairs)
    size = int(options.get("size", _INCEPTION_SIZE if kind == "inception" else 0))
    layer = options.get("layer", "")
    if os.path.isdir(path):
        run, size, layer = _saved_model(path, size, layer, batch)
    elif path.endswith(".keras"):
        run, size, layer = _keras_file(path, size, layer, batch)
    elif path.endswith(".pb"):
        run, size, layer = _frozen_graph(path, size or _INCEPTION_SIZE, layer, batch)
    else:
        raise UserError(
            f"extractor {path}: not a .keras file, a SavedModel folder or a frozen .pb graph; "
            "unpack archives and name the file inside"
        )
    frozen = path.endswith(".pb")
    return FeatureExtractor(
        name=("inception:" if kind == "inception" else "") + os.path.basename(path),
        sha256=_sha256(path),
        layer=layer,
        input_size=size,
        resize=options.get("resize", "clean_bicubic"),
        pixels=options.get("pixels", "inception" if frozen else "signed"),
        run=run,
        batch=batch,
    )


def _run_keras(model: Any, batch: int, key: str = "") -> Run:
    """One compiled function of one shape; the outputs are features, or features and logits."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        from tfaclgan.engine import cores

        shape = (batch, *model.input_shape[1:])
        call = cores.in_branches(lambda x: model(x, training=False))
        call = tf.function(call, autograph=False).get_concrete_function(tf.TensorSpec(shape, tf.float32))
        return lambda images: _split(call(tf.constant(images)), key)
    return lambda images: _split(model.predict_on_batch(images), key)


def _keras_file(path: str, size: int, layer: str, batch: int) -> tuple[Run, int, str]:
    import keras

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises anything from OSError to AttributeError here
        raise UserError(f"extractor {path}: Keras cannot load it ({_short(error)})") from error
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4 or model.inputs[0].shape[-1] not in (3, None):
        raise UserError(f"extractor {path}: its input is not one batch of colour images [b, h, w, 3]")
    if layer:
        names = [one.name for one in model.layers]
        if layer not in names:
            raise UserError(f"extractor {path}: no layer {layer}; the last ones are {', '.join(names[-5:])}")
        model = keras.Model(model.inputs, model.get_layer(layer).output)
    sides = set(model.inputs[0].shape[1:3]) - {None}
    size = _choose_size(path, size, sides)
    inputs = keras.Input((size, size, 3), dtype="float32")
    outputs = model(inputs)
    found = "" if layer else _feature_key(path, outputs, "")
    return _run_keras(keras.Model(inputs, outputs), batch, found), size, layer or found or "output"


def _saved_model(path: str, size: int, layer: str, batch: int) -> tuple[Run, int, str]:
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(path)
    except Exception as error:  # the loader's exceptions have no common base
        raise UserError(f"extractor {path}: not a SavedModel that can be loaded ({_short(error)})") from error
    functions = loaded.signatures
    if callable(loaded):
        call: Callable[[Any], Any] = loaded
        specs = [
            spec
            for function in getattr(loaded.__call__, "concrete_functions", ())
            for spec in tf.nest.flatten(function.structured_input_signature)
            if isinstance(spec, tf.TensorSpec) and spec.shape.rank == 4
        ]
    elif functions:
        signature = functions["serving_default" if "serving_default" in functions else next(iter(functions))]
        specs = tf.nest.flatten(signature.structured_input_signature)
        names = list(signature.structured_input_signature[1])
        if len(names) != 1:
            raise UserError(f"extractor {path}: its signature takes {names}, but one batch of images is all it can get")

        def call(images: Any) -> Any:
            return signature(**{names[0]: images})
    else:
        raise UserError(f"extractor {path}: the SavedModel is not callable and has no signature; export it with one")
    sides = {side for spec in specs for side in (spec.shape[1:3] if spec.shape.rank == 4 else ())} - {None}
    size = _choose_size(path, size, sides)
    try:
        function = tf.function(lambda x: call(x), autograph=False).get_concrete_function(
            tf.TensorSpec((batch, size, size, 3), tf.float32)
        )
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"extractor {path}: it does not take float images [{batch}, {size}, {size}, 3] ({_short(error)}); "
            "set size=N or export it with a free batch"
        ) from error
    found = _feature_key(path, function.structured_outputs, layer)
    # `loaded` is kept alive by the default: a SavedModel's variables die with the object.
    return (lambda images, _=loaded: _split(function(tf.constant(images)), found)), size, found or "output"


def _frozen_graph(path: str, size: int, layer: str, batch: int) -> tuple[Run, int, str]:
    """The Inception graphs of 2015: `Mul` takes pixels, `pool_3` gives 2048 features.

    Where there is no node `logits`, they are pool_3 times the last layer's weights without its bias,
    as in the first Inception Score code.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    graph = tf.compat.v1.GraphDef()
    try:
        with open(path, "rb") as file:
            graph.ParseFromString(file.read())
    except DecodeError as error:
        raise UserError(f"extractor {path}: not a frozen TensorFlow graph ({_short(error)})") from error
    names = {node.name for node in graph.node}
    layer = layer or "pool_3"
    if not {"Mul", layer} <= names:
        raise UserError(
            f"extractor {path}: nodes Mul (pixels) and {layer} (features) are not both in this graph, so it is not "
            "one of the Inception graphs; export your network as a SavedModel"
        )
    matmul = next((node for node in graph.node if node.name == "softmax/logits/MatMul"), None)
    wanted = [f"{layer}:0"]
    if "logits" in names:
        wanted.append("logits:0")
    elif matmul is not None:
        wanted.append(matmul.input[1] if ":" in matmul.input[1] else matmul.input[1] + ":0")

    graph = _modern_part(graph, [name.split(":")[0] for name in wanted])

    def call(images: Any) -> Any:
        outputs = tf.graph_util.import_graph_def(graph, {"Mul:0": images}, wanted, name="")
        features = tf.reshape(outputs[0], (batch, -1))
        if len(outputs) == 1:
            return features
        return features, outputs[1] if "logits" in names else tf.matmul(features, outputs[1])

    try:
        function = tf.compat.v1.wrap_function(call, [tf.TensorSpec((batch, size, size, 3), tf.float32)])
    except (ValueError, TypeError) as error:
        raise UserError(f"extractor {path}: the graph cannot be used with size {size} ({_short(error)})") from error
    return (lambda images: _split(function(tf.constant(images)), "")), size, layer


def _modern_part(graph: Any, wanted: list[str]) -> Any:
    """The part of a frozen graph between `Mul` and `wanted`, in operations that TensorFlow 2 runs.

    What lies outside is left out: the decoding of JPEGs, and a reshape to one image. Batch
    normalisation is rewritten, since its operation of 2015 is refused by newer graphs.
    """
    import tensorflow as tf

    nodes = {node.name: node for node in graph.node}
    needed, waiting = {"Mul"}, list(wanted)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += [source.lstrip("^").split(":")[0] for source in nodes[name].input]
    part = tf.compat.v1.GraphDef()
    for node in graph.node:
        if node.name not in needed:
            continue
        if node.name == "Mul":
            part.node.add(name="Mul", op="Placeholder").attr["dtype"].type = tf.float32.as_datatype_enum
        elif node.op == "BatchNormWithGlobalNormalization":
            x, mean, variance, offset, scale = node.input
            if not node.attr["scale_after_normalization"].b:
                scale = f"{node.name}/no_scale"
                part.node.add(name=scale, op="OnesLike", input=[offset]).attr["T"].CopyFrom(node.attr["T"])
            norm = part.node.add(name=node.name, op="FusedBatchNormV3", input=[x, scale, offset, mean, variance])
            norm.attr["T"].CopyFrom(node.attr["T"])
            norm.attr["U"].CopyFrom(node.attr["T"])
            norm.attr["epsilon"].f = node.attr["variance_epsilon"].f
            norm.attr["is_training"].b = False
        else:
            part.node.add().CopyFrom(node)
    return part


def _feature_key(path: str, outputs: Any, layer: str) -> str:
    """Which of named outputs are the features; "" where outputs have no names."""
    if not isinstance(outputs, dict):
        if layer:
            raise UserError(f"extractor {path}: its outputs have no names, so layer={layer} is not there; leave it out")
        return ""
    if layer:
        found = layer if layer in outputs else ""
    else:
        found = next((key for key in _FEATURE_KEYS if key in outputs), "")
        found = found or (next(iter(outputs)) if len(outputs) == 1 else "")
    if not found:
        raise UserError(f"extractor {path}: its outputs are {', '.join(outputs)}; choose the features with layer=NAME")
    return found


def _split(outputs: Any, key: str) -> tuple[np.ndarray, np.ndarray | None]:
    """A network's outputs as features and logits."""
    if isinstance(outputs, dict):
        logits = outputs.get("logits") if key != "logits" else None
        return np.asarray(outputs[key]), None if logits is None else np.asarray(logits)
    if isinstance(outputs, (list, tuple)):
        return np.asarray(outputs[0]), np.asarray(outputs[1]) if len(outputs) > 1 else None
    return np.asarray(outputs), None


def _choose_size(path: str, size: int, sides: set[int]) -> int:
    if len(sides) > 1:
        raise UserError(f"extractor {path}: its input is {sorted(sides)} pixels, but only square inputs are supported")
    own = next(iter(sides), 0)
    if size and own and size != own:
        raise UserError(f"extractor {path}: its input is {own} pixels wide, so size={size} cannot be had; leave it out")
    if not (size or own):
        raise UserError(f"extractor {path}: its input has no fixed size; add ,size=N (pixels) to its name")
    return size or own


def _files(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    return sorted(os.path.join(folder, file) for folder, _, files in os.walk(path) for file in files)


def _stamp(path: str) -> tuple:
    return tuple((file, os.path.getsize(file), os.stat(file).st_mtime_ns) for file in _files(path))


def _sha256(path: str) -> str:
    """Of a file's bytes; of a folder: of the sorted names and contents of its files."""
    total = hashlib.sha256()
    for file in _files(path):
        if os.path.isdir(path):
            total.update(os.path.relpath(file, path).encode() + b"\0")
        with open(file, "rb") as opened:
            while block := opened.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def _short(error: BaseException) -> str:
    text = one_line(error)
    return text if len(text) <= 200 else text[:200] + "..."
