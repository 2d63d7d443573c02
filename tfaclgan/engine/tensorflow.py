"""The TensorFlow engine: a method's phases as one compiled function over N data iterations.

Each data iteration takes the next batch and runs the phases that are due, in order. One period of
the schedule is unrolled, so which phases are due is known while tracing: an optimiser step inside
`tf.cond` fails under MirroredStrategy. On one replica a whole data iteration compiles as one XLA
program; on several, gradients compile per replica and the optimisers, which talk to the other
replicas, run outside.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfaclgan.data.batches import Batches
from tfaclgan.data.device_augment import DeviceAugmentation
from tfaclgan.engine import base, trace
from tfaclgan.engine.base import MOST_SKIPPED, REPORT_SLOTS, Report, named_variables
from tfaclgan.engine.strategy import make as make_hardware  # noqa: F401 (what `engine.current()` is asked for)
from tfaclgan.layers import target
from tfaclgan.methods.base import ImageShape, Method, Phase, Recipe
from tfaclgan.training.optimizers import CoupledAdam


class Turn(NamedTuple):
    """A phase's turn in a data iteration that is looked at (`Engine.turns`), its update still to come.

    phase: its name.
    terms: {name: value} of its terms and watched values.
    gradients: {"network/path": gradient} of what it trains; None: the loss does not depend on it.
    again: computes both once more and changes nothing.
    """

    phase: str
    terms: dict[str, float]
    gradients: dict[str, tf.Tensor | None]
    again: Callable[[], Any]


class _Context:
    """`methods.base.Context` on TensorFlow."""

    def __init__(
        self,
        seed: int,
        phase: str,
        step: tf.Tensor,
        replica: tf.Tensor,
        replicas: int,
        memory: dict[str, tf.Tensor] | None = None,
        carried: dict[str, tf.Tensor] | None = None,
    ) -> None:
        self._seed, self._phase, self.step, self._replica, self.replicas = seed, phase, step, replica, replicas
        self.memory, self.carried = memory or {}, carried or {}

    def normal(self, name: str, shape: tuple[int, ...]) -> tf.Tensor:
        radius, angle = self._draw(f"{name}/radius", shape), self._draw(f"{name}/angle", shape)
        return tf.sqrt(-2.0 * tf.math.log(radius)) * tf.cos(2.0 * math.pi * angle)  # Box-Muller

    def uniform(self, name: str, shape: tuple[int, ...]) -> tf.Tensor:
        return self._draw(name, shape)

    def replica_mean(self, value: tf.Tensor) -> tf.Tensor:
        if self.replicas == 1:
            return value
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, value)

    def _draw(self, name: str, shape: tuple[int, ...]) -> tf.Tensor:
        """Uniform in (0, 1), float32, from raw Philox bits.

        TensorFlow's float draws differ between plain kernels and XLA; its bits do not. Drawn for the
        global batch and sliced, so that one replica and many see the same numbers.
        """
        site = base.call_site(self._seed, self._phase, name)
        seed = tf.stack([tf.constant(site, tf.int32), tf.cast(self.step, tf.int32)])
        batch = int(shape[0])
        bits = tf.random.stateless_uniform(
            (batch * self.replicas, *shape[1:]), seed=seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
        )
        values = (tf.cast(tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32)), tf.float32) + 0.5) * 2.0**-23
        if self.replicas == 1:
            return values
        return tf.reshape(
            tf.slice(values, [self._replica * batch] + [0] * (len(shape) - 1), [batch, *shape[1:]]), shape
        )


class _Memory:
    """One of a method's memories: a variable [replica's batch, *shape] a replica, seen as [global batch, *shape]."""

    def __init__(self, shape: tuple[int, ...], dtype: str, strategy: tf.distribute.Strategy) -> None:
        self.shape, self._strategy, self._replicas = shape, strategy, strategy.num_replicas_in_sync
        several = {"synchronization": tf.VariableSynchronization.ON_READ} if self._replicas > 1 else {}
        self._share = shape[0] // self._replicas
        self.local = tf.Variable(tf.zeros((self._share, *shape[1:]), dtype), trainable=False, **several)
        # AutoGraph reads a function's source and cannot tell two lambdas on one line apart.
        read = self.local.read_value
        self._gather = tf.function(lambda: strategy.gather(strategy.run(read), axis=0))
        self._scatter = tf.function(lambda value: strategy.run(self._take_part, (value,)))

    def numpy(self) -> np.ndarray:
        """All replicas' parts; with several hosts, all hosts must call it together."""
        return self.local.numpy() if self._replicas == 1 else self._gather().numpy()

    def assign(self, value: np.ndarray) -> None:
        self._scatter(tf.constant(np.asarray(value), self.local.dtype))

    def _take_part(self, value: tf.Tensor) -> None:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        first = tf.cast(replica, tf.int32) * self._share
        self.local.assign(tf.reshape(value[first : first + self._share], self.local.shape))


class _ReplicaAdam(CoupledAdam):
    """`CoupledAdam` for gradients that were already summed over replicas, in TensorFlow's fused kernel.

    The kernel keeps epsilon beside the uncorrected root; given epsilon * sqrt(1 - beta_2^t) it
    computes the same update as `CoupledAdam.update_step` in one pass over memory.

    With `leaves_out`, a gradient that begins with NaN (all of it is, see `Engine._apply`) moves nothing: decays of 1
    and a rate of 0 leave variable and slots as they are, bit for bit.
    """

    leaves_out = False

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> list[tuple[Any, Any]]:
        return list(grads_and_vars)

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        index = self._get_variable_index(variable)
        momentum, velocity = (_local(slots[index].value) for slots in (self._momentums, self._velocities))
        gradient, rate = tf.cast(gradient, variable.dtype), tf.cast(learning_rate, variable.dtype)
        beta_1, beta_2, power_1, power_2, epsilon = self.once(self._of_the_kernel, variable.dtype)
        if self.leaves_out:
            kept = tf.math.is_finite(tf.reshape(gradient, [-1])[0])
            gradient = tf.where(kept, gradient, tf.zeros_like(gradient))
            rate = tf.where(kept, rate, tf.zeros_like(rate))
            beta_1, beta_2 = (tf.where(kept, beta, tf.ones_like(beta)) for beta in (beta_1, beta_2))
        if self._l2_of[index]:
            gradient = gradient + self._l2_of[index] * variable
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=momentum.handle,
            v=velocity.handle,
            beta1_power=power_1,
            beta2_power=power_2,
            lr=rate,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=epsilon,
            grad=gradient,
        )

    def _of_the_kernel(self, dtype: tf.DType) -> tuple[tf.Tensor, ...]:
        """beta_1, beta_2, beta_1^t, beta_2^t, epsilon."""
        correction_1, correction_2 = self.bias_corrections(dtype)
        betas = (tf.constant(beta, dtype) for beta in (self.beta_1, self.beta_2))
        return *betas, 1 - correction_1, 1 - correction_2, self.epsilon * tf.sqrt(correction_2)


def _local(variable: tf.Variable) -> tf.Variable:
    """This device's copy of a variable, inside `strategy.extended.update`."""
    if hasattr(variable, "_get_on_device_or_primary"):
        return variable._get_on_device_or_primary()
    return variable


class Engine(base.Engine):
    """Networks, optimisers and moving averages of one run, and the compiled training function.

    Args:
        method: the registered method.
        config: its config.
        image_shape: height, width, channels of a training image.
        recipe: training settings (flags already merged into the method's recipe).
        strategy: from `engine.strategy.make`.
        seed: of the initial weights and of every draw.
        dtype: "float32" or "bfloat16" (compute; weights, norms and losses stay float32).
        xla: compile with XLA: "auto" (on GPUs and TPUs), "on", "off".
        time_input: measure how long the loop waits for batches; TensorFlow's deterministic mode forbids clocks.
        rematerialise: compute the generators' maps twice and keep fewer of them (engine/rematerialise.py).
        augmentation: what is done to each batch inside the compiled step; None if batches are ready.
        nan_policy: "stop" at a data iteration with a term, watched value or gradient that is not finite, or "skip": the
            phase in which that is has no update on any replica, and its memory stays; after `MOST_SKIPPED` of a
            phase's turns in a row it stops.
    """

    marks_each_iteration = False

    def __init__(
        self,
        method: Method,
        config: Any,
        *,
        image_shape: ImageShape,
        recipe: Recipe,
        strategy: tf.distribute.Strategy | None = None,
        seed: int = 0,
        dtype: str = "float32",
        xla: str = "auto",
        time_input: bool = True,
        rematerialise: bool = False,
        augmentation: DeviceAugmentation | None = None,
        nan_policy: str = "stop",
    ) -> None:
        super().__init__(method, config, image_shape=image_shape, recipe=recipe, seed=seed, nan_policy=nan_policy)
        self._time_input = time_input
        self.augmentation = augmentation
        self.strategy = strategy or tf.distribute.get_strategy()
        self.replicas = self.strategy.num_replicas_in_sync
        on_cpu = not (tf.config.get_visible_devices("GPU") or tf.config.list_physical_devices("TPU"))
        self.xla = {"on": True, "off": False, "auto": not on_cpu}[xla]
        self._is_tpu = isinstance(self.strategy, tf.distribute.TPUStrategy)
        cpu = "xla cpu" if self.xla else "cpu"
        self._kind = "tpu" if self._is_tpu else cpu if on_cpu else "gpu"
        with self.strategy.scope():
            self._build(dtype, rematerialise)
            self.step = tf.Variable(
                0, dtype=tf.int64, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
            )
            if self._skips:  # turns of each phase left out in a row, and data iterations of a call with any
                self._in_a_row, self._skipped = (
                    tf.Variable(
                        tf.zeros(shape, tf.int64),
                        trainable=False,
                        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                    )
                    for shape in ([len(self.phases)], [])
                )
            self.averages = self._make_averages()
            self._memory = {
                name: _Memory((recipe.batch_size, *memory.shape), memory.dtype, self.strategy)
                for name, memory in method.memory(config, image_shape).items()
            }
        nested = self.xla and self.replicas > 1 and not self._is_tpu
        if augmentation:
            self._augment = tf.function(augmentation.apply, jit_compile=True) if nested else augmentation.apply
        self._gradient_functions = {phase.name: self._gradient_function(phase) for phase in self.phases}
        # AutoGraph has nothing to convert below the training loop; reading it all is a fifth of tracing.
        self._iteration = tf.autograph.experimental.do_not_convert(self._compiled_iteration())
        self._train = tf.function(self._train_loop)

    # -- training -----------------------------------------------------------------------------

    def train(self, iterator: Iterator[Any], steps: int) -> Report:
        """As `base.Engine.train`; of `batches`, or an iterator of a dataset."""
        self._check_steps(steps)
        if isinstance(iterator, Batches):
            iterator = iterator.iterator
        start = int(self.step.numpy())
        if self._skips:
            self._skipped.assign(0)
        with tf.profiler.experimental.Trace(base.PROFILED_STEP, step_num=start, _r=1):
            measured = (t.numpy() for t in self._train(iterator, tf.constant(steps, tf.int64)))
            sums, counts, bad_step, last, waited = measured
        skipped = int(self._skipped.numpy()) if self._skips else 0
        return self._report(sums, counts, last, int(bad_step), int(self.step.numpy()) - start, float(waited), skipped)

    def batches(self, make_dataset: Callable[[], tf.data.Dataset]) -> Iterator[Any]:
        """The iterator that `train` takes, of a dataset with one element a replica of this host."""
        if self.replicas == 1:
            return Batches(iter(make_dataset().prefetch(tf.data.AUTOTUNE)))
        return Batches(iter(self.strategy.distribute_datasets_from_function(lambda _: make_dataset())))

    def start_profile(self, folder: str) -> None:
        """As `base.Engine.start_profile`."""
        self._traced_folder, self._earlier_traces = folder, trace.written(folder)
        tf.profiler.experimental.start(folder)

    def stop_profile(self) -> None:
        """Writes what was traced."""
        tf.profiler.experimental.stop()
        for path in trace.written(self._traced_folder) - self._earlier_traces:
            trace.let_markers_be_steps(path)

    @property
    def trace_count(self) -> int:
        """How often the training function was traced; more than one after the first call is a defect."""
        return self._train.experimental_get_tracing_count()

    def _train_loop(self, iterator: Any, steps: tf.Tensor) -> tuple[tf.Tensor, ...]:
        sums = tf.zeros([len(self.phases), REPORT_SLOTS])
        counts = tf.zeros([len(self.phases)])
        last = tf.zeros([len(self.phases), REPORT_SLOTS])
        bad_step = tf.constant(-1, tf.int64)
        done = tf.constant(0, tf.int64)
        waited = tf.constant(0.0, tf.float64)
        while done < steps and bad_step < 0:
            for offset in range(self.period):
                batch, seconds = self._next_batch(iterator, after=sums)
                waited += seconds
                values = self._reduce(self.strategy.run(self._iteration, args=(batch, self.step.read_value(), offset)))
                due = tf.constant([float(offset % phase.every == 0) for phase in self.phases])
                finite = tf.reduce_all(tf.math.is_finite(values))
                if self._skips:
                    values, due, finite = self._count_skipped(values, due, finite)
                # A period that has gone wrong keeps its first bad values; its later iterations only complete it.
                healthy = bad_step < 0
                sums = tf.where(healthy, sums + values, sums)
                counts = tf.where(healthy, counts + due, counts)
                last = tf.where(healthy, values, last)
                bad_step = tf.where(tf.logical_and(healthy, tf.logical_not(finite)), self.step.read_value(), bad_step)
                self.step.assign_add(1)
                self._update_averages()
            done += self.period
        return sums, counts, bad_step, last, waited

    @tf.autograph.experimental.do_not_convert
    def _count_skipped(self, values: tf.Tensor, due: tf.Tensor, finite: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """What a data iteration reports without the phases that were left out, and whether training may go on."""
        sound = tf.reduce_all(tf.math.is_finite(values), axis=1)
        in_a_row = tf.where(sound, tf.zeros_like(self._in_a_row), self._in_a_row + 1)
        in_a_row = self._in_a_row.assign(tf.where(due > 0, in_a_row, self._in_a_row))
        self._skipped.assign_add(tf.cast(tf.logical_not(finite), tf.int64))
        enough = tf.reduce_any(in_a_row >= MOST_SKIPPED)
        # What ends the training is kept, to be named.
        values = tf.where(tf.logical_or(enough, sound[:, None]), values, tf.zeros_like(values))
        return values, due * tf.cast(sound, due.dtype), tf.logical_not(enough)

    def _next_batch(self, iterator: Any, after: tf.Tensor) -> tuple[Any, tf.Tensor]:
        """The next batch and the seconds spent waiting for it (NaN if not measured), once `after` has been computed."""
        if not self._time_input:
            return next(iterator), tf.constant(math.nan, tf.float64)
        with tf.control_dependencies([after]):
            before = tf.timestamp()
        with tf.control_dependencies([before]):
            batch = next(iterator)
        with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
            return batch, tf.timestamp() - before

    def _reduce(self, values: Any) -> tf.Tensor:
        return values if self.replicas == 1 else self.strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)

    @property
    def _compiles_whole(self) -> bool:
        """Whether a whole data iteration is one XLA program."""
        return self.replicas == 1 and self.xla and not self._is_tpu

    def _compiled_iteration(self) -> Callable[..., tf.Tensor]:
        if self._compiles_whole:
            compiled = {
                offset: tf.function(
                    lambda batch, step, offset=offset: self._replica_iteration(batch, step, offset), jit_compile=True
                )
                for offset in range(self.period)
            }
            return lambda batch, step, offset: compiled[offset](batch, step)
        return self._replica_iteration

    def _replica_iteration(self, batch: dict[str, tf.Tensor], step: tf.Tensor, offset: int) -> tf.Tensor:
        """One replica's data iteration; returns this replica's share of the report [phases, slots]."""
        batch = self._ready(batch)
        replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
        rows: list[tf.Tensor] = []
        carried: dict[str, tf.Tensor] = {}
        for phase in self.phases:
            if offset % phase.every:
                rows.append(tf.zeros([REPORT_SLOTS]))
                continue
            with tf.name_scope(phase.name):
                self._power_step(phase)
                row, gradients, memory, made = self._gradient_functions[phase.name](
                    batch, step, replica, self._remembered(), carried
                )
                carried = {**carried, **made}
                rows.append(self._apply(phase, row, gradients, memory))
        return tf.stack(rows)

    def _ready(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """A batch of the input pipeline as methods see it."""
        if self.augmentation:
            with tf.name_scope("augmentation"):
                batch = self._augment(batch)
        return {key: _to_float(key, value) for key, value in batch.items()}

    def replica_iteration(self, batch: dict[str, tf.Tensor], offset: int) -> tf.Tensor:
        """Everything one replica does in data iteration `offset` of the period but count it; for compilers."""
        values = self._replica_iteration(batch, self.step.read_value(), offset)
        self._update_averages()
        return values

    def turns(self, batch: dict[str, tf.Tensor], offset: int) -> Iterator[Turn]:
        """Data iteration `offset` of the period on one replica, eagerly, to be looked at phase by phase.

        Each turn's update is made when the next one is asked for; the iteration is counted at the end.
        """
        batch = self._ready(batch)
        carried: dict[str, tf.Tensor] = {}
        for phase in self.phases:
            if offset % phase.every:
                continue
            self._power_step(phase)
            compute = functools.partial(
                self._gradient_functions[phase.name],
                batch,
                self.step.read_value(),
                tf.constant(0),
                self._remembered(),
                carried,
            )
            row, gradients, memory, made = compute()
            names = self._term_names[phase.name][:-1]  # the gradient's norm is no part of the row yet
            paths = [f"{network}/{path}" for network, path, _ in self._trained(phase)]
            yield Turn(
                phase.name,
                {name: float(value) for name, value in zip(names, row, strict=True)},
                dict(zip(paths, gradients, strict=True)),
                compute,
            )
            carried = {**carried, **made}
            self._apply(phase, row, gradients, memory)
        self.step.assign_add(1)
        self._update_averages()

    def gradients(self, batch: Any) -> dict[str, np.ndarray]:
        """The gradients of all phases on a batch of the training iterator, at the weights as they are.

        Nothing changes: no update is made and no power iteration run. With several hosts all must call it together.

        Returns:
            {"phase/network/path": gradient, summed over replicas}, without weights that the loss does not depend on.
        """
        return {name: value.numpy() for name, value in self._gradients(batch).items()}

    @functools.cached_property
    def _gradients(self) -> Any:
        @tf.autograph.experimental.do_not_convert
        def of_replica(batch: dict[str, tf.Tensor], step: tf.Tensor) -> dict[str, tf.Tensor]:
            context = tf.distribute.get_replica_context()
            batch, replica = self._ready(batch), tf.cast(context.replica_id_in_sync_group, tf.int32)
            found: dict[str, tf.Tensor] = {}
            carried: dict[str, tf.Tensor] = {}
            for phase in self.phases:
                _, gradients, _, made = self._gradient_functions[phase.name](
                    batch, step, replica, self._remembered(), carried
                )
                carried = {**carried, **made}
                names = [f"{phase.name}/{network}/{path}" for network, path, _ in self._trained(phase)]
                found.update({n: g for n, g in zip(names, gradients, strict=True) if g is not None})
            if self.replicas == 1:
                return found
            summed = context.all_reduce(tf.distribute.ReduceOp.SUM, list(found.values()))
            return dict(zip(found, summed, strict=True))

        compiled = tf.function(of_replica, jit_compile=True) if self._compiles_whole else of_replica

        @tf.function
        def of_all(batch: Any) -> dict[str, tf.Tensor]:
            values = self.strategy.run(compiled, args=(batch, self.step.read_value()))
            return {name: self.strategy.experimental_local_results(value)[0] for name, value in values.items()}

        return of_all

    def _remembered(self) -> dict[str, tf.Tensor]:
        return {name: memory.local.read_value() for name, memory in self._memory.items()}

    def _gradient_function(self, phase: Phase) -> Callable[..., tuple[Any, ...]]:
        """A phase's (report row, gradients, new memory, tensors for later phases), on one replica."""
        variables = self._variables(phase)

        @target.compiling_for(self._kind)  # some layers have to know when they are traced
        def compute(
            batch: dict[str, tf.Tensor],
            step: tf.Tensor,
            replica: tf.Tensor,
            memory: dict[str, tf.Tensor],
            carried: dict[str, tf.Tensor],
        ) -> tuple[Any, ...]:
            context = _Context(self.seed, phase.name, step, replica, self.replicas, memory, carried)
            with tf.GradientTape() as tape:
                loss = phase.loss(self.networks, batch, context, self.config)
                terms = [tf.cast(value, tf.float32) for value in loss.terms.values()]
                total = tf.add_n(terms) / self.replicas  # gradients are summed over replicas
            gradients = tape.gradient(total, variables)
            scalars = self._scalars(phase, total * self.replicas, loss)
            row = tf.stack([tf.cast(value, tf.float32) for value in scalars.values()]) / self.replicas
            return row, gradients, dict(loss.memory), dict(loss.carry)

        nested = self.xla and self.replicas > 1 and not phase.cross_replica and not self._is_tpu
        if not nested:
            return compute

        def named(*arguments: Any) -> tuple[Any, ...]:
            with tf.name_scope(phase.name):  # the one around the call does not reach in
                return compute(*arguments)

        return tf.function(named, jit_compile=True)

    def _apply(
        self, phase: Phase, row: tf.Tensor, gradients: list[tf.Tensor | None], memory: dict[str, tf.Tensor]
    ) -> tf.Tensor:
        """A phase's update and new memory; returns its finished row of the report."""
        pairs = [(g, v) for g, v in zip(gradients, self._variables(phase), strict=True) if g is not None]
        gradients, variables = [g for g, _ in pairs], [v for _, v in pairs]
        if self.replicas > 1:
            gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(tf.cast(g, tf.float32))) for g in gradients]))
        row = tf.concat([row, [norm / self.replicas]], axis=0)
        optimizer = self.optimizers[phase.name]
        if self._skips:
            bad = tf.reduce_any(tf.logical_not(tf.math.is_finite(row)))
            if self.replicas > 1:  # a term may be bad on one replica only
                context = tf.distribute.get_replica_context()
                bad = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(bad, tf.float32)) > 0
            gradients = [tf.where(bad, tf.constant(math.nan, g.dtype), g) for g in gradients]
            memory = {name: tf.where(bad, self._memory[name].local.read_value(), new) for name, new in memory.items()}
        for name, value in memory.items():
            self._memory[name].local.assign(value)
        optimizer.apply(gradients, variables)
        if self._skips:
            optimizer.iterations.assign_sub(tf.cast(bad, optimizer.iterations.dtype))
        return tf.pad(row, [[0, REPORT_SLOTS - row.shape[0]]])

    # -- what is trained ----------------------------------------------------------------------

    def _optimizer(self, phase: Phase) -> _ReplicaAdam:
        optimizer = _ReplicaAdam(**self._optimizer_settings(phase))
        optimizer.leaves_out = self._skips
        optimizer.build(self._variables(phase))  # inside the scope, or replicas miscount
        return optimizer

    def _make_averages(self) -> dict[str, tf.Variable]:
        if not self.recipe.ema_decay:
            return {}
        averages = {}
        for name in self._averaged():
            for key, variable in named_variables(self.networks[name]).items():
                averages[f"{name}/{key}"] = tf.Variable(variable.value, trainable=False)
        return averages

    @tf.autograph.experimental.do_not_convert
    def _update_averages(self) -> None:
        if not self.averages:
            return
        with tf.name_scope("averages"):
            self._move_averages()

    def _move_averages(self) -> None:
        # Up to a share of the steps the average is a copy: the first weights are not worth remembering.
        copies = tf.cast(self.step, tf.float64) <= self.recipe.ema_start * self.recipe.steps
        share = tf.where(copies, 1.0, 1 - self.recipe.ema_decay) if self.recipe.ema_start else 1 - self.recipe.ema_decay
        for name in self._averaged():
            for key, variable in named_variables(self.networks[name]).items():
                weight = share if variable.trainable else 1.0  # statistics are copied
                self.strategy.extended.update(
                    self.averages[f"{name}/{key}"],
                    lambda average, value, weight=weight: average.assign_add(
                        (tf.cast(value, average.dtype) - average) * weight
                    ),
                    args=(variable.value,),
                    group=False,
                )


def _to_float(key: str, value: tf.Tensor) -> tf.Tensor:
    """uint8 images as float32 in [-1, 1], masks in [0, 1]; labels as they are."""
    if value.dtype != tf.uint8:
        return value
    value = tf.cast(value, tf.float32)
    return value / 255.0 if key.startswith("mask") else value / 127.5 - 1.0
