"""The formats of --mode=export: how each is written, and how its own runtime runs it.

format       written by                                  run by
keras        Keras' archive                              keras.saving.load_model in a fresh process
saved_model  TensorFlow, signature `serving_default`     a fresh TensorFlow process that cannot import this package
tflite       TensorFlow's converter                      LiteRT (ai-edge-litert), else TensorFlow's interpreter
onnx         tf2onnx                                     ONNX Runtime on the CPU

Inputs and outputs have the same names in all of them, see `exported.Exported`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from tfaclgan.errors import UserError, one_line

if TYPE_CHECKING:
    from tfaclgan.inference.exported import Exported

Arrays = dict[str, np.ndarray]  # a call's inputs or outputs by name

OPSET = 17  # of ONNX; the networks need nothing newer
INSTALL = 'run `pip install ".[export]"` in the repository'
_CHILD_SECONDS = 600


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of the pictures that a file takes; None where it takes any."""

    batch: int | None
    height: int | None
    width: int | None

    def __str__(self) -> str:
        return ", ".join("free" if side is None else str(side) for side in dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Format:
    """suffix: of the file, "" for a folder. write(model, shape, path, precision, calibration). run(paths, calls).

    requires: modules that must be there, any one of each tuple.
    precisions: that it can be written in.
    """

    suffix: str
    write: Callable[[Exported, Shape, str, str, Sequence[Arrays]], None]
    run: Callable[[dict[str, str], dict[str, list[Arrays]]], dict[str, list[Arrays]]]
    requires: tuple[tuple[str, ...], ...] = ()
    precisions: tuple[str, ...] = ("float32",)


def check_installed(name: str) -> None:
    """UserError if a module that format `name` needs is missing."""
    for choices in FORMATS[name].requires:
        if not any(importlib.util.find_spec(choice.split(".")[0]) for choice in choices):
            raise UserError(f"--format={name} needs {' or '.join(choices)}, which is not installed; {INSTALL}")


def runtime(name: str) -> str:
    """The runtime that checks format `name`, with its version."""
    packages = {
        "keras": ("keras",),
        "saved_model": ("tensorflow", "tensorflow-cpu", "tensorflow-tpu"),
        "tflite": ("ai-edge-litert", "tensorflow", "tensorflow-cpu"),
        "onnx": ("onnxruntime", "onnxruntime-gpu"),
    }
    for package in packages[name]:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return f"{package} {metadata.version(package)}"
    return packages[name][0]


def trace(model: Exported, shape: Shape) -> Any:
    """The model as a TensorFlow function of one signature, `images` and, where it has one, `style`.

    Raises:
        UserError: its networks must know a side that `shape` leaves free.
    """
    import tensorflow as tf

    dtype = tf.uint8 if model.pixels == "uint8" else tf.float32
    sides = (shape.batch, shape.height, shape.width, model.image_shape[-1])
    specs = [tf.TensorSpec(sides, dtype, "images")]
    if model.style_dim:
        specs.append(tf.TensorSpec((shape.batch, model.style_dim), tf.float32, "style"))

        def call(images: Any, style: Any) -> Any:
            return model({"images": images, "style": style})
    else:

        def call(images: Any) -> Any:
            return model({"images": images})

    try:
        return tf.function(call, autograph=False).get_concrete_function(*specs)
    except (TypeError, ValueError) as error:
        if None not in sides:
            raise
        raise UserError(
            f"--export_size=free: the networks of {model.method.title} with these options must know the size of "
            "their pictures; give --export_size=SIDE"
        ) from error


def used_networks(function: Any, model: Exported) -> set[str]:
    """Names of the networks whose weights a traced function reads."""
    captured = {id(variable) for variable in function.graph.variables}
    return {
        name
        for name, network in model.networks.items()
        if any(id(variable.value) in captured for variable in network.variables)
    }


# -- keras ------------------------------------------------------------------------------------


def _write_keras(model: Exported, shape: Shape, path: str, precision: str, calibration: Sequence[Arrays]) -> None:
    model.save(path)


_RUN_KERAS = """
import keras, tfaclgan.inference.exported
def load(path):
    model = keras.saving.load_model(path)
    return lambda inputs: {name: keras.ops.convert_to_numpy(value) for name, value in model(inputs).items()}
"""

# None in sys.modules makes the import of this package fail.
_RUN_SAVED_MODEL = """
import sys
sys.modules["tfaclgan"] = None
import tensorflow as tf
def load(path):
    loaded = tf.saved_model.load(path)
    def run(inputs, loaded=loaded):
        outputs = loaded.signatures["serving_default"](**{name: tf.constant(v) for name, v in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}
    return run
"""

_CHILD = """
import json, os, sys, numpy
folder = sys.argv[1]
with open(os.path.join(folder, "calls.json")) as file:
    calls = json.load(file)
for program, call in calls.items():
    run = load(call["path"])
    for number in range(call["count"]):
        stem = os.path.join(folder, f"{program}_{number}")
        with numpy.load(stem + "_in.npz") as inputs:
            numpy.savez(stem + "_out.npz", **run(dict(inputs)))
"""


def _run_in_child(script: str) -> Callable[[dict[str, str], dict[str, list[Arrays]]], dict[str, list[Arrays]]]:
    def run(paths: dict[str, str], calls: dict[str, list[Arrays]]) -> dict[str, list[Arrays]]:
        with tempfile.TemporaryDirectory() as folder:
            listed = {p: {"path": os.path.abspath(paths[p]), "count": len(calls[p])} for p in calls}
            with open(os.path.join(folder, "calls.json"), "w", encoding="utf-8") as file:
                json.dump(listed, file)
            for program, inputs in calls.items():
                for number, arrays in enumerate(inputs):
                    np.savez(os.path.join(folder, f"{program}_{number}_in.npz"), **arrays)
            package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
            search = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
            done = subprocess.run(
                [sys.executable, "-c", script + _CHILD, folder],
                cwd=folder,
                env={**environment, "PYTHONPATH": search},
                capture_output=True,
                text=True,
                timeout=_CHILD_SECONDS,
            )
            if done.returncode:
                last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                raise UserError(f"the written file does not run in a fresh process ({last}), so nothing is kept")
            results = {}
            for program, inputs in calls.items():
                results[program] = []
                for number in range(len(inputs)):
                    with np.load(os.path.join(folder, f"{program}_{number}_out.npz")) as outputs:
                        results[program].append(dict(outputs))
            return results

    return run


# -- saved_model ------------------------------------------------------------------------------


def _write_saved_model(model: Exported, shape: Shape, path: str, precision: str, calibration: Sequence[Arrays]) -> None:
    import tensorflow as tf

    function = trace(model, shape)
    module = tf.Module()
    module.kept = list(function.graph.variables)
    tf.saved_model.save(module, path, signatures={"serving_default": function})


# -- tflite -----------------------------------------------------------------------------------


def _write_tflite(model: Exported, shape: Shape, path: str, precision: str, calibration: Sequence[Arrays]) -> None:
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        _write_saved_model(model, shape, folder, precision, calibration)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            converter.representative_dataset = lambda: iter(calibration)
        try:
            data = _quantized(converter) if precision == "int8" else converter.convert()
        except Exception as error:  # the converter's own types differ between releases; its words do not
            raise UserError(_explain_tflite(error)) from error
    with open(path, "wb") as file:
        file.write(data)


# Computed in float32 under int8: the norms. A variance in 256 steps is far off; with these in float32 the mean
# difference from the run is a fifth to two thirds of what it is without (docs/export.md).
_FLOAT_OPERATIONS = (
    "ABS", "ADD", "ADD_N", "DIV", "GREATER", "LESS_EQUAL", "MAXIMUM", "MEAN", "MINIMUM", "MUL", "NEG", "POW", "RSQRT",
    "SELECT", "SELECT_V2", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SUB", "SUM", "TANH",
)  # fmt: skip


def _quantized(converter: Any) -> bytes:
    """The converter's model with convolutions and dense layers in int8; its representative data is set."""
    import tensorflow as tf

    tools = tf.lite.experimental
    options = tools.QuantizationDebugOptions(denylisted_ops=list(_FLOAT_OPERATIONS))
    debugger = tools.QuantizationDebugger(
        converter=converter, debug_dataset=converter.representative_dataset, debug_options=options
    )
    return debugger.get_nondebug_quantized_model()


def _explain_tflite(error: Exception) -> str:
    ops = sorted(set(re.findall(r"TF Select ops: ([\w, ]+)", str(error)))) or sorted(
        set(re.findall(r"'tf\.(\w+)' op", str(error)))
    )
    what = f"no TFLite operation for {', '.join(ops)}" if ops else one_line(error)[:300]
    return f"--format=tflite: the converter gives up: {what}; give --export_size=SIDE, or take another format"


def _run_tflite(paths: dict[str, str], calls: dict[str, list[Arrays]]) -> dict[str, list[Arrays]]:
    results = {}
    for program, path in paths.items():
        runner = tflite_interpreter(path).get_signature_runner("serving_default")
        results[program] = [{name: np.array(v) for name, v in runner(**inputs).items()} for inputs in calls[program]]
    return results


def tflite_interpreter(path: str, threads: int | None = None) -> Any:
    """LiteRT's interpreter, or TensorFlow's where LiteRT is not installed."""
    if importlib.util.find_spec("ai_edge_litert") is not None:
        from ai_edge_litert.interpreter import Interpreter
    else:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter  # to be removed some day; LiteRT is its successor
    return Interpreter(model_path=path, num_threads=threads)


# -- onnx -------------------------------------------------------------------------------------


def _write_onnx(model: Exported, shape: Shape, path: str, precision: str, calibration: Sequence[Arrays]) -> None:
    import logging

    import onnx
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    function = trace(model, shape)
    outputs = dict(sorted(function.structured_outputs.items()))
    frozen = convert_variables_to_constants_v2(function)
    names = {tensor.name: tensor.name.split(":")[0] for tensor in frozen.inputs}
    names |= {tensor.name: name for name, tensor in zip(outputs, frozen.outputs, strict=True)}
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen.graph.as_graph_def(), name="")
        converted = tf2onnx.tfonnx.process_tf_graph(
            graph,
            opset=OPSET,
            input_names=[tensor.name for tensor in frozen.inputs],
            output_names=[tensor.name for tensor in frozen.outputs],
            tensors_to_rename=names,
        )
        # tf2onnx 1.17 transposes the shape of a reshape twice where both factors of a product are the same tensor (a
        # square), and the file cannot be run. ONNX Runtime moves transposes itself when it loads a file.
        passes = tf2onnx.optimizer._get_optimizers()
        wanted = {name: factory for name, factory in passes.items() if name in _ONNX_PASSES}
        proto = tf2onnx.optimizer.optimize_graph(converted, optimizers=wanted).make_model(model.name)
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    unknown = sorted({node.op_type for node in proto.graph.node} - known)
    if unknown:
        raise UserError(
            f"--format=onnx: the converter gives up: no ONNX operation for {', '.join(unknown)}; take another format"
        )
    _name_free_sides(proto, shape)
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


_ONNX_PASSES = ("fold_constants", "merge_duplication", "remove_identity", "remove_back_to_back")


def _name_free_sides(proto: Any, shape: Shape) -> None:
    """Gives the free sides of inputs and outputs names that a reader understands."""
    axes = ("batch", "height", "width")
    for value in (*proto.graph.input, *proto.graph.output):
        for axis, dimension, side in zip(axes, value.type.tensor_type.shape.dim, dataclasses.astuple(shape)):
            if side is None and not dimension.dim_value:
                dimension.dim_param = axis


def _run_onnx(paths: dict[str, str], calls: dict[str, list[Arrays]]) -> dict[str, list[Arrays]]:
    import onnxruntime

    results = {}
    for program, path in paths.items():
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        results[program] = [dict(zip(names, session.run(names, inputs), strict=True)) for inputs in calls[program]]
    return results


FORMATS = {
    "keras": Format(".keras", _write_keras, _run_in_child(_RUN_KERAS)),
    "saved_model": Format("", _write_saved_model, _run_in_child(_RUN_SAVED_MODEL)),
    "tflite": Format(
        ".tflite",
        _write_tflite,
        _run_tflite,
        requires=(("tensorflow",),),
        precisions=("float32", "float16", "int8"),
    ),
    "onnx": Format(".onnx", _write_onnx, _run_onnx, requires=(("tf2onnx",), ("onnx",), ("onnxruntime",))),
}
