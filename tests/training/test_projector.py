"""TensorBoard's projector, asked as its page asks: styles of test pictures and tables of class embeddings."""

from __future__ import annotations

import io
import json
import os
import types

import keras
import numpy as np
import pytest
import record_folder
import tiny_runs
from PIL import Image
from tensorboard.plugins import base_plugin
from tensorboard.plugins.projector import projector_plugin
from werkzeug.test import Client

from tfaclgan.data import pipeline
from tfaclgan.data.pipeline import PipelineOptions
from tfaclgan.inference.translator import Translator
from tfaclgan.training import projector

OPTIONS = PipelineOptions(32, 32, 32)


@pytest.fixture
def manifest(tmp_path):
    items = {
        name: [{"image": record_folder.photo(32, 32, seed=10 * n + i), "label": i % 2} for i in range(5)]
        for n, name in enumerate(("trainA", "trainB", "testB"))
    }
    return record_folder.make(tmp_path / "data", items)


def translator_of(name, path):
    run, networks = tiny_runs.tiny_run(name)
    return Translator(types.SimpleNamespace(**{**vars(run), "path": str(path)}), networks)


def asked(path):
    """What TensorBoard's plugin answers for a run directory: a function of page and parameters."""
    provider = types.SimpleNamespace(list_runs=lambda *_, **__: [], list_tensors=lambda *_, **__: {})
    plugin = projector_plugin.ProjectorPlugin(base_plugin.TBContext(logdir=str(path), data_provider=provider))
    apps = plugin.get_plugin_apps()

    def ask(page, **parameters):
        answer = Client(apps[f"/{page}"]).get("/", query_string={"run": ".", **parameters})
        assert answer.status_code == 200, answer.data
        return answer.data

    return ask


def test_styles_of_test_pictures(manifest, tmp_path):
    translator = translator_of("munit", tmp_path / "run")
    assert projector.write(translator, manifest, OPTIONS, 7)
    ask = asked(tmp_path / "run")
    [to_b, to_a] = json.loads(ask("info"))["embeddings"]
    assert (to_b["tensorName"], to_b["tensorShape"]) == ("style_b", [5, translator.style_dim])
    assert (to_a["tensorName"], to_a["tensorShape"]) == ("style_a", [5, translator.style_dim])
    for embedding, split in ((to_b, "testB"), (to_a, "trainA")):  # there is no testA
        name = embedding["tensorName"]
        pictures = pipeline.read_images(manifest, split, 5, OPTIONS)
        expected = translator.encode_style(pictures, {"style_b": "a2b", "style_a": "b2a"}[name])
        vectors = np.frombuffer(ask("tensor", name=name), np.float32).reshape(5, -1)
        np.testing.assert_allclose(vectors, expected, rtol=1e-6)
        table = [line.split("\t") for line in ask("metadata", name=name, num_rows=6).decode().splitlines()]
        assert table == [["picture", "label", "split"], *([f"{split}/{i}", str(i % 2), split] for i in range(5))]
        sheet = np.asarray(Image.open(io.BytesIO(ask("sprite_image", name=name))))
        assert embedding["sprite"]["singleImageDim"] == [32, 32]
        assert sheet.shape == (96, 96, 3)
        assert np.array_equal(sheet[32:64, 32:64], pictures[4])


def test_only_the_newest_step_is_kept(manifest, tmp_path):
    translator = translator_of("munit", tmp_path / "run")
    for step in (2, 4, 4):
        projector.write(translator, manifest, OPTIONS, step)
    assert os.listdir(tmp_path / "run" / "projector") == ["step_000000004"]
    assert b"style_b" in asked(tmp_path / "run")("info")


def test_a_disk_that_fills_leaves_what_was_shown(manifest, tmp_path, monkeypatch):
    translator = translator_of("munit", tmp_path / "run")
    projector.write(translator, manifest, OPTIONS, 2)
    before = asked(tmp_path / "run")("tensor", name="style_a")
    write = projector.files.write_flushed

    def full(path, content):
        if path.endswith("style_a.tsv"):
            raise OSError(28, "No space left on device", path)
        write(path, content)

    monkeypatch.setattr(projector.files, "write_flushed", full)
    with pytest.raises(OSError, match="No space left"):
        projector.write(translator, manifest, OPTIONS, 4)
    assert os.listdir(tmp_path / "run" / "projector") == ["step_000000002"]
    assert asked(tmp_path / "run")("tensor", name="style_a") == before


def test_tables_of_class_embeddings(manifest, tmp_path):
    translator = Translator(tiny_runs.negative_run(), {})
    translator.run.path = str(tmp_path / "run")
    assert not projector.write(translator, manifest, OPTIONS, 1)  # neither styles nor classes
    assert not (tmp_path / "run").exists()
    classes = keras.layers.Embedding(4, 3, name="classes")
    model = keras.Sequential([keras.Input((1,)), classes])
    translator = Translator(translator.run, {**translator.networks, "conditioner": model})
    assert projector.write(translator, manifest, OPTIONS, 1)
    ask = asked(tmp_path / "run")
    [found] = json.loads(ask("info"))["embeddings"]
    assert (found["tensorName"], found["tensorShape"]) == ("conditioner_classes", [4, 3])
    vectors = np.frombuffer(ask("tensor", name="conditioner_classes"), np.float32).reshape(4, 3)
    np.testing.assert_allclose(vectors, classes.embeddings.numpy(), rtol=1e-6)
    assert ask("metadata", name="conditioner_classes", num_rows=4).decode().split() == ["0", "1", "2", "3"]
