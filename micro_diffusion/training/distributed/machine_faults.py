"""Faults in the middle of a training, of which torch reports some in its own words, and how to go on after them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from micro_diffusion.machine.processes import KILLED_WORKER

_WAY_ON = "way_on"
"""Attribute of an error that has ended a training."""
GOES_ON = "the same command goes on from the last checkpoint"
_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\..*\n[\w.]+: (?P<message>[^\n]+)\s*\Z", re.DOTALL)
MORE_MEMORY = (
    "use smaller batches (trainer.device_train_microbatch_size, batch_size), fewer workers, or a smaller resolution"
)
_FAULTS = {
    re.compile(r"DefaultCPUAllocator: (can't allocate memory|not enough memory).*?(?P<bytes>\d+) bytes", re.DOTALL): (
        f"the memory of this machine does not hold another {{bytes}} bytes; {MORE_MEMORY}"
    ),
    KILLED_WORKER: (
        "a loader worker (process {pid}) was killed, by the system if memory was short; lower train_loader.workers, or "
        "see to the memory; {way_on}"
    ),
    re.compile(
        r"Connection (closed|reset) by peer|Broken pipe|Socket closed|remote process exited|Application timeout"
        r"|Timed out waiting \d+ms|Watchdog caught collective operation timeout"
    ): "another rank of this job has ended or does not answer; its own error says why; {way_on}",
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
            return sentence.format(way_on=way_on(error), **match.groupdict())
    return None


@contextmanager
def way_on_known(text: str) -> Iterator[None]:
    """Tell the errors that end a training what can be done after them, which its settings decide."""
    try:
        yield
    except BaseException as error:
        vars(error)[_WAY_ON] = text
        raise


def way_on(error: BaseException) -> str:
    """What can be done after an error."""
    return vars(error).get(_WAY_ON, GOES_ON)
