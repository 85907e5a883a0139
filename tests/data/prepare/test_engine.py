"""Work on many tasks at a time: all results, the first error, and no process left behind."""

import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from micro_diffusion.data.prepare.convert import convert
from micro_diffusion.data.prepare.engine import Processes, RayTasks
from micro_diffusion.data.prepare.preparation import Preparation
from micro_diffusion.data.sources.shapes import Shapes


def square(number: int) -> int:
    return number * number


def fail_at_three(folder: Path, number: int) -> None:
    if number == 3:
        raise OSError("three is too many")
    time.sleep(0.02)
    (folder / str(number)).touch()


def sleep_on(folder: Path, number: int) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def is_running(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("count", [1, 3])
def test_every_task_is_done_once(count):
    assert sorted(Processes(count=count).run(square, range(50))) == [n * n for n in range(50)]
    assert list(Processes(count=count).run(square, [])) == []


@pytest.mark.parametrize("count", [1, 2])
def test_the_first_error_ends_the_work(tmp_path, count):
    with pytest.raises(OSError, match="three is too many"):
        list(Processes(count=count).run(partial(fail_at_three, tmp_path), range(100)))
    assert len(list(tmp_path.iterdir())) < 50


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_an_error_not_a_wait():
    with pytest.raises(ChildProcessError, match="a process was killed, perhaps for lack of memory"):
        list(Processes(count=2).run(die, range(2)))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_no_process_outlives_a_killed_job(tmp_path):
    job = multiprocessing.get_context("fork").Process(
        target=lambda: list(Processes(count=2).run(partial(sleep_on, tmp_path), range(2)))
    )
    job.start()
    deadline = time.monotonic() + 20
    while len(workers := [int(path.name) for path in tmp_path.iterdir()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert all(map(is_running, workers))
    os.kill(job.pid, signal.SIGKILL)
    job.join()
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_ray_makes_the_same_data_set_as_processes_and_raises_the_same_errors(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    begun = tmp_path / "begun"
    begun.mkdir()
    try:
        with pytest.raises(OSError, match="^three is too many$") as raised:
            list(RayTasks(in_flight=2).run(partial(fail_at_three, begun), range(100)))
        assert type(raised.value) is OSError
        assert len(list(begun.iterdir())) < 10
        with pytest.raises(ChildProcessError, match=r"the cluster lost a task \(WorkerCrashedError\)"):
            list(RayTasks().run(die, range(1)))
        for out, engine in (("ray", RayTasks()), ("processes", Processes(count=1))):
            convert(
                source=Shapes(seed=0, count=400, resolution=16),
                out=tmp_path / out,
                preparation=Preparation(),
                engine=engine,
                part_size=128,
            )
    finally:
        ray.shutdown()
    files = [{path.name: path.read_bytes() for path in (tmp_path / out).rglob("*.*")} for out in ("ray", "processes")]
    assert files[0] == files[1]
    assert len(files[0]) == 3 + 4
