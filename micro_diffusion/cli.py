"""The command `micro-diffusion`: draw with a trained run, measure it, import released weights, plan."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from micro_diffusion import bundled
from micro_diffusion.checkpoint import CONFIG_FILE, Run, export_run, load_run, parameter_count, run_folders
from micro_diffusion.evaluation.report import composition_report, write_report
from micro_diffusion.precision import autocast
from micro_diffusion.released_weights import import_run
from micro_diffusion.sampling.grid import captioned_grid, to_pil
from micro_diffusion.sampling.picture_file import check_picture_file, free_path, make_folder, save_picture
from micro_diffusion.sampling.pipeline import Pipeline

RUNS = Path("trained_models")
BUNDLED = Path(bundled.__file__).parent

_GENERATE = """Draw pictures. One picture becomes a plain picture file; several become a captioned grid, or numbered
files beside a list of their prompts when --out is a folder. A PNG carries its prompts and settings as text."""

_EVALUATE = """Draw captions of the shapes data set (one object, two objects, and combinations held out of training),
judge background, count, colour, shape, size and relation in every picture, and write the fraction that is right."""

_PLAN = """Operations, hours, dollars, memory and disk of training stages. Operations and memory are counted by running
the network on tensors without data; the speed is measured, or follows from a share of the machine's peak rate."""

STAGES = ["256_pretrain", "256_finetune", "512_pretrain", "512_finetune"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 after an error, which is one sentence on stderr."""
    options = parse(arguments)
    try:
        with plain_warnings():
            options.command(options)
    except torch.cuda.OutOfMemoryError:
        return _fail("the GPU ran out of memory; lower --batch-size or --resolution")
    except (ValueError, OSError, ModuleNotFoundError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted")
        return 130
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of one command; prompts may also follow options, which argparse alone would not allow."""
    top = parser()
    options, rest = top.parse_known_args(arguments)
    unknown = [text for text in rest if text.startswith("-") or not hasattr(options, "prompts")]
    if unknown:
        top.error(f"unknown option {unknown[0]}; micro-diffusion COMMAND --help lists what there is")
    if rest:
        options.prompts += rest
    return options


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="micro-diffusion", description="Text-to-image diffusion models.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    drawing = argparse.ArgumentParser(add_help=False)
    drawing.add_argument("run", metavar="RUN", help="run folder, name of one in trained_models, or a bundled one: demo")
    drawing.add_argument("--seed", type=int, help="any integer; equal seeds draw equal pictures (default: the run's)")
    drawing.add_argument("--steps", type=positive, help="sampling steps (default: those of the run's sampler)")
    drawing.add_argument(
        "--guidance-scale", type=float, help="0 unconditional, 1 conditional, above 1 guided (default: the run's)"
    )
    drawing.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="guide between these noise levels only; the others cost half (default: everywhere)",
    )
    drawing.add_argument("--weights", choices=["ema", "raw"], help="default: ema where the run has them, else raw")
    drawing.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1")
    drawing.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="auto: bf16 where fast")
    drawing.add_argument("--batch-size", type=positive, default=16, help="pictures drawn at once")

    generate = commands.add_parser("generate", parents=[drawing], help="draw prompts", description=_GENERATE)
    generate.add_argument("prompts", metavar="PROMPT", nargs="*", help="default: the prompts of the run's config")
    generate.add_argument("--count", type=positive, default=1, help="pictures for each prompt")
    generate.add_argument("--resolution", type=resolution, help="pixels: 256, or HEIGHTxWIDTH (default: the run's)")
    generate.add_argument("--out", type=Path, help="picture file or folder (default: a new generated.png)")
    generate.set_defaults(command=run_generate)

    evaluate = commands.add_parser("evaluate", parents=[drawing], help="score a run", description=_EVALUATE)
    evaluate.add_argument("--count", type=positive, default=64, help="pictures of each kind")
    evaluate.add_argument("--out", type=Path, required=True, help="JSON file for the scores")
    evaluate.add_argument(
        "--grid", type=Path, help="picture file for the judged pictures (default: OUT ending in .png)"
    )
    evaluate.set_defaults(command=run_evaluate)

    export = commands.add_parser("export", help="copy what drawing needs of a run into a new folder")
    export.add_argument("run", metavar="RUN", help="as for generate")
    export.add_argument("folder", type=Path, metavar="FOLDER", help="the run folder to make")
    export.add_argument("--weights", choices=["ema", "raw"], help="default: ema where the run has them, else raw")
    export.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="default: as they are")
    export.set_defaults(command=run_export)

    released = commands.add_parser("import-microdit", help="make a run folder of released MicroDiT weights")
    released.add_argument("file", type=Path, metavar="WEIGHTS", help="a released .pt file")
    released.add_argument("folder", type=Path, metavar="FOLDER", help="the run folder to make")
    released.set_defaults(command=run_import)

    plan = commands.add_parser("plan", help="what training will cost on a machine", description=_PLAN)
    plan.add_argument("stages", metavar="STAGE", nargs="*", default=STAGES, help=f"default: {' '.join(STAGES)}")
    plan.add_argument("--machine", default="h100x8", help="h100, h200, a100, each also x8; 4090; or here, measured")
    plan.add_argument("--mfu", type=float, default=0.4, help="share of a machine's peak rate to assume (default: 0.4)")
    plan.add_argument("--price", type=float, help="dollars for an hour of one device")
    plan.add_argument("--pictures", type=positive, default=37_000_000, help="of the data set (default: 37 million)")
    plan.add_argument("--batch-size", type=positive, default=8, help="of the steps measured with --machine here")
    plan.add_argument("--configs", type=Path, default=Path("configs"), help="folder of the stages (default: configs)")
    plan.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="Hydra overrides: backbone=tiny")
    plan.set_defaults(command=run_plan)
    return top


def run_generate(options: argparse.Namespace) -> None:
    """`micro-diffusion generate`."""
    out = options.out or free_path(Path("generated.png"))
    as_folder = out.is_dir() or not out.suffix
    if not as_folder:
        check_picture_file(out)
    run, pipeline, settings = open_run(options)
    prompts = [prompt for prompt in options.prompts or run.prompts.captions for _ in range(options.count)]
    settings["resolution"] = options.resolution or run.config["resolution"]
    images = draw(pipeline, prompts, options, **settings)

    described = {"run": run.folder.name, "weights": run.weights, **settings}
    if as_folder:
        make_folder(out)
        for index, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            save_picture(to_pil(image), out / f"{index:04d}.png", {"prompt": prompt, "index": index, **described})
        lines = [f"{index:04d}.png\t{' '.join(prompt.split())}\n" for index, prompt in enumerate(prompts)]
        (out / "prompts.txt").write_text("".join(lines), encoding="utf-8")
    else:
        picture = to_pil(images[0]) if len(images) == 1 else captioned_grid(images, prompts)
        save_picture(picture, out, {"prompts": prompts, **described})
    print(f"{out}: {len(images)} picture{'s' * (len(images) > 1)}, {run.weights} weights of {run.folder}")


def run_evaluate(options: argparse.Namespace) -> None:
    """`micro-diffusion evaluate`."""
    grid = options.grid or options.out.with_suffix(".png")
    check_picture_file(grid)
    make_folder(options.out.parent)
    run, pipeline, settings = open_run(options)
    report, picture = composition_report(
        lambda captions: draw(pipeline, captions, options, resolution=run.config["resolution"], **settings),
        count=options.count,
        seed=settings["seed"],
    )
    report |= {"parameters": parameter_count(run.backbone), "weights": run.weights, "settings": settings}
    write_report(report, options.out)
    save_picture(picture, grid, {"run": run.folder.name, "weights": run.weights, **settings})
    scores = ", ".join(f"{kind} {value:.3f}" for kind, value in report["composition"].items())
    print(f"{options.out}: {scores}; the judged pictures are in {grid}")


def run_export(options: argparse.Namespace) -> None:
    """`micro-diffusion export`."""
    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    path = export_run(find_run(options.run), options.folder, weights=options.weights, dtype=dtype)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def run_import(options: argparse.Namespace) -> None:
    """`micro-diffusion import-microdit`."""
    if (options.folder / CONFIG_FILE).exists():
        raise FileExistsError(f"{options.folder} is a run folder already; choose a new one, or remove it first")
    backbone = import_run(options.file, options.folder)
    print(f"{options.folder}: {parameter_count(backbone):,} parameters, latents of {backbone.input_size} cells")


def run_plan(options: argparse.Namespace) -> None:
    """`micro-diffusion plan`."""
    from micro_diffusion.performance import plan  # imports Composer; drawing need not wait for it

    configs = plan.stage_configs(options.configs, options.stages, options.set)
    if options.machine == "here":
        kind = device("cuda" if torch.cuda.is_available() else "cpu")
        measured = {"device": kind, "batch_size": options.batch_size}
        stages = [plan.measure_stage(stage, config, **measured) for stage, config in configs.items()]
        devices, basis = 1, "speed measured on this machine"
    elif options.machine in plan.MACHINES:
        machine = plan.MACHINES[options.machine]
        stages = [plan.plan_stage(stage, config, machine, options.mfu) for stage, config in configs.items()]
        devices, basis = machine.devices, f"speed assumed, at an MFU of {options.mfu:g}"
    else:
        known = ", ".join([*plan.MACHINES, "here"])
        raise ValueError(f"there is no plan for the machine {options.machine!r}; choose one of {known}")
    data = plan.data_bytes(list(configs.values()), options.pictures)
    print(f"{options.machine}: {basis}\n")
    print(plan.report(stages, devices=devices, price=options.price, data=data))


def open_run(options: argparse.Namespace) -> tuple[Run, Pipeline, dict[str, Any]]:
    """The run that the options name, its pipeline, and how to draw: the options, or else the run's own."""
    run = load_run(find_run(options.run), weights=options.weights, device=device(options.device))
    pipeline = Pipeline(
        text_encoder=run.text_encoder,
        autoencoder=run.autoencoder,
        backbone=run.backbone,
        objective=run.objective,
        sampler=run.sampler,
    )
    asked = {"seed": options.seed, "guidance_scale": options.guidance_scale, "steps": options.steps}
    usual = {"seed": run.prompts.seed, "guidance_scale": run.prompts.guidance_scale, "steps": run.sampler.steps}
    settings = {key: usual[key] if value is None else value for key, value in asked.items()}
    if options.guidance_interval is not None:
        settings["guidance_interval"] = tuple(options.guidance_interval)
    return run, pipeline, settings


def draw(pipeline: Pipeline, prompts: Sequence[str], options: argparse.Namespace, **settings: Any) -> Tensor:
    """`Pipeline.generate` in the precision asked for, with a progress bar where somebody watches."""
    kind = torch.device(options.device).type
    bar = tqdm(total=len(prompts), unit="picture", leave=False, disable=not sys.stderr.isatty())
    with bar, autocast(kind, options.precision):
        return pipeline.generate(prompts, batch_size=options.batch_size, on_batch=bar.update, **settings)


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


def device(name: str) -> torch.device:
    """A torch device that is there; a ValueError when it is not."""
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used on this machine; use --device cpu") from error
    return chosen


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too few; use at least 1")
    return number


def resolution(text: str) -> int | tuple[int, int]:
    """`256` or `HEIGHTxWIDTH`, for argparse."""
    sides = [int(side) for side in text.lower().split("x")]
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} has {len(sides)} sides; use one number, or HEIGHTxWIDTH")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings of this package as plain lines on stderr, each once; those of libraries are left out."""

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        print(f"micro-diffusion: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=UserWarning, module=r"micro_diffusion\.")
        warnings.showwarning = show
        yield


def _fail(sentence: str) -> int:
    print(f"micro-diffusion: error: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
