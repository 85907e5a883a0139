"""The leaves of a composed stage, and which values of them cannot be right.

That follows from the annotation of the argument, and from the tables of bounds below, not from the code that is tested.
"""

import inspect
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from fnmatch import fnmatch
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

import torch
from composer import Time
from omegaconf import DictConfig, OmegaConf

from micro_diffusion.training.config_checks.arguments import argument_annotations
from micro_diffusion.training.config_checks.schema import Node, Root
from micro_diffusion.training.nodes import accepted

LEAF_VALUES = {-1: "-1", 0: "0", math.inf: "inf", "": "''", "zzz": "zzz", (): "[]", None: "null", True: "true"}
"""What every leaf is set to, and how it is written on the command line; besides them an empty mapping."""
MAPPING = "{}"

SIGNED = ("objective.P_mean", "model.log_variance", "*_subset_num_batches", "trainer.save_num_checkpoints_to_keep")
UNBOUNDED = ("sampler.churn_sigma_max",)
ABOVE_0 = (
    *("resolution", "*.batch_size", "backbone.dim", "backbone.depth", "backbone.head_dim", "backbone.*_ratio"),
    *("backbone.expert_capacity", "backbone.multiple_of", "backbone.patch_size", "sampler.steps", "*.rho"),
    *("objective.sigma_*", "optimizer.*_scale", "optimizer.steps", "optimizer.eps", "trainer.dist_timeout"),
    *("machine.microbatch", "trainer.max_duration", "trainer.*_interval", "algorithms.ema.smoothing", "*.window_size"),
)
OF_THE_PROGRAM = (
    *("model", "optimizers", "schedulers", "train_dataloader", "eval_dataloader", "algorithms", "callbacks", "loggers"),
    *("groups", "run_name", "load_object_store", "algorithm_passes"),
)
"""Arguments that are not for the configuration."""


class Leaf(NamedTuple):
    """A key of a stage, the annotation of the argument it is for, and whether the configuration has it.

    is_mapping: an override merges a mapping into its value, so that an empty one changes nothing.
    """

    stage: str
    key: str
    hint: Any
    is_set: bool
    is_mapping: bool = False

    def override(self, value: str) -> str:
        return f"{'' if self.is_set else '+'}{self.key}={value}"


def leaves_of(stage: str, config: DictConfig) -> Iterator[Leaf]:
    """Every key of a composed stage, and those that it leaves at their defaults."""
    for key, hint in typing.get_type_hints(Root).items():
        if key in config:
            yield Leaf(stage, key, hint, True, OmegaConf.is_dict(written(config, key)))
            yield from _below(stage, written(config, key), hint, key)


def written(node: DictConfig, key: str) -> Any:
    """What stands at a key; None for a reference to something else."""
    return None if OmegaConf.is_interpolation(node, key) else node[key]


def _below(stage: str, node: Any, hint: Any, path: str) -> Iterator[Leaf]:
    if not OmegaConf.is_dict(node):
        return
    if "_target_" in node:
        annotations = argument_annotations(resolve_name(node["_target_"]))
        hints = {name: annotations.get(name, Any) for name in accepted(node["_target_"]) or ()}
    else:
        hints = typing.get_type_hints(hint) if typing.is_typeddict(hint) else dict.fromkeys(node, Node | None)
    for name, inner in hints.items():
        if name in OF_THE_PROGRAM:
            continue
        value = written(node, name) if name in node else None
        yield Leaf(stage, f"{path}.{name}", inner, name in node, OmegaConf.is_dict(value))
        yield from _below(stage, value, inner, f"{path}.{name}")


def is_wrong(leaf: Leaf, value: Any) -> bool:
    """Whether a value cannot be right, by the annotation and the bounds alone."""
    kinds = set(flat(leaf.hint))
    if Any in kinds:
        return False
    if value is None:
        return type(None) not in kinds
    if value is True:
        return bool not in kinds
    if value in ("", "zzz"):
        return (str not in kinds and Path not in kinds) or any(map(has_names, kinds))
    if value == ():
        return not any(kind in (list, tuple, Sequence) for kind in kinds)
    if value == MAPPING:
        return not leaf.is_mapping and not any(kind in (dict, Mapping) for kind in kinds)
    if not kinds & {int, float}:
        return True
    whole = value == math.inf and float not in kinds
    low = (value == -1 and not matches(leaf.key, SIGNED)) or (value == 0 and matches(leaf.key, ABOVE_0))
    return whole or low or (value == math.inf and not matches(leaf.key, UNBOUNDED))


def flat(hint: Any) -> Iterator[Any]:
    """The alternatives of an annotation, without the types of items."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        for member in typing.get_args(hint):
            yield from flat(member)
    elif origin is typing.Annotated:
        yield from flat(typing.get_args(hint)[0])
    else:
        yield origin or hint


def has_names(kind: Any) -> bool:
    return kind in (Time, typing.Literal, torch.device) or (inspect.isclass(kind) and issubclass(kind, Enum))


def matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(key, pattern) for pattern in patterns)
