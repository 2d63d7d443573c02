"""Native libraries without the lines they print."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import types
from collections.abc import Iterator
from typing import IO

from tfaclgan.errors import UserError


def import_tensorflow(*, hidden_from_accelerators: bool = False) -> None:
    """Imports TensorFlow without the lines it prints before its log level is read; shown only if the import fails.

    TF_CPP_MIN_LOG_LEVEL is set to 2 (errors only) unless the caller's environment says otherwise; with
    0 everything is shown.

    Args:
        hidden_from_accelerators: it reads data on the CPU, and leaves GPUs and TPUs to another framework.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0":
        import tensorflow

        _hide_accelerators(tensorflow, hidden_from_accelerators)
        return
    with held_stderr():
        import tensorflow
        from keras import ops  # noqa: F401 (now, while its chatter is held)

        _hide_accelerators(tensorflow, hidden_from_accelerators)
        tensorflow.config.list_physical_devices()


def _hide_accelerators(tensorflow: types.ModuleType, hidden: bool) -> None:
    for kind in ("GPU", "TPU") if hidden else ():
        tensorflow.config.set_visible_devices([], kind)


@contextlib.contextmanager
def held_stderr() -> Iterator[None]:
    """Holds back what the block prints to stderr, native code included; shown only if it fails.

    A `UserError` says all there is to say, so then nothing is shown either.
    """
    sys.stderr.flush()
    with _scratch() as held:
        real = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException as error:
            sys.stderr.flush()
            os.dup2(real, 2)
            if not isinstance(error, UserError):
                held.seek(0)
                os.write(2, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)


def _scratch() -> IO[bytes]:
    """A file without a name: in memory where the system can, for TMPDIR may be full."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("stderr"), "w+b")
    return tempfile.TemporaryFile()
