"""What killed processes leave in shared memory is removed, and nothing else."""

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from streaming import MDSWriter

from micro_diffusion.data.stream import shared_memory
from micro_diffusion.data.stream.loader import build_loader
from micro_diffusion.data.stream.shared_memory import SEGMENTS, _names, remove_stale_segments
from micro_diffusion.training.config_checks.errors import one_sentence_errors
from tests.forked_process import fork
from tests.small_training import make_latents

pytestmark = pytest.mark.skipif(not SEGMENTS.is_dir(), reason="needs Linux's /dev/shm")
NAMES = ("locals", "barrier")


@pytest.fixture
def family():
    """Makes the segments of a data set, as the streaming library writes them, and cleans up after the test."""
    made = []

    def make(number: int, folder) -> list:
        paths = [SEGMENTS / f"{number}_{name}" for name in NAMES]
        for path in paths:
            path.write_bytes(b"\0\0\0\0" + os.fsencode(folder) + b"\0" + str(number).encode())
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
    with paths[1].open("r+b") as file, mmap.mmap(file.fileno(), 0):
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
    assert not [path for path in SEGMENTS.glob("*_locals") if any(_names(path, data) for data in two_data_sets)]


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


READ = """
import signal, sys
from streaming import StreamingDataset

dataset = StreamingDataset(local=sys.argv[1], batch_size=2)
next(iter(dataset))
print("ready", flush=True)
signal.pause()
"""


@pytest.mark.slow
def test_a_killed_reader_leaves_nothing_for_the_next(tmp_path):
    with MDSWriter(out=str(tmp_path / "data"), columns={"number": "int"}) as writer:
        for number in range(4):
            writer.write({"number": number})
    command = [sys.executable, "-c", READ, str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline().strip() == "ready"
        (mine_locals,) = (p for p in SEGMENTS.glob("*_locals") if os.fsencode(tmp_path / "data") in p.read_bytes())
        mine = {path.name for path in SEGMENTS.glob(f"{mine_locals.name[:6]}_*")}
        assert len(mine) >= 5
        assert remove_stale_segments(tmp_path / "data") == []
        os.killpg(reader.pid, signal.SIGKILL)
    assert set(remove_stale_segments(tmp_path / "data")) == mine
    assert not any((SEGMENTS / name).exists() for name in mine)
