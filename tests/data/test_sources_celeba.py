"""CelebA's lists, in each published form, against the paper's tasks."""

from __future__ import annotations

import os

import numpy as np
import pytest
from pictures import make_folder

from tfaclgan.data.images import RejectedError
from tfaclgan.data.source_celeba import CelebASource
from tfaclgan.errors import UserError

ATTRIBUTES, PARTITIONS = "list_attr_celeba.txt", "list_eval_partition.txt"
NAMES = ["Eyeglasses", "Male", "Smiling"]
ROWS = {  # image: (attributes, partition)
    "000001.jpg": ((-1, 1, 1), 0),
    "000002.jpg": ((1, -1, 1), 0),
    "000003.jpg": ((-1, -1, 1), 0),
    "000004.jpg": ((1, 1, -1), 1),
    "000005.jpg": ((-1, 1, -1), 1),
    "000006.jpg": ((1, -1, -1), 2),
    "000007.jpg": ((-1, -1, 1), 2),
}


def write_lists(folder, rows=ROWS, names=NAMES):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "list_attr_celeba.txt"), "w") as file:
        file.write(f"{len(rows)}\n{' '.join(names)} \n")
        file.writelines(f"{key} {' '.join(f'{v:2d}' for v in values)}\n" for key, (values, _) in rows.items())
    with open(os.path.join(folder, "list_eval_partition.txt"), "w") as file:
        file.writelines(f"{key} {partition}\n" for key, (_, partition) in rows.items())
    return str(folder)


def write_celeba(folder, extension=".jpg"):
    write_lists(folder)
    make_folder(folder, [f"img_align_celeba/{key[:-4]}{extension}" for key in ROWS], height=22, width=18)
    return str(folder)


def source(folder, attribute="Eyeglasses", **options):
    return CelebASource(folder, attribute, **{"images_folder": "", "max_images": 0, "max_bytes": 1 << 20, **options})


def keys(made):
    return {split: [job.key for job in made.jobs(split, 0)] for split in made.counts}


def test_the_papers_tasks(tmp_path):
    folder = write_celeba(tmp_path)
    glasses = source(folder)
    assert keys(glasses) == {
        "trainA": ["000002.jpg"],
        "trainB": ["000001.jpg", "000003.jpg"],
        "testA": ["000004.jpg", "000006.jpg"],  # validation and test
        "testB": ["000005.jpg", "000007.jpg"],
    }
    male = keys(source(folder, "Male"))
    assert male["trainA"] == ["000001.jpg"]  # A is male, B is female
    assert male["trainB"] == ["000002.jpg", "000003.jpg"]
    job = next(glasses.jobs("testA", 1))
    assert job.load(64).image == (tmp_path / "img_align_celeba" / "000006.jpg").read_bytes()


def test_the_lists_at_full_size_give_the_published_counts(tmp_path):
    """U-GAT-IT's and ACL-GAN's tables: 162,770 training images, 19,867 and 19,962 of validation and test."""
    wanted = {  # attribute: (train with it, validation + test with it)
        "Eyeglasses": (10_521, 2_672),
        "Male": (68_261, 16_173),
    }
    count, training = 202_599, 162_770
    generator = np.random.default_rng(0)
    columns = {}
    for name, (train, test) in wanted.items():
        values = np.full(count, -1)
        values[generator.permutation(training)[:train]] = 1
        values[training + generator.permutation(count - training)[:test]] = 1
        columns[name] = values
    partitions = [0] * training + [1] * 19_867 + [2] * 19_962
    values = zip(*(column.tolist() for column in columns.values()))
    rows = {f"{i:06d}.jpg": row for i, row in enumerate(zip(values, partitions, strict=True), start=1)}
    write_lists(tmp_path, rows, list(columns))
    make_folder(tmp_path, [f"img_align_celeba/{i + 1:06d}.jpg" for i in range(40)])
    assert source(str(tmp_path), "Eyeglasses").counts == {
        "trainA": 10_521, "trainB": 152_249, "testA": 2_672, "testB": 37_157,
    }  # fmt: skip
    assert source(str(tmp_path), "Male").counts == {
        "trainA": 68_261, "trainB": 94_509, "testA": 16_173, "testB": 23_656,
    }  # fmt: skip


def test_the_png_release_and_official_folders(tmp_path):
    folder = write_celeba(tmp_path, ".png")
    for name, place in (
        ("list_attr_celeba.txt", "Anno"),
        ("list_eval_partition.txt", "Eval"),
        ("img_align_celeba", "Img"),
    ):
        os.makedirs(tmp_path / place)
        os.rename(tmp_path / name, tmp_path / place / name)
    made = source(folder)
    assert made.lossless
    assert next(made.jobs("trainA", 0)).image.endswith(os.path.join("Img", "img_align_celeba", "000002.png"))


def test_the_comma_separated_lists(tmp_path):
    folder = write_celeba(tmp_path)
    expected = keys(source(folder))
    for name, header in (
        ("list_attr_celeba", ["image_id", *NAMES]),
        ("list_eval_partition", ["image_id", "partition"]),
    ):
        lines = (tmp_path / f"{name}.txt").read_text().splitlines()[2 if "attr" in name else 0 :]
        rows = [",".join(line.split()) for line in lines]
        (tmp_path / f"{name}.csv").write_text("\n".join([",".join(header), *rows]) + "\n")
        os.remove(tmp_path / f"{name}.txt")
    assert keys(source(folder)) == expected


def test_a_missing_image_is_rejected_alone(tmp_path):
    folder = write_celeba(tmp_path)
    os.remove(tmp_path / "img_align_celeba" / "000001.jpg")
    made = source(folder)
    first, second = made.jobs("trainB", 0)
    with pytest.raises(RejectedError, match="no image of this name in img_align_celeba"):
        first.load(64)
    assert second.load(64).image


def test_other_places_for_the_images_and_limits(tmp_path):
    folder = write_celeba(tmp_path)
    os.rename(tmp_path / "img_align_celeba", tmp_path / "faces")
    with pytest.raises(UserError, match="--celeba_images"):
        source(folder)
    assert source(folder, images_folder=str(tmp_path / "faces"), max_images=1).counts["trainB"] == 1


@pytest.mark.parametrize(
    "attribute, spoil, words",
    [
        ("Glasses", None, "--attribute=Glasses: not in CelebA's list; choose from Eyeglasses, Male, Smiling"),
        ("", None, "choose from Eyeglasses"),
        ("Male", lambda f: os.remove(f / ATTRIBUTES), "no list_attr_celeba.txt there"),
        ("Male", lambda f: os.remove(f / PARTITIONS), "no list_eval_partition.txt there"),
        ("Male", lambda f: (f / ATTRIBUTES).write_text("2\nA Male\nx.jpg 1\n"), "line 3 has 2 columns, not 3"),
        ("Male", lambda f: (f / ATTRIBUTES).write_text(""), "lists no images"),
        ("Male", lambda f: (f / PARTITIONS).write_text("000001.jpg 7\n"), "000001.jpg has partition '7' and Male '1'"),
        ("Male", lambda f: (f / PARTITIONS).write_text("9.jpg 0\n"), "000001.jpg is in list_attr_celeba, not"),
        ("Smiling", lambda f: [os.remove(p) for p in (f / "img_align_celeba").iterdir()], "no images for trainA"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path, attribute, spoil, words):
    folder = write_celeba(tmp_path)
    if spoil:
        spoil(tmp_path)
    with pytest.raises(UserError, match=words):
        source(folder, attribute)


def test_no_such_folder(tmp_path):
    with pytest.raises(UserError, match="no such folder; --source=celeba:FOLDER"):
        source(str(tmp_path / "none"))
