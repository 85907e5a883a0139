"""Processes of one job: they end with the one that started them, and a killed one is recognised."""

from __future__ import annotations

import ctypes
import os
import re
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

KILLED_WORKER = re.compile(
    r"DataLoader worker \(pid\S* (?P<pid>[\d, ]+)\) (is killed by signal: \w+|exited unexpectedly)"
)
"""How torch says that a process of a loader was killed; an error of its own comes with its traceback."""


def usable_cores() -> int:
    """Processor cores that this process may use: `taskset`, containers and Slurm may leave it fewer than there are."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(allowed, int(slurm)) if slurm.isdecimal() and int(slurm) else allowed


def exit_with_parent(signal: int) -> None:
    """Have the kernel send this process a signal when its parent ends, even when that is killed; on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal)
