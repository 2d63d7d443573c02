"""Council-GAN: what it shows and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tfaclgan.errors import UserError
from tfaclgan.methods import council_gan
from tfaclgan.networks import council

TINY = {
    "members": 2, "width": 2, "residual_blocks": 1, "style_dim": 3, "mlp_dim": 4, "discriminator_width": 2,
}  # fmt: skip


def test_translations_show_one_member_and_all_it_painted_over():
    config = council_gan.Config(**TINY, member=1)
    networks = council_gan.networks(config, (32, 32, 3))
    images = np.random.RandomState(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    style = np.random.RandomState(1).standard_normal((2, 3)).astype(np.float32)
    shown = council_gan.translate(networks, images, style, "a2b", config)
    painted, masks = networks["g_1"](images, style)
    np.testing.assert_array_equal(shown.image, painted)
    np.testing.assert_allclose(shown.mask[..., 0], 1 - np.prod(1 - masks.numpy(), axis=-1), atol=1e-6)


def test_layers_are_painted_one_over_the_other():
    """A full mask hides what lies below it, an empty one shows it."""
    raw = np.zeros((1, 1, 1, 12), np.float32)
    raw[..., :9] = np.repeat([0.1, 0.2, 0.3], 3)
    background = np.full((1, 1, 1, 3), 0.9, np.float32)
    for masks, expected in (((1, 1, 1), 0.3), ((1, 1, -1), 0.2), ((1, -1, -1), 0.1), ((-1, -1, -1), 0.9)):
        raw[..., 9:] = masks
        image, _ = council.paint(raw, background, 3)
        np.testing.assert_allclose(image, np.full((1, 1, 1, 3), expected), atol=1e-5)


def test_one_member_has_no_council():
    config = council_gan.Config(**{**TINY, "members": 1})
    assert [phase.name for phase in council_gan.phases(config)] == ["discriminators", "generators"]
    assert sorted(council_gan.networks(config, (32, 32, 3))) == ["d_0", "g_0"]
    assert not council_gan.memory(config, (32, 32, 3))


def test_the_smallest_size_is_the_smallest():
    for options in ({}, {"discriminator_layers": 2}, {"discriminator_scales": 3}):
        config = council_gan.Config(**{**TINY, **options})
        side, multiple = council_gan.minimum_size(config), council_gan.size_multiple(config)
        networks = council_gan.networks(config, (side, side, 3))
        image = np.zeros((1, side, side, 3), np.float32)
        assert all(0 not in score.shape for score in networks["d_0"](image))
        council_gan.check(config, (side, side, 3))
        with pytest.raises(UserError, match=f"at least {side}"):
            council_gan.check(config, (side - multiple, side, 3))


@pytest.mark.parametrize(
    "options, shape, message",
    [
        ({"member": 2}, (32, 32, 3), "at most 1"),
        ({"council_off_steps": 5}, (32, 32, 3), "for ever"),
        ({}, (34, 32, 3), "multiples of 4"),
    ],
)
def test_what_cannot_be_is_a_user_error(options, shape, message):
    with pytest.raises(UserError, match=message):
        council_gan.check(council_gan.Config(**{**TINY, **options}), shape)
