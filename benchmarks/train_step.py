#!/usr/bin/env python3
"""Seconds and memory of a training iteration, ours beside the official PyTorch code.

    python benchmarks/train_step.py                                       # ACL-GAN, ours alone
    python benchmarks/train_step.py --peer ~/ACL-GAN --peer_python ~/torch-env/bin/python
    python benchmarks/train_step.py --method=ugatit --size 128 --batch 1 --option light=1 --peer ~/UGATIT-pytorch
    python benchmarks/train_step.py --method=ugatit --size 64 --batch 1 --option global_layers=6 --peer ~/UGATIT-pytorch

--peer names a clone of hyperplane-lab/ACL-GAN or, for --method=ugatit, of znxlwm/UGATIT-pytorch; its code is imported
from there, never copied. They ask for CUDA, torchvision and other packages, which are answered with stand-ins where
they are missing (`.cuda()` does nothing, modules are empty), so the official networks and steps run unchanged.

Both sides live in processes of their own and take turns, so that a busy machine disturbs both alike; the one
whose turn it is not sleeps. A data iteration is one update of the discriminators and one of the generators (of
ACL-GAN's in every second one), on random images held in memory. Ours runs through the training engine, as
`--mode=train` does. Reported are medians over the rounds, and the ratio of each round's pair.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import types

SCHEDULES = {"acl_gan": 2, "ugatit": 1}  # data iterations between two updates of the generators
PEERS = {"acl_gan": ("hyperplane-lab/ACL-GAN", "trainer.py"), "ugatit": ("znxlwm/UGATIT-pytorch", "UGATIT.py")}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="acl_gan", choices=tuple(SCHEDULES), help="what is trained")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the method's config (may be repeated); of ugatit's the peer follows light, width, residual_blocks, "
        "global_layers and local_layers, and ours its profile pt unless one is given",
    )
    parser.add_argument("--peer", default="", help="folder of a clone of the official code (default: time ours alone)")
    parser.add_argument(
        "--peer_python", default=sys.executable, help="python with torch, PyYAML and Pillow (default: this one)"
    )
    parser.add_argument(
        "--peer_config", default="configs/male2female.yaml", help="official configuration, inside --peer"
    )
    parser.add_argument("--size", type=int, default=128, help="height and width of the images in pixels")
    parser.add_argument("--batch", type=int, default=3, help="images of each domain in a batch")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side that are timed")
    parser.add_argument("--iterations", type=int, default=2, help="data iterations a turn (acl_gan: a multiple of 2)")
    parser.add_argument("--warmup", type=int, default=2, help="data iterations before the first turn, likewise")
    parser.add_argument("--threads", type=int, default=0, help="threads of each side (0: the framework's default)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="what ours computes in")
    parser.add_argument("--engine", default="tensorflow", choices=("tensorflow", "jax"), help="what ours runs on")
    parser.add_argument("--xla", default="auto", choices=("auto", "on", "off"), help="whether ours is compiled by XLA")
    parser.add_argument("--rematerialise", action="store_true", help="ours keeps fewer maps and computes them twice")
    parser.add_argument("--json", default="", help="file to write all figures to (default: none)")
    parser.add_argument("--worker", default="", choices=("", "ours", "peer"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    schedule, (peer, file) = SCHEDULES[arguments.method], PEERS[arguments.method]
    if (
        min(arguments.iterations, arguments.warmup) < 1
        or arguments.iterations % schedule
        or arguments.warmup % schedule
    ):
        parser.error(
            f"--iterations and --warmup must be positive multiples of {schedule}, the schedule of {arguments.method}"
        )
    if arguments.threads and arguments.engine == "jax":
        parser.error("--threads: JAX has no such setting; use taskset")
    if arguments.peer and not os.path.isfile(os.path.join(arguments.peer, file)):
        parser.error(f"--peer={arguments.peer}: no {file} there; name the folder of a clone of {peer}")
    return arguments


def main() -> int:
    arguments = parse()
    if arguments.worker:
        serve(arguments)
        return 0
    sides = {"ours": Worker("ours", sys.executable)}
    if arguments.peer:
        sides["peer"] = Worker("peer", arguments.peer_python)
    parameters = {}
    for name, side in sides.items():
        ready = side.run(arguments.warmup)
        print(
            f"{name}: {side.about}; {ready['parameters']:,} parameters; "
            f"first {arguments.warmup} data iterations {ready['seconds']:.1f} s",
            flush=True,
        )
        parameters[name] = ready["parameters"]
    turns: dict[str, list[dict]] = {name: [] for name in sides}
    for number in range(arguments.rounds):
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for name in order:
            turn = sides[name].run(arguments.iterations)
            turns[name].append({key: turn[key] / arguments.iterations for key in ("seconds", "cpu_seconds")})
            turns[name][-1]["peak_mib"] = turn["peak_mib"]
        print(
            f"round {number + 1}: " + ", ".join(f"{name} {turns[name][-1]['seconds']:.2f} s" for name in sides),
            flush=True,
        )
    for side in sides.values():
        side.close()
    report(arguments, turns, parameters)
    return 0


def report(arguments: argparse.Namespace, turns: dict[str, list[dict]], parameters: dict[str, int]) -> None:
    load = os.getloadavg()[0]
    options = " ".join([arguments.method, *arguments.option])
    print(
        f"\n{options}, {arguments.dtype}, {arguments.size} px, batch {arguments.batch}; "
        f"{os.cpu_count()} CPUs, load {load:.1f}"
    )
    for name, rows in turns.items():
        seconds = [row["seconds"] for row in rows]
        cpu = statistics.median(row["cpu_seconds"] for row in rows)
        print(
            f"{name}: median {statistics.median(seconds):.2f} s per data iteration "
            f"({min(seconds):.2f} to {max(seconds):.2f}), CPU time {cpu:.1f} s, "
            f"peak memory {rows[-1]['peak_mib']:.0f} MiB"
        )
    shown = {key: value for key, value in vars(arguments).items() if "peer" not in key}
    result = {"arguments": shown, "parameters": parameters, "load": load, "turns": turns}
    if "peer" in turns:
        for key in ("seconds", "cpu_seconds"):
            ratios = [peer[key] / ours[key] for ours, peer in zip(turns["ours"], turns["peer"], strict=True)]
            result[f"ratio_{key}"] = ratios
            print(
                f"official / ours, {key.replace('_', ' ')}: median {statistics.median(ratios):.2f} "
                f"(pairs: {', '.join(f'{ratio:.2f}' for ratio in ratios)})"
            )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(result, file, indent=1)


class Worker:
    """A process that runs data iterations when told how many."""

    def __init__(self, name: str, python: str) -> None:
        command = [python, os.path.abspath(__file__), *sys.argv[1:], "--worker", name]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self._read()["about"]

    def run(self, iterations: int) -> dict:
        self.process.stdin.write(f"{iterations}\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"the process that times {self.name} ended; its message is above")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve(arguments: argparse.Namespace) -> None:
    """The worker's side: reads a number of data iterations, runs them, answers with a line of JSON."""
    sides = {"ours": ours, "peer": {"acl_gan": peer, "ugatit": ugatit_peer}[arguments.method]}
    about, parameters, run = sides[arguments.worker](arguments)
    print(json.dumps({"about": about}), flush=True)
    for line in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        run(int(line))
        answer = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "parameters": parameters,
        }
        print(json.dumps(answer), flush=True)


def ours(arguments: argparse.Namespace) -> tuple:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import dataclasses

    from tfaclgan import engine as engines
    from tfaclgan import quiet
    from tfaclgan.methods import base

    engines.choose(arguments.engine)
    quiet.import_tensorflow(hidden_from_accelerators=arguments.engine != "tensorflow")
    import keras
    import numpy as np
    import tensorflow as tf

    if arguments.threads and arguments.engine == "tensorflow":
        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    method = base.get(arguments.method)
    config = method.config(**options_of(arguments))
    shape = (arguments.size, arguments.size, 3)
    recipe = dataclasses.replace(method.recipe, batch_size=arguments.batch, image_size=arguments.size)
    engine = engines.current().Engine(
        method,
        config,
        image_shape=shape,
        recipe=recipe,
        seed=0,
        dtype=arguments.dtype,
        xla=arguments.xla,
        rematerialise=arguments.rematerialise,
    )
    random = np.random.RandomState(0)
    batch = {key: random.randint(0, 256, (arguments.batch, *shape)).astype(np.uint8) for key in ("a", "b")}
    iterator = engine.batches(lambda: tf.data.Dataset.from_tensors(batch).repeat())
    trained = [variable for network in engine.networks.values() for variable in network.trainable_variables]
    parameters = sum(int(np.prod(variable.shape)) for variable in trained)
    framework = sys.modules[arguments.engine]
    about = f"{arguments.engine} {framework.__version__}, keras {keras.__version__}"
    return about, parameters, lambda n: engine.train(iterator, n)


def options_of(arguments: argparse.Namespace) -> dict:
    """{name: value} of --option, typed by its look."""
    given = {"profile": "pt"} if arguments.method == "ugatit" else {}
    for option in arguments.option:
        name, _, text = option.partition("=")
        try:
            given[name] = json.loads(text.lower() if text.lower() in ("true", "false") else text)
        except ValueError:
            given[name] = text
    return given


def peer(arguments: argparse.Namespace) -> tuple:
    sys.path[0] = os.path.abspath(arguments.peer)
    import torch
    import yaml

    _stand_in_for_torchvision()
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self, *rest, **named: self
        torch.nn.Module.cuda = lambda self, *rest, **named: self
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    from trainer import aclgan_Trainer

    with open(os.path.join(arguments.peer, arguments.peer_config)) as file:
        config = yaml.safe_load(file)
    trainer = aclgan_Trainer(config)
    trainer.train()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        trainer.cuda()
    x_a, x_b = (torch.rand(arguments.batch, 3, arguments.size, arguments.size, device=device) * 2 - 1 for _ in "ab")

    def run(iterations: int) -> None:
        for iteration in range(iterations):
            trainer.dis_update(x_a, x_b, config)
            if iteration % SCHEDULES["acl_gan"] == 0:
                trainer.gen_update(x_a, x_b, config)
        if device == "cuda":
            torch.cuda.synchronize()

    parameters = sum(p.numel() for p in trainer.parameters())
    return f"official code, torch {torch.__version__} on {device}", parameters, run


def ugatit_peer(arguments: argparse.Namespace) -> tuple:
    """The official training loop; its networks are built as its `build_model` does, whose data sets are not there."""
    sys.path[0] = os.path.abspath(arguments.peer)
    import itertools
    from unittest import mock

    import torch

    absent = ("cv2", "scipy", "scipy.misc", "torchvision", "torchvision.transforms", "dataset")
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in absent}):
        import networks
        import UGATIT

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    options = options_of(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trainer = object.__new__(UGATIT.UGATIT)
    width, blocks = options.get("width", 64), options.get("residual_blocks", 4)
    judge_width = options.get("discriminator_width", 64)
    depths = {"G": options.get("global_layers", 7), "L": options.get("local_layers", 5)}
    generators = {
        name: networks.ResnetGenerator(3, 3, width, blocks, arguments.size, light=bool(options.get("light", 0)))
        for name in ("genA2B", "genB2A")
    }
    judges = {f"dis{s}{d}": networks.Discriminator(3, judge_width, depths[s]) for d in "AB" for s in "GL"}
    vars(trainer).update({name: network.to(device) for name, network in {**generators, **judges}.items()})
    adam = {"lr": 1e-4, "betas": (0.5, 0.999), "weight_decay": 1e-4}
    trainer.G_optim = torch.optim.Adam(itertools.chain(*(n.parameters() for n in generators.values())), **adam)
    trainer.D_optim = torch.optim.Adam(itertools.chain(*(n.parameters() for n in judges.values())), **adam)
    trainer.L1_loss, trainer.MSE_loss = torch.nn.L1Loss(), torch.nn.MSELoss()
    trainer.BCE_loss, trainer.Rho_clipper = torch.nn.BCEWithLogitsLoss(), networks.RhoClipper(0, 1)
    shape = (arguments.batch, 3, arguments.size, arguments.size)
    for domain in "AB":
        setattr(trainer, f"train{domain}_loader", _Endless((torch.rand(shape) * 2 - 1, None)))
    vars(trainer).update(
        resume=False, decay_flag=False, lr=1e-4, device=device, print_freq=10**9, save_freq=10**9, adv_weight=1,
        cycle_weight=10, identity_weight=10, cam_weight=1000, dataset="none", result_dir="none",
    )  # fmt: skip

    def run(iterations: int) -> None:
        trainer.iteration = iterations  # fewer than 1000, where the loop would save
        trainer.train()
        if device == "cuda":
            torch.cuda.synchronize()

    parameters = sum(p.numel() for network in (*generators.values(), *judges.values()) for p in network.parameters())
    return f"official code, torch {torch.__version__} on {device}", parameters, run


class _Endless:
    """A loader of one batch; its iterator has `next` as in Python 2, which the official loop calls."""

    def __init__(self, batch: object) -> None:
        self.batch = batch

    def __iter__(self) -> _Endless:
        return self

    def __next__(self) -> object:
        return self.batch

    next = __next__


def _stand_in_for_torchvision() -> None:
    try:
        import torchvision  # noqa: F401
    except ImportError:
        root = types.ModuleType("torchvision")
        for name in ("transforms", "utils"):
            child = types.ModuleType(f"torchvision.{name}")
            setattr(root, name, child)
            sys.modules[f"torchvision.{name}"] = child
        sys.modules["torchvision"] = root


if __name__ == "__main__":
    sys.exit(main())
