"""What is in a checkpoint, and whether a training takes all of it; the tensors themselves are not read."""

from __future__ import annotations

import datetime
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import torch
from composer import Algorithm
from composer.utils.checkpoint import glob_filter
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint._nested_dict import unflatten_state_dict
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata
from torch.optim import Optimizer
from torch.serialization import safe_globals
from torch.torch_version import TorchVersion

HARMLESS = [
    datetime.timedelta,
    np.dtype,
    np.ndarray,
    np.dtypes.UInt32DType,
    np.empty(0).__reduce__()[0],  # which makes arrays
    TorchVersion,
]
"""What a checkpoint of Composer holds besides what torch reads as data."""

TRUST = "set trust_checkpoint=true if you trust who made it, or set init_from to a run folder"

Shapes = dict[str, tuple[int, ...]]
_OF_SCHEDULE = ("params", "lr", "initial_lr")


class Content(NamedTuple):
    """model: shapes by name. optimizers: settings of each one's groups. algorithms: whether each one has a state."""

    model: Shapes
    optimizers: dict[str, list[dict[str, Any]]]
    algorithms: dict[str, bool]


def read_content(path: Path, *, trusted: bool, ignored: Sequence[str] = ()) -> Content:
    """The content of a checkpoint.

    Args:
        path: a file or a folder of shares.
        trusted: whether code in it may run, as it does in a folder of shares; else a file is read as data alone.
        ignored: `trainer.load_ignore_keys`.

    Raises:
        ValueError: when it holds code and is not trusted, when it is of another program, or when nothing in it is
            called as one of `ignored`.
    """
    content = _shares(path) if path.is_dir() else _file(path, trusted=trusted)
    try:
        state = {**content["state"]}
        model = {key: tuple(value.shape) for key, value in state["model"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no checkpoint of Composer; set init_from to a run folder instead") from error
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            glob_filter(list(ignored))(content)
        except UserWarning as warning:
            raise ValueError(f"{warning}, of {path}; correct trainer.load_ignore_keys") from warning
    state = content.get("state", {})
    optimizers = {name: held["param_groups"] for name, held in state.get("optimizers", {}).items()}
    algorithms = {name: bool(held.keys() - {"repr"}) for name, held in state.get("algorithms", ())}
    return Content({key: model[key] for key in state.get("model", {})}, optimizers, algorithms)


def check_algorithms(
    content: Content, algorithms: Sequence[Algorithm], *, excluded: Sequence[str] = (), weights_only: bool, source: str
) -> None:
    """Compare the algorithms of a checkpoint with those of a training.

    Composer adds those that change the model to a training without them, unless they are excluded.

    Args:
        content: of the checkpoint.
        algorithms: of the training.
        excluded: `trainer.load_exclude_algorithms`.
        weights_only: whether the states of algorithms do not matter.
        source: the checkpoint's name for messages.

    Raises:
        ValueError: when a state would be lost that is not excluded, or what is excluded is not there, or is loaded
            since the training has it.
    """
    ours = [type(each).__qualname__ for each in algorithms]
    for name in excluded:
        if name not in content.algorithms:
            held = ", ".join(content.algorithms) or "none"
            raise ValueError(f"trainer.load_exclude_algorithms names {name}, but {source} holds {held}; leave it out")
        if name in ours:
            raise ValueError(
                f"trainer.load_exclude_algorithms names {name}, which this training has and would load; take it out of "
                "algorithms too, or set trainer.load_ignore_keys=[state/algorithms] for a new state"
            )
    stateful = [name for name, has_state in content.algorithms.items() if has_state and not weights_only]
    if lost := [name for name in stateful if name not in [*ours, *excluded]]:
        raise ValueError(
            f"{source} holds the state of {len(lost)} algorithms that would be lost ({', '.join(lost)}); add them to "
            "algorithms, or name them in trainer.load_exclude_algorithms"
        )


def check_all_is_taken(
    content: Content, optimizer: Optimizer, algorithms: Sequence[Algorithm], *, ignored: Sequence[str] = (), source: str
) -> None:
    """Compare what a checkpoint holds beside the model with what a training would restore of it.

    Args:
        content: of the checkpoint.
        optimizer: of the training.
        algorithms: likewise.
        ignored: `trainer.load_ignore_keys`, which may leave out what is missing.
        source: the checkpoint's name for messages.

    Raises:
        ValueError: when something is left out or missing, or would replace a setting of the configuration.
    """
    ours = type(optimizer).__qualname__
    if content.optimizers and ours not in content.optimizers:
        held = ", ".join(content.optimizers)
        raise ValueError(
            f"{source} holds the state of the optimizer {held}, of which {ours} would take nothing; choose the "
            "optimizer it was trained with, or set trainer.load_weights_only=true"
        )
    stateful = [type(each).__qualname__ for each in algorithms if each.state_dict().keys() - {"repr"}]
    missing = [] if ours in content.optimizers or _leave_out("optimizers", ignored) else [ours]
    if not _leave_out("algorithms", ignored):
        missing += [name for name in stateful if not content.algorithms.get(name)]
    if missing:
        raise ValueError(
            f"{source} holds no state of {', '.join(missing)}, which would begin anew; set "
            "trainer.load_weights_only=true, choose a checkpoint that has it, or, for algorithms, set "
            "trainer.load_ignore_keys=[state/algorithms]"
        )
    settings = _other_settings(content.optimizers.get(ours, []), optimizer.param_groups)
    if settings:
        raise ValueError(
            f"{source} holds settings of the optimizer that would replace those of the configuration: "
            f"{', '.join(settings)}; set these, or trainer.load_weights_only=true"
        )


def _file(path: Path, *, trusted: bool) -> dict[str, Any]:
    try:
        with safe_globals(HARMLESS):
            return torch.load(path, map_location="meta", mmap=True, weights_only=not trusted)
    except UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        code = f"run {named[1]}" if named else "do more than read data"
        raise ValueError(f"reading {path} would {code}; {TRUST}") from error


def _shares(folder: Path) -> dict[str, Any]:
    """What a checkpoint in shares holds, nested as it is in a file."""
    described = FileSystemReader(folder).read_metadata()
    values: dict[str, Any] = {}
    for key, entry in described.state_dict_metadata.items():
        if isinstance(entry, TensorStorageMetadata):
            values[key] = torch.empty(entry.size, device="meta")
            continue
        stored = described.storage_data[MetadataIndex(key)]
        with (folder / stored.relative_path).open("rb") as file:
            file.seek(stored.offset)
            part = io.BytesIO(file.read(stored.length))
        values[key] = torch.load(part, map_location="meta", weights_only=False)
    return unflatten_state_dict(values, described.planner_data)


def _leave_out(part: str, ignored: Sequence[str]) -> bool:
    """Whether one of `trainer.load_ignore_keys` names a part of the state, or something in it."""
    name = f"state/{part}"
    return any(fnmatch(name, key) or key.startswith(f"{name}/") for key in ignored)


def _other_settings(theirs: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings of parameter groups that differ, as `group.name: theirs (ours)`."""
    if not theirs:  # they are left out
        return []
    if len(theirs) != len(ours):
        return [f"{len(theirs)} groups of parameters (instead of {len(ours)})"]
    found = []
    for their, our in zip(theirs, ours, strict=True):
        pairs = {name: (their[name], our[name]) for name in our if name in their and name not in _OF_SCHEDULE}
        pairs["lr"] = their.get("initial_lr", their.get("lr")), our.get("initial_lr", our["lr"])
        name = our.get("name", len(found))
        found += [f"{name}.{key} {a} (instead of {b})" for key, (a, b) in pairs.items() if not _same(a, b)]
    return found


def _same(a: Any, b: Any) -> bool:
    return list(a) == list(b) if isinstance(a, Sequence) and isinstance(b, Sequence) else a == b
