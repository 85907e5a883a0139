"""How fast this machine trains, samples, serves, loads and precomputes: a table, and JSON with --json.

python scripts/benchmark.py train --backbone tiny --resolution 256 --mask-ratio 0.75 --batch-size 8
python scripts/benchmark.py sample --backbone tiny --sampler dpmpp_2m --steps 15 --guidance 5 --json sample.json
python scripts/benchmark.py serve --run demo --clients 16 --batch-size 16 --steps 18
python scripts/benchmark.py compare-train --reference ../public_microdit --backbone tiny --mask-ratio 0.75
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from micro_diffusion.machine.tensor_memory import keep_freed_memory
from micro_diffusion.performance.attention import ways_of_attention
from micro_diffusion.performance.comparison import Comparison, compare_generation, compare_training
from micro_diffusion.performance.loading import loading
from micro_diffusion.performance.measurement import DTYPES, Measurement, NetworkMeasurement
from micro_diffusion.performance.plan import stage_configs
from micro_diffusion.performance.precomputing import precomputing
from micro_diffusion.performance.report import Row, table
from micro_diffusion.training.config_checks.errors import one_sentence_errors

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NETWORK = ("backbone", "resolution", "dtype", "compile")


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measure what the command line asks for, print it, and write it where --json says."""
    options = parser().parse_intermixed_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    commands = ALL if options.command == "all" else [options.command]
    warn_of_options_without_effect(options, commands)
    rows = [{"what": command, **COMMANDS[command](options)} for command in commands]
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
    top.add_argument("--mask-ratio", type=float, default=0.0, help="share of masked patches in training")
    top.add_argument(
        "--dtype",
        choices=DTYPES,
        default="bf16",
        help="of matrix products; weights are stored as model.weight_dtype says",
    )
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
    top.add_argument("--run", default="demo", help="run that is served")
    top.add_argument("--clients", type=int, default=8, help="requests that reach the server at once")
    top.add_argument("--samples", type=int, default=1000, help="of the temporary data set of loader and precompute")
    top.add_argument("--warmup", type=int, default=2, help="repetitions thrown away, besides the first")
    top.add_argument("--repeats", type=int, default=7, help="repetitions of which the median counts")
    top.add_argument("--clock", choices=["wall", "process"], default="wall", help="process: processor time")
    top.add_argument("--json", type=Path, help="file for the results")
    return top


def train(options: argparse.Namespace) -> Row:
    """Training steps on random latents."""
    measured = network(options, f"model.train_mask_ratio={options.mask_ratio}")
    return asked(options, measured, *NETWORK, "mask_ratio") | measured.training()


def profile(options: argparse.Namespace) -> Row:
    """Operators that the time of training steps goes to."""
    measured = network(options, f"model.train_mask_ratio={options.mask_ratio}")
    return asked(options, measured, *NETWORK, "mask_ratio") | measured.profile()


def sample(options: argparse.Namespace) -> Row:
    """Latents generated from random captions, without encoders."""
    measured = network(options, f"sampler={options.sampler}", f"sampler.steps={options.steps}")
    row = asked(options, measured, *NETWORK, "sampler", "steps", "guidance", "unprepared")
    return row | measured.generation(guidance_scale=options.guidance, prepare=not options.unprepared)


def attention(options: argparse.Namespace) -> Row:
    """Ways to compute attention at the recipe's lengths."""
    keep_freed_memory(options.device)
    measured = Measurement(**conditions(options, options.device))
    return asked(options, measured, "dtype") | ways_of_attention(measured, dtype=DTYPES[options.dtype])


def serve(options: argparse.Namespace) -> Row:
    """Requests to a server of this process, together and one after another."""
    from micro_diffusion.generation.pipeline import Pipeline
    from micro_diffusion.serving.load import under_load

    pipeline = Pipeline.from_run(options.run, device=options.device, precision=options.dtype)
    measured = Measurement(**conditions(options, options.device))
    row = asked(options, measured, "run", "clients", "steps", "dtype")
    prompt = pipeline.run.prompts.captions[0]
    return row | under_load(measured, pipeline, clients=options.clients, steps=options.steps, prompt=prompt)


def loader(options: argparse.Namespace) -> Row:
    """Shuffled batches of latents."""
    measured = Measurement(**conditions(options, "cpu"))
    return asked(options, measured, "samples") | loading(measured, samples=options.samples)


def precompute(options: argparse.Namespace) -> Row:
    """Images to latents, on the CPU."""
    measured = Measurement(**conditions(options, "cpu"))
    return asked(options, measured, "samples") | precomputing(measured, configs=CONFIGS, samples=options.samples)


def compare_train(options: argparse.Namespace) -> Row:
    """Training steps, ours and the public code's in turn."""
    measured = network(options, f"model.train_mask_ratio={options.mask_ratio}")
    row = asked(options, measured, *NETWORK, "mask_ratio")
    return row | compare_training(against_public(options, measured), measured)


def compare_sample(options: argparse.Namespace) -> Row:
    """Sampling runs, ours and the public code's in turn."""
    measured = network(options, f"sampler={options.sampler}", f"sampler.steps={options.steps}")
    row = asked(options, measured, *NETWORK, "sampler", "steps", "guidance", "reference_steps")
    scale_and_steps = {"guidance_scale": options.guidance, "public_steps": options.reference_steps}
    return row | compare_generation(against_public(options, measured), measured, **scale_and_steps)


ALL = {"train": train, "sample": sample, "loader": loader, "precompute": precompute}
COMMANDS = {
    **ALL,
    "serve": serve,
    "profile": profile,
    "attention": attention,
    "compare-train": compare_train,
    "compare-sample": compare_sample,
}


TIMING = {"batch_size", "warmup", "repeats"}
OF_NETWORKS = {*NETWORK, *TIMING, "stage", "device", "overrides"}
READ = {
    "train": {*OF_NETWORKS, "mask_ratio"},
    "sample": {*OF_NETWORKS, "sampler", "steps", "guidance", "unprepared"},
    "loader": {*TIMING, "samples"},
    "precompute": {*TIMING, "samples"},
    "serve": {*TIMING, "run", "clients", "steps", "dtype", "device"},
    "profile": {*OF_NETWORKS, "mask_ratio"} - {"warmup"},
    "attention": {*TIMING, "dtype", "device"},
    "compare-train": {*OF_NETWORKS, "mask_ratio", "reference"} - {"warmup"},
    "compare-sample": {*OF_NETWORKS, "sampler", "steps", "guidance", "reference", "reference_steps"} - {"warmup"},
}
"""The options that each command reads, besides threads, clock and json, which all do."""


def warn_of_options_without_effect(options: argparse.Namespace, commands: Iterable[str]) -> None:
    """Say which options differ from their defaults though none of the commands reads them.

    Raises:
        ValueError: for the processor's time of work that a GPU does.
    """
    if options.clock == "process" and torch.device(options.device).type != "cpu":
        raise ValueError(f"--clock process does not see the work of {options.device}; leave it out")
    read = {"command", "threads", "clock", "json"}.union(*(READ[command] for command in commands))
    defaults = vars(parser().parse_args([options.command]))
    for name, value in vars(options).items():
        if name not in read and value != defaults[name]:
            option = "the overrides" if name == "overrides" else f"--{name.replace('_', '-')}"
            warnings.warn(f"{option} {value}: no effect on {options.command}; leave it out", stacklevel=2)


def asked(options: argparse.Namespace, measured: Measurement, *keys: str) -> Row:
    """What these options and the overrides ask for, and where."""
    return {key: getattr(options, key) for key in (*keys, "overrides")} | measured.conditions()


def conditions(options: argparse.Namespace, device: str) -> dict[str, Any]:
    """Where and how often to measure."""
    how = {key: getattr(options, key) for key in ("batch_size", "warmup", "repeats", "clock")}
    return {"device": torch.device(device), **how}


def network(options: argparse.Namespace, *overrides: str) -> NetworkMeasurement:
    """A measurement of the stage with the options' backbone and resolution."""
    chosen = [f"backbone={options.backbone}", f"resolution={options.resolution}", *overrides, *options.overrides]
    config = stage_configs(CONFIGS, [options.stage], chosen)[options.stage]
    keep_freed_memory(options.device)  # as the commands that are measured do
    how = {"precision": options.dtype, "compile": options.compile, **conditions(options, options.device)}
    return NetworkMeasurement(config=config, **how)


def against_public(options: argparse.Namespace, measured: NetworkMeasurement) -> Comparison:
    """The same work for both codes."""
    if options.reference is None:
        raise ValueError("the public code is not there; give --reference a clone of it")
    work = {key: getattr(measured, key) for key in ("config", "batch_size", "device", "precision", "compile")}
    return Comparison(folder=options.reference, backbone=options.backbone, **work)


if __name__ == "__main__":
    with one_sentence_errors():
        main(sys.argv[1:])
