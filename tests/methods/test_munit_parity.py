"""MUNIT against figures of the official PyTorch code in float64 (reference, section 13)."""

from __future__ import annotations

import pytest
from munit_oracle import FixedContext, build, fill, images, styles, total

from tfaclgan.methods import munit

CONFIG = munit.Config(cycle_weight=10.0)
MODULES = {"g_a": "gen_a", "g_b": "gen_b", "d_a": "dis_a", "d_b": "dis_b"}
BATCH = {"a": images(1), "b": images(2)}


@pytest.fixture(scope="module")
def networks():
    built = build(munit, CONFIG)
    fill(built, MODULES, CONFIG)
    return built


@pytest.fixture(scope="module")
def losses(networks):
    z = styles()
    draws = {
        "discriminators/style_a": z[0],
        "discriminators/style_b": z[1],
        "generators/style_a": z[2],
        "generators/style_b": z[3],
    }
    return [phase.loss(networks, BATCH, FixedContext(draws), CONFIG) for phase in munit.phases(CONFIG)]


def test_parameters(networks):
    assert sum(network.count_params() for network in networks.values()) == 46_594_716


def test_totals(losses):
    assert total(losses[0]) == pytest.approx(16.992430639, rel=1e-10)
    assert total(losses[1]) == pytest.approx(50.284817443, rel=1e-10)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("adversarial_d_a", 7.143988133),
        ("adversarial_d_b", 7.589628073),
        ("style_a", 1.015529664),
        ("style_b", 1.231072498),
        ("content_a", 2.339196280),
        ("content_b", 2.351826618),
    ],
)
def test_parts(losses, name, expected):
    assert float(losses[1].terms[name]) == pytest.approx(expected, abs=6e-10)
