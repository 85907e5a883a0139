"""`micro-diffusion doctor`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

_DESCRIPTION = """Find out before a training what would stop it: libraries, devices, disk, shared memory,
configurations, data, encoders, and one step on a real batch. For the stages that are named, everything must be there;
without a name, all configurations are built and the rest is reported. Ends with status 2 when something is bad."""

SUBJECT_WIDTH = 40


def add(commands: Any) -> None:
    """Describe the command and its options to argparse."""
    parser = commands.add_parser("doctor", help="find out what would stop a training", description=_DESCRIPTION)
    parser.add_argument(
        "wanted", metavar="STAGE|KEY=VALUE", nargs="*", help="stages to run, and Hydra overrides for all of them"
    )
    parser.add_argument("--deep", action="store_true", help="compare every byte of the data with its hash")
    parser.add_argument("--download", action="store_true", help="fetch encoders that are not on this machine")
    parser.add_argument("--data-later", action="store_true", help="the data will be made before the stages run")
    parser.add_argument("--configs", type=Path, default=Path("configs"), help="folder of the stages (default: configs)")
    parser.set_defaults(command=execute)


def execute(options: argparse.Namespace) -> None:
    """`micro-diffusion doctor`; raises ValueError when something is bad."""
    from micro_diffusion.doctor.examination import examine  # imports Composer; generating need not wait for it
    from micro_diffusion.doctor.finding import line

    overrides = [text for text in options.wanted if "=" in text or text.startswith("~")]
    stages = [text for text in options.wanted if text not in overrides]
    bad = []
    for finding in examine(
        options.configs,
        stages,
        overrides,
        deep=options.deep,
        download=options.download,
        data_later=options.data_later,
    ):
        print(line(finding, SUBJECT_WIDTH, coloured=sys.stdout.isatty()), flush=True)
        bad += [finding.subject] if finding.state == "bad" else []
    if bad:
        raise ValueError(f"{len(bad)} bad: {', '.join(bad)}; do what is said above, then ask again")
