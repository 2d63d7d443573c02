"""The TPU's compiler on the JAX engine's step, run by test_tpu_compiler.py in a process with Keras' JAX backend."""

from __future__ import annotations

import math

from toy import TOY, Config

from tfaclgan.data.pipeline import PipelineOptions
from tfaclgan.engine import tpu_compiler
from tfaclgan.training import loop, rundir, tpu_check


def test_the_step_is_compiled_for_four_chips_with_its_sums():
    tpu_compiler.prepare(tpu_compiler.CHIPS["v5e"])
    run = rundir.Run("runs/toy", TOY, Config(), (16, 16, 3), {})
    found = tpu_check.check(run, loop.Settings(TOY.recipe, PipelineOptions(16, 16, 16)), "v5e", 4, 2)
    assert found.fits
    assert found.whole
    sizes = {
        name: sum(4 * math.prod(v.shape) for v in model.trainable_variables)
        for name, model in TOY.networks(Config(), (16, 16, 3)).items()
    }
    reports = 4 * len(TOY.phases(Config())) * 48
    for iteration in found.iterations:
        gradients = sum(sizes[name] for name in iteration.phases)  # a phase of the toy trains the network of its name
        assert iteration.compiled.reduces >= 1
        assert gradients <= iteration.compiled.reduced_bytes <= 1.1 * gradients + reports
        assert iteration.compiled.flops > 0
    assert "for all 4" in tpu_check.describe(run, loop.Settings(TOY.recipe, PipelineOptions(16, 16, 16)), found)
