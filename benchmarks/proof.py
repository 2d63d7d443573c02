"""Proof of training: four methods on the three avatar tasks within a budget of minutes, and one report.

    python benchmarks/proof.py                                # a GPU where there is one: 128 px, 24 minutes in all
    python benchmarks/proof.py --profile=cpu --minutes=60     # narrow networks, 64 px

Draws the pictures (nothing is downloaded), trains each method on each task for an equal share of the minutes,
compiling and evaluations on schedule included, stops it by SIGTERM, judges what it has learned, and writes
OUTPUT/report.html: one file with curves, figures beside those of the untouched input, and translations. Killed and
started again it goes on: finished runs stay, the one that was interrupted resumes from its run directory and has what
is left of its share. Flags it does not know go to every training run, after the flagfiles. docs/proof.md says more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import proof_report
import timed_runs
from PIL import Image

from tfaclgan import errors
from tfaclgan.data import files
from tfaclgan.engine import ENGINES
from tfaclgan.errors import UserError

TASKS = ("glasses", "style", "hair")
METHODS = ("acl_gan", "ugatit", "munit", "cyclegan")
SIDES = {"gpu": 128, "cpu": 64}
FACES = 8
JUDGING_SHARE = 0.1  # of the minutes, kept for judging and the report
WAIT_SECS = 120  # for a run that a killed start left behind to save and end


def main(argv: list[str] | None = None) -> int:
    arguments, training_flags = parse(argv)
    if arguments.judge:
        return errors.run_command(lambda: judge(arguments), "proof")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(errors.EXIT_PREEMPTED))
    return errors.run_command(lambda: prove(arguments, training_flags), "proof")


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The arguments, and the flags of training runs among them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--minutes", type=float, default=24, help="for everything together (default: 24)")
    parser.add_argument("--tasks", default=",".join(TASKS), help="some of them (default: all)")
    parser.add_argument("--methods", default=",".join(METHODS), help="some of them (default: all)")
    parser.add_argument("--output", default="runs/proof", help="folder of runs and report (default: runs/proof)")
    parser.add_argument("--data_dir", default="", help="folder of the drawn data (default: OUTPUT/data)")
    parser.add_argument(
        "--profile",
        choices=("auto", "gpu", "cpu"),
        default="auto",
        help="configs/proof_gpu.flags or proof_cpu.flags; auto: cpu where the engine finds no GPU or TPU (default)",
    )
    parser.add_argument("--engine", choices=ENGINES, default="tensorflow", help="default: tensorflow")
    parser.add_argument("--strategy", default="", help="of the training runs (default: the profile's)")
    parser.add_argument("--image_size", type=int, default=0, help="pixels (default: 128, profile cpu: 64)")
    parser.add_argument("--train_count", type=int, default=1000, help="drawn training pictures a domain (1000)")
    parser.add_argument("--test_count", type=int, default=200, help="drawn test pictures a domain (200)")
    parser.add_argument("--extractor", default="efficientnet_lite0", help="of features for KID, as --mode=evaluate's")
    parser.add_argument("--seed", type=int, default=0, help="of weights, data order and noise (0)")
    parser.add_argument("--judge", action="store_true", help=argparse.SUPPRESS)
    arguments, training_flags = parser.parse_known_args(argv)
    for name, known in (("tasks", TASKS), ("methods", METHODS)):
        chosen = getattr(arguments, name).split(",")
        if unknown := sorted(set(chosen) - set(known)):
            parser.error(f"--{name}: {', '.join(unknown)} is unknown; choose from {', '.join(known)}")
        setattr(arguments, name, [value for value in known if value in chosen])
    if wrong := [flag for flag in training_flags if not flag.startswith("--")]:
        parser.error(f"unexpected argument {wrong[0]!r}; flags of training runs are written --NAME=VALUE")
    if arguments.minutes <= 0:
        parser.error(f"--minutes={arguments.minutes:g} must be above 0")
    arguments.output = os.path.abspath(arguments.output)
    arguments.data_dir = os.path.abspath(arguments.data_dir or os.path.join(arguments.output, "data"))
    return arguments, training_flags


def prove(arguments: argparse.Namespace, training_flags: list[str]) -> int:
    """Whatever is not done yet; returns the exit code."""
    os.makedirs(arguments.output, exist_ok=True)
    ledger = Ledger(os.path.join(arguments.output, "progress.json"))
    with ledger.timed("starting"):
        ledger.settle(arguments, detected_profile)
    # The three tasks' runs of a method are mostly one program, and a run that goes on is the same one.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(arguments.output, "compiled"))
    for task in arguments.tasks:
        draw(task, arguments, ledger)
    for run in (runs := list(names(arguments))):
        if run not in ledger.ended:
            train(run, runs, arguments, training_flags, ledger)
            report(arguments, ledger)
    if any(not judged(run, arguments) for run in runs):
        with ledger.timed("judging"):
            check_call([*(sys.executable, os.path.abspath(__file__), "--judge"), *judging_arguments(arguments)])
    print(f"took {ledger.total() / 60:.1f} of {arguments.minutes:g} minutes, all starts together")
    print(f"written: {report(arguments, ledger)}")
    return errors.EXIT_OK


def names(arguments: argparse.Namespace) -> Iterator[str]:
    """The runs, TASK/METHOD; so are their folders below the output named."""
    for task in arguments.tasks:
        for method in arguments.methods:
            yield f"{task}/{method}"


# -- what is done and how long it took --------------------------------------------------------


class Ledger:
    """progress.json: settings of the first start, seconds used for each thing, and how each finished run ended.

    Seconds count while something is done, not between two starts.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.settings: dict[str, object] = {}
        self.seconds: dict[str, float] = {}
        self.ended: dict[str, int] = {}  # exit code of training
        if os.path.exists(path):
            try:
                with open(path, encoding="utf-8") as file:
                    content = files.parse_json(file.read())
                self.settings, self.seconds, self.ended = (content[k] for k in ("settings", "seconds", "ended"))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}: cannot be read ({error}); use another --output") from error

    def settle(self, arguments: argparse.Namespace, detect: object) -> None:
        """Takes profile and image size from the first start, and refuses what would make runs incomparable."""
        if arguments.profile == "auto":
            arguments.profile = self.settings.get("profile") or detect(arguments.engine)
        arguments.image_size = arguments.image_size or self.settings.get("image_size") or SIDES[arguments.profile]
        compared = ("profile", "engine", "image_size", "train_count", "test_count", "extractor", "seed")
        asked = {name: getattr(arguments, name) for name in compared}
        for name, before in self.settings.items():
            if asked[name] != before:
                raise UserError(
                    f"--{name}={asked[name]}: the runs in {os.path.dirname(self._path)} have {before}; "
                    "use that or another --output"
                )
        self.settings = asked
        self._write()

    def total(self) -> float:
        return sum(self.seconds.values())

    def spend(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self._write()

    def end(self, run: str, code: int) -> None:
        self.ended[run] = code
        self._write()

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.spend(name, time.monotonic() - started)

    def share(self, run: str, runs: list[str], minutes: float) -> float:
        """Seconds that `run` may still train: all runs that are not finished have equal shares of what is left."""
        open_runs = [name for name in runs if name not in self.ended]
        judging = max(JUDGING_SHARE * 60 * minutes, self.seconds.get("judging", 0.0))
        left = 60 * minutes - judging - sum(s for name, s in self.seconds.items() if name != "judging")
        begun = sum(self.seconds.get(name, 0.0) for name in open_runs)
        return (left + begun) / len(open_runs) - self.seconds.get(run, 0.0)

    def _write(self) -> None:
        content = {"settings": self.settings, "seconds": self.seconds, "ended": self.ended}
        files.write_atomically(self._path, (json.dumps(content, indent=1) + "\n").encode())


# -- the parts --------------------------------------------------------------------------------


def detected_profile(engine: str) -> str:
    """Which profile suits the devices that the engine would take by itself.

    Asked of a process of its own, which then gives back the memory of the GPU.
    """
    code = (
        "from tfaclgan import engine, quiet; "
        f"engine.choose({engine!r}); quiet.import_tensorflow(hidden_from_accelerators={engine != 'tensorflow'}); "
        "print(engine.current().make_hardware('auto').kind)"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=timed_runs.ROOT, stdout=subprocess.PIPE, text=True)
    if answer.returncode:
        raise UserError("the devices cannot be looked at, see above; name a --profile")
    return "cpu" if answer.stdout.split()[-1] == "cpu" else "gpu"


def data_of(task: str, arguments: argparse.Namespace) -> str:
    return os.path.join(arguments.data_dir, f"{task}_{arguments.image_size}")


def draw(task: str, arguments: argparse.Namespace, ledger: Ledger) -> None:
    """The task's pictures, where they are not there yet."""
    folder = data_of(task, arguments)
    if os.path.exists(os.path.join(folder, "dataset.json")):
        return
    print(f"{task}: drawing pictures in {folder}", flush=True)
    with ledger.timed("drawing"):
        check_call(
            [
                *(sys.executable, "data_tools/make_tfrecords.py", f"--source=avatars:{task}", f"--output={folder}"),
                *(f"--size={arguments.image_size}", "--resume"),
                *(f"--train_count={arguments.train_count}", f"--test_count={arguments.test_count}"),
            ]
        )


def train(run: str, runs: list[str], arguments: argparse.Namespace, training_flags: list[str], ledger: Ledger) -> None:
    """One run until its share of the minutes, or its last step."""
    run_dir = os.path.join(arguments.output, run)
    os.makedirs(os.path.dirname(run_dir), exist_ok=True)
    share = ledger.share(run, runs, arguments.minutes)
    if share <= 0:
        if not timed_runs.newest_step(run_dir):
            raise UserError(
                f"--minutes={arguments.minutes:g}: used up before {run} began; start again with more minutes"
            )
        ledger.end(run, errors.EXIT_PREEMPTED)  # killed as its share was over
        return
    print(f"{run}: {share / 60:.1f} minutes from step {timed_runs.newest_step(run_dir)}", flush=True)
    wait_for(run_dir)
    command = training_command(run, arguments, training_flags)
    code = timed_runs.train(command, f"{run_dir}.log", share, lambda seconds: ledger.spend(run, seconds))
    step = timed_runs.newest_step(run_dir)
    if code == errors.EXIT_NON_FINITE and step:
        print(f"{run}: a step was not finite, see {run_dir}.log; step {step} is judged", flush=True)
    elif code not in (errors.EXIT_OK, errors.EXIT_PREEMPTED) or not step:
        if code in (errors.EXIT_PREEMPTED, -signal.SIGTERM):
            raise UserError(
                f"{run}: its share of {share:.0f} s was over before its first step; start again with more --minutes"
            )
        raise UserError(f"{run}: training ended with exit code {code}; see {run_dir}.log, mend it and start again")
    ledger.end(run, code)


def training_command(run: str, arguments: argparse.Namespace, training_flags: list[str]) -> list[str]:
    """The flags of a run; later ones win."""
    task, method = run.split("/")
    return [
        f"--flagfile=configs/{timed_runs.QUICK[method]}.flags",
        *(f"--flagfile=configs/proof_{name}.flags" for name in (arguments.profile, task)),
        *(f"--data_dir={data_of(task, arguments)}", f"--run_dir={os.path.join(arguments.output, run)}"),
        *(f"--engine={arguments.engine}", f"--extractor={arguments.extractor}", f"--seed={arguments.seed}"),
        *(f"--image_size={arguments.image_size}", f"--load_size={arguments.image_size}"),
        *((f"--strategy={arguments.strategy}",) if arguments.strategy else ()),
        *training_flags,
    ]


def wait_for(run_dir: str) -> None:
    """Waits until no process trains in `run_dir`: one that lost its parent by a kill saves before it ends."""
    from tfaclgan.training import rundir

    end = time.monotonic() + WAIT_SECS
    while os.path.isdir(run_dir):
        try:
            rundir.lock(run_dir).close()
            return
        except UserError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def check_call(command: list[str]) -> None:
    code = subprocess.run(command, cwd=timed_runs.ROOT).returncode
    if code:
        name = os.path.basename(command[1])
        raise UserError(
            f"{name} ended with exit code {code}, see above; mend that and start again: done steps are kept"
        )


# -- judging and report -----------------------------------------------------------------------


def result_path(run: str, arguments: argparse.Namespace) -> str:
    return os.path.join(arguments.output, run, "evaluations", "proof", "metrics.json")


def judged(run: str, arguments: argparse.Namespace) -> bool:
    return os.path.exists(result_path(run, arguments))


def judging_arguments(arguments: argparse.Namespace) -> list[str]:
    taken = ("output", "data_dir", "profile", "engine", "image_size", "extractor")
    lists = [f"--tasks={','.join(arguments.tasks)}", f"--methods={','.join(arguments.methods)}"]
    return [*(f"--{name}={getattr(arguments, name)}" for name in taken), *lists]


def judge(arguments: argparse.Namespace) -> int:
    """Judges all runs that were not yet: in one process, because the start and the features' network cost more."""
    from tfaclgan import engine, quiet

    engine.choose(arguments.engine)
    quiet.import_tensorflow(hidden_from_accelerators=arguments.engine != "tensorflow")
    from tfaclgan.metrics.report import write_result
    from tfaclgan.training.samples import write_png

    for run in names(arguments):
        if judged(run, arguments):
            continue
        print(f"{run}: judging", flush=True)
        run_dir = os.path.join(arguments.output, run)
        result, pictures = timed_runs.judge(run_dir, arguments.extractor, FACES)
        folder = os.path.dirname(result_path(run, arguments))
        for name, images in pictures.items():
            write_png(os.path.join(folder, f"{name}.png"), images.reshape(-1, *images.shape[2:]))
        write_result(result, folder)  # last: with it the run counts as judged
    return errors.EXIT_OK


def report(arguments: argparse.Namespace, ledger: Ledger) -> str:
    """Writes report.html and a sheet TASK.png a task, of whatever is there; returns the page's path."""
    sheets = {}
    for task in arguments.tasks:
        columns: dict[str, object] = {}
        truth = None
        for method in arguments.methods:
            folder = os.path.dirname(result_path(f"{task}/{method}", arguments))
            if judged(f"{task}/{method}", arguments):
                columns.setdefault("input", strip(os.path.join(folder, "input.png")))
                columns[method] = strip(os.path.join(folder, "output.png"))
                path = os.path.join(folder, "truth.png")
                truth = strip(path) if os.path.exists(path) else None
        if truth is not None:
            columns["truth"] = truth
        if columns:
            sheets[task] = os.path.join(arguments.output, f"{task}.png")
            timed_runs.sheet(columns, max(96, arguments.image_size)).save(sheets[task])
    page = proof_report.page(arguments.output, arguments.tasks, arguments.methods, sheets, ledger, arguments.minutes)
    path = os.path.join(arguments.output, "report.html")
    files.write_atomically(path, page.encode())
    return path


def strip(path: str) -> object:
    """Square pictures one below the other in a file: uint8 [n, h, w, 3]."""
    import numpy as np

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    return pixels.reshape(-1, pixels.shape[1], *pixels.shape[1:])


if __name__ == "__main__":
    sys.exit(main())
