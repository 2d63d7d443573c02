#!/usr/bin/env python3
"""Seconds and memory of a training iteration, ours on either engine beside the official PyTorch code.

    python benchmarks/train_step.py                                       # ACL-GAN, ours alone
    python benchmarks/train_step.py --peer ~/ACL-GAN --peer_python ~/torch-env/bin/python
    python benchmarks/train_step.py --method=ugatit --size 64 --batch 1 --option global_layers=6 --peer ~/UGATIT-pytorch
    python benchmarks/train_step.py --method=munit --engine=tensorflow,jax --size 256 --batch 1 --peer ~/MUNIT
    python benchmarks/train_step.py --method=cyclegan --dtype=bfloat16 --apart --peer ~/pytorch-CycleGAN-and-pix2pix

--peer names a clone of the method's official code (hyperplane-lab/ACL-GAN, znxlwm/UGATIT-pytorch, NVlabs/MUNIT,
junyanz/pytorch-CycleGAN-and-pix2pix), which is imported from there and never copied (official_code.py). It gets the
same options, images' size, batch and precision; for bfloat16 torch's autocast.

Each side is a process of its own. They take turns, so that a busy machine disturbs all alike; those whose turn it is
not sleep. With --apart one side is through before the next begins, which has the memory to itself then: for a GPU, or
where they do not fit in memory together. A data iteration is one update of the discriminators and one of the generators
(of ACL-GAN's in every second one: its figures are means over two), on random images held in memory. Ours runs through
the training engine, as `--mode=train` does. JAX alone needs no TensorFlow here.

Reported for each side: median over the rounds and extremes of seconds a data iteration; images of each domain a second;
peak memory (of the device on a GPU, as the framework counts it; else of the process); the first call's extra, which is
compiling, or for PyTorch choosing kernels; operations a second, and their share of the device's peak.

Operations are those of our program's convolutions and matrix products for a data iteration (engine/hlo_work.py), as JAX
lowers it, or TensorFlow if there is no JAX. That one count is used for all sides: it is the work the method needs, and
an implementation that computes more gets no credit for it. The peak is the published dense one of a few NVIDIA cards at
the precision asked for, or what --peak_tflops says; a CPU has none unless it is given.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
import itertools
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import official_code

SCHEDULES = {"acl_gan": 2, "ugatit": 1, "munit": 1, "cyclegan": 1}  # data iterations between generators' updates
ENGINES = ("tensorflow", "jax")
# Dense TFLOP/s as published by NVIDIA: float32, TF32, bfloat16 (0: the card has none). The first name that fits counts.
PEAKS = {
    "H100 PCIe": (51.0, 378.0, 756.0),
    "H100 NVL": (60.0, 417.5, 835.5),
    "H100": (67.0, 494.5, 989.5),
    "H200 NVL": (60.0, 417.5, 835.5),
    "H200": (67.0, 494.5, 989.5),
    "A100": (19.5, 156.0, 312.0),
    "L4": (30.3, 60.0, 121.0),
    "T4": (8.1, 0.0, 0.0),
}
OUT_OF_MEMORY = "out of memory"
_SAYS_OUT_OF_MEMORY = re.compile(r"out of memory|RESOURCE_EXHAUSTED|ResourceExhausted|OOM when|MemoryError|bad_alloc")
_HERE = os.path.abspath(__file__)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="acl_gan", choices=tuple(SCHEDULES), help="what is trained")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the method's config (may be repeated); ours of ugatit has its profile pt unless one is given",
    )
    parser.add_argument(
        "--engine",
        default="tensorflow",
        help="what ours runs on: tensorflow, jax, tensorflow,jax, or none (the official code alone)",
    )
    parser.add_argument("--peer", default="", help="folder of a clone of the official code (default: time ours alone)")
    parser.add_argument(
        "--peer_python", default=sys.executable, help="python with torch, PyYAML and Pillow (default: this one)"
    )
    parser.add_argument(
        "--peer_config", default="", help="official configuration of acl_gan or munit, inside --peer (has a default)"
    )
    parser.add_argument("--size", type=int, default=128, help="height and width of the images in pixels")
    parser.add_argument("--batch", type=int, default=3, help="images of each domain in a batch")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side that are timed")
    parser.add_argument("--iterations", type=int, default=2, help="data iterations a turn (acl_gan: a multiple of 2)")
    parser.add_argument(
        "--warmup", type=int, default=2, help="data iterations between the very first (acl_gan: two) and the first turn"
    )
    parser.add_argument("--apart", action="store_true", help="one side after the other, each alone in memory")
    parser.add_argument(
        "--gate", default="", help="lock file of runs at the same time: they compile together, and are timed one by one"
    )
    parser.add_argument("--threads", type=int, default=0, help="threads of each side (0: the framework's default)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="what ours computes in")
    parser.add_argument(
        "--peer_dtype", default="", choices=("", "float32", "bfloat16"), help="the official code's (default: --dtype)"
    )
    parser.add_argument(
        "--tf32", default="off", choices=("on", "off"), help="float32 products on a GPU with TF32's 10 bits, all sides"
    )
    parser.add_argument("--xla", default="auto", choices=("auto", "on", "off"), help="whether ours is compiled by XLA")
    parser.add_argument("--rematerialise", action="store_true", help="ours keeps fewer maps and computes them twice")
    parser.add_argument("--peak_tflops", type=float, default=0, help="the device's peak, this precision (0: if known)")
    parser.add_argument(
        "--flops", type=float, default=-1, help="operations of a data iteration, from an earlier count; 0: none wanted"
    )
    parser.add_argument("--count", action="store_true", help="count the operations of a data iteration and end")
    parser.add_argument("--trace", default="", help="folder for a profile of ours after the last turn (default: none)")
    parser.add_argument("--json", default="", help="file to write all figures to, after each round (default: none)")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.engines = [] if arguments.engine == "none" else arguments.engine.split(",")
    arguments.peer_dtype = arguments.peer_dtype or arguments.dtype
    why_not = refused(arguments)
    if why_not:
        parser.error(why_not)
    return arguments


def refused(arguments: argparse.Namespace) -> str:
    """What is wrong with the flags, in a line; "" if nothing."""
    schedule, engines = SCHEDULES[arguments.method], arguments.engines
    if not set(engines) <= set(ENGINES) or len(set(engines)) < len(engines):
        return f"--engine={arguments.engine}: give tensorflow, jax, tensorflow,jax or none"
    if not engines and not arguments.peer:
        return "--engine=none: nothing would be timed; name the official code with --peer"
    if arguments.iterations < 1 or arguments.iterations % schedule or arguments.warmup % schedule:
        return f"--iterations and --warmup must be multiples of {schedule}, the schedule of {arguments.method}"
    if arguments.rounds < 1:
        return f"--rounds={arguments.rounds}: at least one turn must be timed"
    if "jax" in engines and arguments.threads:
        return "--threads: JAX has no such setting; use taskset"
    if "jax" in engines and arguments.xla == "off":
        return "--xla=off: JAX always compiles with XLA; use --engine=tensorflow"
    if not arguments.peer:
        return ""
    if not arguments.worker and not shutil.which(arguments.peer_python):
        return f"--peer_python={arguments.peer_python}: no program there; name a python that has torch"
    return official_code.refusal(arguments.method, arguments.peer, options_of(arguments))


def main() -> int:
    arguments = parse()
    if arguments.worker:
        serve(arguments)
        return 0
    if arguments.count:
        print(f"{count(arguments) / 1e9:.3f} GFLOP a data iteration")
        return 0
    flops = arguments.flops if arguments.flops >= 0 else count(arguments)
    names = [*arguments.engines, *(["official"] if arguments.peer else [])]
    sides = {name: Side(name) for name in names}
    groups = [[side] for side in sides.values()] if arguments.apart else [list(sides.values())]
    for group in groups:
        with gate(arguments.gate, alone=group[0].name == "official"):  # what it begins with are trials of kernels
            for side in group:
                side.begin(arguments)
        with gate(arguments.gate, alone=True):
            for number in range(arguments.rounds):
                for side in group if number % 2 == 0 else group[::-1]:
                    side.turn(arguments.iterations)
                print(f"round {number + 1}: " + ", ".join(side.newest() for side in group), flush=True)
                write(arguments, sides, flops)
            for side in group:
                side.close()
    write(arguments, sides, flops)
    report(arguments, sides, flops)
    return 1 if any(side.failed for side in sides.values()) else 0


@contextlib.contextmanager
def gate(path: str, alone: bool) -> Iterator[None]:
    """Holds the lock file `path` ("": none), alone or beside others who do not ask to be alone."""
    if not path:
        yield
        return
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


class Side:
    """A process that runs data iterations when told how many, and what it said.

    failed: why it ended before its last round, or "".
    about, device: one phrase; the device's name.
    parameters: that are trained; first_seconds: of the first data iteration (of as many as the schedule has).
    turns: {"seconds", "cpu_seconds"} a data iteration, "peak_mib" up to then.
    """

    def __init__(self, name: str) -> None:
        self.name, self.failed, self.about, self.device = name, "", "", ""
        self.parameters, self.first_seconds, self.turns = 0, 0.0, list[dict]()
        self._process: subprocess.Popen | None = None

    def begin(self, arguments: argparse.Namespace) -> None:
        """Starts the process, and runs what is not timed."""
        python = arguments.peer_python if self.name == "official" else sys.executable
        self._process = start(python, self.name, arguments.tf32)
        ready = self._read()
        self.about, self.device = ready.get("about", ""), ready.get("device", "")
        self.parameters = ready.get("parameters", 0)
        self.first_seconds = self._run(SCHEDULES[arguments.method]).get("seconds", 0.0)
        if arguments.warmup:
            self._run(arguments.warmup)
        if not self.failed:
            print(f"{self.name}: {self.about}; {self.parameters:,} parameters", flush=True)

    def turn(self, iterations: int) -> None:
        answer = self._run(iterations)
        if not self.failed:
            each = {key: answer[key] / iterations for key in ("seconds", "cpu_seconds")}
            self.turns.append({**each, "peak_mib": answer["peak_mib"]})

    def newest(self) -> str:
        return f"{self.name} {self.failed or format(self.turns[-1]['seconds'], '.3f') + ' s'}"

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _run(self, iterations: int) -> dict:
        if self.failed:
            return {}
        self._process.stdin.write(f"{iterations}\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict:
        answer = answer_of(self._process)
        if "failed" in answer:
            self.failed = answer["failed"]
            print(f"{self.name}: {self.failed}", file=sys.stderr, flush=True)
        return answer


def start(python: str, worker: str, tf32: str) -> subprocess.Popen:
    """A process of this script that does one side's work."""
    environment = dict(os.environ)
    if tf32 == "off":
        environment["NVIDIA_TF32_OVERRIDE"] = "0"  # cuBLAS and cuDNN then use none, whatever a framework asks for
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # others want memory, too
    environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")
    if worker == "count":
        environment.update(CUDA_VISIBLE_DEVICES="-1", JAX_PLATFORMS="cpu")
    command = [python, _HERE, *sys.argv[1:], "--worker", worker]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def answer_of(process: subprocess.Popen) -> dict:
    """The next line of JSON that it prints; {"failed": why} if it ended instead."""
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    code = process.wait()
    return {"failed": f"{OUT_OF_MEMORY} (killed)" if code == -9 else f"ended with exit code {code}"}


def count(arguments: argparse.Namespace) -> float:
    """Operations of a data iteration of ours, as a mean over the schedule."""
    process = start(sys.executable, "count", arguments.tf32)
    answer = answer_of(process)
    process.stdin.close()
    process.wait()
    if "failed" in answer:
        raise SystemExit(f"operations could not be counted: {answer['failed']}; --flops=0 does without")
    return answer["flops"]


def figures(arguments: argparse.Namespace, side: Side, flops: float) -> dict[str, Any]:
    """What is reported of a side; 0 for what is not known."""
    if not side.turns:
        return {}
    times = [turn["seconds"] for turn in side.turns]
    seconds, schedule = statistics.median(times), SCHEDULES[arguments.method]
    dtype = arguments.peer_dtype if side.name == "official" else arguments.dtype
    peak = 1e12 * (arguments.peak_tflops or known_peak(side.device, dtype, arguments.tf32))
    return {
        "seconds": seconds,
        "seconds_range": [min(times), max(times)],
        "images_per_second": arguments.batch / seconds,
        "cpu_seconds": statistics.median(turn["cpu_seconds"] for turn in side.turns),
        "peak_mib": side.turns[-1]["peak_mib"],
        "compile_seconds": max(0.0, side.first_seconds - schedule * seconds),
        "flops_per_second": flops / seconds,
        "share_of_peak": flops / seconds / peak if peak else 0.0,
    }


def known_peak(device: str, dtype: str, tf32: str) -> float:
    """Published dense TFLOP/s of a card by its name, 0 if not known."""
    column = 2 if dtype == "bfloat16" else 1 if tf32 == "on" else 0
    return next((peaks[column] for name, peaks in PEAKS.items() if re.search(rf"\b{name}\b", device)), 0.0)


def ratios(ours: Side, official: Side, key: str, apart: bool) -> list[float]:
    """The official time by ours: of each round's pair, or of the medians if there are no pairs."""
    if apart:
        of_side = [statistics.median([turn[key] for turn in side.turns] or [0]) for side in (official, ours)]
        return [of_side[0] / of_side[1]] if all(of_side) else []
    return [theirs[key] / mine[key] for mine, theirs in zip(ours.turns, official.turns)]


def result_of(arguments: argparse.Namespace, sides: dict[str, Side], flops: float) -> dict[str, Any]:
    """All figures, for a file."""
    shown = {key: value for key, value in vars(arguments).items() if key not in ("peer", "peer_python", "json")}
    result: dict[str, Any] = {"arguments": shown, "flops": flops, "load": os.getloadavg()[0], "sides": {}}
    for name, side in sides.items():
        known = {key: value for key, value in vars(side).items() if not key.startswith("_")}
        result["sides"][name] = {**known, **figures(arguments, side, flops)}
        if name != "official" and "official" in sides:
            for key in ("seconds", "cpu_seconds"):
                result["sides"][name][f"ratio_{key}"] = ratios(side, sides["official"], key, arguments.apart)
    return result


def write(arguments: argparse.Namespace, sides: dict[str, Side], flops: float) -> None:
    """What is known so far, for --json."""
    if arguments.json:
        write_json(arguments.json, result_of(arguments, sides, flops))


def write_json(path: str, content: Any) -> None:
    """Writes a file of which a reader never sees half."""
    with open(path + ".part", "w") as file:
        json.dump(content, file, indent=1)
    os.replace(path + ".part", path)


def report(arguments: argparse.Namespace, sides: dict[str, Side], flops: float) -> None:
    result = result_of(arguments, sides, flops)
    options, tf32 = " ".join([arguments.method, *arguments.option]), f" (TF32 {arguments.tf32})"
    print(
        f"\n{options}, {arguments.dtype}{tf32 if arguments.dtype == 'float32' else ''}, {arguments.size} px, batch "
        f"{arguments.batch}; {f'{flops / 1e9:.1f} GFLOP a data iteration; ' if flops else ''}{os.cpu_count()} CPUs, "
        f"load {result['load']:.1f}"
    )
    for name, side in result["sides"].items():
        if "seconds" not in side:
            print(f"{name}: {side['failed']}")
            continue
        low, high = side["seconds_range"]
        share = f" ({side['share_of_peak']:.1%} of the device's peak)" if side["share_of_peak"] else ""
        rate = f", {side['flops_per_second'] / 1e12:.3g} TFLOP/s{share}" if flops else ""
        print(
            f"{name}: median {side['seconds']:.3f} s per data iteration ({low:.3f} to {high:.3f}), "
            f"{side['images_per_second']:.2f} images/s, CPU time {side['cpu_seconds']:.2f} s, peak memory "
            f"{side['peak_mib']:.0f} MiB, first call's extra {side['compile_seconds']:.1f} s{rate}"
            + (f"; then {side['failed']}" if side["failed"] else "")
        )
        for key in ("seconds", "cpu_seconds"):
            if side.get(f"ratio_{key}"):
                found = side[f"ratio_{key}"]
                pairs = f" (pairs: {', '.join(f'{ratio:.2f}' for ratio in found)})" if len(found) > 1 else ""
                print(f"official / {name}, {key.replace('_', ' ')}: median {statistics.median(found):.2f}{pairs}")
    counts = {side["parameters"] for side in result["sides"].values() if side["parameters"]}
    if len(counts) > 1:
        print("PARAMETERS DIFFER: these are not the same networks; give both sides the same options")


def serve(arguments: argparse.Namespace) -> None:
    """A worker's side: reads a number of data iterations, runs them, answers with a line of JSON."""
    answers = counted(arguments) if arguments.worker == "count" else answered(arguments)
    try:
        for answer in answers:
            print(json.dumps(answer), flush=True)
    except Exception as error:  # whatever a framework raises; its text is shown, and the other sides go on
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}"
        short = " ".join(said.split())[:200]
        print(json.dumps({"failed": OUT_OF_MEMORY if _SAYS_OUT_OF_MEMORY.search(said) else short}), flush=True)


def answered(arguments: argparse.Namespace) -> Iterable[dict]:
    if arguments.worker == "official":
        prepared = official_code.training(arguments, options_of(arguments))
    else:
        prepared = ours(arguments)
    yield {"about": prepared.about, "device": prepared.device, "parameters": prepared.parameters}
    for line in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        prepared.run(int(line))
        yield {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu,
            "peak_mib": prepared.peak() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    if arguments.trace and prepared.trace:
        prepared.trace(SCHEDULES[arguments.method], arguments.trace)


def ours(arguments: argparse.Namespace) -> official_code.Training:
    """Our training, as `official_code.training` gives the official one."""
    name = arguments.worker
    prepare(name)
    device, peak = set_up_tensorflow(arguments) if name == "tensorflow" else set_up_jax(arguments)
    import keras
    import numpy as np

    engine = engine_of(arguments)
    random = np.random.RandomState(0)
    shape = (arguments.batch, *engine.image_shape)
    batch = {key: random.randint(0, 256, shape).astype(np.uint8) for key in ("a", "b")}
    if name == "tensorflow":
        import tensorflow as tf

        iterator = engine.batches(lambda: tf.data.Dataset.from_tensors(batch).repeat())
    else:
        iterator = itertools.repeat(batch)
    trained = [variable for network in engine.networks.values() for variable in network.trainable_variables]
    parameters = sum(int(np.prod(variable.shape)) for variable in trained)
    about = f"{name} {sys.modules[name].__version__}, keras {keras.__version__} on {device}, {arguments.dtype}"

    def run(iterations: int) -> None:
        engine.train(iterator, iterations)

    def trace(iterations: int, folder: str) -> None:
        engine.start_profile(folder)
        run(iterations)
        engine.stop_profile()

    return official_code.Training(about, device, parameters, run, peak, trace)


def prepare(engine: str) -> None:
    """Makes `engine` Keras' backend in this process."""
    sys.path.insert(0, os.path.dirname(os.path.dirname(_HERE)))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from tfaclgan import engine as engines
    from tfaclgan import quiet

    engines.choose(engine)
    if engine == "tensorflow" or importlib.util.find_spec("tensorflow"):  # Keras imports it if it is there
        quiet.import_tensorflow(hidden_from_accelerators=engine != "tensorflow")


def engine_of(arguments: argparse.Namespace) -> Any:
    """The engine that trains what the flags say."""
    import dataclasses

    from tfaclgan import engine as engines
    from tfaclgan.methods import base

    method = base.get(arguments.method)
    return engines.current().Engine(
        method,
        method.config(**options_of(arguments)),
        image_shape=(arguments.size, arguments.size, 3),
        recipe=dataclasses.replace(method.recipe, batch_size=arguments.batch, image_size=arguments.size),
        seed=0,
        dtype=arguments.dtype,
        xla=arguments.xla,
        rematerialise=arguments.rematerialise,
    )


def set_up_tensorflow(arguments: argparse.Namespace) -> tuple[str, Callable[[], float]]:
    """The device's name, and what tells its peak memory in MiB (0: no GPU)."""
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(arguments.tf32 == "on")
    if arguments.threads:
        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    cards = tf.config.list_physical_devices("GPU")
    if not cards:
        from tfaclgan.engine import strategy

        strategy.make("cpu")
        return "cpu", lambda: 0.0
    for card in cards:
        tf.config.experimental.set_memory_growth(card, True)
    name = tf.config.experimental.get_device_details(cards[0]).get("device_name", "GPU")
    return name, lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20


def set_up_jax(arguments: argparse.Namespace) -> tuple[str, Callable[[], float]]:
    """As `set_up_tensorflow`."""
    import jax

    device = jax.devices()[0]
    if device.platform == "gpu" and arguments.dtype == "float32" and arguments.tf32 == "off":
        jax.config.update("jax_default_matmul_precision", "highest")  # else products of float32 use TF32
    name = "cpu" if device.platform == "cpu" else device.device_kind
    return name, lambda: (device.memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**20


def counted(arguments: argparse.Namespace) -> Iterable[dict]:
    """Operations of our program, from HLO that is lowered for the CPU and not compiled."""
    name = "jax" if importlib.util.find_spec("jax") else "tensorflow"
    arguments.dtype, arguments.xla, arguments.rematerialise = "float32", "on", False
    prepare(name)
    from tfaclgan.engine import hlo_work

    engine = engine_of(arguments)
    if name == "tensorflow":
        from tfaclgan.engine import tpu_compiler

        texts = (tpu_compiler.step_hlo_text(engine, offset) for offset in range(engine.period))
    else:
        texts = (engine.lowered(offset).compiler_ir("hlo").as_hlo_text() for offset in range(engine.period))
    yield {"flops": sum(hlo_work.flops(text) for text in texts) / engine.period}


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """{name: value} of --option, typed by its look."""
    given: dict[str, Any] = {"profile": "pt"} if arguments.method == "ugatit" else {}
    for option in arguments.option:
        name, _, text = option.partition("=")
        try:
            given[name] = json.loads(text.lower() if text.lower() in ("true", "false") else text)
        except ValueError:
            given[name] = text
    return given


if __name__ == "__main__":
    sys.exit(main())
