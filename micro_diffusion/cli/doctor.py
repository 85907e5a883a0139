"""`micro-diffusion doctor`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from micro_diffusion.cli.arguments import FILE
from micro_diffusion.files.configs import configs_folder

SUBJECT_WIDTH = 40


@click.command(short_help="find out what would stop a training")
@click.argument("wanted", metavar="[STAGE|KEY=VALUE]...", nargs=-1)
@click.option("--deep", is_flag=True, help="Compare every byte of the data with its hash.")
@click.option("--download", is_flag=True, help="Fetch encoders that are not on this machine.")
@click.option("--data-later", is_flag=True, help="The data will be made before the stages run.")
@click.option("--configs", type=FILE, help="Folder of the stages.  [default: the project's configs]")
def doctor(wanted: tuple[str, ...], configs: Path | None, **checks: bool) -> None:
    """Find out before a training what would stop it.

    Looks at libraries, devices, disk, shared memory, configurations, data, encoders, and one step on a real batch. For
    the stages that are named, everything must be there; without a name, all configurations are built and the rest is
    reported. KEY=VALUE are Hydra overrides for all of them. Ends with status 2 when something is bad.
    """
    from micro_diffusion.doctor.examination import examine
    from micro_diffusion.doctor.finding import line

    overrides = [text for text in wanted if "=" in text or text.startswith("~")]
    stages = [text for text in wanted if text not in overrides]
    bad = []
    for finding in examine(configs or configs_folder(), stages, overrides, **checks):
        print(line(finding, SUBJECT_WIDTH, coloured=sys.stdout.isatty()), flush=True)
        bad += [finding.subject] if finding.state == "bad" else []
    if bad:
        raise ValueError(f"{len(bad)} bad: {', '.join(bad)}; do what is said above, then ask again")
