"""Trained runs as commands take them: found by name, loaded, and generated with."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from micro_diffusion import bundled
from micro_diffusion.checkpoint import CONFIG_FILE, Run, load_run, run_folders
from micro_diffusion.cli.arguments import device, positive
from micro_diffusion.machine.precision import autocast
from micro_diffusion.machine.tensor_memory import keep_freed_memory
from micro_diffusion.sampling.pipeline import Pipeline
from micro_diffusion.sampling.sampler import Sampler

RUNS = Path("trained_models")
BUNDLED = Path(bundled.__file__).parent


def generation_options() -> argparse.ArgumentParser:
    """The options of every command that generates images."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("run", metavar="RUN", help="run folder, name of one in trained_models, or a bundled one: demo")
    options.add_argument("--seed", type=int, help="any integer; equal seeds generate equal images (default: the run's)")
    options.add_argument("--sampler", metavar="NAME", help="an option of configs/sampler (default: the run's own)")
    options.add_argument("--steps", type=positive, help="sampling steps (default: those of the sampler)")
    options.add_argument(
        "--guidance-scale", type=float, help="0 unconditional, 1 conditional, above 1 guided (default: the run's)"
    )
    options.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="guide between these noise levels only; the others cost half (default: everywhere)",
    )
    options.add_argument("--weights", choices=["ema", "raw"], help="default: ema where the run has them, else raw")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1")
    options.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="auto: bf16 where fast")
    options.add_argument("--compile", action="store_true", help="compile the network first; pays for many images")
    options.add_argument("--batch-size", type=positive, default=16, help="images generated at once")
    options.add_argument("--configs", type=Path, help="where --sampler is (default: configs)")
    return options


def open_run(options: argparse.Namespace) -> tuple[Run, Pipeline, dict[str, Any]]:
    """The run that the options name, its pipeline, and how to generate: the options, or else the run's own."""
    if options.sampler is None and options.configs is not None:
        raise ValueError(f"--configs {options.configs} has no effect without --sampler; name one, or leave it out")
    sampler = None if options.sampler is None else find_sampler(options.sampler, options.configs or Path("configs"))
    place = device(options.device)
    keep_freed_memory(place.type)
    run = load_run(find_run(options.run), weights=options.weights, device=place)
    if sampler is not None:
        run = replace(run, sampler=sampler)
    if options.compile:
        run.backbone.compile(fullgraph=True)
    pipeline = Pipeline(
        text_encoder=run.text_encoder,
        autoencoder=run.autoencoder,
        backbone=run.backbone,
        objective=run.objective,
        sampler=run.sampler,
        image_conditioner=run.image_conditioner,
    )
    asked = {"seed": options.seed, "guidance_scale": options.guidance_scale, "steps": options.steps}
    usual = {"seed": run.prompts.seed, "guidance_scale": run.prompts.guidance_scale, "steps": run.sampler.steps}
    settings = {key: usual[key] if value is None else value for key, value in asked.items()}
    if options.guidance_interval is not None:
        if settings["guidance_scale"] == 1:
            raise ValueError("--guidance-interval has no effect with a guidance scale of 1; leave one of them out")
        settings["guidance_interval"] = tuple(options.guidance_interval)
    return run, pipeline, settings


def generate_images(pipeline: Pipeline, prompts: Sequence[str], options: argparse.Namespace, **settings: Any) -> Tensor:
    """`Pipeline.generate` in the precision asked for, with a progress bar where somebody watches."""
    kind = torch.device(options.device).type
    bar = tqdm(total=len(prompts), unit="image", leave=False, disable=not sys.stderr.isatty())
    with bar, autocast(kind, options.precision):
        return pipeline.generate(prompts, batch_size=options.batch_size, on_batch=bar.update, **settings)


def described(run: Run, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What images were generated with, as it is kept beside them."""
    return {"run": run.folder.name, "weights": run.weights, "sampler": type(run.sampler).__name__, **settings}


def find_sampler(name: str, configs: Path) -> Sampler:
    """The sampler that an option of `configs`/sampler describes.

    Raises:
        FileNotFoundError: when there is none; lists those that exist.
    """
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    folder = configs / "sampler"
    if not (folder / f"{name}.yaml").is_file():
        there = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        remedy = f"choose one of {there}" if there else "give --configs the folder of the stages"
        raise FileNotFoundError(f"there is no sampler {name} in {folder}; {remedy}")
    with initialize_config_dir(str(configs.resolve()), version_base="1.3"):
        return instantiate(compose(overrides=[f"+sampler={name}"]).sampler)


def find_run(name: str) -> Path:
    """The folder of a run that is given by its path, by its name in trained_models, or by a bundled name.

    Raises:
        FileNotFoundError: when there is none; lists those that exist.
    """
    places = [parent / name for parent in (Path(), RUNS, BUNDLED)]
    found = [place for place in places if (place / CONFIG_FILE).is_file()] or [p for p in places if p.is_dir()]
    if found:
        return found[0]
    there = {parent: run_folders(parent) for parent in (places[0].parent, RUNS)} | {"bundled": run_folders(BUNDLED)}
    known = "; ".join(f"{parent}: {', '.join(names)}" for parent, names in there.items() if names)
    raise FileNotFoundError(f"there is no run folder {name}; there are {known or 'none yet, so train one first'}")
