"""FID, KID and IS against float64 references that share no code with TF-GAN."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf

from tfaclgan.errors import UserError
from tfaclgan.metrics import distances, tfgan


def reference_fid(a, b):
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False))
    traces = np.trace(np.cov(a, rowvar=False)) + np.trace(np.cov(b, rowvar=False))
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + traces - 2 * np.trace(root).real


def rank_deficient_fid(a, b):
    """Exact whatever the ranks: the trace of the root is the nuclear norm of a product of centred data."""
    a0, b0 = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    root = np.linalg.svd(a0 @ b0.T, compute_uv=False).sum()
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.sum(a0**2) + np.sum(b0**2) - 2 * root


def reference_mmd(x, y):
    """Unbiased squared MMD by two loops over pairs."""

    def kernel(u, v):
        return (u @ v / len(u) + 1) ** 3

    def within(z):
        return np.mean([kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j])

    return within(x) + within(y) - 2 * np.mean([kernel(u, v) for u in x for v in y])


def sets(n, m, d, shift=0.3, seed=0):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) / np.sqrt(d)
    return rng.normal(size=(n, d)) @ mix, rng.normal(size=(m, d)) + shift


@pytest.mark.parametrize("n,m,d", [(300, 200, 12), (500, 900, 64)])
def test_frechet_distance_is_the_formula(n, m, d):
    a, b = sets(n, m, d)
    assert distances.frechet_distance(a, b) == pytest.approx(reference_fid(a, b), rel=1e-6)
    assert distances.frechet_distance(b, a) == pytest.approx(distances.frechet_distance(a, b), rel=1e-6)


@pytest.mark.parametrize("n,m,d", [(20, 30, 100), (2, 2, 5), (2, 400, 50)])
def test_frechet_distance_of_fewer_images_than_dimensions_is_exact(n, m, d):
    a, b = sets(n, m, d)
    assert distances.frechet_distance(a, b) == pytest.approx(rank_deficient_fid(a, b), rel=1e-6)


def test_frechet_distance_of_equal_sets_is_zero_and_not_below():
    for n, d in ((200, 16), (10, 64), (2, 8)):
        a, _ = sets(n, 2, d)
        assert 0 <= distances.frechet_distance(a, a) < 1e-5
    constant = np.ones((5, 4))
    assert distances.frechet_distance(constant, constant) == 0


def test_float32_features_lose_nothing_inside():
    a, b = (x.astype(np.float32) for x in sets(150, 150, 8))
    expected = reference_fid(a.astype(np.float64), b.astype(np.float64))
    assert distances.frechet_distance(a, b) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("n,m", [(30, 30), (41, 17)])
def test_kernel_distance_in_one_block_is_the_unbiased_estimate(n, m):
    a, b = sets(n, m, 6)
    got = distances.kernel_distance(a, b)
    assert (got.blocks, got.block_size) == (1, 1024)
    assert got.mean == pytest.approx(reference_mmd(a, b), rel=1e-9)


def test_kernel_distance_in_blocks_averages_them():
    a, b = sets(60, 30, 6)
    got = distances.kernel_distance(a, b, block_size=20)
    rows = [np.random.default_rng((0, which)).permutation(len(x)) for which, x in enumerate((a, b))]
    parts = zip(np.array_split(a[rows[0]], 3), np.array_split(b[rows[1]], 3))
    estimates = [reference_mmd(x, y) for x, y in parts]
    assert (got.blocks, got.block_size) == (3, 20)
    assert got.mean == pytest.approx(np.mean(estimates), rel=1e-9)
    assert got.standard_error == pytest.approx(np.std(estimates, ddof=1) / np.sqrt(3), rel=1e-9)


def test_one_blocks_standard_error_is_the_spread_over_repetitions():
    draws = [distances.kernel_distance(*sets(80, 40, 8, shift=0.5, seed=0)) for _ in range(2)]
    assert draws[0] == draws[1]
    rng = np.random.default_rng(7)
    draws = [distances.kernel_distance(rng.normal(size=(80, 8)), rng.normal(size=(40, 8)) + 0.5) for _ in range(60)]
    spread = np.std([draw.mean for draw in draws], ddof=1)
    claimed = np.sqrt(np.mean([draw.standard_error**2 for draw in draws]))
    assert 0.7 < claimed / spread < 1.4


def test_one_blocks_standard_error_is_the_jackknifes():
    """Each estimate repeated by TF-GAN's own code without one tenth of both sets."""
    a, b = sets(43, 26, 5)
    got = distances.kernel_distance(a, b)
    a, b = (x[np.random.default_rng((0, which)).permutation(len(x))] for which, x in enumerate((a, b)))
    parts = zip(np.array_split(np.arange(43), 10), np.array_split(np.arange(26), 10))
    left = [distances._kernel(np.delete(a, i, 0), np.delete(b, j, 0), 1024)[0] for i, j in parts]
    assert got.standard_error == pytest.approx(np.sqrt(9 / 10 * np.sum((left - np.mean(left)) ** 2)), rel=1e-9)


def test_the_shortcut_for_few_images_is_exact():
    """TF-GAN on all dimensions gives the same as on the smaller set's span plus the rest."""
    a, b = sets(70, 12, 40)
    whole = tfgan.classifier_metrics().frechet_classifier_distance_from_activations(tf.constant(a), tf.constant(b))
    projected, rest = distances._into_common_space(a, b)
    assert projected[0].shape == (70, 12)
    assert rest > 0
    assert distances.frechet_distance(a, b) == pytest.approx(float(whole), rel=1e-9)


def test_kernel_distance_is_unbiased_and_may_be_negative():
    rng = np.random.default_rng(3)
    means = [distances.kernel_distance(rng.normal(size=(20, 4)), rng.normal(size=(20, 4))).mean for _ in range(60)]
    assert min(means) < 0 < max(means)
    assert abs(np.mean(means)) < 4 * np.std(means) / np.sqrt(len(means))


def test_sorted_files_do_not_spoil_blocks():
    a, _ = sets(400, 2, 4)
    ordered = a[np.argsort(a[:, 0])]
    got = distances.kernel_distance(ordered, ordered[::-1], block_size=40)
    assert abs(got.mean) < 5 * got.standard_error


@pytest.mark.parametrize(
    "real,generated,asked,expected",
    [
        (1000, 200, 0, (1024, 1)),
        (5000, 200, 0, (1024, 5)),
        (5000, 5, 0, (2500, 2)),
        (2, 2, 0, (1024, 1)),
        (1000, 200, 100, (100, 10)),
    ],
)
def test_blocks(real, generated, asked, expected):
    assert distances.blocks(real, generated, asked) == expected


def test_two_images_have_a_distance_but_no_standard_error():
    a, b = sets(2, 2, 3)
    assert distances.kernel_distance(a, b).standard_error is None


@pytest.mark.parametrize("size,message", [(3, "at least 10"), (-1, "negative")])
def test_impossible_block_sizes_are_refused(size, message):
    a, b = sets(10, 3, 3)
    with pytest.raises(UserError, match=message):
        distances.kernel_distance(a, b, block_size=size)


def test_inception_score_is_the_formula():
    logits = np.random.default_rng(0).normal(size=(50, 10)) * 3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = np.exp(np.mean(np.sum(p * (np.log(p) - np.log(p.mean(0))), axis=1)))
    assert distances.inception_score(logits) == pytest.approx(expected, rel=1e-12)


def test_inception_score_at_its_ends():
    assert distances.inception_score(np.zeros((5, 10))) == pytest.approx(1)
    assert distances.inception_score(np.ones((1, 10))) == pytest.approx(1)
    assert distances.inception_score(np.eye(10) * 1000.0) == pytest.approx(10)


@pytest.mark.parametrize("measure", [distances.frechet_distance, distances.kernel_distance])
def test_too_few_images_are_a_user_error(measure):
    a, b = sets(1, 5, 3)
    with pytest.raises(UserError, match="at least 2 images in each set, and the real set has 1"):
        measure(a, b)
    with pytest.raises(UserError, match="the generated set has 0"):
        measure(b, a[:0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_a_user_error(bad):
    a, b = sets(4, 5, 3)
    b[2, 1] = bad
    for measure in (distances.frechet_distance, distances.kernel_distance):
        with pytest.raises(UserError, match="1 of 5 generated images"):
            measure(a, b)
    with pytest.raises(UserError, match="not finite"):
        distances.inception_score(b)


def test_wrong_rank_is_our_own_mistake():
    with pytest.raises(ValueError, match="not \\[images, dimensions\\]"):
        distances.frechet_distance(np.zeros((2, 3, 4)), np.zeros((2, 3)))


def test_published_kernel_distances_are_mixtures_with_the_source():
    """At most ten images are one block, whose estimate is the formula; the mixtures are the authors' two."""
    generated, target = sets(10, 10, 6, shift=0.4)
    source = generated * 0.7 + 0.2
    got = distances.published_kernel_distance(target, source, generated)
    near, far = reference_mmd(target, generated), reference_mmd(source, generated)
    assert got.plain[0] == pytest.approx(near, rel=1e-6)
    assert got.mean[0] == pytest.approx((0.02 * near + 0.98 * far) / 2, rel=1e-6)
    assert got.average[0] == pytest.approx((near + far) / 2, rel=1e-6)
    assert got.images == 10


def test_published_kernel_distance_has_blocks_of_ten_and_equal_counts():
    generated, target = sets(30, 300, 6)
    got = distances.published_kernel_distance(target, generated + 0.1, generated)
    assert got.images == 30
    every = [reference_mmd(target[i * 30 : i * 30 + 30], generated) for i in range(10)]
    # Three blocks of ten from one draw of thirty: the same mean, a wider spread.
    assert abs(got.plain[0] - np.mean(every)) < 5 * got.plain[1]
    assert got.plain[1] > 0
    assert got.mean[1] < got.average[1]


def test_published_kernel_distance_of_too_few_images():
    generated, target = sets(2, 30, 6)
    with pytest.raises(UserError, match="at least 3 images"):
        distances.published_kernel_distance(target, target, generated)
