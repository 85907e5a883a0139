"""One or several runs as one HTML page that stands alone: losses, scores over steps, sweeps, and grids through time."""

from __future__ import annotations

import base64
import io
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from micro_diffusion.evaluation.line_chart import colour, line_chart
from micro_diffusion.files.json_text import parse_json, whole_lines

GRIDS = 6
"""Sample grids of a run that are shown, from its first to its last."""

GRID_WIDTH = 640
SWEPT = ("guidance_scale", "steps")
LOWER_IS_BETTER = ("loss", "fid", "kid", "cmmd", "fd_", "error")

Curve = list[tuple[float, float]]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1340px; padding: 0 1rem; color: #222 }
figure { margin: 0 0 1rem; min-width: 0 }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(400px, 100%), 1fr)); gap: 1rem }
.grids { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(480px, 100%), 1fr)); gap: 1rem }
.grids img { max-width: 100%; border: 1px solid #ddd }
figcaption { font-weight: 600 } svg { width: 100% } svg text { font: 10px system-ui, sans-serif; fill: #555 }
.tables { overflow-x: auto } table { border-collapse: collapse }
th, td { padding: 0.2rem 0.8rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
"""


@dataclass(frozen=True)
class RunRecord:
    """What a run folder tells of its training.

    curves: by name, (step, value). evaluations: reports of `evaluate`. grids: by step, files of samples.
    """

    name: str
    curves: dict[str, Curve]
    evaluations: list[dict[str, Any]]
    grids: dict[int, Path]


def read_run(folder: Path) -> RunRecord:
    """What is in `metrics.jsonl`, in `evaluations/*.json` and in `samples/step_*.png` of a run folder.

    Raises:
        ValueError: when there is nothing of all that.
    """
    curves: defaultdict[str, Curve] = defaultdict(list)
    for entry in whole_lines(folder / "metrics.jsonl"):
        if (step := entry.pop("step", None)) is not None:
            for name, value in entry.items():
                curves[name].append((float(step), float(value)))
    evaluations = [_evaluation(path) for path in sorted((folder / "evaluations").glob("*.json"))]
    grids = {int(path.stem.removeprefix("step_")): path for path in sorted((folder / "samples").glob("step_*.png"))}
    if not curves and not evaluations and not grids:
        raise ValueError(f"{folder} has no metrics.jsonl, evaluations or samples to report; train it first")
    return RunRecord(folder.resolve().name, dict(curves), evaluations, grids)


def _evaluation(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise ValueError(f"{path} is no report of an evaluation ({error}); remove it") from error
    return content


def run_page(runs: Sequence[RunRecord]) -> str:
    """The page, as text.

    Runs of the same name are numbered. Every chart shows all runs that have its number.
    """
    names = _names(runs)
    title = " and ".join(names) if len(names) < 3 else f"{len(names)} runs"
    keys = sorted({name for run in runs for name in run.curves})
    shown = [name for name in keys if name.split("/")[0] in ("loss", "metrics", "images")]
    parts = [f"<h1>{escape(title)}</h1>", _legend(names) if len(names) > 1 else ""]
    for heading, group in (
        ("Losses", [name for name in shown if not name.startswith("images/")]),
        ("Scores of images", [name for name in shown if name.startswith("images/")]),
    ):
        parts += _section(heading, [_curves(name, names, runs) for name in group])
    parts += _section("Sweeps", _sweeps(names, runs))
    parts += _section("Evaluations", [_table(name, run) for name, run in zip(names, runs, strict=True)], "tables")
    for name, run in zip(names, runs, strict=True):
        parts += _grids(name, run)
    others = [_curves(name, names, runs) for name in keys if name not in shown]
    if any(others):
        parts.append(
            f'<details><summary>Everything else</summary><div class="charts">{"".join(others)}</div></details>'
        )
    view = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f"{view}<title>{escape(title)}</title><style>{STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _names(runs: Sequence[RunRecord]) -> list[str]:
    plain = [run.name for run in runs]
    return [f"{name} ({i + 1})" if plain.count(name) > 1 else name for i, name in enumerate(plain)]


def _legend(names: Sequence[str]) -> str:
    return (
        "<p>" + " · ".join(f'<b style="color:{colour(i)}">{escape(name)}</b>' for i, name in enumerate(names)) + "</p>"
    )


def _section(heading: str, figures: Sequence[str], kind: str = "charts") -> list[str]:
    there = "".join(figures)
    return [f'<h2>{heading}</h2><div class="{kind}">{there}</div>'] if there else []


def _figure(title: str, chart: str, note: str = "") -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{chart}{escape(note)}</figure>"


def _curves(key: str, names: Sequence[str], runs: Sequence[RunRecord]) -> str:
    """A chart of one number; empty when no run has a finite one. A run keeps its colour, so it keeps its place."""
    lines = {name: run.curves.get(key, []) for name, run in zip(names, runs, strict=True)}
    finite = sum(math.isfinite(value) for curve in lines.values() for _, value in curve)
    lost = sum(map(len, lines.values())) - finite
    best = direction(key) if key.startswith("images/") else None
    return (
        _figure(key, line_chart(key, lines, best=best), f"{lost} values are not finite" * bool(lost)) if finite else ""
    )


def direction(key: str) -> str:
    """Whether a number is better when "low" or "high"."""
    return "low" if any(word in key for word in LOWER_IS_BETTER) else "high"


def _sweeps(names: Sequence[str], runs: Sequence[RunRecord]) -> list[str]:
    """A chart for each score and each setting that evaluations of a run differ in, all else being equal."""
    charts: defaultdict[tuple[str, str], dict[str, Curve]] = defaultdict(dict)
    for name, run in zip(names, runs, strict=True):
        for swept in SWEPT:
            groups: defaultdict[str, list[tuple[float, dict[str, float]]]] = defaultdict(list)
            for report in run.evaluations:
                settings = report.get("settings", {})
                if isinstance(settings.get(swept), int | float):
                    rest = {key: value for key, value in settings.items() if key != swept}
                    groups[json.dumps(rest, sort_keys=True)].append((settings[swept], _scores(report)))
            groups = defaultdict(list, {key: points for key, points in groups.items() if len(dict(points)) > 1})
            for number, points in enumerate(groups.values()):
                for score in sorted({key for _, scores in points for key in scores}):
                    line = sorted((at, scores[score]) for at, scores in points if score in scores)
                    charts[score, swept][name if number == 0 else f"{name}, other settings {number}"] = line
    return [
        _figure(f"{score} over {swept}", line_chart(score, lines, best=direction(score), across=swept))
        for (score, swept), lines in sorted(charts.items())
        if any(math.isfinite(value) for line in lines.values() for _, value in line)
    ]


def _scores(report: dict[str, Any]) -> dict[str, float]:
    """The numbers of a report of `evaluate`, whichever kind it is."""
    found = {}
    for group in ("composition", "psnr_db", "scores"):
        for name, value in (report.get(group) or {}).items():
            values = {name: value} if isinstance(value, int | float) else value if isinstance(value, dict) else {}
            found |= {f"{group}/{key}" if group != "scores" else key: float(v) for key, v in values.items()}
    return found


def _table(name: str, run: RunRecord) -> str:
    """A row for each evaluation, a column for each score that any of them has."""
    scores = [_scores(report) for report in run.evaluations]
    columns = list(dict.fromkeys(key for one in scores for key in one))
    rows = []
    for report, one in zip(run.evaluations, scores, strict=True):
        cells = [str(report.get("settings", {}).get(swept, "")) for swept in SWEPT]
        cells += [f"{one[key]:.4g}" if key in one else "" for key in columns]
        rows.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    head = "".join(f"<th>{escape(title)}</th>" for title in (*SWEPT, *columns))
    table = "".join(f"<tr>{row}</tr>" for row in (head, *rows))
    return _figure(name, f"<table>{table}</table>") if rows else ""


def _grids(name: str, run: RunRecord) -> list[str]:
    """Some of a run's grids, the first and the last among them."""
    steps = sorted(run.grids)
    count = min(GRIDS, len(steps))
    chosen = [steps[round(i * (len(steps) - 1) / max(count - 1, 1))] for i in range(count)]
    figures = [_figure(f"step {step:,}", _image(run.grids[step], f"samples at step {step}")) for step in chosen]
    return [f'<h2>Samples of {escape(name)}</h2><div class="grids">{"".join(figures)}</div>'] if figures else []


def _image(path: Path, said: str) -> str:
    """An image within the page, shrunk to what it shows."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if image.width > GRID_WIDTH:
        image = image.resize((GRID_WIDTH, round(image.height * GRID_WIDTH / image.width)), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return f'<img alt="{escape(said)}" src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'
