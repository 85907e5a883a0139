"""What a recipe will cost on a machine, before it is started: operations, hours, money, memory and disk.

    seconds     = images · FLOP an image / (devices · peak FLOP/s · MFU)
                  measured: steps · (batch / images at once · seconds of forward and backward + seconds of an update)
    dollars     = hours · devices · price
    state       = weight and gradient, 4 bytes each (2 with model.weight_dtype=bf16), and what the optimizer keeps of a
                  parameter, counted: 8 bytes with AdamW, 2 with its moments of 8 bits, with Muon 4 of a hidden matrix;
                  4 more for a moving average; of a weight that is frozen beside an adapter, itself alone
    fixed bytes = state + 2 a parameter: the bf16 copies that autocast makes (none of bf16 weights)
                  several devices: + 4 a parameter: the buckets in which DDP averages gradients
                  sharded (FSDP): state / devices + 2 a parameter + 4 for each one of two layers and of what is in none
                  the first device samples with a copy of the network: state / devices + 4 a parameter
    memory      = fixed bytes + microbatch · activation bytes an image, or the bytes for sampling, where these are more
                  activation checkpointing: + 3 times the mean layer's activations, for the one computed again
    microbatch  = (device memory · USABLE − fixed bytes) / activation bytes an image, at most a device's share
    checkpoint  = state without the gradient
    data        = images · bytes of one, in the folder to train on; where there is none yet, of rows that are
                  written in the chosen formats to see, with the latents of every resolution and the caption

FLOP and activation bytes are counted by running the network on tensors without data, activations in half precision
where the machine trains in it. What activation checkpointing computes a second time counts in the FLOP, for it takes
its time; the MFU that scripts/benchmark.py measures leaves it out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig

from micro_diffusion.machine.precision import Precision, computes_in_bf16
from micro_diffusion.machine.tensor_memory import keep_freed_memory
from micro_diffusion.performance.cost import cost_of
from micro_diffusion.performance.disk import DataSize
from micro_diffusion.performance.memory import Memory, memory_of
from micro_diffusion.performance.timing import Clock, measure_in_turn, product_rate
from micro_diffusion.performance.training_step import TrainingStep
from micro_diffusion.training.config_checks.errors import sentence
from micro_diffusion.training.config_checks.resolvers import register_resolvers

USABLE = 0.9
"""Share of a device's memory that tensors may fill; the rest is lost to the context and to fragments."""

TIMED_SECONDS = 2
"""At the machine's peak rate, of a forward and backward pass: a microbatch that takes longer is timed in part."""


class Machine(NamedTuple):
    """Equal devices: how many, their peak FLOP/s, bytes of memory of each, and whether they train in bf16."""

    devices: int
    flops_per_second: float
    memory: float
    half: bool = True


MACHINES = {
    "h100": Machine(1, 989e12, 80e9),
    "h100x8": Machine(8, 989e12, 80e9),
    "h200": Machine(1, 989e12, 141e9),
    "h200x8": Machine(8, 989e12, 141e9),
    "a100": Machine(1, 312e12, 80e9),
    "a100x8": Machine(8, 312e12, 80e9),
    "4090": Machine(1, 165e12, 24e9),
    "4070": Machine(1, 58e12, 12e9),
}
"""Dense bf16 rates by the makers' data sheets."""

CPU = torch.device("cpu")


def machine_named(name: str, devices: int | None = None) -> Machine:
    """A machine of `MACHINES`, or "cpu": this one, by the rate of its matrix products, which is measured.

    Args:
        name: of the machine.
        devices: how many of its devices; None for as many as its name says.

    Raises:
        ValueError: for an unknown name; lists the known ones.
    """
    if name != "cpu" and name not in MACHINES:
        raise ValueError(f"there is no plan for the machine {name!r}; choose one of {', '.join(MACHINES)}, cpu, here")
    machine = this_machine(CPU) if name == "cpu" else MACHINES[name]
    return machine if devices is None else machine._replace(devices=devices)


def this_machine(device: torch.device) -> Machine:
    """One device of the machine that this program runs on, by the rate of its matrix products."""
    half = computes_in_bf16(device.type)
    rate = product_rate(device, torch.bfloat16 if half else torch.float32)
    if device.type == "cuda":
        return Machine(1, rate, torch.cuda.get_device_properties(device).total_memory, half)
    return Machine(1, rate, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), half)


class StagePlan(NamedTuple):
    """One stage on one machine.

    microbatch: the configuration's. largest: what fits, 0 where not even one does. timed: images at once in the
    passes that were measured, 0 where none were.
    """

    stage: str
    images: int
    flops_per_image: float
    images_per_second: float
    memory: Memory
    microbatch: int
    largest: int
    timed: int = 0

    @property
    def hours(self) -> float:
        """Wall-clock time of the stage's training steps."""
        return self.images / self.images_per_second / 3600

    @property
    def fits(self) -> bool:
        """Whether a device holds a microbatch of the configuration."""
        return self.microbatch <= self.largest


def stage_configs(folder: Path, stages: Sequence[str], overrides: Sequence[str]) -> dict[str, DictConfig]:
    """The composed configurations of these stages, each with the same overrides.

    Raises:
        FileNotFoundError: when the folder lacks one of them.
        ValueError: for an override that cannot be read, or of a key that there is not.
    """
    for stage in stages:
        if not (folder / f"{stage}.yaml").is_file():
            raise FileNotFoundError(f"there is no {folder / stage}.yaml; give --configs the folder of the stages")
    register_resolvers()
    try:
        with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
            return {stage: compose(stage, overrides=list(overrides)) for stage in stages}
    except HydraException as error:
        raise ValueError(sentence(error)) from error


def plan_stage(stage: str, config: DictConfig, machine: Machine, mfu: float, images: int | None = None) -> StagePlan:
    """A stage on a machine of `MACHINES`, where MFU is the share of the data sheet's rate that training reaches.

    images: of the data set, for a length in epochs.

    Raises:
        ValueError: for an MFU outside (0, 1].
    """
    if not 0 < mfu <= 1:
        raise ValueError(f"the MFU is {mfu}; choose a share of the peak rate, above 0 and at most 1")
    flops = cost_of(config).of_an_image(config.train_loader.batch_size)
    return _plan(stage, config, flops, machine.devices * machine.flops_per_second * mfu / flops, machine, images)


def measure_stage(
    stage: str,
    config: DictConfig,
    *,
    device: torch.device,
    batch_size: int | None = None,
    steps: int = 20,
    precision: Precision = "auto",
    clock: Clock = "wall",
    images: int | None = None,
) -> StagePlan:
    """A stage on this very machine, from the medians of some passes and updates, which a batch needs once.

    Args:
        stage: its name.
        config: of the stage.
        device: that trains.
        batch_size: images at once; None for the configured microbatch, or as many of it as fit into the memory and
            into `TIMED_SECONDS`.
        steps: passes and updates that are timed.
        precision: of the network's matrix products.
        clock: by which they are timed.
        images: of the data set, for a length in epochs.
    """
    keep_freed_memory(device.type)  # as training does
    machine, cost, batch = this_machine(device), cost_of(config), config.train_loader.batch_size
    plan = _plan(stage, config, cost.of_an_image(batch), math.nan, machine, images)
    in_time = int(TIMED_SECONDS * machine.flops_per_second / cost.image)
    timed = batch_size or max(1, min(plan.microbatch, plan.largest, in_time))
    step = TrainingStep(config=config, batch_size=timed, device=device, precision=precision, compile=False)
    parts = [step.backward, step.update]
    passes, update = measure_in_turn(parts, warmup=2, repeats=steps, device=device, clock=clock)
    speed = batch / (batch / timed * passes.seconds + update.seconds)
    return plan._replace(images_per_second=speed, timed=timed)


def _plan(
    stage: str, config: DictConfig, flops: float, images_per_second: float, machine: Machine, images: int | None
) -> StagePlan:
    batch = config.train_loader.batch_size
    if batch % machine.devices:
        raise ValueError(
            f"{stage} has a train_loader.batch_size of {batch}, which {machine.devices} devices cannot share equally; "
            "choose a number of devices that divides it"
        )
    share = batch // machine.devices
    memory = memory_of(config, devices=machine.devices, half=machine.half)
    return StagePlan(
        stage=stage,
        images=steps_of(str(config.trainer.max_duration), batch, images) * batch,
        flops_per_image=flops,
        images_per_second=images_per_second,
        memory=memory,
        microbatch=min(config.trainer.device_train_microbatch_size or share, share),
        largest=min(memory.largest_microbatch(machine.memory * USABLE), share),
    )


def steps_of(duration: str, batch: int, images: int | None) -> int:
    """Steps of a length in batches, or in epochs of so many images.

    Raises:
        ValueError: for any other length.
    """
    if duration.endswith("ba"):
        return int(duration.removesuffix("ba"))
    if duration.endswith("ep") and images is not None:
        return int(duration.removesuffix("ep")) * (images // batch)
    raise ValueError(f"trainer.max_duration is {duration}; a plan needs steps, such as 1000ba")


def report(stages: Sequence[StagePlan], *, devices: int, price: float | None, data: DataSize | None) -> str:
    """The plan as a table; `price`: dollars for an hour of one device; `data`: None for none."""
    heading = (
        "stage", "images", "GFLOP", "images/s", "hours", "dollars",
        "fixed GB", "GB/image", "microbatch", "GB", "largest",
    )  # fmt: skip
    rows = [
        (
            plan.stage,
            f"{plan.images:,}",
            f"{plan.flops_per_image / 1e9:,.1f}",
            f"{plan.images_per_second:,.1f}",
            f"{plan.hours:,.1f}",
            "" if price is None else f"{plan.hours * devices * price:,.0f}",
            f"{plan.memory.fixed / 1e9:.1f}",
            f"{plan.memory.each / 1e9:.3f}",
            str(plan.microbatch),
            f"{plan.memory.needed(plan.microbatch) / 1e9:.1f}",
            str(plan.largest or "none fits"),
        )
        for plan in stages
    ]
    images, hours = sum(plan.images for plan in stages), sum(plan.hours for plan in stages)
    dollars = "" if price is None else f"{hours * devices * price:,.0f}"
    rows.append(("together", f"{images:,}", "", "", f"{hours:,.1f}", dollars, "", "", "", "", ""))
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    lines = []
    for name, *cells in (heading, *rows):
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *aligned]))
    checkpoint = max(plan.memory.checkpoint for plan in stages)
    disk = f"{checkpoint / 1e9:,.1f} GB for each checkpoint"
    return "\n".join([*lines, "", f"disk: {disk if data is None else f'{data}; {disk}'}"])
