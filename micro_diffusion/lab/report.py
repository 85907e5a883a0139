"""The page of the lab: its tables and curves, made of the results, between two marks in a text written by hand."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from micro_diffusion.files.whole_file import whole_file
from micro_diffusion.lab.comparison import Difference, difference, holm, mean, verdict
from micro_diffusion.lab.curves import draw_curves
from micro_diffusion.lab.experiments import read_experiment
from micro_diffusion.lab.results import Point, Result, read
from micro_diffusion.lab.sampled import images_table, scored, scored_sentence
from micro_diffusion.lab.words import Runs, finding, made, markdown_table, p_value, signed

TOGETHER = timedelta(hours=1)
"""Runs that ended further apart are not compared by their seconds: a shared machine was another one by then."""

MARKS = ("<!-- made by scripts/lab.py report -->", "<!-- end of what scripts/lab.py report makes -->")


class Compared(NamedTuple):
    """An experiment beside its parent.

    flops, seconds, images: difference of the evaluation loss when both have spent as many. adjusted: Holm's p of the
    first, among all experiments of the table.
    """

    name: str
    flops: Difference
    seconds: Difference
    images: Difference
    adjusted: float

    @property
    def verdict(self) -> str:
        """What may be said of it."""
        return verdict(self.flops, self.adjusted)


def write_report(results: Path, page: Path, experiments: Path, *, heads: bool = True) -> None:
    """Write tables and curves into the page, and with `heads` what was found into the head of each experiment's file.

    Raises:
        ValueError: when there are no results, or the page has no marks.
    """
    everything = read(results)
    if not everything:
        raise ValueError(f"there are no results in {results}; make some with: python scripts/lab.py run base")
    lines: list[str] = []
    said: defaultdict[str, list[str]] = defaultdict(list)
    tables = sorted({(result.bench, result.budget) for result in everything})
    for bench, budget in tables:
        runs = by_experiment([r for r in everything if (r.bench, r.budget) == (bench, budget) and r.error is None])
        check_comparable(runs)
        sampled = {name: each for name, each in runs.items() if next(iter(each.values())).training is not None}
        trained = {name: each for name, each in runs.items() if name not in sampled}
        compared = comparisons(trained)
        lines += [f"### {bench}, {budget / 1e12:g} TFLOP", "", *table(trained, compared), ""]
        if sampled:
            lines += [*images_table(runs, sampled), ""]
        for part, names in parts(trained, experiments).items():
            image = page.parent / "images" / f"{page.stem}_{bench}_{budget / 1e12:g}_{part}.png"
            draw_curves(image, {name: list(runs[name].values()) for name in names})
            lines += [f"![{part}]({image.relative_to(page.parent).as_posix()})", ""]
        for row in compared:
            said[row.name].append(sentence(runs, row))
        for row in scored(runs, sampled):
            said[row.name].append(scored_sentence(runs, row))
    for name, sentences in said.items() if heads else ():
        write_result(experiments / f"{name}.yaml", sentences)
    lines += [*failures(everything), *provenance(everything)]
    write_between_marks(page, "\n".join(lines))


def by_experiment(results: Sequence[Result]) -> dict[str, dict[int, Result]]:
    """Results by experiment and seed, the last of what was run again.

    Raises:
        ValueError: for an experiment that was run with one seed in two forms.
    """
    found: defaultdict[str, dict[int, Result]] = defaultdict(dict)
    for result in results:
        other = found[result.experiment].setdefault(result.seed, result)
        if other.key != result.key:
            raise ValueError(
                f"{result.experiment}, seed {result.seed}, of {other.date} is not as that of {result.date}: its file "
                "or the overrides were others; keep the earlier one in a file of its own"
            )
        found[result.experiment][result.seed] = result
    return dict(found)


def check_comparable(runs: Mapping[str, Runs]) -> None:
    """Raise ValueError for runs of one table that other overrides, or an earlier `base`, set apart."""
    found: defaultdict[str, list[Result]] = defaultdict(list)
    for mine in runs.values():
        for run in mine.values():
            found[run.ground].append(run)
    if len(found) > 1:
        first, second, *_ = (runs[0] for runs in found.values())
        raise ValueError(
            f"{first.experiment} of {first.date} and {second.experiment} of {second.date}, {made([first])}, do not "
            "compare: base or the overrides were others; keep the earlier ones in a file of their own"
        )


def comparisons(runs: Mapping[str, Runs]) -> list[Compared]:
    """Every experiment whose parent was run, too."""
    rows = []
    for name, ours in runs.items():
        parent = next(iter(ours.values())).parent
        if parent is not None and parent in runs:
            theirs = runs[parent]
            seconds = _difference_at(*side_by_side(ours, theirs), lambda point: point.processor)
            flops = _difference_at(ours, theirs, lambda point: point.flops)
            rows.append((name, flops, seconds, _difference_at(ours, theirs, lambda point: point.images)))
    adjusted = holm([row[1].welch for row in rows])
    return [Compared(*row, adjusted=p) for row, p in zip(rows, adjusted, strict=True)]


HEADING = (
    "experiment", "seeds", "images", "processor", "loss", "against", "Δ at equal FLOPs", "p", "p paired", "verdict",
    "Δ at equal seconds", "Δ at equal images",
)  # fmt: skip


def side_by_side(ours: Runs, theirs: Runs) -> tuple[Runs, Runs]:
    """The seeds of which both runs ended within `TOGETHER`: what else a machine did is no part of a comparison."""
    ends = [{seed: datetime.fromisoformat(run.date) for seed, run in runs.items()} for runs in (ours, theirs)]
    seeds = [seed for seed in ours.keys() & theirs.keys() if abs(ends[0][seed] - ends[1][seed]) <= TOGETHER]
    return {seed: ours[seed] for seed in seeds}, {seed: theirs[seed] for seed in seeds}


def _difference_at(ours: Runs, theirs: Runs, axis: Callable[[Point], float]) -> Difference:
    """Of the losses where the shortest run ends; nan where there are no runs."""
    end = min((axis(run.last) for run in (*ours.values(), *theirs.values())), default=math.nan)
    a, b = ({seed: loss_at(run.curve, end, axis) for seed, run in runs.items()} for runs in (ours, theirs))
    return difference(a, b)


def loss_at(curve: Sequence[Point], place: float, axis: Callable[[Point], float]) -> float:
    """The loss between two evaluations, as a power of what was spent; nan before the first, the last beyond it."""
    for before, after in itertools.pairwise(curve):
        if axis(before) <= place <= axis(after):
            share = math.log(place / axis(before)) / math.log(axis(after) / axis(before))
            return before.loss * (after.loss / before.loss) ** share
    return curve[-1].loss if place >= axis(curve[-1]) else math.nan


def table(runs: Mapping[str, Runs], compared: Sequence[Compared]) -> list[str]:
    """One row an experiment, the best difference first, after those that are compared with nothing."""
    rows = {row.name: row for row in compared}
    order = sorted(runs, key=lambda name: rows[name].flops.of.value if name in rows else -math.inf)
    kinds = list(dict.fromkeys(kind for mine in runs.values() for run in mine.values() for kind in run.scores))
    heading = [*HEADING, *(kind.replace("_", " ") for kind in kinds)]
    lines = []
    for name in order:
        mine = list(runs[name].values())
        seconds = mean([run.last.processor for run in mine])
        cells = [name, str(len(mine)), f"{mine[0].last.images:,}", f"{seconds.value:.0f} s"]
        cells.append(f"{mean([run.last.loss for run in mine]):.4f}")
        if (row := rows.get(name)) is None:
            cells += [""] * 7
        else:
            cells += [mine[0].parent or "", signed(row.flops), p_value(row.flops.welch), p_value(row.flops.paired)]
            cells += [row.verdict, signed(row.seconds), signed(row.images)]
        told = [[run.scores[kind] for run in mine if kind in run.scores] for kind in kinds]
        cells += [f"{mean(values):.2f}" if values else "" for values in told]
        lines.append(cells)
    return markdown_table(heading, lines)


def parts(runs: Mapping[str, Runs], experiments: Path) -> dict[str, list[str]]:
    """What is drawn together: the experiments that change the same part of a training, and what they started from."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in runs:
        told = read_experiment(experiments / f"{name}.yaml")
        if told.parent is not None:
            together = found[told.says["Changes"].partition(".")[0]]
            together += [other for other in (told.parent, name) if other in runs and other not in together]
    return dict(found)


def sentence(runs: Mapping[str, Runs], row: Compared) -> str:
    """The result of an experiment in a line."""
    mine = list(runs[row.name].values())
    loss = mean([run.last.loss for run in mine])
    return finding(mine, f"loss {loss:.4f}", row.flops, row.flops.welch, row.verdict)


def write_result(path: Path, sentences: Sequence[str]) -> None:
    """Set what `# Result:` says in the head of an experiment's file: a line for each bench and budget."""
    content = path.read_text(encoding="utf-8")
    text = "\n#             ".join(sentences)
    written = re.sub(
        r"^# Result:.*(\n# {2,}.*)*$", lambda _: f"# Result:     {text}", content, count=1, flags=re.MULTILINE
    )
    if written != content:
        with whole_file(path) as unfinished:
            unfinished.write_text(written, encoding="utf-8")


def failures(results: Sequence[Result]) -> list[str]:
    """The runs that failed, each with its reason."""
    lost = [run for run in results if run.error is not None]
    lines = [f"- {run.experiment}, seed {run.seed}, {run.budget / 1e12:g} TFLOP: {run.error}" for run in lost]
    return [f"Runs: {len(results)}, of which failed: {len(lost)}.", "", *lines, *([""] if lines else [])]


def provenance(results: Sequence[Result]) -> list[str]:
    """Of what code and machine the results are."""
    days = sorted({run.date.partition(" ")[0] for run in results})
    said = [", ".join(sorted({getattr(run, name) for run in results})) for name in ("commit", "machine")]
    return [f"Trained from {days[0]} to {days[-1]}, with the code of {said[0]}, on {said[1]}."]


def write_between_marks(page: Path, text: str) -> None:
    """Replace what stands between the marks of a page.

    Raises:
        ValueError: for a page without them.
    """
    content = page.read_text(encoding="utf-8") if page.is_file() else ""
    first, last = (content.find(mark) for mark in MARKS)
    if not 0 <= first < last:
        raise ValueError(f"{page} lacks the marks between which the report goes; add the lines {MARKS[0]} {MARKS[1]}")
    with whole_file(page) as unfinished:
        unfinished.write_text(f"{content[: first + len(MARKS[0])]}\n\n{text}\n\n{content[last:]}", encoding="utf-8")
