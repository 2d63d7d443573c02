"""TensorFlow Datasets as a source: splits or classes of any builder with an image feature."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

from tfaclgan.data.records import SPLITS
from tfaclgan.data.sources import BytesJob, Job, LayoutOptions, digest, part
from tfaclgan.errors import UserError


@dataclasses.dataclass(frozen=True)
class TfdsOptions:
    """Which part of a TensorFlow data set is which domain.

    data_dir: where data sets are prepared; "": the library's default.
    download: fetch and prepare the set if it is not there.
    splits: the splits that are trainA, trainB[, testA, testB], in TFDS's notation; (): the ones of those names.
    classes: two class names or numbers that are A and B (one with one_domain); then `train` and `test` name splits.
    test: "" for none: a `test_fraction` of each domain is put aside.
    """

    data_dir: str = ""
    download: bool = False
    splits: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    train: str = "train"
    test: str = "test"
    image_key: str = "image"
    label_key: str = "label"


class TfdsSource:
    """A TensorFlow Datasets builder whose splits, or whose classes, are the domains."""

    region = None
    lossless = False

    def __init__(self, name: str, options: TfdsOptions, layout: LayoutOptions) -> None:
        self._name, self._options = name, options
        self._builder = _tfds_builder(name, options)
        features = self._builder.info.features
        self._check_features(features)
        label = dict(features.items()).get(options.label_key)
        self._has_label = getattr(label, "num_classes", None) is not None
        self.label_names = tuple(label.names) if self._has_label else ()
        places = self._places(layout.one_domain)
        members = {split: self._members(spec, wanted) for split, (spec, wanted) in places.items()}
        for split in ("trainA",) if layout.one_domain else ("trainA", "trainB"):
            if not members[split]:
                raise UserError(
                    f"tfds:{name}: no images for {split} in {places[split][0]}; choose other splits or classes"
                )
        self._specs = {split: spec for split, (spec, _) in places.items()}
        if "testA" not in members:
            for split in list(members):
                test = split.replace("train", "test")
                members[split], members[test] = part(members[split], layout)
                self._specs[test] = self._specs[split]
        limit = layout.max_images or None
        self._keys = {split: members.get(split, [])[:limit] for split in SPLITS}
        self.counts = {split: len(keys) for split, keys in self._keys.items()}
        chosen = {field: getattr(options, field) for field in ("splits", "classes", "train", "test", "image_key")}
        self.description = {
            "kind": "tfds",
            "name": name,
            "version": str(self._builder.info.version),
            **chosen,
            "seed": layout.seed,
            "test_fraction": layout.test_fraction,
            "max_images": layout.max_images,
        }

    def fingerprint(self) -> str:
        return digest(f"{split}/{key}" for split, keys in self._keys.items() for key in keys)

    def jobs(self, split: str, start: int) -> Iterator[Job]:
        keys = self._keys[split][start:]
        if not keys:
            return
        wanted, first = set(keys), int(keys[0].rsplit("/", 1)[1])
        for number, example in enumerate(self._examples(self._specs[split], first), start=first):
            key = _tfds_key(self._specs[split], number)
            if key in wanted:
                label = int(example[self._options.label_key]) if self._has_label else -1
                yield BytesJob(key, label, bytes(example[self._options.image_key]))
                if key == keys[-1]:
                    return

    def _check_features(self, features: Any) -> None:
        import tensorflow_datasets as tfds

        key = self._options.image_key
        if key not in features or not isinstance(features[key], tfds.features.Image):
            raise UserError(
                f"tfds:{self._name}: {key!r} is no image feature (--tfds_image_key); there are {', '.join(features)}"
            )
        if features[key].dtype.name not in ("uint8", "uint16"):
            raise UserError(f"tfds:{self._name}: images of {features[key].dtype.name}; 8 and 16 bits can be read")

    def _places(self, one_domain: bool) -> dict[str, tuple[str, int | None]]:
        """Each split's TFDS split and, where classes are the domains, class number."""
        options, there = self._options, list(self._builder.info.splits)
        wanted = 1 if one_domain else 2
        order = SPLITS[:wanted] + SPLITS[2 : 2 + wanted]
        if options.classes:
            if not self._has_label:
                raise UserError(f"tfds:{self._name}: {options.label_key!r} is no class label (--tfds_label_key)")
            if len(options.classes) != wanted:
                raise UserError(f"--tfds_classes={','.join(options.classes)}: give {wanted}, A first")
            numbers = [self._class_number(text) for text in options.classes]
            specs = {"train": options.train, **({"test": options.test} if options.test else {})}
            if options.test == "test" and "test" not in there:
                del specs["test"]  # the default, which not every set has
            places = {
                role + domain: (spec, number) for role, spec in specs.items() for domain, number in zip("AB", numbers)
            }
        else:
            splits = options.splits or tuple(
                split for split in SPLITS[:wanted] + SPLITS[2 : 2 + wanted] if split in there
            )
            if len(splits) not in (wanted, 2 * wanted):
                raise UserError(
                    f"tfds:{self._name}: say which splits are A and B with --tfds_splits, or which classes with "
                    f"--tfds_classes; splits are {', '.join(there)}"
                    + (f", classes {', '.join(self.label_names[:20])}" if self.label_names else "")
                )
            places = {split: (spec, None) for split, spec in zip(order, splits)}
        for spec, _ in places.values():
            try:
                self._builder.info.splits[spec].num_examples  # noqa: B018 (an unknown split raises here)
            except (KeyError, ValueError, AttributeError) as error:
                raise UserError(f"tfds:{self._name}: no split {spec!r}; there are {', '.join(there)}") from error
        return places

    def _class_number(self, text: str) -> int:
        if text in self.label_names:
            return self.label_names.index(text)
        if text.isdigit() and int(text) < len(self.label_names):
            return int(text)
        raise UserError(f"--tfds_classes: no class {text!r}; there are {', '.join(self.label_names[:50])}")

    def _members(self, spec: str, wanted: int | None) -> list[str]:
        """Keys of a split's examples, of one class or all."""
        if wanted is None:
            return [_tfds_key(spec, number) for number in range(self._builder.info.splits[spec].num_examples)]
        labels = (int(example[self._options.label_key]) for example in self._examples(spec, 0))
        return [_tfds_key(spec, number) for number, label in enumerate(labels) if label == wanted]

    def _examples(self, spec: str, first: int) -> Iterator[dict[str, Any]]:
        """Examples from number `first` on, in the order of the files, images still encoded."""
        import tensorflow_datasets as tfds

        data = self._builder.as_dataset(
            split=spec, shuffle_files=False, decoders={self._options.image_key: tfds.decode.SkipDecoding()}
        )
        yield from data.skip(first).as_numpy_iterator()


def _tfds_key(spec: str, number: int) -> str:
    return f"{spec}/{number:08d}"


def _tfds_builder(name: str, options: TfdsOptions) -> Any:
    """The prepared builder."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f'tfds:{name}: needs tensorflow-datasets ({error}); run `pip install ".[datasets]"` in the repository'
        ) from error
    where = options.data_dir or os.path.join("~", "tensorflow_datasets")
    try:
        builder = tfds.builder(name, data_dir=options.data_dir or None)
    except Exception as error:  # the library raises ValueError, its own errors, and those of a data set's own code
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"tfds:{name}: no such data set, neither known nor prepared in {where} ({reason})") from error
    if builder.is_prepared():
        return builder
    if not options.download:
        raise UserError(
            f"tfds:{name}: not prepared in {where}; pass --tfds_download to fetch it, or name the folder where it is "
            "with --tfds_data_dir"
        )
    try:
        builder.download_and_prepare()
    except Exception as error:  # networks, check sums, disks, and the data set's own code
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"tfds:{name}: could not be fetched ({type(error).__name__}: {reason}); check the network, or prepare it "
            "elsewhere and name its folder with --tfds_data_dir"
        ) from error
    return builder
