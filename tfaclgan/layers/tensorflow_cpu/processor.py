"""What the processor can do."""

from __future__ import annotations

import functools
import re

_DESCRIPTION = "/proc/cpuinfo"  # of Linux


def has(feature: str) -> bool:
    """Whether it has a feature by the name that Linux gives it ("avx512_bf16", "amx_bf16"); False where unknown."""
    return feature in _features()


@functools.cache
def _features() -> frozenset[str]:
    try:
        with open(_DESCRIPTION) as file:
            lines = file.read()
    except OSError:
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", lines, re.MULTILINE)
    return frozenset(found[1].split() if found else ())
