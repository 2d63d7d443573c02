"""Which file becomes which split's picture, in folders and by name alone."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
from pictures import four_folders, make_folder, noise
from PIL import Image

from tfaclgan.data import images
from tfaclgan.data.sources import FolderSource, LayoutOptions, arrange, list_folder
from tfaclgan.errors import UserError

MEGABYTE = 1 << 20


def layout(names, **options):
    splits = arrange(names, LayoutOptions(**options), "here").splits
    return {split: [item.key for item in items] for split, items in splits.items()}


def test_four_folders_nested_and_sorted_by_bytes():
    names = ["trainA/b.png", "trainA/sub/deep/a.JPG", "trainA/Z.png", "trainA/é.png", "trainB/x.webp", "testB/t.tif"]
    found = layout(names)
    assert found["trainA"] == ["trainA/Z.png", "trainA/b.png", "trainA/sub/deep/a.JPG", "trainA/é.png"]
    assert found["trainB"] == ["trainB/x.webp"]
    assert found["testA"] == []
    assert found["testB"] == ["testB/t.tif"]


def test_other_files_and_hidden_ones_are_passed_over():
    names = [
        "trainA/a.png",
        "trainA/readme.txt",
        "trainA/._a.png",
        "__MACOSX/trainA/a.png",
        ".git/x.png",
        "trainB/b.png",
    ]
    found = layout(names)
    assert (found["trainA"], found["trainB"]) == (["trainA/a.png"], ["trainB/b.png"])


def test_one_folder_around_everything_is_entered():
    assert layout(["horse2zebra/trainA/a.png", "horse2zebra/trainB/b.png"])["trainA"] == ["trainA/a.png"]
    assert layout(["set/A/a.png", "set/B/b.png"], test_fraction=0)["trainB"] == ["B/b.png"]


def test_train_and_test_folders_with_domains_inside():
    names = ["train/cat/1.png", "train/dog/1.png", "train/wild/1.png", "val/cat/2.png", "val/dog/2.png"]
    found = layout(names, domain_a="cat", domain_b="dog")
    assert found == {
        "trainA": ["train/cat/1.png"],
        "trainB": ["train/dog/1.png"],
        "testA": ["val/cat/2.png"],
        "testB": ["val/dog/2.png"],
    }
    assert layout([*names, "test/cat/3.png"], domain_a="cat", domain_b="dog")["testA"] == ["test/cat/3.png"]


def test_two_domains_are_parted_by_fraction():
    names = [f"{d}/{i:03d}.png" for d in ("photo", "art") for i in range(40)]
    options = {"domain_a": "photo", "domain_b": "art", "test_fraction": 0.25}
    found = layout(names, **options)
    assert [len(found[split]) for split in ("trainA", "trainB", "testA", "testB")] == [30, 30, 10, 10]
    assert sorted(found["trainA"] + found["testA"]) == [n for n in sorted(names) if n.startswith("photo")]
    assert found["testA"] == sorted(found["testA"])
    assert layout(reversed(names), **options) == found
    assert layout(names, **options, seed=1)["testA"] != found["testA"]


def test_a_folder_around_everything_does_not_change_the_parting():
    names = [f"{d}/{i:03d}.png" for d in "AB" for i in range(40)]
    assert layout([f"set/{name}" for name in names]) == layout(names)


def test_a_new_file_moves_few_others():
    names = [f"{d}/{i:03d}.png" for d in "AB" for i in range(100)]
    before, after = layout(names)["testA"], layout([*names, "A/new.png"])["testA"]
    assert len(set(before) - set(after)) <= 1


def test_a_fraction_never_takes_the_last_training_image():
    found = layout(["A/a.png", "B/b.png"], test_fraction=0.9)
    assert (found["trainA"], found["testA"]) == (["A/a.png"], [])


def test_one_domain():
    names = [f"{i:02d}.png" for i in range(10)] + ["more/x.png"]
    found = layout(names, one_domain=True, test_fraction=0.3)
    assert (len(found["trainA"]), len(found["testA"]), found["trainB"], found["testB"]) == (8, 3, [], [])
    four = layout(["trainA/a.png", "trainB/b.png", "testA/c.png"], one_domain=True)
    assert (four["trainA"], four["testA"], four["trainB"]) == (["trainA/a.png"], ["testA/c.png"], [])


def test_max_images():
    names = [f"{d}/{i}.png" for d in ("trainA", "trainB") for i in range(5)]
    assert layout(names, max_images=2)["trainA"] == ["trainA/0.png", "trainA/1.png"]


@pytest.mark.parametrize(
    "names, words",
    [
        ([], "0 images, but no folders trainA and trainB"),
        (["a.png", "b.png"], "2 images, but no folders trainA"),
        (["trainA/a.png", "trainB/readme.txt"], "no images for trainB in trainB/"),
        (["trainB/b.png"], "no images for trainA in trainA/"),
        (["A/a.png"], "no images for trainB in B/"),
    ],
)
def test_missing_domains(names, words):
    with pytest.raises(UserError, match=words) as error:
        layout(names)
    assert str(error.value).startswith("here: ")
    assert "\n" not in str(error.value)


def test_companions_are_found_by_name_and_missed_by_name():
    names = [
        "trainA/a.jpg",
        "trainB/b.png",
        "testA/x/1.jpg",
        "testA/2.jpg",
        "testA_target/x/1.png",
        "testA_target/2.png",
    ]
    names += ["testA_mask/x/1.png", "testA_label_map/x/1.png", "testA_label_map/2.png"]
    items = arrange(names, LayoutOptions(), "here").splits
    two, one = items["testA"]
    assert (one.target, one.mask, one.label_map, one.missing) == (
        "testA_target/x/1.png", "testA_mask/x/1.png", "testA_label_map/x/1.png", "",
    )  # fmt: skip
    assert two.missing == "no mask of this name in testA_mask"
    assert items["trainA"][0].target is None
    assert items["trainA"][0].missing == ""


def test_companions_follow_a_domain_that_is_parted():
    names = [f"{d}/{i}.png" for d in ("A", "A_target", "B") for i in range(4)]
    items = arrange(names, LayoutOptions(test_fraction=0.5), "here").splits
    assert [item.target for item in items["testA"]] == [item.name.replace("A/", "A_target/") for item in items["testA"]]
    assert len(items["testA"]) == 2


def test_folder_labels():
    names = ["trainA/dog/1.png", "trainA/cat/1.png", "trainA/0.png", "trainB/b.png"]
    found = arrange(names, LayoutOptions(folder_labels=True), "here")
    assert found.label_names == ("cat", "dog")
    assert [(item.key, item.label) for item in found.splits["trainA"]] == [
        ("trainA/0.png", -1), ("trainA/cat/1.png", 0), ("trainA/dog/1.png", 1),
    ]  # fmt: skip


def test_folders_give_jobs_that_read_them(tmp_path):
    folder = four_folders(tmp_path / "set")
    source = FolderSource(folder, LayoutOptions(), max_bytes=MEGABYTE)
    assert source.counts == {"trainA": 3, "trainB": 3, "testA": 3, "testB": 3}
    assert source.lossless
    assert source.description["name"] == "set"
    jobs = list(source.jobs("trainB", 1))
    assert [job.key for job in jobs] == ["trainB/001.png", "trainB/002.png"]
    expected = (tmp_path / "set" / "trainB" / "001.png").read_bytes()
    assert jobs[0].load(64).image == expected


def test_companion_files_are_read(tmp_path):
    names = ["trainA/a.png", "trainB/b.png", "testA/c.png", "testA_target/c.png", "testA_mask/c.png"]
    source = FolderSource(make_folder(tmp_path, names), LayoutOptions(), max_bytes=MEGABYTE)
    loaded = next(source.jobs("testA", 0)).load(64)
    assert loaded.target == (tmp_path / "testA_target" / "c.png").read_bytes()
    assert loaded.mask == (tmp_path / "testA_mask" / "c.png").read_bytes()
    assert loaded.label_map is None


def test_unreadable_files_are_rejected_one_by_one(tmp_path):
    folder = four_folders(tmp_path)
    os.remove(os.path.join(folder, "trainA/000.png"))
    os.symlink("nowhere.png", os.path.join(folder, "trainA/000.png"))
    source = FolderSource(folder, LayoutOptions(), max_bytes=1000)
    dangling, large, _ = source.jobs("trainA", 0)
    with pytest.raises(images.RejectedError, match="cannot be read: No such file"):
        dangling.load(64)
    with pytest.raises(images.RejectedError, match="more than --max_member_mb"):
        large.load(64)


def test_links_to_files_and_folders_are_followed_and_loops_end(tmp_path):
    folder = four_folders(tmp_path / "real")
    linked = tmp_path / "linked"
    linked.mkdir()
    for split in ("trainA", "trainB"):
        os.symlink(os.path.join(folder, split), linked / split)
    os.symlink(folder, os.path.join(folder, "trainA", "loop"))
    source = FolderSource(str(linked), LayoutOptions(), max_bytes=MEGABYTE)
    assert source.counts["trainB"] == 3
    assert len(list_folder(folder)) == 12


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="nothing: no such folder"):
        FolderSource(str(tmp_path / "nothing"), LayoutOptions(), max_bytes=MEGABYTE)


@pytest.mark.parametrize("name", ["new\nline.png", "tab\tand 'quote\".png", "日本語.png", "\udcff\udcfe raw bytes.png"])
def test_awkward_names(tmp_path, name):
    folder = four_folders(tmp_path)
    Image.fromarray(noise(20, 20)).save(os.path.join(folder, "plain.png"))
    os.rename(os.path.join(folder, "plain.png"), os.path.join(folder, "trainA", name))
    source = FolderSource(folder, LayoutOptions(), max_bytes=MEGABYTE)
    job = next(job for job in source.jobs("trainA", 0) if job.key == f"trainA/{name}")
    assert np.asarray(images.decode(job.load(64).image, images.ImageOptions(size=64))).shape == (20, 20, 3)
    assert len(source.fingerprint()) == 64


def test_the_fingerprint_changes_with_names_and_sizes(tmp_path):
    folder = four_folders(tmp_path)
    before = FolderSource(folder, LayoutOptions(), max_bytes=MEGABYTE).fingerprint()
    assert FolderSource(folder, LayoutOptions(), max_bytes=MEGABYTE).fingerprint() == before
    Image.fromarray(noise(25, 20)).save(os.path.join(folder, "trainA/000.png"))
    longer = FolderSource(folder, LayoutOptions(), max_bytes=MEGABYTE).fingerprint()
    os.rename(os.path.join(folder, "trainA/000.png"), os.path.join(folder, "trainA/new.png"))
    renamed = FolderSource(folder, LayoutOptions(), max_bytes=MEGABYTE).fingerprint()
    assert len({before, longer, renamed}) == 3


def test_the_description_holds_the_layout():
    assert dataclasses.asdict(LayoutOptions())["test_fraction"] == 0.1
