"""PSNR, SSIM, L1 and diversity against scikit-image and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.metrics

from tfaclgan.metrics import pairs


def images(n=3, h=40, w=31, c=3, seed=0):
    rng = np.random.default_rng(seed)
    smooth = rng.normal(size=(n, h, w, c)).cumsum(1).cumsum(2)
    smooth = 128 + 100 * smooth / np.abs(smooth).max()
    noisy = smooth + rng.normal(size=smooth.shape) * np.array([4, 20, 60])[:n, None, None, None]
    return tuple(np.clip(x, 0, 255).round().astype(np.uint8) for x in (smooth, noisy))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_psnr_and_ssim_are_scikit_images(channels):
    a, b = images(c=channels)
    for i in range(len(a)):
        assert pairs.psnr(a, b)[i] == pytest.approx(skimage.metrics.peak_signal_noise_ratio(b[i], a[i]), rel=1e-12)
        expected = skimage.metrics.structural_similarity(
            a[i].astype(np.float64),
            b[i].astype(np.float64),
            channel_axis=-1,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert pairs.ssim(a, b)[i] == pytest.approx(expected, rel=1e-10)


def test_identical_images():
    a, _ = images()
    np.testing.assert_array_equal(pairs.psnr(a, a), pairs.PSNR_CEILING)
    np.testing.assert_allclose(pairs.ssim(a, a), 1)
    np.testing.assert_array_equal(pairs.l1(a, a), 0)


def test_worst_images():
    black, white = np.zeros((1, 16, 16, 3), np.uint8), np.full((1, 16, 16, 3), 255, np.uint8)
    assert pairs.psnr(black, white)[0] == 0
    assert pairs.l1(black, white)[0] == 2
    assert 0 <= pairs.ssim(black, white)[0] < 1e-3


def test_l1_is_the_mean_over_pixels_in_minus_one_to_one():
    a, b = images()
    expected = [np.mean(np.abs((x / 127.5 - 1) - (y / 127.5 - 1))) for x, y in zip(a, b)]
    np.testing.assert_allclose(pairs.l1(a, b), expected, rtol=1e-12)


def test_region_l1_sums_over_its_pixels_alone():
    a, b = images()
    region = np.random.default_rng(1).random(a.shape[:3]) < 0.1
    total, pixels = pairs.region_l1(a, b, region[..., None])
    by_hand = [np.mean(np.abs(a[n, y, x] / 127.5 - b[n, y, x] / 127.5)) for n, y, x in zip(*np.nonzero(region))]
    assert pixels == len(by_hand)
    assert total == pytest.approx(sum(by_hand), rel=1e-12)
    assert pairs.region_l1(a, b, np.zeros_like(region)) == (0.0, 0)


def test_ssim_needs_eleven_pixels():
    small = np.zeros((1, 10, 20, 3), np.uint8)
    with pytest.raises(ValueError, match="at least 11"):
        pairs.ssim(small, small)


@pytest.mark.parametrize("measure", [pairs.psnr, pairs.ssim, pairs.l1])
def test_shapes_and_types_must_fit(measure):
    a, b = images()
    with pytest.raises(ValueError, match="one shape"):
        measure(a, b[:, :-1])
    with pytest.raises(ValueError, match="uint8"):
        measure(a.astype(np.float32), b)


def test_diversity_is_the_mean_over_pairs_of_styles():
    translations = np.stack([images(seed=seed)[0] for seed in range(3)])
    got = pairs.pairwise_l1(translations)
    for n in range(3):
        x = [translations[style, n] / 127.5 for style in range(3)]
        expected = np.mean([np.abs(x[0] - x[1]).mean(), np.abs(x[0] - x[2]).mean(), np.abs(x[1] - x[2]).mean()])
        assert got[n] == pytest.approx(expected, rel=1e-12)
    assert pairs.pairwise_l1(translations[[0, 0]]) == pytest.approx(0)


def test_feature_diversity_has_unit_length_and_survives_zeros():
    features = np.zeros((2, 4, 3))
    features[:, 0] = [[2, 0, 0], [0, 5, 0]]
    features[:, 1] = [[1, 1, 0], [7, 7, 0]]
    features[:, 2] = [[0, 0, 0], [0, 0, 3]]
    features[:, 3] = [[1, 0, 0], [-1, 0, 0]]
    np.testing.assert_allclose(pairs.pairwise_features(features), [np.sqrt(2), 0, 1, 2], atol=1e-12)


def test_diversity_of_one_style_is_our_own_mistake():
    with pytest.raises(ValueError, match="at least 2 styles"):
        pairs.pairwise_l1(np.zeros((1, 2, 4, 4, 3), np.uint8))
