"""Runs of the toy method in this process, and what they left."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy import TOY, Config

from tfaclgan.data.pipeline import PipelineOptions
from tfaclgan.engine import strategy
from tfaclgan.training import checkpoint, loop, rundir


def start(data, path, *, method=TOY, config=None, judge=None, replicas=1, recipe=None, **settings):
    recipe = dataclasses.replace(TOY.recipe, **(recipe or {}))
    run = rundir.Run(
        str(path), method, config or Config(), (16, 16, 3), {"load_size": 16, "learning_rate": recipe.learning_rate}
    )
    options = {
        "log_every": 2,
        "sample_every": 4,
        "checkpoint_every": 4,
        "sample_count": 2,
        "steps_per_loop": 4,
        **settings,
    }
    return loop.train(
        run,
        data,
        strategy.make("cpu", cpu_devices=replicas),
        loop.Settings(recipe=recipe, data_options=PipelineOptions(16, 16, 16, augment="flip"), **options),
        judge,
    )


def assert_same_end(one, other):
    one, other = final_state(one), final_state(other)
    assert one.keys() == other.keys()
    assert [name for name in one if not np.array_equal(one[name], other[name])] == []


def final_state(path):
    return checkpoint.load_newest(os.path.join(path, "checkpoints"))[1]


def logged(path):
    with open(os.path.join(path, "metrics.jsonl")) as file:
        return [json.loads(line) for line in file]


def shown(folder):
    """{tag: events} as TensorBoard reads a folder."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return {tag: events.Tensors(tag) for tag in events.Tags()["tensors"]}
