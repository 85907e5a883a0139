"""Faults of the machine in the middle of a training, which torch reports in its own words."""

from __future__ import annotations

import re

from micro_diffusion.data.killed_worker import KILLED_WORKER

_GOES_ON = "the same command goes on from the last checkpoint"
_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\..*\n[\w.]+: (?P<message>[^\n]+)\s*\Z", re.DOTALL)
_FAULTS = {
    KILLED_WORKER: (
        "a loader worker (process {pid}) was killed, by the system if memory was short; lower train_loader.workers, or "
        f"see to the memory; {_GOES_ON}"
    ),
    re.compile(
        r"Connection (closed|reset) by peer|Broken pipe|Socket closed|remote process exited|Application timeout"
        r"|Timed out waiting \d+ms|Watchdog caught collective operation timeout"
    ): f"another rank of this job has ended or does not answer; its own error says why; {_GOES_ON}",
    re.compile(r"failed with an internal microbatch of size 1"): (
        "the GPU's memory does not hold a single sample; use a smaller backbone, or a GPU with more memory"
    ),
}


def machine_fault(error: BaseException) -> str | None:
    """A sentence about a fault that is known by its words, or None."""
    text = str(error)
    if match := _IN_WORKER.search(text):
        return match["message"]
    for pattern, sentence in _FAULTS.items():
        if isinstance(error, RuntimeError) and (match := pattern.search(text)):
            return sentence.format(**match.groupdict())
    return None
