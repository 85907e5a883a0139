"""`micro-diffusion plan`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from micro_diffusion.cli.arguments import device, positive, price

_DESCRIPTION = """Operations, hours, dollars, memory and disk of training stages. Operations and memory are counted by
running the network on tensors without data; the speed is measured, or follows from a share of the machine's
peak rate."""

STAGES = ["256_pretrain", "256_finetune", "512_pretrain", "512_finetune"]


def add(commands: Any) -> None:
    """Describe the command and its options to argparse."""
    parser = commands.add_parser("plan", help="what training will cost on a machine", description=_DESCRIPTION)
    parser.add_argument("stages", metavar="STAGE", nargs="*", default=STAGES, help=f"default: {' '.join(STAGES)}")
    parser.add_argument(
        "--machine", default="h100x8", help="h100, h200, a100, all also x8; 4090; cpu; or here, measured"
    )
    parser.add_argument("--devices", type=positive, help="how many of the machine's devices (default: as it is named)")
    parser.add_argument("--mfu", type=float, help="share of a machine's peak rate to assume (default: 0.4)")
    parser.add_argument("--price", type=price, help="dollars for an hour of one device")
    parser.add_argument("--images", type=positive, default=37_000_000, help="of the data set (default: 37 million)")
    parser.add_argument("--latent-format", metavar="NAME", help="an option of configs/latent_format, for the disk")
    parser.add_argument(
        "--caption-format",
        metavar="NAME",
        help="an option of configs/caption_format (default of both: as in the data set that is there, or float16)",
    )
    parser.add_argument(
        "--caption-tokens", type=positive, default=20, help="of a caption, for formats up to end-of-text (default: 20)"
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        help="images at once that --machine here times (default: the microbatch, or what of it takes some seconds)",
    )
    parser.add_argument("--configs", type=Path, default=Path("configs"), help="folder of the stages (default: configs)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="Hydra overrides: backbone=tiny")
    parser.add_argument("--formulae", action="store_true", help="print the formulae too")
    parser.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> None:
    """`micro-diffusion plan`."""
    from micro_diffusion.performance import plan  # imports Composer; generating need not wait for it
    from micro_diffusion.performance.disk import data_size

    _refuse_without_effect(options)
    configs = plan.stage_configs(options.configs, options.stages, options.set)
    if options.machine == "here":
        kind = device("cuda" if torch.cuda.is_available() else "cpu")
        measured = {"device": kind, "batch_size": options.batch_size}
        stages = [plan.measure_stage(stage, config, **measured) for stage, config in configs.items()]
        timed = ", ".join(str(stage.timed) for stage in stages)
        devices, basis = 1, f"speed measured on this machine, with {timed} images at once"
    else:
        mfu = 0.4 if options.mfu is None else options.mfu
        machine = plan.machine_named(options.machine, options.devices)
        stages = [plan.plan_stage(stage, config, machine, mfu) for stage, config in configs.items()]
        number = f"{machine.devices} devices" if machine.devices > 1 else "1 device"
        devices, basis = machine.devices, f"{number}, speed assumed, at an MFU of {mfu:g}"
    data = data_size(
        list(configs.values()),
        configs=options.configs,
        images=options.images,
        latents=options.latent_format,
        captions=options.caption_format,
        tokens=options.caption_tokens,
    )
    print(f"{options.machine}: {basis}\n")
    print(plan.report(stages, devices=devices, price=options.price, data=data))
    if options.formulae:
        print(f"\n{plan.__doc__}")


def _refuse_without_effect(options: argparse.Namespace) -> None:
    """Raise ValueError for an option that only other machines take."""
    is_measured = options.machine == "here"
    for name in ("devices", "mfu") if is_measured else ("batch_size",):
        if getattr(options, name) is not None:
            reason = "with --machine here, which is measured" if is_measured else "without --machine here"
            raise ValueError(f"--{name.replace('_', '-')} has no effect {reason}; leave it out")
