"""Evaluation losses over compute, as images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from micro_diffusion.lab.comparison import mean
from micro_diffusion.lab.results import Result


def draw_curves(path: Path, runs: Mapping[str, Sequence[Result]]) -> None:
    """A line for each experiment: the mean over its seeds, within a band of one standard error.

    Runs of an experiment are evaluated after the same shares of their budget.
    """
    from matplotlib import rcParamsDefault
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colors = rcParamsDefault["axes.prop_cycle"].by_key()["color"]
    axes.set_prop_cycle(color=3 * colors, linestyle=[style for style in ("-", "--", ":") for _ in colors])
    for name, mine in runs.items():
        points = list(zip(*(run.curve for run in mine), strict=False))
        across = [point[0].flops / 1e12 for point in points]
        losses = [mean([one.loss for one in point]) for point in points]
        (line,) = axes.plot(across, [loss.value for loss in losses], label=f"{name} ({len(mine)})", linewidth=1.2)
        if len(mine) > 1:
            low, high = ([loss.value + sign * loss.error for loss in losses] for sign in (-1, 1))
            axes.fill_between(across, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_xlabel("TFLOP")
    axes.set_ylabel("evaluation loss")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:.2f}")
    axes.yaxis.set_minor_formatter("{x:.2f}")
    axes.grid(visible=True, which="both", linewidth=0.3)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
