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
from pathlib import Path

from composer.utils import get_free_tcp_port

from micro_diffusion.training.errors import one_sentence_errors
from tests.small_training import train_here

_COLLISION = "File exists: '/"
"""Another program of this machine took the same number for its shared memory in the same instant."""

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
    children = [_fork(workplace, arguments, rank, ranks, port, prepare) for rank in range(ranks)]
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
    if any(_COLLISION in output(workplace, rank) for rank in range(ranks)):
        return run_forked(workplace, *arguments, ranks=ranks, prepare=prepare, seconds=seconds, together=together)
    return [statuses[child] for child in children]


def output(workplace: Path, rank: int = 0) -> str:
    """What a rank of the last training has printed and logged."""
    return (workplace / f"rank{rank}.log").read_text()


def _fork(workplace: Path, arguments: tuple[str, ...], rank: int, ranks: int, port: int, prepare: Prepare) -> int:
    child = os.fork()
    if child:
        return child
    atexit._clear()  # what the parent has registered is not the child's to run
    status: object = 1
    try:
        with (workplace / f"rank{rank}.log").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)  # not pytest's
        logging.basicConfig(stream=sys.stderr, format="%(message)s", force=True)
        if ranks > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
            os.environ |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_PORT": str(port)}
        with one_sentence_errors():
            train_here(workplace, *arguments, *prepare(rank))
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        os._exit(status if isinstance(status, int) else 1)
