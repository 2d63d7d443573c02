"""`--dry_run`: what a run would be, without training a step."""

from __future__ import annotations

import numpy as np

from tfaclgan.data import pipeline
from tfaclgan.data.records import Manifest
from tfaclgan.engine.base import Hardware
from tfaclgan.training import loop
from tfaclgan.training.loop import Settings
from tfaclgan.training.rundir import Run

_MIB = 2**20


def describe(run: Run, manifest: Manifest, hardware: Hardware, settings: Settings) -> str:
    """Resolved flags, the parameter table, shapes, and images and bytes a data iteration."""
    recipe = settings.recipe
    engine = loop.make_engine(run, manifest, settings, hardware)
    lines = [
        f"{run.method.title} ({run.method.paper}) on {hardware.description}",
        "",
        "Flags that differ from their defaults:",
    ]
    lines += [f"  {line}" for line in settings.flag_text.splitlines() if line]
    lines += ["", "Training settings:"]
    lines += [f"  {name:18} {value}" for name, value in vars(recipe).items()]
    lines += ["", f"{run.method.title} settings:"]
    lines += [f"  {name:24} {value}" for name, value in vars(run.config).items()]
    lines += ["", f"{'network':16} {'weights':>14} {'MiB':>9}  trained by"]
    total = 0
    for name, model in engine.networks.items():
        count = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
        total += count
        phases = ", ".join(phase.name for phase in engine.phases if name in phase.networks)
        lines.append(f"{name:16} {count:14,} {4 * count / _MIB:9.1f}  {phases}")
    state = sum(value.nbytes for value in engine.state().values())
    lines += [f"{'total':16} {total:14,} {4 * total / _MIB:9.1f}", ""]
    height, width, channels = run.image_shape
    per_replica = recipe.batch_size // hardware.replicas
    augmentation = pipeline.device_augmentation(settings.data_options, channels, manifest)
    per_pair = augmentation.bytes_per_pair() if augmentation else 2 * height * width * channels
    lines += [
        f"Phases: {', '.join(f'{p.name} every {p.every}' for p in engine.phases)}; schedule's period {engine.period}",
        f"Batch: 2 domains x [{per_replica}, {height}, {width}, {channels}] uint8 "
        f"on each of {hardware.replicas} replicas",
        f"A data iteration: {2 * recipe.batch_size} images, {recipe.batch_size * per_pair:,} bytes to the devices",
        f"Checkpoint: {state / _MIB:.1f} MiB (weights, optimiser slots, averages)",
        f"Data: {manifest.folder}: "
        + ", ".join(f"{name} {split.count}" for name, split in sorted(manifest.splits.items()) if split.count),
        f"Steps: {recipe.steps:,} ({recipe.steps * recipe.batch_size / max(1, manifest.splits['trainA'].count):.1f} "
        "passes over trainA)",
    ]
    return "\n".join(lines)
