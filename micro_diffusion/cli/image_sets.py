"""The part of `micro-diffusion evaluate` that generates an image for every prompt of a file, and scores the folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from micro_diffusion.cli.arguments import FILE
from micro_diffusion.cli.options import GenerationOptions
from micro_diffusion.cli.score import ScoreOptions, metrics_of, said, write_scores

if TYPE_CHECKING:
    from torch import Tensor

    from micro_diffusion.evaluation.layouts import DPG, GenEval

Make = Callable[[Sequence[str], int], "Tensor"]


@dataclass(frozen=True)
class SetOptions:
    """What the command line says about a set of images."""

    prompts: Path | None
    out_images: Path | None
    share: str | None
    benchmark: str | None
    evaluator: Path | None


_OPTIONS = (
    click.option("--prompts", type=FILE, help="Score an image of each prompt of a .txt, .jsonl or COCO's .json file."),
    click.option("--out-images", type=FILE, help="Folder for those images; an interrupted command goes on there."),
    click.option("--share", metavar="K/N", help="Generate the K-th of N shares alone, K from 0, and score nothing."),
    click.option("--benchmark", type=click.Choice(["geneval", "dpg"]), help="Whose --prompts they are."),
    click.option("--evaluator", type=FILE, help="Checkout of the benchmark's own evaluator, which is then run."),
)


def set_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command all these options, as one `image_set`."""
    names = [field.name for field in fields(SetOptions)]

    @wraps(command)
    def gathered(**given: Any) -> Any:
        return command(image_set=SetOptions(**{name: given.pop(name) for name in names}), **given)

    for option in reversed(_OPTIONS):
        gathered = option(gathered)
    return gathered


def check_unused(image_set: SetOptions, scoring: ScoreOptions) -> None:
    """Raise ValueError when an option is given that has no effect without --prompts."""
    given = {
        **vars(image_set),
        "metrics": scoring.metrics,
        "reference": scoring.reference,
        "features": scoring.features,
    }
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"--{name.replace('_', '-')} has no effect without --prompts; give both, or leave it out")


def evaluate_set(
    generation: GenerationOptions, image_set: SetOptions, scoring: ScoreOptions, count: int | None, out: Path
) -> None:
    """Generate the images that are missing, and score them."""
    from micro_diffusion.evaluation.image_set import PROMPTS, begin, read_set
    from micro_diffusion.evaluation.layouts import BENCHMARKS, IMAGES
    from micro_diffusion.evaluation.prompt_files import read_prompts
    from micro_diffusion.sampling.image_file import make_folder

    if image_set.out_images is None:
        raise ValueError("--prompts needs a folder for the images; give --out-images")
    if image_set.evaluator is not None and image_set.benchmark is None:
        raise ValueError("--evaluator has no effect without --benchmark; give both, or leave it out")
    parse_share(image_set.share)
    assert image_set.prompts is not None
    benchmark, metrics, choice = None, None, {}
    if image_set.benchmark is not None:
        if scoring.metrics is not None or count is not None:
            raise ValueError("a benchmark has metrics and prompts of its own; leave out --metrics and --count")
        benchmark = BENCHMARKS[image_set.benchmark](image_set.prompts)
        prompts = [prompt for prompt in benchmark.prompts for _ in range(IMAGES)]
    else:
        metrics, protocol = metrics_of(scoring, generation.device)
        if image_set.share is None:
            metrics.open()  # what is missing is better known now than after hours of generating
        choice = {"count": count or protocol.prompts, "seed": protocol.prompt_seed}
        prompts = read_prompts(image_set.prompts, **choice)
    folder = image_set.out_images / "images" if benchmark else image_set.out_images
    make_folder(out.parent)
    settings = _generate(generation, prompts, folder, image_set.share, begin)
    if image_set.share is not None:
        print(f"{folder}: share {image_set.share} of {len(prompts)} images is there")
        return
    if benchmark is not None:
        _score_benchmark(benchmark, image_set, folder, out, settings)
    elif metrics is not None:
        files, prompts = read_set(folder)
        write_scores(metrics, folder, files, prompts, out, {"settings": settings, "prompts": str(folder / PROMPTS)})


def _generate(
    generation: GenerationOptions, prompts: list[str], folder: Path, share: str | None, begin: Callable[..., None]
) -> dict[str, Any]:
    """Every image of the set, or a share of them; how they are generated."""
    import torch
    from tqdm import tqdm

    from micro_diffusion.evaluation.devices import on_devices
    from micro_diffusion.evaluation.image_set import generate_missing

    several = share is None and generation.device is None and torch.cuda.device_count() > 1
    make, seed, settings = _maker(replace(generation, device="cpu") if several else generation)
    begin(folder, prompts, settings)
    if several:
        on_devices(sys.argv[1:], [f"cuda:{number}" for number in range(torch.cuda.device_count())])
        return settings
    with tqdm(total=len(prompts), unit="image", leave=False, disable=not sys.stderr.isatty()) as bar:
        generate_missing(folder, prompts, make, seed=seed, share=parse_share(share), on_part=bar.update)
    return settings


def _maker(generation: GenerationOptions) -> tuple[Make, int, dict[str, Any]]:
    """What generates images for captions and a seed, the seed of the set, and its description."""
    from micro_diffusion.cli.cascade_options import CascadeOptions
    from micro_diffusion.cli.cascades import cascade_of, run_cascade, stages_before_prompts
    from micro_diffusion.cli.runs import described, generate_images, open_run
    from micro_diffusion.files.provenance import weights_digest

    if runs := stages_before_prompts(generation.run, ())[0]:
        cascade, stages = cascade_of(runs, generation), CascadeOptions(None, None, None, None, False)
        said_of = {"stages": [folder.name for folder in runs], "seed": generation.seed or 0}
        said_of |= {"steps": generation.steps, "guidance_scale": generation.guidance_scale}

        def of_cascade(captions: Sequence[str], seed: int) -> Tensor:
            return run_cascade(cascade, captions, replace(generation, seed=seed), stages)[-1].images

        return of_cascade, generation.seed or 0, said_of
    run, pipeline, settings = open_run(generation)
    if run.image_conditioner is not None:
        raise ValueError(f"{run.folder} generates from images, not from prompts alone; leave out --prompts")

    def of_run(captions: Sequence[str], seed: int) -> Tensor:
        return generate_images(pipeline, captions, generation, **{**settings, "seed": seed})

    said_of_run = {**described(run, settings, generation), "digest": weights_digest(run.backbone)}
    weaker: Any = pipeline.weaker
    if weaker is not None:
        said_of_run["weaker_digest"] = weights_digest(weaker.backbone)
    return of_run, settings["seed"], said_of_run


def _score_benchmark(
    benchmark: GenEval | DPG, image_set: SetOptions, folder: Path, out: Path, settings: dict[str, Any]
) -> None:
    """Lay the images out, and read what the benchmark's own evaluator says of them, run here or elsewhere."""
    from micro_diffusion.evaluation.image_set import read_set
    from micro_diffusion.evaluation.layouts import run_evaluator
    from micro_diffusion.evaluation.report import write_report

    assert image_set.out_images is not None
    layout, results = image_set.out_images / str(image_set.benchmark), image_set.out_images / benchmark.results
    benchmark.write([folder / name for name in read_set(folder)[0]], layout)
    if image_set.evaluator is not None:
        run_evaluator(benchmark, image_set.evaluator.absolute(), layout.absolute(), results.absolute())
    if not results.is_file():
        print(
            f"{layout}: images in the layout of {image_set.benchmark}; run its evaluator into {results} and repeat this"
        )
        return
    scores = benchmark.read(results)
    write_report({"scores": {str(image_set.benchmark): scores}, "settings": settings}, out)
    print(f"{out}: {said(scores)}")


def parse_share(text: str | None) -> tuple[int, int]:
    """`1/4` -> (1, 4); the whole for None."""
    try:
        number, shares = (0, 1) if text is None else (int(part) for part in text.split("/"))
        if not 0 <= number < shares:
            raise ValueError
    except ValueError:
        raise ValueError(f"--share {text} is none of K/N with K from 0 to N - 1; write it as 0/4") from None
    return number, shares
