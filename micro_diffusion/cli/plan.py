"""`micro-diffusion plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from micro_diffusion.cli.arguments import FILE, POSITIVE, PRICE, ConfigName
from micro_diffusion.files.configs import configs_folder

STAGES = ["256_pretrain", "256_finetune", "512_pretrain", "512_finetune"]


@click.command(short_help="what training will cost on a machine")
@click.argument("wanted", metavar="[STAGE|KEY=VALUE]...", nargs=-1)
@click.option(
    "--machine",
    default="h100x8",
    show_default=True,
    help="h100, h200, a100, all also x8; 4090, 4070; cpu; or here, measured.",
)
@click.option("--devices", type=POSITIVE, help="How many of the machine's devices.  [default: as it is named]")
@click.option("--mfu", type=float, help="Share of a machine's peak rate to assume.  [default: 0.4]")
@click.option("--price", type=PRICE, help="Dollars for an hour of one device.")
@click.option("--images", type=POSITIVE, default=37_000_000, show_default=True, help="Images of the data set.")
@click.option(
    "--latent-format", type=ConfigName("latent_format"), help="For the disk.  [default: as in the data there]"
)
@click.option("--caption-format", type=ConfigName("caption_format"), help="[default: as in the data there, or float16]")
@click.option(
    "--caption-tokens",
    type=POSITIVE,
    default=20,
    show_default=True,
    help="Of a caption, for formats up to end-of-text.",
)
@click.option(
    "--batch-size",
    type=POSITIVE,
    help="Images at once that --machine here times.  [default: the microbatch, or what of it takes some seconds]",
)
@click.option("--configs", type=FILE, help="Folder of the stages.  [default: the project's configs]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A Hydra override: backbone=tiny.")
@click.option("--formulae", is_flag=True, help="Print the formulae too.")
def plan(
    wanted: tuple[str, ...],
    machine: str,
    devices: int | None,
    mfu: float | None,
    price: float | None,
    configs: Path | None,
    batch_size: int | None,
    overrides: tuple[str, ...],
    formulae: bool,
    **data: Any,
) -> None:
    """Operations, hours, dollars, memory and disk of training stages (default: the four of the full size).

    Operations and memory are counted by running the network on tensors without data; the speed is measured, or follows
    from a share of the machine's peak rate. KEY=VALUE are Hydra overrides for all stages.
    """
    from micro_diffusion.performance import plan
    from micro_diffusion.performance.disk import data_size

    _refuse_without_effect(machine == "here", {"devices": devices, "mfu": mfu}, {"batch_size": batch_size})
    changes = [*overrides, *(text for text in wanted if "=" in text)]
    names = [text for text in wanted if "=" not in text] or STAGES
    folder = configs or configs_folder()
    stage_configs = plan.stage_configs(folder, names, changes)
    if machine == "here":
        stages, basis = _measured(stage_configs, batch_size, data["images"])
        count = 1
    else:
        share, known = 0.4 if mfu is None else mfu, plan.machine_named(machine, devices)
        stages = [
            plan.plan_stage(stage, config, known, share, data["images"]) for stage, config in stage_configs.items()
        ]
        count = known.devices
        number = f"{count} devices" if count > 1 else "1 device"
        basis = f"{number}, speed assumed, at an MFU of {share:g}"
    of_latents = [config for config in stage_configs.values() if "backbone" in config]
    size = (
        None
        if not of_latents
        else data_size(
            of_latents,
            configs=folder,
            images=data["images"],
            latents=data["latent_format"],
            captions=data["caption_format"],
            tokens=data["caption_tokens"],
        )
    )
    print(f"{machine}: {basis}\n")
    print(plan.report(stages, devices=count, price=price, data=size))
    if formulae:
        print(f"\n{plan.__doc__}")


def _measured(configs: dict[str, Any], batch_size: int | None, images: int) -> tuple[list[Any], str]:
    """The stages, timed here, and a phrase that says so."""
    import torch

    from micro_diffusion.performance import plan

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stages = [
        plan.measure_stage(stage, config, device=device, batch_size=batch_size, images=images)
        for stage, config in configs.items()
    ]
    timed = ", ".join(str(stage.timed) for stage in stages)
    return stages, f"speed measured on this machine, with {timed} images at once"


def _refuse_without_effect(is_measured: bool, of_assumed: dict[str, Any], of_measured: dict[str, Any]) -> None:
    """Raise ValueError for an option that only other machines take."""
    for name, value in (of_assumed if is_measured else of_measured).items():
        if value is not None:
            reason = "with --machine here, which is measured" if is_measured else "without --machine here"
            raise ValueError(f"--{name.replace('_', '-')} has no effect {reason}; leave it out")
