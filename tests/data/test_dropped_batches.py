"""Iterators left in a dead cycle that Python's collector finds from a thread of their own pipeline."""

from __future__ import annotations

import functools
import gc
import threading
import time
import weakref

import numpy as np
import pytest
import record_folder
from toy import TOY, Config

from tfaclgan.data import pipeline, reading
from tfaclgan.engine import strategy as strategies
from tfaclgan.engine.tensorflow import Engine
from tfaclgan.metrics import evaluate

OPTIONS = pipeline.PipelineOptions(height=16, width=16, load_size=16, seed=3)


class Link:
    """An object that only the collector can free."""

    def __init__(self, held):
        self.held, self.itself = held, self


class Collecting:
    """A slow `read_many` that takes the last reference to what is `left` to it, and then runs the collector."""

    def __init__(self, monkeypatch):
        self.left, self.done = [], threading.Event()
        true = reading.SplitReader.read_many

        def read_many(reader, numbers):
            time.sleep(0.3)  # so that the pipeline is not filled when its first batch is out
            if self.left:
                self.left.clear()
                gc.collect()
                self.done.set()
            return true(reader, numbers)

        monkeypatch.setattr(reading.SplitReader, "read_many", read_many)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    pictures = list(np.random.RandomState(0).randint(0, 256, (64, 16, 16, 3), dtype=np.uint8))
    return record_folder.make(tmp_path_factory.mktemp("data"), {s: pictures for s in ("trainA", "trainB", "testA")})


def for_training(manifest, replicas):
    hardware = strategies.make("cpu", cpu_devices=replicas)
    subject = Engine(TOY, Config(), image_shape=(16, 16, 3), recipe=TOY.recipe, strategy=hardware.strategy)
    return subject.batches(
        lambda: pipeline.training_dataset(manifest, OPTIONS, global_batch=32, replicas_per_host=replicas)
    )


def for_judging(manifest):
    data = evaluate._Data(manifest, OPTIONS, 1, None, "", print)
    return data.batches("testA", 64)


@pytest.mark.parametrize(
    "make",
    [functools.partial(for_training, replicas=1), functools.partial(for_training, replicas=2), for_judging],
    ids=["training", "training on two replicas", "judging"],
)
def test_the_collector_comes_back_from_a_pipeline_s_own_thread(monkeypatch, manifest, make):
    """Without a second owner of the iterator it waits there for itself, and nothing is collected any more."""
    collecting = Collecting(monkeypatch)
    batches = make(manifest)
    next(batches)
    link = Link(batches)
    seen = weakref.ref(link)
    collecting.left.append(link)
    del batches, link
    assert collecting.done.wait(20)
    assert seen() is None
