"""Check settings against types, and write the sentence that refuses a value.

pydantic checks the values. It is imported at the first check of a class's arguments.
"""

from __future__ import annotations

import difflib
import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from gmu_lightning.config.classes import class_of
from gmu_lightning.movie import UserError


def near(word: str, names: Iterable[str]) -> str:
    """Return `did you mean a? valid are a, b, c` for a word that is not among the names."""
    names = list(names)
    close = difflib.get_close_matches(word, names, n=2, cutoff=0.5)
    valid = f"valid are {', '.join(names)}"
    return f"did you mean {' or '.join(close)}? {valid}" if close else valid


def refuse_endless(node: Mapping[str, Any], prefix: str = "") -> None:
    """Raise UserError if any value at any depth is infinite or NaN."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            refuse_endless(value, f"{prefix}{key}.")
        elif any(isinstance(part, float) and not math.isfinite(part) for part in (value if isinstance(value, list) else [value])):
            raise UserError(f"{prefix}{key}={value} is no finite number: give one, or leave {prefix}{key} at its default")


def check_part(node: Mapping[str, Any], place: str) -> None:
    """Check the arguments of a part, and of the parts inside it, against the types in their classes. Raises UserError."""
    made = class_of(str(node["_target_"]))
    for one in (made, *([made.reads] if hasattr(made, "reads") else [])):  # a data module passes arguments on to its data set
        check_arguments(one, node, place)
    for name, inner in node.items():
        if isinstance(inner, Mapping) and "_target_" in inner:
            check_part(inner, f"{place}.{name}")


def check_arguments(made: Callable[..., Any], node: Mapping[str, Any], place: str) -> None:
    """Check configured arguments against the types in a signature.

    Args:
        made: the class or function.
        node: the arguments by name; unknown names are ignored.
        place: of the node in the configuration, for errors.

    Raises:
        UserError: a value has the wrong type or is out of range.
    """
    from pydantic import ValidationError

    hints = _hints(made)
    for name, value in node.items():
        if name not in hints or (isinstance(value, Mapping) and "_target_" in value):
            continue
        adapter = _adapter(made, name)
        try:
            if adapter is not None:
                adapter.validate_python(value)
        except ValidationError:
            raise UserError(refusal(f"{place}.{name}", value, hints[name])) from None


@cache
def _hints(made: Callable[..., Any]) -> dict[str, Any]:
    """Return the arguments' annotations, with those of base classes if the constructor passes `**options` on."""
    bases = made.__mro__ if isinstance(made, type) else ()
    found: dict[str, Any] = {}
    for function in [vars(base)["__init__"] for base in bases if "__init__" in vars(base)] or [made]:
        try:
            hints = get_type_hints(function, include_extras=True)
            kinds = {name: parameter.kind for name, parameter in inspect.signature(function).parameters.items()}
        except (NameError, TypeError, ValueError):  # annotations for type checkers alone, or a class written in C
            break
        rest = {name for name, kind in kinds.items() if kind == inspect.Parameter.VAR_KEYWORD}
        found = {name: hint for name, hint in hints.items() if name in kinds.keys() - rest} | found
        if not rest:
            break
    return found


@cache
def _adapter(made: Callable[..., Any], name: str) -> Any:
    from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter

    try:
        return TypeAdapter(_hints(made)[name], config=ConfigDict(strict=True, allow_inf_nan=False))
    except PydanticSchemaGenerationError:  # a type that no configuration can hold
        return None


def refusal(place: str, value: Any, hint: Any) -> str:
    """Return the sentence that refuses a value, with the expected form or the nearest choices."""
    choices = _choices(hint)
    if choices:
        null = ", or null" if type(None) in get_args(hint) else ""
        return f"{place}={shown(value)} does not exist: {near(shown(value), choices)}{null}"
    return f"{place}={shown(value)} is not possible: give {expected(hint)}"


def _choices(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return [str(choice) for choice in get_args(hint)]
    inner = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint) if _is_union(hint) else ()
    return [choice for one in inner for choice in _choices(one)]


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def expected(hint: Any) -> str:
    """Return a description of the values of a type, such as `a whole number from 1 on, or null`."""
    if get_origin(hint) is Annotated:
        base, *marks = get_args(hint)
        words = next((mark for mark in marks if isinstance(mark, str)), None)
        return words or f"{expected(base)}{_range(marks)}"
    if _is_union(hint):
        null = [", or null"] if type(None) in get_args(hint) else []
        return "".join([" or ".join(expected(one) for one in get_args(hint) if one is not type(None)), *null])
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    kind = get_origin(hint) or hint
    words_of = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if kind in words_of:
        return words_of[kind]
    return "a mapping" if isinstance(kind, type) and issubclass(kind, Mapping) else "a list"


def _range(marks: Sequence[Any]) -> str:
    bounds = {name: f"{getattr(mark, name):,}" for mark in marks for name in ("ge", "gt", "le", "lt") if hasattr(mark, name)}
    if {"ge", "le"} <= bounds.keys():
        return f" from {bounds['ge']} to {bounds['le']}"
    words = {"ge": " from {} on", "gt": " above {}", "le": " up to {}", "lt": " and below {}"}
    return "".join(word.format(bounds[name]) for name, word in words.items() if name in bounds)


def shown(value: Any) -> str:
    """Return a value as it is typed, cut after 80 characters."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
