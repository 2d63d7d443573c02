"""A step computes nothing that its method does not need."""

from __future__ import annotations

import re

import pytest
import step_work
from tiny_methods import SIZE, config_of, recipe_of

from tfaclgan.engine import tpu_compiler
from tfaclgan.engine.tensorflow import Engine
from tfaclgan.methods import base


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["acl_gan", "ugatit"])
def test_convolutions_are_in_bfloat16_on_channels_that_lie_last(name):
    """But for the scores, of one channel, which are float32 as losses are; no map is transposed on the way."""
    method, shape = base.get(name), (SIZE, SIZE, 3)
    engine = Engine(method, config_of(method), image_shape=shape, recipe=recipe_of(method), dtype="bfloat16", xla="on")
    text = tpu_compiler.step_hlo_text(engine, 0)
    found = re.findall(r"= (\w+)(\[[\d,]*\])\S* (transpose|convolution)(\(.*)", text)
    # Those with a side of one channel, in the result or an operand, are a score's or its gradients.
    wide = [dtype for dtype, shape, kind, rest in found if kind == "convolution" and ",1]" not in shape + rest]
    assert len(wide) > 50
    assert set(wide) == {"bf16"}
    assert not [shape for _, shape, kind, _ in found if kind == "transpose" and shape.count(",") == 3]
