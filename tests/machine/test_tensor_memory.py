"""The memory of tensors: large ones lie in huge pages, and take the pages of those before them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from micro_diffusion.machine.tensor_memory import HUGE_PAGES

PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

COUNT = """
from resource import RUSAGE_SELF, getrusage
import sys
import numpy as np
from micro_diffusion.machine.tensor_memory import keep_freed_memory

def faults():
    return getrusage(RUSAGE_SELF).ru_minflt

keep_freed_memory(sys.argv[1])
np.ones(2**26, np.uint8)
before = faults()
for _ in range(10):
    np.ones(2**26, np.uint8)
print(faults() - before)
"""


HUGE = """
import micro_diffusion, torch
tensor = torch.ones(2**26)
print(next(line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")))
"""


def run(code: str, *arguments: str, **environment: str) -> int:
    """The number that a new Python prints."""
    usual = {name: value for name, value in os.environ.items() if name != HUGE_PAGES}
    command = [sys.executable, "-c", code, *arguments]
    made = subprocess.run(command, capture_output=True, text=True, check=True, env=usual | environment)
    return int(made.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux alone is told")
@pytest.mark.parametrize(("device", "few"), [("cpu", True), ("cuda", False)])
def test_only_a_process_that_computes_on_a_cpu_keeps_its_memory(device, few):
    assert (run(COUNT, device) < 100) is few


@pytest.mark.skipif(not PAGES.is_file() or "[madvise]" not in PAGES.read_text(), reason="the kernel is not to be asked")
def test_large_tensors_lie_in_huge_pages_unless_the_environment_says_no():
    assert run(HUGE) > 200_000  # of 262,144 KB
    assert run(HUGE, THP_MEM_ALLOC_ENABLE="0") == 0
