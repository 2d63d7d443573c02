"""tfaclgan: train, judge and use image GANs in TensorFlow 2 / Keras 3."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tfaclgan.inference.translator import Translator


def load(run_dir: str, *, checkpoint: str = "latest") -> Translator:
    """Loads a trained run for use in Python; see `tfaclgan.inference.translator.Translator`.

    Args:
        run_dir: a run directory made by `python -m tfaclgan.main --mode=train`, or a folder made by `save_pretrained`.
        checkpoint: "latest" or "best" (by the run's metric).
    """
    from tfaclgan.inference.translator import load as load_translator

    return load_translator(run_dir, checkpoint=checkpoint)


def save_pretrained(run_dir: str, folder: str, *, checkpoint: str = "latest") -> str:
    """Writes a run's translating networks as a folder to give away; see `tfaclgan.inference.pretrained`."""
    from tfaclgan.inference import pretrained

    return pretrained.save_pretrained(run_dir, folder, checkpoint=checkpoint)
