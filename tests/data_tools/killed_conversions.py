"""Converts a folder again and again in child processes that are killed (SIGKILL) at random moments, then resumed.

    python tests/data_tools/killed_conversions.py SOURCE SCRATCH KILLS SEED

TensorFlow is imported once and children are forked, so that the moments fall into conversions and not into imports.
Each time a conversion reaches its end, its files are compared with those of an undisturbed one, and a new one begins.
Prints how many kills met a conversion at work, how many shards those had finished, and how many ends were compared;
exit status 1 at the first difference.
"""

from __future__ import annotations

import os
import pathlib
import random
import signal
import sys
import time

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import tensorflow as tf  # noqa: F401 (imported before the forks)
from pictures import contents

from tfaclgan.data.convert import ConvertOptions, convert
from tfaclgan.data.images import ImageOptions
from tfaclgan.data.sources import FolderSource, LayoutOptions

OPTIONS = dict(shards=20, workers=1, progress=False, resume=True, name="set")


def start(source, folder):
    """A child that converts; its process number."""
    child = os.fork()
    if child:
        return child
    try:
        options = ConvertOptions(ImageOptions(size=16, min_size=4, format="png"), **OPTIONS)
        convert(FolderSource(source, LayoutOptions(), max_bytes=1 << 20), folder, options)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def finish(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main(source, scratch, kills, seed):
    draw = random.Random(seed)
    began = time.monotonic()
    finish(start(source, f"{scratch}/alone"))
    life = time.monotonic() - began
    expected = contents(f"{scratch}/alone")
    killed = compared = 0
    moments = set()
    folder = f"{scratch}/set0"
    while killed < kills:
        child = start(source, folder)
        time.sleep(draw.uniform(0, 0.6) * life)
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL), f"exit status {code}"
        killed += code != 0
        journal = pathlib.Path(folder, ".converting", "journal.jsonl")
        if code and journal.exists():
            moments.add(journal.read_text().count("\n"))
        if code == 0 or draw.random() < 0.2:  # now and then the rest is done without another kill
            finish(start(source, folder))
            if contents(folder) != expected:
                sys.exit(f"{folder}: other files than those of an undisturbed conversion")
            compared += 1
            folder = f"{scratch}/set{killed}_{compared}"
    finish(start(source, folder))
    if contents(folder) != expected:
        sys.exit(f"{folder}: other files than those of an undisturbed conversion")
    print(f"killed {killed}, at {len(moments)} different lengths of the journal, compared {compared + 1}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
