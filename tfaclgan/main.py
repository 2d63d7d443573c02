"""`python -m tfaclgan.main`: train, judge and use a GAN; wires flags to the rooms and holds no logic.

TensorFlow is imported only once the flags are known to be good, so `--help` and mistakes answer at once.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from absl import flags

from tfaclgan import engine, errors
from tfaclgan import flags as tfaclgan_flags
from tfaclgan.data import remote
from tfaclgan.errors import UserError
from tfaclgan.methods import base

if TYPE_CHECKING:
    from tfaclgan.data.pipeline import PipelineOptions
    from tfaclgan.data.records import Manifest
    from tfaclgan.inference.translator import Translator
    from tfaclgan.training.loop import Judge
    from tfaclgan.training.rundir import Run

FLAGS = flags.FLAGS


def main(argv: list[str]) -> int:
    """The command; returns its exit code (README, "Exit codes")."""
    tfaclgan_flags.define()
    if {"--help", "-h", "-help", "--helpfull"} & set(argv[1:]):
        print(tfaclgan_flags.help_text(FLAGS))
        return errors.EXIT_OK
    return errors.run_command(lambda: _run(argv), "tfaclgan")


def _run(argv: list[str]) -> int:
    try:
        rest = FLAGS(argv)
    except (flags.Error, OSError, ValueError) as error:  # ValueError: a flagfile that is no text
        raise UserError(f"{errors.one_line(error)}; see python -m tfaclgan.main --help") from error
    if len(rest) > 1:
        raise UserError(
            f"unexpected argument {rest[1]!r}; flags are written --NAME=VALUE, see python -m tfaclgan.main --help"
        )
    _check_flags()
    engine.choose(FLAGS.engine, deterministic=FLAGS.deterministic)
    _import_tensorflow()
    if remote.is_remote(_run_dir()):
        remote.require(_run_dir(), "--run_dir")
    modes = {
        "train": _train,
        "evaluate": _evaluate,
        "translate": _translate,
        "export": _export,
        "import_weights": _import_weights,
        "tpu_check": _tpu_check,
        "debug": _debug,
    }
    return modes[FLAGS.mode]()


def _check_flags() -> None:
    """What can be refused without TensorFlow is refused at once."""
    tfaclgan_flags.check_numbers(FLAGS)
    for name in ("work_dir", "input", "output", "style_reference", "source"):
        value = FLAGS[name].value
        for path in value if isinstance(value, list) else [value]:
            if remote.is_remote(path):
                raise UserError(f"--{name}={path}: must be on this machine; copy it, or name a local path")
    if FLAGS.engine == "jax":
        _check_jax_flags()
    if FLAGS.mode == "tpu_check":
        recipe = tfaclgan_flags.recipe(base.get(FLAGS.method), FLAGS)
        if recipe.batch_size % FLAGS.tpu_cores:
            raise UserError(
                f"--batch_size={recipe.batch_size}: cannot be shared out over {FLAGS.tpu_cores} cores; "
                f"use a multiple of {FLAGS.tpu_cores}, or another --tpu_cores"
            )
        return
    if FLAGS.mode == "import_weights":
        if not FLAGS.source:
            raise UserError("--mode=import_weights needs --source, the original's weight files; see docs/weights.md")
        return
    if FLAGS.mode == "train":
        tfaclgan_flags.recipe(base.get(FLAGS.method), FLAGS)
        _profile_window()
        if FLAGS.data_service and FLAGS.on_bad_record == "skip":
            raise UserError(
                "--data_service: workers cannot pass over bad records; use --on_bad_record=stop, or leave it out"
            )
        if not FLAGS.data_dir:
            raise UserError("--data_dir is not set; make data with data_tools/make_tfrecords.py and name their folder")
    if FLAGS.mode == "translate":
        for name in ("input", "output"):
            if not FLAGS[name].value:
                raise UserError(f"--mode=translate needs --{name}; see python -m tfaclgan.main --help")
        for name in ("resize", "crop"):
            tfaclgan_flags.fitting_size(name, FLAGS[name].value)
    if FLAGS.mode == "export":
        for name in ("format", "output"):
            if not FLAGS[name].value:
                raise UserError(f"--mode=export needs --{name}; see docs/export.md")
    if remote.is_remote(_run_dir()):  # looked at once TensorFlow is there
        return
    if FLAGS.mode != "train" and not os.path.isdir(_run_dir()):
        raise UserError(
            f"--run_dir={_run_dir()}: no such folder; name the folder of a trained run, or train one with --mode=train"
        )
    if FLAGS.mode == "debug":
        from tfaclgan.training import bundle

        bundle.newest(_run_dir())


def _check_jax_flags() -> None:
    if FLAGS.mode in ("export", "debug"):
        raise UserError(
            f"--mode={FLAGS.mode} is TensorFlow's; leave out --engine=jax: run directories are the same for both"
        )
    if FLAGS.augment_on == "device":
        raise UserError("--augment_on=device: is there with --engine=tensorflow only; use --augment_on=host")
    if FLAGS.xla == "off":
        raise UserError("--xla=off: JAX computes with XLA always; leave it out, or use --engine=tensorflow")


def _run_dir() -> str:
    run_dir = FLAGS.run_dir or os.path.join("runs", FLAGS.method)
    return run_dir.rstrip("/") if remote.is_remote(run_dir) else run_dir


def _import_tensorflow() -> None:
    from tfaclgan import installation

    installation.require_tensorflow()
    from tfaclgan import quiet

    quiet.import_tensorflow(hidden_from_accelerators=FLAGS.engine != "tensorflow")


# -- train ------------------------------------------------------------------------------------


def _train() -> int:
    method = base.get(FLAGS.method)
    config = tfaclgan_flags.method_config(method, FLAGS)
    recipe = tfaclgan_flags.recipe(method, FLAGS)
    height, width = tfaclgan_flags.image_size(method, FLAGS)
    manifest = _manifest(FLAGS.data_dir)
    image_shape = (height, width, manifest.channels)
    method.check(config, image_shape)
    data_options = _data_options(height, width, recipe)
    for domain in ("trainA", "trainB"):
        manifest.split(domain)

    from tfaclgan.training import loop, rundir

    run = rundir.Run(_run_dir(), method, config, image_shape, _training_flags(recipe))
    hardware = engine.current().make_hardware(FLAGS.strategy, tpu=FLAGS.tpu, cpu_devices=FLAGS.cpu_devices)
    settings = loop.Settings(
        recipe=recipe,
        data_options=data_options,
        on_bad_record=FLAGS.on_bad_record,
        data_service=FLAGS.data_service,
        nan_policy=FLAGS.nan_policy,
        seed=FLAGS.seed,
        dtype=FLAGS.dtype,
        xla=FLAGS.xla,
        rematerialise=FLAGS.rematerialise,
        deterministic=FLAGS.deterministic,
        steps_per_loop=FLAGS.steps_per_loop,
        log_every=FLAGS.log_every_steps,
        sample_every=FLAGS.sample_every_steps,
        sample_count=FLAGS.sample_count,
        histogram_every=FLAGS.histogram_every_steps,
        embedding_every=FLAGS.embedding_every_steps,
        keep_samples=FLAGS.keep_samples,
        checkpoint_every=FLAGS.checkpoint_every_steps,
        keep_checkpoints=FLAGS.keep_checkpoints,
        keep_every=FLAGS.keep_every_steps,
        async_save=FLAGS.async_save,
        cloud_notices={"google": True, "none": False, "auto": hardware.kind == "tpu"}[FLAGS.preemption_notice],
        eval_every=FLAGS.eval_every_steps,
        profile=_profile_window(),
        work_dir=FLAGS.work_dir,
        flag_text=tfaclgan_flags.flag_file(FLAGS),
    )
    loop.check_batch(recipe.batch_size, hardware)
    if FLAGS.deterministic:
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
        tf.random.set_seed(FLAGS.seed)  # required by that switch; no draw of ours depends on it
    if FLAGS.dry_run:
        from tfaclgan.training import dry_run

        print(dry_run.describe(run, manifest, hardware, settings))
        return errors.EXIT_OK
    if FLAGS.data_service:
        from tfaclgan.data import service

        service.check(FLAGS.data_service)
    if settings.eval_every and FLAGS.extractor != "none":
        from tfaclgan.metrics import features

        features.get_extractor(FLAGS.extractor)  # a missing extractor should not be found out after an hour
    return loop.train(run, manifest, hardware, settings, _judge(run, manifest, data_options))


def _data_options(height: int, width: int, recipe: base.Recipe) -> PipelineOptions:
    from tfaclgan.data.pipeline import PipelineOptions

    return PipelineOptions(
        height=height,
        width=width,
        load_size=recipe.load_size,
        augment=recipe.augment,
        augment_on=FLAGS.augment_on,
        augment_until_step=FLAGS.augment_until_step,
        seed=FLAGS.seed,
        cache_mb=FLAGS.cache_mb,
        parallel_calls=FLAGS.parallel_calls,
        match_histograms=FLAGS.match_histograms,
        blurred_copies=FLAGS.blurred_copies,
    )


def _training_flags(recipe: base.Recipe) -> dict[str, object]:
    """What run.json remembers besides the networks, to tell a later start what it changed."""
    values: dict[str, object] = {name: getattr(recipe, name) for name in tfaclgan_flags.RECIPE_FIELDS}
    values.update({name: FLAGS[name].value for name in ("seed", "dtype", "augment_until_step")})
    values["load_size"] = recipe.load_size
    values["data_dir"] = FLAGS.data_dir and remote.absolute(FLAGS.data_dir)
    return values


def _profile_window() -> tuple[int, int] | None:
    text = FLAGS.profile_steps
    if not text:
        return None
    try:
        first, last = (int(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--profile_steps={text}: not FIRST,LAST; write for example 10,15") from error
    if not 0 <= first <= last:
        raise UserError(f"--profile_steps={text}: FIRST must not be negative nor above LAST; write for example 10,15")
    return first, last


# -- debug ------------------------------------------------------------------------------------


def _debug() -> int:
    from tfaclgan.training import debug

    finding = debug.examine(_run_dir(), FLAGS.data_dir)
    return errors.EXIT_NON_FINITE if finding.phase else errors.EXIT_OK


# -- tpu_check --------------------------------------------------------------------------------


def _tpu_check() -> int:
    from tfaclgan.engine import tpu_compiler

    tpu_compiler.prepare(tpu_compiler.CHIPS[FLAGS.tpu_type])
    from tfaclgan.data import pipeline
    from tfaclgan.training import loop, rundir, tpu_check

    method = base.get(FLAGS.method)
    config, recipe = tfaclgan_flags.method_config(method, FLAGS), tfaclgan_flags.recipe(method, FLAGS)
    height, width = tfaclgan_flags.image_size(method, FLAGS)
    # The data need not be there: a missing folder means colour pictures.
    from tfaclgan.data import files

    there = FLAGS.data_dir and files.is_there(os.path.join(FLAGS.data_dir, "dataset.json"))
    manifest = _manifest(FLAGS.data_dir) if there else None
    image_shape = (height, width, manifest.channels if manifest else 3)
    method.check(config, image_shape)
    run = rundir.Run(_run_dir(), method, config, image_shape, {})
    settings = loop.Settings(
        recipe,
        _data_options(height, width, recipe),
        nan_policy=FLAGS.nan_policy,
        seed=FLAGS.seed,
        dtype=FLAGS.dtype,
        rematerialise=FLAGS.rematerialise,
    )
    per_core = recipe.batch_size // FLAGS.tpu_cores
    look = tpu_check.largest_batch if FLAGS.find_batch else tpu_check.check
    augmentation = pipeline.device_augmentation(settings.data_options, image_shape[-1], manifest)
    found = look(run, settings, FLAGS.tpu_type, FLAGS.tpu_cores, per_core, augmentation)
    print(tpu_check.describe(run, settings, found))
    return errors.EXIT_OK if found.fits else errors.EXIT_USER_ERROR


# -- import_weights ---------------------------------------------------------------------------


def _import_weights() -> int:
    from tfaclgan.importing import importer, originals
    from tfaclgan.training import rundir

    method = base.get(FLAGS.method)
    prefix = f"{method.name}."
    given = {name.removeprefix(prefix) for name in FLAGS if name.startswith(prefix) and FLAGS[name].present}
    sides = tfaclgan_flags.image_size(method, FLAGS) if FLAGS.image_size else None
    importer.check_target(_run_dir())
    found = originals.find(method.name, FLAGS.source, tfaclgan_flags.method_config(method, FLAGS), given, sides)
    source = FLAGS.source
    # From here on the flags are those of a training that goes on with these weights.
    for name, value in found.decided.items():
        FLAGS[prefix + name].value = value
    if found.sides:
        FLAGS.image_size = "x".join(str(side) for side in found.sides)
    FLAGS.mode, FLAGS.source, FLAGS.run_dir = "train", [], _run_dir()
    recipe = tfaclgan_flags.recipe(method, FLAGS)
    image_shape = (*tfaclgan_flags.image_size(method, FLAGS), found.channels)
    run = rundir.Run(_run_dir(), method, found.config, image_shape, _training_flags(recipe))
    for line in importer.write(found, run, recipe, seed=FLAGS.seed, flag_text=tfaclgan_flags.flag_file(FLAGS)):
        print(line)
    print(f"written: {run.path} from {', '.join(source)}")
    return errors.EXIT_OK


# -- evaluate, translate, export --------------------------------------------------------------


def _evaluate() -> int:
    from tfaclgan.metrics import evaluate

    translator = _load_translator()
    run = translator.run
    manifest = _manifest(FLAGS.data_dir or str(run.flags["data_dir"]))
    height, width, _ = run.image_shape
    options = _data_options(height, width, _recipe_of(run))
    for direction in [FLAGS.direction] if FLAGS.direction else list(translator.directions):
        result = _judge(run, manifest, options, direction)(translator)
        print(evaluate.format_table(result))
        folder = os.path.join(run.folder("evaluations"), f"{FLAGS.checkpoint}_{direction}")
        print(f"written: {evaluate.write_result(result, folder)}")
    return errors.EXIT_OK


def _recipe_of(run: Run) -> base.Recipe:
    import dataclasses

    return dataclasses.replace(run.method.recipe, load_size=int(str(run.flags["load_size"])), augment="none")


def _judge(run: Run, manifest: Manifest, options: PipelineOptions, direction: str = "") -> Judge:
    def judge(translator: Translator) -> dict[str, object]:
        from tfaclgan.metrics import evaluate

        asked = direction or FLAGS.direction or translator.directions[0]
        return evaluate.evaluate(
            lambda images, seed: translator.translate(images, direction=asked, seed=seed),
            manifest,
            options,
            direction=asked,
            extractor=FLAGS.extractor,
            styles=FLAGS.styles,
            seed=FLAGS.seed,
            max_images=FLAGS.max_images,
            reference_split=FLAGS.reference_split,
            published_kid=FLAGS.published_kid,
            cache_dir=FLAGS.stats_cache or os.path.join(manifest.folder, ".metrics"),
            say=lambda text: print(text, file=sys.stderr),
        )

    return judge


def _translate() -> int:
    from tfaclgan.inference import folders

    translator = _load_translator()
    return folders.translate_folder(
        translator,
        FLAGS.input,
        FLAGS.output,
        direction=FLAGS.direction or translator.directions[0],
        styles=FLAGS.styles,
        style_reference=FLAGS.style_reference or None,
        seed=FLAGS.seed,
        save_mask=FLAGS.save_mask,
        save_panels=FLAGS.save_panels,
        save_raw=FLAGS.save_raw,
        resize=tfaclgan_flags.fitting_size("resize", FLAGS.resize),
        crop=tfaclgan_flags.fitting_size("crop", FLAGS.crop),
        resample=FLAGS.resample,
        overwrite=FLAGS.overwrite,
        stretch=FLAGS.stretch,
        style_scale=FLAGS.style_scale,
    ).exit_code


def _export() -> int:
    from tfaclgan.data import files
    from tfaclgan.inference import export, export_data

    export.check_target(FLAGS.output)
    translator = _load_translator()
    options = export.Options(
        format=FLAGS.format,
        direction=translator.resolve_direction(FLAGS.direction),
        shape=export.resolve_shape(translator, FLAGS.format, FLAGS.export_batch, FLAGS.export_size),
        pixels=FLAGS.export_pixels,
        precision=FLAGS.precision,
        mask=FLAGS.save_mask,
        largest=FLAGS.max_difference,
        seed=FLAGS.seed,
    )
    export.check(translator, options)
    data_dir = FLAGS.data_dir or str(translator.run.flags.get("data_dir", ""))
    there = FLAGS.data_dir or (data_dir and files.is_there(os.path.join(data_dir, "dataset.json")))
    pictures = export_data.read(
        translator.run, _manifest(data_dir) if there else None, options, FLAGS.calibration_images
    )
    for line in export.export(translator, FLAGS.output, options, pictures):
        print(line)
    print(f"written: {FLAGS.output}")
    return errors.EXIT_OK


def _load_translator() -> Translator:
    import tfaclgan

    return tfaclgan.load(_run_dir(), checkpoint=FLAGS.checkpoint)


def _manifest(data_dir: str) -> Manifest:
    from tfaclgan.data.records import load_manifest

    if remote.is_remote(data_dir):
        remote.require(data_dir, "--data_dir")
    with remote.errors_of(data_dir):
        manifest = load_manifest(data_dir)
    if FLAGS.verify_data:
        import time

        from tfaclgan.data import verify

        started = time.monotonic()
        size = verify.check_hashes(manifest)
        took = time.monotonic() - started
        print(f"tfaclgan: {data_dir}: SHA-256 of {size / 2**20:.1f} MiB checked in {took:.1f} s", file=sys.stderr)
    return manifest


def entry_point() -> None:
    """The `tfaclgan` console command."""
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    entry_point()
