"""From records to batches of uint8 images: shuffled, decoded in parallel, augmented, addressed by step.

Nothing here has state. Row r of step s is sample g = s * global_batch + r of a domain; g says which epoch it
belongs to, that epoch's permutation says which record it is, and (seed, domain, g) say how it is augmented. So a
run that starts at step k sees what an uninterrupted run sees there, and any number of hosts and replicas sees the
same global batch.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from tfaclgan.data import augment, reading, records
from tfaclgan.errors import UserError

_DOMAINS = (("a", "trainA"), ("b", "trainB"))
# First words of the seeds, so that order and augmentation never share a stream.
_ORDER, _AUGMENT = 0x0DE2, 0xA06E
_SHUFFLE_ROUNDS = 4
# Reads happen in Python and hold its lock: so many rows at a time.
_ROWS_PER_READ = 16


@dataclasses.dataclass(frozen=True)
class PipelineOptions:
    """How images are read.

    height, width: crop, pixels.
    load_size: shorter side before the crop, pixels.
    augment: preset or comma list (docs/augmentation.md).
    augment_until_step: from this step on only the crop is random; 0: augment always.
    seed: of order and augmentation.
    cache_mb: a split's encoded records are kept in host memory if they fit this many MiB.
    parallel_calls: images decoded and augmented at once; 0: tf.data decides.
    deterministic: keep the order even when a later image is ready first.
    """

    height: int
    width: int
    load_size: int
    augment: str = "none"
    augment_until_step: int = 0
    seed: int = 0
    cache_mb: int = 512
    parallel_calls: int = 0
    deterministic: bool = True


def training_dataset(
    manifest: records.Manifest,
    options: PipelineOptions,
    *,
    global_batch: int,
    first_step: int = 0,
    host: int = 0,
    hosts: int = 1,
    replicas_per_host: int = 1,
) -> tf.data.Dataset:
    """Endless batches of both domains for one host, in replica order.

    Element k belongs to step first_step + k // replicas_per_host and to this host's replica k % replicas_per_host.

    Args:
        manifest: data folder with splits trainA and trainB, of any lengths.
        options: sizes, augmentation, seed.
        global_batch: rows over all hosts and replicas.
        first_step: step of the first element.
        host, hosts: this host's number, and how many there are.
        replicas_per_host: replicas fed by one host.

    Returns:
        Elements {"a", "b": uint8 [b, h, w, c], "label_a", "label_b": int64 [b], "key_a", "key_b": string [b],
        and "mask_a", "mask_b": uint8 [b, h, w, 1] where the split has masks}, b = global_batch / replicas.

    Raises:
        UserError: a missing split, a broken index, a batch that the replicas cannot share, a bad spec.
    """
    _check(manifest, options)
    augmentation = augment.parse(options.augment)
    replicas = hosts * replicas_per_host
    if global_batch < 1 or global_batch % replicas:
        raise UserError(
            f"batch size {global_batch} cannot be shared by {replicas} replicas; make it a multiple of {replicas}"
        )
    if not 0 <= host < hosts:
        raise UserError(f"host {host} of {hosts} does not exist; hosts are numbered from 0")
    rows = global_batch // replicas
    rows_per_host = global_batch // hosts
    domains = [_Domain(manifest, split, options, number, name) for number, (name, split) in enumerate(_DOMAINS)]
    calls = options.parallel_calls or tf.data.AUTOTUNE

    def addresses(first_row: tf.Tensor) -> dict[str, tf.Tensor]:
        """Records of this host's rows first_row, first_row + 1, ..., counted from step 0."""
        local = first_row + tf.range(_ROWS_PER_READ, dtype=tf.int64)
        sample = local // rows_per_host * global_batch + host * rows_per_host + local % rows_per_host
        element = {"sample": sample}
        for domain in domains:
            element.update(domain.read(sample))
        return element

    def images(element: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        sample = element["sample"]
        step = sample // global_batch
        active = tf.constant(True) if not options.augment_until_step else step < options.augment_until_step
        result: dict[str, tf.Tensor] = {}
        for domain in domains:
            result.update(domain.images(element, augmentation, active))
        return result

    dataset = tf.data.Dataset.range(first_step * rows_per_host, np.iinfo(np.int64).max, _ROWS_PER_READ)
    dataset = dataset.map(addresses, num_parallel_calls=2, deterministic=options.deterministic)
    dataset = dataset.unbatch()
    dataset = dataset.map(images, num_parallel_calls=calls, deterministic=options.deterministic)
    dataset = dataset.batch(rows, drop_remainder=True)
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(_dataset_options(options))


def evaluation_dataset(
    manifest: records.Manifest, split: str, options: PipelineOptions, *, batch: int
) -> tf.data.Dataset:
    """The images of a split once, in order, resized and cropped from the centre.

    Args:
        manifest: data folder.
        split: "trainA", "trainB", "testA" or "testB".
        options: height, width and load_size count.
        batch: rows of every element; the last one repeats the split's last image, with valid False.

    Returns:
        Elements {"image": uint8 [batch, h, w, c], "key": string [batch], "label": int64 [batch], "valid": bool
        [batch], and where the split has them "target": uint8 [batch, h, w, c], "mask" and "label_map": uint8
        [batch, h, w, 1]}.

    Raises:
        UserError: a missing split or a broken index.
    """
    _check(manifest, options)
    if batch < 1:
        raise UserError(f"batch size {batch} must be at least 1")
    reader = reading.SplitReader(manifest, split)
    there = manifest.split(split)
    channels = manifest.channels

    def crop(encoded: tf.Tensor, channels: int, *, nearest: bool = False) -> tf.Tensor:
        return _test_image(encoded, channels, options, nearest=nearest)

    def element(number: tf.Tensor) -> dict[str, tf.Tensor]:
        example = _parse(_read(reader, tf.minimum(number, len(reader) - 1)[tf.newaxis]))
        example = {name: value[0] for name, value in example.items()}
        result = {
            "image": crop(example["image/encoded"], channels),
            "key": example["image/key"],
            "label": example["image/label"],
            "valid": number < len(reader),
        }
        if there.has_target:
            result["target"] = crop(example["target/encoded"], channels)
        if there.has_mask:
            result["mask"] = crop(example["mask/encoded"], 1, nearest=True)
        if there.has_label_map:
            result["label_map"] = crop(example["label_map/encoded"], 1, nearest=True)
        return result

    padded = -(-len(reader) // batch) * batch
    dataset = tf.data.Dataset.range(padded)
    dataset = dataset.map(element, num_parallel_calls=options.parallel_calls or tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch, drop_remainder=True)
    return dataset.prefetch(1).with_options(_dataset_options(options))


def read_images(manifest: records.Manifest, split: str, count: int, options: PipelineOptions) -> np.ndarray:
    """The first `count` images of a split (fewer if it has fewer): uint8 [n, h, w, c], prepared as for tests.

    Raises:
        UserError: a missing split, a broken index, a damaged record.
    """
    _check(manifest, options)
    reader = reading.SplitReader(manifest, split)
    images = []
    for number in range(min(count, len(reader))):
        example = records.parse(tf.constant(reader.read(number)))
        try:
            images.append(_test_image(example["image/encoded"], manifest.channels, options).numpy())
        except tf.errors.InvalidArgumentError as error:
            raise reading.explain(error, manifest) or error from error
    return np.stack(images) if images else np.zeros((0, options.height, options.width, manifest.channels), np.uint8)


class _Domain:
    """One domain's records: order, reading, decoding."""

    def __init__(
        self, manifest: records.Manifest, split: str, options: PipelineOptions, number: int, name: str
    ) -> None:
        self._reader = reading.SplitReader(manifest, split, cache_mb=options.cache_mb)
        self._count = len(self._reader)
        self._has_mask = manifest.split(split).has_mask
        self._channels = manifest.channels
        self._options, self._number, self._name = options, number, name

    def read(self, sample: tf.Tensor) -> dict[str, tf.Tensor]:
        """Encoded fields of the samples [n], each [n]."""
        example = _parse(_read(self._reader, record_numbers(sample, self._count, self._options.seed, self._number)))
        names = {"image/encoded": "encoded", "image/key": "key", "image/label": "label"}
        if self._has_mask:
            names["mask/encoded"] = "mask"
        return {f"{short}_{self._name}": example[long] for long, short in names.items()}

    def images(
        self, element: dict[str, tf.Tensor], augmentation: augment.Augmentation, active: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """One row's image (and mask), decoded and augmented."""
        options = self._options
        seed = tf.stack([tf.constant((options.seed * 2 + self._number) << 16 | _AUGMENT, tf.int64), element["sample"]])
        image = _decode(element[f"encoded_{self._name}"], self._channels)
        image = augment.random_image(
            image, augmentation, options.height, options.width, options.load_size, seed, active
        )
        image.set_shape([options.height, options.width, self._channels])
        return {
            self._name: image,
            f"label_{self._name}": element[f"label_{self._name}"],
            f"key_{self._name}": element[f"key_{self._name}"],
        }


def record_numbers(sample: tf.Tensor, count: int, seed: int, domain: int) -> tf.Tensor:
    """Which records the samples [n] are: int64 [n]; a permutation of 0..count-1 in each epoch of `count` samples."""
    epoch, position = sample // count, sample % count
    words = tf.stack([tf.fill(tf.shape(sample), tf.constant(seed * 2 + domain, tf.int64)), epoch], axis=1)
    # tf.random.experimental.index_shuffle pads a matrix of seeds along the wrong axis; this is the op under it.
    return tf.raw_ops.RandomIndexShuffle(
        index=position,
        seed=tf.pad(words, [[0, 0], [1, 0]], constant_values=_ORDER),
        max_index=tf.fill(tf.shape(sample), tf.constant(count - 1, tf.int64)),
        rounds=_SHUFFLE_ROUNDS,
    )


def _read(reader: reading.SplitReader, numbers: tf.Tensor) -> tf.Tensor:
    serialized = tf.numpy_function(reader.read_many, [numbers], tf.string, stateful=False)
    serialized.set_shape(numbers.shape)
    return serialized


def _parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in records.BYTES_FEATURES}
    features["image/label"] = tf.io.FixedLenFeature([], tf.int64)
    return tf.io.parse_example(serialized, features)


def _decode(encoded: tf.Tensor, channels: int) -> tf.Tensor:
    """uint8 [h, w, channels]; either decoder reads JPEG and PNG, but only one knows of four channels."""
    decoder = tf.io.decode_png if channels == 4 else tf.io.decode_jpeg
    return decoder(encoded, channels=channels)


def _test_image(encoded: tf.Tensor, channels: int, options: PipelineOptions, *, nearest: bool = False) -> tf.Tensor:
    image = augment.resize(_decode(encoded, channels), options.height, options.width, options.load_size)
    image = augment.centre_crop(image, options.height, options.width)
    image.set_shape([options.height, options.width, channels])
    return image


def _check(manifest: records.Manifest, options: PipelineOptions) -> None:
    if manifest.channels not in (1, 3, 4):
        raise UserError(
            f"{manifest.path(records.MANIFEST_NAME)}: {manifest.channels} channels, but images have 1, 3 or 4; "
            "make the data again with data_tools/make_tfrecords.py"
        )
    if min(options.height, options.width) < 1:
        raise UserError(f"crop {options.height}x{options.width}: sides must be at least 1 pixel")
    if options.load_size < min(options.height, options.width):
        raise UserError(
            f"load size {options.load_size} is below the crop's shorter side "
            f"{min(options.height, options.width)}; raise it or crop less"
        )


def _dataset_options(options: PipelineOptions) -> tf.data.Options:
    result = tf.data.Options()
    result.deterministic = options.deterministic
    result.autotune.enabled = True
    return result
