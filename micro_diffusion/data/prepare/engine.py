"""Who does the parts of a conversion: processes of this machine, or tasks of a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, TypeVar

from micro_diffusion.bounds import PositiveFloat, PositiveInt
from micro_diffusion.machine.processes import usable_cores

Task = TypeVar("Task")
Result = TypeVar("Result")


class Engine(Protocol):
    """Does the same work on many tasks at a time."""

    def run(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The result of every task, as they get ready. The first exception ends it, and what has not begun is left."""
        ...


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Processes of this machine, which end with the one that started them, however that ends.

    Args:
        count: of processes; None for one on each processor core that this program may use, 1 for none beside this one.
    """

    count: PositiveInt | None = None

    def run(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The result of every task, as they get ready.

        Raises:
            ChildProcessError: when a process is killed.
        """
        count = min(self.count or usable_cores(), len(tasks))
        if count <= 1:
            yield from map(work, tasks)
            return
        # A forked process is ready at once; a spawned one imports everything again.
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        with ProcessPoolExecutor(count, context, initializer=_end_with_parent) as pool:
            try:
                for done in as_completed([pool.submit(work, task) for task in tasks]):
                    yield done.result()
            except BrokenProcessPool as error:
                raise ChildProcessError(
                    "a process was killed, perhaps for lack of memory; give the same command again, with a smaller "
                    "engine.count if need be"
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Have this process end when the one that started it has ended, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True, kw_only=True)
class RayTasks:
    """Tasks of a Ray cluster, one for each part; a task whose machine fails is given to another one.

    All machines need to reach the source and the output, by a shared file system or as a remote folder.

    Args:
        address: of the cluster; None for the one that RAY_ADDRESS names, or else one on this machine alone.
        cpus: processor cores that a task takes.
        in_flight: tasks given to the cluster at a time.

    Raises:
        ImportError: when Ray is not installed.
    """

    address: str | None = None
    cpus: PositiveFloat = 1
    in_flight: PositiveInt = 1024

    def run(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The result of every task, as they get ready. What the work raises is raised here as it was there.

        Raises:
            ChildProcessError: when the cluster gives up a task, whose process or machine was lost again and again.
        """
        try:
            ray = import_module("ray")
        except ImportError as error:
            raise ImportError("Ray is missing; install it: pip install 'micro_diffusion[ray]'") from error
        ray.init(address=self.address, ignore_reinit_error=True)
        shared = ray.put(work)  # sent to each machine once
        call = ray.remote(num_cpus=self.cpus)(_call)
        waiting, running = iter(tasks), []
        try:
            while True:
                while len(running) < self.in_flight and (task := next(waiting, None)) is not None:
                    running.append(call.remote(shared, task))
                if not running:
                    return
                (done,), running = ray.wait(running)
                yield _result(ray, done)
        finally:
            for left in running:
                ray.cancel(left)


def _result(ray: Any, done: Any) -> Any:
    """What a task has returned, or its error without the traceback that Ray writes into its words."""
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise ChildProcessError(
            f"the cluster lost a task ({type(error).__name__}), perhaps for lack of memory; give the same command "
            "again, with larger engine.cpus if need be, for fewer tasks at a time"
        ) from error


def _call(work: Callable[[Task], Result], task: Task) -> Result:
    return work(task)
