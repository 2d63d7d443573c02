"""A result of `metrics.evaluate` as a table and as a file."""

from __future__ import annotations

import json
import os
import uuid
from typing import Any

from tfaclgan.data import remote

# key: title, unit, which way is better, decimals
_ROWS: dict[str, tuple[str, str, str, int]] = {
    "kid": ("KID", "", "lower", 4),
    "kid_standard_error": ("KID standard error", "", "", 4),
    "kid_blocks_of_10": ("KID, blocks of 10", "", "lower", 4),
    "kid_blocks_of_10_standard_error": ("  standard error", "", "", 4),
    "kid_ugatit_mean": ("U-GAT-IT's mean KID", "", "lower", 4),
    "kid_ugatit_mean_standard_error": ("  standard error", "", "", 4),
    "kid_ugatit_average": ("U-GAT-IT's average KID", "", "lower", 4),
    "kid_ugatit_average_standard_error": ("  standard error", "", "", 4),
    "fid": ("FID", "", "lower", 2),
    "is": ("IS", "", "higher", 3),
    "psnr": ("PSNR", "dB", "higher", 2),
    "ssim": ("SSIM", "", "higher", 4),
    "l1": ("L1", "of [-1, 1]", "lower", 4),
    "region_l1": ("L1 inside {region}", "of [-1, 1]", "lower", 4),
    "diversity": ("diversity, features", "", "higher", 4),
    "diversity_l1": ("diversity, pixels", "of [-1, 1]", "higher", 4),
}
_ARROWS = {"lower": "\u2193", "higher": "\u2191", "": " "}
FILE_NAME = "metrics.json"


def format_table(result: dict[str, Any]) -> str:
    """The result as lines for a console: translated and untouched side by side.

    An arrow says which way is better. Metrics that could not be had (no ground truth, one style)
    are left out.
    """
    protocol = result["protocol"]
    region = protocol.get("region") or "region"
    rows = [("metric", "unit", "", "translated", "untouched")]
    for key, (title, unit, better, decimals) in _ROWS.items():
        values = (result["metrics"].get(key), result["untouched"].get(key))
        if values != (None, None):
            shown = ["-" if value is None else f"{value:.{decimals}f}" for value in values]
            rows.append((title.format(region=region), unit, _ARROWS[better], *shown))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if at < 3 else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells))
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([*_headline(protocol), *lines])


def write_result(result: dict[str, Any], folder: str, name: str = FILE_NAME) -> str:
    """Writes the result as JSON into `folder` (made if missing, local or remote), whole or not at all.

    Returns:
        The file's path.
    """
    from tensorflow.io import gfile

    text = json.dumps(result, indent=1, sort_keys=True, allow_nan=False) + "\n"
    path = os.path.join(folder, name)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    with remote.errors_of(folder):
        gfile.makedirs(folder)
        with gfile.GFile(temporary, "w") as file:
            file.write(text)
        gfile.rename(temporary, path, overwrite=True)
    return path


def _headline(protocol: dict[str, Any]) -> list[str]:
    lines = [
        f"{protocol['data']} {protocol['direction']}: {protocol['count_generated']} images of {protocol['split']}, "
        f"{protocol['styles']} style{'s' if protocol['styles'] > 1 else ''}, seed {protocol['seed']}"
    ]
    if protocol.get("extractor"):
        network = f"{protocol['extractor']} {protocol['extractor_sha256'][:12]}"
        lines.append(
            f"features: {network}, {protocol['feature_size']} px {protocol['feature_resize']}; "
            f"reference: {protocol['count_real']} images of {protocol['reference_split']}; "
            f"KID in {protocol['kid_blocks']} blocks of {protocol['kid_block_size']}"
        )
    return lines
