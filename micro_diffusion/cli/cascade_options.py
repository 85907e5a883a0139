"""The options of `generate` that are about the stages of a cascade."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from micro_diffusion.cli.arguments import FILE, NUMBERS, POSITIVE


@dataclass(frozen=True)
class CascadeOptions:
    """What the command line says about single stages; None is each stage's own choice."""

    stage_steps: list[float] | None
    stage_guidance: list[float] | None
    stop_after: int | None
    image: Path | None
    all_stages: bool

    def refuse(self) -> None:
        """Raise ValueError for the first that is set, where there are no stages."""
        for field in fields(self):
            if field.name != "image" and getattr(self, field.name):
                raise ValueError(
                    f"--{field.name.replace('_', '-')} has no effect on a single run; give the runs of a cascade, or "
                    "leave it out"
                )


_OPTIONS = (
    click.option("--stage-steps", type=NUMBERS, help="Of a cascade: steps of each stage, such as 50,30,20."),
    click.option("--stage-guidance", type=NUMBERS, help="Of a cascade: guidance scale of each stage, such as 5,1,1."),
    click.option("--stop-after", type=POSITIVE, help="Of a cascade: the last of its stages to run, counted from 1."),
    click.option(
        "--image",
        type=FILE,
        help="An image to start from; in a cascade, at the stage for its size.",
    ),
    click.option("--all-stages", is_flag=True, help="Of a cascade: keep the images of every stage, a row each."),
)


def cascade_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command all these options, as one `stages`."""
    names = [field.name for field in fields(CascadeOptions)]

    @wraps(command)
    def gathered(**given: Any) -> Any:
        return command(stages=CascadeOptions(**{name: given.pop(name) for name in names}), **given)

    for option in reversed(_OPTIONS):
        gathered = option(gathered)
    return gathered
