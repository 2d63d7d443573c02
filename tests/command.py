"""`python -m tfaclgan.main` in this process."""

from __future__ import annotations

from absl import flags
from absl.testing import flagsaver

from tfaclgan import flags as tfaclgan_flags
from tfaclgan import main


def call(*arguments):
    """The exit code; flags are as before afterwards."""
    tfaclgan_flags.define()
    with flagsaver.flagsaver():
        flags.FLAGS.unparse_flags()
        return main.main(["tfaclgan", *arguments])
