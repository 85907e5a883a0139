"""How torch says that a process of a loader was killed; an error of its own comes with its traceback."""

from __future__ import annotations

import re

KILLED_WORKER = re.compile(
    r"DataLoader worker \(pid\S* (?P<pid>[\d, ]+)\) (is killed by signal: \w+|exited unexpectedly)"
)
