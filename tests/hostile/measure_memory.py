"""How much this process grows by while it converts hostile pictures: prints MiB, and how many it took.

    python tests/hostile/measure_memory.py bombs
    python tests/hostile/measure_memory.py PNG 8000        # one picture of that side

A process of its own, because the system remembers only the most a process ever had.
"""

from __future__ import annotations

import os
import resource
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import corpus
import numpy as np
from pictures import PictureJob
from PIL import Image

from tfaclgan.data import convert, images


def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(what, side=0):
    if what == "bombs":
        files = corpus.bombs()
    else:
        files = {
            "a": corpus.encode(Image.new("RGBA" if what in ("PNG", "WEBP", "TIFF") else "RGB", (side, side)), what)
        }
        if os.path.exists("/proc/self/clear_refs"):  # forget what making the picture took
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
    options = images.ImageOptions(size=256, min_size=1, max_pixels=max(64_000_000, side * side))
    convert.run_jobs([PictureJob("warm", corpus.sound()["a.png"])], options)
    np.zeros(1).sum()
    before, taken = most(), 0
    for name, data in files.items():
        taken += convert.run_jobs([PictureJob(name, data)], options)[0].record is not None
    print(f"{most() - before:.1f} {taken}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
