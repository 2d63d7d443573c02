"""Which devices a run uses: `--strategy` turned into a `tf.distribute` strategy."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

import tensorflow as tf

from tfaclgan.engine import base, cores
from tfaclgan.errors import UserError


@dataclasses.dataclass(frozen=True)
class Hardware(base.Hardware):
    """The devices of a run.

    strategy: the tf.distribute strategy.
    The others as in `base.Hardware`.
    """

    strategy: tf.distribute.Strategy
    kind: str
    description: str
    host: int = 0
    hosts: int = 1

    @property
    def replicas(self) -> int:
        return self.strategy.num_replicas_in_sync

    def for_engine(self) -> dict[str, Any]:
        return {"strategy": self.strategy}

    def means_a_lost_host(self, error: Exception) -> bool:
        return isinstance(error, tf.errors.UnavailableError | tf.errors.AbortedError | tf.errors.CancelledError)

    def sum_over_replicas(self, value: int) -> int:
        # Every collective has a float kernel, which counts to 2^24 only; so halves of 12 bits are summed.
        high, low = self._sum(tf.constant(divmod(value, 4096), tf.float32)).numpy()
        return 4096 * round(float(high)) + round(float(low))

    @functools.cached_property
    def _sum(self) -> Any:
        @tf.function
        def total(value: tf.Tensor) -> tf.Tensor:
            values = self.strategy.run(tf.identity, args=(value,))
            return self.strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)

        return total


def make(name: str, *, tpu: str = "local", cpu_devices: int = 1) -> Hardware:
    """The hardware `--strategy=name` asks for.

    Args:
        name: auto (TPU if one is there, else all GPUs, else CPU), cpu, mirrored, multiworker, tpu.
        tpu: "local", a TPU name or an address (only for tpu).
        cpu_devices: logical CPU devices; more than one makes as many replicas (for tests).

    Raises:
        UserError: an unknown name, no TPU or GPU where one is asked for, a broken TF_CONFIG.
    """
    if name == "auto":
        if _tpu_is_attached():
            return _tpu(tpu)
        if tf.config.list_physical_devices("GPU"):
            return _mirrored()
        return _cpu(cpu_devices)
    makers = {
        "cpu": lambda: _cpu(cpu_devices),
        "mirrored": _mirrored,
        "multiworker": _multiworker,
        "tpu": lambda: _tpu(tpu),
    }
    if name not in makers:
        raise UserError(f"--strategy={name}: unknown; choose one of auto, {', '.join(makers)}")
    return makers[name]()


def _tpu_is_attached() -> bool:
    return bool(tf.config.list_physical_devices("TPU"))


def _cpu(devices: int) -> Hardware:
    _pool_memory()
    cores.one_for_each_operation()
    tf.config.set_visible_devices([], "GPU")
    if devices <= 1:
        return Hardware(tf.distribute.get_strategy(), "cpu", f"CPU ({os.cpu_count()} cores)")
    physical = tf.config.list_physical_devices("CPU")[0]
    logical = tf.config.get_logical_device_configuration(physical)
    if not logical or len(logical) < devices:
        try:
            tf.config.set_logical_device_configuration(physical, [tf.config.LogicalDeviceConfiguration()] * devices)
        except RuntimeError as error:
            raise UserError(
                f"--cpu_devices={devices}: TensorFlow has already started with fewer devices ({error})"
            ) from error
    # The default collectives mix up two reductions inside one loop body (instance keys); plain sums do not.
    strategy = tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(devices)], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    return Hardware(strategy, "cpu", f"{devices} logical CPUs")


def _pool_memory() -> None:
    """Has TensorFlow keep the memory of freed arrays for the next ones, as on GPUs, if it has not started yet.

    Else the C library gives arrays of tens of MiB back to the system each time, which hands them out again page by
    page, zeroed: a tenth of the processors' time in a step at 256 px (docs/engines.md).
    """
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    # Unset it is 64 GiB, whatever the machine has. Nothing is taken before it is needed.
    mebibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    os.environ.setdefault("TF_CPU_BFC_MEM_LIMIT_IN_MB", str(mebibytes))


def _mirrored() -> Hardware:
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        raise UserError(
            "--strategy=mirrored: TensorFlow sees no GPU; check nvidia-smi and install the gpu extra "
            "(docs/install.md), or use --strategy=cpu"
        )
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    if len(gpus) == 1:  # the default strategy needs no all-reduce and lets the whole step compile as one
        return Hardware(tf.distribute.get_strategy(), "gpu", name)
    return Hardware(tf.distribute.MirroredStrategy(), "gpu", f"{len(gpus)} x {name}")


def _multiworker() -> Hardware:
    index, workers = base.cluster()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    kind = "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
    return Hardware(
        strategy, kind, f"{len(workers)} workers, {strategy.num_replicas_in_sync} {kind} replicas", index, len(workers)
    )


def _tpu(address: str) -> Hardware:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)
        if address not in ("local", ""):
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        strategy = tf.distribute.TPUStrategy(resolver)
    except Exception as error:  # whatever the TPU runtime raises, the user needs the same line
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"--strategy=tpu --tpu={address}: no TPU could be reached ({type(error).__name__}: {reason}); "
            "on a Cloud TPU VM install the tpu extra (docs/install.md), elsewhere use another flagfile such as "
            "configs/cpu.flags"
        ) from error
    hosts = max(1, resolver.cluster_spec().num_tasks("worker") if resolver.cluster_spec() else 1)
    return Hardware(
        strategy, "tpu", f"TPU, {strategy.num_replicas_in_sync} cores", hosts=hosts if address == "local" else 1
    )
