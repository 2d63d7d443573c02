"""What the engines share: a run's networks and optimisers, names of all that is kept, and what a call reports.

An engine takes the gradients of a method's phases and applies them, on one device or many. Everything here is the same
for all of them, whatever framework computes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from tfaclgan.engine.rematerialise import rematerialise as rematerialised
from tfaclgan.errors import UserError
from tfaclgan.methods.base import ImageShape, Loss, Method, Phase, Recipe
from tfaclgan.training import optimizers

MOST_SKIPPED = 100  # turns of a phase left out in a row, after which nan_policy="skip" stops as well
PROFILED_STEP = "train"  # what a profile calls the steps it tells apart
REPORT_SLOTS = 48  # scalars a phase may report; padded to a fixed width so that loops carry one tensor


@dataclasses.dataclass(frozen=True)
class Report:
    """What a call of `Engine.train` measured.

    scalars: {"phase/term": mean over the data iterations in which the phase was due}.
    non_finite: names of the scalars that were not finite; empty for a healthy call.
    bad_step: the data iteration in which that happened, or -1.
    steps: data iterations that were run.
    input_wait_secs: seconds the loop stood still because the next batch was not there; NaN if not measured.
    skipped: data iterations with a phase that was left out (nan_policy="skip").
    """

    scalars: dict[str, float]
    non_finite: tuple[str, ...]
    bad_step: int
    steps: int
    input_wait_secs: float
    skipped: int = 0


class Hardware:
    """The devices of a run, as the training loop sees them.

    kind: "cpu", "gpu" or "tpu".
    description: one phrase for the console.
    host, hosts: this process's number and how many there are.
    """

    kind: str
    description: str
    host: int
    hosts: int

    @property
    def replicas(self) -> int:
        raise NotImplementedError

    @property
    def replicas_per_host(self) -> int:
        return self.replicas // self.hosts

    @property
    def feeds_per_host(self) -> int:
        """In how many parts the engine takes this host's share of a batch."""
        return self.replicas_per_host

    @property
    def is_chief(self) -> bool:
        return self.host == 0

    def for_engine(self) -> dict[str, Any]:
        """Which devices, as arguments of the engine."""
        raise NotImplementedError

    def means_a_lost_host(self, error: Exception) -> bool:
        """Whether `error` is that of a collective that fails because another host has gone."""
        raise NotImplementedError

    def sum_over_replicas(self, value: int) -> int:
        """The sum of every replica's `value`, each host giving its own; all hosts must call it together."""
        raise NotImplementedError


def cluster() -> tuple[int, list[str]]:
    """This host's number and the addresses of all, from the environment variable TF_CONFIG.

    Raises:
        UserError: it is missing or broken.
    """
    example = '{"cluster": {"worker": ["host0:12345", "host1:12345"]}, "task": {"type": "worker", "index": 0}}'
    try:
        config = json.loads(os.environ.get("TF_CONFIG", ""))
        workers = config["cluster"]["worker"]
        index = int(config["task"]["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--strategy=multiworker: TF_CONFIG is missing or not readable; set it, for example to {example}"
        ) from error
    if not 0 <= index < len(workers):
        raise UserError(f"--strategy=multiworker: TF_CONFIG task index {index} but there are {len(workers)} workers")
    return index, workers


class Engine:
    """Networks, optimisers and moving averages of one run, and the compiled training function.

    Args:
        method: the registered method.
        config: its config.
        image_shape: height, width, channels of a training image.
        recipe: training settings (flags already merged into the method's recipe).
        seed: of the initial weights and of every draw.
        nan_policy: "stop" at a data iteration with a term, watched value or gradient that is not finite, or "skip": the
            phase in which that is has no update on any replica, and its memory stays; after `MOST_SKIPPED` of a
            phase's turns in a row it stops.
    """

    networks: dict[str, keras.Model]
    optimizers: dict[str, optimizers.CoupledAdam]
    averages: dict[str, Any]
    step: Any
    replicas: int
    marks_each_iteration: bool  # whether a profile shows the data iterations of one call as steps of their own
    _memory: dict[str, Any]

    def __init__(
        self,
        method: Method,
        config: Any,
        *,
        image_shape: ImageShape,
        recipe: Recipe,
        seed: int = 0,
        nan_policy: str = "stop",
    ) -> None:
        self.method, self.config, self.recipe, self.image_shape, self.seed = method, config, recipe, image_shape, seed
        self._skips = nan_policy == "skip"
        self.phases: tuple[Phase, ...] = tuple(method.phases(config))
        self.period = math.lcm(*(phase.every for phase in self.phases))
        self._term_names: dict[str, list[str]] = {}

    # -- training -----------------------------------------------------------------------------

    def train(self, iterator: Iterator[Any], steps: int) -> Report:
        """Runs `steps` data iterations (a multiple of `period`) on batches of `iterator`.

        Stops early after a data iteration with a non-finite term, watch value or gradient (see `nan_policy`).
        """
        raise NotImplementedError

    def batches(self, make_dataset: Callable[[], Any]) -> Iterator[Any]:
        """The iterator that `train` takes, of a dataset with `Hardware.feeds_per_host` elements a data iteration."""
        raise NotImplementedError

    def gradients(self, batch: Any) -> dict[str, np.ndarray]:
        """{"phase/network/path": gradient of a batch, summed over replicas}; {} from engines that only apply them."""
        return {}

    def start_profile(self, folder: str) -> None:
        """Begins to trace host and device for TensorBoard, without each of Python's own calls."""
        raise NotImplementedError

    def stop_profile(self) -> None:
        """Writes what was traced."""
        raise NotImplementedError

    def _check_steps(self, steps: int) -> None:
        if steps % self.period:
            raise ValueError(f"steps={steps} is not a multiple of the schedule's period {self.period}")

    def _scalars(self, phase: Phase, total: Any, loss: Loss) -> dict[str, Any]:
        """What a phase reports besides its gradient's norm, {name: scalar}; the names are remembered."""
        scalars = {"loss": total, **loss.terms, **loss.watch}
        self._term_names[phase.name] = [*scalars, "gradient_norm"]
        if len(scalars) >= REPORT_SLOTS:
            raise ValueError(f"phase {phase.name} reports {len(scalars)} scalars; at most {REPORT_SLOTS - 1}")
        return scalars

    def _report(
        self,
        sums: np.ndarray,
        counts: np.ndarray,
        last: np.ndarray,
        bad_step: int,
        steps: int,
        waited: float,
        skipped: int,
    ) -> Report:
        """A call's report: sums and last values of all rows [phases, slots], turns counted [phases]."""
        scalars, non_finite = {}, []
        for row, phase in enumerate(self.phases):
            for slot, name in enumerate(self._term_names[phase.name]):
                key = f"{phase.name}/{name}"
                if counts[row]:
                    scalars[key] = float(sums[row, slot] / counts[row])
                if bad_step >= 0 and not np.isfinite(last[row, slot]):
                    non_finite.append(key)
        return Report(scalars, tuple(non_finite), bad_step, steps, waited, skipped)

    # -- what is trained ----------------------------------------------------------------------

    def _build(self, dtype: str, rematerialise: bool) -> None:
        """Networks and optimisers, with initial weights and slots."""
        self.networks = build_networks(self.method, self.config, self.image_shape, seed=self.seed, dtype=dtype)
        for name in self._averaged() if rematerialise else ():
            rematerialised(self.networks[name])
        self.optimizers = {phase.name: self._optimizer(phase) for phase in self.phases}

    def _optimizer(self, phase: Phase) -> optimizers.CoupledAdam:
        raise NotImplementedError

    def _optimizer_settings(self, phase: Phase) -> dict[str, Any]:
        """Arguments of a phase's `CoupledAdam`."""
        recipe = self.recipe
        return {
            "learning_rate": optimizers.schedule(recipe, phase.every),
            "beta_1": recipe.beta_1,
            "beta_2": recipe.beta_2,
            "epsilon": recipe.adam_epsilon,
            "l2": recipe.weight_decay,
            "l2_on": recipe.weight_decay_on,
            "name": f"adam_{phase.name}",
        }

    def _variables(self, phase: Phase) -> list[Any]:
        return [variable for name in phase.networks for variable in self.networks[name].trainable_variables]

    def _trained(self, phase: Phase) -> list[tuple[str, str, Any]]:
        """(network, path, variable) of `_variables`, in its order."""
        return [
            (name, path, variable)
            for name in phase.networks
            for path, variable in named_variables(self.networks[name]).items()
            if variable.trainable
        ]

    def _averaged(self) -> list[str]:
        return [name for name in self.method.ema_networks if name in self.networks]

    def _power_step(self, phase: Phase) -> None:
        for name in phase.power_step:
            for layer in self.networks[name]._flatten_layers():
                if hasattr(layer, "power_step"):
                    layer.power_step()

    def learning_rates(self) -> dict[str, float]:
        """The rate each phase's next update will use."""
        return {name: float(o._get_current_learning_rate()) for name, o in self.optimizers.items()}

    # -- state --------------------------------------------------------------------------------

    def variables(self) -> dict[str, Any]:
        """Everything a checkpoint holds, by a name that is the same on every engine and in every process."""
        named: dict[str, Any] = {"step": self.step}
        for network, model in self.networks.items():
            named.update({f"networks/{network}/{key}": v for key, v in named_variables(model).items()})
        for phase in self.phases:
            optimizer = self.optimizers[phase.name]
            named[f"optimizers/{phase.name}/iterations"] = optimizer.iterations
            keys = [f"{network}/{path}" for network, path, _ in self._trained(phase)]
            for slot, slots in (("m", optimizer._momentums), ("v", optimizer._velocities)):
                named.update({f"optimizers/{phase.name}/{slot}/{key}": v for key, v in zip(keys, slots, strict=True)})
        named.update({f"averages/{key}": variable for key, variable in self.averages.items()})
        named.update({f"memory/{name}": memory for name, memory in self._memory.items()})
        return named

    def state(self) -> dict[str, np.ndarray]:
        """The values of `variables()`, of the same types on every engine; training on does not change them."""
        return {
            name: np.array(variable.numpy(), np.int64 if _counts(name) else None)
            for name, variable in self.variables().items()
        }

    def weights(self) -> dict[str, np.ndarray]:
        """{"network/path": value} of everything in the networks."""
        return {
            f"{network}/{path}": np.array(variable.numpy())
            for network, model in self.networks.items()
            for path, variable in named_variables(model).items()
        }

    def load_state(self, state: dict[str, np.ndarray], source: str) -> None:
        """Sets every variable from `state`; UserError naming `source` if names or shapes differ."""
        assign_all(self.variables(), state, source)

    def weight_norms(self) -> dict[str, float]:
        """Euclidean norm of each network's trainable weights."""
        return {
            name: float(np.sqrt(sum(np.sum(np.square(v.numpy(), dtype=np.float64)) for v in model.trainable_variables)))
            for name, model in self.networks.items()
        }

    def copy_for_inference(self, target: dict[str, keras.Model]) -> None:
        """Copies the weights users should see (averages where there are any) into `target`'s networks."""
        for name, model in self.networks.items():
            for key, variable in named_variables(target[name]).items():
                average = self.averages.get(f"{name}/{key}")
                source = average if average is not None else named_variables(model)[key]
                variable.assign(source.numpy())


def _counts(name: str) -> bool:
    """Whether a variable is a counter: 64 bits in files, 32 where JAX computes (flags end at 2^31)."""
    return name == "step" or name.endswith("/iterations")


def call_site(seed: int, phase: str, name: str) -> int:
    """The first seed of a draw, 31 bits; the second is the data iteration."""
    return zlib.crc32(f"{seed}/{phase}/{name}".encode()) & 0x7FFFFFFF


def build_networks(
    method: Method, config: Any, image_shape: ImageShape, *, seed: int = 0, dtype: str = "float32"
) -> dict[str, keras.Model]:
    """A method's networks with initial weights that depend on `seed` alone (and on Keras' backend)."""
    policy = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float64": "float64"}[dtype]
    before = keras.config.dtype_policy()
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(policy)
    try:
        return dict(method.networks(config, image_shape))
    finally:
        keras.config.set_dtype_policy(before)


def assign_all(variables: dict[str, Any], state: dict[str, np.ndarray], source: str) -> None:
    """Assigns `state` to `variables` after checking that names and shapes are the same and all numbers finite."""
    missing, extra = sorted(set(variables) - set(state)), sorted(set(state) - set(variables))
    shapes = [n for n in variables if n in state and tuple(variables[n].shape) != tuple(state[n].shape)]
    if missing or extra or shapes:
        parts = [
            f"{len(names)} {what} (first: {names[0]})"
            for what, names in (("missing", missing), ("left over", extra), ("of another shape", shapes))
            if names
        ]
        raise UserError(
            f"{source}: does not fit these networks: {', '.join(parts)}; use the flags of the run's run.flags "
            "or another --run_dir"
        )
    broken = [name for name in variables if not np.all(np.isfinite(state[name]))]
    if broken:
        raise UserError(
            f"{source}: {len(broken)} arrays hold numbers that are not finite (first: {broken[0]}); "
            "use an older checkpoint, or get the file again"
        )
    for name, variable in variables.items():
        variable.assign(state[name])


def named_variables(model: keras.Model) -> dict[str, Any]:
    """{path without the model's own name: variable}; ValueError if two variables share a path."""
    named: dict[str, Any] = {}
    for variable in model.variables:
        key = variable.path.split("/", 1)[-1]
        if key in named:
            raise ValueError(f"{model.name}: two variables are called {key}; name every layer")
        named[key] = variable
    return named
