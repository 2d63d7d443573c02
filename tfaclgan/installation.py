"""Is TensorFlow there, and only once? Asked before anything imports it."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from tfaclgan.errors import UserError

# Distributions that own the same folder `tensorflow/`; pip lets each overwrite the others.
TENSORFLOW_BUILDS = (
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-tpu",
    "tensorflow-intel",
    "tensorflow-gpu",
    "tf-nightly",
)


def require_tensorflow() -> None:
    """UserError if TensorFlow is missing, or if another build was installed over the TPU build."""
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            "TensorFlow is not installed; install the build for this machine with "
            "`pip install --no-deps -r requirements/cpu.lock` (or gpu.lock, tpu.lock), see docs/install.md"
        )
    builds = [name for name in TENSORFLOW_BUILDS if _installed(name)]
    if "tensorflow-tpu" in builds and len(builds) > 1:
        others = " ".join(name for name in builds if name != "tensorflow-tpu")
        raise UserError(
            f"{others} is installed over tensorflow-tpu, so files of the two are mixed; run `pip uninstall -y {others} "
            "tensorflow-tpu`, then `pip install --no-deps -r requirements/tpu.lock`"
        )


def _installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
