"""Whether a value of a configuration can be what the annotation of the argument that takes it says."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Union

import torch

from micro_diffusion.training.nodes import is_node

SCALARS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
LISTS = (list, tuple, set, frozenset, Sequence, AbstractSet, typing.Iterable)
MADE_OF_TEXT = (torch.dtype, PathLike)
"""Types whose libraries make them of text themselves."""


def argument_annotations(target: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a class or function and their types; Any for a type that only a type checker knows."""
    function = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)
    names = getattr(function, "__globals__", None) or getattr(getattr(function, "__func__", None), "__globals__", {})
    written = getattr(function, "__annotations__", {})
    return {name: _resolved(annotation, names) for name, annotation in written.items() if name != "return"}


def _resolved(annotation: Any, names: dict[str, Any]) -> Any:
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, globalns=names)["it"]
    except NameError:  # imported under TYPE_CHECKING
        return Any


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value (scalar, list or mapping) can stand for an argument of this type.

    A mapping with a `_target_` stands for whatever it makes. Where a type says which texts name its values, as an
    enumeration and Composer's time do, text has to be one of them, also where the annotation allows `str` beside it.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if is_node(value) or hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if origin in (Union, types.UnionType):
        named = [member for member in arguments if _is_named(member)]
        return any(fits(value, member) for member in (named if named and isinstance(value, str) else arguments))
    if origin is Literal:
        return value in arguments
    if hint is None or hint is type(None):
        return value is None
    if hint in SCALARS:
        return _is_scalar(value, hint)
    if typing.is_typeddict(hint):
        members = typing.get_type_hints(hint)
        is_complete = isinstance(value, Mapping) and value.keys() == members.keys()
        return is_complete and all(fits(value[key], member) for key, member in members.items())
    if origin in LISTS or hint in LISTS:
        return isinstance(value, Sequence) and not isinstance(value, str) and _items_fit(value, origin, arguments)
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return isinstance(value, Mapping) and (not arguments or all(fits(v, arguments[1]) for v in value.values()))
    if isinstance(value, str) and inspect.isclass(hint):
        return _names(value, hint) if _is_named(hint) else hint in MADE_OF_TEXT
    return False


def expected(hint: Any) -> str:
    """What to set an argument of this type to."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        members = [member for member in arguments if member is not str or not any(map(_is_named, arguments))]
        return " or ".join(dict.fromkeys(expected(member) for member in members))
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if hint is None or hint is type(None):
        return "null"
    if hint in SCALARS:
        return SCALARS[hint]
    if _is_named(hint):
        if issubclass(hint, Enum):
            return " or ".join(member.value for member in hint)
        return "cpu or cuda" if hint is torch.device else "a time such as 1000ba (steps), 2ep (epochs) or 0.5dur"
    if typing.is_typeddict(hint):
        return f"a mapping of {', '.join(typing.get_type_hints(hint))}"
    if origin in LISTS or hint in LISTS:
        kinds = dict.fromkeys(expected(item) for item in arguments if item is not ...)
        length = f" of {len(arguments)}" if _has_fixed_length(origin, arguments) else ""
        return f"a list{length} ({', '.join(kinds)})" if kinds else "a list"
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return "a mapping"
    return "a node with a _target_"


def _is_named(hint: Any) -> bool:
    """Whether a type says which texts name its values."""
    return inspect.isclass(hint) and (issubclass(hint, (Enum, torch.device)) or hasattr(hint, "from_timestring"))


def _names(text: str, kind: Any) -> bool:
    if issubclass(kind, Enum):
        return text in [member.value for member in kind]
    try:
        torch.device(text) if kind is torch.device else kind.from_timestring(text)
    except (ValueError, TypeError, RuntimeError):
        return False
    return text != ""  # of which Composer makes a time of 0


def _is_scalar(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, int | float) and not math.isnan(value)
    return isinstance(value, str if kind is Path else kind)


def _items_fit(items: Sequence[Any], origin: Any, arguments: tuple[Any, ...]) -> bool:
    if not arguments:
        return True
    if _has_fixed_length(origin, arguments):
        return len(items) == len(arguments) and all(map(fits, items, arguments))
    return all(fits(item, arguments[0]) for item in items)


def _has_fixed_length(origin: Any, arguments: tuple[Any, ...]) -> bool:
    return origin is tuple and arguments[-1] is not ...
