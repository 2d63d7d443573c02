"""Drawn faces: what the quick start's data promises, measured on the pictures themselves."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
from scipy import ndimage

from tfaclgan.data import avatars
from tfaclgan.data.records import SPLITS
from tfaclgan.data.sources import AvatarSource
from tfaclgan.errors import UserError

pytest.importorskip("dicebear")
SIZE = 64


@pytest.fixture(scope="module")
def pairs():
    """image, target [200, 64, 64, 3], mask and label_map [200, 64, 64] of the glasses task's test pairs."""
    drawn = [avatars.draw("glasses", "A", avatars.seed_text(0, "testA", i), SIZE, paired=True) for i in range(200)]
    return {
        name: np.stack([np.asarray(getattr(drawing, name)) for drawing in drawn])
        for name in ("image", "target", "mask", "label_map")
    }


def test_the_untouched_input_scores_what_the_task_was_set_with(pairs):
    """24.3 dB over the picture, 0.51 inside the glasses: the figures a trained model has to beat."""
    image, target = pairs["image"].astype(float), pairs["target"].astype(float)
    squared = ((image - target) ** 2).mean((1, 2, 3))
    assert np.mean(10 * np.log10(255**2 / squared)) == pytest.approx(24.29, abs=0.1)
    error = np.abs(image - target) / 127.5
    assert error[pairs["mask"] == 255].mean() == pytest.approx(0.511, abs=0.005)
    assert error[pairs["label_map"] == avatars.ACCESSORIES].mean() == pytest.approx(0.59, abs=0.01)


def test_only_the_glasses_change(pairs):
    changed = (pairs["image"] != pairs["target"]).any(-1)
    glasses = pairs["label_map"] == avatars.ACCESSORIES
    near = np.stack([ndimage.binary_dilation(one, iterations=3) for one in glasses])
    assert changed.any((1, 2)).all()
    assert (changed & ~near).mean() < 1e-4
    assert glasses.any((1, 2)).all()


def test_the_mask_is_where_picture_and_truth_differ_visibly(pairs):
    difference = np.abs(pairs["image"].astype(int) - pairs["target"]).max(-1)
    np.testing.assert_array_equal(pairs["mask"], np.where(difference > 0.1 * 127.5, 255, 0))
    # It holds the crisp shape of the glasses, but for those whose colour is the face's.
    glasses = pairs["label_map"] == avatars.ACCESSORIES
    assert (glasses & (pairs["mask"] == 255)).sum() > 0.9 * glasses.sum()


def test_the_truth_is_the_test_picture_of_domain_b(pairs):
    for number in range(5):
        other = avatars.draw("glasses", "B", avatars.seed_text(0, "testB", number), SIZE, paired=True)
        np.testing.assert_array_equal(np.asarray(other.image), pairs["target"][number])
        assert other.target is None
        assert other.mask is None
        assert not (np.asarray(other.label_map) == avatars.ACCESSORIES).any()


def test_training_pictures_share_no_seed():
    seeds = {split: {avatars.seed_text(0, split, i) for i in range(1000)} for split in SPLITS}
    assert seeds["testA"] == seeds["testB"]
    assert not seeds["trainA"] & seeds["trainB"]
    assert not (seeds["trainA"] | seeds["trainB"]) & seeds["testA"]
    assert not seeds["testA"] & {avatars.seed_text(1, "testA", i) for i in range(1000)}


@pytest.mark.parametrize("task", avatars.TASKS)
def test_every_task_draws_both_domains_again_and_again_alike(task):
    for domain in "AB":
        first, again = (avatars.draw(task, domain, "seed", 48, paired=True) for _ in range(2))
        other = avatars.draw(task, domain, "other", 48, paired=True)
        assert first.image.size == (48, 48)
        np.testing.assert_array_equal(np.asarray(first.image), np.asarray(again.image))
        assert (np.asarray(first.image) != np.asarray(other.image)).any()
        assert (first.label_map is not None) == avatars.has_label_map(task)
        assert (first.target is not None) == ((task, domain) == ("glasses", "A"))


def test_hair_is_short_in_a_and_long_in_b():
    hair, beard = avatars.LABEL_NAMES.index("hair"), avatars.LABEL_NAMES.index("facialHair")
    share = {}
    for domain in "AB":
        drawn = [avatars.draw("hair", domain, f"{i}", 48, paired=False) for i in range(60)]
        maps = np.stack([np.asarray(drawing.label_map) for drawing in drawn])
        share[domain] = (maps == hair).mean(), (maps == beard).any((1, 2)).mean()
    assert share["A"][0] < 0.5 * share["B"][0]
    assert share["A"][1] == pytest.approx(0.7, abs=0.2)
    assert share["B"][1] == 0


def test_label_maps_are_crisp(pairs):
    """Drawn in the palette's colours alone: no pixel had to be guessed."""
    options = {**avatars._DOMAINS["glasses", "A"][1], "seed": "x", "backgroundColor": ["#000000"]}
    colours = np.asarray(avatars._render(avatars._label_style("avataaars"), options, SIZE, crisp=True)).reshape(-1, 3)
    assert {tuple(colour) for colour in colours} <= {tuple(colour) for colour in avatars._PALETTE}
    assert set(np.unique(pairs["label_map"])) <= set(range(len(avatars.LABEL_NAMES)))
    present = [(pairs["label_map"] == number).any() for number in range(len(avatars.LABEL_NAMES))]
    assert all(present)


def test_every_hair_variant_is_labelled_hair_and_no_hat():
    """Some draw their shapes in a group that holds the colour."""
    hair, hat = avatars.LABEL_NAMES.index("hair"), avatars.LABEL_NAMES.index("hat")
    for variant in (*avatars._SHORT_HAIR, *avatars._LONG_HAIR):
        options = {"seed": "x", "topVariant": [variant], "backgroundColor": ["#000000"], "facialHairProbability": 0}
        drawn = avatars._render(avatars._label_style("avataaars"), options, 64, crisp=True)
        labels = avatars._classes(np.asarray(drawn))
        assert (labels == hair).any(), variant
        assert variant == "frida" or not (labels == hat).any(), variant  # Frida wears flowers


def test_the_source_counts_and_orders():
    source = AvatarSource("glasses", train_count=3, test_count=2, seed=4)
    assert source.counts == {"trainA": 3, "trainB": 3, "testA": 2, "testB": 2}
    jobs = {split: list(source.jobs(split, 0)) for split in source.counts}
    assert [job.key for job in jobs["trainA"]] == ["trainA/0000000", "trainA/0000001", "trainA/0000002"]
    assert [job.key for job in source.jobs("trainA", 2)] == ["trainA/0000002"]
    assert jobs["testA"][1].seed == jobs["testB"][1].seed == "4-t1"
    loaded = jobs["testA"][0].load(32)
    assert loaded.target is not None
    assert loaded.mask is not None
    assert jobs["trainA"][0].load(32).target is None
    assert source.region == {"feature": "mask", "classes": [], "name": "glasses"}
    assert source.fingerprint() != AvatarSource("glasses", train_count=3, test_count=2, seed=5).fingerprint()


@pytest.mark.parametrize(
    "task, counts, words",
    [
        ("hats", (1, 1), "--source=avatars:hats: no such task; choose from glasses, style, hair"),
        ("glasses", (0, 1), "--train_count=0"),
        ("glasses", (1, -1), "--test_count=-1"),
    ],
)
def test_what_is_wrong_is_said(task, counts, words):
    with pytest.raises(UserError, match=words):
        AvatarSource(task, train_count=counts[0], test_count=counts[1], seed=0)


def test_a_missing_package_is_named_with_the_command_that_brings_it(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "resvg_py" else found(name))
    with pytest.raises(UserError, match=r"avatars need resvg-py, not installed; run `pip install \"\.\[demo\]\"`"):
        AvatarSource("glasses", train_count=1, test_count=1, seed=0)


def test_drawing_loads_no_tensorflow():
    import subprocess

    code = (
        "import sys; from tfaclgan.data import avatars; avatars.draw('glasses', 'A', 'x', 32, paired=True);"
        "print(sorted(m for m in ('tensorflow', 'keras') if m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
