"""Several batches through one call of a network: one large call is cheaper than several small ones.

Right for networks without batch statistics, as all of the house are: they treat each image by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keras import ops

Tensor = Any


def join(groups: Iterable[Tensor]) -> Tensor:
    """Groups [b, ...] one after the other, [n * b, ...]; a single one as it is."""
    groups = list(groups)
    return ops.concatenate(groups) if len(groups) > 1 else groups[0]


def parts(joined: Tensor, count: int) -> list[Tensor]:
    """Undoes `join`: `count` equal groups."""
    return list(ops.split(joined, count)) if count > 1 else [joined]
