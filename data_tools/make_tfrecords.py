"""Makes a data folder for tfaclgan: images in, TFRecord shards, indices and dataset.json out.

    python data_tools/make_tfrecords.py --source=photos --output=data/photos --size=256
    python data_tools/make_tfrecords.py --source=avatars:glasses --output=data/glasses --size=64

docs/data.md describes sources, layouts and what happens to each kind of image.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a checkout that is not installed
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow only writes records here

from absl import app, flags

from tfaclgan.data import archives, masks, sources
from tfaclgan.data.convert import DUPLICATES_NAME, REJECTED_NAME, ConvertOptions, Summary, convert
from tfaclgan.data.images import RESAMPLING, ImageOptions, parse_colour
from tfaclgan.data.verify import summary as describe
from tfaclgan.errors import UserError, run_command

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "source",
    None,
    "What to read: a folder, a .zip, .tar or .tar.gz of one, celeba:FOLDER, tfds:NAME, or avatars:TASK "
    "(glasses, style, hair).",
)
flags.DEFINE_string("output", None, "The data folder to write; new or empty, unless --resume.")
flags.DEFINE_string("name", "", "The data set's name in dataset.json; empty: the output folder's.")

flags.DEFINE_integer("size", 256, "Load size: the stored images' shorter side, pixels.")
flags.DEFINE_enum("channels", "3", ["1", "3"], "Channels stored: 3 (RGB) or 1 (grey).")
flags.DEFINE_enum(
    "format",
    "auto",
    ["auto", "jpeg", "png"],
    "Stored format; auto: png for drawn pictures and where every source file is of a lossless kind, else jpeg.",
)
flags.DEFINE_integer("jpeg_quality", 95, "JPEG quality, 1 to 95.")
flags.DEFINE_enum(
    "resample", "bilinear", sorted(RESAMPLING), "Filter that resizes, antialiased; bilinear is what the originals use."
)
flags.DEFINE_string("background", "#ffffff", "Colour under transparent pixels: #rrggbb or a name.")
flags.DEFINE_integer(
    "min_size", 16, "Smallest shorter side of a source image, pixels; a smaller one stops the run (see --skip_small)."
)
flags.DEFINE_boolean("skip_small", False, "List images below --min_size in rejected.csv and go on.")
flags.DEFINE_integer(
    "max_pixels",
    64_000_000,
    "Largest source image, pixels (width x height); larger ones are rejected before they are decoded.",
)
flags.DEFINE_integer(
    "max_member_mb",
    64,
    "Largest source file or archive member, MiB; larger files are rejected, an archive with a larger image is refused.",
)

flags.DEFINE_string("domain_a", "A", "Folder name of domain A where there is no trainA.")
flags.DEFINE_string("domain_b", "B", "Folder name of domain B where there is no trainB.")
flags.DEFINE_float(
    "test_fraction", 0.1, "Share of each domain put aside for testing where the source has no test split, 0 to below 1."
)
flags.DEFINE_boolean("one_domain", False, "Read domain A only; a folder without splits is then one domain.")
flags.DEFINE_boolean("folder_labels", False, "Take the first folder below a split's as the class of its images.")
flags.DEFINE_integer("max_images", 0, "Keep the first so many images of each split; 0: all.")
flags.DEFINE_integer("train_count", 1000, "avatars: training pictures a domain.")
flags.DEFINE_integer("test_count", 200, "avatars: test pictures a domain.")
flags.DEFINE_integer("seed", 0, "Seed of drawn pictures and of the choice of test images.")

flags.DEFINE_string(
    "mask",
    "source",
    "Foreground masks: source (what it has), none, labels (classes of its label maps), segmenter (people in "
    "photographs), or folder:PATH.",
)
flags.DEFINE_list("mask_classes", [], "labels: the foreground's classes, names or numbers; empty: those of a face.")
flags.DEFINE_list("mask_without", [], "labels: classes to leave out of them, such as accessories,mouth.")
flags.DEFINE_boolean(
    "mask_parts",
    False,
    "labels, folder: masks of three planes, foreground, foreground without glasses and mouth, and glasses (RGB files).",
)
flags.DEFINE_list("mask_glasses", [], "labels with --mask_parts: classes of glasses; empty: accessories.")
flags.DEFINE_list("mask_mouth", [], "labels with --mask_parts: classes of the inside of mouths; empty: mouth.")
flags.DEFINE_enum(
    "mask_edge", "as_is", masks.EDGES, "soft: above 0.7 is 1, up to 0.3 is 0; hard: from 0.5 on is 1, else 0."
)
flags.DEFINE_string(
    "segmenter", "", "segmenter: a TFLite network, [1, h, w, 3] in [0, 1] to [1, h, w, 1]; empty: ours."
)

flags.DEFINE_string("attribute", "", "celeba: the attribute that A has and B has not, such as Eyeglasses or Male.")
flags.DEFINE_string("celeba_images", "", "celeba: the images' folder; empty: img_align_celeba below the source.")
flags.DEFINE_list("tfds_splits", [], "tfds: splits that are trainA,trainB[,testA,testB]; empty: those of these names.")
flags.DEFINE_list("tfds_classes", [], "tfds: two classes, by name or number, that are A and B; empty: splits are.")
flags.DEFINE_string("tfds_train", "train", "tfds: split to train on where classes are the domains.")
flags.DEFINE_string(
    "tfds_test", "test", "tfds: split to test on where classes are the domains; if absent, --test_fraction."
)
flags.DEFINE_string("tfds_image_key", "image", "tfds: name of the image feature.")
flags.DEFINE_string("tfds_label_key", "label", "tfds: name of the class feature.")
flags.DEFINE_string("tfds_data_dir", "", "tfds: where data sets are prepared; empty: ~/tensorflow_datasets.")
flags.DEFINE_boolean("tfds_download", False, "tfds: fetch and prepare the data set if it is not there.")

flags.DEFINE_float("shard_mb", 64, "Size at which a shard is closed, MiB.")
flags.DEFINE_integer("shards", 0, "Shards a split; 0: by --shard_mb.")
flags.DEFINE_integer("workers", 0, "Processes that decode and resize; 0: one a core, 1: none beside the main one.")
flags.DEFINE_integer("max_rejected", -1, "Stop (exit 2) at more rejected images than this; negative: never.")
flags.DEFINE_boolean("resume", False, "Continue a conversion of the same source and flags that was cut off.")


def make_source() -> sources.Source:
    """The source that the flags name."""
    layout = sources.LayoutOptions(
        domain_a=FLAGS.domain_a,
        domain_b=FLAGS.domain_b,
        test_fraction=FLAGS.test_fraction,
        one_domain=FLAGS.one_domain,
        folder_labels=FLAGS.folder_labels,
        max_images=FLAGS.max_images,
        seed=FLAGS.seed,
    )
    if not 0 <= layout.test_fraction < 1:
        raise UserError(f"--test_fraction={layout.test_fraction}: a share from 0 to below 1")
    if FLAGS.max_member_mb < 1 or FLAGS.max_images < 0:
        raise UserError("--max_member_mb is at least 1, --max_images at least 0")
    max_bytes = FLAGS.max_member_mb << 20
    kind, _, rest = FLAGS.source.partition(":")
    if kind == "avatars":
        return sources.AvatarSource(rest, train_count=FLAGS.train_count, test_count=FLAGS.test_count, seed=FLAGS.seed)
    if kind == "celeba":
        from tfaclgan.data.source_celeba import CelebASource

        return CelebASource(
            rest,
            FLAGS.attribute,
            images_folder=FLAGS.celeba_images,
            max_images=FLAGS.max_images,
            max_bytes=max_bytes,
        )
    if kind == "tfds":
        from tfaclgan.data.source_tfds import TfdsOptions, TfdsSource

        names = ("data_dir", "download", "splits", "classes", "train", "test", "image_key", "label_key")
        values = {name: FLAGS[f"tfds_{name}"].value for name in names}
        for name in ("splits", "classes"):
            values[name] = tuple(values[name])
        return TfdsSource(rest, TfdsOptions(**values), layout)
    if archives.is_archive(FLAGS.source) and not os.path.isdir(FLAGS.source):
        return sources.ArchiveSource(FLAGS.source, layout, max_bytes=max_bytes)
    return sources.FolderSource(FLAGS.source, layout, max_bytes=max_bytes)


def make_options(source: sources.Source) -> ConvertOptions:
    """The conversion that the flags ask for."""
    try:
        background = parse_colour(FLAGS.background)
    except ValueError as error:
        raise UserError(
            f"--background={FLAGS.background}: not a colour; write #rrggbb or a name such as white"
        ) from error
    image = ImageOptions(
        size=FLAGS.size,
        channels=int(FLAGS.channels),
        format=FLAGS.format,
        jpeg_quality=FLAGS.jpeg_quality,
        resample=FLAGS.resample,
        background=background,
        max_pixels=FLAGS.max_pixels,
        min_size=FLAGS.min_size,
    )
    return ConvertOptions(
        image=image,
        shard_mb=FLAGS.shard_mb,
        shards=FLAGS.shards,
        workers=FLAGS.workers,
        max_rejected=FLAGS.max_rejected,
        skip_small=FLAGS.skip_small,
        resume=FLAGS.resume,
        name=FLAGS.name,
        mask=masks.parse(
            FLAGS.mask,
            label_names=source.label_names,
            classes=tuple(FLAGS.mask_classes),
            without=tuple(FLAGS.mask_without),
            edge=FLAGS.mask_edge,
            segmenter=FLAGS.segmenter,
            parts=FLAGS.mask_parts,
            glasses=tuple(FLAGS.mask_glasses),
            mouth=tuple(FLAGS.mask_mouth),
            region=source.region,
        ),
    )


def report(summary: Summary) -> None:
    """Says what was written, and what to look at."""
    print("\n".join(describe(summary.manifest)))
    folder = summary.manifest.folder
    if summary.reused:
        print(f"{summary.reused} shards of an earlier run were kept")
    if summary.rejected:
        print(f"{summary.rejected} images could not be used: {os.path.join(folder, REJECTED_NAME)}")
    if summary.duplicates:
        print(
            f"{summary.duplicates} images occur more than once, {summary.leaks} of them in training and test: "
            f"{os.path.join(folder, DUPLICATES_NAME)}"
        )
    for split in summary.manifest.splits.values():
        if split.count == 1:
            print(f"warning: {split.name} has one image only")
    if not any(split.count for name, split in summary.manifest.splits.items() if name.startswith("test")):
        print("warning: no test images, so a model trained on this cannot be evaluated on it")


def main(arguments: list[str]) -> None:
    """Runs the conversion that the flags describe."""

    def command() -> None:
        if len(arguments) > 1:
            raise UserError(f"{arguments[1]!r} is no flag; write --source=... --output=..., --help lists every flag")
        if not FLAGS.source or not FLAGS.output:
            raise UserError("--source and --output are needed; --help lists every flag")
        source = make_source()
        report(convert(source, FLAGS.output, make_options(source)))

    sys.exit(run_command(command, "make_tfrecords"))


if __name__ == "__main__":
    app.run(main)
