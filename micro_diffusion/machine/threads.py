"""torch's threads on a CPU give way to other programs, without a change of what they compute.

A thread of libgomp that waits for the others spins for milliseconds: the fastest way on an idle machine, but where
another program has the core of one of them, the others burn theirs meanwhile, at every one of thousands of barriers.
`GOMP_SPINCOUNT` and `OMP_WAIT_POLICY` settle that for the whole life of a process, in favour of one of the two cases.
libgomp itself spins for a moment only while it has more threads than there are processors, and looks at every barrier
(`gomp_throttled_spin_count_var` in its `config/linux/wait.h`). So a few more threads, which sleep, are kept just while
the kernel says that threads of this process wait for a processor. docs/performance.md has what that saves.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import torch

log = logging.getLogger(__name__)

SETTLED = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Of the environment: with one of them, the user has chosen."""

TASKS = Path("/proc/self/task")
SECONDS = 0.5
"""Between two looks at how long threads have waited."""
BUSY, IDLE = 0.1, 0.05
"""Share of that time for which they wait, one after the other, beside another program, and on an idle machine."""
COMPUTES = 0.1
"""Share of that time for which a thread that computes wants a processor; others only look for work, often."""
CALM = 4
"""So many looks in a row have to find the machine idle."""
LARGE = 2**20
"""Numbers, of which torch gives a share to each thread."""
MOST = 4
"""Helpers at most, each with as many threads as torch has."""

_watched = threading.Event()


def yield_when_busy(device_type: str) -> None:
    """Watch over this process's threads until it ends; on Linux, for work on a CPU with several threads.

    Args:
        device_type: of the device that computes; nothing is done for others than "cpu".
    """
    if device_type != "cpu" or any(name in os.environ for name in SETTLED) or _watched.is_set():
        return
    if waited() is not None and 0 < missing_helpers(torch.get_num_threads(), _processors()) <= MOST:
        _watched.set()
        threading.Thread(target=_watch, name="yields when busy", daemon=True).start()


def waited() -> dict[str, tuple[float, float]] | None:
    """Seconds for which each thread has run, and has waited for a processor; None where nobody counts them."""
    seconds = {}
    for task in TASKS.iterdir() if TASKS.is_dir() else ():
        try:
            ran, waits, _ = (task / "schedstat").read_text().split()
        except (OSError, ValueError):  # it has ended, or the kernel does not count
            continue
        seconds[task.name] = int(ran) / 1e9, int(waits) / 1e9
    return seconds or None


def waiting_share(before: dict[str, tuple[float, float]], now: dict[str, tuple[float, float]], seconds: float) -> float:
    """Share of the seconds between two answers of `waited` for which threads that compute waited, together."""
    spent = [(now[task][0] - before[task][0], now[task][1] - before[task][1]) for task in now.keys() & before.keys()]
    return sum(waits for ran, waits in spent if ran + waits > COMPUTES * seconds) / seconds


def missing_helpers(threads: int, processors: int) -> int:
    """How many helpers make libgomp's threads more than the processors; 0 for a single thread, which waits for none."""
    return 0 if threads < 2 else max(0, processors - threads) // (threads - 1) + 1


def _processors() -> int:
    return len(os.sched_getaffinity(0))


def _watch() -> None:
    helpers = Helpers(missing_helpers(torch.get_num_threads(), _processors()))
    calm, before, then, told = 0, waited() or {}, time.monotonic(), False
    while True:
        time.sleep(SECONDS)
        after, now = waited() or {}, time.monotonic()
        share, before, then = waiting_share(before, after, now - then), after, now
        calm = calm + 1 if share < IDLE else 0
        if share > BUSY and not helpers.here:
            helpers.come()
            if not told:
                log.info("other programs want the processors: torch's threads wait for one another without spinning")
            told = True
        elif calm >= CALM and helpers.here:
            helpers.go()


class Helpers:
    """Python threads, each of which has libgomp make, and keep, threads of its own."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._leave: threading.Event | None = None

    @property
    def here(self) -> bool:
        """Whether they are kept now."""
        return self._leave is not None

    def come(self) -> None:
        """Have libgomp make the threads."""
        self._leave = threading.Event()
        for _ in range(self.count):
            threading.Thread(target=self._stay, args=(self._leave,), name="holds threads", daemon=True).start()

    def go(self) -> None:
        """Let them end, and libgomp's threads with them."""
        assert self._leave is not None
        self._leave.set()
        self._leave = None

    @staticmethod
    def _stay(leave: threading.Event) -> None:
        torch.zeros(LARGE).add_(1)
        leave.wait()
