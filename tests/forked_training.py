"""Trainings of one or several ranks in forked processes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from micro_diffusion.training.config_checks.errors import one_sentence_errors
from tests.forked_process import fork, fork_ranks, wait
from tests.small_training import train_here

Prepare = Callable[[int], list[str]]
"""Runs in the process of a rank before it trains; gives further overrides."""


def run_forked(
    workplace: Path,
    *arguments: str,
    ranks: int = 1,
    prepare: Prepare = lambda rank: [],
    seconds: float = 120,
    together: bool = False,
) -> list[int]:
    """Exit statuses of the ranks of a training, which find modules in the workplace.

    `seconds` and `together` are those of `wait`.
    """
    work = partial(_train, workplace, arguments, prepare)
    logs = [workplace / f"rank{rank}.log" for rank in range(ranks)]
    children = fork_ranks(work, logs) if ranks > 1 else [fork(partial(work, 0), logs[0])]
    return wait(children, seconds=seconds, together=together)


def output(workplace: Path, rank: int = 0) -> str:
    """What a rank of the last training has printed and logged."""
    return (workplace / f"rank{rank}.log").read_text()


def _train(workplace: Path, arguments: tuple[str, ...], prepare: Prepare, rank: int) -> None:
    sys.path.insert(0, str(workplace))
    logging.getLogger("micro_diffusion").setLevel(logging.INFO)
    with one_sentence_errors():
        train_here(workplace, *arguments, *prepare(rank))
