"""Class activation and scSE against NumPy in float64 (ugatit.md 1.3, 1.4, 1.6, 7.1)."""

from __future__ import annotations

import numpy as np
import pytest

from tfaclgan.layers.attention import ClassActivation, SpatialChannelExcitation

MAPS = np.random.RandomState(0).standard_normal((2, 5, 4, 6))


def subject(**options):
    layer = ClassActivation(dtype="float64", **options)
    layer.build(MAPS.shape)
    for i, head in enumerate([layer.mean_head] if layer.shared else [layer.mean_head, layer.peak_head]):
        if head.use_bias:
            head.bias.assign([0.3 + i])
    return layer


def head_values(head):
    return head.kernel.numpy()[:, 0], head.bias.numpy()[0] if head.use_bias else 0.0


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("spectral, weights", [(False, "normalised"), (True, "normalised"), (True, "raw")])
def test_scores_and_weighted_maps(shared, use_bias, spectral, weights):
    layer = subject(shared=shared, use_bias=use_bias, spectral=spectral, weights=weights)
    scores, weighted = layer(MAPS)
    pooled = MAPS.mean((1, 2)), MAPS.max((1, 2))
    for i, head in enumerate((layer.mean_head, layer.peak_head)):
        w, b = head_values(head)
        used = w / np.linalg.norm(w) if spectral else w
        np.testing.assert_allclose(scores[:, i], pooled[i] @ used + b, rtol=1e-10)
        on_maps = (w if weights == "raw" else used) + b
        np.testing.assert_allclose(weighted[..., 6 * i : 6 * i + 6], MAPS * on_maps, rtol=1e-10)
    assert len(layer.trainable_variables) == (1 if shared else 2) * (1 + use_bias)


def test_scores_may_come_from_other_maps():
    layer = subject()
    scores, weighted = layer(MAPS, 2 * MAPS)
    np.testing.assert_array_equal(scores, layer(2 * MAPS)[0])
    np.testing.assert_array_equal(weighted, layer(MAPS)[1])


def test_without_attention_the_maps_are_repeated():
    np.testing.assert_array_equal(subject(attend=False)(MAPS)[1], np.concatenate([MAPS, MAPS], -1))


def test_squeeze_and_excitation_adds_both_branches():
    layer = SpatialChannelExcitation(dtype="float64")
    layer.build(MAPS.shape)
    for i, part in enumerate((layer.squeeze, layer.excite, layer.place)):
        part.bias.assign(np.random.RandomState(i).standard_normal(part.bias.shape))
    (w1, b1), (w2, b2), (w, b) = (
        [v.numpy() for v in part.weights] for part in (layer.squeeze, layer.excite, layer.place)
    )
    assert w1.shape == (6, 8)  # never fewer than eight

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    channels = sigmoid(np.maximum(MAPS.mean((1, 2)) @ w1 + b1, 0) @ w2 + b2)
    expected = MAPS * channels[:, None, None] + MAPS * sigmoid(MAPS @ w + b)
    np.testing.assert_allclose(layer(MAPS), expected, rtol=1e-10, atol=1e-12)
    wide = SpatialChannelExcitation()
    wide.build((None, None, None, 64))
    assert wide.squeeze.units == 16
