"""The networks, objectives and samplers, and a training, under another interpreter with another torch.

OTHER_TORCH=/path/to/bin/python names it; docs/newer_torch.md says how to make one and what came of it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = os.environ.get("OTHER_TORCH")
TRAINING = "tests/training/test_train.py::test_the_run_folder_describes_itself"
MANY_DEVICES = ["tests/training/test_many_devices.py", "--slow", "-k", "hsdp"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="OTHER_TORCH names no Python interpreter with another torch"),
]


def under_the_other(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([str(PYTHON), *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def passed(result: subprocess.CompletedProcess[str]) -> bool:
    print(result.stdout[-3000:], result.stderr[-3000:])
    return result.returncode == 0


def test_the_core_passes_its_tests():
    assert passed(under_the_other("-m", "pytest", "-q", "tests/backbone", "tests/diffusion", "tests/sampling"))


@pytest.fixture
def composer() -> None:
    """Composer is there too."""
    if under_the_other("-c", "import composer").returncode:
        pytest.skip(f"{PYTHON} has no Composer, so it cannot train")


@pytest.mark.usefixtures("composer")
def test_training_makes_a_run_folder():
    assert passed(under_the_other("-m", "pytest", "-q", TRAINING))


@pytest.mark.usefixtures("composer")
def test_groups_of_ranks_learn_what_one_learns():
    assert passed(under_the_other("-m", "pytest", "-q", *MANY_DEVICES))
