"""The flags of `python -m tfaclgan.main`, grouped; every method's config becomes `--METHOD.FIELD`.

Imports neither Keras nor TensorFlow, so that `--help` answers at once. A flag left unset takes the
method's recipe or config, so the paper's value stands in one place only.
"""

from __future__ import annotations

import dataclasses
import math
import re
import textwrap
from collections.abc import Callable
from typing import Any

from absl import flags

from tfaclgan.engine import ENGINES
from tfaclgan.errors import UserError
from tfaclgan.methods import base

MODES = ("train", "evaluate", "translate", "export", "import_weights", "tpu_check", "debug")
RECIPE_FIELDS = tuple(
    field.name for field in dataclasses.fields(base.Recipe) if field.name not in ("image_size", "load_size")
)
_METHOD_DEFAULT = "the method's"

_groups: dict[str, list[str]] = {}


def _group(title: str) -> Callable[..., None]:
    names = _groups.setdefault(title, [])

    def define(
        definer: Callable[..., Any], name: str, default: Any, text: str, *arguments: Any, **options: Any
    ) -> None:
        definer(name, default, *arguments, text, **options)
        names.append(name)

    return define


def define() -> None:
    """Defines all flags; safe to call more than once."""
    if _groups:
        return
    what = _group("What to do")
    what(
        flags.DEFINE_enum,
        "mode",
        "train",
        "What to do: train the run, judge it on the test split, translate pictures, write its translation for other "
        "programs (docs/export.md), make a run of an original's weights (docs/weights.md), "
        "compile the training step for a TPU that is not there (docs/tpu.md), "
        "or run a step that was not finite again and say where it went wrong (docs/training.md).",
        MODES,
    )
    what(
        flags.DEFINE_string,
        "method",
        "acl_gan",
        "The method to train; evaluate and translate read it from the run directory.",
    )
    what(
        flags.DEFINE_string,
        "run_dir",
        "",
        "Folder of the run (created), local or in a bucket (gs://BUCKET/RUN, docs/tpu.md); training continues from "
        "what is in it. Empty: runs/METHOD.",
    )
    what(
        flags.DEFINE_string,
        "work_dir",
        "",
        "Local folder for the working copy of a run in a bucket. Empty: ~/.cache/tfaclgan/runs.",
    )
    what(
        flags.DEFINE_bool,
        "dry_run",
        False,
        "Print resolved flags, parameters, shapes, images and bytes a step, and stop.",
    )
    what(flags.DEFINE_integer, "seed", 0, "Seed of weights, data order, augmentation and noise.", lower_bound=0)
    what(
        flags.DEFINE_bool,
        "deterministic",
        False,
        "Use only deterministic kernels (slower): two runs of one seed agree bit for bit.",
    )

    data = _group("Data")
    data(
        flags.DEFINE_string,
        "data_dir",
        "",
        "Folder with dataset.json and TFRecord shards made by data_tools/make_tfrecords.py.",
    )
    data(
        flags.DEFINE_bool,
        "verify_data",
        False,
        "At the start, compare the SHA-256 of every shard and index with dataset.json (counts and sizes always are).",
    )
    data(
        flags.DEFINE_enum,
        "on_bad_record",
        "stop",
        "A damaged or undecodable record met in training: stop and name it, or skip it for the next sound one and "
        "count it in the log. Evaluation always stops.",
        ("stop", "skip"),
    )
    data(
        flags.DEFINE_string,
        "image_size",
        "",
        f"Training crop in pixels, SIDE or HEIGHTxWIDTH. Empty: {_METHOD_DEFAULT}.",
    )
    data(
        flags.DEFINE_integer,
        "load_size",
        None,
        "Shorter side before the crop, pixels. Unset: the crop's shorter side.",
        lower_bound=1,
    )
    data(
        flags.DEFINE_string,
        "augment",
        None,
        f"Augmentation preset or list, see docs/augmentation.md. Unset: {_METHOD_DEFAULT}.",
    )
    data(
        flags.DEFINE_enum,
        "augment_on",
        "host",
        "Who augments: the host's cores, or the device inside the compiled step (pictures must be stored at one size).",
        ("host", "device"),
    )
    data(
        flags.DEFINE_integer,
        "augment_until_step",
        0,
        "Data iteration after which only the crop stays; 0: augment always.",
        lower_bound=0,
    )
    data(
        flags.DEFINE_string,
        "match_histograms",
        "",
        "Give one picture of each pair the other's colours: MODE[:PROBABILITY[:RATIO[:FORM]]], see "
        "docs/augmentation.md. Empty: none.",
    )
    data(
        flags.DEFINE_bool,
        "blurred_copies",
        False,
        "Also read pictures whose edges are blurred, for methods that judge them (--ugatit.blur_loss).",
    )
    data(
        flags.DEFINE_integer,
        "cache_mb",
        512,
        "Keep a split's encoded records in memory up to this many MiB.",
        lower_bound=0,
    )
    data(
        flags.DEFINE_integer,
        "parallel_calls",
        0,
        "Threads that decode and augment; 0: chosen by tf.data.",
        lower_bound=0,
    )
    data(
        flags.DEFINE_string,
        "data_service",
        "",
        "grpc://HOST:PORT of a dispatcher (data_tools/data_service.py) whose workers decode and augment for training; "
        "empty: this host does.",
    )

    training = _group("Training (unset: the method's recipe, the paper's values)")
    training(flags.DEFINE_integer, "steps", None, "Data iterations in all.", lower_bound=1)
    training(
        flags.DEFINE_integer,
        "batch_size",
        None,
        "Images of each domain in a data iteration, over all replicas.",
        lower_bound=1,
    )
    training(flags.DEFINE_float, "learning_rate", None, "Adam's learning rate at the start.", lower_bound=0.0)
    training(
        flags.DEFINE_float, "beta_1", None, "Adam's decay of the mean of gradients.", lower_bound=0.0, upper_bound=1.0
    )
    training(
        flags.DEFINE_float,
        "beta_2",
        None,
        "Adam's decay of the mean of squared gradients.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    training(flags.DEFINE_float, "adam_epsilon", None, "Adam's epsilon, beside the corrected root.", lower_bound=0.0)
    training(flags.DEFINE_float, "weight_decay", None, "L2 weight added to the gradient (coupled).", lower_bound=0.0)
    training(
        flags.DEFINE_enum,
        "weight_decay_on",
        None,
        "Weights that have it: all, or the kernels of convolutions and dense layers.",
        base.WEIGHT_DECAY_ON,
    )
    training(
        flags.DEFINE_enum,
        "lr_schedule",
        None,
        "How the rate falls: by a factor every lr_decay_steps, or after lr_decay_start linearly to 0 at --steps.",
        base.LR_SCHEDULES,
    )
    training(
        flags.DEFINE_integer,
        "lr_decay_steps",
        None,
        "Data iterations between two decays of the rate; 0: constant (step), or at each data iteration (linear).",
        lower_bound=0,
    )
    training(
        flags.DEFINE_float,
        "lr_decay_factor",
        None,
        "Factor of each decay of --lr_schedule=step.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    training(
        flags.DEFINE_integer,
        "lr_decay_start",
        None,
        "Data iterations at the full rate before --lr_schedule=linear decays; -1: half of --steps; --steps: constant.",
        lower_bound=-1,
    )
    training(
        flags.DEFINE_float,
        "ema_decay",
        None,
        "Moving average of the generators, decay per data iteration; 0: none.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    training(
        flags.DEFINE_float,
        "ema_start",
        None,
        "Share of --steps during which the moving average only copies the weights.",
        lower_bound=0.0,
        upper_bound=1.0,
    )

    training(
        flags.DEFINE_enum,
        "nan_policy",
        "stop",
        "A data iteration with a loss or gradient that is not finite: stop, or skip the update of the phase in which "
        "it is and count it in the log (stops after 100 of a phase in a row).",
        ("stop", "skip"),
    )

    hardware = _group("Hardware")
    hardware(
        flags.DEFINE_enum,
        "engine",
        "tensorflow",
        "What computes: TensorFlow, or JAX on the same methods, data and run directories (docs/engines.md).",
        ENGINES,
    )
    hardware(
        flags.DEFINE_enum,
        "strategy",
        "auto",
        "Devices: auto takes a TPU, else all GPUs, else the CPU; multiworker reads TF_CONFIG.",
        ("auto", "cpu", "mirrored", "multiworker", "tpu"),
    )
    hardware(flags.DEFINE_string, "tpu", "local", "TPU to use with --strategy=tpu: local, a name or an address.")
    hardware(
        flags.DEFINE_integer,
        "cpu_devices",
        1,
        "Logical CPU replicas with --strategy=cpu (to try replicas without GPUs).",
        lower_bound=1,
    )
    hardware(
        flags.DEFINE_enum,
        "dtype",
        "float32",
        "Compute type; weights, norms and losses stay float32.",
        ("float32", "bfloat16"),
    )
    hardware(flags.DEFINE_enum, "xla", "auto", "Compile steps with XLA; auto: on GPUs and TPUs.", ("auto", "on", "off"))
    hardware(
        flags.DEFINE_bool,
        "rematerialise",
        False,
        "Compute the generators' maps again for the gradient instead of keeping them: less memory, more time.",
    )
    hardware(
        flags.DEFINE_integer,
        "steps_per_loop",
        50,
        "Data iterations a compiled call (rounded up to the schedule's period).",
        lower_bound=1,
    )

    hardware(
        flags.DEFINE_enum,
        "preemption_notice",
        "auto",
        "Whom to ask whether this machine is about to go, besides SIGTERM: Google Cloud's metadata server or nobody; "
        "auto: google on TPUs.",
        ("auto", "google", "none"),
    )

    check = _group("--mode=tpu_check")
    check(flags.DEFINE_enum, "tpu_type", "v5e", "Chip to compile for.", ("v4", "v5e", "v5p", "v6e"))
    check(flags.DEFINE_integer, "tpu_cores", 8, "Replicas that share --batch_size.", lower_bound=1)
    check(flags.DEFINE_bool, "find_batch", False, "Search the largest batch a core that fits; minutes a try.")

    log = _group("Logs and checkpoints (in data iterations, rounded up to whole loops)")
    log(
        flags.DEFINE_integer,
        "log_every_steps",
        100,
        "Interval of the console line, metrics.jsonl and TensorBoard scalars.",
        lower_bound=1,
    )
    log(flags.DEFINE_integer, "sample_every_steps", 1000, "Interval of sample grids; 0: none.", lower_bound=0)
    log(flags.DEFINE_integer, "sample_count", 8, "Test pictures in a sample grid.", lower_bound=1)
    log(
        flags.DEFINE_integer,
        "histogram_every_steps",
        0,
        "Interval of histograms of weights and (engine tensorflow) gradients in TensorBoard; 0: none.",
        lower_bound=0,
    )
    log(
        flags.DEFINE_integer,
        "embedding_every_steps",
        0,
        "Interval of the styles of test pictures in TensorBoard's projector (methods with styles); 0: none.",
        lower_bound=0,
    )
    log(
        flags.DEFINE_integer,
        "keep_samples",
        200,
        "Newest sample grids and histograms kept, pictures and TensorBoard's events; 0: all.",
        lower_bound=0,
    )
    log(
        flags.DEFINE_integer,
        "checkpoint_every_steps",
        1000,
        "Interval of checkpoints; the last step is always saved.",
        lower_bound=1,
    )
    log(
        flags.DEFINE_integer,
        "keep_checkpoints",
        3,
        "Newest checkpoints kept; the best by metric is kept besides.",
        lower_bound=1,
    )
    log(
        flags.DEFINE_integer,
        "keep_every_steps",
        0,
        "Interval of checkpoints that are kept for good; 0: none.",
        lower_bound=0,
    )
    log(
        flags.DEFINE_bool,
        "async_save",
        False,
        "Write checkpoints while training goes on: a copy of the state in the host's memory, at most one at a time.",
    )
    log(flags.DEFINE_integer, "eval_every_steps", 0, "Interval of evaluation during training; 0: none.", lower_bound=0)
    log(
        flags.DEFINE_string,
        "profile_steps",
        "",
        "FIRST,LAST data iterations to trace for TensorBoard's profiler, e.g. 10,15.",
    )

    judge = _group("Judging (--mode=evaluate and --eval_every_steps)")
    judge(
        flags.DEFINE_string,
        "extractor",
        "efficientnet_lite0",
        "Feature network: efficientnet_lite0, inception:PATH, the PATH of a Keras or SavedModel extractor, or none; "
        "see docs/metrics.md.",
    )
    judge(
        flags.DEFINE_enum,
        "reference_split",
        "train",
        "Pictures of the target domain that FID and KID compare with.",
        ("train", "test"),
    )
    judge(
        flags.DEFINE_bool,
        "published_kid",
        False,
        "Also give KID in blocks of 10 pictures and U-GAT-IT's two mixtures of KID, see docs/metrics.md.",
    )
    judge(flags.DEFINE_integer, "styles", 1, "Styles drawn for each picture.", lower_bound=1)
    judge(flags.DEFINE_integer, "max_images", 0, "Judge only the first pictures of the split; 0: all.", lower_bound=0)
    judge(flags.DEFINE_string, "stats_cache", "", "Folder of cached reference features. Empty: DATA_DIR/.metrics.")
    judge(flags.DEFINE_enum, "checkpoint", "latest", "Checkpoint to use when not training.", ("latest", "best"))

    use = _group("Translating (--mode=translate)")
    use(flags.DEFINE_string, "input", "", "Picture or folder of pictures to translate.")
    use(
        flags.DEFINE_string,
        "output",
        "",
        "Folder for the translations, names of the inputs are kept; or for the export, new or empty.",
    )
    use(
        flags.DEFINE_enum,
        "direction",
        "",
        "Translate domain A to B or B to A. Empty: the direction the run was trained in.",
        ("", "a2b", "b2a"),
    )
    use(flags.DEFINE_string, "style_reference", "", "Picture whose style is used instead of a random one.")
    use(
        flags.DEFINE_float,
        "style_scale",
        1.0,
        "Factor on random styles (the originals' folder script used 2).",
        lower_bound=0.0,
    )
    use(
        flags.DEFINE_string,
        "resize",
        "0",
        "Size of inputs before translating, pixels: the shorter side, or HEIGHTxWIDTH (squeezed); 0: original size.",
    )
    use(
        flags.DEFINE_string,
        "crop",
        "0",
        "Middle of inputs that is kept after --resize, pixels: SIDE or HEIGHTxWIDTH; 0: all.",
    )
    use(
        flags.DEFINE_enum,
        "resample",
        "bilinear",
        "Filter of --resize, antialiased.",
        ("bilinear", "bicubic", "lanczos"),
    )
    use(flags.DEFINE_bool, "save_mask", False, "Also write the focus mask (methods that have one).")
    use(
        flags.DEFINE_bool,
        "save_panels",
        False,
        "Also write a strip of all the method shows of a picture (U-GAT-IT: identity, cycle, heatmaps).",
    )
    use(flags.DEFINE_bool, "save_raw", False, "Also write the generator's picture before blending.")
    use(flags.DEFINE_bool, "stretch", False, "Stretch each result to its full range, as the originals save it.")
    use(flags.DEFINE_bool, "overwrite", False, "Replace translations that are already there.")

    export = _group("--mode=export (also --output, --direction, --save_mask, --checkpoint; see docs/export.md)")
    export(
        flags.DEFINE_enum,
        "format",
        None,
        "keras and saved_model need nothing more; tflite and onnx are checked with the runtimes of the extra [export].",
        ("keras", "saved_model", "tflite", "onnx"),
    )
    export(
        flags.DEFINE_string,
        "export_size",
        "",
        "Sides of the pictures the file takes, SIDE or HEIGHTxWIDTH in pixels, or free. Empty: the training size.",
    )
    export(flags.DEFINE_integer, "export_batch", 1, "Pictures a call of the file; 0: any number.", lower_bound=0)
    export(
        flags.DEFINE_enum,
        "export_pixels",
        "float",
        "Pictures in and out of the file: float in [-1, 1], or uint8 in 0..255, converted inside.",
        ("float", "uint8"),
    )
    export(
        flags.DEFINE_enum,
        "precision",
        "float32",
        "Of a TFLite file: float16 halves the weights; int8 computes convolutions in it, with ranges measured on the "
        "run's data.",
        ("float32", "float16", "int8"),
    )
    export(
        flags.DEFINE_integer,
        "calibration_images",
        64,
        "Training pictures that --precision=int8 measures.",
        lower_bound=1,
    )
    export(
        flags.DEFINE_float,
        "max_difference",
        None,
        "Largest difference from the run, pictures in [-1, 1], above which nothing is written; the mean's bound is a "
        "tenth. Unset: the precision's.",
        lower_bound=0.0,
    )

    weights = _group("--mode=import_weights")
    weights(
        flags.DEFINE_list,
        "source",
        [],
        "Weight files of the original code, FILE[,FILE...]; for CycleGAN also G_A=FILE.",
    )

    for name in base.names():
        method = base.get(name)
        group = _group(f"{method.title} (--method={name})")
        for field in dataclasses.fields(method.config):
            _define_field(group, name, field)


def _define_field(group: Callable[..., None], method: str, field: dataclasses.Field) -> None:
    flag, data, default = f"{method}.{field.name}", field.metadata, field.default
    text = data["help"]
    bounds = {"lower_bound": data["minimum"], "upper_bound": data["maximum"]}
    if data["choices"]:
        group(flags.DEFINE_enum, flag, default, text, data["choices"])
    elif isinstance(default, bool):
        group(flags.DEFINE_bool, flag, default, text)
    elif isinstance(default, int):
        group(flags.DEFINE_integer, flag, default, text, **bounds)
    elif isinstance(default, float):
        group(flags.DEFINE_float, flag, default, text, **bounds)
    else:
        group(flags.DEFINE_string, flag, default, text)


def check_numbers(values: flags.FlagValues) -> None:
    """UserError for numbers that nothing can compute with: bounds let "nan" through, and many have no upper one."""
    for name in (name for names in _groups.values() for name in names):
        value = values[name].value
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name}={value}: not a finite number; give one")
        if isinstance(value, int) and abs(value) >= 2**31:
            raise UserError(f"--{name}: {len(str(abs(value)))} digits are too many; steps and seeds end at 2147483647")


def method_config(method: base.Method, values: flags.FlagValues) -> Any:
    """The method's config from its flags."""
    fields = dataclasses.fields(method.config)
    return method.config(**{field.name: values[f"{method.name}.{field.name}"].value for field in fields})


def method_recipe(method: base.Method, config: Any) -> base.Recipe:
    """The training settings that a method's config asks for, before any flag."""
    return method.recipe_for(config) if method.recipe_for else method.recipe


def recipe(method: base.Method, values: flags.FlagValues) -> base.Recipe:
    """The method's recipe with the flags that were set."""
    changed = {name: values[name].value for name in RECIPE_FIELDS if values[name].value is not None}
    height, width = image_size(method, values)
    changed["image_size"] = min(height, width)
    changed["load_size"] = values.load_size if values.load_size is not None else min(height, width)
    if changed["load_size"] < min(height, width):
        raise UserError(
            f"--load_size={changed['load_size']}: smaller than the crop's shorter side {min(height, width)}; "
            "raise --load_size or lower --image_size"
        )
    return dataclasses.replace(method_recipe(method, method_config(method, values)), **changed)


def image_size(method: base.Method, values: flags.FlagValues) -> tuple[int, int]:
    """The training crop (height, width) in pixels."""
    text = values.image_size or str(method_recipe(method, method_config(method, values)).image_size)
    sides = _sides("image_size", text)
    return sides[0], sides[-1]


def fitting_size(name: str, text: str) -> int | tuple[int, int]:
    """What --resize or --crop asks for: 0 for nothing, a side, or (height, width); pixels."""
    if text in ("", "0"):
        return 0
    sides = _sides(name, text)
    return sides if len(sides) == 2 else sides[0]


def _sides(name: str, text: str) -> tuple[int, ...]:
    match = re.fullmatch(r"0*([1-9]\d{0,5})(?:x0*([1-9]\d{0,5}))?", text)
    if not match:
        raise UserError(f"--{name}={text}: not SIDE or HEIGHTxWIDTH in pixels; write for example 256 or 192x256")
    return tuple(int(side) for side in match.groups() if side)


def help_text(values: flags.FlagValues) -> str:
    """All flags by group, each with its default."""
    lines = [
        "Train, judge and use image GANs.",
        "",
        "usage: python -m tfaclgan.main --flagfile=configs/FILE.flags [--FLAG=VALUE ...]",
        "       later flags win over earlier ones; --noFLAG switches a boolean off",
    ]
    for title, names in _groups.items():
        lines += ["", f"{title}:"]
        for name in names:
            flag = values[name]
            default = "unset" if flag.default is None else "empty" if flag.default == "" else flag.default
            text = f"{flag.help} (default: {default})"
            lines.append(f"  --{name}")
            lines += textwrap.wrap(text, 96, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def flag_file(values: flags.FlagValues) -> str:
    """A flagfile with every flag of ours that differs from its default."""
    lines = []
    for names in _groups.values():
        for name in names:
            flag = values[name]
            if flag.value != flag.default:
                lines.append(flag.serialize())
    return "\n".join(lines) + "\n"
