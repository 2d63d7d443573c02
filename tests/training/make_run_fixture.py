"""Makes the run directory that `test_kept_run.py` opens: four steps of the toy method by the version of its name.

    python tests/training/make_run_fixture.py tests/training/fixtures/run_0.1.0

Run once for a release, never again: a later version must open what that one wrote. What depends on the machine
(environment.json, logs, samples) is left out.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import tempfile

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import folder_of_records
import numpy as np
from toy import TOY, Config

from tfaclgan.data import records
from tfaclgan.data.pipeline import PipelineOptions
from tfaclgan.engine import strategy
from tfaclgan.methods import base
from tfaclgan.training import loop, rundir

RECIPE = dataclasses.replace(TOY.recipe, steps=4, ema_decay=0.5)
INPUT = np.random.RandomState(7).randint(0, 256, (2, 16, 20, 3), np.uint8)


def settings(recipe):
    options = PipelineOptions(16, 16, 16, augment="flip")
    return loop.Settings(recipe, options, deterministic=True, sample_every=0, checkpoint_every=2, steps_per_loop=2)


def main(target):
    import tensorflow as tf

    import tfaclgan

    tf.config.experimental.enable_op_determinism()
    tf.random.set_seed(0)
    base.names()
    base.register(TOY)
    with tempfile.TemporaryDirectory() as scratch:
        data = records.load_manifest(folder_of_records.write(os.path.join(scratch, "data")))
        path = os.path.join(scratch, "run")
        run = rundir.Run(path, TOY, Config(), (16, 16, 3), {"load_size": 16, "data_dir": "data", "learning_rate": 1e-3})
        loop.train(run, data, strategy.make("cpu"), settings(RECIPE))
        os.makedirs(target)
        shutil.copy(os.path.join(path, "run.json"), target)
        shutil.copytree(os.path.join(path, "checkpoints"), os.path.join(target, "checkpoints"))
        output = tfaclgan.load(path).translate(INPUT.astype(np.float32) / 127.5 - 1, direction="a2b")
    np.save(os.path.join(target, "translated.npy"), np.asarray(output, np.float32))


if __name__ == "__main__":
    main(sys.argv[1])
