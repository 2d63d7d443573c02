#!/usr/bin/env python3
"""Convolutions and norms as TensorFlow's CPU kernels compute them, and as `layers/` has them computed there instead.

    python benchmarks/cpu_operations.py
    python benchmarks/cpu_operations.py --only norm --rounds 3

Each operation is one that ACL-GAN, U-GAT-IT, MUNIT or CycleGAN has at 256 px; it is timed alone and with its gradients,
both forms in turn, with nothing of a step around it; as many at a time as the cores that a step gives an operation each
(two on two cores, else one). docs/engines.md holds the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

CALLS = 4  # a round


class Operation(NamedTuple):
    """function: arrays of `shapes` -> an array; its forms by what it is traced for ("": for no step)."""

    name: str
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str = "float32"
    plain: str = "gpu"
    ours: str = "cpu"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="operations whose name has it")
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each form; the median counts")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    chosen = [
        operation
        for operation in operations(arguments.batch)
        if not arguments.only or any(text in operation.name for text in arguments.only)
    ]
    if not chosen:
        print(f"cpu_operations.py: error: no operation's name has {' or '.join(arguments.only)}", file=sys.stderr)
        return 2
    from tfaclgan.engine import strategy

    strategy.make("cpu")  # memory as in a training
    heads = ("TensorFlow's, ms", "ours, ms", "ratio", "TensorFlow's with gradients, ms", "ours, ms", "ratio")
    print(f"| operation | {' | '.join(heads)} |\n{'| --- ' * (1 + len(heads))}|", flush=True)
    for operation in chosen:
        cells = []
        for gradients in (False, True):
            plain, ours = milliseconds(operation, gradients, arguments.rounds)
            cells += [f"{plain:.1f}", f"{ours:.1f}", f"{plain / ours:.2f}"]
        print(f"| {operation.name} | {' | '.join(cells)} |", flush=True)
    return 0


def operations(batch: int) -> Iterator[Operation]:
    import tensorflow as tf

    from tfaclgan.layers import norm, padding, picture, resampling
    from tfaclgan.layers.convolution import convolution

    def convolved(
        side: int, taps: int, channels: int, filters: int, strides: int = 1, dtype: str = "float32"
    ) -> Operation:
        halving = f", stride {strides}" if strides > 1 else ""
        half = f", {dtype}" if dtype != "float32" else ""
        return Operation(
            f"{taps}x{taps} convolution, {channels} to {filters} channels, from {side}x{side}{halving}{half}",
            lambda x, k: convolution(x, k, strides),
            ((batch, side, side, channels), (taps, taps, channels, filters)),
            dtype,
        )

    yield convolved(66, 3, 256, 256)
    yield convolved(66, 3, 256, 256, dtype="bfloat16")
    yield convolved(66, 3, 256, 512)
    yield convolved(130, 3, 128, 256)
    yield convolved(66, 2, 256, 512)
    yield convolved(34, 4, 256, 512)
    yield convolved(257, 3, 64, 128, 2)
    yield convolved(129, 3, 128, 256, 2)
    yield convolved(258, 4, 64, 128, 2)
    yield convolved(130, 4, 128, 256, 2)
    yield convolved(33, 4, 512, 1)
    yield convolved(262, 7, 3, 64)
    layer = picture.HeadConv2D(3, 7)
    last = ((batch, 262, 262, 64), (7, 7, 64, 3))
    yield Operation("7x7 convolution, 64 to 3 channels, from 262x262", layer.convolution_op, last)

    up = ((batch, 128, 128, 128), (3, 3, 64, 128))
    for dtype, plain, ours in (("float32", "", "cpu"), ("bfloat16", "gpu", "cpu")):
        name = f"3x3 transposed convolution, 128 to 64 channels, from 128x128, {dtype}"
        yield Operation(
            name, lambda x, k: resampling.transposed_convolution(x, k, (1, 0)), up, dtype, plain=plain, ours=ours
        )

    for dtype, side, channels in (("float32", 64, 256), ("float32", 256, 64), ("bfloat16", 256, 64)):
        name = f"instance norm and ReLU, {side}x{side}x{channels}, {dtype}"
        shape = (batch, side, side, channels)
        yield Operation(name, lambda x: tf.nn.relu(tf.cast(norm.instance_norm(x), x.dtype)), (shape,), dtype)

    borders = ((1, 64, 256, "float32"), (3, 256, 64, "float32"), (1, 128, 128, "float32"), (3, 256, 64, "bfloat16"))
    for border, side, channels, dtype in borders:
        name = f"mirrored border of {border}, {side}x{side}x{channels}, {dtype}"
        yield Operation(name, lambda x, n=border: padding.reflect_pad(x, n), ((batch, side, side, channels),), dtype)


def milliseconds(operation: Operation, gradients: bool, rounds: int) -> tuple[float, float]:
    """Of both forms, the plain one first, for each of those at a time: medians over rounds in turn."""
    import tensorflow as tf

    from tfaclgan.engine import cores

    together = cores.branches()
    arrays = [
        [
            tf.cast(tf.random.stateless_normal(shape, (number, i)), operation.dtype)
            for i, shape in enumerate(operation.shapes)
        ]
        for number in range(together)
    ]
    functions = [
        side_by_side(traced(operation.function, kind, gradients)) for kind in (operation.plain, operation.ours)
    ]
    times: list[list[float]] = [[], []]
    for function in functions:
        function(*arrays)
    for number in range(rounds):
        for i in (0, 1) if number % 2 == 0 else (1, 0):
            started = time.perf_counter()
            for _ in range(CALLS):
                functions[i](*arrays)
            times[i].append(1e3 * (time.perf_counter() - started) / CALLS / together)
    return statistics.median(times[0]), statistics.median(times[1])


def traced(function: Callable[..., Any], kind: str, gradients: bool) -> Callable[..., Any]:
    """`function`, with gradients by all arrays if asked for, as a step for devices of `kind` has it."""
    import tensorflow as tf

    from tfaclgan.layers import target

    def call(*arrays: Any) -> Any:
        with target.compiling_for(kind) if kind else contextlib.nullcontext(), tf.GradientTape() as tape:
            tape.watch(arrays)
            result = function(*arrays)
        return (result, *tape.gradient(result, arrays, result)) if gradients else result

    return tf.function(call, autograph=False)


def side_by_side(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of several lists of arrays, the function of each."""
    import tensorflow as tf

    return tf.function(lambda *lists: [function(*arrays) for arrays in lists], autograph=False)


if __name__ == "__main__":
    sys.exit(main())
