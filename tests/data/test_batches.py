"""Iterators left in a dead cycle that Python's collector finds from a thread of their own pipeline."""

from __future__ import annotations

import functools
import gc
import threading
import weakref

import numpy as np
import pytest
import record_folder
from toy import TOY, Config

from tfaclgan.data import pipeline, reading
from tfaclgan.engine import strategy as strategies
from tfaclgan.engine.tensorflow import Engine
from tfaclgan.metrics import evaluate

OPTIONS = pipeline.PipelineOptions(height=16, width=16, load_size=16, seed=3, parallel_calls=2)


class Link:
    """An object that only the collector can free."""

    def __init__(self, held):
        self.held, self.itself = held, self


class Collecting:
    """`read_many` that, in its `call`th call, waits to be released and then runs the collector."""

    def __init__(self, monkeypatch, call):
        self.reached, self.released, self.done = threading.Event(), threading.Event(), threading.Event()
        true, calls, lock = reading.SplitReader.read_many, [], threading.Lock()

        def read_many(reader, numbers):
            with lock:
                calls.append(numbers)
                is_chosen = len(calls) == call
            if is_chosen:
                self.reached.set()
                assert self.released.wait(60)
                gc.collect()
                self.done.set()
            return true(reader, numbers)

        monkeypatch.setattr(reading.SplitReader, "read_many", read_many)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    pictures = list(np.random.RandomState(0).randint(0, 256, (64, 16, 16, 3), dtype=np.uint8))
    return record_folder.make(tmp_path_factory.mktemp("data"), {s: pictures for s in ("trainA", "trainB", "testA")})


def collector_works():
    link = Link(None)
    seen = weakref.ref(link)
    del link
    gc.collect(0)
    return seen() is None


def for_training(manifest, replicas):
    hardware = strategies.make("cpu", cpu_devices=replicas)
    subject = Engine(TOY, Config(), image_shape=(16, 16, 3), recipe=TOY.recipe, strategy=hardware.strategy)
    return subject.batches(
        lambda: pipeline.training_dataset(manifest, OPTIONS, global_batch=4, replicas_per_host=replicas)
    )


def for_judging(manifest):
    data = evaluate._Data(manifest, OPTIONS, 1, None, "", print)
    return data.batches("testA", 64)


@pytest.mark.parametrize(
    ("make", "call"),  # the first that the first batch cannot need: two of each domain are under way at once
    [
        (functools.partial(for_training, replicas=1), 5),
        (functools.partial(for_training, replicas=2), 5),
        (for_judging, 3),
    ],
    ids=["training", "training on two replicas", "judging"],
)
def test_the_collector_comes_back_from_a_pipeline_s_own_thread(monkeypatch, manifest, make, call):
    """Without a second owner of the iterator it waits there for itself, and nothing is collected any more."""
    collecting = Collecting(monkeypatch, call)
    batches = make(manifest)
    next(batches)
    assert collecting.reached.wait(60)
    link = Link(batches)
    left = weakref.ref(link)
    del batches, link
    collecting.released.set()
    assert collecting.done.wait(20)
    assert left() is None
    assert collector_works()
