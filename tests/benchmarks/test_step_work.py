"""A step computes nothing that its method does not need."""

from __future__ import annotations

import pytest
import step_work


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", step_work.cases(size=64, width=16, blocks=2, batch=2), ids=["acl_gan", "light", "full"]
)
def test_operations_are_at_most_15_per_cent_more_than_needed(case):
    ratio = step_work.counted(case, size=64, batch=2, dtype="float32") / case.needed
    assert 1 <= ratio <= 1.15


def test_published_acl_gan_is_counted_as_its_layers_say():
    """G and D at 256 px, from layer sizes written out here."""
    g = step_work.munit_networks(256, 64, 2, 4, 8, 256, outputs=4)
    stem, down = 49 * 3 * 64 * 256**2, 16 * (64 * 128 * 128**2 + 128 * 256 * 64**2)
    assert g["content"].all == stem + down + 8 * 9 * 256 * 256 * 64**2
    assert g["mlp"].all == 8 * 256 + 256 * 256 + 256 * 16 * 256
    one_scale = 16 * (3 * 64 * 128**2 + 64 * 128 * 64**2 + 128 * 256 * 32**2 + 256 * 512 * 16**2) + 512 * 16**2
    assert step_work.munit_discriminator(256, 3, 64, 1, 4).all == one_scale
