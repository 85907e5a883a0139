"""The processes that a launcher such as `composer` or `torchrun` has started for one job."""

from __future__ import annotations

import itertools
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

Result = TypeVar("Result")

PATIENCE = timedelta(days=1)
"""How long a process waits for slower ones. One that dies is noticed at once, as its connections close."""

_decisions = itertools.count()
_store: distributed.Store | None = None


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes, as the launcher's environment says, each on its own GPU where there are some."""
    global _store
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    if count() == 1:
        yield
        return
    _store, *_ = next(distributed.rendezvous("env://", timeout=PATIENCE))
    distributed.init_process_group("gloo", store=_store, rank=rank(), world_size=count(), timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()
        _store = None


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", 0))


def count() -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first_decides(decide: Callable[[], Result]) -> Result:
    """What rank 0 gets from a function; an error there is raised by all.

    It goes through the store: gloo's threads may still hold the tensors of a broadcast when the group is destroyed,
    which then waits for ever.
    """
    if count() == 1:
        return decide()
    assert _store is not None, "several ranks need `joined`"
    key = f"decision {next(_decisions)}"
    if rank() == 0:
        try:
            answer = (decide(), None)
        except Exception as error:  # raised below, here and by the others, which would wait for ever
            answer = (None, error)
        _store.set(key, pickle.dumps(answer).hex())
    result, error = pickle.loads(bytes.fromhex(_store.get(key).decode()))
    wait_for_all()  # the store ends with rank 0
    if error is not None:
        raise error
    return result


def wait_for_all() -> None:
    """Return when every process has called this.

    Raises:
        ConnectionError: when one of them has ended before.
    """
    if count() == 1:
        return
    try:
        distributed.barrier()
    except RuntimeError as error:
        raise ConnectionError(
            "another rank has ended before its work was done; see its message, then give the same command again"
        ) from error
