"""The converter as a command: exit codes, one line a fault, kills from outside."""

from __future__ import annotations

import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time

import pytest
from pictures import ROOT, contents, four_folders, make_folder, noise, read_folder, run_tool
from PIL import Image

from tfaclgan.data.convert import ConvertOptions
from tfaclgan.data.convert import convert as convert_folder
from tfaclgan.data.images import ImageOptions
from tfaclgan.data.sources import FolderSource, LayoutOptions

SCRIPT = "make_tfrecords.py"


def convert(source, output, *flags, **options):
    return run_tool(SCRIPT, f"--source={source}", f"--output={output}", "--min_size=4", *flags, **options)


def assert_refused(result, words):
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if "make_tfrecords: error:" in line]
    assert len(lines) == 1
    assert re.search(words, lines[0]), lines[0]
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_folders_become_a_data_folder(tmp_path):
    source = four_folders(tmp_path / "in")
    pathlib.Path(source, "trainA/bad.png").write_bytes(b"x")
    pathlib.Path(source, "testA/copy.png").write_bytes(pathlib.Path(source, "trainA/000.png").read_bytes())
    result = convert(source, tmp_path / "out", "--size=16", "--workers=2")
    assert result.returncode == 0, result.stderr
    manifest, found = read_folder(tmp_path / "out")
    assert [len(found[split]) for split in ("trainA", "trainB", "testA", "testB")] == [3, 3, 4, 3]
    assert manifest["load_size"] == 16
    assert "trainA: 3 images, 16 x 24 pixels" in result.stdout
    assert "1 images could not be used: " in result.stdout
    assert "rejected: trainA/bad.png (not an image, or of a kind that is not supported)" in result.stderr
    assert "1 images occur more than once, 1 of them in training and test" in result.stdout
    assert "images/s" in result.stderr or "s/ images" in result.stderr  # the progress bar


def test_a_single_image_and_no_tests_are_allowed_and_warned_of(tmp_path):
    source = make_folder(tmp_path / "in", ["trainA/a.png", "trainB/b.png", "trainB/c.png"])
    result = convert(source, tmp_path / "out", "--size=16")
    assert result.returncode == 0, result.stderr
    assert "warning: trainA has one image only" in result.stdout
    assert "trainB has one" not in result.stdout
    assert "warning: no test images" in result.stdout


@pytest.mark.parametrize(
    "names, flags, words",
    [
        (None, [], r"in: no such folder"),
        (["notes/readme.png"], [], r"in: 1 images, but no folders trainA and trainB"),
        (["trainA/a.png", "testB/b.png"], [], "no images for trainB in trainB/"),
        (["trainA/a.png", "trainB/b.png"], ["--test_fraction=1"], "--test_fraction=1"),
        (["trainA/a.png", "trainB/b.png"], ["--size=4"], "--size=4: the shorter side is 8 to 8192"),
        (["trainA/a.png", "trainB/b.png"], ["--background=nocolour"], "--background=nocolour: not a colour"),
        (["trainA/a.png", "trainB/b.png"], ["--max_member_mb=0"], "--max_member_mb is at least 1"),
        (["trainA/a.png", "trainB/b.png"], ["stray"], "'stray' is no flag"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(tmp_path, names, flags, words):
    if names:
        make_folder(tmp_path / "in", names)
    assert_refused(convert(tmp_path / "in", tmp_path / "out", *flags), words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "source, words",
    [
        ("avatars:hats", "no such task; choose from glasses, style, hair"),
        ("celeba:/nowhere", "/nowhere: no such folder"),
        ("/nowhere/set.zip", "/nowhere/set.zip: no such file"),
        ("/nowhere/set.rar", "no such file"),
    ],
)
def test_other_sources_that_are_not_there(tmp_path, source, words):
    assert_refused(convert(source, tmp_path / "out"), words)
    assert not (tmp_path / "out").exists()


def test_flags():
    assert_refused(run_tool(SCRIPT), "--source and --output are needed")
    unknown = run_tool(SCRIPT, "--sorce=x")
    assert unknown.returncode != 0
    assert "sorce" in unknown.stderr


def test_help_is_quick_and_gives_units():
    start = time.process_time(), time.monotonic()
    result = run_tool(SCRIPT, "--helpfull")
    assert time.monotonic() - start[1] < 20  # far below what loading TensorFlow takes here under load
    assert "--max_pixels" in result.stdout
    assert "MiB" in result.stdout
    code = f"import sys; sys.argv = ['x', '--helpshort']; sys.path.insert(0, {str(ROOT / 'data_tools')!r})\n"
    code += "import make_tfrecords; print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_an_image_below_the_minimum_ends_the_run(tmp_path):
    source = four_folders(tmp_path / "in")
    Image.fromarray(noise(3, 30)).save(os.path.join(source, "trainA/000.png"))
    assert_refused(convert(source, tmp_path / "out", "--size=16"), r"trainA/000.png: 30x3 pixels, the minimum is 4")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty(tmp_path):
    source = four_folders(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "note.txt").write_text("keep")
    assert_refused(convert(source, tmp_path / "out"), "not empty")
    assert contents(tmp_path / "out") == {"note.txt": b"keep"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    source = four_folders(tmp_path / "in")
    (tmp_path / "locked").mkdir(mode=0o500)
    assert_refused(convert(source, tmp_path / "locked" / "out"), "Permission denied")


def test_a_place_where_no_folder_can_be(tmp_path):
    source = four_folders(tmp_path / "in")
    (tmp_path / "file").write_text("")
    assert_refused(convert(source, tmp_path / "file" / "out"), r"Not a directory.*check the path")


def test_a_write_that_fails_leaves_nothing_half_written(tmp_path):
    """A limit on the size of files stands for a full disk: both fail in the middle of a shard."""
    source = four_folders(tmp_path / "in", count=40)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    result = convert(source, tmp_path / "out", "--size=32", "--workers=1", preexec_fn=limit)
    assert_refused(result, r"trainA-00000.tfrecord.partial: cannot be written .*--resume")
    assert not (tmp_path / "out").exists()


def start(source, output, *flags):
    """Starts a conversion of 4 x 60 images into 4 x 20 shards."""
    command = [sys.executable, str(ROOT / "data_tools" / SCRIPT), f"--source={source}", f"--output={output}"]
    command += ["--size=16", "--min_size=4", "--shards=20", *flags]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def journal_lines(output):
    journal = pathlib.Path(output, ".converting", "journal.jsonl")
    return journal.read_text().count("\n") if journal.exists() else 0


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def children_of(process):
    listed = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in listed.split()]


def alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(images, content of the data folder made of them without a break)."""
    root = tmp_path_factory.mktemp("whole")
    source = four_folders(root / "in", count=60)
    image = ImageOptions(size=16, min_size=4, format="auto")
    convert_folder(
        FolderSource(source, LayoutOptions(), max_bytes=64 << 20),
        str(root / "set"),
        ConvertOptions(image, shards=20, workers=1, progress=False),
    )
    return source, contents(root / "set")


def kill_and_resume(folder, lines, uninterrupted, how):
    """Kills a conversion once its journal has so many lines, resumes it, and compares with an uninterrupted one."""
    source, whole = uninterrupted
    process = start(source, folder, "--workers=2")
    wait_for(lambda: journal_lines(folder) >= lines or process.poll() is not None)
    workers = children_of(process) if process.poll() is None else []
    process.send_signal(how)
    process.communicate()
    assert process.returncode in (-how, 130)
    assert workers
    assert not pathlib.Path(folder, "dataset.json").exists()
    wait_for(lambda: not any(alive(pid) for pid in workers))
    refused = start(source, folder)
    assert "continue it with --resume" in refused.communicate()[1]
    assert refused.returncode == 2
    resumed = start(source, folder, "--resume", "--workers=1")
    output, errors = resumed.communicate()
    assert resumed.returncode == 0, errors
    kept = re.search(r"(\d+) shards of an earlier run were kept", output)
    assert kept
    assert int(kept[1]) >= lines - 1  # the first line is the header
    assert contents(folder) == whole


def test_killed_and_resumed_is_as_if_never_killed(tmp_path, uninterrupted):
    kill_and_resume(tmp_path / "set", 6, uninterrupted, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("lines", [2, 30, 60])
def test_killed_anywhere_and_resumed(tmp_path, uninterrupted, lines, how):
    kill_and_resume(tmp_path / "set", lines, uninterrupted, how)


def kill_at_random(folder, source, kills, seed):
    """Kills at `kills` random moments (killed_conversions.py); how many conversions were compared in the end."""
    script = ROOT / "tests" / "data_tools" / "killed_conversions.py"
    command = [sys.executable, str(script), source, str(folder), str(kills), str(seed)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    killed, _, compared = (int(number) for number in re.findall(r"\d+", result.stdout))
    assert killed == kills
    return compared


def test_killed_at_random_moments(tmp_path, uninterrupted):
    assert kill_at_random(tmp_path, uninterrupted[0], 6, seed=0) >= 1


@pytest.mark.slow
def test_killed_at_50_random_moments(tmp_path, uninterrupted):
    assert kill_at_random(tmp_path, uninterrupted[0], 50, seed=1) >= 5


def test_two_converters_on_one_folder(tmp_path, uninterrupted):
    source, whole = uninterrupted
    first = start(source, tmp_path / "set", "--workers=1")
    wait_for(lambda: journal_lines(tmp_path / "set") >= 1 or first.poll() is not None)
    first.send_signal(signal.SIGSTOP)  # it must not finish before the second one looks
    try:
        second = start(source, tmp_path / "set", "--resume")
        assert "another converter is at work there" in second.communicate()[1]
        assert second.returncode == 2
    finally:
        first.send_signal(signal.SIGCONT)
    errors = first.communicate()[1]
    assert first.returncode == 0, errors
    assert contents(tmp_path / "set") == whole
