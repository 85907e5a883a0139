"""Errors as one sentence on the terminal; HYDRA_FULL_ERROR=1 shows the traceback instead."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from micro_diffusion.training.machine_faults import machine_fault
from micro_diffusion.training.schema import ROOT, accepted, unknown_key
from micro_diffusion.training.secrets import redacted

_FULL = "HYDRA_FULL_ERROR"
_active: ContextVar[bool] = ContextVar("active", default=False)
_WORKER = re.compile(r"Caught (?P<kind>\w+) in DataLoader worker process .*\n(?P=kind): (?P<message>.*)", re.DOTALL)
_RAISED = re.compile(r"\w+ raised while resolving interpolation: (?P<message>.*)")
_NODE = re.compile(r"^full_key: (?P<key>\S+)$", re.MULTILINE)
EXPECTED = (ValueError, OSError, ArithmeticError, HydraException, OmegaConfBaseException, torch.OutOfMemoryError)
"""Errors that bad input, a bad machine or a diverged training raise."""


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Turn expected errors, those of Hydra included, into one sentence on stderr and exit status 1.

    Within a function that Hydra runs it is used a second time, since Hydra repeats the command line, secrets and all,
    when an exception leaves that function.
    """
    within = _active.get()
    if not within and os.environ.get(_FULL, "0") not in ("", "0"):
        yield
        return
    os.environ[_FULL] = "1"  # Hydra would print its own errors and exit
    outer = _active.set(True)
    try:
        yield
    except (*EXPECTED, RuntimeError) as error:
        if not isinstance(error, EXPECTED) and machine_fault(error) is None:
            raise
        print(f"Error: {sentence(error)}\n(set {_FULL}=1 to see where it was raised)", file=sys.stderr)
        sys.exit(1)
    finally:
        _active.reset(outer)
        if not within:
            os.environ.pop(_FULL, None)


def sentence(error: BaseException) -> str:
    """What is wrong and what to do, in one line, without secrets."""
    return redacted(_sentence(error))


def _sentence(error: BaseException) -> str:
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        cause, node = error.__cause__, _NODE.search(str(error))
        speaks = isinstance(cause, (*EXPECTED, ImportError)) and not isinstance(cause, ArithmeticError)
        if speaks or node is None:  # an ImportError names a library that is not installed
            return _sentence(cause)
        return f"{node['key']} cannot be built ({type(cause).__name__}: {_one_line(str(cause))}); correct its settings"
    if (fault := machine_fault(error)) is not None:
        return fault
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "the GPU's memory does not hold a microbatch, or what else this step needs; set "
            f"trainer.device_train_microbatch_size to a smaller number ({_one_line(str(error))})"
        )
    if isinstance(error, InterpolationResolutionError) and (reason := _RAISED.match(str(error))):
        return f"{reason['message']} (wanted by {error.full_key})"
    if isinstance(error, OverrideParseException):
        reason = _one_line(error.message.split("See https")[0])
        return f"the override {error.override!r} cannot be read ({reason}); write it as key=value, quoted for the shell"
    if isinstance(error, MissingConfigException):
        return _one_line(str(error).split("Config search path")[0])
    if worker := _WORKER.match(str(error)):
        return _one_line(worker["message"])
    cause = error.__cause__
    if isinstance(error, HydraException) and isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return _unknown_override(cause)
    return _one_line(str(error)) or type(error).__name__


def _unknown_override(error: OmegaConfBaseException) -> str:
    """An override of a key that the configuration does not have."""
    key, parent = str(error.full_key), error.parent_node
    keys = list(parent) if isinstance(parent, Mapping) else []
    path, _, name = key.rpartition(".")
    if not path and "_target_" not in keys:
        return unknown_key(key, ROOT)
    parameters = accepted(parent["_target_"]) if isinstance(parent, Mapping) and "_target_" in parent else {}
    if parameters is None or name in parameters:
        return f"the configuration leaves {key} at its default; add it with a plus sign: +{key}=VALUE"
    return unknown_key(key, [str(k) for k in keys if not str(k).startswith("_")], path)


def _one_line(text: str) -> str:
    return " ".join(text.split())
