"""The papers' Adam: L2 added to the gradient, epsilon beside the corrected root.

Keras' own Adam differs twice from the one the originals were trained with: its `weight_decay` is
decoupled (AdamW), and its epsilon stands beside the uncorrected root, a factor sqrt(1 - beta_2^t).
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfaclgan")
class StepDecay(keras.optimizers.schedules.LearningRateSchedule):
    """`initial * factor ** (data_iteration // decay_steps)`, counted in data iterations.

    A phase that is due every n-th data iteration has made `iterations` updates after
    `iterations * n` data iterations; the originals step their schedule once per data iteration for
    all optimisers, so the schedule multiplies by `every`.

    Args:
        initial: learning rate of data iteration 0.
        decay_steps: data iterations between two decays; 0 keeps the rate constant.
        factor: multiplier of each decay.
        every: data iterations between two updates of this optimiser.
    """

    def __init__(self, initial: float, decay_steps: int = 0, factor: float = 0.5, every: int = 1) -> None:
        self.initial, self.decay_steps, self.factor, self.every = initial, decay_steps, factor, every

    def __call__(self, step: Any) -> Any:
        if not self.decay_steps:
            return ops.convert_to_tensor(self.initial, "float32")
        decays = ops.floor_divide(ops.cast(step, "int32") * self.every, self.decay_steps)
        return self.initial * ops.power(ops.convert_to_tensor(self.factor, "float32"), ops.cast(decays, "float32"))

    def get_config(self) -> dict[str, Any]:
        return {
            "initial": self.initial,
            "decay_steps": self.decay_steps,
            "factor": self.factor,
            "every": self.every,
        }


@keras.saving.register_keras_serializable("tfaclgan")
class LinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Constant, then linearly to 0, counted in data iterations from 0; T is `total`, S is `start`:

        stair 0:  initial * min(1, (T - (i + 1)) / (T - S))
        stair E:  initial * min(1, (T - E floor(i / E)) / (T - S))

    The first is U-GAT-IT's PyTorch code, whose step t = i + 1 has the full rate up to t = S and 0 at t = T. The
    second changes only between epochs of E data iterations: U-GAT-IT's TensorFlow code (epoch S / E still has the
    full rate), and CycleGAN's with S one epoch less than its `n_epochs`. The rate is never negative.

    Args:
        initial: learning rate before the decay.
        total: data iterations of the run.
        start: data iterations at the full rate, below `total`; -1: half of `total`.
        stair: data iterations between two changes; 0: every one.
        every: data iterations between two updates of this optimiser.
    """

    def __init__(self, initial: float, total: int, start: int = -1, stair: int = 0, every: int = 1) -> None:
        self.initial, self.total, self.stair, self.every = initial, total, stair, every
        self.start = total // 2 if start < 0 else start

    def __call__(self, step: Any) -> Any:
        # Whole numbers up to the last division: float32 counts no further than 16.7 million.
        done = ops.cast(step, "int32") * self.every
        done = ops.floor_divide(done, self.stair) * self.stair if self.stair else done + 1
        left = ops.cast(self.total - done, "float32") / max(1, self.total - self.start)
        return self.initial * ops.clip(left, 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {
            "initial": self.initial,
            "total": self.total,
            "start": self.start,
            "stair": self.stair,
            "every": self.every,
        }


def schedule(recipe: Any, every: int = 1) -> keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate a `methods.base.Recipe` asks for, of an optimiser due every `every`-th data iteration."""
    if recipe.lr_schedule == "linear":
        return LinearDecay(recipe.learning_rate, recipe.steps, recipe.lr_decay_start, recipe.lr_decay_steps, every)
    return StepDecay(recipe.learning_rate, recipe.lr_decay_steps, recipe.lr_decay_factor, every)


@keras.saving.register_keras_serializable("tfaclgan")
class CoupledAdam(keras.optimizers.Adam):
    """Adam with coupled L2, as torch.optim.Adam(weight_decay=l2):

        g <- g + l2 * w
        m <- beta_1 m + (1 - beta_1) g;  v <- beta_2 v + (1 - beta_2) g^2
        w <- w - rate * (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)

    Args:
        learning_rate: a number or a schedule.
        beta_1, beta_2, epsilon: as in the formula.
        l2: weight of the penalty 0.5 * l2 * |w|^2.
        l2_on: "all": on every variable, biases included; "kernels": on those named "kernel".
    """

    def __init__(
        self,
        learning_rate: Any = 1e-4,
        beta_1: float = 0.5,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        l2: float = 0.0,
        l2_on: str = "all",
        name: str = "coupled_adam",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, name=name, **kwargs)
        self.l2, self.l2_on = l2, l2_on
        self._common = types.SimpleNamespace(values={})  # a dict alone would be tracked, as part of checkpoints

    def build(self, variables: list[Any]) -> None:
        """Slots, and which of the variables have the penalty."""
        super().build(variables)
        self._l2_of = [self.l2 if self.l2_on == "all" or v.name == "kernel" else 0.0 for v in variables]

    def apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """Updates every variable; what their updates have in common is computed once, see `once`."""
        try:
            super().apply(grads, trainable_variables)
        finally:
            self._common.values.clear()

    def once(self, function: Callable[[Any], Any], dtype: Any) -> Any:
        """`function(dtype)`, the same for all variables of an `apply` of this type of number."""
        key = (function.__name__, dtype)
        if key not in self._common.values:
            self._common.values[key] = function(dtype)
        return self._common.values[key]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's update."""
        index = self._get_variable_index(variable)
        momentum, velocity = self._momentums[index], self._velocities[index]
        gradient = ops.cast(gradient, variable.dtype)
        if self._l2_of[index]:
            gradient = gradient + self._l2_of[index] * variable
        correction_1, correction_2 = self.once(self.bias_corrections, variable.dtype)
        self.assign_add(momentum, (gradient - momentum) * (1 - self.beta_1))
        self.assign_add(velocity, (ops.square(gradient) - velocity) * (1 - self.beta_2))
        root = ops.sqrt(velocity / correction_2) + self.epsilon
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * (momentum / correction_1) / root)

    def bias_corrections(self, dtype: Any) -> tuple[Any, Any]:
        """1 - beta_1^t and 1 - beta_2^t for the update under way; 1 - 0.999 written out keeps 4 digits in float32."""
        step = ops.cast(self.iterations + 1, dtype)
        logs = [math.log(beta) if beta else -math.inf for beta in (self.beta_1, self.beta_2)]
        return tuple(-ops.expm1(step * log) for log in logs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "l2": self.l2, "l2_on": self.l2_on}
