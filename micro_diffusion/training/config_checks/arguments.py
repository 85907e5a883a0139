"""What a configuration may set an argument to: its annotation and bounds, as pydantic reads them.

A value is checked as strict JSON: "1" is no number and 1 is no text, while a list may become a tuple and a text a path.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from functools import cache
from os import PathLike
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, Literal, Union

import torch
from annotated_types import Ge, Le, MinLen
from pydantic import AfterValidator, AllowInfNan, ConfigDict, TypeAdapter, ValidationError, WithJsonSchema

from micro_diffusion.bounds import NonNegativeFloat, NonNegativeInt
from micro_diffusion.training.nodes import accepted, is_node


def in_words(text: str) -> WithJsonSchema:
    """Metadata of an annotation: what to set the argument to."""
    return WithJsonSchema({"description": text})


def _made(value: Any) -> Any:
    if not is_node(value):
        raise ValueError("no node")
    return value


def _device(text: str) -> str:
    try:
        torch.device(text)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return text


_MADE = Annotated[dict[str, Any], AfterValidator(_made), in_words("a node with a _target_")]
_TEXT = Annotated[str, MinLen(1)]
_NAMED: dict[Any, Any] = {torch.device: Annotated[_TEXT, AfterValidator(_device), in_words("cpu or cuda")]}
"""Types that say which texts name their values, as enumerations do too; Composer's are `composer_arguments.NAMED`."""

_PLAIN = {int: int, bool: bool, type(None): None, **dict.fromkeys((str, Path, PathLike, torch.dtype), _TEXT)}
_OURS = {**_PLAIN, float: Annotated[float, AllowInfNan(False)]}
_OTHERS = {**_PLAIN, str: str, float: Annotated[float, Ge(-math.inf)]}
"""What stands for scalars: of this package finite, of others anything but NaN."""

_COMPOSER = {**_OURS, int: NonNegativeInt, float: Annotated[NonNegativeFloat, AllowInfNan(False)]}
"""Of Composer, which declares no bounds, also not negative."""

_UNLIMITED = Le(math.inf)
"""Says of a number that it may be infinite."""

_LISTS = (list, tuple, set, frozenset, Sequence, AbstractSet, typing.Iterable)


def argument_annotations(target: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a class or function and their types; Any for a type that only a type checker knows."""
    function = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)
    names = dict(getattr(getattr(function, "__func__", function), "__globals__", {}))
    for base in target.__mro__ if inspect.isclass(target) else ():  # fields of dataclasses are written in any of them
        names = vars(sys.modules[base.__module__]) | names
    written = getattr(function, "__annotations__", {})
    return {name: _resolved(annotation, names) for name, annotation in written.items() if name != "return"}


def _resolved(annotation: Any, names: dict[str, Any]) -> Any:
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, globalns=names, include_extras=True)["it"]
    except NameError:  # imported under TYPE_CHECKING
        return Any


@cache
def argument_types(target: str) -> dict[str, Any]:
    """The keyword arguments of a `_target_`, each with what a configuration may set it to; none where it takes any."""
    taken, hints = accepted(target) or (), argument_annotations(resolve_name(target))
    is_composers = target.startswith("composer.")
    scalars = _COMPOSER if is_composers else _OURS if target.startswith("micro_diffusion.") else _OTHERS
    found = {name: settable(hints.get(name, Any), scalars) for name in taken}
    if is_composers:
        from micro_diffusion.training.config_checks.composer_arguments import ComposerArguments

        declared = typing.get_type_hints(ComposerArguments, include_extras=True)
        found |= {name: settable(hint) for name, hint in declared.items() if name in found}
    return found


def settable(hint: Any, scalars: Mapping[Any, Any] = _OURS) -> Any:
    """An annotation in the types of JSON, with `scalars` in the place of numbers and texts, and a node for any class.

    Where a type says which texts name its values, as an enumeration and Composer's time do, text has to be one of
    them, also where the annotation allows `str` beside it.
    """
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        bounds = hint.__metadata__
        if _UNLIMITED not in bounds:
            return Annotated[(settable(members[0], scalars), *bounds)]
        finite = settable(Annotated[(members[0], *(bound for bound in bounds if bound != _UNLIMITED))])
        return Annotated[(settable(members[0], _OTHERS), *bounds, in_words(f"{expected(finite)} or inf"))]
    if origin in (Union, types.UnionType):
        named = any(map(_is_named, members))
        return Union[tuple(settable(member, scalars) for member in members if not (named and member is str))]  # noqa: UP007
    if origin is Literal or hint is Any:
        return hint
    if isinstance(hint, typing.TypeVar):
        return Any
    if origin in _LISTS or hint in _LISTS:
        within = {**scalars, str: str}  # a caption may be empty
        items = [item if item is ... else settable(item, within) for item in members]
        return tuple[tuple(items)] if origin is tuple else list[items[0]] if items else list[Any]
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return dict[str, settable(members[1], scalars) if members else Any]
    if inspect.isclass(hint) and issubclass(hint, Enum):
        return Literal[tuple(member.value for member in hint)]
    return _named(hint) or scalars.get(hint, _MADE)


def _is_named(hint: Any) -> bool:
    return _named(hint) is not None or (inspect.isclass(hint) and issubclass(hint, Enum))


def _named(hint: Any) -> Any:
    if inspect.isclass(hint) and hint.__module__.startswith("composer."):
        # here and above only where Composer is already: its import takes seconds, which data commands need not wait
        from micro_diffusion.training.config_checks.composer_arguments import NAMED

        return NAMED.get(hint)
    return _NAMED.get(hint)


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(strict=True))


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value (scalar, list or mapping) can be what a `settable` annotation says; a node always can."""
    if is_node(value):
        return True
    try:
        _adapter(hint).validate_json(json.dumps(value))
    except ValidationError:
        return False
    return True


def expected(hint: Any) -> str:
    """What to set an argument of a `settable` annotation to."""
    return _words(_adapter(hint).json_schema())


def _words(schema: Mapping[str, Any]) -> str:
    if "description" in schema:
        return schema["description"]
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_words, schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        return " or ".join(map(str, schema.get("enum", [schema.get("const")])))
    kind = schema.get("type")
    if kind == "array":
        items = schema.get("prefixItems", [])
        kinds = dict.fromkeys(map(_words, items or [schema["items"]]))
        return f"a list{f' of {len(items)}' if items else ''} ({', '.join(kinds)})"
    if kind in ("integer", "number"):
        return _number_words(schema, "a whole number" if kind == "integer" else "a finite number")
    if kind == "string" and schema.get("minLength"):
        return "text that is not empty"
    return {"boolean": "true or false", "null": "null", "string": "text"}.get(str(kind), "a mapping")


def _number_words(schema: Mapping[str, Any], noun: str) -> str:
    bounds = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    if "minimum" in schema and "maximum" in schema:
        return f"{noun} from {schema['minimum']} to {schema['maximum']}"
    return f"{noun} {' and '.join(f'{word} {schema[key]}' for key, word in bounds.items() if key in schema)}".strip()
