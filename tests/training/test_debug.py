"""Reproduction bundles: written whole where a run stops, and --mode=debug names what went wrong in them."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest
from absl.testing import flagsaver
from toy import TOY, Config

from tfaclgan import main
from tfaclgan.data.pipeline import PipelineOptions, training_dataset
from tfaclgan.engine import strategy
from tfaclgan.errors import EXIT_NON_FINITE, EXIT_USER_ERROR, UserError
from tfaclgan.methods import base
from tfaclgan.training import bundle, checkpoint, debug, loop, rundir

OPTIONS = PipelineOptions(16, 16, 16, augment="flip")


def root_below_zero(networks, batch, context, config):
    """The critic's loss, and from `poison_step` on the root of a negative mean of its scores' squares.

    With `couple` it is the root of zero, whose gradient alone is not finite.
    """
    from keras import ops

    loss = TOY.phases(Config())[0].loss(networks, batch, context, Config())
    squares = ops.mean(ops.square(networks["critic"](batch["b"])))
    sign = ops.where(context.step >= config.poison_step, 0.0 if config.couple else -1.0, 1.0)
    return base.Loss({**loss.terms, "root": ops.sqrt(squares * sign)})


def phases(config):
    critic, generator = TOY.phases(config)
    return dataclasses.replace(critic, loss=root_below_zero), generator


ROOTED = dataclasses.replace(TOY, phases=phases)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(base._REGISTRY, "toy", ROOTED)


def start(data, path, config, **settings):
    run = rundir.Run(str(path), base.get("toy"), config, (16, 16, 3), {})
    settings = {"sample_every": 0, "checkpoint_every": 2, "steps_per_loop": 2, **settings}
    settings = loop.Settings(recipe=TOY.recipe, data_options=OPTIONS, flag_text="--seed=0", **settings)
    return loop.train(run, data, strategy.make("cpu"), settings)


@pytest.fixture(scope="module")
def broken(data, tmp_path_factory):
    """A run that stopped at step 5; its newest checkpoint, of step 4, is damaged, so that the bundle's must serve."""
    path = tmp_path_factory.mktemp("run")
    before = base._REGISTRY.get("toy")
    base._REGISTRY["toy"] = ROOTED
    try:
        assert start(data, path, Config(poison_step=5)) == EXIT_NON_FINITE
    finally:
        base._REGISTRY.pop("toy")
        if before:
            base._REGISTRY["toy"] = before
    return path


def test_a_bundle_holds_the_step_its_batch_its_flags_and_the_checkpoint(broken, data):
    found = bundle.newest(str(broken))
    assert sorted(os.listdir(broken / "broken")) == ["step_000000005"]
    assert sorted(os.listdir(found.path)) == ["batch.npz", "bundle.json", "checkpoint", "run.flags"]
    assert (found.step, found.replicas) == (5, 1)
    assert "critic/root" in found.non_finite
    assert "--seed=0" in (broken / "broken" / "step_000000005" / "run.flags").read_text()
    expected = next(training_dataset(data, OPTIONS, global_batch=4, first_step=5).as_numpy_iterator())
    batch = bundle.read_batch(found)
    assert sorted(batch) == ["a", "b", "label_a", "label_b"]
    assert all(np.array_equal(batch[name], expected[name]) for name in batch)
    assert all(key.decode() in found.pictures for key in [*expected["key_a"], *expected["key_b"]])
    original = checkpoint.load(checkpoint.find(str(broken / "checkpoints"))[0])
    linked = checkpoint.load(found.checkpoint)
    assert found.checkpoint.step == 4
    assert all(np.array_equal(original[name], linked[name]) for name in original)


def test_the_first_bad_operation_the_phase_and_the_weights_are_named(broken):
    checkpoint.remove(checkpoint.find(str(broken / "checkpoints"))[0])  # as --keep_checkpoints would
    lines = []
    found = debug.examine(str(broken), say=lines.append)
    assert (found.step, found.phase, found.terms) == (5, "critic", ("loss", "root"))
    assert found.operation == "Sqrt"
    assert "in the forward pass" in found.place
    assert "test_debug.py" in found.place
    assert "(root_below_zero)" in found.place
    assert found.variables == ()
    assert set(found.gradients) == {f"critic/{name}" for name in ("in/kernel", "in/bias", "out/kernel", "out/bias")}
    assert any("first operation with such an output: Sqrt" in line for line in lines)


def test_a_bad_gradient_is_found_in_the_backward_pass_after_a_replay_from_the_initial_weights(data, tmp_path):
    config = Config(poison_step=5, couple=True)
    assert start(data, tmp_path, config, checkpoint_every=100) == EXIT_NON_FINITE
    assert bundle.newest(str(tmp_path)).checkpoint is None
    lines = []
    found = debug.examine(str(tmp_path), say=lines.append)
    assert any("running steps 0 to 3 again" in line for line in lines)
    assert (found.step, found.phase, found.terms) == (5, "critic", ())
    assert "in the backward pass (_SqrtGrad)" in found.place
    assert "critic/out/bias" in found.gradients


def test_the_command_answers_without_a_bundle_before_tensorflow_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(main, "_import_tensorflow", lambda: pytest.fail("imported"))
    with flagsaver.flagsaver():
        assert main.main(["tfaclgan", "--mode=debug", f"--run_dir={tmp_path}"]) == EXIT_USER_ERROR
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bundle_written_again_replaces_the_first_and_a_failed_one_leaves_nothing(data, tmp_path, monkeypatch, capsys):
    run = rundir.Run(str(tmp_path), ROOTED, Config(), (16, 16, 3), {})
    facts = {"pictures": "a: 1", "replicas": 1, "settings": {}, "data_dir": "d", "flag_text": ""}
    for terms in (("x",), ("y",)):
        path = bundle.write(run, 3, {"a": np.zeros(2)}, None, non_finite=terms, **facts)
    assert bundle.newest(str(tmp_path)).non_finite == ("y",)
    real = bundle.files.write_flushed

    def full(path, content):
        if path.endswith("bundle.json"):
            raise OSError(28, "No space left on device", path)
        real(path, content)

    monkeypatch.setattr(bundle.files, "write_flushed", full)
    with pytest.raises(OSError, match="No space"):
        bundle.write(run, 4, {"a": np.zeros(2)}, None, non_finite=("z",), **facts)
    assert os.listdir(tmp_path / "broken") == ["step_000000003"]
    assert bundle.newest(str(tmp_path)).path == path


def test_without_a_bundle_or_with_a_damaged_one_there_is_one_line(broken, tmp_path):
    with pytest.raises(UserError, match="holds no reproduction bundle"):
        debug.examine(str(tmp_path))
    folder = broken / "broken" / "step_000000005"
    whole = {name: (folder / name).read_bytes() for name in ("batch.npz", "bundle.json")}
    content = json.loads(whole["bundle.json"])
    damages = [
        ("batch.npz", whole["batch.npz"][:-1] + b"x"),
        ("bundle.json", b"{"),
        ("bundle.json", json.dumps({**content, "step": "five"}).encode()),
        ("bundle.json", json.dumps({**content, "settings": {**content["settings"], "seed": "x"}}).encode()),
        ("bundle.json", json.dumps({**content, "config": {"width": "x"}}).encode()),
    ]
    for name, damage in damages:
        (folder / name).write_bytes(damage)
        with pytest.raises(UserError, match="no bundle that can be read") as caught:
            debug.examine(str(broken), say=lambda line: None)
        assert "\n" not in str(caught.value)
        (folder / name).write_bytes(whole[name])
