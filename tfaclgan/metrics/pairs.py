"""Distances between images and their ground truth, and between translations of one input.

All work in float64 on the host and take uint8 images `[n, h, w, c]`. SSIM: Wang et al. 2004, the
Gaussian window of its reference code (11 x 11, sigma 1.5, biased local variances, only windows that
lie inside the image), channels averaged.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

PSNR_CEILING = 100.0  # dB: given for identical images, whose true value is infinite
SSIM_WINDOW = 11  # pixels
_SIGMA = 1.5  # pixels


def psnr(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each pair in dB, peak 255, float64 [n]; at most 100 dB."""
    images, targets = _pair(images, targets)
    error = np.mean((images - targets) ** 2, axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        value = 10 * np.log10(255.0**2 / error)
    return np.minimum(value, PSNR_CEILING)


def ssim(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Structural similarity of each pair, float64 [n] in [-1, 1]; sides at least 11 pixels."""
    x, y = _pair(images, targets)
    if min(x.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs sides of at least {SSIM_WINDOW} pixels, not {x.shape[1:3]}")
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x**2
    variance_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    value = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return np.mean(value, axis=(1, 2, 3))


def l1(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Mean absolute error of each pair with pixels in [-1, 1] (so 0 to 2), float64 [n]."""
    images, targets = _pair(images, targets)
    return np.mean(np.abs(images - targets), axis=(1, 2, 3)) / 127.5


def region_l1(images: np.ndarray, targets: np.ndarray, region: np.ndarray) -> tuple[float, int]:
    """Absolute error with pixels in [-1, 1], inside a region, summed over pixels.

    The mean over a data set is the sum of first values over the sum of second ones: every region
    pixel counts alike, so images with a large region weigh more.

    Args:
        images, targets: uint8 [n, h, w, c].
        region: bool [n, h, w] or [n, h, w, 1].

    Returns:
        The sum over region pixels of the error averaged over channels, and the number of pixels.
    """
    images, targets = _pair(images, targets)
    region = np.asarray(region, dtype=bool).reshape(images.shape[:3])
    error = np.mean(np.abs(images - targets), axis=3) / 127.5
    return float(error[region].sum()), int(region.sum())


def pairwise_l1(translations: np.ndarray) -> np.ndarray:
    """Mean absolute difference, pixels in [-1, 1], over all pairs of translations of each input.

    Args:
        translations: uint8 [styles, n, h, w, c], at least 2 styles.

    Returns:
        float64 [n].
    """
    values = translations.astype(np.float64)
    return _mean_over_pairs(values, lambda a, b: np.mean(np.abs(a - b), axis=(1, 2, 3)) / 127.5)


def pairwise_features(features: np.ndarray) -> np.ndarray:
    """Mean distance of unit-length features over all pairs of translations of each input.

    The same idea as LPIPS diversity but not LPIPS: one pooled layer of the chosen extractor and no
    learned weights.

    Args:
        features: float [styles, n, d], at least 2 styles.

    Returns:
        float64 [n], each from 0 to 2.
    """
    values = features.astype(np.float64)
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    values = values / np.where(length > 0, length, 1.0)
    return _mean_over_pairs(values, lambda a, b: np.linalg.norm(a - b, axis=-1))


def _mean_over_pairs(values: np.ndarray, distance: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    styles = len(values)
    if styles < 2:
        raise ValueError("diversity needs at least 2 styles")
    pairs = [(i, j) for i in range(styles) for j in range(i)]
    return sum(distance(values[i], values[j]) for i, j in pairs) / len(pairs)


def _pair(images: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if images.shape != targets.shape or images.ndim != 4 or images.dtype != np.uint8 or targets.dtype != np.uint8:
        raise ValueError(
            f"expected two uint8 arrays [n, h, w, c] of one shape, not {images.dtype} {images.shape} "
            f"and {targets.dtype} {targets.shape}"
        )
    return images.astype(np.float64), targets.astype(np.float64)


def _blur(values: np.ndarray) -> np.ndarray:
    """[n, h, w, c] -> [n, h - 10, w - 10, c]: Gaussian window, separable, inside the image only."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    height, width = (side - SSIM_WINDOW + 1 for side in values.shape[1:3])
    values = sum(weight * values[:, k : k + height] for k, weight in enumerate(weights))
    return sum(weight * values[:, :, k : k + width] for k, weight in enumerate(weights))
