"""Whether a value of a configuration can be what the annotation of the argument that takes it says."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Literal, Union

OWN = "micro_diffusion."
SCALARS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
LISTS = (list, tuple, set, frozenset, Sequence, AbstractSet, typing.Iterable)


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

    A mapping with a `_target_` stands for whatever it makes. What makes a library's own type of a plain value is left
    to the library, unless the annotation also says which plain values it takes.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if is_node(value) or hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if origin in (Union, types.UnionType):
        plain = [member for member in arguments if not _is_foreign(member)]
        return any(fits(value, member) for member in (plain if any(map(_is_plain, plain)) else arguments))
    if origin is Literal:
        return value in arguments
    if hint is None or hint is type(None):
        return value is None
    if hint in SCALARS:
        return _is_scalar(value, hint)
    if typing.is_typeddict(hint):
        members = typing.get_type_hints(hint)
        return isinstance(value, Mapping) and all(k in members and fits(v, members[k]) for k, v in value.items())
    if origin in LISTS or hint in LISTS:
        return isinstance(value, Sequence) and not isinstance(value, str) and _items_fit(value, origin, arguments)
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return isinstance(value, Mapping) and (not arguments or all(fits(v, arguments[1]) for v in value.values()))
    return _is_foreign(hint)


def expected(hint: Any) -> str:
    """What to set an argument of this type to."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(expected(member) for member in arguments))
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if hint is None or hint is type(None):
        return "null"
    if hint in SCALARS:
        return SCALARS[hint]
    if typing.is_typeddict(hint):
        return f"a mapping of {', '.join(typing.get_type_hints(hint))}"
    if origin in LISTS or hint in LISTS:
        kinds = dict.fromkeys(expected(item) for item in arguments if item is not ...)
        return f"a list ({', '.join(kinds)})" if kinds else "a list"
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return "a mapping"
    return "a node with a _target_"


def is_node(value: Any) -> bool:
    """Whether a value describes an object to be made."""
    return isinstance(value, Mapping) and "_target_" in value


def _is_foreign(hint: Any) -> bool:
    """Whether a type is neither one of YAML's nor one of this package."""
    return (
        inspect.isclass(hint) and hint is not type(None) and not _is_plain(hint) and not hint.__module__.startswith(OWN)
    )


def _is_plain(hint: Any) -> bool:
    kinds = (*SCALARS, *LISTS, dict, Mapping, Literal)
    return hint in kinds or typing.get_origin(hint) in kinds or typing.is_typeddict(hint)


def _is_scalar(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, int | float) and not math.isnan(value)
    return isinstance(value, str if kind is Path else kind)


def _items_fit(items: Sequence[Any], origin: Any, arguments: tuple[Any, ...]) -> bool:
    if not arguments:
        return True
    if origin is tuple and arguments[-1] is not ...:
        return len(items) == len(arguments) and all(map(fits, items, arguments))
    return all(fits(item, arguments[0]) for item in items)
