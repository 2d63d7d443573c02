"""Judges a translation: distances to the target domain, to ground truth, and between styles.

Everything is computed twice by the same code: for the translations and for the inputs as they are
("untouched"), because a distance says little until one knows what doing nothing scores. A result
carries its protocol, without which its numbers cannot be compared.

The reference is by default the target domain's *training* split, as in StarGAN v2's evaluation and
the enhanced U-GAT-IT fork's: it is the larger set, and where test images come in pairs the target's
test split shows the very subjects that were translated, so it is no independent sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import tfaclgan
from tfaclgan.data.records import Manifest
from tfaclgan.errors import UserError
from tfaclgan.metrics import cache, distances, pairs, tfgan
from tfaclgan.metrics.features import Collector, FeatureExtractor, get_extractor
from tfaclgan.metrics.report import format_table, write_result

__all__ = ["KEYS", "evaluate", "format_table", "write_result"]

KEYS = ("kid", "kid_standard_error", "fid", "is", "psnr", "ssim", "l1", "region_l1", "diversity", "diversity_l1")
# With `published_kid`: KID in blocks of 10, and U-GAT-IT's two mixtures with the distance to the source set.
PUBLISHED_KEYS = tuple(
    f"{name}{suffix}"
    for name in ("kid_blocks_of_10", "kid_ugatit_mean", "kid_ugatit_average")
    for suffix in ("", "_standard_error")
)
DIRECTIONS = {"a2b": ("A", "B"), "b2a": ("B", "A")}

Translate = Callable[[np.ndarray, int], np.ndarray]  # uint8 [b, h, w, c], seed -> uint8 of that shape


def evaluate(
    translate: Translate,
    manifest: Manifest,
    options: Any,
    *,
    direction: str = "a2b",
    extractor: FeatureExtractor | str | None = "efficientnet_lite0",
    batch: int = 16,
    styles: int = 1,
    seed: int = 0,
    max_images: int = 0,
    max_reference_images: int = 0,
    reference_split: str = "train",
    kid_block_size: int = 0,
    published_kid: bool = False,
    cache_dir: str = "",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Translates the source domain's test split, every image once, and measures the outcome.

    With several styles each image is translated once under each; every metric is computed for each
    style by itself and averaged over styles (diversity: over pairs of styles).

    Args:
        translate: translates a batch of uint8 images [batch, h, w, c]; the batch is always whole
            (the last one padded), the seed differs between batches and styles.
        manifest: of the data folder.
        options: `data.pipeline.PipelineOptions`; height, width and load_size count.
        direction: "a2b" or "b2a".
        extractor: of features, or its spec; None or "none" leaves out FID, KID, IS and diversity in
            features (images with other than 1 or 3 channels have no extractor).
        batch: images a call of `translate`.
        styles: translations of each image.
        seed: of the styles.
        max_images: how many test images, in order; 0: all.
        max_reference_images: how many reference images, in order; 0: all.
        reference_split: "train" or "test" of the target domain; "train" falls back to "test" where
            the data have no training split.
        kid_block_size: see `distances.kernel_distance`; 0: chosen there.
        published_kid: also give `PUBLISHED_KEYS`, see `distances.published_kernel_distance`.
        cache_dir: folder for features of real images; "": no cache.
        say: takes console lines.

    Returns:
        {"protocol": {...}, "metrics": {...}, "untouched": {...}}, JSON-able. The last two have the
        keys `KEYS`, each a float or None where it cannot be had: kid, its standard error (None with
        one block), fid, is; psnr (dB), ssim, l1 where the split has targets; region_l1 where the
        manifest names a region too (mean over all region pixels of all images); diversity
        (`pairs.pairwise_features`) and diversity_l1 (`pairs.pairwise_l1`) with 2 styles or more.
        l1, region_l1 and diversity_l1 are for pixels in [-1, 1].

    Raises:
        UserError: an unknown direction or reference split, a missing split, too few images, missing
            packages.
    """
    if direction not in DIRECTIONS:
        raise UserError(f"direction {direction!r} is unknown; choose one of {', '.join(DIRECTIONS)}")
    if reference_split not in ("train", "test"):
        raise UserError(f"reference split {reference_split!r} is unknown; choose train or test")
    for name, value, fewest in (
        ("styles", styles, 1),
        ("batch", batch, 1),
        ("seed", seed, 0),
        ("max_images", max_images, 0),
        ("max_reference_images", max_reference_images, 0),
    ):
        if value < fewest:
            raise UserError(f"{name}={value} must be at least {fewest}; give a larger number")
    if isinstance(extractor, str):
        extractor = None if extractor == "none" else get_extractor(extractor)
    source, target = DIRECTIONS[direction]
    split = f"test{source}"
    reference = f"{reference_split}{target}"
    if reference_split == "train" and reference not in manifest.splits:
        reference = f"test{target}"
    data = _Data(manifest, options, batch, extractor, cache_dir, say)
    count = data.count(split, max_images)
    count_real = data.count(reference, max_reference_images) if extractor else None
    if extractor and min(count, count_real) < 2:
        name, few = min(((split, count), (reference, count_real)), key=lambda pair: pair[1])
        raise UserError(
            f"{manifest.folder}: split {name} gives {few} image, and FID and KID need at least 2 of each side; "
            "add images or evaluate with extractor none"
        )

    measured = [_Measures(extractor) for _ in range(styles)]
    untouched = _Measures(extractor)
    diversity_l1 = []
    for start, element in data.batches(split, count):
        images = element["image"]
        valid = np.asarray(element["valid"], bool)
        region = region_of(manifest, element)
        translations = []
        for style, measures in enumerate(measured):
            output = np.asarray(translate(images, _seed(seed, style, start)))
            if output.shape != images.shape or output.dtype != np.uint8:
                raise ValueError(
                    f"translate gave {output.dtype} {output.shape} for images uint8 {images.shape}; "
                    "it must give uint8 of the same shape"
                )
            translations.append(output[valid])
            measures.add(output[valid], _valid(element.get("target"), valid), _valid(region, valid))
        untouched.add(images[valid], _valid(element.get("target"), valid), _valid(region, valid), features=False)
        if styles > 1:
            diversity_l1.append(pairs.pairwise_l1(np.stack(translations)))

    real = source_features = None
    if extractor:
        real = data.features(reference, count_real)
        source_features = data.features(split, count)
    results = [measures.result(measures.features(), real, kid_block_size) for measures in measured]
    metrics = {key: _mean([values[key] for values in results]) for key in results[0]}
    plain = untouched.result(source_features, real, kid_block_size)
    metrics["diversity"] = metrics["diversity_l1"] = plain["diversity"] = plain["diversity_l1"] = None
    if styles > 1:
        metrics["diversity_l1"] = float(np.mean(np.concatenate(diversity_l1)))
        plain["diversity_l1"] = 0.0  # one input, whatever the style
        if extractor:
            features = np.stack([measures.features()[0] for measures in measured])
            metrics["diversity"] = float(np.mean(pairs.pairwise_features(features)))
            plain["diversity"] = 0.0
    keys = KEYS
    if published_kid and extractor:
        keys = (*KEYS, *PUBLISHED_KEYS)
        published = [_published(real[0], source_features[0], measures.features()[0]) for measures in measured]
        metrics |= {key: _mean([values[key] for values in published]) for key in PUBLISHED_KEYS}
        # The mixtures compare with the source: of the untouched inputs they would say nothing.
        alone = _published(real[0], source_features[0], source_features[0])
        plain |= {key: alone[key] if key.startswith("kid_blocks") else None for key in PUBLISHED_KEYS}
    blocks = None
    if extractor:
        blocks = distances.blocks(len(real[0]), count, kid_block_size)
    region_name = (manifest.region or {}).get("name") if metrics["region_l1"] is not None else None
    protocol = {
        "data": manifest.name,
        "data_fingerprint": fingerprint(manifest),
        "direction": direction,
        "split": split,
        "reference_split": reference if extractor else None,
        "count_generated": count,
        "count_real": count_real,
        "image_height": int(options.height),
        "image_width": int(options.width),
        "load_size": int(options.load_size),
        "styles": styles,
        "seed": seed,
        "batch": batch,
        "region": region_name,
        "kid_block_size": blocks[0] if blocks else None,
        "kid_blocks": blocks[1] if blocks else None,
        "psnr_ceiling_db": pairs.PSNR_CEILING,
        "tfaclgan": tfaclgan.__version__,
        "tensorflow_gan": tfgan.version() if extractor else None,
        **(extractor.protocol() if extractor else {"extractor": None}),
    }
    return {
        "protocol": protocol,
        "metrics": {key: metrics[key] for key in keys},
        "untouched": {key: plain[key] for key in keys},
    }


def _published(real: np.ndarray, source: np.ndarray, generated: np.ndarray) -> dict[str, float | None]:
    found = distances.published_kernel_distance(real, source, generated)
    return dict(zip(PUBLISHED_KEYS, (*found.plain, *found.mean, *found.average), strict=True))


def fingerprint(manifest: Manifest) -> str:
    """SHA-256 (hex, 16 digits) over the splits' names and their shards' hashes."""
    import hashlib

    text = "".join(f"{name} {_split_hash(manifest, name)}\n" for name in sorted(manifest.splits))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _split_hash(manifest: Manifest, split: str) -> str:
    return " ".join(shard.sha256 for shard in manifest.splits[split].shards)


@dataclasses.dataclass(frozen=True)
class _Data:
    """The images of a data folder under one preprocessing, and their features."""

    manifest: Manifest
    options: Any
    batch: int
    extractor: FeatureExtractor | None
    cache_dir: str
    say: Callable[[str], None]

    def count(self, split: str, most: int) -> int:
        count = self.manifest.split(split).count
        return min(count, most) if most else count

    def batches(self, split: str, count: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """The first `count` images as (number of the first, padded batch of numpy arrays)."""
        import tensorflow as tf

        from tfaclgan.data import pipeline, reading
        from tfaclgan.data.batches import Batches

        start = 0
        elements = Batches(iter(pipeline.evaluation_dataset(self.manifest, split, self.options, batch=self.batch)))
        while True:
            try:
                element = next(elements, None)
            except tf.errors.OpError as error:
                raise reading.explain(error, self.manifest) or error from error
            if element is None:
                return
            if start >= count:
                return
            element = {key: value.numpy() for key, value in element.items()}
            valid = np.asarray(element["valid"], bool).copy()
            valid &= np.cumsum(valid) <= count - start
            yield start, {**element, "valid": valid}
            start += int(valid.sum())

    def features(self, split: str, count: int) -> cache.Features:
        key = {
            "split": split,
            "shards": _split_hash(self.manifest, split),
            "count": count,
            "height": int(self.options.height),
            "width": int(self.options.width),
            "load_size": int(self.options.load_size),
            **self.extractor.protocol(),
        }
        folder = self.cache_dir

        def compute() -> cache.Features:
            collector = Collector(self.extractor)
            for _, element in self.batches(split, count):
                collector.add(element["image"][element["valid"]])
            return collector.result()

        return cache.cached_features(folder, split, key, compute, self.say)


class _Measures:
    """Accumulates one set of outputs: one style's translations, or the untouched inputs."""

    def __init__(self, extractor: FeatureExtractor | None) -> None:
        self._collector = Collector(extractor) if extractor else None
        self._features: cache.Features | None = None
        self._pairs: dict[str, list[np.ndarray]] = {"psnr": [], "ssim": [], "l1": []}
        self._region = [0.0, 0]

    def add(
        self, images: np.ndarray, targets: np.ndarray | None, region: np.ndarray | None, *, features: bool = True
    ) -> None:
        if features and self._collector:
            self._collector.add(images)
        if targets is None:
            return
        self._pairs["psnr"].append(pairs.psnr(images, targets))
        self._pairs["l1"].append(pairs.l1(images, targets))
        if min(images.shape[1:3]) >= pairs.SSIM_WINDOW:
            self._pairs["ssim"].append(pairs.ssim(images, targets))
        if region is not None:
            total, pixels = pairs.region_l1(images, targets, region)
            self._region[0] += total
            self._region[1] += pixels

    def features(self) -> cache.Features | None:
        if self._features is None and self._collector:
            self._features = self._collector.result()
        return self._features

    def result(
        self, features: cache.Features | None, real: cache.Features | None, block_size: int
    ) -> dict[str, float | None]:
        values: dict[str, float | None] = {"kid": None, "kid_standard_error": None, "fid": None, "is": None}
        if features and real:
            kernel = distances.kernel_distance(real[0], features[0], block_size=block_size)
            values["kid"], values["kid_standard_error"] = kernel.mean, kernel.standard_error
            values["fid"] = distances.frechet_distance(real[0], features[0])
            if features[1] is not None:
                values["is"] = distances.inception_score(features[1])
        for key, parts in self._pairs.items():
            values[key] = float(np.mean(np.concatenate(parts))) if parts else None
        total, pixels = self._region
        values["region_l1"] = total / pixels if pixels else None
        return values


def region_of(manifest: Manifest, element: dict[str, np.ndarray]) -> np.ndarray | None:
    """bool [b, h, w, 1]: the pixels of the manifest's region, or None if the split does not have it."""
    region = manifest.region
    if not region or element.get(region["feature"]) is None:
        return None
    values = element[region["feature"]]
    return values > 127 if region["feature"] == "mask" else np.isin(values, region["classes"])


def _valid(values: np.ndarray | None, valid: np.ndarray) -> np.ndarray | None:
    return None if values is None else values[valid]


def _seed(seed: int, style: int, start: int) -> int:
    """A seed of its own, 0 to 2^31 - 1, for each style and batch."""
    return int(np.random.SeedSequence((seed, style, start)).generate_state(1)[0] & 0x7FFFFFFF)


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None
