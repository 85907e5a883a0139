"""Processes that do not outlive the one that started them."""

from __future__ import annotations

import ctypes
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(signal: int) -> None:
    """Have the kernel send this process a signal when its parent ends, even when that is killed; on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal)
