"""Options of the test-suite: slow tests run on request, GPU tests where there is a GPU, none uses the network."""

import atexit
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported, hence before any test is
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported; threads only slow down networks this small

SLOW_SECONDS = 1800
HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))  # a test's own mark comes before it
            if not config.getoption("--slow"):
                item.add_marker(pytest.mark.skip(reason="slow; runs with --slow"))
        if "gpu" in item.keywords and not has_gpu():
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture(scope="session", autouse=True)
def little_patience() -> None:
    """A loader that an error has left to the garbage collector is not waited for, five seconds for each worker.

    The collector closes the queues first through which the loader then tells its workers to end.
    """
    from torch.utils.data import _utils

    _utils.MP_STATUS_CHECK_INTERVAL = 0.2


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A training that an error has ended leaves its own, with which a process forked later could not be terminated."""
    yield
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def process_group() -> Iterator[None]:
    """A training leaves its own, which the next test would take for its."""
    yield
    if "torch.distributed" in sys.modules:
        from tests.forked_process import leave_process_group

        leave_process_group()


@pytest.fixture(autouse=True)
def shared_memory() -> Iterator[None]:
    """What streaming opens in a test is closed after it.

    It would do so at the end of the process, and opens for every data set the segments of all before it once more.
    """
    if "streaming" not in sys.modules:
        yield
        return
    from streaming.base.shared.memory import SharedMemory

    opened: list[SharedMemory] = []
    initialize = SharedMemory.__init__

    def recorded(self: SharedMemory, *arguments: Any, **options: Any) -> None:
        initialize(self, *arguments, **options)
        opened.append(self)

    SharedMemory.__init__ = recorded
    yield
    SharedMemory.__init__ = initialize
    for memory in opened:
        atexit.unregister(memory.cleanup)
        for segment in memory.created_shms:
            with suppress(FileNotFoundError):
                segment.unlink()
        for segment in (*memory.created_shms, *memory.opened_shms):
            with suppress(BufferError):  # an array still lies on it
                segment.close()


@cache
def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
