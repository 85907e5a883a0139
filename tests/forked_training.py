"""Trainings in processes forked from the tests', which has imported everything: a start costs a second, not ten."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from composer.utils import get_free_tcp_port

from micro_diffusion.training.errors import one_sentence_errors
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
    """Exit statuses of the ranks of a training, negative for the signal that ended one.

    Whoever runs longer than so many seconds is killed, and with `together` whoever outlives a rank that failed.
    """
    port = get_free_tcp_port()
    children = [
        fork(partial(_train, workplace, arguments, rank, ranks, port, prepare), workplace / f"rank{rank}.log")
        for rank in range(ranks)
    ]
    deadline = time.monotonic() + seconds
    statuses: dict[int, int] = {}
    while len(statuses) < ranks and time.monotonic() < deadline and not (together and any(statuses.values())):
        for child in children:
            if child not in statuses and (found := os.waitpid(child, os.WNOHANG))[0]:
                statuses[child] = os.waitstatus_to_exitcode(found[1])
        time.sleep(0.01)
    for child in set(children) - statuses.keys():
        os.kill(child, signal.SIGKILL)
        statuses[child] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return [statuses[child] for child in children]


def output(workplace: Path, rank: int = 0) -> str:
    """What a rank of the last training has printed and logged."""
    return (workplace / f"rank{rank}.log").read_text()


def fork(work: Callable[[], object], log: Path) -> int:
    """The process id of a child that does some work as a program of its own, with its output in a file."""
    child = os.fork()
    if child:
        return child
    atexit._clear()  # what the parent has registered is not the child's to run
    status: object = 1
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)  # not pytest's
        logging.basicConfig(stream=sys.stderr, format="%(message)s", force=True)
        with one_sentence_errors():
            work()
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        os._exit(status if isinstance(status, int) else 1)


def _train(workplace: Path, arguments: tuple[str, ...], rank: int, ranks: int, port: int, prepare: Prepare) -> None:
    if ranks > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        os.environ |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_PORT": str(port)}
    train_here(workplace, *arguments, *prepare(rank))
