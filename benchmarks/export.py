"""Size and time of exported files on this machine's CPU: docs/export.md's table.

    python benchmarks/export.py [--models=quick,ugatit_light,acl_gan] [--files=onnx,tflite_int8] [--calls=7]

Random weights, batch 1, a fixed size, float pictures in and out. Each file is written and run once by --mode=export's
own code, then timed in this process; the time is the fastest of several calls, which other work on the machine
disturbs least. A format whose packages are not installed is left out.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import types
from collections.abc import Callable

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

# Title, method, its options, side of the pictures.
MODELS = {
    "quick": (
        "quick start's ACL-GAN, 64 px",
        "acl_gan",
        {"width": 16, "residual_blocks": 2, "mlp_dim": 64, "discriminator_scales": 2, "skip": True},
        64,
    ),
    "acl_gan": ("the paper's ACL-GAN, 256 px", "acl_gan", {}, 256),
    "ugatit_light": ("U-GAT-IT light, 256 px", "ugatit", {"light": 1}, 256),
}
FILES = {
    "keras": ("keras", "float32"),
    "saved_model": ("saved_model", "float32"),
    "tflite": ("tflite", "float32"),
    "tflite_float16": ("tflite", "float16"),
    "tflite_int8": ("tflite", "int8"),
    "onnx": ("onnx", "float32"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="quick", help=f"of {', '.join(MODELS)} (quick)")
    parser.add_argument("--files", default=",".join(FILES), help="which, in order (all)")
    parser.add_argument("--calls", type=int, default=7, help="of each file, after a first one (7)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of LiteRT and ONNX Runtime (all CPUs)")
    arguments = parser.parse_args()
    from tfaclgan import quiet

    quiet.import_tensorflow()
    from tfaclgan.inference import export_formats

    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}, {processor()}")
    print(", ".join(export_formats.runtime(name) for name in export_formats.FORMATS), flush=True)
    for name in arguments.models.split(","):
        measure(*MODELS[name], arguments.files.split(","), arguments.calls, arguments.threads)


def processor() -> str:
    """The CPU's name, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return "unknown CPU"


def measure(title: str, method_name: str, options: dict, side: int, names: list, calls: int, threads: int) -> None:
    """Prints the table's rows of one model."""
    import numpy as np

    from tfaclgan.errors import UserError
    from tfaclgan.inference import arrays, export
    from tfaclgan.inference.translator import Translator
    from tfaclgan.methods import base

    method = base.get(method_name)
    config, shape = method.config(**options), (side, side, 3)
    run = types.SimpleNamespace(method=method, config=config, image_shape=shape, flags={}, path="")
    translator = Translator(run, method.networks(config, shape))
    photo = np.random.default_rng(0).integers(0, 256, (1, *shape), dtype=np.uint8)
    both = {"translate": photo, "encode_style": photo}
    pictures = export.Pictures(both, "noise", both)
    inputs = {"images": arrays.to_float(photo)}
    if translator.style_dim:
        inputs["style"] = arrays.draw_style(0, 0, translator.style_dim)[None]
    direction = translator.directions[0]
    own = fastest(lambda: translator.translate(inputs["images"], direction, inputs.get("style")), calls)
    print(f"{title}\n  the run itself: {own:.1f} ms", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            format, precision = FILES[name]
            folder = os.path.join(temporary, name)
            asked = export.Options(format, export.Shape(1, side, side), direction, precision=precision, largest=1e9)
            try:
                before = time.perf_counter()
                export.export(translator, folder, asked, pictures)
                took = time.perf_counter() - before
            except UserError as error:
                print(f"  {format} {precision}: {error}", flush=True)
                continue
            suffix = export.FORMATS[format].suffix
            path = os.path.join(folder, "translate" + suffix)
            size = sum(number for number, _ in export.sizes(path).values()) / 1e6
            best = fastest(loaded(format, path, inputs, threads), calls)
            print(
                f"  {format} {precision}: {size:.2f} MB, {best:.1f} ms (written and tried in {took:.0f} s)", flush=True
            )


def loaded(format: str, path: str, inputs: dict, threads: int) -> Callable[[], object]:
    """A call of the file's translation by its runtime."""
    if format == "keras":
        import keras

        model = keras.saving.load_model(path)
        return lambda: {name: keras.ops.convert_to_numpy(value) for name, value in model(inputs).items()}
    if format == "saved_model":
        import tensorflow as tf

        module = tf.saved_model.load(path)
        return lambda: module.signatures["serving_default"](**inputs)["image"].numpy()
    if format == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, inputs)
    from tfaclgan.inference.export_formats import tflite_interpreter

    runner = tflite_interpreter(path, threads).get_signature_runner("serving_default")
    return lambda: runner(**inputs)


def fastest(call: Callable[[], object], calls: int) -> float:
    """Milliseconds of the fastest of `calls` calls after a first one."""
    call()
    taken = []
    for _ in range(calls):
        before = time.perf_counter()
        call()
        taken.append(time.perf_counter() - before)
    return 1000 * min(taken)


if __name__ == "__main__":
    main()
