"""How fast this machine trains, draws, loads and precomputes: a table, and JSON with --json.

python scripts/benchmark.py train --backbone tiny --resolution 256 --mask-ratio 0.75 --batch-size 8
python scripts/benchmark.py sample --backbone tiny --sampler dpmpp_2m --steps 15 --guidance 5 --json sample.json
python scripts/benchmark.py compare-train --reference ../public_microdit --backbone tiny --mask-ratio 0.75
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import call
from omegaconf import DictConfig

from micro_diffusion.data.caption_formats import EXACT_CAPTIONS, CaptionFeatures
from micro_diffusion.data.loader import build_loader
from micro_diffusion.data.random_latents import write_latents
from micro_diffusion.performance.comparison import Comparison, Ratio, alternate, prediction_difference
from micro_diffusion.performance.counting import count_flops
from micro_diffusion.performance.drawing import Drawing
from micro_diffusion.performance.loading import bytes_per_sample, raw_read
from micro_diffusion.performance.report import Row, device_name, table
from micro_diffusion.performance.timing import Timing, forget_peak_memory, measure, peak_memory, product_rate
from micro_diffusion.performance.training_step import TrainingStep, training_flops
from micro_diffusion.training.errors import one_sentence_errors
from micro_diffusion.training.resolvers import register_resolvers

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measure what the command line asks for, print it, and write it where --json says."""
    options = parser().parse_intermixed_args(arguments)
    register_resolvers()
    if options.threads:
        torch.set_num_threads(options.threads)
    commands = ALL if options.command == "all" else [options.command]
    rows = [row for command in commands for row in COMMANDS[command](options)]
    print(table(rows))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


def parser() -> argparse.ArgumentParser:
    """All options; each command reads those that concern it."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    top.add_argument("command", choices=[*COMMANDS, "all"])
    top.add_argument("overrides", nargs="*", help="of the stage's configuration, such as optimizer=muon")
    top.add_argument("--stage", default="256_pretrain", help="training configuration to start from")
    top.add_argument("--backbone", default="nano", help="an option of configs/backbone")
    top.add_argument("--resolution", type=int, default=256, help="pixels")
    top.add_argument("--mask-ratio", type=float, default=0.0, help="share of hidden patches in training")
    top.add_argument("--dtype", choices=DTYPES, default="bf16", help="of matrix products; weights stay fp32")
    top.add_argument("--batch-size", type=int, default=8)
    top.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    top.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    top.add_argument("--compile", action="store_true", help="compile the network, as one graph")
    top.add_argument("--sampler", default="heun", help="an option of configs/sampler")
    top.add_argument("--steps", type=int, default=30, help="of the sampler")
    top.add_argument("--guidance", type=float, default=5.0, help="guidance scale")
    top.add_argument("--unprepared", action="store_true", help="do the work on captions at every network call")
    top.add_argument("--reference", type=Path, help="clone of the public MicroDiT code, to compare with")
    top.add_argument("--reference-steps", type=int, default=30, help="of the public sampler, Heun")
    top.add_argument("--samples", type=int, default=1000, help="of the temporary data set of loader and precompute")
    top.add_argument("--warmup", type=int, default=2, help="repetitions thrown away, besides the first")
    top.add_argument("--repeats", type=int, default=7, help="repetitions of which the median counts")
    top.add_argument(
        "--clock", choices=["wall", "process"], default="wall", help="process: processor time, on a busy machine"
    )
    top.add_argument("--json", type=Path, help="file for the results")
    return top


def train(options: argparse.Namespace) -> list[Row]:
    """Training steps on random latents."""
    config = configuration(options, f"model.train_mask_ratio={options.mask_ratio}")
    device = torch.device(options.device)
    rate = product_rate(device, DTYPES[options.dtype], options.clock)
    forget_peak_memory(device)
    step = TrainingStep(
        config=config,
        batch_size=options.batch_size,
        device=device,
        precision=options.dtype,
        compile=options.compile,
    )
    timing = timed(step, options)
    flops = training_flops(config)
    return [
        settings(options, "train", mask_ratio=options.mask_ratio, optimizer=type(step.optimizer).__name__)
        | {"seconds_per_step": timing.seconds}
        | network_results(options, timing, flops, rate)
    ]


def sample(options: argparse.Namespace) -> list[Row]:
    """Latents drawn from random captions, without encoders."""
    config = configuration(options, f"sampler={options.sampler}", f"sampler.steps={options.steps}")
    device = torch.device(options.device)
    rate = product_rate(device, DTYPES[options.dtype], options.clock)
    forget_peak_memory(device)
    drawing = {
        "config": config,
        "guidance_scale": options.guidance,
        "precision": options.dtype,
        "prepare": not options.unprepared,
    }
    timing = timed(Drawing(**drawing, batch_size=options.batch_size, device=device, compile=options.compile), options)
    flops = count_flops(Drawing(**drawing, batch_size=1, device=torch.device("meta")))
    asked = {key: getattr(options, key) for key in ("sampler", "steps", "guidance", "unprepared")}
    return [
        settings(options, "sample", **asked)
        | {"seconds_per_image": timing.seconds / options.batch_size}
        | network_results(options, timing, flops, rate)
    ]


def compare_train(options: argparse.Namespace) -> list[Row]:
    """Training steps, ours and the public code's in turn, and the memory of each."""
    comparison = against_public(options, f"model.train_mask_ratio={options.mask_ratio}")
    ours, public = comparison.training_step("ours"), comparison.training_step("public")
    ratio = alternate(ours, public, repeats=options.repeats, device=comparison.device, clock=options.clock)
    del ours, public
    peak, public_peak = (comparison.peak_memory(side) for side in ("ours", "public"))
    memory = {
        "peak_memory_bytes": peak,
        "reference_peak_memory_bytes": public_peak,
        "peak_memory_ratio": peak / public_peak,
    }
    row = settings(options, "compare-train", mask_ratio=options.mask_ratio)
    return [row | compared(ratio, "seconds_per_step", 1) | memory]


def compare_sample(options: argparse.Namespace) -> list[Row]:
    """Sampling runs, ours and the public code's in turn, from the same noise with the same weights."""
    comparison = against_public(options, f"sampler={options.sampler}", f"sampler.steps={options.steps}")
    ours, public = comparison.drawings(guidance_scale=options.guidance, public_steps=options.reference_steps)
    asked = {key: getattr(options, key) for key in ("sampler", "steps", "guidance", "reference_steps")}
    difference = {"prediction_difference": prediction_difference(ours, public)}
    ratio = alternate(ours, public, repeats=options.repeats, device=comparison.device, clock=options.clock)
    row = settings(options, "compare-sample", **asked)
    return [row | compared(ratio, "seconds_per_image", options.batch_size) | difference]


def against_public(options: argparse.Namespace, *overrides: str) -> Comparison:
    """What the options ask both codes to do.

    Raises:
        ValueError: when no clone of the public code is named.
    """
    if options.reference is None:
        raise ValueError("the public code is not there; give --reference a clone of it")
    return Comparison(
        folder=options.reference,
        config=configuration(options, *overrides),
        backbone=options.backbone,
        batch_size=options.batch_size,
        device=torch.device(options.device),
        precision=options.dtype,
    )


def compared(ratio: Ratio, unit: str, images: int) -> Row:
    """Seconds of both, ours per `unit`, and how many times faster ours is."""
    return {
        unit: ratio.ours / images,
        f"reference_{unit}": ratio.public / images,
        "times_faster": ratio.ratio,
        "times_faster_lowest": ratio.lowest,
        "times_faster_highest": ratio.highest,
    }


def precompute(options: argparse.Namespace) -> list[Row]:
    """Pictures of shapes to latents, by the bundled autoencoder and the tiny text encoder."""
    with tempfile.TemporaryDirectory() as folder:
        return [prepare_latents(options, Path(folder))]


def loader(options: argparse.Namespace) -> list[Row]:
    """Shuffled batches of latents of the full recipe's size, from the page cache, in this process."""
    row = settings(options, "loader", samples=options.samples)
    with tempfile.TemporaryDirectory() as folder:
        exact = write_latents(Path(folder) / "exact", samples=options.samples, captions=EXACT_CAPTIONS)
        small = CaptionFeatures(dtype="int8", padded=False)
        compact = write_latents(Path(folder) / "compact", samples=options.samples, captions=small)
        for name, path in {"": exact, "compact_": compact}.items():
            row[f"{name}bytes_per_sample"] = bytes_per_sample(path)
            row[f"{name}raw_read_samples_per_second"] = options.samples / timed(raw_read(path), options).seconds
            batches = build_loader(path=str(path), resolution=256, batch_size=options.batch_size, shuffle=True)
            timing = timed(lambda batches=batches: deque(batches, maxlen=0), options)
            # the first epoch compares every shard with its hash
            row[f"{name}first_epoch_samples_per_second"] = options.samples / timing.first
            row[f"{name}samples_per_second"] = options.samples / timing.seconds
            row[f"{name}spread"] = timing.spread
    return [row]


def prepare_latents(options: argparse.Namespace, folder: Path) -> Row:
    """A folder `latents` made of shapes, and how long that took after their pictures were there."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        images = [f"out={folder}/images", f"source.count={options.samples}", "engine.count=1"]
        call(compose("quickstart_convert_train", overrides=images), _convert_="all")
        latents = [f"images={folder}/images", f"out={folder}/latents", "resolutions=[32]", "workers=0"]
        config = compose("quickstart_precompute", overrides=latents)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    start = clock()
    call(config, _convert_="all")
    seconds = clock() - start
    timing = Timing(seconds, 0.0, seconds)
    row = settings(options, "precompute", samples=options.samples)
    return (
        row | results(timing, options.samples, torch.device("cpu")) | {"seconds_per_image": seconds / options.samples}
    )


ALL = {"train": train, "sample": sample, "loader": loader, "precompute": precompute}
COMMANDS = {**ALL, "compare-train": compare_train, "compare-sample": compare_sample}


def configuration(options: argparse.Namespace, *overrides: str) -> DictConfig:
    """The stage with the options' backbone and resolution."""
    chosen = [f"backbone={options.backbone}", f"resolution={options.resolution}", *overrides, *options.overrides]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(options.stage, overrides=chosen)


def timed(work: Any, options: argparse.Namespace) -> Timing:
    """`measure` with the options' repetitions and clock."""
    return measure(
        work,
        warmup=options.warmup,
        repeats=options.repeats,
        device=torch.device(options.device),
        clock=options.clock,
    )


def settings(options: argparse.Namespace, what: str, **more: Any) -> Row:
    """What was measured, where and with what."""
    network = ("backbone", "resolution", "dtype", "compile") if what not in ("loader", "precompute") else ()
    return {
        "what": what,
        **{key: getattr(options, key) for key in network},
        **more,
        "batch_size": options.batch_size,
        "overrides": options.overrides,
        "device": device_name(torch.device(options.device)),
        "threads": torch.get_num_threads(),
        "clock": options.clock,
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def results(timing: Timing, images: int, device: torch.device) -> Row:
    """What every measurement gives."""
    return {
        "images_per_second": images / timing.seconds,
        "spread": timing.spread,
        "peak_memory_bytes": peak_memory(device),
    }


def network_results(options: argparse.Namespace, timing: Timing, flops: int, rate: float) -> Row:
    """The same for a network, with its share of the machine's own rate (MFU)."""
    achieved = flops * options.batch_size / timing.seconds
    return {
        **results(timing, options.batch_size, torch.device(options.device)),
        "compile_seconds": timing.first - timing.seconds if options.compile else 0.0,
        "flops_per_image": flops,
        "flops_per_second": achieved,
        "machine_flops_per_second": rate,
        "mfu": achieved / rate,
    }


if __name__ == "__main__":
    with one_sentence_errors():
        main(sys.argv[1:])
