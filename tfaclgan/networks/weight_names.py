"""Comparing an original's weights with a network's, and setting them only if all fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tfaclgan.errors import UserError

LISTED = 8  # names of each kind in an error
ADVICE = "give the sizes (width, downsamples, residual_blocks, layers, profile ...) the weights were trained with"


def check_names(source: str, network: str, missing: Iterable[str], extra: Iterable[str]) -> None:
    """UserError that lists the names which `source` lacks or has too many for `network`."""
    missing, extra = sorted(missing), sorted(extra)
    if missing or extra:
        lists = [f"{what}: {listed(names)}" for what, names in (("missing", missing), ("left over", extra)) if names]
        raise UserError(
            f"{source}: does not fit {network}: {len(missing)} weights missing, {len(extra)} left over "
            f"({'; '.join(lists)}); {ADVICE}"
        )


def assign(
    source: str,
    network: str,
    variables: Mapping[str, Any],
    values: Mapping[str, np.ndarray],
    officials: Mapping[str, str],
    state: Mapping[str, np.ndarray],
) -> None:
    """Sets `variables` {path: variable} from `values` of the same paths if all shapes are the same.

    Args:
        source: what to call the weights in an error (a file name).
        network: its name.
        variables: of the network, by path.
        values: in our order of axes, by path.
        officials: {path: official name}, for errors.
        state: {official name: array as in the file}, for errors.

    Raises:
        UserError: shapes differ (listed), or a weight is not finite; nothing is assigned then.
    """
    wrong = [
        f"{officials[path]} has shape {list(np.shape(state[officials[path]]))}, not that of {path} "
        f"{list(variables[path].shape)}"
        for path, value in values.items()
        if value.shape != tuple(variables[path].shape)
    ]
    if wrong:
        raise UserError(f"{source}: does not fit {network}: {listed(wrong)}; {ADVICE}")
    broken = [officials[path] for path, value in values.items() if not np.all(np.isfinite(value))]
    if broken:
        raise UserError(
            f"{source}: {listed(broken)} of {network} hold NaN or infinity: that training had diverged; "
            "use an earlier file of it"
        )
    for path, value in values.items():
        variables[path].assign(value)


def listed(names: list[str]) -> str:
    """The names, or the first few and how many more."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
