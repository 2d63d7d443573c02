"""Importing TensorFlow without the lines it prints before its log level is read."""

from __future__ import annotations

import os
import sys
import tempfile


def import_tensorflow() -> None:
    """Imports TensorFlow; what the native library prints meanwhile is shown only if the import fails.

    TF_CPP_MIN_LOG_LEVEL is set to 2 (errors only) unless the caller's environment says otherwise; with
    0 everything is shown.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0":
        import tensorflow

        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        real = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            import tensorflow
            from keras import ops  # noqa: F401

            tensorflow.config.list_physical_devices()
        except BaseException:
            os.dup2(real, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(real, 2)
            os.close(real)
