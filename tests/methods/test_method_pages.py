"""docs/methods: a page a method, whose table has every option and its default."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import pytest

from tfaclgan.methods import base

PAGES = pathlib.Path(__file__).parents[2] / "docs" / "methods"
SHIPPED = [name for name in base.names() if base.get(name).config.__module__.startswith("tfaclgan.")]


@pytest.mark.parametrize("name", SHIPPED)
def test_page_has_every_option_with_its_default(name):
    text = (PAGES / f"{name}.md").read_text()
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", text.split("## Options")[1].split("**Strength")[0], re.MULTILINE)
    documented = {}
    for names, defaults in rows:
        values = [value.strip() for value in defaults.split(",")]
        documented.update(zip(re.findall(r"`(\w+)`", names), values, strict=True))
    expected = {
        field.name: str(field.default).lower() if isinstance(field.default, bool) else f"{field.default}"
        for field in dataclasses.fields(base.get(name).config)
    }
    assert {key: value.removesuffix(".0") for key, value in expected.items()} == documented
