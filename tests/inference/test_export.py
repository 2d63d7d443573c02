"""Exported files compute what their run computes, and what cannot be exported says so in one line.

The files are run here once more than --mode=export does, by code that shares nothing with it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import types

import folder_of_records
import numpy as np
import pytest
import tensorflow as tf
from toy import TOY

import tfaclgan
from tfaclgan.data import records
from tfaclgan.errors import UserError
from tfaclgan.inference import export, export_data, export_formats
from tfaclgan.inference.export import Options, Pictures
from tfaclgan.inference.export_formats import Shape
from tfaclgan.inference.translator import Translator
from tfaclgan.methods import base

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KEPT_RUN = os.path.join(ROOT, "tests", "training", "fixtures", "run_0.1.0")
FREE = Shape(None, None, None)
FIXED = Shape(1, 16, 16)


def photos(count=3, height=16, width=16, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (count, height, width, 3), dtype=np.uint8)


def pictures(**options):
    return Pictures({"translate": photos(**options), "encode_style": photos(seed=1, **options)}, "random pictures")


def translator_of(method, image_shape=(16, 16, 3), **options):
    config = method.config(**options)
    networks = method.networks(config, image_shape)
    run = types.SimpleNamespace(method=method, config=config, image_shape=image_shape, flags={}, path="run")
    return Translator(run, networks)


@pytest.fixture(scope="module")
def toy():
    return translator_of(TOY)


def interpret(path, **inputs):
    runner = tf.lite.Interpreter(path).get_signature_runner("serving_default")
    return runner(**inputs)


def test_tflite_with_free_sizes_and_bytes(toy, tmp_path):
    folder = str(tmp_path / "out")
    lines = export.export(toy, folder, Options("tflite", FREE, pixels="uint8"), pictures())
    assert sorted(os.listdir(folder)) == ["README.md", "export.json", "translate.tflite"]
    images = photos(2, 24, 20, seed=5)
    result = interpret(os.path.join(folder, "translate.tflite"), images=images)["image"]
    assert result.dtype == np.uint8
    assert np.abs(result.astype(int) - toy.translate(images).astype(int)).max() <= 1
    with open(os.path.join(folder, "export.json")) as file:
        content = json.load(file)
    told = content["programs"]["translate"]
    assert told["bytes"] == os.path.getsize(os.path.join(folder, "translate.tflite"))
    assert told["inputs"] == {"images": "uint8, 0 to 255; [free, free, free, 3]"}
    assert f"{told['differences']['image']['largest']:.2e}" in lines[1]
    with open(os.path.join(folder, "README.md")) as file:
        card = file.read()
    for words in ("# Toy", "tflite export (float32, a2b)", "random pictures", "## Judged", "## Licence"):
        assert words in card, words


def test_saved_model_runs_without_this_package(toy, tmp_path):
    folder = str(tmp_path / "out")
    export.export(toy, folder, Options("saved_model", Shape(None, 16, 16)), pictures())
    images = photos(2) / np.float32(127.5) - 1
    function = tf.saved_model.load(os.path.join(folder, "translate"))
    result = function.signatures["serving_default"](images=tf.constant(images))["image"].numpy()
    np.testing.assert_allclose(result, toy.translate(images), atol=1e-5)
    names = [entry for entry in json.load(open(os.path.join(folder, "export.json")))["programs"]["translate"]["sha256"]]
    assert "translate/saved_model.pb" in names


def test_onnx_with_free_sizes(toy, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    folder = str(tmp_path / "out")
    export.export(toy, folder, Options("onnx", FREE), pictures())
    session = runtime.InferenceSession(os.path.join(folder, "translate.onnx"))
    assert [node.shape for node in session.get_inputs()] == [["batch", "height", "width", 3]]
    images = photos(2, 24, 20) / np.float32(127.5) - 1
    np.testing.assert_allclose(session.run(None, {"images": images})[0], toy.translate(images), atol=1e-5)


def test_a_difference_above_the_bound_leaves_nothing(toy, tmp_path):
    options = Options("tflite", FIXED, precision="float16", largest=1e-9)
    with pytest.raises(UserError, match=r"differs from the run by .* above the bounds 1.00e-09 and 1.00e-10"):
        export.export(toy, str(tmp_path / "out"), options, pictures())
    assert os.listdir(tmp_path) == []


def test_bounds_are_on_the_scale_of_pictures():
    expected = [{"image": np.array([[0, 128, 255]], np.uint8)}]
    results = [{"image": np.array([[0, 128, 250]], np.uint8)}]
    (found,) = export._differences("translate", results, expected)
    assert found.largest == pytest.approx(5 / 127.5)
    assert found.mean == pytest.approx(5 / 127.5 / 3)
    with pytest.raises(UserError, match="above the bounds"):
        export._check_differences([found], Options("onnx", FIXED, pixels="uint8"))
    (found_mask,) = export._differences("translate", [{"mask": results[0]["image"]}], [{"mask": expected[0]["image"]}])
    assert found_mask.largest == pytest.approx(5 / 255)
    not_a_number = dataclasses.replace(found, largest=float("nan"), mean=0.0)
    with pytest.raises(UserError, match="above the bounds"):
        export._check_differences([not_a_number], Options("tflite", FIXED, precision="int8"))


@pytest.mark.parametrize("format, word", [("tflite", "TFLite"), ("onnx", "ONNX")])
def test_an_operation_that_a_converter_lacks_is_named(toy, tmp_path, format, word):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("tf2onnx")

    def translate(networks, images, style, direction, config):
        from keras import ops

        outcome = TOY.translate(networks, images, style, direction, config)
        return outcome._replace(image=ops.erfinv(0.5 * outcome.image))

    run = types.SimpleNamespace(**{**vars(toy.run), "method": dataclasses.replace(TOY, translate=translate)})
    with pytest.raises(UserError, match=f"--format={format}: the converter gives up: no {word} operation for Erfinv"):
        export.export(Translator(run, toy.networks), str(tmp_path / "out"), Options(format, FIXED), pictures(count=1))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "options, changes, words",
    [
        (Options("tflite", Shape(1, 18, 16)), {"size_multiple": 4}, r"18x16.*multiples of 4; give --export_size=20x16"),
        (Options("tflite", Shape(1, 4, 4)), {}, "sides of at least 8; give a larger size"),
        (Options("tflite", FREE), {"fixed_size": True}, "--export_size=free: Toy .* takes pictures of 16 x 16"),
        (Options("saved_model", FIXED, precision="int8"), {}, "--precision=int8: .*take --format=tflite"),
        (Options("tflite", FREE, precision="int8"), {}, "--precision=int8: needs one size"),
        (Options("tflite", FIXED, mask=True), {}, "--save_mask: this run has no masks.*leave it out"),
        (Options("tflite", FIXED, precision="int8"), {}, "needs pictures to measure ranges on; give --data_dir"),
    ],
)
def test_what_cannot_be_exported_is_one_line(toy, tmp_path, options, changes, words):
    method = dataclasses.replace(TOY, **{name: (lambda config, v=value: v) for name, value in changes.items()})
    run = types.SimpleNamespace(**{**vars(toy.run), "method": method})
    with pytest.raises(UserError, match=words) as caught:
        export.export(Translator(run, toy.networks), str(tmp_path / "out"), options, pictures(count=1))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_file_that_its_runtime_refuses_is_one_line(toy, tmp_path, monkeypatch):
    def write_rubbish(model, shape, path, precision, calibration):
        with open(path, "wb") as file:
            file.write(b"rubbish\n" * 100)

    broken = dataclasses.replace(export.FORMATS["tflite"], write=write_rubbish)
    monkeypatch.setitem(export.FORMATS, "tflite", broken)
    with pytest.raises(UserError, match=r"cannot run the written file \(.*\), so nothing is kept") as caught:
        export.export(toy, str(tmp_path / "out"), Options("tflite", FIXED), pictures())
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_targets_that_cannot_be_written(toy, tmp_path):
    options = Options("tflite", FIXED)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("there", "file"):
        with pytest.raises(UserError, match="is there already, and an export overwrites nothing"):
            export.export(toy, str(tmp_path / name), options, pictures())
    with pytest.raises(NotADirectoryError):  # run_command makes it one line with exit code 2
        export.export(toy, str(tmp_path / "file" / "out"), options, pictures())
    assert sorted(os.listdir(tmp_path)) == ["file", "there"]


def test_a_missing_runtime_says_what_to_install(monkeypatch):
    there = export_formats.importlib.util.find_spec
    monkeypatch.setattr(
        export_formats.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else there(name)
    )
    if there("tf2onnx") is None or there("onnx") is None:
        monkeypatch.setattr(
            export_formats.importlib.util, "find_spec", lambda name: object() if name != "onnxruntime" else None
        )
    with pytest.raises(UserError, match=r'--format=onnx needs onnxruntime, .*pip install ".\[export\]"'):
        export_formats.check_installed("onnx")


def test_sizes_are_read(toy):
    assert export.resolve_shape(toy, "onnx", 1, "") == FIXED
    assert export.resolve_shape(toy, "onnx", 0, "free") == FREE
    assert export.resolve_shape(toy, "onnx", 4, "24x32") == Shape(4, 24, 32)
    assert export.resolve_shape(toy, "keras", 1, "") == FREE
    for text in ("0", "24x", "big", "24x32x3"):
        with pytest.raises(UserError, match=r"--export_size=.*write for example 256"):
            export.resolve_shape(toy, "onnx", 1, text)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--format=coreml", "--output=x"], ["coreml", "saved_model"]),
        (["--output=x"], ["--mode=export needs --format"]),
        (["--format=onnx"], ["--mode=export needs --output"]),
    ],
)
def test_flags_are_checked_at_once(arguments, words):
    command = [sys.executable, "-m", "tfaclgan.main", "--mode=export", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    for word in words:
        assert word in line


def test_the_command(monkeypatch, tmp_path, capsys):
    from absl import flags

    from tfaclgan import flags as tfaclgan_flags
    from tfaclgan import main

    monkeypatch.setitem(base._REGISTRY, "toy", TOY)
    tfaclgan_flags.define()
    data, output = folder_of_records.write(tmp_path / "data"), str(tmp_path / "out")
    arguments = ["--mode=export", f"--run_dir={KEPT_RUN}", f"--data_dir={data}", f"--output={output}"]
    arguments += ["--format=tflite", "--precision=int8", "--export_pixels=uint8", "--max_difference=1"]
    flags.FLAGS.unparse_flags()
    assert main.main(["tfaclgan", *arguments]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "on 3 test pictures of data, against the run:" in told[0]
    assert told[-1] == f"written: {output}"
    assert "against the run" in told[0]
    images = photos(1)
    result = interpret(os.path.join(output, "translate.tflite"), images=images)["image"]
    wanted = tfaclgan.load(KEPT_RUN).translate(images, "a2b")
    assert np.abs(result.astype(int) - wanted.astype(int)).mean() < 8
    flags.FLAGS.unparse_flags()
    assert main.main(["tfaclgan", *arguments]) == 2
    assert "overwrites nothing" in capsys.readouterr().err
    flags.FLAGS.unparse_flags()


def test_probes_come_from_the_test_pictures_of_each_domain(toy, tmp_path):
    manifest = records.load_manifest(folder_of_records.write(tmp_path / "data"))
    run = types.SimpleNamespace(**{**vars(toy.run), "flags": {"load_size": 16}})
    found = export_data.read(run, manifest, Options("tflite", FIXED, "a2b", precision="int8"), 2)
    assert [len(found.probes[name]) for name in ("translate", "encode_style")] == [3, 3]
    assert len(found.calibration["translate"]) == 2
    assert not np.array_equal(found.probes["translate"], found.probes["encode_style"])
    assert found.what == "3 test pictures of data"
    drawn = export_data.read(run, None, Options("tflite", FIXED, "a2b"), 2)
    assert drawn.probes["translate"].shape == (4, 16, 16, 3)
    assert "drawn" in drawn.what
    assert drawn.calibration is None


# -- real methods -----------------------------------------------------------------------------

METHODS = ("acl_gan", "council_gan", "cyclegan", "munit", "ugatit", "ugatit_light")
CASES = [
    ("keras", FREE, "float32"),
    ("saved_model", FREE, "float32"),
    ("tflite", FREE, "float32"),
    ("tflite", Shape(1, 32, 32), "float16"),
    ("tflite", Shape(1, 32, 32), "int8"),
    ("onnx", FREE, "float32"),
]


@pytest.fixture(scope="module")
def real(make_tiny_run):
    made = {}

    def make(name):
        if name not in made:
            tiny = {"width": 4, "residual_blocks": 1, "discriminator_width": 4}
            if name in ("acl_gan", "munit"):
                made[name] = Translator(*make_tiny_run(name))
            elif name == "council_gan":
                made[name] = Translator(*make_tiny_run(name, members=2, paint_layers=2))
            elif name == "cyclegan":
                made[name] = translator_of(base.get(name), (32, 32, 3), **tiny)
            else:  # with discriminators that take 32 pixels
                light = int(name == "ugatit_light")
                made[name] = translator_of(
                    base.get("ugatit"), (32, 32, 3), light=light, global_layers=5, local_layers=3, **tiny
                )
        return made[name]

    return make


@pytest.mark.parametrize("name", ["acl_gan", "munit"])
def test_a_keras_program_runs_with_the_networks_it_uses_alone(real, name):
    """MUNIT's style encoder asked for the other generator too."""
    model = export._model(real(name), "encode_style", Options("keras", FREE, "a2b"))
    assert len(model.networks) == 1
    assert model({"images": np.zeros((1, 32, 32, 3), np.float32)})["style"].shape == (1, 3)


@pytest.mark.slow
@pytest.mark.parametrize("format, shape, precision", CASES)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_in_every_format(real, tmp_path, monkeypatch, name, format, shape, precision):
    if format == "onnx":
        pytest.importorskip("tf2onnx")
        pytest.importorskip("onnxruntime")
    translator = real(name)
    if translator.run.method.fixed_size(translator.run.config):
        shape = dataclasses.replace(shape, height=32, width=32)
    size = {"height": 32, "width": 32}
    given = dataclasses.replace(pictures(**size), calibration=pictures(count=8, **size).probes)
    # Random weights of width 4 lose more than trained ones; a single pixel may still be anything.
    monkeypatch.setitem(export.BOUNDS, "int8", export.Bound(math.inf, 0.1))
    options = Options(format, shape, precision=precision, mask=name == "acl_gan")
    lines = export.export(translator, str(tmp_path / "out"), options, given)
    assert len(lines) == 1 + (2 if name in ("acl_gan", "munit") else 1) + (name == "acl_gan")
