"""The options of every command that generates images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, Literal

import click

from micro_diffusion.cli.arguments import FILE, POSITIVE, RUN, WEIGHTS, ConfigName


@dataclass(frozen=True)
class GenerationOptions:
    """What the command line says about a run and how to generate with it; None is the run's own choice."""

    run: str
    seeds: tuple[int, ...]
    sampler: str | None
    levels: str | None
    steps: int | None
    guidance_scale: float | None
    guidance_interval: tuple[float, float] | None
    guidance_rescale: float | None
    weaker: str | None
    weights: Literal["ema", "raw"] | None
    device: str | None
    precision: Literal["auto", "fp32", "bf16"]
    compile: bool
    batch_size: int
    configs: Path | None

    @property
    def seed(self) -> int | None:
        """The only seed, for what takes one.

        Raises:
            ValueError: when there are several.
        """
        if len(self.seeds) > 1:
            raise ValueError(f"{len(self.seeds)} seeds are given, but one alone has an effect here; leave out the rest")
        return self.seeds[0] if self.seeds else None


_OPTIONS = (
    click.argument("run", metavar="RUN", type=RUN),
    click.option(
        "--seed", "seeds", type=int, multiple=True, help="Any integer; equal seeds, equal images.  [default: the run's]"
    ),
    click.option(
        "--sampler", type=ConfigName("sampler"), help="A name of configs/sampler.  [default: the run's own sampler]"
    ),
    click.option(
        "--levels",
        type=ConfigName("levels"),
        help="Noise levels, a name of configs/levels.  [default: those of the run's sampler]",
    ),
    click.option("--steps", type=POSITIVE, help="Sampling steps.  [default: those of the sampler]"),
    click.option(
        "--guidance-scale",
        type=float,
        help="0 unconditional, 1 conditional, above 1 guided.  [default: the run's]",
    ),
    click.option(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar="LOW HIGH",
        help="Guide between these noise levels only; the others cost half.  [default: everywhere]",
    ),
    click.option(
        "--guidance-rescale",
        type=float,
        metavar="PHI",
        help="From 0 to 1: how far guided images get the contrast of unguided ones.  [default: 0]",
    ),
    click.option(
        "--weaker",
        type=RUN,
        metavar="RUN",
        help="Guide away from this less trained or smaller run instead of from no prompt (autoguidance); `route` is "
        "RUN without the blocks of its route and without a prompt (path-drop guidance).",
    ),
    click.option("--weights", type=WEIGHTS, help="[default: ema where the run has them, else raw]"),
    click.option("--device", help="cpu, cuda, cuda:1.  [default: cuda where there is one, else cpu]"),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16"]),
        default="auto",
        show_default=True,
        help="auto: bf16 where fast.",
    ),
    click.option("--compile", is_flag=True, help="Compile the network first; pays for many images."),
    click.option("--batch-size", type=POSITIVE, default=16, show_default=True, help="Images generated at once."),
    click.option("--configs", type=FILE, help="Where --sampler and --levels are.  [default: the project's configs]"),
)


def generation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the argument RUN and all these options, as one `generation`."""
    names = [field.name for field in fields(GenerationOptions)]

    @wraps(command)
    def gathered(**given: Any) -> Any:
        return command(generation=GenerationOptions(**{name: given.pop(name) for name in names}), **given)

    for option in reversed(_OPTIONS):
        gathered = option(gathered)
    return gathered
