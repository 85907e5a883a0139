"""`micro-diffusion evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from micro_diffusion.cli.arguments import FILE, POSITIVE
from micro_diffusion.cli.image_sets import SetOptions, check_unused, evaluate_set, set_options
from micro_diffusion.cli.options import GenerationOptions, generation_options
from micro_diffusion.cli.score import ScoreOptions, score_options
from micro_diffusion.files.outputs import check_different, check_output_file


@click.command(short_help="score a run")
@generation_options
@set_options
@score_options
@click.option(
    "--count", type=POSITIVE, help="Images of each kind, class or of --prompts.  [default: 64, or all prompts]"
)
@click.option("--images", type=FILE, help="Of a run by classes: folder of train and eval, MDS images of them.")
@click.option("--out", type=FILE, required=True, help="JSON file for the scores.")
@click.option("--grid", type=FILE, help="Image file for the judged images.  [default: OUT ending in .png]")
def evaluate(
    generation: GenerationOptions,
    image_set: SetOptions,
    scoring: ScoreOptions,
    count: int | None,
    images: Path | None,
    out: Path,
    grid: Path | None,
) -> None:
    """Score RUN: is what captions of the shapes data set say in its images?

    Generates images for captions of one object, of two objects, and of combinations held out of training; judges
    background, count, colour, shape, size and relation in each, and writes the fraction that is right.

    The folder of a cascade is scored by the images of its last stage. A run that enlarges images is scored by how near
    it comes to the true ones (PSNR), beside bicubic interpolation; one that completes images by whether shapes of which
    a half was missing are then what their captions say.

    With --prompts it generates an image for each prompt instead, on every GPU, and scores the folder by --metrics.

    With --images, a run that generates by class is scored by a small network that learns the classes from the real
    images; and the run of an autoencoder by PSNR, SSIM and that network, on the held-out images.
    """
    check_output_file(out, endings=[".json"], content="the file of scores")
    if image_set.prompts is not None:
        if grid is not None:
            raise ValueError("--grid has no effect with --prompts, whose images are a folder; leave it out")
        evaluate_set(generation, image_set, scoring, count, out)
        return
    check_unused(image_set, scoring)
    count = count or 64
    from micro_diffusion.checkpoint import parameter_count
    from micro_diffusion.cli.cascades import stages_before_prompts
    from micro_diffusion.cli.runs import described, generate_images, open_run
    from micro_diffusion.diffusion.known_region import KnownRegion
    from micro_diffusion.diffusion.low_resolution import LowResolution
    from micro_diffusion.evaluation.completion import completion_report
    from micro_diffusion.evaluation.enlargement import enlargement_report
    from micro_diffusion.evaluation.report import composition_report, write_report
    from micro_diffusion.sampling.image_file import check_image_file, save_image
    from micro_diffusion.text.classes import ClassEncoder

    grid = grid or out.with_suffix(".png")
    check_image_file(grid)
    check_different(out, grid, first_holds="the scores", second_holds="the judged images")
    if images is not None:
        _evaluate_by_class(generation, images, count, out, grid)
        return
    if runs := stages_before_prompts(generation.run, ())[0]:
        _evaluate_cascade(runs, generation, count, out, grid)
        return
    run, pipeline, settings = open_run(generation)
    if isinstance(run.text_encoder, ClassEncoder):
        raise ValueError(f"{run.folder} generates by class; give --images the folder of its real images")
    height, width = pipeline.trained_resolution
    if height != width:
        raise ValueError(f"{run.folder} generates {height}×{width}, but only square images can be judged; use generate")
    if isinstance(run.image_conditioner, LowResolution):
        report, image = enlargement_report(
            lambda captions, small: generate_images(pipeline, captions, generation, image=small, **settings),
            side=height,
            factor=run.image_conditioner.factor,
            count=count,
            seed=settings["seed"],
        )
    elif isinstance(run.image_conditioner, KnownRegion):
        report, image = completion_report(
            lambda captions, true, unknown: generate_images(
                pipeline, captions, generation, image=true, region=unknown, **settings
            ),
            side=height,
            count=count,
            seed=settings["seed"],
        )
    else:
        report, image = composition_report(
            lambda captions: generate_images(pipeline, captions, generation, **settings),
            count=count,
            seed=settings["seed"],
        )
    generated_with = described(run, settings, generation)
    report |= {"parameters": parameter_count(run.backbone), "weights": run.weights, "settings": generated_with}
    write_report(report, out)
    save_image(image, grid, generated_with)
    scored = next(report[name] for name in ("composition", "psnr_db", "completion") if name in report)
    scores = ", ".join(f"{kind} {value:.3f}" for kind, value in scored.items())
    print(f"{out}: {scores}; the judged images are in {grid}")


def _evaluate_by_class(generation: GenerationOptions, images: Path, count: int, out: Path, grid: Path) -> None:
    """Judge by a network that learns from real images."""
    from micro_diffusion.cli.class_scores import score_by_class
    from micro_diffusion.evaluation.report import write_report
    from micro_diffusion.sampling.image_file import save_image

    report, image, about = score_by_class(generation, images, count)
    write_report(report, out)
    save_image(image, grid, about)
    quantities = ("accuracy", "judge_on_held_out", "frechet_distance", "psnr_db", "ssim")
    scores = ", ".join(f"{name} {report[name]:.3f}" for name in quantities if name in report)
    print(f"{out}: {scores}; the judged images are in {grid}")


def _evaluate_cascade(runs: list[Path], generation: GenerationOptions, count: int, out: Path, grid: Path) -> None:
    """Judge the images of the last stage."""
    from micro_diffusion.cli.cascade_options import CascadeOptions
    from micro_diffusion.cli.cascades import cascade_of, described_cascade, run_cascade
    from micro_diffusion.evaluation.report import composition_report, write_report
    from micro_diffusion.sampling.image_file import save_image

    cascade, stages = cascade_of(runs, generation), CascadeOptions(None, None, None, None, False)
    made = []

    def generate(captions):
        made[:] = run_cascade(cascade, captions, generation, stages)
        return made[-1].images

    report, image = composition_report(generate, count=count, seed=generation.seed or 0)
    generated_with = described_cascade(runs, made, generation, stages)
    write_report(report | {"settings": generated_with}, out)
    save_image(image, grid, generated_with)
    scores = ", ".join(f"{kind} {value:.3f}" for kind, value in report["composition"].items())
    print(f"{out}: {scores}; the judged images are in {grid}")
