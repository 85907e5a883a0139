"""`micro-diffusion score`, and the options of every command that scores images by their features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from micro_diffusion.cli.arguments import FILE, POSITIVE, ConfigName
from micro_diffusion.files.configs import configs_folder
from micro_diffusion.files.outputs import check_output_file

if TYPE_CHECKING:
    from micro_diffusion.evaluation.metrics import ImageMetrics
    from micro_diffusion.evaluation.protocol import Protocol


@dataclass(frozen=True)
class ScoreOptions:
    """What the command line says about scoring; None is the protocol's or network's own choice."""

    metrics: str | None
    reference: Path | None
    protocol: str
    networks: Path
    features: str | None
    size: int | None
    statistics: Path


_OPTIONS = (
    click.option("--metrics", metavar="NAME,…", help="fid, kid, precision_recall, fd_dinov2, cmmd, clip_score."),
    click.option("--reference", type=FILE, help="Real images: a folder of files or of MDS, or a file of statistics."),
    click.option(
        "--protocol", type=ConfigName("evaluation"), default="plain", show_default=True, help="Of published numbers."
    ),
    click.option("--networks", type=FILE, default="feature_networks", show_default=True, help="Folder of their files."),
    click.option(
        "--features", help="One network for all: inception, dinov2, clip, random_conv.  [default: each its own]"
    ),
    click.option("--size", type=POSITIVE, help="Cut to a square and resize all images.  [default: the protocol's]"),
    click.option(
        "--statistics",
        type=FILE,
        default="~/.cache/micro_diffusion/statistics",
        show_default=True,
        help="Where features of real images are kept.",
    ),
)


def score_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command all these options, as one `scoring`."""
    names = [field.name for field in fields(ScoreOptions)]

    @wraps(command)
    def gathered(**given: Any) -> Any:
        return command(scoring=ScoreOptions(**{name: given.pop(name) for name in names}), **given)

    for option in reversed(_OPTIONS):
        gathered = option(gathered)
    return gathered


@click.command(short_help="score a folder of images")
@click.argument("folder", metavar="FOLDER", type=FILE)
@score_options
@click.option("--device", help="Of the feature networks.  [default: cuda where there is one, else cpu]")
@click.option("--out", type=FILE, required=True, help="JSON file for the scores.")
def score(folder: Path, scoring: ScoreOptions, device: str | None, out: Path) -> None:
    """Score the images of FOLDER, which `evaluate --out-images` has made, or another program.

    Its prompts.jsonl names the images and their prompts; a folder without one is scored whole, except by clip_score.
    """
    from micro_diffusion.evaluation.image_folder import ImageFiles, Preparation
    from micro_diffusion.evaluation.image_set import PROMPTS, read_set

    check_output_file(out, endings=[".json"], content="the file of scores")
    metrics, _ = metrics_of(scoring, device)
    if (folder / PROMPTS).is_file() or "clip_score" in metrics.metrics:
        files, prompts = read_set(folder)
    else:
        found = ImageFiles(folder, Preparation())
        files, prompts = [str(path.relative_to(folder)) for path in found.paths], []
    write_scores(metrics, folder, files, prompts, out, {})


def metrics_of(scoring: ScoreOptions, device: str | None) -> tuple[ImageMetrics, Protocol]:
    """The metrics that the options ask for, and the protocol."""
    from micro_diffusion.cli.runs import usable_device
    from micro_diffusion.evaluation.metrics import ImageMetrics
    from micro_diffusion.evaluation.protocol import find_protocol

    protocol = find_protocol(scoring.protocol, configs_folder())
    names: Any = protocol.metrics if scoring.metrics is None else [name.strip() for name in scoring.metrics.split(",")]
    metrics = ImageMetrics(
        metrics=names,
        reference=None if scoring.reference is None else str(scoring.reference),
        networks=str(scoring.networks),
        features=scoring.features,
        size=scoring.size or protocol.size,
        filter=protocol.filter,
        cache=str(scoring.statistics),
        device=str(usable_device(device)),
    )
    return metrics, protocol


def write_scores(
    metrics: ImageMetrics, folder: Path, files: list[str], prompts: list[str], out: Path, description: dict[str, Any]
) -> None:
    """Score the images and write the numbers with what they depend on."""
    from micro_diffusion.evaluation.report import write_report

    scores = metrics.of_folder(folder, files, prompts)
    write_report({"scores": scores, "images": len(files), **metrics.described(), **description}, out)
    print(f"{out}: {said(scores)}; {len(files)} images in {folder}")


def said(scores: dict[str, float]) -> str:
    """Scores in one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
