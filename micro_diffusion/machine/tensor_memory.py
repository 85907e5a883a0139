"""The memory of tensors on a CPU, which the kernel would else map and clear anew, page by page, for every large one.

docs/performance.md has what that saves.
"""

from __future__ import annotations

import ctypes
import sys

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""Of the environment: 1 has torch ask for pages of 2 MB for large tensors; read when the first tensor is made."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory(device_type: str) -> None:
    """Have a process that computes on a CPU keep the memory of freed tensors for its next ones; with glibc on Linux.

    It then holds until its end what it held at most.

    Args:
        device_type: of the device that computes; nothing is done for others than "cpu".
    """
    if device_type == "cpu" and sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, -1)
