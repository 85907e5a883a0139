"""Processes of one job: they end with the one that started them, and a killed one is recognised."""

from __future__ import annotations

import ctypes
import re
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

KILLED_WORKER = re.compile(
    r"DataLoader worker \(pid\S* (?P<pid>[\d, ]+)\) (is killed by signal: \w+|exited unexpectedly)"
)
"""How torch says that a process of a loader was killed; an error of its own comes with its traceback."""


def exit_with_parent(signal: int) -> None:
    """Have the kernel send this process a signal when its parent ends, even when that is killed; on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal)
