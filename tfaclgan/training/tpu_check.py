"""`--mode=tpu_check`: what a run would be on a Cloud TPU, from the TPU's own compiler, without a TPU."""

from __future__ import annotations

import dataclasses
import functools
import gc
import sys
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfaclgan import engine as engines
from tfaclgan.data.device_augment import DeviceAugmentation
from tfaclgan.engine import tpu_compiler
from tfaclgan.engine.base import Engine, Hardware
from tfaclgan.engine.tpu_compiler import CHIPS, Chip, Compiled
from tfaclgan.errors import UserError
from tfaclgan.training.loop import Settings
from tfaclgan.training.rundir import Run

_MIB, _GIB = 2**20, 2**30
_LAYERS_SHOWN = 3
_STRAIGHT_TRIES = 4
_REDUCED = {
    True: "Sums over replicas were compiled too; the bound counts their bytes at the links' full rate, as if nothing "
    "overlapped.",
    False: "Sums of gradients over replicas were not compiled; the bound counts their size at the links' full rate, as "
    "if nothing overlapped.",
}


@dataclasses.dataclass(frozen=True)
class Iteration:
    """One kind of data iteration in the schedule's period.

    phases: those that are due; count: how many of the period's data iterations are of this kind.
    """

    phases: tuple[str, ...]
    count: int
    compiled: Compiled
    gradient_bytes: float
    reduce_seconds: float


@dataclasses.dataclass(frozen=True)
class Check:
    """A step compiled for one core of a chip, or (`whole`) for a whole slice, by kind of data iteration."""

    tpu_type: str
    replicas: int
    per_core: int
    period: int
    iterations: tuple[Iteration, ...]
    whole: bool = False

    @property
    def chip(self) -> Chip:
        return CHIPS[self.tpu_type]

    @property
    def fits(self) -> bool:
        return all(i.compiled.fits and i.compiled.needed_bytes <= self.chip.usable_bytes for i in self.iterations)

    @property
    def needed_bytes(self) -> float:
        """Of a core's memory, by the data iteration that needs most."""
        return max(i.compiled.needed_bytes for i in self.iterations)

    @property
    def fixed_bytes(self) -> float:
        """What of it hardly grows with the batch: weights and optimiser slots; 0 if it is not known."""
        return max(i.compiled.argument_bytes + i.compiled.code_bytes for i in self.iterations)

    @property
    def seconds(self) -> float:
        """The least a data iteration can take, mean over the period, sums over replicas included."""
        return self._mean(lambda compiled: max(compiled.bounds(self.chip)))

    @property
    def expected_seconds(self) -> float:
        """The same with convolutions and products as slow as the compiler estimates them."""
        return self._mean(lambda compiled: sum(compiled.expected(self.chip)))

    def _mean(self, seconds: Callable[[Compiled], float]) -> float:
        return sum(i.count * (seconds(i.compiled) + i.reduce_seconds) for i in self.iterations) / self.period

    @property
    def images(self) -> int:
        """Of each domain in a batch."""
        return self.per_core * self.replicas


def check(
    run: Run,
    settings: Settings,
    tpu_type: str,
    replicas: int,
    per_core: int,
    augmentation: DeviceAugmentation | None = None,
) -> Check:
    """Compiles every kind of data iteration at `per_core` images of each domain on a core, augmentation included.

    Raises:
        UserError: the extra is missing, or the step cannot be compiled.
    """
    chip = CHIPS[tpu_type]
    period, programs = _programs(run, settings, tpu_type, replicas, per_core, augmentation)
    gc.collect()  # a method's graphs refer to themselves
    iterations = []
    for program in programs:
        print(
            f"tfaclgan: compiling {' + '.join(program.phases)} for {tpu_type}, {per_core} a core ...", file=sys.stderr
        )
        compile_for = tpu_compiler.compile_lowered if _is_whole() else tpu_compiler.compile_hlo
        compiled = compile_for(program.lowered, chip)
        size = compiled.reduced_bytes if _is_whole() else program.gradient_bytes
        seconds = tpu_compiler.ring_seconds(size, replicas, chip)
        iterations.append(Iteration(program.phases, program.count, compiled, size, seconds))
        if not compiled.fits:
            break
    return Check(tpu_type, replicas, per_core, period, tuple(iterations), _is_whole())


@dataclasses.dataclass(frozen=True)
class _Program:
    """One kind of data iteration as the compiler takes it; phases and count as in `Iteration`."""

    phases: tuple[str, ...]
    count: int
    lowered: Any
    gradient_bytes: float


def _programs(
    run: Run,
    settings: Settings,
    tpu_type: str,
    replicas: int,
    per_core: int,
    augmentation: DeviceAugmentation | None,
) -> tuple[int, list[_Program]]:
    """The schedule's period and its kinds of data iterations.

    The engine, with gigabytes of weights and optimiser slots, goes with this function, before the compiler begins.
    """
    hardware = tpu_compiler.slice_of(CHIPS[tpu_type], replicas) if _is_whole() else None
    engine = _engine(run, settings, per_core, augmentation, hardware)
    kinds: dict[tuple[str, ...], list[int]] = {}
    for offset in range(engine.period):
        due = tuple(phase.name for phase in engine.phases if offset % phase.every == 0)
        kinds.setdefault(due, []).append(offset)
    lower = engine.lowered if _is_whole() else functools.partial(tpu_compiler.step_hlo, engine)
    return engine.period, [
        _Program(phases, len(offsets), lower(offsets[0]), tpu_compiler.gradient_bytes(engine, offsets[0]))
        for phases, offsets in kinds.items()
    ]


def _is_whole() -> bool:
    """Whether the program is that of a whole slice, as the JAX engine's is."""
    return keras.backend.backend() == "jax"


def largest_batch(
    run: Run,
    settings: Settings,
    tpu_type: str,
    replicas: int,
    start: int,
    augmentation: DeviceAugmentation | None = None,
) -> Check:
    """The check with the most images a core (a multiple of 8 from 8 on) that fits.

    A try may take an hour, so each begins where the memory of those before, by a straight line, says the limit is.

    Raises:
        UserError: as in `check`, or one image does not fit.
    """
    fitting, too_many = None, None
    needed: dict[int, float] = {}
    tried = start
    while True:
        found = check(run, settings, tpu_type, replicas, tried, augmentation)
        needed[tried] = found.needed_bytes
        print(
            f"tfaclgan: {tried} a core: {found.needed_bytes / _GIB:.2f} of {found.chip.usable_bytes / _GIB:.2f} GiB, "
            f"{'fits' if found.fits else 'does not fit'}",
            file=sys.stderr,
        )
        if found.fits:
            fitting = found
        else:
            too_many = tried
        low = fitting.per_core if fitting else 0
        if too_many == 1:
            raise UserError(
                f"--tpu_type={tpu_type}: not even one image a core fits; use a smaller --image_size or narrower "
                "networks"
            )
        if fitting and too_many and _after(low) >= too_many:
            return fitting
        if len(needed) <= _STRAIGHT_TRIES:
            tried = _where_memory_ends(needed, found.fixed_bytes, found.chip.usable_bytes)
        else:
            tried = (low + too_many) // 2 if too_many else 2 * low
        tried = max(_after(low), tried if tried < 8 else tried // 8 * 8)
        if too_many:
            tried = min(tried, too_many - 1 if too_many <= 8 else (too_many - 1) // 8 * 8)


def _after(batch: int) -> int:
    """The next larger batch that is looked at."""
    return batch + 1 if batch < 8 else (batch // 8 + 1) * 8


def _where_memory_ends(needed: dict[int, float], fixed: float, limit: float) -> int:
    """The batch at which memory reaches `limit`, on a line through the two tries nearest to it.

    needed: {batch: bytes}; with one try alone the line begins at `fixed`, the bytes that do not grow with the batch.
    """
    (near, bytes_near), *others = sorted(needed.items(), key=lambda item: abs(item[1] - limit))
    far, bytes_far = others[0] if others else (0, fixed)
    slope = (bytes_near - bytes_far) / (near - far)
    return int(near + (limit - bytes_near) / slope) if slope > 0 else 2 * near


def _engine(
    run: Run,
    settings: Settings,
    per_core: int,
    augmentation: DeviceAugmentation | None,
    hardware: Hardware | None,
) -> Engine:
    keras.utils.clear_session()
    return engines.current().Engine(
        run.method,
        run.config,
        image_shape=run.image_shape,
        recipe=dataclasses.replace(settings.recipe, batch_size=per_core * (hardware.replicas if hardware else 1)),
        seed=settings.seed,
        dtype=settings.dtype,
        xla="on",
        rematerialise=settings.rematerialise,
        augmentation=augmentation,
        nan_policy=settings.nan_policy,
        **(hardware.for_engine() if hardware else {}),
    )


def describe(run: Run, settings: Settings, found: Check) -> str:
    """The report."""
    height, width, channels = run.image_shape
    lowered = f"JAX for all {found.replicas}" if found.whole else f"TensorFlow {tf.__version__} for one core"
    lines = [
        f"{run.method.title}, {height}x{width}x{channels}, {settings.dtype}, batch {found.per_core * found.replicas} a "
        f"domain over {found.replicas} cores of {found.tpu_type}: {found.per_core} a core",
        f"Compiled with {tpu_compiler.versions()} from {lowered}; no TPU was used. "
        f"Augmentation by the {settings.data_options.augment_on}.",
        "",
    ]
    for iteration in found.iterations:
        lines += _of_iteration(found, iteration)
    if not found.fits:
        return "\n".join([*lines, "DOES NOT FIT; use a smaller --batch_size, or --find_batch to search."])
    lines += [
        f"A data iteration takes at least {1e3 * found.seconds:.1f} ms (mean over the schedule's {found.period}), so "
        f"at most {found.images / found.seconds:.0f} images of each domain a second.",
        f"With convolutions as slow as the compiler estimates them {1e3 * found.expected_seconds:.1f} ms are expected, "
        f"{found.images / found.expected_seconds:.0f} images a second.",
        _cost(found, settings.recipe.steps),
        f"{_REDUCED[found.whole]} Not compiled here: the input pipeline, evaluation. Real chips reach a part of such "
        "bounds.",
    ]
    return "\n".join(lines)


def _cost(found: Check, steps: int) -> str:
    """What the run takes; a replica is a chip on every type here."""
    least, expected = (steps * seconds / 3600 for seconds in (found.seconds, found.expected_seconds))
    return (
        f"The run's {steps:,} data iterations (--steps) take at least {least:,.1f} hours and are expected to take "
        f"{expected:,.1f}: {least * found.replicas:,.0f} and {expected * found.replicas:,.0f} chip-hours to pay."
    )


def _of_iteration(found: Check, iteration: Iteration) -> list[str]:
    chip, compiled = found.chip, iteration.compiled
    lines = [f"{' + '.join(iteration.phases)} ({iteration.count} of {found.period} data iterations)"]
    memory = f"{compiled.needed_bytes / _GIB:.2f} of {chip.usable_bytes / _GIB:.2f} GiB"
    if not compiled.fits:
        return [*lines, f"  memory        {memory}: does not fit", ""]
    compute, traffic = compiled.bounds(chip)
    products, rest = compiled.expected(chip)
    bound = "operations" if compute >= traffic else "memory traffic"
    return [
        *lines,
        f"  compiles      in {compiled.seconds:.0f} s, {compiled.code_bytes / _MIB:.0f} MiB of code",
        f"  memory        {memory}: arguments {compiled.argument_bytes / _GIB:.2f}, "
        f"temporaries {compiled.temporary_bytes / _GIB:.2f}",
        f"  work          {compiled.flops / 1e12:.3f} TFLOP, {compiled.traffic_bytes / 1e9:.2f} GB to and from memory, "
        f"{compiled.flops / max(1.0, compiled.traffic_bytes):.0f} FLOP a byte "
        f"(the chip balances at {chip.flops / chip.bandwidth:.0f})",
        f"  at least      {1e3 * max(compute, traffic):.1f} ms, bound by {bound} "
        f"(operations {1e3 * compute:.1f}, traffic {1e3 * traffic:.1f})",
        f"  expected      {1e3 * (products + rest):.1f} ms: convolutions and products {1e3 * products:.1f} by the "
        f"compiler's estimate ({_share(compute, products)} of the peak), the rest {1e3 * rest:.1f} at memory's rate",
        f"  costliest     {_costliest(compiled)}",
        f"  padding       {compiled.padding_share:.0%} of the matrix unit's work, estimated from feature dimensions",
        f"  gradients     {iteration.gradient_bytes / _MIB:.1f} MiB summed over {found.replicas} replicas"
        f"{f' by {compiled.reduces} all-reduces' if found.whole else ''}, "
        f"{1e3 * iteration.reduce_seconds:.1f} ms at the links' rate",
        "",
    ]


def _share(compute: float, products: float) -> str:
    return f"{compute / products:.0%}" if products else "not known"


def _costliest(compiled: Compiled) -> str:
    """The layers to look at first, with their shares of the compiler's estimated cycles."""
    total = sum(compiled.cycles.values())
    shown = list(compiled.cycles.items())[:_LAYERS_SHOWN]
    return ", ".join(f"{layer} {cycles / total:.1%}" for layer, cycles in shown) or "not known"
