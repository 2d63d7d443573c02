"""What the house promises of every registered method, asked of each in its smallest form.

Tracing an engine is what these tests cost: what one plain engine says of two periods serves several of them, and the
tests of a method stay with one worker (`--dist loadgroup`).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from tiny_methods import BATCH, SIZE, TINY, config_of, recipe_of

from tfaclgan.engine import strategy as strategies
from tfaclgan.engine import tpu_compiler
from tfaclgan.engine.base import build_networks
from tfaclgan.engine.tensorflow import Engine
from tfaclgan.engine.tpu_compiler import WITHOUT_TPU_KERNEL
from tfaclgan.inference.translator import Translator
from tfaclgan.layers import target
from tfaclgan.methods import base
from tfaclgan.training import checkpoint, rundir
from tfaclgan.training.watch import Watch


def test_every_method_is_covered():
    assert sorted(TINY) == base.names()


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.xdist_group(n)) for n in sorted(TINY)])
def method(request):
    return base.get(request.param)


class Trained(NamedTuple):
    """A plain engine of one replica after two periods: its state before, between and after them, its reports."""

    engine: Engine
    iterator: Any
    states: list[dict[str, np.ndarray]]
    reports: list[Any]


@pytest.fixture(scope="module")
def plain(method):
    subject = engine(method, xla="off")
    iterator, states, reports = batches(subject), [subject.state()], []
    for _ in range(2):
        reports.append(subject.train(iterator, subject.period))
        states.append(subject.state())
    return Trained(subject, iterator, states, reports)


def engine(method, replicas=1, recipe=None, **options):
    hardware = strategies.make("cpu", cpu_devices=replicas)
    return Engine(
        method,
        config_of(method),
        image_shape=(SIZE, SIZE, 3),
        recipe=recipe_of(method, ema_decay=0.9, **(recipe or {})),
        strategy=hardware.strategy,
        **options,
    )


def batches(subject, first=0):
    random = np.random.RandomState(0)
    data = {key: random.randint(0, 256, (8 * BATCH, SIZE, SIZE, 3), dtype=np.uint8) for key in "ab"}

    def make(_):
        dataset = tf.data.Dataset.from_tensor_slices(data).repeat().skip(first * BATCH)
        return dataset.batch(BATCH // subject.replicas, drop_remainder=True)

    return iter(make(None)) if subject.replicas == 1 else iter(subject.strategy.distribute_datasets_from_function(make))


def test_trains_every_weight(method, plain):
    before, _, after = plain.states
    trained = {n.split("/v/", 1)[1] for n in after if n.startswith("optimizers/") and "/v/" in n}
    still = [n for n in trained if np.array_equal(before[f"networks/{n}"], after[f"networks/{n}"])]
    assert not still, f"never trained: {still}"
    slots = [n for n in after if n.startswith("optimizers/") and "/v/" in n and not after[n].any()]
    assert not slots, f"never had a gradient: {slots}"
    assert not any(report.non_finite for report in plain.reports)


def test_is_traced_once_and_has_no_operation_without_a_tpu_kernel(plain):
    assert plain.engine.trace_count == 1
    function = plain.engine._train.get_concrete_function(plain.iterator, tf.constant(2, tf.int64))
    functions = function.graph.as_graph_def().library.function
    ops = {node.op for function in functions for node in function.node_def}
    assert not ops & WITHOUT_TPU_KERNEL


def test_two_replicas_train_as_one_does(method, plain):
    two = engine(method, replicas=2)
    iterator = batches(two)
    first_phase = method.phases(config_of(method))[0].name
    for turn, (relative, absolute) in enumerate(((1e-3, 1e-5), (2e-3, 1e-4))):
        expected, actual = plain.reports[turn].scalars, two.train(iterator, two.period).scalars
        assert expected.keys() == actual.keys()
        for name, value in expected.items():
            # From equal weights the first phase agrees to float accuracy. Then Adam turns rounding of vanishing
            # gradients into whole steps of the rate (reference 13), so weights are compared through what they do.
            if turn or name.startswith(first_phase):
                assert actual[name] == pytest.approx(value, rel=relative, abs=absolute), name


# Adam's root makes steps of one size out of gradients of any size, rounding included; beside this epsilon it does not.
PLAIN_STEPS = {"adam_epsilon": 0.1, "learning_rate": 2e-3}


@pytest.mark.slow
def test_one_two_and_one_replicas_end_where_one_does(method):
    """At least five data iterations; the second path saves on one replica, goes on with two, and ends on one."""
    alone, first, two, last = (engine(method, n, PLAIN_STEPS, xla="off") for n in (1, 1, 2, 1))
    period = alone.period
    turns = max(3, -(-5 // period))
    source, before = batches(alone), alone.state()
    expected = [alone.train(source, period).scalars for _ in range(turns)]
    actual, state = [], before
    for turn in range(turns):
        subject = first if turn == 0 else last if turn == turns - 1 else two
        if turn in (0, 1, turns - 1):
            subject.load_state(state, "state")
            source = batches(subject, turn * period)
        actual.append(subject.train(source, period).scalars)
        state = subject.state()
    for turn in range(turns):
        assert expected[turn].keys() == actual[turn].keys()
        for name, value in expected[turn].items():
            # Gradients jump where |x| and ReLU have their corners: float32's norms are up to 1.5e-3 from float64's
            # (methods_on_jax.py).
            relative = 2e-4 if name.endswith("/gradient_norm") else 1e-5
            assert actual[turn][name] == pytest.approx(value, rel=relative, abs=1e-6), (turn, name)
    end = alone.state()
    for name in alone.networks:
        ours, theirs, start = (
            np.concatenate([s[key].ravel() for key in sorted(s) if key.startswith(f"networks/{name}/")])
            for s in (state, end, before)
        )
        size, moved, apart = (np.linalg.norm(x) for x in (theirs, theirs - start, ours - theirs))
        print(method.name, name, apart / size, moved / size)
        assert apart <= 1e-5 * size
        assert moved > 100 * apart


def test_compiles_under_xla_and_agrees(method, plain):
    """With its layers computed as on a TPU, which XLA has to take too."""
    compiled = engine(method, xla="on")
    with target.compiling_for("tpu"):
        actual = compiled.train(batches(compiled), compiled.period).scalars
    for name, value in plain.reports[0].scalars.items():
        assert actual[name] == pytest.approx(value, rel=2e-3, abs=1e-4), name


@pytest.mark.slow
def test_a_tpu_s_step_convolves_in_bfloat16_and_turns_no_maps(method):
    """Scores are made in float32; everything else takes the matrix unit's type, in the order that it lies in memory."""
    text = tpu_compiler.step_hlo_text(engine(method, dtype="bfloat16", xla="on"), 0)
    convolutions = re.findall(r'= (\w+)\[[\d,]*\]\S* convolution\(.*op_name="([^"]*)"', text)
    assert len(convolutions) > 20
    assert {kind for kind, _ in convolutions} == {"bf16", "f32"}
    assert not [name for kind, name in convolutions if kind == "f32" and "score" not in name]
    orders = {tuple(map(int, order.split(","))) for order in re.findall(r" transpose\(.*dimensions=\{([\d,]+)\}", text)}
    # Of maps [n, height, width, channels]; more sides are kernels, and pixels that come to lie between others.
    assert not [order for order in orders if len(order) == 4 and order != (0, 1, 2, 3)]


@pytest.mark.parametrize("goes_on", ["the same engine", pytest.param("a new engine", marks=pytest.mark.slow)])
def test_an_interrupted_run_equals_an_uninterrupted_one_bit_for_bit(method, plain, goes_on, tmp_path):
    """An engine that has trained on goes back to a checkpoint: whatever else it remembers must not matter."""
    period = plain.engine.period
    checkpoint.save(str(tmp_path), plain.states[1], period)
    saved = checkpoint.load_newest(str(tmp_path))[1]
    second = plain.engine if goes_on == "the same engine" else engine(method, xla="off")
    second.load_state(saved, "checkpoint")
    second.train(batches(second, first=period), period)
    expected, actual = plain.states[2], second.state()
    different = [name for name in expected if not np.array_equal(expected[name], actual[name])]
    assert not different


def test_a_second_build_takes_the_state_of_the_first(method, plain):
    """Of another seed: every weight, slot and memory has the same name, and is replaced."""
    second = engine(method, seed=9)
    assert list(second.variables()) == list(plain.engine.variables())
    second.load_state(plain.states[1], "state")
    actual = second.state()
    assert not [name for name, value in plain.states[1].items() if not np.array_equal(value, actual[name])]


def test_checkpoint_to_translation(method, plain, tmp_path):
    config = config_of(method)
    run = rundir.Run(str(tmp_path / "run"), method, config, (SIZE, SIZE, 3), {"load_size": SIZE})
    rundir.open_run(run)
    checkpoint.save(run.folder("checkpoints"), plain.states[2], 2 * plain.engine.period)
    loaded_run, networks = rundir.load_networks(run.path)
    assert loaded_run.config == config
    translator = Translator(loaded_run, networks)
    photos = np.random.RandomState(1).randint(0, 256, (3, 40, 33, 3), dtype=np.uint8)
    for direction in translator.directions:
        result = translator.translate(photos, direction=direction, seed=3)
        assert result.shape == photos.shape
        assert result.dtype == np.uint8
        assert np.array_equal(result, translator.translate(photos, direction=direction, seed=3))
        if method.encode_style:
            assert translator.encode_style(photos, direction=direction).shape == (3, translator.style_dim)
        if translator.style_dim:
            assert not np.array_equal(result, translator.translate(photos, direction=direction, seed=4))


def test_grey_and_rectangular_images_train_in_bfloat16(method):
    subject = Engine(
        method, config_of(method), image_shape=(SIZE, 2 * SIZE, 1), recipe=recipe_of(method), dtype="bfloat16"
    )
    images = np.random.RandomState(0).randint(0, 256, (2 * BATCH, SIZE, 2 * SIZE, 1), dtype=np.uint8)
    iterator = iter(
        tf.data.Dataset.from_tensor_slices({"a": images, "b": images}).repeat().batch(BATCH, drop_remainder=True)
    )
    assert not subject.train(iterator, 2 * subject.period).non_finite
    assert all(np.isfinite(v).all() for v in subject.state().values())
    assert {str(v.dtype) for m in subject.networks.values() for v in m.trainable_variables} == {"float32"}


def test_new_networks_give_none_of_the_warnings_of_a_dead_run(method):
    """Random weights are the least that a generator is; where masks begin is the method's own matter."""
    said = []
    watch = Watch(said.append, lambda step, values: None)
    config, size = config_of(method), (SIZE, SIZE, 3)
    networks = build_networks(method, config, size)
    random = np.random.RandomState(0)
    inputs = random.randint(0, 256, (2, *size)).astype(np.uint8)
    width = method.style_dim(config)
    styles = [random.normal(size=(2, width)).astype(np.float32) for _ in range(2)] if width else [None]
    for direction in method.directions(config):
        outputs = [
            np.array(method.translate(networks, inputs / np.float32(127.5) - 1, style, direction, config).image)
            for style in styles
        ]
        pixels = [np.round(np.clip(127.5 * image + 127.5, 0, 255)).astype(np.uint8) for image in outputs]
        watch.sampled(1, direction, inputs, pixels)
    assert said == []
