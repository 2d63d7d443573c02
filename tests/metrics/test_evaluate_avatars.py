"""Evaluation through the real pipeline on drawn faces, whose exact translations are known."""

from __future__ import annotations

import io

import numpy as np
import pytest
import skimage.metrics
import tensorflow as tf
from PIL import Image

from tfaclgan.data import pipeline
from tfaclgan.data.convert import ConvertOptions, convert
from tfaclgan.data.images import ImageOptions
from tfaclgan.data.sources import AvatarSource
from tfaclgan.metrics.evaluate import evaluate
from tfaclgan.metrics.features import FeatureExtractor

pytest.importorskip("dicebear")
pytest.importorskip("resvg_py")


def make(folder, train, test, size):
    source = AvatarSource("glasses", train_count=train, test_count=test, seed=0)
    options = ConvertOptions(image=ImageOptions(size=size), workers=1 if train < 100 else 0, progress=False)
    return convert(source, str(folder), options).manifest


def stored(manifest, split):
    """The split's pictures by TensorFlow's record reader and Pillow: image, target, mask."""
    paths = [manifest.path(shard.file) for shard in manifest.splits[split].shards]
    names = ("image/encoded", "target/encoded", "mask/encoded")
    columns = {name: [] for name in names}
    for record in tf.data.TFRecordDataset(paths).as_numpy_iterator():
        parsed = tf.io.parse_single_example(record, {name: tf.io.FixedLenFeature([], tf.string) for name in names})
        for name in names:
            columns[name].append(np.asarray(Image.open(io.BytesIO(parsed[name].numpy()))))
    return [np.stack(columns[name]) for name in names]


def stub_extractor():
    def run(inputs):
        return np.concatenate([inputs.mean((1, 2)), inputs.std((1, 2))], -1), None

    return FeatureExtractor("stub", "00", "means", 16, "pil_bilinear", "unit", run, 8)


def test_ground_truth_is_measured_on_the_stored_pictures(tmp_path):
    manifest = make(tmp_path / "faces", 6, 5, 32)
    options = pipeline.PipelineOptions(height=32, width=32, load_size=32)
    extractor = stub_extractor()
    result = evaluate(lambda images, seed: images, manifest, options, extractor=extractor, batch=2)
    image, target, mask = stored(manifest, "testA")
    apart = np.abs(image / 127.5 - target / 127.5)
    assert result["protocol"]["count_generated"] == 5
    assert result["protocol"]["region"] == "glasses"
    assert result["metrics"]["l1"] == pytest.approx(apart.mean())
    assert result["metrics"]["region_l1"] == pytest.approx(apart.mean(-1)[mask > 127].mean())
    noise = [skimage.metrics.peak_signal_noise_ratio(a, b) for a, b in zip(target, image)]
    assert result["metrics"]["psnr"] == pytest.approx(np.mean(noise))
    truth = {i.tobytes(): t for i, t in zip(image, target)}
    best = evaluate(
        lambda images, seed: np.stack([truth[picture.tobytes()] for picture in images]),
        manifest,
        options,
        extractor=extractor,
        batch=2,
    )
    assert (best["metrics"]["psnr"], best["metrics"]["l1"], best["metrics"]["region_l1"]) == (100, 0, 0)
    assert best["untouched"]["l1"] == result["untouched"]["l1"]


@pytest.mark.slow
def test_the_quick_starts_numbers(tmp_path):
    """What doing nothing and what perfection score on the quick start's data (docs/metrics.md).

    The independent figures are of another draw of the same 200 test faces' kind: glasses or not between
    training sets FID 30.9 and KID 0.0333; untouched test faces PSNR 24.2 dB, SSIM 0.903, L1 0.025.
    """
    manifest = make(tmp_path / "faces", 1000, 200, 64)
    options = pipeline.PipelineOptions(height=64, width=64, load_size=64)
    image, target, _ = stored(manifest, "testA")
    truth = {i.tobytes(): t for i, t in zip(image, target)}
    result = evaluate(
        lambda images, seed: np.stack([truth[picture.tobytes()] for picture in images]),
        manifest,
        options,
        cache_dir=str(tmp_path / "cache"),
    )
    untouched, perfect = result["untouched"], result["metrics"]
    assert untouched["psnr"] == pytest.approx(24.2, abs=0.4)
    assert untouched["ssim"] == pytest.approx(0.903, abs=0.01)
    assert untouched["l1"] == pytest.approx(0.025, abs=0.002)
    assert untouched["region_l1"] == pytest.approx(0.51, abs=0.03)
    assert untouched["kid"] == pytest.approx(0.0263, abs=3 * untouched["kid_standard_error"])
    assert untouched["fid"] == pytest.approx(43.4, abs=4)
    assert abs(perfect["kid"]) < 3 * perfect["kid_standard_error"]
    assert perfect["fid"] == pytest.approx(26.1, abs=2)
    assert perfect["kid"] < untouched["kid"] / 10
    between = evaluate(  # the source split is trainA: as many faces as the reference
        lambda images, seed: images,
        _with_train_as_test(manifest),
        options,
        extractor="efficientnet_lite0",
        cache_dir=str(tmp_path / "cache"),
    )["untouched"]
    assert between["fid"] == pytest.approx(30.9, abs=0.5)
    assert between["kid"] == pytest.approx(0.0333, abs=0.001)


def _with_train_as_test(manifest):
    import dataclasses

    return dataclasses.replace(manifest, splits={**manifest.splits, "testA": manifest.splits["trainA"]})
