"""Compiles a training step with the real TPU compiler on a machine without a TPU.

libtpu can compile for chips it does not see. The TensorFlow engine's HLO is taken as TensorFlow lowers it for the host,
turned into MLIR, and given to libtpu through JAX's compile-only client, for one core. The JAX engine's step is lowered
for all devices of a slice and compiled with the sums over them. Needs the extra `tpu_check` (JAX and the newest libtpu)
beside a CPU or GPU TensorFlow; `tensorflow-tpu` pins an older libtpu and is not needed.

What this can say: whether the program compiles, its memory on a core, its operations and memory traffic. What it
cannot: for TensorFlow sums over replicas, which its TPU path adds when it sees the devices (see `gradient_bytes`
for their size), the input pipeline, and how close to its bounds a chip comes.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import time
from typing import Any

import keras
import tensorflow as tf

from tfaclgan.engine import base, hlo_work, tpu_program
from tfaclgan.errors import UserError
from tfaclgan.layers import target


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip's published figures (cloud.google.com/tpu/docs), for the core that one replica uses.

    topology, accelerator: a small slice by the names that libtpu knows.
    usable_bytes: of memory, by the compiler; flops: peak bfloat16 operations a second; bandwidth: bytes a second to
        that memory.
    link_bandwidth: bytes a second between chips, all links of a chip together.
    slices: {chips: topology} of what can be rented.
    cycle_rate: the compiler's estimated cycles a second for a program of which it thinks as well as of a product of two
        4096x4096 bfloat16 matrices, which is put at the peak: what makes seconds of its estimates for products.
    lanes: side of the matrix unit; feature dimensions are padded to it.
    config: by libtpu's name, where its own choice is another than Cloud TPU's: the two cores of a v4's chip are one
        device.
    """

    topology: str
    accelerator: str
    usable_bytes: float
    flops: float
    bandwidth: float
    link_bandwidth: float
    slices: dict[int, str]
    cycle_rate: float
    lanes: int = 128
    config: str = ""


_GIB = 2**30
_FLAT = {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8"}
CHIPS = {
    "v4": Chip("v4:2x2x1", "v4-8", 31.75 * _GIB, 275e12, 1228e9, 300e9, _CUBES, 1.194e9, config="megacore_dense"),
    "v5e": Chip("v5e:2x2", "v5litepod-4", 15.75 * _GIB, 197e12, 819e9, 200e9, _FLAT, 1.552e9),
    "v5p": Chip("v5p:2x2x1", "v5p-8", 95.73 * _GIB, 459e12, 2765e9, 600e9, _CUBES, 1.820e9),
    "v6e": Chip("v6e:2x2", "v6e-4", 31.24 * _GIB, 918e12, 1638e9, 448e9, _FLAT, 2.015e9, lanes=256),
}

# Ops without a TPU kernel, or whose kernel leaves the compiled program: XLA for the host takes some of them.
WITHOUT_TPU_KERNEL = frozenset({
    "ImageProjectiveTransformV2", "ImageProjectiveTransformV3", "ScaleAndTranslate", "ResizeBicubic", "ResizeArea",
    "CropAndResize", "PyFunc", "EagerPyFunc", "PyFuncStateless", "PrintV2", "Print", "WriteScalarSummary",
    "WriteImageSummary", "WriteSummary", "RandomStandardNormal", "RandomUniform", "TruncatedNormal", "Unique",
    "UniqueV2", "Where", "HistogramFixedWidth", "ResizeNearestNeighbor",
})  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says about one program on one core.

    fits: False if it ran out of memory; then only `needed_bytes` and `seconds` are known.
    argument_bytes, temporary_bytes, code_bytes: memory it takes (weights and optimiser slots are arguments).
    needed_bytes: all of them together.
    flops: the compiler's count of operations.
    traffic_bytes: what goes to and from the chip's memory, counted in the program (`tpu_program.py`).
    useful_flops, padded_flops: of convolutions and matrix products, as they are and with feature dimensions filled up
        to the matrix unit's side: an estimate, the compiler may lay other dimensions on it.
    seconds: compiling took.
    reduces, reduced_bytes: sums over devices in the program, and what they sum.
    cycles: {layer: the compiler's estimate}, most first. Good for comparing layers; elementwise operations are put
        too high (an addition of two large arrays at three to four times what memory allows).
    product_cycles: the same for all operations with a convolution or matrix product in them.
    other_bytes: memory traffic of all others, without copies that run beside them.
    """

    fits: bool
    needed_bytes: float
    seconds: float
    argument_bytes: float = 0.0
    temporary_bytes: float = 0.0
    code_bytes: float = 0.0
    flops: float = 0.0
    traffic_bytes: float = 0.0
    useful_flops: float = 0.0
    padded_flops: float = 0.0
    reduces: int = 0
    reduced_bytes: float = 0.0
    cycles: dict[str, float] = dataclasses.field(default_factory=dict)
    product_cycles: float = 0.0
    other_bytes: float = 0.0

    def bounds(self, chip: Chip) -> tuple[float, float]:
        """Seconds the chip needs at least for the operations and for the memory traffic."""
        return self.flops / chip.flops, self.traffic_bytes / chip.bandwidth

    def expected(self, chip: Chip) -> tuple[float, float]:
        """Seconds of convolutions and products as the compiler estimates them, and of the rest at memory's rate.

        A core does one after the other.
        """
        return self.product_cycles / chip.cycle_rate, self.other_bytes / chip.bandwidth

    @property
    def padding_share(self) -> float:
        """Share of the matrix unit's work that is padding, 0 to 1."""
        return 1 - self.useful_flops / self.padded_flops if self.padded_flops else 0.0


def prepare(chip: Chip) -> None:
    """Imports the compiler for `chip`, before anything computes with JAX; UserError if the extra is not installed."""
    os.environ.update(
        TPU_SKIP_MDS_QUERY="1",
        TPU_ACCELERATOR_TYPE=chip.accelerator,
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_WORKER_ID="0",
        JAX_PLATFORMS="cpu",
        ALLOW_MULTIPLE_LIBTPU_LOAD="true",  # two checks at once share no chip
    )
    try:
        import jax
        import libtpu  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--mode=tpu_check needs JAX and libtpu ({error}); "
            'run `pip install ".[tpu-check]"` in the repository, in an environment without tensorflow-tpu'
        ) from error
    jax.config.update("jax_platforms", "cpu")  # it may have been imported before


def devices(chip: Chip, topology: str) -> tuple[Any, ...]:
    """Those of a slice of `chip`, one for each of its chips, to compile for."""
    from jax.experimental import topologies

    config = {"chip_config_name": chip.config} if chip.config else {}
    return tuple(topologies.get_topology_desc(platform="tpu", topology_name=topology, **config).devices)


def versions() -> str:
    """The compiler's parts, for a report."""
    from importlib import metadata

    return ", ".join(f"{name} {metadata.version(name)}" for name in ("libtpu", "jaxlib"))


def step_hlo(engine: Any, offset: int) -> bytes:
    """Serialized HLO of one replica's data iteration `offset` of the schedule's period, averages included.

    Raises:
        UserError: an op of the step cannot be compiled; names it and the line of this package it comes from.
    """
    return _lowered(engine, offset, "hlo_serialized")


def step_hlo_text(engine: Any, offset: int) -> str:
    """The same for a reader."""
    return _lowered(engine, offset, "hlo")


def _lowered(engine: Any, offset: int, stage: str) -> Any:
    rows = engine.recipe.batch_size
    if engine.augmentation:
        batch = engine.augmentation.example(rows)
    else:
        batch = dict.fromkeys(("a", "b"), tf.zeros((rows, *engine.image_shape), tf.uint8))
    names = list(batch)

    @tf.function(jit_compile=True, autograph=False)  # as the engine traces it
    def iteration(*values: tf.Tensor) -> tf.Tensor:
        report = engine.replica_iteration(dict(zip(names, values, strict=True)), offset)
        engine.step.assign_add(1)
        return report

    arguments = list(batch.values())
    with target.compiling_for("tpu"):
        traced = iteration.get_concrete_function(*arguments).graph
    graph = traced.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    for node in nodes:
        if node.op in WITHOUT_TPU_KERNEL:
            raise UserError(
                f"op {node.op} ({node.name}{_place(traced, node.name)}) has no TPU kernel; replace it in the method or "
                "its layers"
            )
    try:
        return iteration.experimental_get_compiler_ir(*arguments)(stage=stage)
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(f"the step cannot be compiled: {_culprit(str(error))}") from error


_LIBRARIES = tuple(os.path.dirname(library.__file__) + os.sep for library in (tf, keras))


def _place(graph: tf.Graph, name: str) -> str:
    """The innermost call outside TensorFlow and Keras that made operation `name`, as ", FILE:LINE"; "" if not known."""
    to_search = [graph]
    while to_search:
        searched = to_search.pop()
        for op in searched.get_operations():
            if op.name == name:
                ours = [frame for frame in op.traceback or () if not frame.filename.startswith(_LIBRARIES)]
                return f", {os.path.relpath(ours[-1].filename)}:{ours[-1].lineno}" if ours else ""
        # TensorFlow has no public way from a graph to the graphs of the functions that it calls.
        called = getattr(searched, "_functions", {})
        to_search += [function.graph for function in called.values() if hasattr(function, "graph")]
    return ""


def compile_hlo(hlo: bytes, chip: Chip) -> Compiled:
    """Compiles HLO for one core of `chip`.

    Raises:
        UserError: the TPU compiler refuses an operation; names it.
    """
    import numpy as np
    from jax._src import compiler
    from jax._src.interpreters import mlir
    from jax._src.lib import _jax, xla_client
    from jax._src.lib.mlir import ir

    device = devices(chip, chip.topology)[0]
    text = xla_client._xla.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(hlo))
    options = compiler.get_compile_options(num_replicas=1, num_partitions=1, device_assignment=np.array([[0]]))
    started = time.perf_counter()
    with mlir.make_ir_context():
        module = ir.Module.parse(text)
        _drop_copies(module.operation)
        try:
            executable = device.client.compile(
                module, executable_devices=_jax.DeviceList((device,)), compile_options=options
            )
        except Exception as error:  # the compiler's exception types differ between versions; its words do not
            needed = _memory_asked_for(str(error))
            if needed is None:
                raise UserError(f"the TPU compiler refuses the step: {_culprit(str(error))}") from error
            return Compiled(False, needed, time.perf_counter() - started)
    return _read(executable, time.perf_counter() - started, chip)


def slice_of(chip: Chip, chips: int) -> Any:
    """The devices of a slice of so many chips, as the JAX engine's hardware; none of them need be there.

    Raises:
        UserError: there is no such slice.
    """
    from tfaclgan.engine.jax_hardware import Hardware

    kind = chip.topology.split(":")[0]
    if chips not in chip.slices:
        sizes = ", ".join(str(size) for size in chip.slices)
        raise UserError(f"--tpu_cores={chips}: there is no slice of so many {kind} chips; use one of {sizes}")
    name = f"{kind}:{chip.slices[chips]}"
    try:
        there = devices(chip, name)
    except Exception as error:  # the compiler's exception types differ between versions
        raise UserError(
            f"--tpu_cores={chips}: libtpu does not know the slice {name} ({_culprit(str(error))})"
        ) from error
    return Hardware(there, "tpu", name)


def compile_lowered(lowered: Any, chip: Chip) -> Compiled:
    """Compiles the JAX engine's lowered data iteration; what it says is about one device.

    Raises:
        UserError: the TPU compiler refuses an operation; names it.
    """
    started = time.perf_counter()
    try:
        executable = lowered.compile().runtime_executable()
    except Exception as error:  # see `compile_hlo`
        needed = _memory_asked_for(str(error))
        if needed is None:
            raise UserError(f"the TPU compiler refuses the step: {_culprit(str(error))}") from error
        return Compiled(False, needed, time.perf_counter() - started)
    return _read(executable, time.perf_counter() - started, chip)


def _read(executable: Any, seconds: float, chip: Chip) -> Compiled:
    memory, cost = executable.get_compiled_memory_stats(), executable.cost_analysis()
    text = executable.hlo_modules()[0].to_string()
    matrix, done = hlo_work.products(text), tpu_program.operations(text)
    argument, code = memory.argument_size_in_bytes, memory.generated_code_size_in_bytes
    extra = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Compiled(
        True,
        argument + memory.temp_size_in_bytes + code + extra,
        seconds,
        argument,
        memory.temp_size_in_bytes,
        code,
        cost["flops"],
        sum(operation.memory_bytes for operation in done),
        sum(product.flops for product in matrix),
        sum(product.padded_flops(chip.lanes) for product in matrix),
        *all_reduces(text),
        tpu_program.cycles(done),
        sum(operation.cycles for operation in done if operation.product),
        sum(operation.memory_bytes for operation in done if not operation.product and not operation.beside),
    )


def ring_seconds(size: float, replicas: int, chip: Chip) -> float:
    """Seconds that summing `size` bytes over replicas takes at the links' full rate.

    A ring moves 2 (n - 1) / n of the bytes through each chip's links.
    """
    return 2 * (replicas - 1) / replicas * size / chip.link_bandwidth


def gradient_bytes(engine: base.Engine, offset: int) -> float:
    """Bytes of gradients that data iteration `offset` of the period sums over replicas."""
    due = [phase for phase in engine.phases if offset % phase.every == 0]
    return sum(
        4.0 * math.prod(v.shape) for p in due for n in p.networks for v in engine.networks[n].trainable_variables
    )


_REDUCE = re.compile(r"= (.*?) all-reduce(?:-start)?\(")
_TYPED = re.compile(r"(pred|[suf]\d+|bf16)\[([\d,]*)\]")


def all_reduces(hlo_text: str) -> tuple[int, float]:
    """How many sums over devices optimised HLO holds (those under way together count as one), and their bytes."""
    count, size = 0, 0.0
    for line in hlo_text.splitlines():
        found = _REDUCE.search(line)
        if found:
            count += 1
            for kind, sides in _TYPED.findall(found[1]):
                size += hlo_work.element_bytes(kind) * math.prod(hlo_work.sides_of(sides))
    return count, size


def _drop_copies(operation: Any) -> None:
    """`mhlo.copy` has no StableHLO form; it is the identity."""
    for region in operation.regions:
        for block in region:
            for op in list(block.operations):
                _drop_copies(op.operation)
                if op.operation.name == "mhlo.copy":
                    op.operation.results[0].replace_all_uses_with(op.operation.operands[0])
                    op.operation.erase()


_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 1}


def _memory_asked_for(message: str) -> float | None:
    """Bytes that a program wants by the message that memory ran out, None in other messages.

    "Used 22.11G of 15.75G hbm"; from libtpu 0.0.52 on "the total memory required for HLO temporaries (22.11G) exceeds
    available HBM (15.75G)", where arguments count too.
    """
    found = re.search(r"[Uu]sed ([\d.]+)([KMGT]?) of [\d.]+[KMGT]?", message) or re.search(
        r"memory required for [^()]*\(([\d.]+)([KMGT]?)\) exceeds available", message
    )
    return float(found[1]) * _UNITS[found[2]] if found else None


def _culprit(message: str) -> str:
    """The op and the line of this package in a compiler's message, in one line."""
    places = re.findall(r'File "([^"]*tfaclgan/[^"]*)", line (\d+)', message)
    place = f" ({os.path.relpath(places[-1][0])}:{places[-1][1]})" if places else ""
    op_name = re.search(r'op_name="([^"]*)"', message)
    named = f" in {op_name[1]}" if op_name else ""
    return " ".join(message.split())[:300] + named + place
