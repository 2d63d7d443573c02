"""The JAX engine: a method's phases as one compiled function a kind of data iteration, on Keras' JAX backend.

A data iteration is a pure function from the values of everything that is kept (weights, slots, averages, memories, the
step) and a batch to their next values, whose buffers it takes over. It is compiled once for each set of phases that can
be due together; calls are queued without waiting for their results, at most two at a time, so that the device never
waits for the host and the host reads a scalar only of what is long computed. A loop of N data iterations inside one
program would want all N batches on the device first, and another compilation for each N.

Several devices run it under `jax.shard_map`: each computes its share of the batch as a replica of the TensorFlow engine
does, and gradients are summed over all of them, on one host or many.
"""

from __future__ import annotations

import concurrent.futures
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.sharding import PartitionSpec

from tfaclgan.data.batches import Batches
from tfaclgan.engine import base, philox
from tfaclgan.engine.base import MOST_SKIPPED, REPORT_SLOTS, Report, named_variables
from tfaclgan.engine.jax_hardware import AXIS, Hardware, first_device
from tfaclgan.engine.jax_hardware import make as make_hardware  # noqa: F401 (what `engine.current()` is asked for)
from tfaclgan.errors import UserError
from tfaclgan.layers import target
from tfaclgan.methods.base import ImageShape, Method, Phase, Recipe
from tfaclgan.training.optimizers import CoupledAdam

Array = Any


class _Context:
    """`methods.base.Context` on JAX."""

    def __init__(
        self,
        seed: int,
        phase: str,
        step: Array,
        replica: Array,
        replicas: int,
        memory: dict[str, Array] | None = None,
        carried: dict[str, Array] | None = None,
        unroll: bool = False,
    ) -> None:
        self._unroll = unroll
        self._seed, self._phase, self.step, self._replica, self.replicas = seed, phase, step, replica, replicas
        self.memory, self.carried = memory or {}, carried or {}

    def normal(self, name: str, shape: tuple[int, ...]) -> Array:
        radius, angle = self._draw(f"{name}/radius", shape), self._draw(f"{name}/angle", shape)
        return jnp.sqrt(-2.0 * jnp.log(radius)) * jnp.cos(2.0 * math.pi * angle)  # Box-Muller

    def uniform(self, name: str, shape: tuple[int, ...]) -> Array:
        return self._draw(name, shape)

    def replica_mean(self, value: Array) -> Array:
        return value if self.replicas == 1 else jax.lax.pmean(value, AXIS)

    def _draw(self, name: str, shape: tuple[int, ...]) -> Array:
        """Uniform in (0, 1), float32, of the bits that the TensorFlow engine draws."""
        batch, rest = int(shape[0]), tuple(int(side) for side in shape[1:])
        site = base.call_site(self._seed, self._phase, name)
        bits = philox.bits(jnp.uint32(site), self.step, (batch * self.replicas, *rest), self._unroll)
        values = ((bits >> 9).astype(jnp.float32) + 0.5) * 2.0**-23
        if self.replicas == 1:
            return values
        return jax.lax.dynamic_slice_in_dim(values, self._replica * batch, batch)


class _Held:
    """A value that belongs to no layer: an average, a memory, the step."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = jnp.asarray(value)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def dtype(self) -> Any:
        return self.value.dtype

    def assign(self, value: Any) -> None:
        self.value = value if isinstance(value, jax.Array) else jnp.asarray(value, self.dtype)

    def numpy(self) -> np.ndarray:
        """All of it; with several hosts, all hosts must call it together."""
        if self.value.is_fully_addressable or self.value.is_fully_replicated:
            return np.array(self.value)
        from jax.experimental import multihost_utils

        return np.array(multihost_utils.process_allgather(self.value, tiled=True))


class _Totals(NamedTuple):
    """What a call of `train` adds up.

    sums, last: [phases, slots]; counts: [phases]; bad_step: -1 as long as all is finite.
    in_a_row: turns of each phase left out in a row [phases], kept from call to call; skipped: data iterations with any.
    """

    sums: Array
    counts: Array
    last: Array
    bad_step: Array
    in_a_row: Array
    skipped: Array


class _Finished(NamedTuple):
    """When a data iteration was computed (`time.perf_counter`), and the first that was bad up to there, or -1."""

    time: float
    bad_step: int


class Engine(base.Engine):
    """Networks, optimisers and moving averages of one run, and the compiled training function.

    Args:
        method, config, image_shape, recipe, seed, nan_policy: as of `base.Engine`.
        hardware: from `jax_hardware.make`; None is JAX's first device.
        dtype: "float32" or "bfloat16" (compute; weights, norms and losses stay float32).
        xla: "auto" or "on": JAX compiles everything with XLA.
        time_input: measure how long the loop waits for batches.
        rematerialise: compute the generators' maps twice and keep fewer of them (engine/rematerialise.py).
        augmentation: None; augmentation inside the compiled step is TensorFlow code.

    Raises:
        UserError: something that only the TensorFlow engine has.
    """

    marks_each_iteration = True

    def __init__(
        self,
        method: Method,
        config: Any,
        *,
        image_shape: ImageShape,
        recipe: Recipe,
        hardware: Hardware | None = None,
        seed: int = 0,
        dtype: str = "float32",
        xla: str = "auto",
        time_input: bool = True,
        rematerialise: bool = False,
        augmentation: Any = None,
        nan_policy: str = "stop",
    ) -> None:
        if augmentation:
            raise UserError("--augment_on=device: is there with --engine=tensorflow only; use --augment_on=host")
        if xla == "off":
            raise UserError("--xla=off: JAX computes with XLA always; leave it out, or use --engine=tensorflow")
        super().__init__(method, config, image_shape=image_shape, recipe=recipe, seed=seed, nan_policy=nan_policy)
        self._time_input = time_input
        self.hardware = hardware or first_device()
        self.replicas = self.hardware.replicas
        self._build(dtype, rematerialise)
        self.step = _Held(np.zeros((), np.int32))
        self.averages = self._make_averages()
        self._memory = {
            name: _Held(np.zeros((recipe.batch_size, *memory.shape), memory.dtype))
            for name, memory in method.memory(config, image_shape).items()
        }
        self._kept = list(self.variables().values())
        self._in_a_row = np.zeros(len(self.phases), np.int32)
        self._finished = concurrent.futures.ThreadPoolExecutor(1, "tfaclgan-finished")
        self._programs: dict[tuple[bool, ...], Callable[..., Any]] = {}
        self._traced: dict[tuple[bool, ...], int] = {}

    # -- training -----------------------------------------------------------------------------

    def train(self, iterator: Iterator[Mapping[str, Any]], steps: int) -> Report:
        """As `base.Engine.train`; batches are {name: array of this host's images}."""
        self._check_steps(steps)
        values, totals = self._values(), self._no_totals()
        start = int(self.step.numpy())
        waited, done = 0.0, 0
        earlier: concurrent.futures.Future | None = None
        newest: concurrent.futures.Future | None = None
        try:
            for number in range(steps):
                with jax.profiler.StepTraceAnnotation(base.PROFILED_STEP, step_num=start + number):
                    asked = time.perf_counter()
                    batch = self._placed_batch(next(iterator))
                    waited += _idle(newest, asked, time.perf_counter())
                    self._compile_period(values, totals, batch)
                    values, totals, bad = self._program(number % self.period)(values, totals, batch)
                    earlier, newest = newest, self._finished.submit(_wait_for, bad)
                    done += 1
                    # Two are in flight: enough to keep the device busy, and a bad one is found out soon.
                    is_bad = earlier is not None and earlier.result().bad_step >= 0
                if is_bad and done % self.period == 0:
                    break
        finally:
            for variable, value in zip(self._kept, values, strict=True):
                variable.assign(value)
        totals = _Totals(*(np.asarray(value) for value in totals))
        self._in_a_row = totals.in_a_row
        waited = waited if self._time_input else math.nan
        return self._report(
            totals.sums, totals.counts, totals.last, int(totals.bad_step), done, waited, int(totals.skipped)
        )

    def batches(self, make_dataset: Callable[[], Any]) -> Iterator[dict[str, np.ndarray]]:
        """The iterator that `train` takes, of a `tf.data` dataset of this host's batches."""
        import tensorflow as tf

        return Batches(make_dataset().prefetch(tf.data.AUTOTUNE).as_numpy_iterator())

    def start_profile(self, folder: str) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # as TensorFlow's: a step of a thousand calls hides all else
        jax.profiler.start_trace(folder, profiler_options=options)

    def stop_profile(self) -> None:
        jax.profiler.stop_trace()

    @property
    def trace_count(self) -> int:
        """How often a data iteration was traced, of the kind most often; more than one is a defect."""
        return max(self._traced.values(), default=0)

    # -- where values are -----------------------------------------------------------------------

    def _values(self) -> list[Array]:
        """Everything that is kept, on the devices."""
        shared, alike = self.hardware.sharding(AXIS), self.hardware.sharding()
        memories = {id(memory) for memory in self._memory.values()}
        return [self.hardware.place(v.value, shared if id(v) in memories else alike) for v in self._kept]

    def _no_totals(self) -> _Totals:
        return _Totals(*(self.hardware.place(value, self.hardware.sharding()) for value in self._zeros()))

    def _zeros(self) -> _Totals:
        table = np.zeros((len(self.phases), REPORT_SLOTS), np.float32)
        row, number = np.zeros(len(self.phases), np.float32), np.zeros((), np.int32)
        return _Totals(table, row, table, np.asarray(-1, np.int32), self._in_a_row, number)

    def _placed_batch(self, batch: Mapping[str, Any]) -> dict[str, Array]:
        sharding = self.hardware.sharding(AXIS)
        return {name: self.hardware.place_rows(np.asarray(value), sharding) for name, value in batch.items()}

    # -- a data iteration -----------------------------------------------------------------------

    def _due(self, offset: int) -> tuple[bool, ...]:
        """Which phases have their turn in data iteration `offset` of the period."""
        return tuple(offset % phase.every == 0 for phase in self.phases)

    def _program(self, offset: int) -> Callable[..., Any]:
        """The compiled data iteration `offset` of the period: (values, totals, batch) -> (values, totals, bad step)."""
        return self._programs[self._due(offset)]

    def _compile_period(self, values: list[Array], totals: _Totals, batch: dict[str, Array]) -> None:
        """Makes the programs of a period, at its first data iteration; they are compiled side by side."""
        if self._programs:
            return
        kinds = dict.fromkeys(self._due(offset) for offset in range(self.period))
        lowered = {due: self._jitted(due).lower(values, totals, batch) for due in kinds}
        with concurrent.futures.ThreadPoolExecutor(len(kinds)) as pool:
            compiled = pool.map(lambda program: program.compile(), lowered.values())
            self._programs = dict(zip(lowered, compiled, strict=True))

    def lowered(self, offset: int) -> Any:
        """Data iteration `offset` of the period as JAX lowers it for the hardware, which need not be there."""
        shared, alike = self.hardware.sharding(AXIS), self.hardware.sharding()
        rows = (self.recipe.batch_size, *self.image_shape)
        memories = {id(memory) for memory in self._memory.values()}

        def shape(value: Any, sharding: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)

        values = [shape(v.value, shared if id(v) in memories else alike) for v in self._kept]
        totals = _Totals(*(shape(value, alike) for value in self._zeros()))
        batch = dict.fromkeys("ab", jax.ShapeDtypeStruct(rows, np.uint8, sharding=shared))
        return self._jitted(self._due(offset)).lower(values, totals, batch)

    def _jitted(self, due: tuple[bool, ...]) -> Any:
        compute = functools.partial(self._replica_iteration, due)
        if self.replicas > 1:
            values = self._specifications()
            compute = jax.shard_map(
                compute,
                mesh=self.hardware.mesh,
                in_specs=(values, PartitionSpec(), PartitionSpec(AXIS)),
                out_specs=(values, PartitionSpec(), PartitionSpec()),
                check_vma=False,  # sums make values alike; it cannot see that they were before
            )
        return jax.jit(compute, donate_argnums=0)

    def _specifications(self) -> list[PartitionSpec]:
        memories = {id(memory) for memory in self._memory.values()}
        return [PartitionSpec(AXIS) if id(v) in memories else PartitionSpec() for v in self._kept]

    def _replica_iteration(
        self, due: tuple[bool, ...], values: list[Array], totals: _Totals, batch: dict[str, Array]
    ) -> tuple[list[Array], _Totals, Array]:
        """One replica's data iteration."""
        with target.compiling_for(self.hardware.kind):
            return self._data_iteration(due, values, totals, batch)

    def _data_iteration(
        self, due: tuple[bool, ...], values: list[Array], totals: _Totals, batch: dict[str, Array]
    ) -> tuple[list[Array], _Totals, Array]:
        self._traced[due] = self._traced.get(due, 0) + 1
        now = {id(variable): value for variable, value in zip(self._kept, values, strict=True)}
        step = now[id(self.step)]
        replica = jax.lax.axis_index(AXIS) if self.replicas > 1 else 0
        batch = {key: _to_float(key, value) for key, value in batch.items()}
        rows: list[Array] = []
        carried: dict[str, Array] = {}
        for phase, has_turn in zip(self.phases, due, strict=True):
            if not has_turn:
                rows.append(jnp.zeros(REPORT_SLOTS))
                continue
            with jax.named_scope(phase.name):
                row, made = self._turn(phase, now, batch, replica, carried)
            carried = {**carried, **made}
            rows.append(row)
        totals = self._counted(totals, self._summed(jnp.stack(rows)), jnp.asarray(due, jnp.float32), step)
        now[id(self.step)] = step + 1
        self._update_averages(now)
        return [now[id(variable)] for variable in self._kept], totals, totals.bad_step

    def _turn(
        self, phase: Phase, now: dict[int, Array], batch: dict[str, Array], replica: Array, carried: dict[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        """A phase's turn: its share of the report's row, and tensors for later phases; `now` moves on."""
        self._take(now, self._stepped_norms(phase, now))
        trained, memory = self._variables(phase), {name: now[id(held)] for name, held in self._memory.items()}
        ids = {id(variable) for variable in trained}
        others = [v for model in self.networks.values() for v in model.variables if id(v) not in ids]
        unroll, step = self.hardware.kind != "cpu", now[id(self.step)]
        context = _Context(self.seed, phase.name, step, replica, self.replicas, memory, carried, unroll)
        reached: set[int] = set()

        def objective(weights: list[Array]) -> tuple[Array, tuple[Any, ...]]:
            weights = [_noticing(number, reached)(weight) for number, weight in enumerate(weights)]
            mapping = [*zip(trained, weights, strict=True), *((v, now[id(v)]) for v in others)]
            with keras.StatelessScope(state_mapping=mapping) as scope:
                loss = phase.loss(self.networks, batch, context, self.config)
            total = sum(jnp.asarray(value, jnp.float32) for value in loss.terms.values())
            scalars = self._scalars(phase, total, loss)
            row = jnp.stack([jnp.asarray(value, jnp.float32) for value in scalars.values()]) / self.replicas
            assigned = [scope.state_mapping[id(v)] for v in others]
            return total / self.replicas, (row, dict(loss.memory), dict(loss.carry), assigned)

        found = jax.value_and_grad(objective, has_aux=True)([now[id(v)] for v in trained])
        (_, (row, new_memory, carry, assigned)), gradients = found
        self._take(now, dict(zip(map(id, others), assigned, strict=True)))
        # Weights that the loss does not depend on stay as they are, without decay: TensorFlow has no gradient for them.
        pairs = [(trained[number], self._summed(gradients[number])) for number in sorted(reached)]
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(gradient.astype(jnp.float32))) for _, gradient in pairs))
        row = jnp.concatenate([row, norm[None] / self.replicas])
        changes = self._updated(phase, now, pairs)
        changes.update({id(self._memory[name]): value for name, value in new_memory.items()})
        if self._skips:
            bad = self._summed(jnp.any(~jnp.isfinite(row)).astype(jnp.float32)) > 0  # maybe on one replica only
            changes = {key: jnp.where(bad, now[key], value) for key, value in changes.items()}
        self._take(now, changes)
        return jnp.pad(row, (0, REPORT_SLOTS - len(row))), jax.lax.stop_gradient(carry)

    def _take(self, now: dict[int, Array], changes: dict[int, Array]) -> None:
        """Moves `now` on, in the types of what is kept."""
        now.update({key: value.astype(now[key].dtype) for key, value in changes.items()})

    def _summed(self, value: Array) -> Array:
        return value if self.replicas == 1 else jax.lax.psum(value, AXIS)

    def _stepped_norms(self, phase: Phase, now: dict[int, Array]) -> dict[int, Array]:
        variables = [variable for name in phase.power_step for variable in self.networks[name].variables]
        with keras.StatelessScope(state_mapping=[(v, now[id(v)]) for v in variables]) as scope:
            self._power_step(phase)
        return {id(v): scope.get_current_value(v) for v in variables if not v.trainable}

    def _updated(self, phase: Phase, now: dict[int, Array], pairs: list[tuple[Any, Array]]) -> dict[int, Array]:
        """A phase's weights and slots after its update, constraints included."""
        optimizer = self.optimizers[phase.name]
        variables = [*(variable for variable, _ in pairs), *optimizer.variables]
        with keras.StatelessScope(state_mapping=[(v, now[id(v)]) for v in variables]) as scope:
            optimizer.apply([gradient for _, gradient in pairs], [variable for variable, _ in pairs])
        return {id(v): scope.get_current_value(v) for v in variables}

    def _counted(self, totals: _Totals, rows: Array, due: Array, step: Array) -> _Totals:
        """The totals with a data iteration's rows."""
        finite, in_a_row, skipped = jnp.all(jnp.isfinite(rows)), totals.in_a_row, totals.skipped
        if self._skips:
            sound = jnp.all(jnp.isfinite(rows), axis=1)
            in_a_row = jnp.where(due > 0, jnp.where(sound, 0, in_a_row + 1), in_a_row)
            skipped = skipped + ~finite
            enough = jnp.any(in_a_row >= MOST_SKIPPED)
            # What ends the training is kept, to be named.
            rows = jnp.where(enough | sound[:, None], rows, 0.0)
            due, finite = due * sound, ~enough
        # What comes after a bad data iteration counts no more.
        healthy = totals.bad_step < 0
        return _Totals(
            jnp.where(healthy, totals.sums + rows, totals.sums),
            jnp.where(healthy, totals.counts + due, totals.counts),
            jnp.where(healthy, rows, totals.last),
            jnp.where(healthy & ~finite, step, totals.bad_step),
            in_a_row,
            skipped,
        )

    # -- optimisers and averages ----------------------------------------------------------------

    def _optimizer(self, phase: Phase) -> CoupledAdam:
        optimizer = CoupledAdam(**self._optimizer_settings(phase))
        optimizer.build(self._variables(phase))
        return optimizer

    def _make_averages(self) -> dict[str, _Held]:
        if not self.recipe.ema_decay:
            return {}
        return {
            f"{name}/{key}": _Held(variable.numpy())
            for name in self._averaged()
            for key, variable in named_variables(self.networks[name]).items()
        }

    def _update_averages(self, now: dict[int, Array]) -> None:
        if not self.averages:
            return
        with jax.named_scope("averages"):
            self._move_averages(now)

    def _move_averages(self, now: dict[int, Array]) -> None:
        share: Any = 1 - self.recipe.ema_decay
        if self.recipe.ema_start:
            # Up to a share of the steps the average is a copy: the first weights are not worth remembering.
            copies = now[id(self.step)] <= math.floor(self.recipe.ema_start * self.recipe.steps)
            share = jnp.where(copies, 1.0, share)
        for name in self._averaged():
            for key, variable in named_variables(self.networks[name]).items():
                held = id(self.averages[f"{name}/{key}"])
                weight = share if variable.trainable else 1.0  # statistics are copied
                average = now[held]
                now[held] = average + (now[id(variable)].astype(average.dtype) - average) * weight


def _noticing(number: int, reached: set[int]) -> Callable[[Array], Array]:
    """The identity, which adds `number` to `reached` if a gradient comes through it."""

    def backward(_: None, gradient: Any) -> tuple[Any]:
        if isinstance(gradient, SymbolicZero):
            return (None,)
        reached.add(number)
        return (gradient,)

    same = jax.custom_vjp(lambda value: value)
    same.defvjp(lambda primal: (primal.value, None), backward, symbolic_zeros=True)
    return same


def _wait_for(bad: Array) -> _Finished:
    number = int(bad)
    return _Finished(time.perf_counter(), number)


def _idle(running: concurrent.futures.Future | None, asked: float, got: float) -> float:
    """Seconds between `asked` and `got` in which the device had nothing to do, `running` being its last task."""
    if running is None:
        return got - asked
    return max(0.0, got - max(asked, running.result().time)) if running.done() else 0.0


def _to_float(key: str, value: Array) -> Array:
    """uint8 images as float32 in [-1, 1], masks in [0, 1]; labels as they are."""
    if value.dtype != jnp.uint8:
        return value
    value = value.astype(jnp.float32)
    return value / 255.0 if key.startswith("mask") else value / 127.5 - 1.0
