"""`--mode=debug`: runs the data iteration of a reproduction bundle again and says where it went wrong.

From the bundle's checkpoint the run is replayed with the compiled training function (batches and draws are functions of
the step) up to the schedule's period that holds the bad step; that period runs eagerly, phase by phase, and the first
phase with a value that is not finite once more under TensorFlow's numerics checks, which stop at the first such
operation. One replica computes the whole batch, however many trained: their sums differ in the last digits.
"""

from __future__ import annotations

import dataclasses
import os
import re
import traceback
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tfaclgan.data.records import Manifest, load_manifest
from tfaclgan.engine.tensorflow import Engine, Turn
from tfaclgan.errors import UserError
from tfaclgan.methods import base
from tfaclgan.training import bundle as bundles
from tfaclgan.training import checkpoint, loop, rundir

_SHOWN = 12  # variables that are named


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found.

    step: the first data iteration in which something was not finite, or the bundle's.
    phase: where; "" if all was finite this time.
    terms: names of the phase's terms and watched values that are not finite.
    operation: type of the first operation with an output that is not finite; "" if none has.
    place: layer and line of the code that called it.
    variables: paths of weights, slots and averages that were not finite before the step.
    gradients: paths of the phase's weights whose gradient is not finite.
    """

    step: int
    phase: str = ""
    terms: tuple[str, ...] = ()
    operation: str = ""
    place: str = ""
    variables: tuple[str, ...] = ()
    gradients: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Fault:
    operation: str
    place: str


def examine(run_dir: str, data_dir: str = "", say: Callable[[str], None] = print) -> Finding:
    """Runs the step of the newest bundle in a run directory again.

    Args:
        run_dir: the run directory.
        data_dir: where its data are now; "": where they were.
        say: gets the report line by line.

    Raises:
        UserError: there is no bundle, it is damaged, or its data cannot be read.
    """
    bundle = bundles.newest(run_dir)
    try:
        method = base.get(bundle.method)
        config = base.config_of(method, bundle.config)
        run = rundir.Run(run_dir, method, config, rundir.shape_of(bundle.image_shape), {})
        settings = loop.settings_of(bundle.settings)
    except (ValueError, KeyError, TypeError) as error:
        raise bundles.damaged(bundle.path, error) from error
    say(f"{bundle.path}: step {bundle.step} was not finite: {', '.join(bundle.non_finite)}")
    say(f"pictures: {bundle.pictures}")
    if bundle.replicas > 1:
        say(f"trained on {bundle.replicas} replicas, run again on one: equal but for the last digits")
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
        tf.random.set_seed(settings.seed)
    manifest = load_manifest(data_dir or bundle.data_dir)
    finding = _examine(bundle, run, manifest, settings, say)
    for line in _report(finding):
        say(line)
    return finding


def _examine(
    bundle: bundles.Bundle, run: rundir.Run, manifest: Manifest, settings: loop.Settings, say: Callable[[str], None]
) -> Finding:
    target = bundle.step
    while True:
        engine = loop.make_engine(run, manifest, settings)
        _load(engine, bundle)
        first = int(engine.step.numpy())
        until = target // engine.period * engine.period
        if until > first:
            say(f"running steps {first} to {until - 1} again")
        earlier = _replay(engine, manifest, settings, until)
        if earlier < 0:
            break
        say(f"not finite at step {earlier} already")  # the engine's state is spoilt: once more, to there
        target = earlier
    for step in range(until, target):
        for _ in engine.turns(_tensors(_batch(bundle, manifest, settings, step)), step - until):
            pass
    broken = tuple(name for name, value in engine.state().items() if not np.all(np.isfinite(value)))
    finding = Finding(target, variables=broken)
    for turn in engine.turns(_tensors(_batch(bundle, manifest, settings, target)), target - until):
        terms = tuple(name for name, value in turn.terms.items() if not np.isfinite(value))
        gradients = {name: value for name, value in turn.gradients.items() if value is not None}
        bad = tuple(name for name, value in gradients.items() if not np.all(np.isfinite(value.numpy())))
        with np.errstate(over="ignore"):
            norm = np.sqrt(sum(np.sum(np.square(value.numpy(), dtype=np.float32)) for value in gradients.values()))
        if not terms and not bad and np.isfinite(norm):
            continue
        fault = _first_fault(turn)
        if not terms and not bad:
            name = max(gradients, key=lambda name: float(np.max(np.abs(gradients[name].numpy()))))
            largest = float(np.max(np.abs(gradients[name].numpy())))
            fault = _Fault("gradient_norm", f"finite gradients whose squares are not: up to {largest:.3g}, of {name}")
            bad = (name,)
        return dataclasses.replace(
            finding, phase=turn.phase, terms=terms, operation=fault.operation, place=fault.place, gradients=bad
        )
    return finding


def _load(engine: Engine, bundle: bundles.Bundle) -> None:
    if bundle.checkpoint is None:
        return
    path = bundle.checkpoint.path
    try:
        state = checkpoint.load(bundle.checkpoint)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: the bundle's checkpoint cannot be read ({error}); start the training again for a new one"
        ) from error
    loop.load_state(engine, state, path)


def _replay(engine: Engine, manifest: Manifest, settings: loop.Settings, until: int) -> int:
    """Trains from the engine's step up to `until`; returns the first step that was not finite, or -1."""
    step = int(engine.step.numpy())
    if step >= until:
        return -1
    batches = engine.batches(lambda: loop.without_names(loop.whole_dataset(manifest, settings, step)))
    return engine.train(batches, until - step).bad_step


def _batch(bundle: bundles.Bundle, manifest: Manifest, settings: loop.Settings, step: int) -> dict[str, np.ndarray]:
    return bundles.read_batch(bundle) if step == bundle.step else loop.whole_batch(manifest, settings, step)


def _tensors(batch: dict[str, np.ndarray]) -> dict[str, tf.Tensor]:
    return {name: tf.constant(value) for name, value in batch.items() if value.dtype != object}


def _first_fault(turn: Turn) -> _Fault:
    """The first operation of a phase with an output that is not finite."""
    filtered = keras.config.is_traceback_filtering_enabled()
    keras.config.disable_traceback_filtering()  # the frames of the layers are wanted
    tf.debugging.enable_check_numerics()
    try:
        turn.again()
    except tf.errors.InvalidArgumentError as error:
        named = re.search(r'op "(\w+)"', str(error))
        if not named:
            raise
        return _Fault(named[1], _place(error))
    finally:
        tf.debugging.disable_check_numerics()
        if filtered:
            keras.config.enable_traceback_filtering()
    return _Fault("", "")


def _place(error: BaseException) -> str:
    """The innermost layer and line of code outside of the frameworks; in the backward pass, of which operation."""
    layer = line = backward = ""
    libraries = tuple(os.path.dirname(os.path.abspath(module.__file__)) + os.sep for module in (tf, keras))
    for frame, number in traceback.walk_tb(error.__traceback__):
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.Layer):
            layer = owner.path
        if not file.startswith(libraries):
            line = f"{os.path.relpath(file) if file.startswith(os.getcwd() + os.sep) else file}:{number} ({function})"
        if file.endswith("_grad.py"):
            backward = function
        elif function == "gradient" and file.endswith("backprop.py"):
            backward, layer = "gradient", ""
    parts = [f"in the backward pass ({backward})" if backward else "in the forward pass"]
    parts += [f"layer {layer}"] if layer else []
    return ", ".join([*parts, line])


def _report(finding: Finding) -> list[str]:
    lines = [f"weights and slots that were not finite before step {finding.step}: {_names(finding.variables)}"]
    if not finding.phase:
        return [
            *lines,
            f"step {finding.step} was finite this time: what went wrong does not happen outside of the compiled step "
            "or on this device; train with --xla=off or --dtype=float32 to see",
        ]
    return [
        *lines,
        f"phase: {finding.phase}",
        f"terms that are not finite: {_names(finding.terms)}",
        f"first operation with such an output: {finding.operation or 'none'}"
        + (f", {finding.place}" if finding.place else ""),
        f"weights with such gradients: {_names(finding.gradients)}",
    ]


def _names(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}" if names else "none"
