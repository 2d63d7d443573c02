"""--mode=export: a run's translation as files that other programs run, each tried out by its own runtime.

translate.SUFFIX     pictures (and styles) in, pictures (and masks) out
encode_style.SUFFIX  pictures of the target domain in, styles out; where the method has styles
export.json          inputs, outputs, sizes, SHA-256, differences, versions
README.md            the card

The folder appears whole, after the files have been run on probe pictures and agree with the run within the bounds,
or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import tfaclgan
from tfaclgan import quiet
from tfaclgan.data import files
from tfaclgan.errors import UserError, one_line
from tfaclgan.inference import arrays, card
from tfaclgan.inference import export_formats as formats
from tfaclgan.inference.export_formats import FORMATS, Arrays, Shape
from tfaclgan.inference.translator import Translator

LEVEL = 1 / 127.5  # of a picture's 256, on the scale [-1, 1]
PROBES = 4


@dataclasses.dataclass(frozen=True)
class Bound:
    """Most that results may differ from the run's: largest and mean, pictures in [-1, 1]."""

    largest: float
    mean: float


# float32: sums in another order. Below it, what a healthy network loses (docs/export.md has the figures); a single
# pixel may then be anything, so int8 is judged by its mean.
BOUNDS = {"float32": Bound(1e-3, 1e-4), "float16": Bound(0.05, 2e-3), "int8": Bound(math.inf, 0.03)}


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked for.

    format: "keras", "saved_model", "tflite" or "onnx".
    shape: of the pictures; None sides are free.
    direction: "a2b" or "b2a"; "" is the run's.
    pixels: "float" or "uint8", see `exported.Exported`.
    precision: "float32", "float16" or "int8" (the last two: TFLite).
    mask: also give the mask.
    largest: bound on the largest difference instead of the precision's; the mean's is then a tenth of it.
    seed: of probe styles and of calibration styles.
    """

    format: str
    shape: Shape
    direction: str = ""
    pixels: str = "float"
    precision: str = "float32"
    mask: bool = False
    largest: float | None = None
    seed: int = 0

    @property
    def bound(self) -> Bound:
        bound = BOUNDS[self.precision] if self.largest is None else Bound(self.largest, self.largest / 10)
        # Rounding to levels may fall to the other side.
        return Bound(bound.largest + LEVEL, bound.mean) if self.pixels == "uint8" else bound


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What a file is tried out on, and for int8 what its ranges are measured on: uint8 [n, h, w, c] by program.

    probes: "translate": of the source domain, "encode_style": of the target domain; of the exported size, or if that
        is free of one that the networks take.
    what: the probes are, in words.
    calibration: None if there is no data to take them from.
    """

    probes: Mapping[str, np.ndarray]
    what: str
    calibration: Mapping[str, np.ndarray] | None = None


def resolve_shape(translator: Translator, format: str, batch: int, size: str) -> Shape:
    """The shape meant by --export_batch and --export_size; a .keras file takes all that the networks take.

    Raises:
        UserError: `size` is none.
    """
    run = translator.run
    height, width = _parse_size(size, run.image_shape[:2])
    if format == "keras" and not size:
        height, width = run.image_shape[:2] if run.method.fixed_size(run.config) else (None, None)
    return Shape(None if format == "keras" else batch or None, height, width)


def _parse_size(text: str, training: tuple[int, int]) -> tuple[int | None, int | None]:
    if not text:
        return training
    if text == "free":
        return None, None
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if not match:
        raise UserError(f"--export_size={text}: not SIDE, HEIGHTxWIDTH in pixels or free; write for example 256")
    return int(match[1]), int(match[2] or match[1])


def check_target(folder: str) -> None:
    """UserError unless `folder` is new or empty."""
    if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise UserError(f"--output={folder}: is there already, and an export overwrites nothing; name a new folder")


def check(translator: Translator, options: Options) -> None:
    """UserError for what cannot be exported: see `Options`."""
    import keras

    run, shape = translator.run, options.shape
    if keras.backend.backend() != "tensorflow" and options.format != "keras":
        raise UserError(
            f"--format={options.format}: is written on Keras' TensorFlow backend; set KERAS_BACKEND=tensorflow"
        )
    formats.check_installed(options.format)
    if options.precision not in FORMATS[options.format].precisions:
        able = " or ".join(name for name, form in FORMATS.items() if options.precision in form.precisions)
        raise UserError(
            f"--precision={options.precision}: --format={options.format} is written in float32; take --format={able}"
        )
    if options.precision == "int8" and None in (shape.height, shape.width):
        raise UserError("--precision=int8: needs one size, ranges of values depend on it; give --export_size=SIDE")
    multiple, minimum = run.method.size_multiple(run.config), run.method.minimum_size(run.config)
    sides = [side for side in (shape.height, shape.width) if side]
    asked = "x".join(str(side) for side in sides)
    if run.method.fixed_size(run.config) and tuple(run.image_shape[:2]) != (shape.height, shape.width):
        height, width = run.image_shape[:2]
        raise UserError(
            f"--export_size={asked or 'free'}: {run.method.title} with these options takes pictures of {height} x "
            f"{width} pixels only; leave --export_size out"
        )
    if any(side % multiple for side in sides):
        fits = "x".join(str(-(-max(side, minimum) // multiple) * multiple) for side in sides)
        raise UserError(
            f"--export_size={asked}: the networks take sides that are multiples of {multiple}; "
            f"give --export_size={fits}, and pad pictures to it"
        )
    if any(side < minimum for side in sides):
        raise UserError(f"--export_size={asked}: the networks take sides of at least {minimum}; give a larger size")


@dataclasses.dataclass(frozen=True)
class Difference:
    """Between a file's results and the run's, on the scale of `Bound`; numbers of a style relative to the largest."""

    program: str
    output: str
    largest: float
    mean: float


def export(
    translator: Translator,
    folder: str,
    options: Options,
    pictures: Pictures,
) -> list[str]:
    """Writes folder `folder`; returns lines for the console.

    Args:
        translator: of the run.
        folder: new or empty.
        options: what is asked for.
        pictures: that the files are tried out on.

    Raises:
        UserError: see `check`; a converter lacks an operation; results differ by more than the bounds; `folder`
            holds something. Nothing is left of it then.
    """
    check_target(folder)
    check(translator, options)
    run, form = translator.run, FORMATS[options.format]
    direction = translator.resolve_direction(options.direction)
    options = dataclasses.replace(options, direction=direction)
    if options.mask:
        _check_mask(translator, pictures.probes["translate"][:1], options)
    programs = ["translate", *(["encode_style"] if translator.style_dim and run.method.encode_style else [])]
    models = {program: _model(translator, program, options) for program in programs}
    calls = {program: _calls(translator, models[program], pictures.probes[program], options) for program in programs}
    expected = {
        program: [_expected(translator, program, call, options) for call in calls[program]] for program in calls
    }
    with files.whole_folder(folder) as temporary:
        paths = {program: os.path.join(temporary, program + form.suffix) for program in programs}
        with quiet.held_stderr():
            for program, model in models.items():
                examples: list[Arrays] = []
                if options.precision == "int8":
                    if pictures.calibration is None:
                        raise UserError("--precision=int8 needs pictures to measure ranges on; give --data_dir")
                    examples = _calls(translator, model, pictures.calibration[program], options)
                form.write(model, options.shape, paths[program], options.precision, examples)
            results = _run(options.format, paths, calls)
        differences = [
            difference
            for program in programs
            for difference in _differences(program, results[program], expected[program])
        ]
        _check_differences(differences, options)
        lines = [f"{d.program}, {d.output}: largest difference {d.largest:.2e}, mean {d.mean:.2e}" for d in differences]
        content = _content(translator, options, models, calls, paths, differences, pictures.what)
        for path in paths.values():
            for name in sizes(path):
                files.flush(os.path.join(temporary, name))
        files.write_flushed(os.path.join(temporary, "export.json"), (json.dumps(content, indent=1) + "\n").encode())
        files.write_flushed(os.path.join(temporary, card.NAME), _card(translator, options, content).encode())
    return [f"run by {content['runtime']} on {pictures.what}, against the run:", *lines]


def _run(format: str, paths: dict[str, str], calls: dict[str, list[Arrays]]) -> dict[str, list[Arrays]]:
    try:
        return FORMATS[format].run(paths, calls)
    except UserError:
        raise
    except Exception as error:  # each runtime has its own types; a file that it cannot run is no use whatever they are
        raise UserError(
            f"{formats.runtime(format)} cannot run the written file ({one_line(error)[:300]}), so nothing is kept; "
            "take another --format"
        ) from error


def _check_mask(translator: Translator, image: np.ndarray, options: Options) -> None:
    try:
        translator.mask(image, options.direction)
    except UserError as error:
        raise UserError(f"--save_mask: {error}; leave it out") from error


def _model(translator: Translator, program: str, options: Options) -> Any:
    """The `Exported` of a program, with the networks it uses only."""
    import keras

    from tfaclgan.inference.exported import Exported

    run = translator.run

    def make(networks: Mapping[str, Any]) -> Exported:
        return Exported(
            run.method,
            run.config,
            run.image_shape,
            networks,
            program=program,
            direction=options.direction,
            pixels=options.pixels,
            mask=options.mask,
            name=program,
        )

    model = make(translator.networks)
    if options.format != "keras" or keras.backend.backend() != "tensorflow":
        return model
    used = formats.used_networks(formats.trace(model, Shape(1, *run.image_shape[:2])), model)
    return make({name: translator.networks[name] for name in used})


def _calls(translator: Translator, model: Any, images: np.ndarray, options: Options) -> list[Arrays]:
    """The calls that take `images` through a file: full batches of a fixed size, or of one and of the rest."""
    count, batch = len(images), options.shape.batch
    styles = [
        arrays.draw_style(options.seed, number, translator.style_dim) for number in range(count) if model.style_dim
    ]
    pixels = images if options.pixels == "uint8" else arrays.to_float(images)
    starts = list(range(0, count, batch)) if batch else [0, 1]
    ends = [start + batch for start in starts] if batch else [1, count]
    calls = []
    for start, end in zip(starts, ends):
        call = {"images": pixels[start:end]}
        if styles:
            call["style"] = np.stack(styles[start:end])
        if len(call["images"]):
            calls.append({name: arrays.pad_batch(value, batch or len(value)) for name, value in call.items()})
    if options.shape.height is None:
        # A free size is tried at a second one, not square.
        multiple = translator.run.method.size_multiple(translator.run.config)
        wide = arrays.pad(calls[0]["images"], arrays.Border(0, multiple, multiple, multiple))
        calls.append({**calls[0], "images": wide})
    return calls


def _expected(translator: Translator, program: str, call: Arrays, options: Options) -> Arrays:
    """What the run itself gives."""
    if program == "encode_style":
        return {"style": translator.encode_style(call["images"], options.direction)}
    outcome = translator.translate_full(call["images"], options.direction, call.get("style"))
    expected = {"image": outcome.image}
    if options.mask and outcome.mask is not None:
        mask = outcome.mask
        expected["mask"] = np.round(mask * 255).astype(np.uint8) if options.pixels == "uint8" else mask
    return expected


def _differences(program: str, results: Sequence[Arrays], expected: Sequence[Arrays]) -> list[Difference]:
    found = []
    for name in expected[0]:
        parts = []
        for result, wanted in zip(results, expected, strict=True):
            got, right = (values[name].astype(np.float64) for values in (result, wanted))
            if got.shape != right.shape:
                raise UserError(f"{program}: the written file gives {name} of shape {got.shape}, not {right.shape}")
            scale = 1.0
            if name == "style":
                scale = max(1.0, np.abs(right).max())
            elif wanted[name].dtype == np.uint8:
                scale = 255.0 if name == "mask" else 127.5
            parts.append((np.abs(got - right) / scale).ravel())
        difference = np.concatenate(parts)
        found.append(Difference(program, name, float(difference.max()), float(difference.mean())))
    return found


def _check_differences(differences: Sequence[Difference], options: Options) -> None:
    bound = options.bound
    for found in differences:
        if not (found.largest <= bound.largest and found.mean <= bound.mean):
            raise UserError(
                f"{found.program}, {found.output}: the written file differs from the run by {found.largest:.2e} at "
                f"most and {found.mean:.2e} on average, above the bounds {bound.largest:.2e} and {bound.mean:.2e}, so "
                "nothing is kept; take another --precision or --format, or raise --max_difference"
            )


def _content(
    translator: Translator,
    options: Options,
    models: dict[str, Any],
    calls: dict[str, list[Arrays]],
    paths: dict[str, str],
    differences: Sequence[Difference],
    probed_with: str,
) -> dict[str, Any]:
    """export.json."""
    channels = translator.channels
    described = {}
    for program, model in models.items():
        image_type = "uint8, 0 to 255" if options.pixels == "uint8" else "float32, -1 to 1"
        mask_type = "uint8, 0 to 255" if options.pixels == "uint8" else "float32, 0 to 1"
        inputs = {"images": f"{image_type}; [{options.shape}, {channels}]"}
        if model.style_dim:
            inputs["style"] = f"float32, N(0, 1) or of encode_style; [{_free(options.shape.batch)}, {model.style_dim}]"
        outputs = {
            "image": f"{image_type}; [{options.shape}, {channels}]",
            "mask": f"{mask_type}; [{options.shape}, 1]",
            "style": f"float32; [{_free(options.shape.batch)}, {translator.style_dim}]",
        }
        named = [d.output for d in differences if d.program == program]
        described[program] = {
            "file": os.path.basename(paths[program]),
            "bytes": sum(size for size, _ in sizes(paths[program]).values()),
            "sha256": {name: digest for name, (_, digest) in sizes(paths[program]).items()},
            "inputs": inputs,
            "outputs": {name: outputs[name] for name in named},
            "differences": {
                d.output: {"largest": d.largest, "mean": d.mean} for d in differences if d.program == program
            },
        }
    bound = options.bound
    return {
        "made_by": f"tfaclgan {tfaclgan.__version__}",
        "format": options.format,
        "precision": options.precision,
        "direction": options.direction,
        "size_multiple": translator.run.method.size_multiple(translator.run.config),
        "runtime": formats.runtime(options.format),
        "probes": {"what": probed_with, "pictures": sum(len(call["images"]) for call in calls["translate"])},
        "bounds": {"largest": None if math.isinf(bound.largest) else bound.largest, "mean": bound.mean},
        "programs": described,
    }


def _free(side: int | None) -> str:
    return "free" if side is None else str(side)


def sizes(path: str) -> dict[str, tuple[int, str]]:
    """{name: (bytes, SHA-256)} of a file, or of the files of a folder."""
    found = [path] if os.path.isfile(path) else [os.path.join(top, name) for top, _, ns in os.walk(path) for name in ns]
    start = os.path.dirname(path)
    return {os.path.relpath(name, start): (os.path.getsize(name), files.hash_file(name)) for name in sorted(found)}


_USE = {
    "keras": (
        "import keras, tfaclgan.inference.exported",
        'model = keras.saving.load_model("{file}")',
        "outputs = model({{{inputs}}})",
    ),
    "saved_model": (
        "import tensorflow as tf",
        'loaded = tf.saved_model.load("{file}")   # keep it: the function does not hold its weights',
        'outputs = loaded.signatures["serving_default"]({keywords})',
    ),
    "tflite": (
        "from ai_edge_litert.interpreter import Interpreter",
        'runner = Interpreter("{file}").get_signature_runner("serving_default")',
        "outputs = runner({keywords})",
    ),
    "onnx": (
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("{file}")',
        "outputs = session.run(None, {{{inputs}}})   # a list in the order of session.get_outputs()",
    ),
}


def _card(translator: Translator, options: Options, content: dict[str, Any]) -> str:
    run, translate = translator.run, content["programs"]["translate"]
    names = list(translate["inputs"])
    use = [
        line.format(
            file=translate["file"],
            inputs=", ".join(f'"{name}": {name}' for name in names),
            keywords=", ".join(f"{name}={name}" for name in names),
        )
        for line in _USE[options.format]
    ]
    sections = ["## Files", ""]
    for described in content["programs"].values():
        sections += [f"`{described['file']}`, {described['bytes']:,} bytes", ""]
        sections += [f"- in: `{name}`: {text}" for name, text in described["inputs"].items()]
        sections += [
            f"- out: `{name}`: {text}; differs from the run by {d['largest']:.1e} at most, {d['mean']:.1e} on average"
            for (name, text), d in zip(described["outputs"].items(), described["differences"].values())
        ]
        sections.append("")
    sections += [
        f"Sides must be multiples of {content['size_multiple']}. Differences: run by {content['runtime']} on "
        f"{content['probes']['what']}.",
        "",
    ]
    about = f"{options.format} export ({options.precision}, {options.direction}) of a run, made by {content['made_by']}"
    return card.text(run, run.path, about=about, use=use, sections=sections)
