"""The run that guidance leads away from: autoguidance, Karras et al. 2024, arXiv 2406.02507."""

from __future__ import annotations

from typing import NamedTuple

from micro_diffusion.checkpoint import Run
from micro_diffusion.sampling.guidance import WeakerRun, without_route


class NamedRun(NamedTuple):
    """A run with the name by which `find_run` finds it again."""

    name: str
    run: Run


def weaker_run(weaker: Run, run: Run) -> WeakerRun:
    """The weaker run's network, shown the captions and latents of `run`; of `run` itself, without its route.

    Raises:
        ValueError: when it was trained with another text encoder or autoencoder, or has no route that it can leave.
    """
    if weaker is run:
        return without_route(run.objective, run.backbone)
    for part in ("text_encoder", "autoencoder"):
        ours, theirs = getattr(run, part).name, getattr(weaker, part).name
        if ours != theirs:
            raise ValueError(
                f"the weaker run {weaker.folder} has the {part} {theirs}, but {run.folder} has {ours}; choose a run "
                "that was trained with the same"
            )
    return WeakerRun(weaker.objective, weaker.backbone)
