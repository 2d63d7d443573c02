"""What the TPU check asks of TensorFlow and of the compiler's answers; the compiler itself runs in `make test-all`."""

from __future__ import annotations

import builtins
import dataclasses
import importlib.util
import os

import numpy as np
import on_jax
import own_process
import pytest
import tensorflow as tf
from toy import TOY, Config

from tfaclgan.data import device_augment
from tfaclgan.data.pipeline import PipelineOptions
from tfaclgan.engine import tpu_compiler
from tfaclgan.engine.tensorflow import Engine
from tfaclgan.errors import UserError
from tfaclgan.methods.base import Loss
from tfaclgan.training import loop, rundir, tpu_check
from tfaclgan.training.tpu_check import Check, Iteration

GIB = 2**30
HERE = os.path.dirname(os.path.abspath(__file__))
NEEDS_COMPILER = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu-check")
AUGMENTATION = device_augment.make("council", 16, 16, 18, 3, {"a": None, "b": None})


def engine(method=TOY, augmentation=None, **recipe):
    return Engine(
        method,
        Config(),
        image_shape=(16, 16, 3),
        recipe=dataclasses.replace(TOY.recipe, ema_decay=0.9, **recipe),
        xla="on",
        augmentation=augmentation,
    )


def test_sums_over_devices_are_counted_with_their_bytes():
    text = """
      %all-reduce.1 = (f32[4,4]{1,0:T(8,128)}, bf16[10]{0}) all-reduce(%a, %b), replica_groups={{0,1}}, to_apply=%sum
      %s = f32[] all-reduce-start(f32[] %c), channel_id=1, to_apply=%sum
      %d = f32[] all-reduce-done(f32[] %s)
      ROOT %t = f32[4,4]{1,0} add(%all-reduce.1, %x)
    """
    assert tpu_compiler.all_reduces(text) == (2, 4 * 16 + 2 * 10 + 4)


def test_a_slice_that_is_not_made_is_one_line():
    pytest.importorskip("jax", reason="JAX needs Python 3.11")
    with pytest.raises(UserError, match=r"--tpu_cores=5: .* use one of 4, 8, 16"):
        tpu_compiler.slice_of(tpu_compiler.CHIPS["v5e"], 5)


def test_the_hlo_of_a_step_holds_all_phases_and_the_average():
    subject = engine()
    both, critic_only = tpu_compiler.step_hlo(subject, 0), tpu_compiler.step_hlo(subject, 1)
    assert b"generator" in both
    assert len(both) > 1.2 * len(critic_only)  # the generator is due every other data iteration
    before = subject.state()
    assert all(np.array_equal(before[name], value) for name, value in subject.state().items())
    assert int(subject.step) == 0  # lowered, not run


def test_an_op_without_a_tpu_kernel_is_named_with_its_place():
    def loss(nets, batch, context, config):
        return Loss({"x": tf.reduce_mean(nets["critic"](tf.raw_ops.ResizeBicubic(images=batch["a"], size=[16, 16])))})

    phases = tuple(dataclasses.replace(p, loss=loss) for p in TOY.phases(Config())[:1])
    with pytest.raises(UserError, match=r"op ResizeBicubic \(.*, .*test_tpu_compiler\.py:\d+\) has no TPU kernel"):
        tpu_compiler.step_hlo(engine(dataclasses.replace(TOY, phases=lambda config: phases)), 0)


def test_the_memory_that_was_asked_for_is_read_from_the_compiler_s_words():
    words = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 22.50G of 15.75G hbm. Exceeded hbm capacity by"
    )
    assert tpu_compiler._memory_asked_for(words) == 22.5 * GIB
    words = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (15.86G) exceeds available HBM (15.75G). HLO module: a_inference_iteration_3991__.21.\nSee https:"
    )
    assert tpu_compiler._memory_asked_for(words) == 15.86 * GIB
    assert tpu_compiler._memory_asked_for("INVALID_ARGUMENT: no such op") is None


def test_a_missing_compiler_is_one_line(monkeypatch):
    true_import = builtins.__import__

    def without(name, *arguments, **keywords):
        if name in ("jax", "libtpu"):
            raise ImportError(f"No module named '{name}'")
        return true_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"needs JAX and libtpu .*pip install"):
        tpu_compiler.prepare(tpu_compiler.CHIPS["v5e"])


def test_gradients_of_due_phases_are_counted():
    subject = engine()
    chip = tpu_compiler.CHIPS["v5e"]
    sizes = {
        name: sum(4 * int(np.prod(v.shape)) for v in m.trainable_variables) for name, m in subject.networks.items()
    }
    assert tpu_compiler.gradient_bytes(subject, 1) == sizes["critic"]
    assert tpu_compiler.gradient_bytes(subject, 0) == sizes["critic"] + sizes["generator"]
    # Of n shares of a sum, n - 1 go out and n - 1 come back through each chip's links.
    assert tpu_compiler.ring_seconds(800e9, 8, chip) == pytest.approx(2 * 700e9 / chip.link_bandwidth)


# -- the report and the search, on answers made up here ---------------------------------------------


def made_up(per_core, gib_per_image=1.0, tpu_type="v5e"):
    """A step that takes 1 GiB and `gib_per_image` an image, and 1 ms of operations an image; 2 are expected.

    Traffic would take 0.1 ms an image, half of it beside the products.
    """
    needed = (1 + gib_per_image * per_core) * GIB
    fits = needed <= tpu_compiler.CHIPS[tpu_type].usable_bytes
    compiled = tpu_compiler.Compiled(
        fits,
        needed,
        3.0,
        GIB,
        needed - GIB,
        0.0,
        per_core * 197e9,
        per_core * 81.9e6,
        50.0,
        200.0,
        cycles={"critic/stem_conv/Conv2D": 3.0, "critic/AddN": 1.0},
        product_cycles=per_core * 2e-3 * 1.552e9,
        other_bytes=per_core * 81.9e6 / 2,
    )
    every = Iteration(("critic",), 1, compiled, 0.0, 0.0)
    both = Iteration(("critic", "generator"), 1, dataclasses.replace(compiled, flops=3 * compiled.flops), 0.0, 0.002)
    return Check(tpu_type, 8, per_core, 2, (both, every))


def run_and_settings():
    run = rundir.Run("runs/toy", TOY, Config(), (16, 16, 3), {})
    return run, loop.Settings(TOY.recipe, PipelineOptions(16, 16, 16))


def test_the_report_says_what_bounds_the_step(monkeypatch):
    monkeypatch.setattr(tpu_compiler, "versions", lambda: "libtpu 0")
    found = made_up(4)
    assert found.fits
    # (3 ms x 4 + 2 ms of sums + 1 ms x 4) / 2 data iterations
    assert found.seconds == pytest.approx(0.009)
    assert found.expected_seconds == pytest.approx((2 * 4 * 2.05e-3 + 0.002) / 2)
    text = tpu_check.describe(*run_and_settings(), found)
    assert "critic + generator (1 of 2 data iterations)" in text
    assert "5.00 of 15.75 GiB" in text
    assert "bound by operations" in text
    assert "costliest     critic/stem_conv/Conv2D 75.0%, critic/AddN 25.0%" in text
    assert "75% of the matrix unit's work" in text
    assert "at most 3556 images" in text
    assert "expected      8.2 ms: convolutions and products 8.0 by the compiler's estimate (150% of the peak)" in text
    assert "9.2 ms are expected, 3478 images a second" in text
    run, settings = run_and_settings()
    long = dataclasses.replace(settings, recipe=dataclasses.replace(settings.recipe, steps=2_000_000))
    cost = "2,000,000 data iterations (--steps) take at least 5.0 hours and are expected to take 5.1: 40 and 41 chip-h"
    assert cost in tpu_check.describe(run, long, found)
    assert "DOES NOT FIT" in tpu_check.describe(*run_and_settings(), made_up(40))
    assert "were not compiled" in text
    iterations = made_up(4).iterations
    summed = dataclasses.replace(iterations[0].compiled, reduces=3, reduced_bytes=5 * 2**20)
    first = dataclasses.replace(iterations[0], compiled=summed, gradient_bytes=5 * 2**20)
    whole = dataclasses.replace(made_up(4), iterations=(first, iterations[1]), whole=True)
    text = tpu_check.describe(*run_and_settings(), whole)
    assert "5.0 MiB summed over 8 replicas by 3 all-reduces" in text
    assert "were compiled too" in text


def test_weights_are_gone_when_the_compiler_begins():
    """In a process of its own, as `--mode=tpu_check` is: after other tests here Python's collector is not at hand.

    Seen after the tests of conformance and data: `gc.collect()` does nothing and answers 0, cycles beside it or not.
    """
    own_process.run(os.path.join(HERE, "tpu_weights.py"))


def searched(monkeypatch, answer, start):
    """The batch that the search finds and those that it tried."""
    tried = []

    def check(run, settings, tpu_type, replicas, per_core, augmentation):
        assert augmentation is AUGMENTATION
        tried.append(per_core)
        return answer(per_core)

    monkeypatch.setattr(tpu_check, "check", check)
    found = tpu_check.largest_batch(*run_and_settings(), "v5e", 8, start, AUGMENTATION).per_core
    assert len(tried) == len(set(tried))
    return found, tried


@pytest.mark.parametrize(
    ("gib", "start", "expected", "tries"),
    [
        (1.0, 2, 8, 3),
        (0.1, 1, 144, 3),
        (3.0, 8, 4, 4),
        (5.0, 64, 2, 3),
        (1.0, 8, 8, 2),
        (0.15, 8, 96, 3),
        (0.1, 12, 144, 3),
    ],
)
def test_the_largest_batch_is_found(monkeypatch, gib, start, expected, tries):
    """14.75 GiB are left for images; from 8 a core on only multiples of 8 are tried."""
    found, tried = searched(monkeypatch, lambda per_core: made_up(per_core, gib), start)
    assert found == expected
    assert len(tried) <= tries


@pytest.mark.parametrize("start", [1, 8, 40, 512])
def test_the_largest_batch_is_found_where_memory_is_no_straight_line(monkeypatch, start):
    """Nothing at first, then by steps of 40; 152 is the last that fits."""
    found, tried = searched(
        monkeypatch, lambda n: made_up(n, 0.01) if n < 100 else made_up(n, (n // 40) ** 2 / n), start
    )
    assert found == 152
    assert len(tried) < 14


def test_a_step_that_never_fits_is_refused(monkeypatch):
    monkeypatch.setattr(tpu_check, "check", lambda run, settings, kind, replicas, n, augmentation: made_up(n, 99.0))
    with pytest.raises(UserError, match="not even one image a core fits"):
        tpu_check.largest_batch(*run_and_settings(), "v5e", 8, 4)


@pytest.mark.slow
@NEEDS_COMPILER
@pytest.mark.parametrize("augmentation", [None, AUGMENTATION], ids=["host", "device"])
def test_the_compiler_takes_the_toy_step(augmentation):
    chip = tpu_compiler.CHIPS["v5e"]
    tpu_compiler.prepare(chip)
    compiled = tpu_compiler.compile_hlo(tpu_compiler.step_hlo(engine(augmentation=augmentation), 0), chip)
    assert compiled.fits
    assert compiled.flops > 0
    assert 0 < compiled.useful_flops < compiled.padded_flops
    assert any("critic" in layer for layer in compiled.cycles)


@pytest.mark.slow
@NEEDS_COMPILER
@pytest.mark.parametrize("kind", tpu_compiler.CHIPS)
def test_a_chip_is_the_compiler_s(kind):
    own_process.run(os.path.join(HERE, "tpu_chips.py"), "-k", kind)


@pytest.mark.slow
@NEEDS_COMPILER
def test_the_compiler_s_largest_batch_is_found():
    """At 256 px; the next larger one does not fit."""
    tpu_compiler.prepare(tpu_compiler.CHIPS["v5e"])
    run = rundir.Run("runs/toy", TOY, Config(), (256, 256, 3), {})
    settings = loop.Settings(TOY.recipe, PipelineOptions(256, 256, 256))
    found = tpu_check.largest_batch(run, settings, "v5e", 8, 64)
    assert found.fits
    larger = tpu_check.check(run, settings, "v5e", 8, found.per_core + 8)
    assert not larger.fits
    assert 0.9 * found.chip.usable_bytes < found.needed_bytes <= found.chip.usable_bytes < larger.needed_bytes


@pytest.mark.slow
@NEEDS_COMPILER
def test_the_compiler_takes_the_toy_step_for_a_whole_slice():
    on_jax.run(os.path.join(HERE, "tpu_on_jax.py"))
