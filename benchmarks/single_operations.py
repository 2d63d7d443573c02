#!/usr/bin/env python3
"""Borders, norms and the first and last convolution in several forms, on JAX: which is the fastest on a device?

    python benchmarks/single_operations.py                     # milliseconds on JAX's device; on a CPU add --shrink=8
    python benchmarks/single_operations.py --chip=v5e          # what the TPU's compiler says; no TPU needed

A form is timed alone and with its gradient, in bfloat16, on arrays as ACL-GAN has at 256 px. `layers/` holds the forms
that won; docs/engines.md and docs/tpu.md hold the figures.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

os.environ["KERAS_BACKEND"] = "jax"
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

ROUNDS, CALLS = 5, 10


class Form(NamedTuple):
    """One way to compute an operation; function: arrays of `shapes` -> an array."""

    operation: str
    name: str
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="operations whose name has it")
    parser.add_argument("--batch", type=int, default=32, help="images")
    parser.add_argument("--shrink", type=int, default=1, help="divides sides and channels")
    parser.add_argument("--chip", default="", choices=("", "v4", "v5e", "v5p", "v6e"), help="compile for this TPU")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    if arguments.chip:
        from tfaclgan.engine import tpu_compiler

        tpu_compiler.prepare(tpu_compiler.CHIPS[arguments.chip])
    chosen = [
        form
        for form in forms(arguments.batch, arguments.shrink)
        if not arguments.only or any(text in form.operation for text in arguments.only)
    ]
    if not chosen:
        print(f"single_operations.py: error: no operation's name has {' or '.join(arguments.only)}", file=sys.stderr)
        return 2
    figures = on_chip(arguments.chip) if arguments.chip else on_device
    heads = ("products, ms", "the rest, ms", "traffic, GB") if arguments.chip else ("ms", "ms with gradient")
    print(f"| operation | form | {' | '.join(heads)} |\n{'| --- ' * (2 + len(heads))}|", flush=True)
    for form in chosen:
        cells = (f"{value:.3f}" for value in figures(form))
        print(f"| {form.operation} | {form.name} | {' | '.join(cells)} |", flush=True)
    return 0


def forms(batch: int, shrink: int) -> Iterator[Form]:
    """Every operation in every form; forms of one operation give the same result but for rounding."""
    import jax.numpy as jnp
    from jax import nn

    from tfaclgan.layers import norm, padding, picture, target

    def of(*sides: int) -> tuple[int, ...]:
        """A shape; small sides (taps, a picture's channels) stay."""
        return tuple(side if side < 8 else max(8, side // shrink) for side in sides)

    def by_library(images: Any, border: int) -> Any:
        return jnp.pad(images, ((0, 0), (border, border), (border, border), (0, 0)), mode="reflect")

    def built_for(device: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with target.compiling_for(device):
                return function(*arguments)

        return call

    concatenated, gathered = built_for("cpu", padding.reflect_pad), built_for("gpu", padding.reflect_pad)

    def derived_norm(images: Any) -> Any:
        full = images.astype(jnp.float32)
        mean = jnp.mean(full, (1, 2), keepdims=True)
        return (full - mean) * (jnp.mean(jnp.square(full - mean), (1, 2), keepdims=True) + norm.EPSILON) ** -0.5

    def activated(norm_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda images: nn.relu(norm_of(images)).astype(images.dtype)

    own_norm = norm.instance_norm
    borders = {"jnp.pad": by_library, "concatenations": concatenated, "gathers, own gradient": gathered}
    for side, channels, border in ((64, 256, 1), (256, 64, 3)):
        shape = (batch, *of(side, side, channels))
        for name, function in borders.items():
            operation = f"mirrored border of {border}, {shape[1]}x{shape[2]}x{shape[3]}"
            yield Form(operation, name, lambda x, f=function, p=border: f(x, p), (shape,))

    large = (batch, *of(256, 256, 64))
    for name, function in {"as JAX derives it": derived_norm, "own gradient": own_norm}.items():
        yield Form(f"instance norm and ReLU, {large[1]}x{large[2]}x{large[3]}", name, activated(function), (large,))

    for what, inputs, outputs in (("first", 3, of(64)[0]), ("last", of(64)[0], 4)):
        kernel = (7, 7, inputs, outputs)
        for columns in (1, 2, 4, 8):
            yield Form(
                f"{what} convolution, 7x7, {inputs} to {outputs} channels at {large[1]} px",
                f"{columns} columns as one" if columns > 1 else "plain",
                lambda x, k, n=columns: picture.grouped_convolution(x, k, n),
                ((batch, large[1] + 6, large[2] + 6, inputs), kernel),
            )


def with_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """(arrays, upstream) -> result and gradients."""
    import jax

    def both(arrays: tuple, upstream: Any) -> Any:
        result, back = jax.vjp(function, *arrays)
        return result, back(upstream)

    return both


def on_device(form: Form) -> tuple[float, float]:
    """Milliseconds, without and with the gradient: the median of some rounds of some calls."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    random = np.random.RandomState(0)
    arrays = tuple(jnp.asarray(random.standard_normal(shape), jnp.bfloat16) for shape in form.shapes)
    result = jax.eval_shape(form.function, *arrays)
    upstream = jnp.asarray(random.standard_normal(result.shape), result.dtype)
    return (
        _milliseconds(jax.jit(form.function), arrays),
        _milliseconds(jax.jit(with_gradient(form.function)), (arrays, upstream)),
    )


def _milliseconds(function: Callable[..., Any], arguments: tuple) -> float:
    import jax

    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        results = [function(*arguments) for _ in range(CALLS)]
        jax.block_until_ready(results[-1])
        times.append(1e3 * (time.perf_counter() - started) / CALLS)
    return statistics.median(times)


def on_chip(name: str) -> Callable[[Form], tuple[float, float, float]]:
    """Of a form with its gradient: what its products are expected to take and what the rest, and all memory traffic."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from tfaclgan.engine import tpu_compiler
    from tfaclgan.layers import target

    chip = tpu_compiler.CHIPS[name]
    device = tpu_compiler.devices(chip, chip.topology)[0]

    def figures(form: Form) -> tuple[float, float, float]:
        place = SingleDeviceSharding(device)
        arrays = tuple(jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place) for shape in form.shapes)
        result = jax.eval_shape(form.function, *arrays)
        upstream = jax.ShapeDtypeStruct(result.shape, result.dtype, sharding=place)
        with target.compiling_for("tpu"):
            lowered = jax.jit(with_gradient(form.function)).lower(arrays, upstream)
        compiled = tpu_compiler.compile_lowered(lowered, chip)
        products, rest = compiled.expected(chip)
        return 1e3 * products, 1e3 * rest, compiled.traffic_bytes / 1e9

    return figures


if __name__ == "__main__":
    sys.exit(main())
