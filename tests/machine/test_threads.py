"""torch's threads beside other programs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from micro_diffusion.machine import threads
from micro_diffusion.machine.threads import Helpers, missing_helpers, waited, waiting_share, yield_when_busy

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("count", "processors", "helpers"), [(1, 2, 0), (2, 2, 1), (4, 8, 2), (8, 8, 1), (2, 64, 63), (4, 2, 1)]
)
def test_helpers_make_the_threads_more_than_the_processors(count, processors, helpers):
    assert missing_helpers(count, processors) == helpers
    if helpers:
        assert count + helpers * (count - 1) > processors


@pytest.mark.parametrize(
    ("device", "variable"), [("cuda", None), ("cpu", "GOMP_SPINCOUNT"), ("cpu", "OMP_WAIT_POLICY")]
)
def test_nothing_is_watched_on_a_gpu_or_where_the_user_has_chosen(device, variable, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for name in threads.SETTLED:
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "1000")
    yield_when_busy(device)
    assert not threads._watched.is_set()


def test_a_kernel_that_counts_no_waits_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "TASKS", tmp_path)
    assert waited() is None
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "schedstat").write_text("5 2000000000 7\n")
    (tmp_path / "2").mkdir()
    assert waited() == {"1": (5e-9, 2.0)}


def test_threads_that_only_look_for_work_do_not_count():
    before = {"computes": (1.0, 0.5), "starved": (0.0, 0.0), "looks": (1.0, 1.0), "ended": (3.0, 3.0)}
    now = {"computes": (1.9, 0.6), "starved": (0.0, 0.7), "looks": (1.02, 1.07), "new": (9.0, 9.0)}
    assert waiting_share(before, now, 1.0) == pytest.approx(0.1 + 0.7)


WATCHED = """
import logging, time, torch
from micro_diffusion.machine import threads
logging.basicConfig(level=logging.INFO, format="%(message)s")
waits = iter([0.0, 0.0, 0.0, *[10.0 * i for i in range(1, 4)], *[30.0] * 100])
threads.SECONDS, threads.waited = 0.05, lambda: {"1": 2 * (next(waits),)}
torch.set_num_threads(2)
threads.os.environ = {}
threads._processors = lambda: 2
states = []
come, go = threads.Helpers.come, threads.Helpers.go
threads.Helpers.come = lambda self: (states.append("come"), come(self))
threads.Helpers.go = lambda self: (states.append("go"), go(self))
x = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
before = x @ x
threads.yield_when_busy("cpu")
time.sleep(0.4)
assert torch.equal(x @ x, before)
time.sleep(1)
print(states)
"""


def test_helpers_come_with_another_program_and_go_after_it():
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WATCHED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "['come', 'go']"
    assert result.stderr.count("torch's threads wait for one another without spinning") == 1


def test_helpers_end():
    helpers = Helpers(2)
    helpers.come()
    assert helpers.here
    helpers.go()
    assert not helpers.here
