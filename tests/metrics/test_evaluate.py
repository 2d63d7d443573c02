"""Evaluation on small data: every number against a computation of its own, every image once."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pathlib
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

import tfaclgan.data
from tfaclgan.data.records import Manifest, Shard, Split
from tfaclgan.errors import UserError
from tfaclgan.metrics import evaluate as evaluation
from tfaclgan.metrics import pairs
from tfaclgan.metrics.evaluate import KEYS, PUBLISHED_KEYS, evaluate, format_table, write_result
from tfaclgan.metrics.features import FeatureExtractor

SIDE = 12
COUNTS = {"trainA": 14, "trainB": 15, "testA": 10, "testB": 9}
OPTIONS = types.SimpleNamespace(height=SIDE, width=SIDE, load_size=SIDE)


def make_extractor():
    """Features: 8 fixed mixtures of the pixels and their squares; logits: 4 more."""
    mix = np.random.default_rng(5).normal(size=(SIDE * SIDE * 3, 12)).astype(np.float32) / 20
    calls = []

    def run(inputs):
        calls.append(len(inputs))
        mixed = np.tanh(inputs.reshape(len(inputs), -1) @ mix)
        return mixed[:, :8], mixed[:, 8:] * 3

    extractor = FeatureExtractor("stub", "ab" * 32, "mix", SIDE, "pil_bicubic", "signed", run, 4)
    extractor.calls = calls
    return extractor


@dataclasses.dataclass
class Toy:
    """Images in memory behind the interface of `data.pipeline`."""

    arrays: dict
    manifest: Manifest

    def evaluation_dataset(self, manifest, split, options, *, batch):
        arrays = self.arrays[split]
        count = len(arrays["image"])
        arrays = {**arrays, "valid": np.ones(count, bool), "key": np.array([f"{split}/{i}" for i in range(count)])}

        def padded(values):
            return np.concatenate([values, np.zeros((-count % batch, *values.shape[1:]), values.dtype)])

        return tf.data.Dataset.from_tensor_slices({k: padded(v) for k, v in arrays.items()}).batch(batch)


def make_toy(channels=3, side=SIDE, targets=True, counts=COUNTS, region=None):
    rng = np.random.default_rng(11)
    arrays, splits = {}, {}
    for split, count in counts.items():
        low = 40 if split.endswith("B") else 0
        arrays[split] = {"image": rng.integers(low, 256, (count, side, side, channels)).astype(np.uint8)}
        if split == "testA" and targets:
            image = arrays[split]["image"]
            region_map = (rng.random((count, side, side, 1)) < 0.2).astype(np.uint8) * 10
            target = np.where(region_map > 0, 255 - image, image // 2 + 64).astype(np.uint8)
            arrays[split].update(target=target, label_map=region_map, mask=region_map // 10 * 255)
        shards = (Shard(f"{split}.tfrecord", count, 1, f"{split}{count}"),)
        splits[split] = Split(
            split, count, shards, "", "", side, side, side, side, has_target="target" in arrays[split]
        )
    manifest = Manifest("/data/toy", "toy", channels, side, "png", splits, {}, {}, region=region)
    return Toy(arrays, manifest)


REGION = {"feature": "label_map", "classes": [10], "name": "glasses"}


@pytest.fixture
def run(monkeypatch):
    """evaluate() on a toy, with the stub extractor."""

    def go(translate=lambda images, seed: images, toy=None, **options):
        toy = toy or make_toy(region=REGION)
        module = types.ModuleType("tfaclgan.data.pipeline")
        module.evaluation_dataset = toy.evaluation_dataset
        monkeypatch.setitem(sys.modules, "tfaclgan.data.pipeline", module)
        monkeypatch.setattr(tfaclgan.data, "pipeline", module, raising=False)
        options = {"extractor": make_extractor(), "batch": 4, **options}
        result = evaluate(translate, toy.manifest, OPTIONS, **options)
        json.dumps(result, allow_nan=False)
        keys = (*KEYS, *PUBLISHED_KEYS) if options.get("published_kid") else KEYS
        assert tuple(result["metrics"]) == tuple(result["untouched"]) == keys
        return result

    return go


def numbers(metrics):
    return {key: value for key, value in metrics.items() if value is not None}


def gaussian_distance(a, b):
    """FID by way of eigenvalues of the product of the covariances."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(s @ t).astype(complex)).real.sum()
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(s) + np.trace(t) - 2 * root


def polynomial_mmd(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)

    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    def off(k):
        return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))

    return off(kernel(a, a)) + off(kernel(b, b)) - 2 * kernel(a, b).mean()


def test_doing_nothing_equals_the_untouched_column(run):
    result = run()
    assert numbers(result["metrics"]) == pytest.approx(numbers(result["untouched"]), rel=1e-6)
    assert None not in [value for key, value in result["metrics"].items() if not key.startswith("diversity")]


def test_each_number_of_the_untouched_column(run):
    toy, extractor = make_toy(region=REGION), make_extractor()
    got = run(toy=toy)["untouched"]
    image, target = toy.arrays["testA"]["image"], toy.arrays["testA"]["target"]
    x, y = image / 127.5, target / 127.5
    inside = toy.arrays["testA"]["label_map"][..., 0] == 10
    real, fake = extractor(toy.arrays["trainB"]["image"]), extractor(image)
    logits = extractor.logits(image).astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert got["fid"] == pytest.approx(gaussian_distance(real, fake), rel=1e-6)
    assert got["kid"] == pytest.approx(polynomial_mmd(real, fake), rel=1e-6)
    assert got["kid_standard_error"] > 0
    assert got["is"] == pytest.approx(np.exp((p * np.log(p / p.mean(0))).sum(1).mean()), rel=1e-6)
    assert got["l1"] == pytest.approx(np.abs(x - y).mean())
    assert got["region_l1"] == pytest.approx(np.abs(x - y).mean(-1)[inside].mean())
    squared = ((image.astype(float) - target) ** 2).mean((1, 2, 3))
    assert got["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / squared)))
    assert got["ssim"] == pytest.approx(pairs.ssim(image, target).mean())


def test_a_perfect_translation(run):
    toy = make_toy(region=REGION)
    truth = {i.tobytes(): t for i, t in zip(toy.arrays["testA"]["image"], toy.arrays["testA"]["target"])}
    got = run(lambda images, seed: np.stack([truth.get(i.tobytes(), i) for i in images]), toy=toy)["metrics"]
    assert (got["psnr"], got["l1"], got["region_l1"]) == (100, 0, 0)
    assert got["ssim"] == pytest.approx(1)


@pytest.mark.parametrize("batch", [1, 3, 4, 10, 16])
def test_every_image_once_in_whole_batches(run, batch):
    toy, seen = make_toy(region=REGION), []

    def translate(images, seed):
        seen.append(images)
        return 255 - images

    result = run(translate, toy=toy, batch=batch)
    assert {len(images) for images in seen} == {batch}
    np.testing.assert_array_equal(np.concatenate(seen)[:10], toy.arrays["testA"]["image"])
    assert len(seen) == -(-10 // batch)
    other = run(translate, toy=toy, batch=5)
    assert numbers(result["metrics"]) == pytest.approx(numbers(other["metrics"]), rel=1e-5)
    assert result["protocol"] == {**other["protocol"], "batch": batch}


def test_max_images_takes_the_first(run):
    toy, seen = make_toy(region=REGION), []

    def translate(images, seed):
        seen.append(images)
        return images

    result = run(translate, toy=toy, max_images=6, max_reference_images=7)
    assert (result["protocol"]["count_generated"], result["protocol"]["count_real"]) == (6, 7)
    assert len(seen) == 2
    few = make_toy(region=REGION)
    few.arrays["testA"] = {key: values[:6] for key, values in few.arrays["testA"].items()}
    few.arrays["trainB"] = {key: values[:7] for key, values in few.arrays["trainB"].items()}
    splits = {
        name: dataclasses.replace(s, count=len(few.arrays[name]["image"])) for name, s in few.manifest.splits.items()
    }
    few.manifest = dataclasses.replace(few.manifest, splits=splits)
    assert numbers(result["metrics"]) == pytest.approx(numbers(run(toy=few)["metrics"]), rel=1e-6)
    assert run(max_images=10**6)["protocol"]["count_generated"] == 10


def test_styles_are_averaged_and_compared(run):
    toy = make_toy(region=REGION)

    def translate(images, seed):
        noise = np.random.default_rng(seed).normal(size=images.shape) * 30
        return np.clip(images + noise, 0, 255).astype(np.uint8)

    made = []
    result = run(lambda images, seed: (made.append((seed, translate(images, seed))), made[-1][1])[1], toy=toy, styles=3)
    seeds = [seed for seed, _ in made]
    assert len(set(seeds)) == len(seeds) == 9
    assert all(0 <= seed < 2**31 for seed in seeds)
    styles = np.stack([np.concatenate([images for _, images in made[style::3]])[:10] for style in range(3)])
    target = toy.arrays["testA"]["target"]
    assert result["metrics"]["l1"] == pytest.approx(np.mean([pairs.l1(style, target).mean() for style in styles]))
    real = make_extractor()(toy.arrays["trainB"]["image"])
    features = np.stack([make_extractor()(style) for style in styles])
    assert result["metrics"]["fid"] == pytest.approx(np.mean([gaussian_distance(real, f) for f in features]), rel=1e-6)
    assert result["metrics"]["kid"] == pytest.approx(np.mean([polynomial_mmd(real, f) for f in features]), rel=1e-6)
    couples = list(itertools.combinations(range(3), 2))
    pixels = np.mean([np.abs(styles[i] / 127.5 - styles[j] / 127.5).mean() for i, j in couples])
    assert result["metrics"]["diversity_l1"] == pytest.approx(pixels)
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    apart = np.mean([np.linalg.norm(unit[i] - unit[j], axis=-1).mean() for i, j in couples])
    assert result["metrics"]["diversity"] == pytest.approx(apart, rel=1e-5)
    assert result["untouched"]["diversity"] == result["untouched"]["diversity_l1"] == 0
    assert run(translate, toy=toy, styles=3)["metrics"] == result["metrics"]
    assert run(translate, toy=toy, styles=3, seed=1)["metrics"] != result["metrics"]


def test_published_kid_has_rows_of_its_own(run):
    result = run(lambda images, seed: 255 - images, published_kid=True)
    found = result["metrics"]
    near = found["kid_blocks_of_10"]
    far = 2 * found["kid_ugatit_average"] - near  # what the two mixtures have in common
    assert found["kid_ugatit_mean"] == pytest.approx((0.02 * near + 0.98 * far) / 2, rel=1e-6)
    assert result["untouched"]["kid_blocks_of_10"] is not None
    assert result["untouched"]["kid_ugatit_mean"] is None
    assert "U-GAT-IT's mean KID" in format_table(result)


def test_directions_and_reference_splits(run):
    toy, extractor = make_toy(region=REGION), make_extractor()
    features = {split: extractor(arrays["image"]) for split, arrays in toy.arrays.items()}
    for direction, reference, source, target in (
        ("a2b", "train", "testA", "trainB"),
        ("a2b", "test", "testA", "testB"),
        ("b2a", "train", "testB", "trainA"),
        ("b2a", "test", "testB", "testA"),
    ):
        result = run(toy=toy, direction=direction, reference_split=reference)
        assert (result["protocol"]["split"], result["protocol"]["reference_split"]) == (source, target)
        expected = gaussian_distance(features[target], features[source])
        assert result["metrics"]["fid"] == pytest.approx(expected, rel=1e-6)
        assert (result["metrics"]["psnr"] is None) == (source == "testB")


def test_without_a_training_split_the_test_split_is_the_reference(run):
    toy = make_toy(counts={"testA": 10, "testB": 9})
    assert run(toy=toy)["protocol"]["reference_split"] == "testB"


def test_region_by_mask(run):
    by_mask = make_toy(region={"feature": "mask", "classes": [], "name": "glasses"})
    assert run(toy=by_mask)["metrics"]["region_l1"] == pytest.approx(run()["metrics"]["region_l1"])


def test_what_cannot_be_measured_is_null(run):
    result = run(toy=make_toy(targets=False, region=REGION))
    for key in ("psnr", "ssim", "l1", "region_l1", "diversity", "diversity_l1"):
        assert result["metrics"][key] is None
    empty = make_toy(region={**REGION, "classes": [3]})
    assert run(toy=empty)["metrics"]["region_l1"] is None
    small = run(toy=make_toy(side=8), extractor="none")
    assert small["metrics"]["ssim"] is None
    assert small["metrics"]["psnr"] is not None


@pytest.mark.parametrize("extractor", [None, "none"])
def test_images_without_an_extractor_still_have_ground_truth(run, extractor):
    result = run(toy=make_toy(channels=5, region=REGION), extractor=extractor, styles=2)
    assert result["metrics"]["fid"] is result["metrics"]["kid"] is result["metrics"]["diversity"] is None
    assert result["metrics"]["region_l1"] > 0
    assert result["metrics"]["diversity_l1"] == 0
    assert result["protocol"]["extractor"] is None
    assert "features" not in format_table(result)


def test_the_protocol_is_complete(run):
    protocol = run(seed=7, styles=2)["protocol"]
    assert protocol["extractor"] == "stub"
    assert protocol["extractor_sha256"] == "ab" * 32
    for key, value in {
        "layer": "mix",
        "feature_size": SIDE,
        "feature_resize": "pil_bicubic",
        "count_real": 15,
        "count_generated": 10,
        "split": "testA",
        "reference_split": "trainB",
        "direction": "a2b",
        "styles": 2,
        "seed": 7,
        "tfaclgan": tfaclgan.__version__,
        "tensorflow_gan": "2.1.0",
        "kid_blocks": 1,
        "kid_block_size": 1024,
        "region": "glasses",
        "data": "toy",
        "image_height": SIDE,
    }.items():
        assert protocol[key] == value, key


def test_the_fingerprint_follows_the_shards():
    manifest = make_toy().manifest
    assert evaluation.fingerprint(manifest) == evaluation.fingerprint(make_toy().manifest)
    shard = dataclasses.replace(manifest.splits["testA"].shards[0], sha256="other")
    split = dataclasses.replace(manifest.splits["testA"], shards=(shard,))
    other = dataclasses.replace(manifest, splits={**manifest.splits, "testA": split})
    assert evaluation.fingerprint(manifest) != evaluation.fingerprint(other)


def test_features_of_real_images_are_cached(run, tmp_path):
    first, second, third = make_extractor(), make_extractor(), make_extractor()
    results = [run(extractor=extractor, cache_dir=str(tmp_path)) for extractor in (first, second)]
    assert results[0] == results[1]
    assert len(first.calls) == 3 + 3 + 4  # translations, testA, trainB
    assert len(second.calls) == 3
    assert len(os.listdir(tmp_path)) == 2
    third.sha256 = "cd" * 32
    run(extractor=third, cache_dir=str(tmp_path))
    assert len(third.calls) == 10


def test_a_damaged_cache_costs_a_line(run, tmp_path):
    expected = run(cache_dir=str(tmp_path))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    lines = []
    assert run(cache_dir=str(tmp_path), say=lines.append) == expected
    assert len(lines) == 2
    assert all("damaged" in line for line in lines)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"direction": "b2c"}, "direction 'b2c' is unknown; choose one of a2b, b2a"),
        ({"reference_split": "all"}, "reference split 'all' is unknown"),
        ({"styles": 0}, "styles=0 must be at least 1"),
        ({"batch": 0}, "batch=0"),
        ({"seed": -1}, "seed=-1"),
        ({"max_images": -2}, "max_images=-2"),
        ({"max_images": 1}, "testA gives 1 image, and FID and KID need at least 2"),
        ({"max_reference_images": 1}, "trainB gives 1 image"),
        ({"kid_block_size": 2}, "KID: block size 2"),
        ({"extractor": "nowhere.keras"}, "nowhere.keras does not exist"),
    ],
)
def test_bad_options_are_user_errors(run, options, message):
    with pytest.raises(UserError, match=message):
        run(**options)


def test_a_missing_split_is_a_user_error(run):
    with pytest.raises(UserError, match="split testA is missing or empty"):
        run(toy=make_toy(counts={"trainA": 4, "trainB": 4}))


@pytest.mark.parametrize("translate", [lambda x, seed: x[:, :-1], lambda x, seed: x / 255.0, lambda x, seed: x[:2]])
def test_what_translate_gives_is_checked(run, translate):
    with pytest.raises(ValueError, match="it must give uint8 of the same shape"):
        run(translate)


# The report


def test_the_table_shows_both_columns_with_units_and_arrows(run):
    result = run(lambda images, seed: 255 - images)
    lines = format_table(result).splitlines()
    assert lines[0] == "toy a2b: 10 images of testA, 1 style, seed 0"
    assert lines[1].startswith("features: stub abababababab, 12 px pil_bicubic; reference: 15 images of trainB")
    assert lines[2].split() == ["metric", "unit", "translated", "untouched"]
    rows = {line.split("  ")[0]: line for line in lines[4:]}
    assert set(rows) == {"KID", "KID standard error", "FID", "IS", "PSNR", "SSIM", "L1", "L1 inside glasses"}
    for name, key, arrow, unit in (
        ("FID", "fid", "↓", ""),
        ("PSNR", "psnr", "↑", "dB"),
        ("L1", "l1", "↓", "of [-1, 1]"),
    ):
        assert arrow in rows[name]
        assert unit in rows[name]
        shown = [float(cell) for cell in rows[name].split(arrow)[1].split()]
        assert shown == pytest.approx([result["metrics"][key], result["untouched"][key]], rel=1e-2)
    assert len({len(line) for line in lines[2:]}) == 1
    diverse = format_table(run(styles=2))
    assert "diversity, features" in diverse
    assert "2 styles" in diverse


def test_the_result_is_written_whole_or_not_at_all(run, tmp_path, monkeypatch):
    result = run()
    folder = tmp_path / "a" / "b"
    path = write_result(result, str(folder))
    assert json.loads(pathlib.Path(path).read_text()) == result
    assert os.listdir(folder) == ["metrics.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result({**result, "metrics": {"fid": float("nan")}}, str(folder))
    assert json.loads(pathlib.Path(path).read_text()) == result
    again = write_result({**result, "metrics": {"fid": 1.0}}, str(folder))
    assert json.loads(pathlib.Path(again).read_text())["metrics"] == {"fid": 1.0}
    assert os.listdir(folder) == ["metrics.json"]
