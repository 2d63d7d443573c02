"""From the converter to U-GAT-IT's losses: masks of the records and blurred copies, through pipeline and engine."""

from __future__ import annotations

import dataclasses

import command
import numpy as np
import pytest
import record_folder
import tensorflow as tf
from PIL import Image

from tfaclgan.data import edges, masks, pipeline, records
from tfaclgan.data.convert import ConvertOptions, convert
from tfaclgan.data.images import ImageOptions
from tfaclgan.data.sources import FolderSource, LayoutOptions
from tfaclgan.engine.tensorflow import Engine
from tfaclgan.methods import ugatit

SIDE = 24
TINY = {
    "light": 1,
    "width": 2,
    "residual_blocks": 1,
    "discriminator_width": 2,
    "global_layers": 4,
    "local_layers": 3,
    "spectral_norm": False,  # no power step: the networks before training are those the first losses saw
    "share_fakes": True,
}
BACKGROUND = {"blur_loss": True, "background_weight": 50.0, "background_unjudged": True}


def foreground_of(picture):
    """The redder half of a picture: its mask can be told from it."""
    return picture[..., 0] > np.median(picture[..., 0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four pictures a domain with masks beside them, converted."""
    root = tmp_path_factory.mktemp("faces")
    for domain, first in (("trainA", 0), ("trainB", 10)):
        for name in ("pictures", "masks"):
            (root / name / domain).mkdir(parents=True)
        for number in range(4):
            picture = record_folder.photo(SIDE, SIDE, first + number)
            Image.fromarray(picture).save(root / "pictures" / domain / f"{number}.png")
            mask = np.where(foreground_of(picture), 255, 0).astype(np.uint8)
            Image.fromarray(mask).save(root / "masks" / domain / f"{number}.png")
    options = ConvertOptions(
        ImageOptions(size=SIDE, min_size=4, format="png"),
        workers=1,
        progress=False,
        mask=masks.parse(f"folder:{root / 'masks'}"),
    )
    convert(FolderSource(str(root / "pictures"), LayoutOptions(), max_bytes=1 << 20), str(root / "out"), options)
    return str(root / "out")


def test_masks_and_blurred_copies_reach_the_losses(folder):
    """The first report of a compiled run, against NumPy on the networks' outputs before it."""
    config = ugatit.Config(**TINY, **BACKGROUND, mask_edge="hard", mask_erosion=False)
    recipe = dataclasses.replace(ugatit.RECIPE, batch_size=2, image_size=SIDE, load_size=SIDE, steps=4)
    options = pipeline.PipelineOptions(SIDE, SIDE, SIDE, blurred_copies=True)
    dataset = pipeline.training_dataset(records.load_manifest(folder), options, global_batch=2)
    dataset = dataset.map(lambda batch: {key: value for key, value in batch.items() if value.dtype != tf.string})
    raw = {key: value.numpy() for key, value in next(iter(dataset)).items()}
    batch = {key: tf.constant(raw[key] / 127.5 - 1, tf.float32) for key in ("a", "b", "blur_a", "blur_b")}
    shown = {d: np.stack([foreground_of(picture) for picture in raw[d]])[..., None].astype(np.float32) for d in "ab"}
    engine = Engine(ugatit.METHOD, config, image_shape=(SIDE, SIDE, 3), recipe=recipe)
    expected = {}
    for domain, source in ("ab", "ba"):
        stored = [record_folder.photo(SIDE, SIDE, {"a": 0, "b": 10}[domain] + number) for number in range(4)]
        softened = [edges.blur_edges(tf.constant(picture)).numpy() for picture in stored]
        assert all(any(np.array_equal(blur, soft) for soft in softened) for blur in raw[f"blur_{domain}"])
        fake = engine.networks[f"g_{source}2{domain}"].paint(batch[source]).image.numpy()
        change = np.abs(fake - batch[source].numpy()) * (1 - shown[source])
        expected[f"generators/background_{domain}"] = 50 * change.mean()
        for scale in ("global", "local"):
            judge = engine.networks[f"d_{scale}_{domain}"]
            real, faked, blurred = (
                judge.judge(tf.constant(images)).scores.numpy()
                for images in (batch[domain], fake, batch[f"blur_{domain}"])
            )
            own, of_source = (pooled(shown[d], real.shape[1]) for d in (domain, source))
            expected[f"discriminators/{scale}_{domain}"] = (
                np.mean((own * (real - 1)) ** 2) + np.mean((of_source * faked) ** 2) + np.mean(blurred**2)
            )
    report = engine.train(iter(dataset), 1)
    for name, value in expected.items():
        assert report.scalars[name] == pytest.approx(value, rel=1e-4), name


def pooled(mask, side):
    """PyTorch's adaptive mean pooling, by two loops."""
    result = np.zeros((len(mask), side, side, 1))
    for i in range(side):
        for j in range(side):
            rows = slice(i * SIDE // side, -(-(i + 1) * SIDE // side))
            columns = slice(j * SIDE // side, -(-(j + 1) * SIDE // side))
            result[:, i, j] = mask[:, rows, columns].mean((1, 2))
    return result


@pytest.mark.slow
def test_the_command_trains_with_them(folder, tmp_path):
    arguments = [f"--data_dir={folder}", f"--run_dir={tmp_path / 'run'}", "--method=ugatit", "--strategy=cpu"]
    arguments += ["--image_size=24", "--load_size=24", "--batch_size=2", "--steps=2", "--augment=none"]
    arguments += ["--blurred_copies", "--rematerialise", "--log_every_steps=1", "--sample_every_steps=0"]
    arguments += [f"--ugatit.{name}={value}" for name, value in {**TINY, **BACKGROUND}.items()]
    arguments += ["--ugatit.background_hidden=both", "--ugatit.background_detached", "--ugatit.adversarial_weight_b=2"]
    assert command.call(*arguments) == 0
    assert "generators/background_b" in (tmp_path / "run" / "metrics.jsonl").read_text()
