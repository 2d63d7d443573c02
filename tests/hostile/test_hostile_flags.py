"""Command lines of any kind: exit code 2 and one line, or values that training can mean."""

from __future__ import annotations

import dataclasses
import math

import corpus
import pytest
from absl import flags
from absl.testing import flagsaver

from tfaclgan import flags as tfaclgan_flags
from tfaclgan import main
from tfaclgan.errors import UserError
from tfaclgan.methods import base

VALUES = (
    *("", "0", "1", "-1", "2", "0.5", "1e400", "-1e400", "1e-400", "nan", "inf", "-inf", "NaN", "0x10", "1_000", "١٢"),
    *(str(2**31), str(2**63), str(10**400), "true", "maybe", "None", "[]", "{}", "a,b", "1,2,3", "5,1", "64x64", "0x0"),
    *("99999999999x1", "../..", "/", "/dev/null", "\n", "\0", "ü", "🙂", "--", "--steps=3", "%s%n", "${HOME}"),
    *("'; rm -rf x", "a" * 500, "none", "latest", "a2b", "train"),
)


@pytest.fixture
def at_work(tmp_path, monkeypatch):
    """An empty folder; it must stay empty."""
    tfaclgan_flags.define()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main, "_import_tensorflow", lambda: None)
    with flagsaver.flagsaver():
        yield tmp_path
    assert list(tmp_path.iterdir()) == []


def unset():
    """Every flag at its default, as in a new process (flagsaver would do, and take a hundred times as long)."""
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
        if flags.FLAGS[name].present:
            flags.FLAGS[name].unparse()


def run(arguments, capsys):
    """(exit code, the error's line)."""
    unset()
    code = main.main(["tfaclgan", *arguments])
    values = {name: flags.FLAGS[name].value for name in ours()}
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return code, [line for line in error.splitlines() if line.startswith("tfaclgan: error: ")], values


def ours():
    return [name for names in tfaclgan_flags._groups.values() for name in names]


@pytest.mark.parametrize("cases", [250, pytest.param(1000, marks=pytest.mark.slow)])
def test_any_value_of_any_flag(at_work, cases, capsys):
    """Training stops at the data folder that is not there: what came so far was accepted."""

    def check(draw):
        names = [str(name) for name in draw.choice(ours(), size=1 + draw.integers(3), replace=False)]
        given = [f"--{name}={VALUES[draw.integers(len(VALUES))]}" for name in names]
        if draw.integers(4) == 0:
            given.append(VALUES[draw.integers(len(VALUES))])
        code, lines, values = run([*given, "--mode=train", "--data_dir=nowhere/at/all", "--run_dir=r"], capsys)
        assert code == 2
        assert len(lines) == 1
        assert len(lines[0]) < 4000
        if "nowhere/at/all" in lines[0]:
            for name, value in values.items():
                assert not isinstance(value, float) or math.isfinite(value), name
                assert not isinstance(value, int) or abs(value) < 2**31, name

    corpus.each(cases, check)


@pytest.mark.parametrize("name", ["learning_rate", "beta_1", "style_scale", "acl_gan.image_weight", "ema_decay"])
@pytest.mark.parametrize("value", ["nan", "inf", "1e400"])
def test_numbers_that_are_none(at_work, name, value, capsys):
    refused_by_name(name, value, capsys)


@pytest.mark.parametrize("name", ["seed", "steps", "batch_size", "acl_gan.width"])
def test_numbers_that_are_too_large(at_work, name, capsys):
    refused_by_name(name, str(2**32), capsys)
    refused_by_name(name, str(10**400), capsys)


def refused_by_name(name, value, capsys):
    code, lines, _ = run([f"--{name}={value}", "--data_dir=nowhere"], capsys)
    assert code == 2
    assert name in lines[0]


@pytest.mark.parametrize("cases", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_flagfiles_of_any_bytes(at_work, tmp_path_factory, cases, capsys):
    file = tmp_path_factory.mktemp("flags") / "x.flags"
    whole = b"# text\n--steps=3\n--image_size=64\n--acl_gan.width=8\n--noverify_data\n"

    def check(draw):
        file.write_bytes(corpus.damage(whole, draw)[0])
        code, lines, _ = run([f"--flagfile={file}", "--data_dir=nowhere/at/all", "--mode=train"], capsys)
        assert code == 2
        assert len(lines) == 1

    corpus.each(cases, check)


def test_flagfiles_that_name_themselves(at_work, tmp_path_factory, capsys):
    folder = tmp_path_factory.mktemp("flags")
    (folder / "a.flags").write_text(f"--flagfile={folder}/b.flags\n")
    (folder / "b.flags").write_text(f"--flagfile={folder}/a.flags\n")
    for name in ("a.flags", "missing.flags", "."):
        code, lines, _ = run([f"--flagfile={folder}/{name}", "--data_dir=nowhere"], capsys)
        assert code == 2
        assert len(lines) == 1


@pytest.mark.parametrize(
    "method, option",
    [(method, option) for method in ("acl_gan", "munit") for option in ("downsamples", "discriminator_scales")]
    + [("munit", "discriminator_layers"), ("ugatit", "global_layers"), ("ugatit", "local_layers")],
)
def test_networks_for_which_no_picture_is_large_enough(method, option):
    """Such options made the search for the smallest picture endless."""
    config = dataclasses.replace(base.get(method).config(), **{option: 1000})
    with pytest.raises(UserError, match=r"no picture is large enough|none is large enough"):
        base.get(method).check(config, (256, 256, 3))


EXPONENTS = {"downsamples", "discriminator_scales", "discriminator_layers", "global_layers", "local_layers"}


@pytest.mark.parametrize(
    "method, option",
    [(m, f.name) for m in base.names() for f in dataclasses.fields(base.get(m).config) if f.name in EXPONENTS],
)
def test_counts_of_halvings_are_small(at_work, method, option):
    """Two to the power of 2**31 - 1 took 19 GiB to write down."""
    unset()
    with pytest.raises((flags.Error, UserError), match="12"):
        flags.FLAGS(["x", f"--method={method}", f"--{method}.{option}=2147483647"])


@pytest.mark.parametrize("cases", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_options_that_are_accepted_can_be_checked(at_work, cases):
    """A method's own check of any accepted options is one line or none."""

    def check(draw):
        method = base.get(str(draw.choice(base.names())))
        fields = [field.name for field in dataclasses.fields(method.config)]
        name = str(draw.choice(fields))
        argument = f"--{method.name}.{name}={VALUES[draw.integers(len(VALUES))]}"
        unset()
        try:
            flags.FLAGS(["x", f"--method={method.name}", argument])
            config = tfaclgan_flags.method_config(method, flags.FLAGS)
            sides = tfaclgan_flags.image_size(method, flags.FLAGS)
            method.check(config, (*sides, int(draw.choice([1, 3, 4]))))
        except (flags.Error, UserError) as error:
            corpus.refused(error)

    corpus.each(cases, check)
