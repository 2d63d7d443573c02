"""Does a long run stay flat? 20,000 steps of the tests' toy method with everything on that a run writes.

    python benchmarks/long_run.py [--steps=20000]

Logs, samples, histograms, evaluations and checkpoints (written in the background) are due often. Every tenth of the
steps a line says what the process holds: memory, file handles, threads, traces of the training function, and what lies
in the run directory. The first tenth is the warm-up. Exit code 1 if after it memory grew by 1 % or more, a file handle
or a thread was left behind, anything was traced again, or pictures and their events grew beyond `--keep_samples`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import statistics
import sys
import tempfile
import time

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))

KEEP_SAMPLES = 5


@dataclasses.dataclass(frozen=True)
class Held:
    """What the process and its run directory hold after a log line."""

    step: int
    memory: float  # MiB
    handles: int
    threads: int
    traces: int
    bounded: int  # bytes of samples/, events/ and checkpoints/
    growing: int  # bytes of metrics.jsonl and the scalars' events, the run's history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20000, help="data iterations (20000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        seen = train(folder, arguments.steps)
        seconds = time.perf_counter() - started
    tenth = arguments.steps // 10
    parts = [[held for held in seen if n * tenth <= held.step - 1 < (n + 1) * tenth] for n in range(10)]
    print("  steps  memory MiB  handles  threads  traces  bounded KiB  history KiB")
    for part in parts:
        last = part[-1]
        print(
            f"{last.step:7d} {statistics.median(held.memory for held in part):11.2f} {last.handles:8d} "
            f"{last.threads:8d} {last.traces:7d} {last.bounded / 1024:12.1f} {last.growing / 1024:12.1f}"
        )
    before, after = (statistics.median(held.memory for held in part) for part in (parts[1], parts[-1]))
    growth = after / before - 1
    print(f"memory grew by {growth:.2%} from steps {tenth}..{2 * tenth} to the last tenth; {seconds:.0f} s")
    flat = growth < 0.01 and all(
        max(getattr(held, name) for held in parts[-1]) <= max(getattr(held, name) for held in parts[1])
        for name in ("handles", "threads", "traces")
    )
    most = max(held.bounded for held in parts[1])
    flat = flat and max(held.bounded for held in parts[-1]) <= 1.1 * most  # pictures compress as well as they do
    print("flat" if flat else "NOT FLAT")
    sys.exit(0 if flat else 1)


def train(folder: str, steps: int) -> list[Held]:
    """Trains the toy in `folder`; what was held after each log line."""
    import folder_of_records
    from toy import TOY, Config

    from tfaclgan.data import records
    from tfaclgan.data.pipeline import PipelineOptions
    from tfaclgan.engine import strategy
    from tfaclgan.methods import base
    from tfaclgan.training import loop, rundir

    base.names()
    base.register(TOY)
    manifest = records.load_manifest(folder_of_records.write(os.path.join(folder, "data")))
    recipe = dataclasses.replace(TOY.recipe, steps=steps, batch_size=2, ema_decay=0.99)
    run = rundir.Run(os.path.join(folder, "run"), TOY, Config(), (16, 16, 3), {"load_size": 16})
    often = max(2, steps // 200)
    settings = loop.Settings(
        recipe=recipe,
        data_options=PipelineOptions(16, 16, 16, augment="flip"),
        steps_per_loop=50,
        log_every=often,
        sample_every=2 * often,
        sample_count=2,
        histogram_every=4 * often,
        keep_samples=KEEP_SAMPLES,
        checkpoint_every=2 * often,
        async_save=True,
        eval_every=10 * often,
    )
    seen: list[Held] = []
    after_loop = loop._Session._after_loop

    def look(session: loop._Session, reason: str | None) -> None:
        after_loop(session, reason)
        if session._due("log"):
            session._saver.wait()
            seen.append(holds(session._step, session._engine.trace_count, run.path))

    loop._Session._after_loop = look
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        assert loop.train(run, manifest, strategy.make("cpu"), settings, judge) == 0
    return seen


def judge(translator: object) -> dict:
    """Stands for an evaluation: a translation and a number."""
    import numpy as np

    images = np.random.RandomState(0).randint(0, 256, (4, 16, 16, 3), np.uint8)
    return {"protocol": {}, "metrics": {"kid": float(translator.translate(images).mean())}, "untouched": {}}


def holds(step: int, traces: int, run_dir: str) -> Held:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    sizes = {"bounded": 0, "growing": 0}
    for path, _, names in os.walk(run_dir):
        place = os.path.relpath(path, run_dir).split(os.sep)[0]
        kind = {"samples": "bounded", "events": "bounded", "checkpoints": "bounded", ".": "growing"}.get(place)
        if kind:
            sizes[kind] += sum(os.path.getsize(os.path.join(path, name)) for name in names)
    return Held(
        step,
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
        traces,
        **sizes,
    )


if __name__ == "__main__":
    main()
