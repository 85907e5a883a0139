"""Nodes of a configuration: mappings with a `_target_`, and what that takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pkgutil import resolve_name
from typing import Any

HYDRA_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


def is_node(value: Any) -> bool:
    """Whether a value describes an object to be made."""
    return isinstance(value, Mapping) and "_target_" in value


def accepted(target: str) -> dict[str, inspect.Parameter] | None:
    """Keyword arguments of a `_target_`, or None when it takes any.

    Raises:
        ValueError: when there is no such class or function.
    """
    try:
        parameters = inspect.signature(resolve_name(target)).parameters
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"_target_ {target} cannot be found ({error}); correct its name") from error
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return {name: p for name, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.POSITIONAL_ONLY)}


def settings(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a nested configuration and their values, which are no mappings."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from settings(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value
