"""Trainings of one or several ranks in forked processes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from composer.utils import get_free_tcp_port

from micro_diffusion.training.config_checks.errors import one_sentence_errors
from tests.forked_process import fork, wait
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
    port = get_free_tcp_port()
    children = [
        fork(partial(_train, workplace, arguments, rank, ranks, port, prepare), workplace / f"rank{rank}.log")
        for rank in range(ranks)
    ]
    return wait(children, seconds=seconds, together=together)


def output(workplace: Path, rank: int = 0) -> str:
    """What a rank of the last training has printed and logged."""
    return (workplace / f"rank{rank}.log").read_text()


def _train(workplace: Path, arguments: tuple[str, ...], rank: int, ranks: int, port: int, prepare: Prepare) -> None:
    if ranks > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        os.environ |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_PORT": str(port)}
    sys.path.insert(0, str(workplace))
    logging.getLogger("micro_diffusion").setLevel(logging.INFO)
    with one_sentence_errors():
        train_here(workplace, *arguments, *prepare(rank))
