"""The outer loop: from a run directory and data to trained weights.

The inner loop is `Engine.train`, one compiled call of up to `steps_per_loop` data iterations; this
one knows steps, files, intervals and signals. A loop ends exactly at every interval's multiple.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfaclgan import engine as engines
from tfaclgan.data import files, pipeline, reading, remote
from tfaclgan.data.files import printable
from tfaclgan.data.records import Manifest
from tfaclgan.engine.base import MOST_SKIPPED, Engine, Hardware, Report, build_networks
from tfaclgan.errors import EXIT_NON_FINITE, EXIT_OK, EXIT_PREEMPTED, LostHostError, UserError
from tfaclgan.methods.base import Recipe
from tfaclgan.training import bundle, checkpoint, projector, rundir, samples
from tfaclgan.training.mirror import Mirror, NoMirror, working_copy
from tfaclgan.training.monitor import Monitor, SilentMonitor, is_evaluated
from tfaclgan.training.preemption import StopRequest, cloud_notices
from tfaclgan.training.watch import Watch

if TYPE_CHECKING:
    from tfaclgan.inference.translator import Translator


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a run is trained; intervals in data iterations, 0 where something is switched off."""

    recipe: Recipe
    data_options: pipeline.PipelineOptions
    on_bad_record: str = "stop"  # or "skip"
    data_service: str = ""  # grpc://HOST:PORT; "": this host makes its batches
    nan_policy: str = "stop"  # or "skip"
    seed: int = 0
    dtype: str = "float32"
    xla: str = "auto"
    rematerialise: bool = False
    deterministic: bool = False
    steps_per_loop: int = 50
    log_every: int = 100
    sample_every: int = 1000
    sample_count: int = 8
    histogram_every: int = 0
    embedding_every: int = 0
    keep_samples: int = 0  # newest sample sheets and histograms that stay; 0: all
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    keep_every: int = 0
    async_save: bool = False
    cloud_notices: bool = False  # ask Google Cloud's metadata server
    eval_every: int = 0
    profile: tuple[int, int] | None = None
    flag_text: str = ""
    work_dir: str = ""  # of working copies of remote run directories; "": in the user's cache


# What a checkpoint holds of the loop: values and steps of each call since the last log line, and iterations skipped.
_SUMS, _SKIPPED = "loop/sums/", "loop/skipped_iterations"

# Judges a translator on the run's data: {"metrics": {"kid": ...}, ...}; see metrics.evaluate.
Judge = Callable[["Translator"], dict[str, Any]]


def train(
    run: rundir.Run, manifest: Manifest, hardware: Hardware, settings: Settings, judge: Judge | None = None
) -> int:
    """Trains `run` to `settings.recipe.steps` data iterations; returns the process's exit code.

    EXIT_OK when the last step is reached, EXIT_PREEMPTED after SIGTERM or SIGINT (saved),
    EXIT_NON_FINITE when a loss, a watched value or a gradient was not finite (nothing is saved then;
    the last checkpoint is good).

    Raises:
        UserError: the directory is another run's or in use, the data cannot be read, ...
    """
    if not hardware.is_chief:  # the first host keeps the run directory; the others only read checkpoints in it
        with _other_hosts_named(hardware):
            _wait_for_all(run, hardware)
            return _Session(run, manifest, hardware, settings, judge, NoMirror()).run_to_the_end()
    mirror: Mirror | NoMirror = NoMirror()
    if remote.is_remote(run.path):
        rundir.compare(run)  # before anything is fetched
        run = dataclasses.replace(run, path=working_copy(run.path, settings.work_dir), remote=run.path)
        mirror = Mirror(run.remote, run.path)
    held = rundir.lock(run.path, run.name)  # released when this process ends or leaves this function
    try:
        mirror.fetch()
        changes = rundir.open_run(run)
        rundir.sweep(run.path)
        mirror.claim()
        for line in changes:
            print(f"tfaclgan: differs from the last start: {line}", file=sys.stderr)
        with _other_hosts_named(hardware):
            _wait_for_all(run, hardware)
            return _Session(run, manifest, hardware, settings, judge, mirror).run_to_the_end()
    finally:
        held.close()


def _wait_for_all(run: rundir.Run, hardware: Hardware) -> None:
    """Lets host 0 send what an earlier start could not, before the others read a remote run directory."""
    if hardware.hosts > 1 and remote.is_remote(run.name):
        hardware.sum_over_replicas(0)


@contextlib.contextmanager
def _other_hosts_named(hardware: Hardware) -> Iterator[None]:
    """Turns a collective that fails because a host has gone into one line."""
    try:
        yield
    except Exception as error:
        if hardware.hosts == 1 or not hardware.means_a_lost_host(error):
            raise
        raise LostHostError(
            f"host {hardware.host}: another host no longer answers; see what it printed, then start all hosts again: "
            "training goes on from the last checkpoint"
        ) from error


class _Session:
    """One process's part of a run."""

    def __init__(
        self,
        run: rundir.Run,
        manifest: Manifest,
        hardware: Hardware,
        settings: Settings,
        judge: Judge | None,
        mirror: Mirror | NoMirror,
    ) -> None:
        self._run, self._manifest, self._hardware, self._settings, self._judge = (
            run,
            manifest,
            hardware,
            settings,
            judge,
        )
        self._mirror = mirror
        recipe = settings.recipe
        self._engine = make_engine(run, manifest, settings, hardware)
        period = self._engine.period
        self._total = _round_up(recipe.steps, period)
        self._intervals = {
            "log": settings.log_every,
            "sample": settings.sample_every,
            "histogram": settings.histogram_every,
            "embedding": settings.embedding_every,
            "checkpoint": settings.checkpoint_every,
            "keep": settings.keep_every,
            "eval": settings.eval_every,
        }
        self._intervals = {name: _round_up(value, period) for name, value in self._intervals.items()}
        self._sums: dict[str, list[tuple[float, int]]] = {}
        self._skipped = 0  # data iterations since the last log line
        self._step = self._saved_step = self._restore()
        self._bad_records = reading.BadRecords() if settings.on_bad_record == "skip" else None
        self._translator: Translator | None = None
        self._profiling = False
        self._profiled = _rounded_out(settings.profile, period) if settings.profile else (0, 0)

    # -- the loop -----------------------------------------------------------------------------

    def run_to_the_end(self) -> int:
        run, settings, hardware = self._run, self._settings, self._hardware
        if hardware.kind == "cpu":
            print("tfaclgan: warning: training on the CPU only; no GPU or TPU is used", file=sys.stderr)
        owes_evaluation = self._owes_evaluation()
        if self._step >= self._total and not owes_evaluation:
            print(f"tfaclgan: {run.name}: already trained to step {self._step} of {self._total}", file=sys.stderr)
            return EXIT_OK
        self._monitor: Monitor | SilentMonitor = SilentMonitor()
        if hardware.is_chief:
            rundir.write_flags(run, settings.flag_text)
            rundir.record_start(run, hardware.description, rundir.data_fingerprint(self._manifest.folder), self._step)
            self._monitor = Monitor(
                run.path,
                step=self._step,
                total_steps=self._total,
                batch_size=settings.recipe.batch_size,
                replicas=hardware.replicas,
                keep=settings.keep_samples,
            )
        self._saver = checkpoint.Saver(
            run.folder("checkpoints"),
            keep=settings.keep_checkpoints,
            keep_every=self._intervals["keep"],
            background=settings.async_save,
            before=self._before_save,
            after=self._mirror.send,
        )
        self._monitor.say(
            f"{run.method.title} on {hardware.description}: steps {self._step} to {self._total}, "
            f"batch {settings.recipe.batch_size} a domain, {settings.dtype}, run directory {run.name}"
            + (f", worked on in {run.path}" if run.remote else "")
        )
        self._watch = Watch(self._monitor.say, self._monitor.write, on_cpu=hardware.kind == "cpu")
        for line in self._monitor.lines():
            self._watch.remember(line)
        if self._watch.standing:
            self._monitor.say(f"tfaclgan: warnings that still stand: {', '.join(self._watch.standing)}")
        try:
            notices = cloud_notices if settings.cloud_notices else contextlib.nullcontext
            with StopRequest() as stop, notices(stop):
                if owes_evaluation:
                    self._evaluate()
                return self._loop(stop)
        finally:
            self._stop_profile()
            with contextlib.suppress(Exception):  # only if the block failed itself: else all is saved by now
                self._saver.wait()
            self._monitor.close()

    def _loop(self, stop: StopRequest) -> int:
        iterator = self._iterator(self._step, self._settings.data_service)
        if self._step == 0:
            self._sample()
        first, reason = True, None
        while self._step < self._total:
            self._saver.check()
            self._start_profile()
            steps = self._steps_until_next_event()
            started = time.perf_counter()
            report = self._train(iterator, steps)
            seconds = time.perf_counter() - started
            self._step += report.steps
            if report.bad_step >= 0:
                return self._non_finite(report)
            self._collect(report)
            if first:  # tracing and compiling would spoil the throughput: told apart
                self._monitor.write(self._step, {"time/compile_secs": seconds})
                first = False
            else:
                self._monitor.add_time(report.steps, seconds, report.input_wait_secs)
            self._after_loop(self._reason_to_stop(stop))
            reason = self._reason_to_stop(stop)  # a signal may have come while samples were drawn
            if reason and self._step < self._total:
                self._save()
                self._saver.wait()
                self._mirror.finish(self._step)
                self._monitor.say(f"{reason}: saved at step {self._step}; start the same command again to go on")
                return EXIT_PREEMPTED
        self._saver.wait()
        self._mirror.finish(self._step)
        self._monitor.say(f"trained to step {self._step}")
        if reason and self._owes_evaluation():
            self._monitor.say(f"{reason}: start the same command again for the evaluation of step {self._step}")
            return EXIT_PREEMPTED
        return EXIT_OK

    def _train(self, iterator: Any, steps: int) -> Report:
        try:
            return self._engine.train(iterator, steps)
        except tf.errors.OpError as error:
            explained = reading.explain(error, self._manifest)
            if explained is None:
                raise
            raise explained from error

    def _reason_to_stop(self, stop: StopRequest) -> str | None:
        """Why all hosts stop now; a signal may have reached one of them only."""
        reason = stop.reason
        if self._hardware.hosts > 1 and self._hardware.sum_over_replicas(int(bool(reason))):
            return reason or "another host was told to stop"
        return reason

    def _after_loop(self, reason: str | None) -> None:
        last = self._step >= self._total
        if self._due("log") or last:
            self._log()
        if self._due("histogram"):
            self._histograms()
        if self._due("sample") or (last and self._intervals["sample"]):
            self._sample()
        if self._due("embedding") or (last and self._intervals["embedding"]):
            self._embed()
        if self._due("checkpoint") or self._due("keep") or last:
            self._save()
        if not reason and (self._due("eval") or (last and self._intervals["eval"])):
            self._evaluate()

    def _steps_until_next_event(self) -> int:
        limits = [_round_up(self._settings.steps_per_loop, self._engine.period), self._total - self._step]
        limits += [interval - self._step % interval for interval in self._intervals.values() if interval]
        first, end = self._profiled
        limits += [edge - self._step for edge in (first, end) if edge > self._step]
        if first <= self._step < end and not self._engine.marks_each_iteration:
            limits.append(self._engine.period)
        return min(limits)

    def _due(self, name: str) -> bool:
        interval = self._intervals[name]
        return bool(interval) and self._step % interval == 0

    def _iterator(self, first_step: int, service: str = "") -> Any:
        """The batches from `first_step` on, as the engine takes them."""
        return self._engine.batches(lambda: without_names(self._dataset(first_step, service)))

    def _dataset(self, first_step: int, service: str) -> tf.data.Dataset:
        """This host's batches from `first_step` on, in the parts that the engine takes."""
        hardware = self._hardware
        return pipeline.training_dataset(
            self._manifest,
            self._settings.data_options,
            global_batch=self._settings.recipe.batch_size,
            first_step=first_step,
            host=hardware.host,
            hosts=hardware.hosts,
            replicas_per_host=hardware.feeds_per_host,
            bad_records=self._bad_records,
            service=service,
        )

    # -- what happens between loops -----------------------------------------------------------

    def _collect(self, report: Report) -> None:
        self._skipped += report.skipped
        for name, value in report.scalars.items():
            self._sums.setdefault(name, []).append((value, report.steps))

    def _log(self) -> None:
        scalars = {
            name: float(np.average([v for v, _ in values], weights=[n for _, n in values]))
            for name, values in self._sums.items()
        }
        self._sums.clear()
        scalars.update({f"learning_rate/{name}": rate for name, rate in self._engine.learning_rates().items()})
        scalars.update({f"weight_norm/{name}": norm for name, norm in self._engine.weight_norms().items()})
        if self._bad_records is not None:
            scalars["data/bad_records"] = float(self._bad_records.count)
        if self._settings.nan_policy == "skip":
            scalars["training/skipped_iterations"] = float(self._skipped)
            self._skipped = 0
        input_wait = self._monitor.log(self._step, scalars)
        if self._hardware.is_chief:
            self._watch.logged(self._step, scalars)
            self._watch.waited(self._step, input_wait)

    def _save(self) -> None:
        if self._step == self._saved_step:
            return
        self._saved_step = self._step
        state = self._engine.state()  # all hosts: what is kept a replica is gathered
        if self._hardware.is_chief:
            self._saver.save({**state, **self._unlogged()}, self._step)

    def _before_save(self) -> None:
        self._monitor.sync()  # what was logged up to a checkpoint is not logged again
        self._mirror.begin()

    def _unlogged(self) -> dict[str, np.ndarray]:
        """What the next log line needs of the calls up to now; nothing where one was just written."""
        kept = {_SUMS + name: np.array(values, np.float64) for name, values in self._sums.items()}
        return {**kept, _SKIPPED: np.int64(self._skipped)} if self._skipped else kept

    def _restore(self) -> int:
        loaded = checkpoint.load_newest(self._run.folder("checkpoints"))
        self._check_hosts_agree(loaded[0].step if loaded else 0)
        if loaded is None:
            return 0
        found, state = loaded
        load_state(self._engine, state, found.path)
        for name, values in state.items():
            if name.startswith(_SUMS):
                self._sums[name.removeprefix(_SUMS)] = [(float(value), int(steps)) for value, steps in values]
        self._skipped = int(state.get(_SKIPPED, 0))
        if self._hardware.is_chief:
            checkpoint.set_aside(self._run.folder("checkpoints"), found.step)
        return found.step

    def _check_hosts_agree(self, step: int) -> None:
        hardware = self._hardware
        if hardware.hosts > 1 and hardware.sum_over_replicas(step) != step * hardware.replicas:
            raise UserError(
                f"--run_dir={self._run.name}: host {hardware.host} finds step {step} there and other hosts another; "
                "name a folder on storage that all hosts share"
            )

    def _translate(self) -> Translator:
        """A translator with the current weights (averages where there are any)."""
        if self._translator is None:
            from tfaclgan.inference.translator import Translator

            self._translator = Translator(
                self._run, build_networks(self._run.method, self._run.config, self._run.image_shape)
            )
        self._engine.copy_for_inference(self._translator.networks)
        return self._translator

    def _sample(self) -> None:
        if not self._intervals["sample"] or not self._hardware.is_chief:
            return
        translator, sheets = self._translate(), {}
        for direction in translator.directions:
            split = f"test{direction[0].upper()}"
            if split not in self._manifest.splits or not self._manifest.splits[split].count:
                split = f"train{direction[0].upper()}"
            images = pipeline.read_images(
                self._manifest, split, self._settings.sample_count, self._settings.data_options, self._bad_records
            )
            sample = samples.draw(translator, images, direction)
            folder = self._run.folder("samples")
            samples.write_png(os.path.join(folder, f"{direction}_{self._step:09d}.png"), sample.sheet)
            samples.keep_newest(folder, direction, self._settings.keep_samples)
            sheets[f"samples/{direction}"] = sample.sheet
            if self._step:  # initial weights may give anything
                self._watch.sampled(self._step, direction, images, sample.outputs, sample.mask)
        self._monitor.images(self._step, sheets)

    def _histograms(self) -> None:
        """Weights as they are, and their gradients on the run's first batch; all hosts take part."""
        gradients = self._engine.gradients(self._first_batch)
        if self._hardware.is_chief:
            weights = self._engine.weights()
            self._monitor.histograms(
                self._step,
                {
                    **{f"networks/{name}": value for name, value in weights.items()},
                    **{f"gradients/{name}": value for name, value in gradients.items()},
                },
            )

    @functools.cached_property
    def _first_batch(self) -> Any:
        """Kept, because TensorFlow never gives back all of a pipeline; the same after a resume."""
        return next(self._iterator(0))

    def _embed(self) -> None:
        if self._hardware.is_chief:
            projector.write(self._translate(), self._manifest, self._settings.data_options, self._step)

    def _owes_evaluation(self) -> bool:
        """Whether the step that the run goes on from is to be evaluated yet: a signal or a kill came between."""
        if not self._step or self._judge is None or not self._intervals["eval"]:
            return False
        owed = 0
        if self._hardware.is_chief and (self._due("eval") or self._step >= self._total):
            owed = not is_evaluated(self._run.path, self._step)
        return bool(self._hardware.sum_over_replicas(int(owed)))

    def _evaluate(self) -> None:
        if self._judge is None:
            return
        # All hosts gather what is kept a replica (see `_save`); one alone reads its weights only if they are the best.
        state = self._engine.state() if self._hardware.hosts > 1 else None
        if not self._hardware.is_chief:
            return
        from tfaclgan.metrics import evaluate

        self._saver.wait()  # a save that is being sent reads what changes here
        started = time.perf_counter()
        result = self._judge(self._translate())
        result["step"] = self._step
        folder = os.path.join(self._run.folder("evaluations"), f"step_{self._step:09d}")
        files.make_folder(folder)
        files.flush(evaluate.write_result(result, folder))
        files.flush(folder)
        metrics = {name: value for name, value in result["metrics"].items() if value is not None}
        self._keep_best(metrics.get("kid"), state)
        # The line in the log comes last: an evaluation without one is made again.
        self._monitor.write(self._step, {f"evaluation/{name}": value for name, value in metrics.items()})
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self._monitor.say(f"evaluation at step {self._step} ({time.perf_counter() - started:.0f} s): {shown}")
        self._mirror.send()

    def _keep_best(self, metric: float | None, state: dict[str, np.ndarray] | None) -> None:
        if metric is None:
            return
        folder = self._run.folder("best")
        before = checkpoint.find(folder)
        if not before or before[0].metric is None or metric < before[0].metric:
            checkpoint.save(folder, state or self._engine.state(), self._step, metric=metric)
            for old in before:
                if old.step != self._step:
                    checkpoint.remove(old)

    def _non_finite(self, report: Report) -> int:
        self._monitor.write(self._step, report.scalars)
        if not self._hardware.is_chief:
            return EXIT_NON_FINITE
        with contextlib.suppress(OSError):  # told by the next start; what went wrong in training comes first
            self._saver.wait()
        found = checkpoint.find(self._run.folder("checkpoints"))
        good = found[0] if found else None
        kept = (
            f"the last good checkpoint is {self._run.shown(good.path)}"
            if good
            else "no checkpoint had been written yet"
        )
        batch = whole_batch(self._manifest, self._settings, report.bad_step, self._bad_records)
        pictures = _pictures(batch)
        again = f" {MOST_SKIPPED} times in a row" if self._settings.nan_policy == "skip" else ""
        self._monitor.say(
            f"tfaclgan: error: step {report.bad_step}: not finite{again}: {', '.join(report.non_finite)}; training "
            f"stopped and nothing was saved; {kept}; lower --learning_rate or use --dtype=float32; "
            f"pictures of that step: {pictures}"
        )
        try:
            path = bundle.write(
                self._run,
                report.bad_step,
                {name: value for name, value in batch.items() if value.dtype != object},
                good,
                non_finite=report.non_finite,
                pictures=pictures,
                replicas=self._hardware.replicas,
                settings=_stored(self._settings),
                data_dir=self._manifest.absolute_folder,
                flag_text=self._settings.flag_text,
            )
        except OSError as error:  # a full disk must not hide what happened
            self._monitor.say(f"tfaclgan: warning: no reproduction bundle: {error.strerror} ({error.filename})")
        else:
            where = self._run.shown(path)
            self._monitor.say(f"written: {where}; --mode=debug --run_dir={self._run.name} runs that step again")
        self._mirror.send()
        return EXIT_NON_FINITE

    def _start_profile(self) -> None:
        first, end = self._profiled
        if not self._profiling and first <= self._step < end:
            self._engine.start_profile(self._run.path)
            self._profiling = True
        elif self._profiling and self._step >= end:
            self._stop_profile()

    def _stop_profile(self) -> None:
        if self._profiling:
            self._engine.stop_profile()
            self._profiling = False
            folder = self._run.shown(self._run.folder("plugins/profile"))
            self._monitor.say(f"profile written below {folder}; open it with TensorBoard")


def make_engine(run: rundir.Run, manifest: Manifest, settings: Settings, hardware: Hardware | None = None) -> Engine:
    """The engine that trains a run, with its initial weights; without `hardware` on one device."""
    return engines.current().Engine(
        run.method,
        run.config,
        image_shape=run.image_shape,
        recipe=settings.recipe,
        **(hardware.for_engine() if hardware else {}),
        seed=settings.seed,
        dtype=settings.dtype,
        xla=settings.xla,
        time_input=not settings.deterministic,
        rematerialise=settings.rematerialise,
        augmentation=pipeline.device_augmentation(settings.data_options, manifest.channels, manifest),
        nan_policy=settings.nan_policy,
    )


def load_state(engine: Engine, state: dict[str, np.ndarray], source: str) -> None:
    """Sets the engine's variables from a checkpoint, which may have been made with or without averages."""
    if engine.averages and not any(name.startswith("averages/") for name in state):
        names = [name for name in engine.variables() if name.startswith("averages/")]
        state = {**state, **{name: state[name.replace("averages/", "networks/", 1)] for name in names}}
    if not engine.averages:
        state = {name: value for name, value in state.items() if not name.startswith("averages/")}
    engine.load_state({name: value for name, value in state.items() if not name.startswith("loop/")}, source)


def without_names(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Batches without the names of files: they are no use on the device, and XLA has no strings."""
    return dataset.map(lambda batch: {k: v for k, v in batch.items() if v.dtype != tf.string})


def whole_dataset(
    manifest: Manifest, settings: Settings, first_step: int, bad_records: reading.BadRecords | None = None
) -> tf.data.Dataset:
    """The global batches from `first_step` on, as all replicas together see them."""
    batch = settings.recipe.batch_size
    return pipeline.training_dataset(
        manifest, settings.data_options, global_batch=batch, first_step=first_step, bad_records=bad_records
    )


def whole_batch(
    manifest: Manifest, settings: Settings, step: int, bad_records: reading.BadRecords | None = None
) -> dict[str, np.ndarray]:
    """The global batch of a data iteration; keys of pictures are arrays of bytes."""
    return next(whole_dataset(manifest, settings, step, bad_records).as_numpy_iterator())


def _pictures(batch: dict[str, np.ndarray]) -> str:
    """The keys of a batch's pictures, by domain."""
    keys = {
        domain: [printable(key.decode("utf-8", "surrogateescape")) for key in batch[f"key_{domain}"]] for domain in "ab"
    }
    return "; ".join(f"{domain}: {', '.join(found)}" for domain, found in keys.items())


# What a bundle holds of the settings: all that a data iteration depends on.
_STORED = (
    "recipe",
    "data_options",
    "on_bad_record",
    "nan_policy",
    "seed",
    "dtype",
    "xla",
    "rematerialise",
    "deterministic",
)


def _stored(settings: Settings) -> dict[str, Any]:
    values = dataclasses.asdict(settings)
    return {name: values[name] for name in _STORED}


def settings_of(values: dict[str, Any]) -> Settings:
    """The settings in a bundle; ValueError, TypeError or KeyError if there are other things in it."""
    options = dict(values["data_options"])
    options["companions"] = tuple(options["companions"])
    settings = Settings(
        **{
            **{name: values[name] for name in _STORED},
            "recipe": Recipe(**values["recipe"]),
            "data_options": pipeline.PipelineOptions(**options),
        }
    )
    for part in (settings, settings.recipe, settings.data_options):
        for field in dataclasses.fields(part):
            value, kind = getattr(part, field.name), {"int": int, "bool": bool, "str": str}.get(str(field.type))
            if (kind and type(value) is not kind) or (field.type == "float" and type(value) not in (int, float)):
                raise ValueError(f"{field.name} is {str(value)[:80]!r}")
    return settings


def check_batch(batch_size: int, hardware: Hardware) -> None:
    """UserError if the global batch cannot be shared out evenly."""
    if batch_size % hardware.replicas:
        raise UserError(
            f"--batch_size={batch_size}: cannot be shared out over {hardware.replicas} replicas; "
            f"use a multiple of {hardware.replicas}"
        )


def _rounded_out(window: tuple[int, int], period: int) -> tuple[int, int]:
    """First and end (the one after the last) of the whole periods that hold data iterations window[0] to window[1]."""
    return window[0] // period * period, _round_up(window[1] + 1, period)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
