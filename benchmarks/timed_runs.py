"""What scripts share that train several methods for so many minutes each and judge them; prints nothing itself."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)  # a copy of the repository need not be installed

QUICK = {
    "acl_gan": "quickstart",
    "munit": "quick_munit",
    "cyclegan": "quick_cyclegan",
    "council_gan": "quick_council_gan",
    "ugatit": "quick_ugatit",
}
MARGIN, HEAD = 4, 16
TICK = 5  # seconds between two calls of `spent`


def train(flags: Sequence[str], log: str, seconds: float, spent: Callable[[float], None] | None = None) -> int:
    """`--mode=train` for so many seconds from its start; returns its exit code.

    It is then told to stop by SIGTERM, upon which it saves and ends with 42. The same happens if this process is
    interrupted or, on Linux, killed.

    Args:
        flags: of the command.
        log: file to which its lines are appended.
        seconds: until SIGTERM.
        spent: is told the seconds since its last call, every `TICK` seconds and at the end.
    """
    with open(log, "a", encoding="utf-8") as file:
        start = told = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "tfaclgan.main", *flags],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=_ends_with_its_parent(),
        )
        try:
            while process.poll() is None and time.monotonic() < start + seconds:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, min(TICK, start + seconds - time.monotonic())))
                if spent:
                    told, before = time.monotonic(), told
                    spent(told - before)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait()
            if spent:
                spent(time.monotonic() - told)
    return process.returncode


def _ends_with_its_parent() -> Callable[[], object] | None:
    """What a child calls so that the kernel sends it SIGTERM when its parent dies (PR_SET_PDEATHSIG)."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)  # loaded before the fork: afterwards little is safe
    return lambda: library.prctl(1, signal.SIGTERM)


def newest_step(run_dir: str) -> int:
    """The data iteration of a run's newest checkpoint; 0 if it has none."""
    from tfaclgan.training import checkpoint

    found = checkpoint.find(os.path.join(run_dir, "checkpoints"))
    return found[0].step if found else 0


def judge(run_dir: str, extractor: str, pictures: int) -> tuple[dict, dict[str, np.ndarray]]:
    """A run's newest weights on all test pictures of domain A, as `--mode=evaluate` judges them, and some of them.

    Returns:
        The result of `metrics.evaluate` with the key "step" besides; the first `pictures` test pictures as
        uint8 [n, h, w, 3]: "input", "output", and "truth" where the data have it.
    """
    import tfaclgan
    from tfaclgan.data import pipeline, records
    from tfaclgan.metrics.evaluate import evaluate

    translator = tfaclgan.load(run_dir)
    flags, (height, width, _) = translator.run.flags, translator.run.image_shape
    manifest = records.load_manifest(str(flags["data_dir"]))
    options = pipeline.PipelineOptions(height=height, width=width, load_size=int(flags["load_size"]))
    result = evaluate(
        lambda images, seed: translator.translate(images, direction="a2b", seed=seed),
        manifest,
        options,
        direction="a2b",
        extractor=extractor,
        cache_dir=os.path.join(manifest.folder, ".metrics"),
        say=lambda text: print(text, file=sys.stderr),
    )
    element = next(iter(pipeline.evaluation_dataset(manifest, "testA", options, batch=pictures).as_numpy_iterator()))
    inputs = element["image"][element["valid"]]
    shown = {"input": inputs, "output": translator.translate(inputs, direction="a2b")}
    if "target" in element:
        shown["truth"] = element["target"][element["valid"]]
    return {**result, "step": newest_step(run_dir)}, shown


def sheet(columns: dict[str, np.ndarray], side: int) -> Image.Image:
    """A row a picture, a column an entry with its name above; pictures uint8 [n, h, w, 3], drawn `side` pixels wide."""
    step = side + MARGIN
    rows = max(len(images) for images in columns.values())
    canvas = Image.new("RGB", (len(columns) * step + MARGIN, rows * step + MARGIN + HEAD), "white")
    draw = ImageDraw.Draw(canvas)
    for column, (name, images) in enumerate(columns.items()):
        draw.text((MARGIN + column * step, 2), name, fill="black")
        for row, image in enumerate(images):
            tile = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(tile, (MARGIN + column * step, HEAD + MARGIN + row * step))
    return canvas
