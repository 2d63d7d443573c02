"""What a run says while it trains: the console line, metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np

from tfaclgan.data import files
from tfaclgan.data.files import parse_json
from tfaclgan.training import events

_JSONL = "metrics.jsonl"
_EVALUATION = "evaluation/"  # begins the names of an evaluation's numbers
_SAMPLES, _HISTOGRAMS = "events/samples", "events/histograms"  # folders in the run directory: see `events`


class Monitor:
    """Writes the same numbers to the console, metrics.jsonl and TensorBoard.

    Args:
        run_dir: the run directory.
        step: data iteration the run (re)starts from; lines of metrics.jsonl and events after it are
            dropped, because those iterations will be run and logged again.
        total_steps: where it ends, for the ETA.
        batch_size: images of each domain a data iteration, over all replicas.
        replicas: devices that share them.
        keep: newest pictures and histograms whose events stay; 0: all.
        stream: for the console line.
    """

    def __init__(
        self,
        run_dir: str,
        *,
        step: int,
        total_steps: int,
        batch_size: int,
        replicas: int,
        keep: int = 0,
        stream: TextIO | None = None,
    ) -> None:
        self._run_dir, self._path, self._keep = run_dir, os.path.join(run_dir, _JSONL), keep
        self._total, self._batch, self._replicas = total_steps, batch_size, replicas
        self._stream = stream or sys.stderr
        self._on_terminal = self._stream.isatty()
        # An evaluation comes after the checkpoint of its step; without its line in metrics.jsonl it is made again.
        events.drop_after(run_dir, step, "" if is_evaluated(run_dir, step) else _EVALUATION)
        for name in (_SAMPLES, _HISTOGRAMS):
            events.drop_after(os.path.join(run_dir, name), step)
        self._drop_lines_after(step)  # last, and with it on the disk: what has a line is in TensorBoard's files there
        self._events = events.next_file(run_dir)
        self._window: list[tuple[int, float, float]] = []  # steps, seconds, seconds waited for input

    def add_time(self, steps: int, seconds: float, waited: float) -> None:
        """Counts a compiled call: data iterations, wall seconds, seconds of them waiting for input (NaN: unknown)."""
        self._window.append((steps, seconds, waited))

    def log(self, step: int, scalars: dict[str, float]) -> float:
        """Logs `scalars` and the throughput since the last call; returns the share of that time spent on input (NaN:
        not known)."""
        steps, seconds, waited = (
            (sum(column) for column in zip(*self._window, strict=True)) if self._window else (0, 0.0, 0.0)
        )
        self._window.clear()
        rate = steps / seconds if seconds else 0.0
        speed = {
            "throughput/steps_per_second": rate,
            "throughput/images_per_second": rate * self._batch,
            "throughput/images_per_second_per_device": rate * self._batch / self._replicas,
            "throughput/input_wait_share": waited / seconds if seconds else 0.0,
        }
        if steps:
            speed.update({"time/step_secs": seconds / steps, "time/input_wait_secs": waited / steps})
        self.write(step, {**scalars, **speed})
        self._print(step, scalars, speed)
        return speed["throughput/input_wait_share"] if seconds else math.nan

    def lines(self) -> Iterator[dict[str, Any]]:
        """What metrics.jsonl holds, from before the run went on here."""
        return logged_lines(self._run_dir)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """One line of metrics.jsonl and TensorBoard scalars, without a console line."""
        # Only finite numbers are JSON; a non-finite one is written as null.
        values = {name: value if np.isfinite(value) else None for name, value in scalars.items()}
        line = json.dumps({"step": step, "time": round(time.time(), 3), **values})
        self._events.add(step, events.scalars(scalars))
        with open(self._path, "a", encoding="utf-8") as file:  # last: what has a line is in TensorBoard too
            file.write(line + "\n")

    def images(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Pictures uint8 [h, w, 3] of a step in TensorBoard."""
        self._bounded(_SAMPLES, step, events.images(pictures))

    def histograms(self, step: int, arrays: dict[str, np.ndarray]) -> None:
        """Histograms of weights and gradients of a step in TensorBoard."""
        self._bounded(_HISTOGRAMS, step, events.histograms(arrays))

    def _bounded(self, name: str, step: int, summary: Any) -> None:
        folder = os.path.join(self._run_dir, name)
        events.write_step(folder, step, summary)
        events.keep_newest(folder, self._keep)

    def sync(self) -> None:
        """Waits until all that was written is on the disk; safe to call from another thread."""
        self._events.sync()
        if os.path.exists(self._path):
            files.flush(self._path)
        files.flush(self._run_dir)

    def say(self, text: str) -> None:
        """A line of its own on the console."""
        print(("\r\033[K" if self._on_terminal else "") + text, file=self._stream, flush=True)

    def close(self) -> None:
        if self._on_terminal:
            print(file=self._stream)
        self._events.close()

    def _print(self, step: int, scalars: dict[str, float], speed: dict[str, float]) -> None:
        losses = "  ".join(
            f"{name.removesuffix('/loss')} {value:.3f}" for name, value in scalars.items() if name.endswith("/loss")
        )
        rate = speed["throughput/steps_per_second"]
        eta = _duration((self._total - step) / rate) if rate else "?"
        bad, skipped = (int(scalars.get(name, 0)) for name in ("data/bad_records", "training/skipped_iterations"))
        # The first call is left out of the throughput, for it compiles; until the second there is none.
        images = f"{speed['throughput/images_per_second']:.1f}" if rate else "?"
        devices = f" ({speed['throughput/images_per_second_per_device']:.1f} a device)" if self._replicas > 1 else ""
        line = (
            f"step {step}/{self._total}  {losses}  {images} img/s{devices}  "
            f"input wait {_share(speed['throughput/input_wait_share'])}  "
            + (f"bad records {bad}  " if bad else "")
            + (f"skipped steps {skipped}  " if skipped else "")
            + f"ETA {eta}"
        )
        if self._on_terminal:
            print("\r\033[K" + line, end="", file=self._stream, flush=True)
        else:
            print(line, file=self._stream, flush=True)

    def _drop_lines_after(self, step: int) -> None:
        if not os.path.exists(self._path):
            return
        kept = [line for line, content in _lines(self._path) if content["step"] <= step]
        files.write_atomically(self._path, "".join(kept).encode())


def logged_lines(run_dir: str) -> Iterator[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, without one that a kill cut short."""
    path = os.path.join(run_dir, _JSONL)
    if os.path.exists(path):
        for _, content in _lines(path):
            yield content


def is_evaluated(run_dir: str, step: int) -> bool:
    """Whether metrics.jsonl has the evaluation of a step."""
    return any(
        line["step"] == step and any(name.startswith(_EVALUATION) for name in line) for line in logged_lines(run_dir)
    )


def _lines(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                content = parse_json(line)
                content["step"] <= 0  # noqa: B015 (a number, or this line is none of ours)
            except (ValueError, KeyError, TypeError):
                continue
            yield line, content


class SilentMonitor:
    """A `Monitor` for hosts that do not keep the run directory."""

    def add_time(self, steps: int, seconds: float, waited: float) -> None: ...
    def log(self, step: int, scalars: dict[str, float]) -> float:
        return math.nan

    def lines(self) -> Iterator[dict[str, Any]]:
        return iter(())

    def write(self, step: int, scalars: dict[str, float]) -> None: ...
    def images(self, step: int, pictures: dict[str, np.ndarray]) -> None: ...
    def histograms(self, step: int, arrays: dict[str, np.ndarray]) -> None: ...
    def sync(self) -> None: ...
    def say(self, text: str) -> None: ...
    def close(self) -> None: ...


def _share(value: float) -> str:
    return f"{value:.0%}" if np.isfinite(value) else "not measured"


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds // 60) % 60, int(seconds // 3600)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{int(seconds) % 60:02d}s"
