"""Which devices a run uses with JAX: the same `--strategy` as TensorFlow's, turned into a mesh."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from tfaclgan.data import files
from tfaclgan.engine import base
from tfaclgan.errors import UserError

AXIS = "replicas"  # of the mesh: the only one, along which a batch is shared out


@dataclasses.dataclass(frozen=True)
class Hardware(base.Hardware):
    """The devices of a run, as in `base.Hardware`.

    devices: of all hosts, in the order in which they share the batch.
    """

    devices: tuple[Any, ...]
    kind: str = "cpu"
    description: str = ""
    host: int = 0
    hosts: int = 1

    @property
    def replicas(self) -> int:
        return len(self.devices)

    @property
    def feeds_per_host(self) -> int:
        return 1  # a host's rows are placed on its devices together

    def for_engine(self) -> dict[str, Any]:
        return {"hardware": self}

    @functools.cached_property
    def mesh(self) -> Mesh:
        """All devices in one row."""
        return Mesh(np.array(self.devices), (AXIS,))

    def sharding(self, *axes: str) -> Sharding:
        """Of values that are alike everywhere, or (AXIS) whose rows the devices share."""
        if self.replicas == 1:
            return SingleDeviceSharding(self.devices[0])
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def place(self, value: Any, sharding: Sharding) -> jax.Array:
        """`value`, which every host has whole, on the devices; as it is if it is there."""
        if isinstance(value, jax.Array) and value.committed and value.sharding == sharding:
            return value  # a tenth of the time of asking `device_put`, for hundreds of weights at each call
        if self.hosts == 1:
            return jax.device_put(value, sharding)
        whole = np.asarray(value)
        return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])

    def place_rows(self, value: np.ndarray, sharding: Sharding) -> jax.Array:
        """This host's rows of a batch, on the devices."""
        if self.hosts == 1:
            return jax.device_put(value, sharding)
        return jax.make_array_from_process_local_data(sharding, value)

    def means_a_lost_host(self, error: Exception) -> bool:
        words = r"UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|[Gg]loo|heartbeat"
        return isinstance(error, jax.errors.JaxRuntimeError) and bool(re.search(words, str(error)))

    def sum_over_replicas(self, value: int) -> int:
        parts = np.full(self.replicas, value, np.int32)  # other hosts put their own in their parts
        return int(self._sum(jax.make_array_from_callback(parts.shape, self.sharding(AXIS), lambda part: parts[part])))

    @functools.cached_property
    def _sum(self) -> Any:
        return jax.jit(lambda values: values.sum(), out_shardings=self.sharding())


def make(name: str, *, tpu: str = "local", cpu_devices: int = 1) -> Hardware:
    """The hardware `--strategy=name` asks for. Call before anything computes with JAX.

    Args:
        name: auto (whatever JAX takes: TPUs, else GPUs, else CPU), cpu, mirrored (all GPUs), multiworker, tpu.
        tpu: "local", the only one.
        cpu_devices: CPU devices; more than one makes as many replicas (for tests).

    Raises:
        UserError: an unknown name, no TPU or GPU where one is asked for, a broken TF_CONFIG.
    """
    makers = {
        "auto": _all,
        "cpu": lambda: _cpu(cpu_devices),
        "mirrored": _gpus,
        "multiworker": _multiworker,
        "tpu": lambda: _tpu(tpu),
    }
    if name not in makers:
        raise UserError(f"--strategy={name}: unknown; choose one of {', '.join(makers)}")
    hardware = makers[name]()
    if hardware.kind != "cpu":
        _keep_compiled()
    return hardware


def _keep_compiled() -> None:
    """Compiled programs stay on disk for the next start, which would compile for minutes; JAX's own setting wins."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", files.user_cache("compiled"))


def first_device() -> Hardware:
    """JAX's first device alone."""
    return _described(jax.local_devices()[:1])


def _all() -> Hardware:
    return _described(_devices("--strategy=auto", "use --strategy=cpu"))


def _devices(flag: str, instead: str) -> list[Any]:
    try:
        return jax.devices()
    except RuntimeError as error:  # a plug-in that is there for a device that is not
        raise UserError(f"{flag}: JAX finds no device ({_line(error)}); {instead}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _described(devices: list[Any]) -> Hardware:
    kind = {"gpu": "gpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}.get(devices[0].platform, "cpu")
    host, hosts = jax.process_index(), jax.process_count()
    if kind == "cpu" and len(devices) == 1:
        what = f"CPU ({os.cpu_count()} cores)"
    elif hosts > 1:
        what = f"{hosts} hosts, {len(devices)} {kind} replicas"
    else:
        what = f"{len(devices)} x {devices[0].device_kind}" if len(devices) > 1 else devices[0].device_kind
    return Hardware(tuple(devices), kind, f"{what}, JAX {jax.__version__}", host, hosts)


def _cpu(devices: int) -> Hardware:
    try:
        jax.config.update("jax_platforms", "cpu")
        if devices > len(jax.devices("cpu")) if _started() else devices > 1:
            jax.config.update("jax_num_cpu_devices", devices)
    except RuntimeError as error:
        raise UserError(f"--cpu_devices={devices}: JAX has already started with fewer devices ({error})") from error
    return _described(jax.devices("cpu")[:devices])


def _started() -> bool:
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()


def _gpus() -> Hardware:
    devices = _devices("--strategy=mirrored", "use --strategy=cpu")
    if devices[0].platform not in ("gpu", "cuda", "rocm"):
        raise UserError(
            "--strategy=mirrored: JAX sees no GPU; check nvidia-smi and install JAX for it (docs/engines.md), "
            "or use --strategy=cpu"
        )
    return _described(devices)


def _tpu(address: str) -> Hardware:
    if address not in ("local", ""):
        raise UserError(f"--tpu={address}: JAX takes the TPU of its own machine only; start it there with --tpu=local")
    if "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
        jax.distributed.initialize()  # a slice of several machines: it finds the others itself
    devices = _devices("--strategy=tpu", "elsewhere use another flagfile such as configs/cpu.flags")
    if devices[0].platform != "tpu":
        raise UserError(
            f"--strategy=tpu: JAX sees no TPU but {devices[0].device_kind}; on a Cloud TPU VM install JAX for it "
            "(docs/engines.md), elsewhere use another flagfile such as configs/cpu.flags"
        )
    return _described(devices)


def _multiworker() -> Hardware:
    index, workers = base.cluster()
    try:
        jax.distributed.initialize(workers[0], num_processes=len(workers), process_id=index)
    except Exception as error:  # whatever the coordination service raises, the user needs the same line
        raise UserError(
            f"--strategy=multiworker: host {index} cannot join the others at {workers[0]} ({_line(error)}); "
            "start all hosts with the same addresses in TF_CONFIG"
        ) from error
    return _described(jax.devices())
