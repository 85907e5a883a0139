"""Options of the test-suite: slow tests run on request, GPU tests where there is a GPU, none uses the network."""

import os
from functools import cache

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported, hence before any test is
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported; threads only slow down networks this small

SLOW_SECONDS = 1800


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


@cache
def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
