"""From records to batches of uint8 images: shuffled, decoded in parallel, augmented, addressed by step.

Nothing here has state. Row r of step s is sample g = s * global_batch + r of a domain; g says which epoch it
belongs to, that epoch's permutation says which record it is, and (seed, domain, g) say how it is augmented. So a
run that starts at step k sees what an uninterrupted run sees there, and any number of hosts and replicas sees the
same global batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfaclgan.data import augment, device_augment, edges, matching, reading, records
from tfaclgan.data import service as service_client
from tfaclgan.errors import UserError

_DOMAINS = (("a", "trainA"), ("b", "trainB"))
_COMPANIONS = ("target", *device_augment.MAPS)
_BLURRED = (("blur_a", "trainA"), ("blur_b", "trainB"))
_ORDER, _AUGMENT = 0, 1  # streams of draws that must not meet
_SHUFFLE_ROUNDS = 4  # as in tf.random.experimental.index_shuffle
# Index shuffling walks through at least 2**16 numbers in search of a valid one: up to this count sorting is faster.
_MOST_SORTED = 2048
# Reads happen in Python and hold its lock: so many rows at a time.
_ROWS_PER_READ = 16


@dataclasses.dataclass(frozen=True)
class PipelineOptions:
    """How images are read.

    height, width: crop, pixels.
    load_size: shorter side before the crop, pixels.
    augment: preset or comma list (docs/augmentation.md).
    augment_on: "host", or "device": batches hold resized pictures and what is to happen to them
        (tfaclgan/data/device_augment.py).
    augment_until_step: from this step on only the crop is random; 0: augment always.
    seed: of order and augmentation.
    cache_mb: a split's encoded records are kept in host memory if they fit this many MiB.
    parallel_calls: images decoded and augmented at once; 0: tf.data decides.
    deterministic: keep the order even when a later image is ready first.
    companions: what else of a training split's records goes into batches, where the split has it: "mask",
        "label_map" (nearest neighbours, one channel) and "target" (treated as the image itself).
    match_histograms: one image of each pair takes on the other's colours (tfaclgan/data/matching.py); "": none.
    blurred_copies: batches also hold "blur_a", "blur_b": other images of the domains, in an order and with
        augmentation of their own, their edges blurred (tfaclgan/data/edges.py).
    """

    height: int
    width: int
    load_size: int
    augment: str = "none"
    augment_on: str = "host"
    augment_until_step: int = 0
    seed: int = 0
    cache_mb: int = 512
    parallel_calls: int = 0
    deterministic: bool = True
    companions: tuple[str, ...] = ("mask",)
    match_histograms: str = ""
    blurred_copies: bool = False


def training_dataset(
    manifest: records.Manifest,
    options: PipelineOptions,
    *,
    global_batch: int,
    first_step: int = 0,
    host: int = 0,
    hosts: int = 1,
    replicas_per_host: int = 1,
    bad_records: reading.BadRecords | None = None,
    service: str = "",
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
        bad_records: where bad records are counted, which the next sound one then stands for; None: they are errors.
        service: grpc://HOST:PORT of the dispatcher of a `tf.data` service, whose workers make the same batches and find
            the data under the same name; "": they are made here. Not with `bad_records`.

    Returns:
        Elements {"a", "b": uint8 [b, h, w, c], "label_a", "label_b": int32 [b], "key_a", "key_b": string [b], and
        per companion "mask_a", "mask_b": uint8 [b, h, w, planes] ..., and "blur_a", "blur_b": uint8 [b, h, w, c] if
        asked for}, b = global_batch / replicas. With augment_on="device" images and companions have their frame's
        height and width, and "plan_a", "plan_b" ... float32 [b, n] are there, for `DeviceAugmentation.apply`.

    Raises:
        UserError: a missing split, a broken index, a batch that the replicas cannot share, a bad spec, pictures that
            the device cannot augment.
    """
    _check(manifest, options)
    device = device_augmentation(options, manifest.channels, manifest)
    replicas = hosts * replicas_per_host
    if global_batch < 1 or global_batch % replicas:
        raise UserError(
            f"batch size {global_batch} cannot be shared by {replicas} replicas; make it a multiple of {replicas}"
        )
    if not 0 <= host < hosts:
        raise UserError(f"host {host} of {hosts} does not exist; hosts are numbered from 0")
    rows = global_batch // replicas
    rows_per_host = global_batch // hosts
    domains = [
        _Domain(manifest, split, options, number, name, bad_records, device, in_graph=bool(service))
        for number, (name, split) in enumerate(_DOMAINS)
    ]
    blurred = []
    if options.blurred_copies:
        if manifest.channels not in (1, 3):
            raise UserError(f"--blurred_copies: pictures of {manifest.channels} channels have no edges; drop the flag")
        alone = dataclasses.replace(options, companions=())
        blurred = [
            _Domain(manifest, split, alone, 2 + number, name, bad_records, device, in_graph=bool(service))
            for number, (name, split) in enumerate(_BLURRED)
        ]
    match = matching.parse(options.match_histograms, manifest.channels)
    calls = options.parallel_calls or tf.data.AUTOTUNE

    def addresses(first_row: tf.Tensor, count: int = _ROWS_PER_READ) -> dict[str, dict[str, tf.Tensor]]:
        """Records of this host's rows first_row, first_row + 1, ..., counted from step 0, and what happens to them."""
        local = first_row + tf.range(count, dtype=tf.int64)
        step, row = local // rows_per_host, local % rows_per_host
        sample = step * global_batch + host * rows_per_host + row
        active = step < options.augment_until_step if options.augment_until_step else None
        element = {domain.name: domain.read(sample, active) for domain in [*domains, *blurred]}
        if match:
            element["match"] = {"draw": _pair_draws(sample, options.seed)}
            if active is not None:
                element["match"]["active"] = active
        return element

    def images(element: dict[str, dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
        decoded = {domain.name: domain.decode(element[domain.name]) for domain in [*domains, *blurred]}
        if match:
            _match_pair(match, decoded["a"], decoded["b"], element["match"])
        result: dict[str, tf.Tensor] = {}
        for domain in domains:
            result.update(domain.images(element[domain.name], decoded[domain.name]))
        for domain in blurred:
            picture = {"image": edges.blur_edges(decoded[domain.name]["image"])}
            made = domain.images(element[domain.name], picture)
            result.update({name: made[name] for name in made if not name.startswith(("key_", "label_"))})
        return result

    if service:
        first = first_step * replicas_per_host
        return _served(service, first, rows, addresses, images, calls).with_options(_dataset_options(options))
    dataset = tf.data.Dataset.range(first_step * rows_per_host, np.iinfo(np.int64).max, _ROWS_PER_READ)
    dataset = dataset.map(addresses, num_parallel_calls=2, deterministic=options.deterministic)
    dataset = dataset.unbatch()
    dataset = dataset.map(images, num_parallel_calls=calls, deterministic=options.deterministic)
    dataset = dataset.batch(rows, drop_remainder=True)
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(_dataset_options(options))


def _served(
    address: str, first: int, rows: int, addresses: Callable[..., Any], images: Callable[..., Any], calls: int
) -> tf.data.Dataset:
    """The batches of `training_dataset` from number `first` on, made by a service's workers."""

    def batch(position: tf.Tensor) -> dict[str, tf.Tensor]:
        samples = tf.data.Dataset.from_tensor_slices(addresses(position * rows, rows))
        made = samples.map(images, num_parallel_calls=calls, deterministic=True).batch(rows, drop_remainder=True)
        return made.get_single_element()

    def numbered(position: tf.Tensor) -> dict[str, tf.Tensor]:
        return {service_client.POSITION: position, **batch(position)}

    positions = service_client.positions_from(first).map(numbered, num_parallel_calls=tf.data.AUTOTUNE)
    here = tf.function(batch, input_signature=[tf.TensorSpec([], tf.int64)])

    def made_here(position: int) -> dict[str, np.ndarray]:
        with tf.device("CPU"):
            return {name: value.numpy() for name, value in here(tf.constant(position, tf.int64)).items()}

    return service_client.distributed(address, first, positions, made_here).prefetch(tf.data.AUTOTUNE)


def device_augmentation(
    options: PipelineOptions, channels: int, manifest: records.Manifest | None
) -> device_augment.DeviceAugmentation | None:
    """What the device does to the batches of `training_dataset`, None if nothing.

    Args:
        options: as for `training_dataset`.
        channels: of the pictures.
        manifest: data folder; None: its pictures are squares of the load size.

    Raises:
        UserError: a missing split, a bad spec, pictures that the device cannot augment.
    """
    if options.augment_on == "host":
        return None
    domains = [*_DOMAINS, *(_BLURRED if options.blurred_copies else ())]
    splits = {name: manifest.split(split) if manifest else None for name, split in domains}
    return device_augment.make(options.augment, options.height, options.width, options.load_size, channels, splits)


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
        Elements {"image": uint8 [batch, h, w, c], "key": string [batch], "label": int32 [batch], "valid": bool
        [batch], and where the split has them "target": uint8 [batch, h, w, c], "mask" and "label_map": uint8
        [batch, h, w, 1]}.

    Raises:
        UserError: a missing split or a broken index.
    """
    _check(manifest, options)
    if batch < 1:
        raise UserError(f"batch size {batch} must be at least 1")
    reader = reading.shared_reader(manifest, split)
    names = [name for name in _COMPANIONS if getattr(manifest.split(split), f"has_{name}")]

    def element(number: tf.Tensor) -> dict[str, tf.Tensor]:
        example = _parse(_read(reader, tf.minimum(number, len(reader) - 1)[tf.newaxis]))
        example = {name: value[0] for name, value in example.items()}
        result = {"key": example["image/key"], "label": example["image/label"], "valid": number < len(reader)}
        for name in ("image", *names):
            result[name] = _evaluation_image(example[f"{name}/encoded"], name, manifest, options)
        if "mask" in names:
            result["mask"] = result["mask"][..., :1]  # the foreground, whatever other planes there are
        return result

    padded = -(-len(reader) // batch) * batch
    dataset = tf.data.Dataset.range(padded)
    dataset = dataset.map(element, num_parallel_calls=options.parallel_calls or tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch, drop_remainder=True)
    return dataset.prefetch(1).with_options(_dataset_options(options))


def read_images(
    manifest: records.Manifest,
    split: str,
    count: int,
    options: PipelineOptions,
    bad_records: reading.BadRecords | None = None,
) -> np.ndarray:
    """The first `count` images of a split (fewer if it has fewer): uint8 [n, h, w, c], prepared as for tests.

    With `bad_records` the next sound image stands for a bad one.

    Raises:
        UserError: a missing split, a broken index, a damaged record.
    """
    _check(manifest, options)
    reader = reading.shared_reader(manifest, split, bad_records=bad_records)
    images = []
    for number in range(min(count, len(reader))):
        example = records.parse(tf.constant(reader.read(number)))
        try:
            images.append(_evaluation_image(example["image/encoded"], "image", manifest, options).numpy())
        except tf.errors.InvalidArgumentError as error:
            raise reading.explain(error, manifest) or error from error
    return np.stack(images) if images else np.zeros((0, options.height, options.width, manifest.channels), np.uint8)


class _Domain:
    """One domain's records: order, reading, augmentation."""

    def __init__(
        self,
        manifest: records.Manifest,
        split: str,
        options: PipelineOptions,
        number: int,
        name: str,
        bad_records: reading.BadRecords | None,
        device: device_augment.DeviceAugmentation | None,
        in_graph: bool,
    ) -> None:
        self.name, self._device, self._in_graph = name, device, in_graph
        self._reader = reading.shared_reader(manifest, split, cache_mb=options.cache_mb, bad_records=bad_records)
        self._augmentation = augment.parse(options.augment)
        augment.check_channels(self._augmentation, manifest.channels, options.augment)
        self._manifest = manifest
        self._options, self._number = options, number
        there = manifest.split(split)
        self._fields = ["image", *(field for field in options.companions if getattr(there, f"has_{field}"))]

    def read(self, sample: tf.Tensor, active: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """What is needed of the samples' [n] records, still encoded, and the plan of their augmentation."""
        options = self._options
        numbers = record_numbers(sample, len(self._reader), options.seed, self._number)
        example = _parse(self._reader.read_in_graph(numbers) if self._in_graph else _read(self._reader, numbers))
        stream = tf.constant(_seed_word(options.seed, self._number, _AUGMENT), tf.int64)
        drawn = augment.plan(
            self._augmentation,
            tf.stack([tf.fill(tf.shape(sample), stream), sample], 1),
            tf.stack([example["image/height"], example["image/width"]], 1),
            options.height,
            options.width,
            options.load_size,
            active,
        )
        if self._device:
            drawn = {"packed": self._device.pack(drawn)}
        needed = ["image/key", "image/label", *(f"{field}/encoded" for field in self._fields)]
        return {**{name: example[name] for name in needed}, **{f"plan/{name}": value for name, value in drawn.items()}}

    def decode(self, row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One sample as stored: the image and its companions, uint8 [h, w, c]."""
        return {
            field: records.decode(row[f"{field}/encoded"], self._manifest.channels_of(field)) for field in self._fields
        }

    def images(self, row: dict[str, tf.Tensor], decoded: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One sample: the decoded image and its companions, augmented by the same plan or made ready for the device."""
        height, width = self._options.height, self._options.width
        drawn = {name.removeprefix("plan/"): value for name, value in row.items() if name.startswith("plan/")}
        result = {f"key_{self.name}": row["image/key"], f"label_{self.name}": row["image/label"]}
        for field in self._fields:
            is_map = field in device_augment.MAPS
            if self._device:
                shape = self._device.frames[self.name]
                image = augment.resize(decoded[field], tf.constant(shape), nearest=is_map)
            else:
                shape = height, width
                image = augment.random_image(
                    decoded[field],
                    self._augmentation,
                    drawn,
                    height,
                    width,
                    is_map=is_map,
                    always=not self._options.augment_until_step,
                )
            image.set_shape([*shape, self._manifest.channels_of(field)])
            result[self.name if field == "image" else f"{field}_{self.name}"] = image
        if self._device:
            result[device_augment.plan_key(self.name)] = drawn["packed"]
        return result


def _pair_draws(sample: tf.Tensor, seed: int) -> tf.Tensor:
    """A number in [0, 1) for each sample int64 [n], of a stream that no domain has."""
    stream = tf.constant(-1 - seed % 2**61, tf.int64)
    return tf.map_fn(
        lambda number: tf.random.stateless_uniform([], tf.stack([stream, number]), alg="philox"),
        sample,
        fn_output_signature=tf.float32,
    )


def _match_pair(
    match: matching.Matching, a: dict[str, tf.Tensor], b: dict[str, tf.Tensor], row: dict[str, tf.Tensor]
) -> None:
    """Replaces the images of two decoded samples by the matched pair."""
    pair = a["image"], b["image"]

    def matched() -> tuple[tf.Tensor, tf.Tensor]:
        return matching.match_pair(match, *pair, row["draw"])

    a["image"], b["image"] = tf.cond(row["active"], matched, lambda: pair) if "active" in row else matched()


def record_numbers(sample: tf.Tensor, count: int, seed: int, domain: int) -> tf.Tensor:
    """Which records the samples int64 [n] are: int64 [n]; each epoch of `count` samples is a permutation of its own."""
    epoch, position = sample // count, sample % count
    epochs, row = tf.unique(epoch, out_idx=tf.int64)
    few = count <= _MOST_SORTED
    stream = tf.constant(_seed_word(seed, domain, _ORDER), tf.int64)

    def bits(number: tf.Tensor) -> tf.Tensor:
        shape = [count if few else 3]
        return tf.random.stateless_uniform(
            shape, tf.stack([stream, number]), minval=None, maxval=None, dtype=tf.int32, alg="philox"
        )

    drawn = tf.map_fn(bits, epochs, fn_output_signature=tf.int32)
    if few:
        return tf.cast(tf.gather_nd(tf.argsort(drawn, stable=True), tf.stack([row, position], 1)), tf.int64)
    # The op under tf.random.experimental.index_shuffle, whose wrapper pads a matrix of seeds along the wrong axis. Its
    # key is made from a few low bits of each word, so an epoch's number must not be a word: there would be 256 orders.
    return tf.raw_ops.RandomIndexShuffle(
        index=position,
        seed=tf.gather(drawn, row),
        max_index=tf.fill(tf.shape(sample), tf.constant(count - 1, tf.int64)),
        rounds=_SHUFFLE_ROUNDS,
    )


def _seed_word(seed: int, domain: int, stream: int) -> int:
    return seed % 2**61 * 4 + domain * 2 + stream


def _read(reader: reading.SplitReader, numbers: tf.Tensor) -> tf.Tensor:
    serialized = tf.numpy_function(reader.read_many, [numbers], tf.string, stateful=False)
    serialized.set_shape(numbers.shape)
    return serialized


def _parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in records.BYTES_FEATURES}
    features.update({name: tf.io.FixedLenFeature([], tf.int64) for name in records.INT_FEATURES})
    example = tf.io.parse_example(serialized, features)
    # 32 bits, because labels go to the device and TPUs emulate 64.
    return {**example, **{name: tf.cast(example[name], tf.int32) for name in records.INT_FEATURES}}


def _evaluation_image(
    encoded: tf.Tensor, field: str, manifest: records.Manifest, options: PipelineOptions
) -> tf.Tensor:
    is_map, channels = field in device_augment.MAPS, manifest.channels_of(field)
    image = records.decode(encoded, channels)
    image = augment.evaluation_image(image, options.height, options.width, options.load_size, nearest=is_map)
    image.set_shape([options.height, options.width, channels])
    return image


def _check(manifest: records.Manifest, options: PipelineOptions) -> None:
    unknown = [name for name in options.companions if name not in _COMPANIONS]
    if unknown:
        raise UserError(f"records hold no {unknown[0]!r}; companions of an image are {', '.join(_COMPANIONS)}")
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
    # Images are handled in parallel already; threads within one operation would only wait for each other.
    result.threading.max_intra_op_parallelism = 1
    return result
