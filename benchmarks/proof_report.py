"""The page that benchmarks/proof.py writes: one HTML file, with curves as SVG and pictures, of what runs logged."""

from __future__ import annotations

import base64
import datetime
import html
import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any, Protocol

from tfaclgan import errors

Series = dict[str, list[tuple[float, float]]]

COLOURS = {"acl_gan": "#c0392b", "ugatit": "#1f618d", "munit": "#1e8449", "cyclegan": "#b9770e"}
OTHERS = ("#6c3483", "#117a65", "#873600", "#2e4053")
TITLES = {"acl_gan": "ACL-GAN", "ugatit": "U-GAT-IT light", "munit": "MUNIT", "cyclegan": "CycleGAN"}
ABOUT = {
    "glasses": "Faces with glasses to the same faces without. Test pictures have an exact answer.",
    "style": "Faces by one artist to faces by another. There is no right answer to compare with.",
    "hair": "Short hair, often a beard, to long hair without one. There is no right answer to compare with.",
}
# key: title, better, digits
METRICS = {
    "kid": ("KID", "lower", 4),
    "psnr": ("PSNR to the truth, dB", "higher", 2),
    "ssim": ("SSIM to the truth", "higher", 4),
    "region_l1": ("error inside the glasses", "lower", 4),
}
CHARTED = ("kid", "psnr", "ssim")
ENDINGS = {
    errors.EXIT_OK: "its last step",
    errors.EXIT_PREEMPTED: "its share of the time",
    errors.EXIT_NON_FINITE: "a step that was not finite",
}
STYLE = """body{font:15px/1.45 sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:3px 9px;text-align:right}
td:first-child,th:first-child{text-align:left}th{background:#f3f3f3}.facts td{text-align:left}
.charts{display:flex;flex-wrap:wrap;gap:12px}img{max-width:100%}.note{color:#555}"""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 384, 230, 52, 10, 26, 30


class Progress(Protocol):
    """What the page needs of `proof.Ledger`."""

    settings: dict[str, Any]
    seconds: dict[str, float]
    ended: dict[str, int]

    def total(self) -> float: ...


def page(
    output: str, tasks: list[str], methods: list[str], sheets: dict[str, str], progress: Progress, minutes: float
) -> str:
    """The whole page.

    Args:
        output: folder with the runs TASK/METHOD.
        tasks, methods: what was asked for; what is not there yet is said to be missing.
        sheets: of a task the PNG file of its translations.
        progress: settings, seconds used, exit codes.
        minutes: the budget.
    """
    runs = {(task, method): _Run(output, task, method, progress) for task in tasks for method in methods}
    parts = [f"<h1>Proof of training</h1>{_facts(runs, progress, minutes)}"]
    for task in tasks:
        of_task = {method: runs[task, method] for method in methods}
        parts.append(f"<h2>{html.escape(task)}</h2><p>{ABOUT.get(task, '')}</p>{_table(of_task)}")
        if task in sheets:
            parts.append(f'<p><img alt="input, translations, truth" src="{_data_uri(sheets[task])}"></p>')
        parts.append(f'<div class="charts">{"".join(_charts(of_task))}</div>')
    parts.append(_protocols(runs))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Proof of training</title><style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</html>\n"
    )


class _Run:
    """What a run directory holds for the page; everything is empty where it is not there."""

    def __init__(self, output: str, task: str, method: str, progress: Progress) -> None:
        from tfaclgan.training.monitor import logged_lines

        folder = os.path.join(output, task, method)
        self.seconds = progress.seconds.get(f"{task}/{method}", 0.0)
        self.ending = progress.ended.get(f"{task}/{method}")
        self.result = _json(os.path.join(folder, "evaluations", "proof", "metrics.json"))
        self.start = _json(os.path.join(folder, "environment.json")).get("starts", [{}])[-1]
        self.lines = list(logged_lines(folder))

    def curve(self, name: str) -> list[tuple[float, float]]:
        return [(line["step"], line[name]) for line in self.lines if line.get(name) is not None]

    def losses(self) -> Series:
        names = sorted({name for line in self.lines for name in line if name.endswith("/loss")})
        return {name.removesuffix("/loss"): self.curve(name) for name in names}

    def evaluations(self, metric: str) -> list[tuple[float, float]]:
        """Those on schedule, and the last one."""
        points = dict(self.curve(f"evaluation/{metric}"))
        if self.result and self.result["metrics"][metric] is not None:
            points[self.result["step"]] = self.result["metrics"][metric]
        return sorted(points.items())


def _facts(runs: dict[Any, _Run], progress: Progress, minutes: float) -> str:
    starts = [run.start for run in runs.values() if run.start]
    last = max(starts, key=lambda start: start["time"], default={})
    ended = sum(run.ending is not None for run in runs.values())
    commits = sorted({start["commit"] or "unknown" for start in starts})
    seconds = progress.seconds
    training = sum(run.seconds for run in runs.values())
    rows = {
        "written": datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z"),
        "runs": f"{ended} of {len(runs)} finished, {sum(bool(run.result) for run in runs.values())} judged",
        "time": f"{progress.total() / 60:.1f} of {minutes:g} minutes: drawing {seconds.get('drawing', 0) / 60:.1f}, "
        f"training (starts, compiling, evaluations on schedule) {training / 60:.1f}, "
        f"judging {seconds.get('judging', 0) / 60:.1f}; all starts together",
        "devices": ", ".join(sorted({start["devices"] for start in starts})) or "none yet",
        "GPU": _gpus(),
        "machine": last.get("machine", ""),
        "settings": ", ".join(f"{name} {value}" for name, value in progress.settings.items()),
        "versions": ", ".join(f"{name} {version}" for name, version in last.get("packages", {}).items())
        + (f", Python {last['python']}" if last else ""),
        "commit": ", ".join(commits),
    }
    cells = "".join(f"<tr><td>{k}</td><td>{html.escape(str(v))}</td></tr>" for k, v in rows.items() if v)
    return f'<table class="facts">{cells}</table>'


def _gpus() -> str:
    """The models of NVIDIA's cards as their driver names them; "" without one."""
    if not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return "; ".join(answer.stdout.split("\n")[:-1]) if answer.returncode == 0 else ""


def _table(runs: dict[str, _Run]) -> str:
    """Final figures, the untouched input's first."""
    first: dict[str, Any] = next((run.result for run in runs.values() if run.result), {})
    keys = [key for key in METRICS if not first or first["untouched"].get(key) is not None]
    head = [
        "",
        "data iterations",
        "minutes",
        "images/s",
        "ended by",
        *(f"{METRICS[k][0]} ({METRICS[k][1]} is better)" for k in keys),
    ]
    rows = []
    if first:
        rows.append(["input untouched", "", "", "", "", *(_figure(first["untouched"], key) for key in keys)])
    for method, run in runs.items():
        rates = [value for _, value in run.curve("throughput/images_per_second") if value]
        steps = run.result.get("step") or (run.lines[-1]["step"] if run.lines else 0)
        figures = [_figure(run.result["metrics"], key) if run.result else "not judged yet" for key in keys]
        ended = "not yet" if run.ending is None else ENDINGS.get(run.ending, str(run.ending))
        rate = f"{sorted(rates)[len(rates) // 2]:.1f}" if rates else ""
        rows.append([TITLES.get(method, method), f"{steps:,}", f"{run.seconds / 60:.1f}", rate, ended, *figures])
    lines = [f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table><tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>{''.join(lines)}</table>"


def _figure(values: dict[str, float | None], key: str) -> str:
    value, error = values.get(key), values.get("kid_standard_error") if key == "kid" else None
    if value is None:
        return "–"
    return f"{value:.{METRICS[key][2]}f}" + (f" ± {error:.4f}" if error is not None else "")


def _charts(runs: dict[str, _Run]) -> Iterator[str]:
    for metric in CHARTED:
        series = {TITLES.get(method, method): run.evaluations(metric) for method, run in runs.items()}
        colours = {TITLES.get(method, method): COLOURS.get(method, OTHERS[0]) for method in runs}
        level = next((run.result["untouched"][metric] for run in runs.values() if run.result), None)
        if any(series.values()):
            yield chart(f"{METRICS[metric][0]} by data iteration", series, colours, level)
    for method, run in runs.items():
        losses = run.losses()
        if any(losses.values()):
            yield chart(f"{TITLES.get(method, method)}: losses by data iteration", losses, dict(zip(losses, OTHERS)))


def chart(title: str, series: Series, colours: dict[str, str], level: float | None = None) -> str:
    """Lines through (step, value) as an SVG; `level`: a dashed line, the untouched input's value."""
    values = [y for points in series.values() for _, y in points] + ([] if level is None else [level])
    last = max(x for points in series.values() for x, _ in points) or 1
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + plot_width * x / last, TOP + plot_height * (high - y) / (high - low)

    parts = [f'<text x="{LEFT}" y="15" font-weight="bold">{html.escape(title)}</text>']
    for y in _ticks(low, high):
        _, row = at(0, y)
        parts.append(f'<path d="M{LEFT} {row:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{row + 4:.1f}" text-anchor="end">{y:.4g}</text>')
    for x in _ticks(0, last):
        column, _ = at(x, low)
        parts.append(f'<text x="{column:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{x:,.0f}</text>')
    if level is not None:
        _, row = at(0, level)
        parts.append(f'<path d="M{LEFT} {row:.1f}H{WIDTH - RIGHT}" stroke="#222" stroke-dasharray="5 4"/>')
    for name, points in series.items():
        places = [at(x, y) for x, y in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colours[name]}" stroke-width="1.6"/>')
        if len(places) <= 30:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4" fill="{colours[name]}"/>' for x, y in places]
    legend = [*((name, colours[name], "") for name, points in series.items() if points)]
    legend += [] if level is None else [("untouched", "#222", "3 2")]
    parts += _legend(legend)
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT + 18}" viewBox="0 0 {WIDTH} {HEIGHT + 18}" '
        f'font-family="sans-serif" font-size="11">{"".join(parts)}</svg>'
    )


def _legend(entries: list[tuple[str, str, str]]) -> Iterator[str]:
    x = 4.0
    for name, colour, dashes in entries:
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        yield f'<path d="M{x:.0f} {HEIGHT + 6}h12" stroke="{colour}" stroke-width="2"{dashed}/>'
        yield f'<text x="{x + 15:.0f}" y="{HEIGHT + 10}" font-size="10">{html.escape(name)}</text>'
        x += 23 + 5.8 * len(name)


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers between two."""
    step = 10.0 ** math.floor(math.log10((high - low) / 2.5))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= 5)
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _protocols(runs: dict[Any, _Run]) -> str:
    """How the figures were measured; what differs between tasks stands once for each value."""
    found: dict[str, list[str]] = {}
    for run in runs.values():
        for name, value in run.result.get("protocol", {}).items():
            if value is not None and str(value) not in found.setdefault(name, []):
                found[name].append(str(value))
    if not found:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(', '.join(values))}</td></tr>"
        for name, values in found.items()
        if values
    )
    return (
        "<h2>Protocol of the figures</h2><p>All test pictures of domain A are translated once and judged; on schedule "
        "(the curves' inner points) and at the end alike. The dashed line and the table's first row are the same "
        "measurement of the inputs as they are. Weights are the moving averages. docs/metrics.md says what each is.</p>"
        f'<table class="facts">{rows}</table>'
    )


def _data_uri(path: str) -> str:
    with open(path, "rb") as file:
        return "data:image/png;base64," + base64.b64encode(file.read()).decode()


def _json(path: str) -> dict[str, Any]:
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)
