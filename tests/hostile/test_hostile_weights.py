"""Checkpoints, run directories, given-away folders and PyTorch files that were damaged or made to hurt.

What is loaded is what was saved, or there is one line. Nothing is ever run from a file.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pathlib
import pickle
import shutil

import corpus
import numpy as np
import pytest
import safetensors.numpy
from toy import TOY, Config

from tfaclgan.errors import UserError
from tfaclgan.importing import tensor_files
from tfaclgan.inference import pretrained
from tfaclgan.methods import base
from tfaclgan.metrics import cache, efficientnet
from tfaclgan.training import checkpoint, rundir

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MANY = pytest.param(600, marks=pytest.mark.slow)
KEPT = ROOT / "tests" / "training" / "fixtures" / "run_0.1.0"


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        base.names()
        patch.setitem(base._REGISTRY, "toy", TOY)
        yield


@pytest.fixture
def run(tmp_path):
    return pathlib.Path(shutil.copytree(KEPT, tmp_path / "run"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(a given-away folder, its arrays)."""
    folder = tmp_path_factory.mktemp("saved") / "folder"
    pretrained.save_pretrained(str(KEPT), str(folder))
    return folder, safetensors.numpy.load((folder / pretrained.WEIGHTS).read_bytes())


def equal(found, expected):
    return found.keys() == expected.keys() and all(np.array_equal(found[n], expected[n]) for n in expected)


@pytest.mark.parametrize("cases", [120, MANY])
def test_damaged_checkpoints(run, cases, capsys):
    """Any damage to one checkpoint leaves the other; damage to the newer one is told."""
    folder = run / "checkpoints"
    states = {step: checkpoint.load(checkpoint.Checkpoint(str(folder / f"step_{step:09d}"), step)) for step in (2, 4)}
    files = [folder / "step_000000004" / name for name in ("state.safetensors", "manifest.json")]

    def check(draw):
        file = files[draw.integers(2)]
        whole = file.read_bytes()
        if file.name == "manifest.json" and draw.integers(2):
            file.write_text(corpus.replaced(whole.decode(), draw))
        else:
            file.write_bytes(corpus.damage(whole, draw)[0])
        try:
            found, state = checkpoint.load_newest(str(folder))
        except UserError as error:  # only a format of later days is not to be passed over
            corpus.refused(error)
            assert checkpoint.files.parse_json(file.read_bytes())["format_version"] > checkpoint.FORMAT_VERSION
        else:
            assert equal(state, states[found.step])
            assert found.step == 4 or "step_000000004" in capsys.readouterr().err
        file.write_bytes(whole)

    corpus.each(cases, check)


@pytest.mark.parametrize("content", corpus.DEEP)
def test_json_that_is_deep_or_none(run, saved, tmp_path, content, capsys):
    (run / "checkpoints" / "step_000000004" / "manifest.json").write_bytes(content)
    assert checkpoint.load_newest(str(run / "checkpoints"))[0].step == 2
    (run / "run.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        rundir.read_run(str(run))
    corpus.refused(caught.value)
    folder = shutil.copytree(saved[0], tmp_path / "given")
    pathlib.Path(folder, pretrained.CONFIG).write_bytes(content)
    with pytest.raises(UserError) as caught:
        pretrained.load_pretrained(str(folder))
    corpus.refused(caught.value)


def rewrite(folder, data):
    """Puts `data` in a checkpoint's place, with a manifest that vouches for it."""
    (folder / "state.safetensors").write_bytes(data)
    path = folder / "manifest.json"
    hashed = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps({**json.loads(path.read_text()), **hashed}))


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 8, b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}", pickle.dumps({"a": 1}), b"\x08\0\0\0\0\0\0\0[[[[[[[["],
)  # fmt: skip
def test_a_manifest_that_vouches_for_no_arrays(run, data, capsys):
    rewrite(run / "checkpoints" / "step_000000004", data)
    found, _ = checkpoint.load_newest(str(run / "checkpoints"))
    if found.step == 4:  # no arrays at all is a file of its kind: the networks refuse it
        with pytest.raises(UserError):
            rundir.load_networks(str(run))
    else:
        assert "step_000000004" in capsys.readouterr().err


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(run, saved, tmp_path, number):
    newest = run / "checkpoints" / "step_000000004"
    state = safetensors.numpy.load((newest / "state.safetensors").read_bytes())
    name = "averages/generator/in/kernel"
    state[name] = state[name].copy()
    state[name].flat[5] = number
    rewrite(newest, safetensors.numpy.save(state))
    with pytest.raises(UserError, match="not finite") as caught:
        rundir.load_networks(str(run))
    corpus.refused(caught.value)
    assert "step_000000004" in str(caught.value)


def test_a_checkpoint_under_another_steps_name(run, capsys):
    os.rename(run / "checkpoints" / "step_000000004", run / "checkpoints" / "step_000009999")
    assert checkpoint.load_newest(str(run / "checkpoints"))[0].step == 2
    assert "step_000009999" in capsys.readouterr().err


@pytest.mark.parametrize("cases", [150, MANY])
def test_run_json_that_says_something_else(run, cases):
    """A run that is read holds options its method can have."""
    whole = (run / "run.json").read_text()

    def check(draw):
        (run / "run.json").write_text(corpus.replaced(whole, draw))
        try:
            found = rundir.read_run(str(run))
        except UserError as error:
            corpus.refused(error)
            return
        assert isinstance(found.config, Config)
        assert type(found.config.width) is int
        assert type(found.config.couple) is bool
        assert len(found.image_shape) == 3
        assert all(type(side) is int and side > 0 for side in found.image_shape)
        assert isinstance(found.flags, dict)

    corpus.each(cases, check)


@pytest.mark.parametrize(
    "values",
    [{"width": "64"}, {"width": 10**30}, {"width": -4}, {"style_dim": 1.5}, {"mask_bound": "sometimes"},
     {"image_weight": float("nan")}, {"image_weight": None}, {"width": [64]}, {"width": True}],
)  # fmt: skip
def test_options_a_method_cannot_have(run, values):
    config = {**json.loads(json.dumps(vars(base.get("acl_gan").config()))), **values}
    content = {**json.loads((run / "run.json").read_text()), "method": "acl_gan", "config": config}
    (run / "run.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        rundir.read_run(str(run))
    corpus.refused(caught.value)


@pytest.mark.parametrize("cases", [120, MANY])
def test_damaged_folders_that_were_given_away(saved, tmp_path, cases, monkeypatch):
    """Networks are built only from a description that holds, and filled only with the bytes it vouches for."""
    monkeypatch.setattr("tfaclgan.engine.base.build_networks", lambda *arguments: {})
    loaded = []
    monkeypatch.setattr("tfaclgan.engine.base.assign_all", lambda names, state, source: loaded.append(state))
    folder = pathlib.Path(shutil.copytree(saved[0], tmp_path / "given"))

    def check(draw):
        file = folder / (pretrained.CONFIG, pretrained.WEIGHTS)[draw.integers(2)]
        whole = file.read_bytes()
        if file.name == pretrained.CONFIG and draw.integers(2):
            file.write_text(corpus.replaced(whole.decode(), draw))
        else:
            file.write_bytes(corpus.damage(whole, draw)[0])
        try:
            pretrained.load_pretrained(str(folder))
            assert equal(loaded.pop(), saved[1])
        except UserError as error:
            corpus.refused(error)
        file.write_bytes(whole)

    corpus.each(cases, check)


@pytest.mark.parametrize("cases", [60, MANY])
def test_random_pickles_are_never_run(tmp_path, cases):
    """Streams of instructions that would call anything, in PyTorch's clothes or none."""
    witness = tmp_path / "witness"
    calls = [pathlib.Path.touch, os.system, eval, exec, shutil.rmtree]

    class Evil:
        def __init__(self, call):
            self.call = call

        def __reduce__(self):
            return (self.call, (f"open({str(witness)!r}, 'w')" if self.call in (eval, exec) else str(witness),))

    def check(draw):
        value = {"state": {f"w{i}": np.zeros(2).tolist() for i in range(3)}, "evil": Evil(calls[draw.integers(5)])}
        data = pickle.dumps(value, int(draw.integers(6)))
        if draw.integers(2):
            data = corpus.damage(data, draw)[0]
        path = tmp_path / "weights.pt"
        path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            tensor_files.read(str(path))
        corpus.refused(caught.value)
        assert not witness.exists()

    corpus.each(cases, check)


@pytest.mark.parametrize("cases", [60, MANY])
def test_damaged_weights_of_the_feature_network(tmp_path, cases):
    """PyTorch's older format, whose pickles metrics/efficientnet.py reads with an unpickler of its own."""
    witness = tmp_path / "witness"

    class Evil:
        def __reduce__(self):
            return (pathlib.Path.touch, (witness,))

    start = b"".join(pickle.dumps(value, 2) for value in (tensor_files._MAGIC, 1001, {}))
    evil = start + pickle.dumps({"a": Evil()}, 2)
    empty = start + pickle.dumps({}, 2) + pickle.dumps([], 2)
    keys = start + pickle.dumps({}, 2) + pickle.dumps(["0", "1"], 2) + b"\xff" * 64

    def check(draw):
        path = tmp_path / "weights.pth"
        path.write_bytes(corpus.damage((evil, empty, keys)[draw.integers(3)], draw)[0])
        try:
            assert efficientnet.read_weights(str(path)) == {}
        except UserError as error:
            corpus.refused(error)
        assert not witness.exists()

    corpus.each(cases, check)


@pytest.mark.parametrize("cases", [60, MANY])
def test_damaged_caches_of_features(tmp_path, cases):
    """A cache that cannot be trusted costs a line and the time, and gives the features all the same."""
    features, told, key = np.arange(12, dtype=np.float32).reshape(4, 3), [], {"count": 4}

    def read():
        return cache.cached_features(str(tmp_path), "testA", key, lambda: (features, None), told.append)

    read()
    path = pathlib.Path(cache.features_path(str(tmp_path), "testA", key))
    whole = path.read_bytes()

    def check(draw):
        path.write_bytes(corpus.damage(whole, draw)[0])
        found, logits = read()
        np.testing.assert_array_equal(found, features)
        assert logits is None

    corpus.each(cases, check)
    assert len(told) > cases / 4


def test_no_module_can_run_what_a_file_holds():
    """Only an Unpickler that admits tensors (metrics/efficientnet.py) and keras' safe mode read such kinds of files."""
    found = []
    for path in sorted([*(ROOT / "tfaclgan").rglob("*.py"), *(ROOT / "data_tools").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            bad = name in ("eval", "exec", "pickle.load", "pickle.loads", "marshal.loads", "torch.load", "yaml.load")
            bad |= name.startswith(("shelve.", "joblib.", "dill.", "cloudpickle."))
            bad |= keywords.get("allow_pickle", "False") != "False" or keywords.get("safe_mode", "True") != "True"
            if bad:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert not found
