"""TensorFlow 1 checkpoints that are damaged, incomplete or of something else: one line each, nothing written."""

from __future__ import annotations

import os
import shutil

import command
import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.errors import UserError
from tfaclgan.importing import importer, originals, tf_checkpoints
from tfaclgan.methods import base

FULL = "UGATIT_tiny_lsgan_4resblock_4dis_1_1_10_10_1000_sn_smoothing"
NAME = "UGATIT.model-4"


@pytest.fixture
def folder(golden, tmp_path):
    """A copy of the full model's checkpoint, to be spoilt."""
    return shutil.copytree(golden / "tf1" / FULL, tmp_path / FULL)


@pytest.fixture(scope="module")
def networks():
    """Of the sizes in the full model's checkpoint."""
    method = base.get("ugatit")
    config = method.config(width=1, discriminator_width=1, global_layers=5, local_layers=3)
    return method.networks(config, (32, 32, 3))


def ask(path, method="ugatit", given=(), sides=None, **options):
    config = base.get(method).config(**options)
    return originals.find(method, [str(path)], config, {*given, *options}, sides)


def refused(words, *arguments, **options):
    with pytest.raises(UserError, match=words) as caught:
        ask(*arguments, **options)
    assert "\n" not in str(caught.value)


def rewrite(folder, change):
    """The checkpoint again with what `change` makes of {name: array}; its CRCs are right."""
    arrays = tf_checkpoints.read(str(folder / NAME))
    change(arrays)
    shutil.rmtree(folder)
    os.makedirs(folder)
    save(folder / NAME, arrays)


def save(prefix, arrays):
    names = sorted(arrays)
    values = [tf.constant(arrays[name]) for name in names]
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)


def test_every_way_to_name_it(folder):
    expected = str(folder / NAME)
    for path in (folder, folder / NAME, *(folder / f"{NAME}.{end}" for end in ("index", "data-00000-of-00001"))):
        assert tf_checkpoints.find(str(path)) == expected
    assert tf_checkpoints.find(str(folder / "other.pt")) == ""


def test_the_newest_of_several(folder):
    (folder / "checkpoint").unlink()
    for step in (30, 200):
        for end in ("index", "data-00000-of-00001"):
            shutil.copy(folder / f"{NAME}.{end}", folder / f"UGATIT.model-{step}.{end}")
    assert tf_checkpoints.find(str(folder)).endswith("UGATIT.model-200")
    (folder / "checkpoint").write_text('model_checkpoint_path: "/home/somebody/checkpoint/UGATIT.model-30"\n')
    assert tf_checkpoints.find(str(folder)).endswith("UGATIT.model-30")


def test_folders_that_lack_something(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    refused("empty: no TensorFlow checkpoint is in it .no .index file.*give the folder", tmp_path / "empty")
    (folder / f"{NAME}.index").rename(tmp_path / "kept")
    refused(r"UGATIT.model-4.index: is not there.*get the folder again", folder)
    refused(r"UGATIT.model-4.index: is not there", folder / NAME)
    (tmp_path / "kept").rename(folder / f"{NAME}.index")
    (folder / f"{NAME}.data-00000-of-00001").rename(folder / f"{NAME}.data-00000-of-00002")
    refused("1 of its 2 .data files are there", folder)
    (folder / f"{NAME}.data-00000-of-00002").unlink()
    refused(r"UGATIT.model-4.data-00000-of-00001: is not there", folder)


@pytest.mark.parametrize("end", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "rubbish"])
def test_damage(folder, end, damage, capfd):
    path = folder / f"{NAME}.{end}"
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 0x10
    changed = {"cut": data[:-100], "flipped": data, "empty": b"", "rubbish": bytes(range(256)) * 40}[damage]
    path.write_bytes(changed)
    refused("UGATIT.model-4: cut off or damaged .*get the folder again, whole", folder)
    assert "Traceback" not in capfd.readouterr().err


def test_random_damage_of_the_index(folder):
    """Whatever a byte is changed to: read as it was, or refused; the process lives."""
    path = folder / f"{NAME}.index"
    whole, random = path.read_bytes(), np.random.RandomState(0)
    refusals = 0
    for _ in range(60):
        data = bytearray(whole)
        for place in random.randint(0, len(data), random.randint(1, 4)):
            data[place] ^= random.randint(1, 256)
        path.write_bytes(data)
        try:
            tf_checkpoints.read(str(folder / NAME))
        except UserError:
            refusals += 1
    assert refusals > 40


def test_more_bytes_declared_than_there(folder):
    """Before memory is taken: a huge array of which the data file has lost most."""
    big = folder.parent / "big"
    save(big, {"generator_A/conv/conv2d/kernel": np.zeros((1000, 1000), np.float32)})
    data = tf_checkpoints.shards(str(big))[0]
    with open(data, "r+b") as file:
        file.truncate(1000)
    refused("its index declares 4,000,000 bytes, its data have 1,000", big)


def test_other_things_than_numbers(tmp_path):
    save(tmp_path / "texts", {"generator_A/x": np.array([b"import os"], object)})
    refused("generator_A/x in it holds no numbers but string", tmp_path / "texts")
    path = tf.train.Checkpoint(x=tf.Variable(1.0)).save(str(tmp_path / "new"))
    refused("is a checkpoint of TensorFlow 2", path)


def test_another_method_or_network(golden, folder, tmp_path):
    refused("which of the known codes only U-GAT-IT's writes; munit reads", folder, method="munit")
    with pytest.raises(UserError, match="give it alone"):
        originals.find("ugatit", [str(folder), str(golden / "ugatit/light_params_0001000.pt")], None, set())
    save(tmp_path / "other", {"generator/dense/kernel": np.zeros((2, 2), np.float32)})
    refused("holds generator/dense/kernel, but not generator_A or generator_B", tmp_path / "other")


def test_flags_that_contradict_the_weights(folder):
    refused("profile=pt: the weights .* with tf", folder, profile="pt")
    refused("are for 32x32 pixels", folder, sides=(64, 64))
    assert ask(folder, sides=(16, 64)).sides == (16, 64)


def test_smoothing_is_in_the_folders_name_only(folder, tmp_path):
    assert ask(folder).decided["rho_smoothing"] == 0.1
    renamed = folder.rename(tmp_path / FULL.removesuffix("_smoothing"))
    assert ask(renamed).decided["rho_smoothing"] == 0.0
    assert ask(renamed, rho_smoothing=0.1).config.rho_smoothing == 0.1
    elsewhere = renamed.rename(tmp_path / "downloaded")
    assert "rho_smoothing" not in ask(elsewhere).decided  # the profile's: on


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda a: a.pop("generator_B/MLP/gamma/dense/bias"), "does not fit g_a2b: 1 weights missing.*MLP/gamma"),
        (lambda a: a.update({"generator_A/extra": np.zeros(3, "f4")}), "does not fit g_b2a.*left over: extra"),
        (
            lambda a: a.update({"discriminator_A/local/D_logit/u": np.zeros((1, 2), "f4")}),
            r"D_logit/u has shape \[1, 2",
        ),
        (
            lambda a: a.update({"generator_A/MLP/gamma/dense/bias": np.full(4, np.nan, "f4")}),
            "MLP/gamma/dense/bias of g_b2a hold NaN",
        ),
        (lambda a: a.update({"classifier/kernel": np.zeros(3, "f4")}), "left over: classifier/kernel"),
        (
            lambda a: a.update({"generator_A/CAM_logit/bias/Adam": np.zeros(3, "f4")}),
            "moments of generator_A/CAM_logit/bias have another shape",
        ),
        (lambda a: a.update({"other/Adam": np.zeros(3, "f4")}), "left over: other/Adam"),
    ],
)
def test_misfits_are_listed_and_nothing_is_assigned(folder, networks, change, words):
    rewrite(folder, change)
    before = {name: network.get_weights()[0] for name, network in networks.items()}

    def load():
        found = ask(folder)
        for name, state in found.states.items():
            importer.assign(networks[name], state, found.config, "ugatit", found.sources[name])

    with pytest.raises(UserError, match=words) as caught:
        load()
    assert "\n" not in str(caught.value)
    for name in networks:
        if f"{name}:" in str(caught.value) or f"of {name} " in str(caught.value):
            np.testing.assert_array_equal(networks[name].get_weights()[0], before[name])


def test_generators_alone_and_no_moments(folder):
    def keep(arrays):
        for name in [name for name in arrays if "discriminator" in name or "Adam" in name or "power" in name]:
            del arrays[name]

    rewrite(folder, keep)
    found = ask(folder)
    assert set(found.states) == {"g_a2b", "g_b2a"}
    assert (found.moments, found.step) == ({}, 0)


@pytest.mark.parametrize(
    "power, step, updates",
    [(0.999, 9, 0), (0.999**4, 9, 3), (0.999**5001, 9, 5000), (1e-20, 70_000, 70_000), (0.0, 8, 8)],
)
def test_updates_of_adam(power, step, updates):
    assert originals._updates(float(np.float32(power)), step) == updates


def test_the_command(folder, tmp_path, capsys):
    """A checkpoint becomes a run; a folder without its index is one line."""
    run, flags = tmp_path / "run", ("--mode=import_weights", "--method=ugatit", f"--source={folder}")
    code = command.call(*flags, f"--run_dir={run}")
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "optimiser states at step 4" in said.out
    assert "--ugatit.global_layers=5" in (run / "run.flags").read_text()
    assert (run / "imported.json").read_text().count('"sha256"') == 2
    os.remove(folder / f"{NAME}.index")
    assert command.call(*flags, f"--run_dir={tmp_path / 'new'}") == 2
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if line.startswith("tfaclgan: error:")]
    assert "index: is not there" in line
    assert "Traceback" not in error
    assert not (tmp_path / "new").exists()
