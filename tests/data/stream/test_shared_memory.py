"""What killed processes leave in shared memory is removed, and nothing else."""

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from micro_diffusion.data.stream import shared_memory
from micro_diffusion.data.stream.loader import build_loader
from micro_diffusion.data.stream.shared_memory import SEGMENTS, remove_stale_segments
from micro_diffusion.training.config_checks.errors import one_sentence_errors
from tests.forked_process import fork
from tests.small_training import make_latents

pytestmark = pytest.mark.skipif(not SEGMENTS.is_dir(), reason="needs Linux's /dev/shm")
NAMES = ("barrier", "locals", "owner")


@pytest.fixture
def family():
    """Makes the segments of a data set that a killed process has left, and cleans up after the test."""
    made = []

    def make(number: int, folder) -> list:
        paths = [SEGMENTS / f"{number}_{name}" for name in NAMES]
        for path in paths:
            path.write_bytes(os.fsencode(folder))
        made.extend(paths)
        return paths

    yield make
    for path in made:
        path.unlink(missing_ok=True)


def test_abandoned_segments_of_the_folder_go(family, tmp_path, monkeypatch):
    mine, other = family(999990, tmp_path / "mine"), family(999991, tmp_path / "mine" / "deeper")
    monkeypatch.chdir(tmp_path)
    assert remove_stale_segments(type(tmp_path)("mine")) == sorted(path.name for path in mine)
    assert not any(path.exists() for path in mine)
    assert all(path.exists() for path in other)


def test_a_path_that_leads_up_and_down_is_the_same_folder(family, tmp_path):
    paths = family(999994, tmp_path / "mine")
    (tmp_path / "other").mkdir()
    assert remove_stale_segments(tmp_path / "other" / ".." / "mine") == sorted(path.name for path in paths)


def test_segments_in_use_stay(family, tmp_path):
    paths = family(999992, tmp_path)
    with paths[-1].open() as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert remove_stale_segments(tmp_path) == []
        assert all(path.exists() for path in paths)
    assert len(remove_stale_segments(tmp_path)) == len(paths)


def test_other_ranks_leave_the_cleaning_to_the_first(family, tmp_path, monkeypatch):
    paths = family(999993, tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert remove_stale_segments(tmp_path) == []
    assert all(path.exists() for path in paths)


def at_once(work: list[Callable[[], object]], folder: Path) -> list[str]:
    """What programs say that begin together: nothing, when all is well."""
    start = time.monotonic() + 0.3

    def begin(some: Callable[[], object]) -> None:
        time.sleep(max(0.0, start - time.monotonic()))
        some()

    logs = [folder / f"{number}.log" for number in range(len(work))]
    children = [fork(partial(begin, some), log) for some, log in zip(work, logs, strict=True)]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return [log.read_text() for log, status in zip(logs, statuses, strict=True) if status]


def read(folder: Path) -> None:
    with one_sentence_errors():
        loader = build_loader(path=str(folder), resolution=16, batch_size=4, shuffle=True)
        assert sum(len(batch["key"]) for batch in loader) == 8


@pytest.fixture(scope="module")
def two_data_sets(tmp_path_factory) -> list[Path]:
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "other")]
    for folder in folders:
        make_latents(folder, count=8)
    return [folder / "latents" for folder in folders]


def test_programs_that_begin_together_do_not_disturb_each_other(two_data_sets, tmp_path):
    """Eight of them, twice, on the same data and on others."""
    for _ in range(2):
        assert at_once([partial(read, two_data_sets[number % 2]) for number in range(8)], tmp_path) == []
    assert not [path for data in two_data_sets for path in segments(data)]


def test_a_program_that_hangs_in_its_start_is_not_waited_for(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shared_memory, "PATIENCE", 0.1)
    with shared_memory.registration([tmp_path]), shared_memory.registration([tmp_path]):
        assert "another job has not finished its start for 0.1 s" in caplog.text


def test_without_the_lock_they_do(two_data_sets, tmp_path, monkeypatch):
    with shared_memory._lock():  # which keeps the other programs of this machine out
        monkeypatch.setattr(shared_memory, "_lock", nullcontext)
        collisions = (at_once([partial(read, two_data_sets[0])] * 8, tmp_path) for _ in range(20))
        said = next(filter(None, collisions))
    assert "Error: another program took the shared memory /" in said[0] and "same command again" in said[0]


def segments(data: Path) -> set[str]:
    """All segments of the programs that read a folder, by name."""
    numbers = [path.name[:6] for path in SEGMENTS.glob("*_locals") if os.fsencode(data) in path.read_bytes()]
    return {segment.name for number in numbers for segment in SEGMENTS.glob(f"{number}_*")}


@contextmanager
def reading(data: Path, log: Path) -> Iterator[int]:
    """The process of a program that is about to read, and waits until it is killed."""

    def work() -> None:
        loader = build_loader(path=str(data), resolution=16, batch_size=4, shuffle=False)
        print("ready with", loader)
        signal.pause()

    child, deadline = fork(work, log), time.monotonic() + 60
    try:
        while "ready" not in (log.read_text() if log.exists() else ""):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_killed_program_leaves_nothing_for_the_next_though_another_has_found_its_segments(two_data_sets, tmp_path):
    data, other = two_data_sets
    resource_tracker.ensure_running()  # that of a program by itself removes them, unless it is killed as well
    with ExitStack() as killed:
        killed.enter_context(reading(data, tmp_path / "killed.log"))
        with reading(other, tmp_path / "beside.log") as beside:
            mine, others = segments(data), segments(other)
            assert {name[7:] for name in mine} == {name[7:] for name in others} >= {"locals", "barrier", "owner"}
            assert any(name in Path(f"/proc/{beside}/maps").read_text() for name in mine)
            assert remove_stale_segments(data) == remove_stale_segments(other) == []
            killed.close()
            assert set(remove_stale_segments(data)) == mine and segments(data) == set()
            assert remove_stale_segments(other) == [] and segments(other) == others
    assert set(remove_stale_segments(other)) == others
