"""Warnings: each has a made-up cause, is said once until it clears, and a healthy run gives none."""

from __future__ import annotations

import dataclasses
import json

import folder_of_records
import numpy as np
import pytest
from toy import TOY, Config

from tfaclgan.data import records
from tfaclgan.data.pipeline import PipelineOptions
from tfaclgan.engine import strategy
from tfaclgan.errors import EXIT_OK
from tfaclgan.methods import base
from tfaclgan.training import loop, rundir
from tfaclgan.training.watch import LOG_POINTS, Watch

RANDOM = np.random.RandomState(0)
INPUTS = RANDOM.randint(0, 256, (3, 16, 16, 3)).astype(np.uint8)
OUTPUTS = 255 - INPUTS
MASK = np.full((3, 16, 16, 1), 0.4, np.float32)


class Watched:
    def __init__(self, **options):
        self.said, self.written = [], []
        self.watch = Watch(self.said.append, lambda step, values: self.written.append((step, values)), **options)

    def names(self):
        return [(name.removeprefix("warning/"), value) for _, values in self.written for name, value in values.items()]


def sampled(outputs, mask=None, inputs=INPUTS):
    watched = Watched()
    watched.watch.sampled(10, "a2b", inputs, outputs, mask)
    return watched.names()


def logged(losses, gradient=1.0):
    watched = Watched()
    for step, loss in enumerate(losses):
        watched.watch.logged(step, {"critic/loss": loss, "critic/gradient_norm": gradient, "critic/real": 0.0})
    return watched.names()


@pytest.mark.parametrize("value", [0, 127, 255])
def test_pictures_of_one_colour_are_a_dead_generator(value):
    assert sampled([np.full_like(OUTPUTS, value)]) == [("constant_output_a2b", 1)]
    each = np.broadcast_to(np.array([0, 90, 255], np.uint8)[:, None, None, None], OUTPUTS.shape)
    assert sampled([each]) == [("constant_output_a2b", 1)]


def test_one_picture_for_all_inputs_is_a_collapse():
    one = np.repeat(OUTPUTS[:1], 3, axis=0)
    assert sampled([one]) == [("same_output_a2b", 1)]
    assert sampled([one], inputs=np.repeat(INPUTS[:1], 3, axis=0)) == []  # as it should be
    assert sampled([OUTPUTS[:1]], inputs=INPUTS[:1]) == []  # one sample says nothing


def test_styles_without_effect_are_told():
    assert sampled([OUTPUTS, OUTPUTS.copy()]) == [("style_ignored_a2b", 1)]
    assert sampled([OUTPUTS, OUTPUTS // 2]) == []


@pytest.mark.parametrize("mean, warned", [(0.0, True), (0.009, True), (0.02, False), (0.98, False), (0.995, True)])
def test_masks_at_a_bound_are_told(mean, warned):
    found = sampled([OUTPUTS, OUTPUTS // 2], np.full((3, 16, 16, 1), mean, np.float32))
    assert found == ([("mask_a2b", 1)] if warned else [])


def test_healthy_samples_give_no_warning():
    assert sampled([OUTPUTS, OUTPUTS // 2], MASK) == []


@pytest.mark.parametrize("loss", [0.0, 0.5, 2.0, -3.0])
def test_a_loss_that_stands_still_is_a_dead_phase(loss):
    assert logged([loss] * LOG_POINTS) == [("dead_critic", 1)]
    assert logged([loss] * (LOG_POINTS - 1)) == []


def test_no_gradient_is_a_dead_phase_at_once():
    assert logged([0.7], gradient=0.0) == [("dead_critic", 1)]


def test_losses_that_move_are_healthy():
    assert logged([0.5, 0.501, 0.4995, 0.5, 0.5002, 0.5, 0.501]) == []


def test_waiting_for_input_is_a_warning_and_on_cpus_a_note():
    for on_cpu, kind in ((False, "warning"), (True, "note")):
        watched = Watched(on_cpu=on_cpu)
        for share in (0.29, float("nan"), 0.31, float("nan"), 0.5, 0.1):
            watched.watch.waited(5, share)
        assert watched.names() == [("input_wait", 1), ("input_wait", 0)]
        assert watched.said[0].startswith(f"tfaclgan: {kind}: step 5: 31% of the time")


def test_each_is_said_once_until_it_clears_also_by_a_run_that_goes_on():
    dead, watched = np.zeros_like(OUTPUTS), Watched()
    for step, outputs in enumerate([dead, dead, OUTPUTS, dead]):
        watched.watch.sampled(step, "a2b", INPUTS, [outputs])
    assert [line.split(": ")[-2] if "no longer" in line else "said" for line in watched.said] == [
        "said",
        "no longer",
        "said",
    ]
    resumed = Watched()
    for step, values in watched.written:
        resumed.watch.remember({"step": step, **values})
    for step in range(LOG_POINTS - 1):
        resumed.watch.remember({"step": step, "critic/loss": 0.5})
    assert resumed.watch.standing == ("constant_output_a2b",)
    resumed.watch.sampled(4, "a2b", INPUTS, [dead])
    assert resumed.said == []
    resumed.watch.logged(5, {"critic/loss": 0.5})
    assert resumed.names() == [("dead_critic", 1)]


def start(data, path, method, monkeypatch):
    monkeypatch.setitem(base._REGISTRY, "toy", method)
    run = rundir.Run(str(path), method, Config(), (16, 16, 3), {})
    recipe = dataclasses.replace(TOY.recipe, steps=12)
    settings = loop.Settings(
        recipe, PipelineOptions(16, 16, 16), log_every=2, sample_every=4, sample_count=3, steps_per_loop=2,
        deterministic=True,
    )  # fmt: skip
    assert loop.train(run, data, strategy.make("cpu"), settings) == EXIT_OK
    with open(path / "metrics.jsonl") as file:
        lines = [json.loads(line) for line in file]
    return [(line["step"], name) for line in lines for name in line if name.startswith("warning/")]


def test_a_healthy_run_warns_of_nothing_and_a_dead_one_once(tmp_path, monkeypatch, capsys):
    data = records.load_manifest(folder_of_records.write(tmp_path / "data"))
    assert start(data, tmp_path / "healthy", TOY, monkeypatch) == []
    assert "looks dead" not in capsys.readouterr().err

    def black(networks, images, style, direction, config):
        return base.Translation(networks["generator"](images) * 0 - 1)

    def still(networks, batch, context, config):
        loss = TOY.phases(Config())[0].loss(networks, batch, context, config)
        return base.Loss({name: 0 * value + 0.25 for name, value in loss.terms.items()})

    phases = (dataclasses.replace(TOY.phases(Config())[0], loss=still), TOY.phases(Config())[1])
    dead = dataclasses.replace(TOY, translate=black, phases=lambda config: phases)
    expected = [(2, "warning/dead_critic"), (4, "warning/constant_output_a2b")]
    assert start(data, tmp_path / "dead", dead, monkeypatch) == expected
    said = capsys.readouterr().err
    assert said.count("critic looks dead: its gradient is 0") == 1
    assert said.count("the generator gives pictures of one colour (mean 0 of 255)") == 1
