"""Warnings of a run that looks dead, each said once until it clears.

Judged from what is there anyway: the logged losses, the sample pictures, the time spent waiting for input. A warning's
beginning and end stand in metrics.jsonl as `warning/NAME` 1 and 0, from where a resumed run knows what has been said.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

LOG_POINTS = 5  # log intervals a loss must stand still
_PINNED = 1e-4  # of the loss, or of 0.1 where it is smaller
_NO_GRADIENT = 1e-8  # norm
_CONSTANT = 0.5  # levels of 255: standard deviation of a picture's pixels
_ALIKE = 0.01  # standard deviation over the samples, of that over their inputs
_SAME_STYLES = 0.01  # levels of 255: mean difference between two styles
_MASK_BOUNDS = 0.01, 0.99
_WAITING = 0.3  # share of the time
_PREFIX = "warning/"


class Watch:
    """Judges a run's numbers and pictures.

    Args:
        say: gets a line for the console.
        write: gets a step and {name: value} for metrics.jsonl.
        on_cpu: training is on the CPU, where waiting for input is a note: the same cores read and compute.
    """

    def __init__(
        self, say: Callable[[str], None], write: Callable[[int, dict[str, float]], None], *, on_cpu: bool = False
    ) -> None:
        self._say, self._write, self._on_cpu = say, write, on_cpu
        self._standing: dict[str, bool] = {}
        self._losses: dict[str, collections.deque[float]] = {}

    @property
    def standing(self) -> tuple[str, ...]:
        """Names of the warnings that have been said and not cleared."""
        return tuple(sorted(name for name, stands in self._standing.items() if stands))

    def remember(self, line: Mapping[str, Any]) -> None:
        """Takes in a line of metrics.jsonl of before the run was interrupted."""
        for name, value in line.items():
            if name.startswith(_PREFIX):
                self._standing[name.removeprefix(_PREFIX)] = bool(value)
        self._keep_losses(line)

    def logged(self, step: int, scalars: Mapping[str, float]) -> None:
        """Judges a log point: {"PHASE/loss": mean of the interval, "PHASE/gradient_norm": ...}."""
        self._keep_losses(scalars)
        for name in scalars:
            if not name.endswith("/loss"):
                continue
            phase = name.removesuffix("/loss")
            seen, gradient = self._losses[name], scalars.get(f"{phase}/gradient_norm", 1.0)
            still = len(seen) == LOG_POINTS and max(seen) - min(seen) <= _PINNED * max(0.1, abs(seen[-1]))
            if gradient <= _NO_GRADIENT:
                text = f"its gradient is {gradient:.1g}: it learns nothing"
            else:
                text = f"its loss has stood at {seen[-1]:.4g} for {LOG_POINTS} log intervals"
            self._judge(step, f"dead_{phase}", still or gradient <= _NO_GRADIENT, f"{phase} looks dead: {text}")

    def waited(self, step: int, share: float) -> None:
        """Judges the share of a log interval's time in which the device waited for input; NaN: not measured."""
        if not np.isfinite(share):
            return
        text = (
            f"{share:.0%} of the time was spent waiting for input (more than {_WAITING:.0%}): raise --cache_mb or "
            "--parallel_calls, use --augment_on=device, a lighter --augment, or data nearer to the machine"
        )
        self._judge(step, "input_wait", share > _WAITING, text, kind="note" if self._on_cpu else "warning")

    def sampled(
        self, step: int, direction: str, inputs: np.ndarray, outputs: list[np.ndarray], mask: np.ndarray | None = None
    ) -> None:
        """Judges the sample pictures of a direction.

        Args:
            step: data iteration.
            direction: "a2b" or "b2a".
            inputs: uint8 [n, h, w, c].
            outputs: translations of them, uint8 [n, h, w, c], one array a style.
            mask: float [n, h, w, 1] in [0, 1] of the first of them, or None.
        """
        first = outputs[0].astype(np.float32)
        constant = float(first.std(axis=(1, 2)).max()) < _CONSTANT
        self._judge(
            step,
            f"constant_output_{direction}",
            constant,
            f"samples {direction}: the generator gives pictures of one colour (mean {first.mean():.0f} of 255)",
        )
        if not constant:  # which would be all of the following too
            spread, inputs_spread = (float(x.astype(np.float32).std(axis=0).mean()) for x in (first, inputs))
            self._judge(
                step,
                f"same_output_{direction}",
                inputs_spread >= 1 and spread < _ALIKE * inputs_spread,
                f"samples {direction}: the generator gives nearly one picture for all inputs (standard deviation "
                f"{spread:.2g}, of the inputs {inputs_spread:.2g})",
            )
            if len(outputs) > 1:
                difference = float(np.abs(first - outputs[1]).mean())
                self._judge(
                    step,
                    f"style_ignored_{direction}",
                    difference < _SAME_STYLES,
                    f"samples {direction}: two styles give the same pictures (mean difference {difference:.2g} of 255)",
                )
        if mask is not None:
            mean, (low, high) = float(mask.mean()), _MASK_BOUNDS
            what = "nothing" if mean < low else "everything"
            self._judge(
                step,
                f"mask_{direction}",
                not low <= mean <= high,
                f"samples {direction}: the mask covers {what} (mean {mean:.3g}); see the method's page on its bounds",
            )

    def _keep_losses(self, scalars: Mapping[str, Any]) -> None:
        for name, value in scalars.items():
            if name.endswith("/loss") and value is not None:
                self._losses.setdefault(name, collections.deque(maxlen=LOG_POINTS)).append(value)

    def _judge(self, step: int, name: str, bad: bool, text: str, kind: str = "warning") -> None:
        if bad == self._standing.get(name, False):
            return
        self._standing[name] = bad
        self._write(step, {_PREFIX + name: float(bad)})
        self._say(f"tfaclgan: {kind}: step {step}: {text}" if bad else f"step {step}: no longer: {name}")
