"""Files that are damaged, of another method, or that ask for more than tensors: one line each, nothing written."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import command
import numpy as np
import pytest

from tfaclgan.errors import UserError
from tfaclgan.importing import importer, originals, tensor_files
from tfaclgan.methods import base
from tfaclgan.training import rundir

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Evil:
    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


def archive(path, data, version=b"3\n", entries=(), compression=zipfile.ZIP_STORED):
    """A zip archive as PyTorch writes it."""
    with zipfile.ZipFile(path, "w", compression) as made:
        made.writestr("x/data.pkl", data)
        if version is not None:
            made.writestr("x/version", version)
        for name, content in entries:
            made.writestr(f"x/{name}", content)
    return str(path)


def tensor_pickle(count, shape, strides, storage="FloatStorage", offset=0, name="w"):
    """The pickle of {name: tensor}, opcode by opcode."""

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def number(value):
        return b"J" + struct.pack("<i", value)

    def numbers(values):
        return b"(" + b"".join(number(v) for v in values) + b"t"

    stored = b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text("0") + text("cpu") + number(count) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored + number(offset) + numbers(shape) + numbers(strides)
    return b"\x80\x02}" + text(name) + tensor + b"\x89}tRs."


def refused(path, *words):
    with pytest.raises(UserError) as caught:
        tensor_files.read(str(path))
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


def test_the_handmade_archive_is_read(tmp_path):
    values = np.arange(6, dtype="<f4")
    path = archive(tmp_path / "a.pt", tensor_pickle(6, (2, 3), (1, 2)), entries=[("data/0", values.tobytes())])
    np.testing.assert_array_equal(tensor_files.read(path)["w"], values.reshape(3, 2).T)


@pytest.mark.parametrize("storage, kind, expected", [("DoubleStorage", "<f8", "f4"), ("HalfStorage", "<f2", "f4")])
def test_other_types(tmp_path, storage, kind, expected):
    values = np.array([1.5, -2, 0.25], kind)
    path = archive(tmp_path / "a.pt", tensor_pickle(3, (3,), (1,), storage), entries=[("data/0", values.tobytes())])
    read = tensor_files.read(path)["w"]
    assert read.dtype == expected
    np.testing.assert_array_equal(read, values)


def test_bfloat16(tmp_path):
    bits = (np.array([1.5, -2.0], "<f4").view("<u4") >> 16).astype("<u2")
    data = tensor_pickle(2, (2,), (1,), "BFloat16Storage")
    path = archive(tmp_path / "a.pt", data, entries=[("data/0", bits.tobytes())])
    np.testing.assert_array_equal(tensor_files.read(path)["w"], [1.5, -2.0])


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("container", ["zip", "stream"])
def test_code_is_named_and_not_run(tmp_path, protocol, container):
    witness = tmp_path / "witness"
    data = pickle.dumps({"a": Evil(os.system, f"touch {witness}")}, protocol)
    if container == "zip":
        path = archive(tmp_path / "a.pt", data)
    else:
        path = tmp_path / "a.pt"
        start = [pickle.dumps(value, 2) for value in (tensor_files._MAGIC, 1001, {})]
        path.write_bytes(b"".join(start) + data)
    refused(path, "asks for", "system", "is no tensor")
    assert not witness.exists()


@pytest.mark.parametrize("function", [eval, getattr, exec, subprocess.Popen, np.load, open])
def test_other_functions(tmp_path, function):
    refused(archive(tmp_path / "a.pt", pickle.dumps(Evil(function, "1"), 2)), "is no tensor")


def test_a_known_class_with_other_arguments(tmp_path):
    from collections import OrderedDict

    refused(archive(tmp_path / "a.pt", pickle.dumps({"a": Evil(OrderedDict, 5)}, 2)), "damaged")
    refused(
        archive(tmp_path / "b.pt", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(I1\nI2\nI3\nI4\ntR."), "no storage"
    )
    refused(archive(tmp_path / "c.pt", b"\x80\x02ctorch\nFloatStorage\n)R."), "calls something")
    refused(archive(tmp_path / "d.pt", b"\x80\x02]q\x00X\x01\x00\x00\x00ah\x00s."), "treats a list as a dict")


@pytest.mark.parametrize(
    "data, word",
    [
        (tensor_pickle(6, (2, 3), (3, 1)), "24 bytes there"),
        (tensor_pickle(4, (2, 3), (3, 1)), "past the end"),
        (tensor_pickle(4, (10**9, 10**9), (0, 0)), "more numbers"),
        (tensor_pickle(4, (2, 2), (-2, 1)), "sensible"),
        (tensor_pickle(4, (2, 2), (2, 1), offset=3), "past the end"),
        (tensor_pickle(4, (2, 2), (2,)), "sensible"),
        (tensor_pickle(2**30, (2,), (1,)), "16 bytes for"),
        (tensor_pickle(4, (2,), (1,), "SparseStorage"), "SparseStorage"),
        (b"\x80\x02]q\x01h\x01a.", "nested"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged"),
        (b"\x80\x02", "damaged"),
        (b"\x80\x02" + b"]" * 3 + b".", "list"),
        (b"\x80\x02}r\xff\xff\xff\xff.", ""),
    ],
)
def test_sizes_are_compared_with_the_file(tmp_path, data, word):
    path = archive(tmp_path / "a.pt", data, entries=[("data/0", bytes(16))])
    if word in ("24 bytes there", ""):  # one number too many; a huge place in the memo is no memory
        if word:
            refused(path, "16 bytes for 6 numbers")
        else:
            assert tensor_files.read(path) == {}
        return
    refused(path, word)


def test_one_part_named_very_often(tmp_path):
    laughs = b"\x80\x02]" + b"".join(b"q\x01](" + b"h\x01" * 200 + b"e" for _ in range(6)) + b"."
    refused(archive(tmp_path / "a.pt", laughs), "too many")
    tensor = tensor_pickle(1000, (10, 100), (1, 10))[3:-2]  # without the dict around it: name, tensor
    tensor = tensor[tensor.index(b"ctorch._utils") :]
    often = b"\x80\x02](" + tensor + b"q\x01" + b"h\x01" * 5000 + b"e."
    refused(
        archive(tmp_path / "b.pt", often, entries=[("data/0", bytes(4000))]), "more numbers than the file has bytes"
    )


def test_archives_that_pytorch_did_not_write(tmp_path):
    good = tensor_pickle(1, (1,), (1,))
    one = [("data/0", bytes(4))]
    refused(archive(tmp_path / "a.pt", good, b"99\n", one), "version '99'", "unknown")
    refused(archive(tmp_path / "b.pt", good, None, one), "version 'none'")
    refused(archive(tmp_path / "c.pt", good, entries=one, compression=zipfile.ZIP_DEFLATED), "compressed")
    refused(archive(tmp_path / "d.pt", good, entries=[*one, ("constants.pkl", b"")]), "TorchScript")
    refused(archive(tmp_path / "e.pt", good), "damaged", "missing")
    refused(archive(tmp_path / "f.pt", good, entries=[*one, ("byteorder", b"middle")]), "byte order")
    with zipfile.ZipFile(tmp_path / "g.pt", "w") as made:
        made.writestr("readme.txt", "hello")
    refused(tmp_path / "g.pt", "no data.pkl")
    (tmp_path / "h.pt").write_bytes(b"not weights at all")
    refused(tmp_path / "h.pt", "neither")
    (tmp_path / "i.pt").write_bytes(b"")
    refused(tmp_path / "i.pt", "neither")
    (tmp_path / "j.pt").write_bytes(b"".join(pickle.dumps(v, 2) for v in (tensor_files._MAGIC, 1002, {})))
    refused(tmp_path / "j.pt", "version 1002")
    (tmp_path / "k.pt").write_bytes(pickle.dumps({"a": 1}, 2))
    refused(tmp_path / "k.pt", "not one that PyTorch wrote")
    refused(tmp_path / "none.pt", "no such file")
    refused(tmp_path, "folder")


@pytest.mark.parametrize("name", ["munit/gen_00350000.pt", "acl_gan/gen_00350000.pt"])  # both formats
def test_files_cut_anywhere(golden, tmp_path, name):
    whole = (golden / name).read_bytes()
    for end in [*range(1, 400, 57), *range(400, len(whole), len(whole) // 40), len(whole) - 1]:
        path = tmp_path / "cut.pt"
        path.write_bytes(whole[:end])
        with pytest.raises(UserError) as caught:
            tensor_files.read(str(path))
        assert "\n" not in str(caught.value)


def test_changed_bytes_never_escape(golden, tmp_path):
    """Whatever single bytes say: weights, or one line."""
    draw = np.random.RandomState(0)
    for name in ("munit/dis_00350000.pt", "acl_gan/dis_00350000.pt"):
        whole = (golden / name).read_bytes()
        for _ in range(40):
            changed = bytearray(whole)
            changed[draw.randint(len(whole))] = draw.randint(256)
            (tmp_path / "changed.pt").write_bytes(bytes(changed))
            with contextlib.suppress(UserError):
                tensor_files.read(str(tmp_path / "changed.pt"))


def test_safetensors(golden, tmp_path):
    import safetensors.numpy

    content = tensor_files.read(str(golden / "munit/gen_00350000.pt"))
    flat = {f"{side}.{name}": value for side, state in content.items() for name, value in state.items()}
    path = tmp_path / "gen.safetensors"
    path.write_bytes(safetensors.numpy.save(flat))
    found = originals.find("munit", [str(path)], base.get("munit").config(), given=set())
    assert set(found.states) == {"g_a", "g_b"}
    for name, value in content["a"].items():
        np.testing.assert_array_equal(found.states["g_a"][name], value)
    path.write_bytes(path.read_bytes()[:-5])
    refused(path, "damaged")


# -- files that are whole, but not what was asked for -----------------------------------------


def ask(method, *paths, given=(), sides=None, **options):
    config = base.get(method).config(**options)
    return originals.find(method, [str(path) for path in paths], config, {*given, *options}, sides)


@pytest.mark.parametrize(
    "method, file, words",
    [
        ("munit", "acl_gan/gen_00350000.pt", "AB, BA.*use --method=acl_gan"),
        ("acl_gan", "munit/gen_00350000.pt", "use --method=munit"),
        ("acl_gan", "ugatit/light_params_0001000.pt", "use --method=ugatit"),
        ("ugatit", "acl_gan/gen_00350000.pt", "use --method=acl_gan"),
        ("munit", "cyclegan/latest_net_G_A.pth", "use --method=cyclegan"),
        ("acl_gan", "acl_gan/dis_00350000.pt", "holds no generator"),
        ("cyclegan", "cyclegan/latest_net_D_A.pth", "holds no generator"),
        ("cyclegan", "acl_gan/gen_00350000.pt", "not in its name"),
        ("council_gan", "acl_gan/gen_00350000.pt", "known: acl_gan, munit, ugatit, cyclegan"),
    ],
)
def test_another_method(golden, method, file, words):
    with pytest.raises(UserError, match=words):
        ask(method, golden / file)


def test_cyclegan_of_another_method(golden):
    with pytest.raises(UserError, match="use --method=acl_gan"):
        ask("cyclegan", f"G_A={golden / 'acl_gan/gen_00350000.pt'}")
    found = ask("cyclegan", f"G_B={golden / 'cyclegan/latest_net_G_A.pth'}")
    assert list(found.states) == ["g_ba"]


def test_flags_that_contradict_the_weights(golden):
    with pytest.raises(UserError, match=r"--acl_gan.width=64: the weights .* with 1; leave this flag out"):
        ask("acl_gan", golden / "acl_gan/gen_00350000.pt", width=64)
    with pytest.raises(UserError, match=r"profile=tf.*trained with pt"):
        ask("ugatit", golden / "ugatit/light_params_0001000.pt", given=["profile"])
    with pytest.raises(UserError, match="direction=b2a"):
        ask("acl_gan", golden / "acl_gan/gen_00350000.pt", direction="b2a")
    with pytest.raises(UserError, match="are for 32x32 pixels"):
        ask("ugatit", golden / "ugatit/full_params_0001000.pt", sides=(64, 64))
    assert ask("ugatit", golden / "ugatit/full_params_0001000.pt", sides=(16, 64)).sides == (16, 64)


def write(found, folder, shape=(32, 32, 3)):
    method = base.get("munit")
    importer.write(found, rundir.Run(str(folder), method, found.config, shape, {}), method.recipe)


def test_misfits_are_listed_and_nothing_is_written(golden, tmp_path):
    def spoilt(change):
        found = ask("munit", golden / "munit/gen_00350000.pt", discriminator_scales=2, discriminator_layers=2)
        change(found.states["g_b"])
        return found

    run = tmp_path / "run"
    for change, words in (
        (lambda s: [s.pop("mlp.model.0.fc.bias"), s.pop("dec.model.5.conv.bias")], "2 weights missing.*dec.*, mlp"),
        (lambda s: s.update(extra=np.zeros(3)), r"1 left over \(left over: extra\)"),
        (lambda s: s.update({"mlp.model.1.fc.bias": np.zeros(9)}), r"mlp.model.1.fc.bias has shape \[9\]"),
        (lambda s: s.update({"mlp.model.1.fc.bias": np.full(4, np.nan, "f4")}), "NaN or infinity"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            write(spoilt(change), run)
        assert "\n" not in str(caught.value)
        assert os.listdir(tmp_path) == []
    with pytest.raises(UserError, match="multiples of 4"):
        write(spoilt(lambda s: None), run, (33, 32, 3))
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fails_leaves_nothing(golden, tmp_path, monkeypatch):
    found = ask("munit", golden / "munit/gen_00350000.pt", discriminator_scales=2, discriminator_layers=2)
    monkeypatch.setattr(importer.checkpoint, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(found, tmp_path / "run")
    assert os.listdir(tmp_path) == []


def test_optimizers_of_another_training(golden):
    with pytest.raises(UserError, match="give the files of one training"):
        ask("munit", golden / "munit/gen_00350000.pt", golden / "acl_gan/optimizer.pt")


def test_the_command(golden, tmp_path, capsys):
    """A good file, then the same folder again, then a hostile file."""
    run = tmp_path / "run"
    source = f"--source={golden / 'munit/gen_00350000.pt'},{golden / 'munit/dis_00350000.pt'}"
    code = command.call("--mode=import_weights", "--method=munit", source, f"--run_dir={run}", "--image_size=32")
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "imported g_a, g_b, d_a, d_b" in said.out
    assert "--munit.style_dim=3" in (run / "run.flags").read_text()
    assert "mode" not in (run / "run.flags").read_text()
    evil = archive(tmp_path / "evil.pt", pickle.dumps({"AB": Evil(os.system, f"touch {tmp_path / 'witness'}")}, 2))
    for arguments, word in (
        (("--method=munit", source, f"--run_dir={run}"), "not empty"),
        (("--method=acl_gan", f"--source={evil}", f"--run_dir={tmp_path / 'new'}"), "system"),
    ):
        assert command.call("--mode=import_weights", *arguments) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        lines = [line for line in error.splitlines() if line.startswith("tfaclgan: error:")]
        assert len(lines) == 1
        assert word in lines[0]
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "witness").exists()


def test_no_source(capsys):
    assert command.call("--mode=import_weights", "--method=munit") == 2
    assert "needs --source" in capsys.readouterr().err


def test_reading_needs_no_framework():
    code = (
        "import sys; from tfaclgan.importing import tensor_files, originals; "
        "print([m for m in ('torch', 'tensorflow', 'keras') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout == "[]\n"


def test_streams_end_where_the_file_ends():
    bounded = tensor_files._Bounded(io.BytesIO(b"abc"), 3)
    assert bounded.read(10**12) == b"abc"
    assert bounded.left() == 0
