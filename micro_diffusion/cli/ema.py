"""`micro-diffusion ema`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from micro_diffusion.cli.arguments import FILE, NUMBERS, POSITIVE, RUN
from micro_diffusion.files.run_folders import CONFIG_FILE, find_run

if TYPE_CHECKING:
    from torch import Tensor

Measure = Literal["loss", "composition", "none"]


@click.command(short_help="average a run's weights over other lengths, and find the best one")
@click.argument("run", type=RUN)
@click.option(
    "--length",
    "lengths",
    type=NUMBERS,
    required=True,
    help="Standard deviations of the moments averaged over, as shares of the training, such as 0.05,0.1,0.15.",
)
@click.option(
    "--measure",
    type=click.Choice(["loss", "composition", "none"]),
    default="loss",
    show_default=True,
    help="By which one is the best: the evaluation's loss, or whether images of shapes are right.",
)
@click.option("--data", type=FILE, help="Latents for the loss.  [default: those of the run's evaluations]")
@click.option("--count", type=POSITIVE, default=64, show_default=True, help="Images of each kind for the composition.")
@click.option("--device", help="cpu, cuda, cuda:1.  [default: cuda where there is one, else cpu]")
@click.option("--out", type=FILE, help="New run folder for the best average.")
@click.option("--replace", is_flag=True, help="Make the best average that of RUN itself, in place of its ema weights.")
def ema(
    run: str,
    lengths: list[float],
    measure: Measure,
    data: Path | None,
    count: int,
    device: str | None,
    out: Path | None,
    replace: bool,
) -> None:
    """Average the weights of RUN over other lengths than it was trained with, and find the best one.

    RUN was trained with algorithms=ema_lengths, which keeps the history of two averages; those of other lengths are
    combined of them by least squares (Karras et al. 2024, arXiv 2312.02696). `apart` is how far the best combination is
    from such an average, as a share; more snapshots bring it nearer.
    """
    _check(lengths, measure, data, out, replace)
    from micro_diffusion.checkpoint import WEIGHT_FILES, export_run, read_config, save_weights
    from micro_diffusion.files.weight_file import read_tensors
    from micro_diffusion.machine.device import usable_device
    from micro_diffusion.training.optimizers.average_lengths import averaged, snapshots

    folder = find_run(run)
    kept, whole = snapshots(folder), read_tensors(folder / WEIGHT_FILES["raw"])
    score = _score_of(measure, folder, read_config(folder), data, count, usable_device(device))
    best: tuple[float, float, Mapping[str, Tensor]] | None = None
    if score is not None and (folder / WEIGHT_FILES["ema"]).is_file():
        print(f"ema of the training: {measure} {score(read_tensors(folder / WEIGHT_FILES['ema'])):.4f}")
    for length in lengths:
        made, apart = averaged(kept, length)
        if unknown := sorted(made.keys() - whole.keys()):
            raise ValueError(
                f"{folder} keeps averages of {unknown[0]}, which its weights have not; those of adapters cannot be used"
            )
        weights = whole | made  # what is not trained is as it was
        found = 0.0 if score is None else score(weights)
        print(f"length {length:g}: apart {apart:.4f}" + ("" if score is None else f", {measure} {found:.4f}"))
        worth = -found if measure == "composition" else found
        if best is None or worth < best[0]:
            best = worth, length, weights
    assert best is not None
    if score is not None:
        print(f"best: {best[1]:g}")
    if out is not None:
        export_run(folder, out)
        (out / WEIGHT_FILES["raw"]).unlink(missing_ok=True)  # which it holds where the run has no average of its own
    if out is not None or replace:
        print(f"{save_weights(out or folder, best[2], 'ema')}: the average of length {best[1]:g}")


def _check(lengths: list[float], measure: Measure, data: Path | None, out: Path | None, replace: bool) -> None:
    """Raise ValueError for options that do not go together."""
    for length in lengths:
        if not 0 < length < 12**-0.5 or math.isnan(length):
            raise ValueError(f"--length has {length:g}; give lengths above 0 and below 0.289, such as 0.05,0.1,0.15")
    if data is not None and measure != "loss":
        raise ValueError(f"--data {data} has no effect with --measure {measure}; leave it out")
    if out is not None and (out / CONFIG_FILE).exists():
        raise FileExistsError(f"{out} is a run folder already; choose a new one, or remove it first")
    if out is not None and replace:
        raise ValueError("--out and --replace are two places for the average; give one of them")
    if measure == "none" and len(lengths) > 1 and (out is not None or replace):
        raise ValueError("--measure none finds no best one of several lengths; give one length")


def _score_of(
    measure: Measure, folder: Path, config: Mapping[str, Any], data: Path | None, count: int, device: Any
) -> Callable[[Mapping[str, Tensor]], float] | None:
    """Weights of the run's network -> the number that says how good they are."""
    if measure == "none":
        return None
    if measure == "loss":
        from micro_diffusion.training.config_checks.resolvers import register_resolvers
        from micro_diffusion.training.evaluation_loss import EvaluationLoss

        register_resolvers()
        return EvaluationLoss(config, data=data, device=device)
    from statistics import fmean

    from micro_diffusion.checkpoint import load_run, load_strictly
    from micro_diffusion.evaluation.report import composition_report
    from micro_diffusion.saved_cascade import pipeline_of

    run = load_run(folder, device=device)
    pipeline, prompts = pipeline_of(run), run.prompts

    def composition(weights: Mapping[str, Tensor]) -> float:
        load_strictly(run.backbone, weights, source="the average")
        report, _ = composition_report(
            lambda captions: pipeline.generate(
                captions, seed=prompts.seed, guidance_scale=prompts.guidance_scale, batch_size=64
            ),
            count=count,
            seed=prompts.seed,
        )
        return fmean(report["composition"].values())

    return composition
