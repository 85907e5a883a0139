"""Errors as one sentence on the terminal; HYDRA_FULL_ERROR=1 shows the traceback instead."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import (
    ConfigTypeError,
    InterpolationKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)

from micro_diffusion.machine.terminal import escape_unknown_characters
from micro_diffusion.training.config_checks.command_line import line_to_type
from micro_diffusion.training.config_checks.schema import ROOT, unknown_key
from micro_diffusion.training.config_checks.secrets import redact_output, redacted
from micro_diffusion.training.distributed.machine_faults import MORE_MEMORY, machine_fault, way_on
from micro_diffusion.training.nodes import accepted

_FULL = "HYDRA_FULL_ERROR"
_active: ContextVar[bool] = ContextVar("active", default=False)
_WORKER = re.compile(r"Caught (?P<kind>\w+) in DataLoader worker process .*\n(?P=kind): (?P<message>.*)", re.DOTALL)
_RAISED = re.compile(r"\w+ raised while resolving interpolation: (?P<message>.*)")
_ENVIRONMENT = re.compile(r"Environment variable '(?P<name>[^']+)' not found")
_NOWHERE = re.compile(r"Interpolation key '(?P<key>[^']+)' not found")
_NODE = re.compile(r"^full_key: (?P<key>\S+)$", re.MULTILINE)
_SYSTEM: dict[type[OSError], str] = {
    FileNotFoundError: "there is no {path}; correct the path, or make what it names",
    FileExistsError: "{path} is there already; name another place, or remove it",
    IsADirectoryError: "{path} is a folder, but a file is wanted there; name a file",
    NotADirectoryError: "{path} leads through a file as though that were a folder; correct the path",
    PermissionError: "{path} may not be read or written; change its permissions, or name another place",
}
"""What the system says about a path in a few words, as sentences."""
_OVERRIDES = {
    r"Could not append to config. An item is already at '(?P<key>[^']+)'": (
        "the configuration has {key} already; leave out the plus sign: {key}=VALUE"
    ),
    r"Could not delete from config. '(?P<key>[^']+)' does not exist": (
        "the configuration has no {key}, which ~{key} is to remove; correct the key, or leave it out"
    ),
}
"""What Hydra says about an override that does not fit the configuration, as sentences."""
_PACKAGE = "micro_diffusion."
EXPECTED = (
    *(ValueError, OSError, ArithmeticError, MemoryError, torch.OutOfMemoryError),
    *(HydraException, OmegaConfBaseException),
)
"""Errors that bad input, a bad machine or a diverged training raise."""
_SPEAKING = (OSError, ImportError, HydraException, OmegaConfBaseException, torch.OutOfMemoryError)
"""Errors of others that are sentences, or become such."""


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Turn expected errors, those of Hydra included, into one sentence on stderr and exit status 1.

    Within a function that Hydra runs it is used a second time, since Hydra repeats the command line, secrets and all,
    when an exception leaves that function. By then Hydra has set up the log, whose lines lose their secrets too.
    """
    redact_output()
    escape_unknown_characters()
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
        return _of_node(error.__cause__, _NODE.search(str(error)))
    if (fault := machine_fault(error)) is not None:
        return fault
    if isinstance(error, MemoryError):
        return f"the memory of this machine does not hold what this needs ({_one_line(str(error))}); {MORE_MEMORY}"
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "the GPU's memory does not hold a microbatch, or what else this step needs; set "
            f"trainer.device_train_microbatch_size to a smaller number, and {way_on(error)} ({_one_line(str(error))})"
        )
    if isinstance(error, FloatingPointError):
        return f"{error}; {way_on(error)}"
    if type(error) in _SYSTEM and isinstance(error, OSError) and error.filename is not None:
        return _SYSTEM[type(error)].format(path=error.filename)
    if isinstance(error, InterpolationKeyError) and (reason := _NOWHERE.search(str(error))):
        return f"{error.full_key} refers to {reason['key']}, which the configuration does not have; set one of them"
    if isinstance(error, InterpolationResolutionError) and (reason := _RAISED.match(str(error))):
        text = _ENVIRONMENT.sub(r"there is no environment variable \g<name>; set it", reason["message"].strip('"'))
        return f"{text} (wanted by {error.full_key}{_expression(error)})"
    if isinstance(error, OverrideParseException):
        reason = _one_line(error.message.split("See https")[0])
        return f"the override {error.override!r} cannot be read ({reason}); type {line_to_type(error.override)}"
    if isinstance(error, MissingConfigException):
        return f"{_one_line(str(error).split('Config search path')[0])}; choose another"
    for pattern, remedy in _OVERRIDES.items():
        if refused := re.match(pattern, str(error)):
            return remedy.format(**refused.groupdict())
    if choice := _no_option(error):
        return choice
    if worker := _WORKER.match(str(error)):
        return _one_line(worker["message"])
    cause = error.__cause__
    if isinstance(error, HydraException) and isinstance(cause, ConfigTypeError):
        return _other_kind(error, cause)
    if isinstance(error, HydraException) and isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return _unknown_override(cause)
    return _one_line(str(error)) or type(error).__name__


def _no_option(error: BaseException) -> str | None:
    """A sentence about the choice of a group that is no text; which group, Hydra's error does not say."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not str(error).startswith("Config group override must be") or not frames:
        return None
    override = frames[-1][0].f_locals["override"]
    group = override.key_or_group
    return f"the override {override.input_line!r} names no option of that group; set {group} to one of its options"


def _of_node(cause: BaseException, node: re.Match[str] | None) -> str:
    """What went wrong when a node was built; an ImportError names a library that is not installed."""
    if node is None or isinstance(cause, _SPEAKING) or (isinstance(cause, ValueError) and _is_ours(cause)):
        text = _sentence(cause)
        return text if node is None or f"{node['key'].split('.')[-1]}." in text else f"{text} (in {node['key']})"
    return _refusal(node["key"], cause)


def _refusal(node: str, error: BaseException) -> str:
    return f"{node} cannot be built ({type(error).__name__}: {_one_line(str(error))}); correct its settings"


def _is_ours(error: BaseException) -> bool:
    """Whether code of this package has raised an error, rather than a library."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return not frames or frames[-1][0].f_globals.get("__name__", "").startswith(_PACKAGE)


@contextmanager
def refusals_named(node: str) -> Iterator[None]:
    """Name the node whose settings a library refuses with an error of its own.

    Raises:
        ValueError: in place of that error.
    """
    try:
        yield
    except (ValueError, TypeError, AssertionError) as error:
        if _is_ours(error):
            raise
        raise ValueError(_refusal(node, error)) from error


def _expression(error: OmegaConfBaseException) -> str:
    """What stands at the key of an interpolation that failed."""
    if not isinstance(error.parent_node, DictConfig) or error.key is None:
        return ""
    written = error.parent_node._get_node(error.key)
    return f", which is {written._value()}" if isinstance(written, Node) else ""


def _other_kind(error: HydraException, cause: ConfigTypeError) -> str:
    """A list in the place of a mapping, or the other way round, which Hydra cannot merge."""
    override = _one_line(str(error)).removeprefix("Error merging override ")
    node, _, name = str(cause.full_key).rpartition(".")
    if str(cause).startswith("Index "):
        return f"{node} is a list, which has no item {name} as in {override!r}; set {node} to a list, such as []"
    if isinstance(cause.parent_node, DictConfig):
        return f"the override {override!r} gives no mapping; set the keys of {cause.full_key} one by one"
    return f"the override {override!r} gives no list; set {cause.full_key} to one, such as []"


def _unknown_override(error: OmegaConfBaseException) -> str:
    """An override of a key that the configuration does not have."""
    key, parent = str(error.full_key), error.parent_node
    keys = list(parent) if isinstance(parent, Mapping) else []
    path, _, name = key.rpartition(".")
    if not path and "_target_" not in keys:
        return unknown_key(key, ROOT)
    if isinstance(parent, DictConfig) and not keys:  # which OmegaConf has put in the place of what is no mapping
        return _no_mapping(key, path, name, parent._get_root())
    parameters = accepted(parent["_target_"]) if isinstance(parent, Mapping) and "_target_" in parent else {}
    if parameters is None or name in parameters:
        return f"the configuration leaves {key} at its default; add it with a plus sign: +{key}=VALUE"
    return unknown_key(key, [str(k) for k in keys if not str(k).startswith("_")], path)


def _no_mapping(key: str, path: str, name: str, root: Any) -> str:
    """An override below a value, or below a reference to a node that stands elsewhere."""
    node = path.rpartition(".")[2]
    if node != path and OmegaConf.is_dict(root.get(node)):
        plus = "" if name in root[node] else "+"
        return f"{path} is the node {node}, and {key} cannot be set apart from it; set {plus}{node}.{name}=VALUE"
    return f"{path} is no mapping of its own, so {key} cannot be set; set {path}, or what it refers to"


def _one_line(text: str) -> str:
    return " ".join(text.split())
