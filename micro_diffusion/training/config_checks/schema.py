"""What a configuration may hold: every key has a consumer, and every value is of a type that the consumer takes.

The constructor of a node's `_target_` is its schema, and `Root` that of the top; nothing is declared a second time.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import torch
from annotated_types import MinLen, Predicate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from micro_diffusion.bounds import PositiveInt, Seed
from micro_diffusion.checkpoint import Weights
from micro_diffusion.training.config_checks.arguments import argument_types, expected, fits, in_words, settable
from micro_diffusion.training.config_checks.secrets import refuse_secrets
from micro_diffusion.training.nodes import HYDRA_KEYS, accepted, is_node


def _is_inside(name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts and bool(path.parts)


class Node:
    """Stands in `Root` for whatever a mapping with a `_target_` makes."""


class Machine(TypedDict):
    """Where to train, and in which precision, in Composer's words; how many images at once, how economically.

    encoder_device: where text encoder and autoencoder work when samples are generated, in torch's words.
    """

    device: Literal["gpu", "cpu"]
    precision: Literal["fp32", "amp_fp16", "amp_bf16", "amp_fp8"]
    encoder_device: torch.device
    microbatch: PositiveInt
    activation_checkpointing: bool


class Parallelism(TypedDict):
    """How a network is spread over devices; null where each holds all of it."""

    fsdp: Node | None


class Root(TypedDict):
    """What training, and the programs that read a run folder, look for at the top of a configuration."""

    exp_name: Annotated[str, Predicate(_is_inside), in_words("the name of a folder in output_dir")]
    output_dir: Annotated[str, MinLen(1)]
    seed: Seed
    init_from: str | None
    init_weights: Weights | None
    trust_checkpoint: bool
    accept_changes: list[str]
    resolution: PositiveInt
    machine: Machine
    parallelism: Parallelism
    text_encoder: Node
    autoencoder: Node
    backbone: Node
    objective: Node
    image_conditioner: Node | None
    thresholding: Node | None
    adapter: Node | None
    model: Node
    optimizer: Node
    schedule: Node
    algorithms: dict[str, Node | None]
    callbacks: dict[str, Node | None]
    loggers: dict[str, Node | None]
    prompts: Node
    sampler: Node
    train_loader: Node
    eval_loader: Node | None
    trainer: Node


def _members(kind: Any) -> dict[str, Any]:
    """The keys of a TypedDict and what they may be set to."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {key: hint if typing.is_typeddict(hint) else settable(hint) for key, hint in hints.items()}


ROOT = _members(Root)

Problem = tuple[str, str]
"""The dotted key of a value, and a sentence about it."""

_REFERENCE = re.compile(r"\$\{[\w.]+\}")
_SPELT = {"None": "null", "True": "true", "False": "false"}
"""Values as a configuration has them."""


def validate(config: DictConfig, root: Mapping[str, Any] = ROOT) -> None:
    """Check every key and every value of a composed configuration.

    Args:
        config: with its interpolations.
        root: the keys at the top and their types.

    Raises:
        ValueError: that lists, in one sentence, the keys that nothing consumes, the arguments that are missing, the
            values of a wrong type, those that are still `???`, and those that are secrets.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        content = {} if missing else OmegaConf.to_container(config, resolve=True)
    except InterpolationResolutionError as error:
        if problems := list(_top_problems(config, root)):  # of which the error may follow
            raise ValueError("; ".join(problems)) from error
        raise
    if missing:
        raise ValueError(
            f"{', '.join(missing)} {'has' if len(missing) == 1 else 'have'} no value; set {missing[0]}=VALUE"
        )
    assert isinstance(content, dict)
    refuse_secrets(content)
    problems = [(key, unknown_key(key, root)) for key in map(str, content) if key not in root]
    for key in (key for key in root if key in content):
        problems += [*_value_problems(content[key], root[key], key), *_problems(content[key], key)]
    if problems:
        written = OmegaConf.to_container(config, resolve=False)
        own = [sentence for path, sentence in problems if not _refers(written, path)]
        raise ValueError("; ".join(own or [sentence for _, sentence in problems]))


def validate_command(config: DictConfig) -> None:
    """The same for the configuration of a command, which is one node."""
    validate(config, {"_target_": str, **argument_types(config["_target_"])})


def unknown_key(key: str, allowed: Iterable[str], where: str = "") -> str:
    """A sentence about a key that nothing consumes: the nearest allowed key, and all of them."""
    names = sorted(allowed)
    nearest = difflib.get_close_matches(key.split(".")[-1], names, n=1)
    guess = f" did you mean {nearest[0]}?" if nearest else ""
    place = f"allowed in {where}" if where else "allowed there"
    return f"nothing takes the key {key};{guess} {place}: {', '.join(names) or 'nothing'}"


def _top_problems(config: DictConfig, root: Mapping[str, Any]) -> Iterator[str]:
    """Sentences about the values at the top that stand there themselves, and do not refer to others."""
    for key, hint in root.items():
        if key not in config or OmegaConf.is_interpolation(config, key):
            continue
        value = config[key]
        plain = OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value
        yield from (sentence for _, sentence in _value_problems(plain, hint, key) if "${" not in sentence)


def _problems(value: Any, path: str) -> Iterator[Problem]:
    """Sentences about this node and those below it."""
    if isinstance(value, Mapping):
        if is_node(value):
            yield from _node_problems(value, path)
        for key, child in value.items():
            yield from _problems(child, f"{path}.{key}")
    elif isinstance(value, list):
        for i, child in enumerate(value):
            yield from _problems(child, f"{path}[{i}]")


def _node_problems(node: Mapping[str, Any], path: str) -> Iterator[Problem]:
    parameters = accepted(node["_target_"])
    if parameters is None:
        return
    types = argument_types(node["_target_"])
    for key, value in node.items():
        if key in parameters:
            yield from _value_problems(value, types[key], f"{path}.{key}")
        elif key not in HYDRA_KEYS:
            yield f"{path}.{key}", unknown_key(f"{path}.{key}", parameters, f"{path} ({node['_target_']})")
    if node.get("_partial_"):
        return
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in node:
            yield path, f"{path} ({node['_target_']}) lacks {name}; set +{path}.{name}=VALUE"


def _value_problems(value: Any, hint: Any, path: str) -> Iterator[Problem]:
    """Sentences about a value that is no node, or a mapping of values."""
    if typing.get_origin(hint) is dict and isinstance(value, Mapping):
        for key, child in value.items():
            yield from _value_problems(child, typing.get_args(hint)[1], f"{path}.{key}")
    elif typing.is_typeddict(hint) and isinstance(value, Mapping):
        members = _members(hint)
        yield from ((path, f"{path} lacks {key}; set +{path}.{key}=VALUE") for key in members if key not in value)
        yield from ((path, unknown_key(f"{path}.{key}", members, path)) for key in value if key not in members)
        for key in (key for key in members if key in value):
            yield from _value_problems(value[key], members[key], f"{path}.{key}")
    elif not fits(value, hint):
        yield path, f"{path} is {_SPELT.get(str(value), repr(value))}; set it to {expected(hint)}"


def _refers(written: Any, path: str) -> bool:
    """Whether a value stands elsewhere, where its problems are named too."""
    for key in re.findall(r"[^.\[\]]+", path):
        if isinstance(written, str):
            break
        written = written[int(key)] if isinstance(written, list) else (written or {}).get(key)
    return isinstance(written, str) and _REFERENCE.fullmatch(written) is not None
