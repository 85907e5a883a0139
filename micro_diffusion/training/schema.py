"""What a configuration may hold: every key has a consumer, or is an error that names it and what is allowed there.

The constructor of a node's `_target_` is its schema; nothing is declared a second time.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

ROOT_KEYS = (
    "exp_name",
    "output_dir",
    "seed",
    "init_from",
    "init_weights",
    "resolution",
    "data",
    "machine",
    "text_encoder",
    "autoencoder",
    "backbone",
    "objective",
    "model",
    "optimizer",
    "schedule",
    "algorithms",
    "callbacks",
    "loggers",
    "prompts",
    "sampler",
    "metric",
    "train_loader",
    "eval_loader",
    "trainer",
)
"""What training, and the programs that read a run folder, look for at the top of a configuration."""

HYDRA_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


def validate(config: DictConfig, root_keys: Iterable[str] = ROOT_KEYS) -> None:
    """Check every key of a composed configuration.

    Raises:
        ValueError: that lists, in one sentence, the keys that nothing consumes, the arguments that are missing, and
            the values that are still `???`.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ValueError(
            f"{', '.join(missing)} {'has' if len(missing) == 1 else 'have'} no value; set {missing[0]}=VALUE"
        )
    content = OmegaConf.to_container(config, resolve=True)
    assert isinstance(content, dict)
    problems = [unknown_key(str(key), root_keys) for key in content if key not in set(root_keys)]
    for key, value in content.items():
        if key in set(root_keys):
            problems += _problems(value, str(key))
    if problems:
        raise ValueError("; ".join(problems))


def unknown_key(key: str, allowed: Iterable[str], where: str = "") -> str:
    """A sentence about a key that nothing consumes: the nearest allowed key, and all of them."""
    names = sorted(allowed)
    nearest = difflib.get_close_matches(key.split(".")[-1], names, n=1)
    guess = f" did you mean {nearest[0]}?" if nearest else ""
    place = f"allowed in {where}" if where else "allowed there"
    return f"nothing takes the key {key};{guess} {place}: {', '.join(names) or 'nothing'}"


def accepted(target: str) -> dict[str, inspect.Parameter] | None:
    """Keyword arguments of a `_target_`, or None when it takes any.

    Raises:
        ValueError: when there is no such class or function.
    """
    try:
        parameters = inspect.signature(get_object(target)).parameters
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"_target_ {target} cannot be found ({error}); correct its name") from error
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return {name: p for name, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.POSITIONAL_ONLY)}


def _problems(value: Any, path: str) -> Iterator[str]:
    """Sentences about this node and those below it."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield from _node_problems(value, path)
        for key, child in value.items():
            yield from _problems(child, f"{path}.{key}")
    elif isinstance(value, list):
        for i, child in enumerate(value):
            yield from _problems(child, f"{path}[{i}]")


def _node_problems(node: Mapping[str, Any], path: str) -> Iterator[str]:
    parameters = accepted(node["_target_"])
    if parameters is None:
        return
    for key in node:
        if key not in parameters and key not in HYDRA_KEYS:
            yield unknown_key(f"{path}.{key}", parameters, f"{path} ({node['_target_']})")
    if node.get("_partial_"):
        return
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in node:
            yield f"{path} ({node['_target_']}) lacks {name}; set +{path}.{name}=VALUE"
