"""Pictures that an exported file is tried out on: the run's data, or drawn where that is not at hand."""

from __future__ import annotations

import os

import numpy as np

from tfaclgan.data import pipeline
from tfaclgan.data.records import Manifest
from tfaclgan.inference import arrays
from tfaclgan.inference.export import PROBES, Options, Pictures
from tfaclgan.training.rundir import Run


def read(run: Run, manifest: Manifest | None, options: Options, calibration_images: int) -> Pictures:
    """Test pictures as probes, training pictures for calibration; drawn probes and no calibration without data.

    Args:
        run: the run that is exported.
        manifest: its data, or None.
        options: size, direction and precision count; a free size is probed at the training size.
        calibration_images: most that are read of each domain.

    Raises:
        UserError: a split that is needed is missing or damaged, or the data has other channels than the run.
    """
    height, width = options.shape.height or run.image_shape[0], options.shape.width or run.image_shape[1]
    if manifest is None:
        shape = (height, width, run.image_shape[-1])
        drawn = {program: _draw(number, shape) for number, program in enumerate(("translate", "encode_style"))}
        return Pictures(drawn, "drawn pictures (the run's data is not there)")
    source, target = options.direction.upper().split("2")
    shorter = min(height, width)
    reading = pipeline.PipelineOptions(
        height=height,
        width=width,
        load_size=max(shorter, int(run.flags.get("load_size") or shorter)),
        augment="none",
    )

    def pictures(part: str, count: int) -> dict[str, np.ndarray]:
        domains = {"translate": source, "encode_style": target}
        return {
            program: pipeline.read_images(manifest, f"{part}{domain}", count, reading)
            for program, domain in domains.items()
        }

    probed = "test" if all(manifest.splits.get(f"test{domain}") for domain in (source, target)) else "train"
    probes = pictures(probed, PROBES)
    return Pictures(
        probes,
        f"{len(probes['translate'])} {probed} pictures of {os.path.basename(os.path.normpath(manifest.folder))}",
        pictures("train", calibration_images) if options.precision == "int8" else None,
    )


def _draw(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Soft spots of colour, uint8 [PROBES, *shape]."""
    height, width, channels = shape
    coarse = np.random.default_rng(seed).uniform(-1, 1, (PROBES, 6, 6, channels))
    return arrays.to_uint8(arrays.resize(coarse.astype(np.float32), height, width))
