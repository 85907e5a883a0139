"""Programs in processes forked from the tests', which has imported everything: a start costs a tenth of a second."""

from __future__ import annotations

import atexit
import faulthandler
import logging
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from subprocess import CompletedProcess

from hydra.core.global_hydra import GlobalHydra
from torch import distributed

SHOW_STACKS = signal.SIGUSR2
"""Has a forked process write the stacks of its threads into its log."""
_PORTS = count(20_000 + 1000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")))
_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


def fork(work: Callable[[], object], out: Path, err: Path | None = None) -> int:
    """The process id of a child that does some work as a program of its own, with its output in files."""
    leave_process_group()
    child = os.fork()
    if child:
        return child
    atexit._clear()  # what the parent has registered is not the child's to run
    status: object = 1
    try:
        os.dup2(os.open(out, _FILE), 1)
        os.dup2(os.open(err, _FILE) if err else 1, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)  # not pytest's
        faulthandler.register(SHOW_STACKS, file=sys.stderr)
        logging.basicConfig(stream=sys.stderr, format="%(message)s", force=True)
        work()
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        os._exit(status if isinstance(status, int) else 1)


def leave_process_group() -> None:
    """End what a training in this process has left: a child takes it for its own, and waits for threads it has not."""
    if distributed.is_initialized() and distributed.get_world_size() == 1:
        time.sleep(0.05)  # else it was seen to wait for good, for a thread that has a last tensor to let go
        distributed.destroy_process_group()


def fork_ranks(work: Callable[[int], object], logs: Sequence[Path]) -> list[int]:
    """The process ids of children that do some work as the ranks of one job, each with its number and its log."""
    ranks, port = len(logs), free_port()

    def as_rank(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        os.environ |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_PORT": str(port)}
        work(rank)

    return [fork(partial(as_rank, rank), log) for rank, log in enumerate(logs)]


def free_port() -> int:
    """A port that nobody uses, and that neither another worker nor a connection gets before it is bound.

    Those that the system chooses for connections, and for who asks for any, are higher.
    """
    while True:
        port = next(_PORTS)
        with socket.socket() as tried, suppress(OSError):
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(("127.0.0.1", port))
            return port


def wait(children: list[int], *, seconds: float, together: bool = False) -> list[int]:
    """The exit statuses of forked processes, negative for the signal that ended one.

    Whoever runs longer than so many seconds is killed, after the stacks of its threads have gone into its log, and
    with `together` whoever outlives one that failed.
    """
    deadline = time.monotonic() + seconds
    statuses: dict[int, int] = {}
    while len(statuses) < len(children) and time.monotonic() < deadline and not (together and any(statuses.values())):
        for child in children:
            if child not in statuses and (found := os.waitpid(child, os.WNOHANG))[0]:
                statuses[child] = os.waitstatus_to_exitcode(found[1])
        time.sleep(0.01)
    left = set(children) - statuses.keys()
    for child in left if time.monotonic() >= deadline else ():
        os.kill(child, SHOW_STACKS)
        time.sleep(0.1)
    for child in left:
        os.kill(child, signal.SIGKILL)
        statuses[child] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return [statuses[child] for child in children]


def run_script(
    script: Path, *arguments: str, cwd: Path, path: Sequence[Path] = (), **environment: str
) -> CompletedProcess[str]:
    """What `python script arguments` does, prints and returns, in a forked process; it also finds modules in `path`."""

    def work() -> None:
        os.chdir(cwd)
        os.environ.update(environment)
        GlobalHydra.instance().clear()
        sys.path[0:0] = map(str, (script.parent, *path))
        sys.argv = [str(script), *arguments]
        runpy.run_path(str(script), run_name="__main__")

    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        (status,) = wait([fork(work, out, err)], seconds=120)
        return CompletedProcess([str(script), *arguments], status, out.read_text(), err.read_text())
