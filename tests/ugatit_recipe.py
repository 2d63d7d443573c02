"""Weights, images and summaries that make_ugatit_golden.py and test_ugatit_parity.py share; NumPy only."""

from __future__ import annotations

import zlib

import numpy as np

SIZE, WIDTH, BATCH = 64, 4, 2
BLOCKS, STEP_BLOCKS = 2, 1
RATE = 1e-3  # of the steps
L2 = 1e-4


def value(network: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight by its PyTorch name and shape."""
    draw = np.random.RandomState(zlib.crc32(f"{network}/{name}".encode()))
    if name.endswith("rho"):
        return draw.uniform(0.1, 0.88, shape)
    if name.endswith("gamma") and len(shape) == 4:
        return 1 + 0.2 * draw.standard_normal(shape)
    if name.endswith(("weight_u", "weight_v")):
        vector = draw.standard_normal(shape)
        return vector / np.linalg.norm(vector)
    scaled = draw.standard_normal(shape)
    if len(shape) == 1:
        return (1 + 0.2 * scaled) if name.endswith("weight") else 0.1 * scaled
    return scaled * np.sqrt(2 / np.prod(shape[1:])) if min(shape[:2]) > 1 else 0.3 * scaled


def images(key: str, channels: int = 3) -> np.ndarray:
    """[b, h, w, c] in (-1, 1)."""
    draw = np.random.RandomState(zlib.crc32(key.encode())).standard_normal((BATCH, SIZE, SIZE, channels))
    return np.tanh(draw)


def mask(key: str) -> np.ndarray:
    """[b, h, w, 1] in [0, 1], no value where the fork's soft edge has its defect (0.7)."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    centre = np.random.RandomState(zlib.crc32(key.encode())).uniform(0.3, 0.7, (BATCH, 2))
    distance = np.sqrt((rows[None] - centre[:, :1, None]) ** 2 + (columns[None] - centre[:, 1:, None]) ** 2)
    return np.clip(1.6 - 3.1 * distance, 0, 1)[..., None]


def summary(array: np.ndarray) -> np.ndarray:
    """Enough of an array [b, h, w, c] to recognise it: a few pixels, mean and length."""
    array = np.asarray(array, np.float64)
    few = array[:, ::9, ::7].reshape(-1) if array.ndim == 4 else array.reshape(-1)
    return np.concatenate([few, [array.mean(), np.sqrt(np.sum(array**2))]])


def footprint(name: str, change: np.ndarray) -> np.ndarray:
    """[length, projection on a random direction] of a weight's change, in PyTorch's axes."""
    direction = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(change.shape)
    return np.array([np.sqrt(np.sum(change**2)), np.sum(change * direction)])
