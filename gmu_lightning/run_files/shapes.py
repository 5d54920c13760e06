"""Checks of the shapes of a file's values. Each check takes a value and its place, and raises Unexpected for another shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

Check = Callable[[Any, str], None]
SHOWN = 40  # characters of a value that an error quotes


class Unexpected(Exception):
    """A value has another shape than expected. The text names its place, the value and the expected shape."""


def described(value: Any) -> str:
    """Return a description of a value for an error: its kind, or its first `SHOWN` characters."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None or isinstance(value, (bool, int, float, str)):
        shown = {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else repr(value)
        return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
    return f"a {type(value).__name__}"


def unexpected(value: Any, place: str, expected: str) -> Unexpected:
    """Return, without raising it, the exception for a value that is not as `expected` says."""
    short = place if len(place) <= 2 * SHOWN else f"{place[: 2 * SHOWN]}..."
    return Unexpected(f"{short} is {described(value)} and {expected} is expected")


def anything(_value: Any, _place: str) -> None:
    """Accept every value."""


def _instance(kind: type, words: str) -> Check:
    def check(value: Any, place: str) -> None:
        if not isinstance(value, kind):
            raise unexpected(value, place, words)

    return check


word, flag = _instance(str, "text"), _instance(bool, "true or false")


def whole(least: int = 0, most: int = 2**63 - 1) -> Check:
    """Return the check of a whole number from `least` to `most`, both included. True and false fail."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise unexpected(value, place, f"a whole number from {least} on")

    return check


def is_number(value: Any) -> bool:
    """Return whether a value is a finite int or float; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(low: float = -math.inf, high: float = math.inf) -> Check:
    """Return the check of a finite number from `low` to `high`, both included."""
    words = "a finite number" if math.isinf(low) and math.isinf(high) else f"a number from {low:g} to {high:g}"

    def check(value: Any, place: str) -> None:
        if not is_number(value) or not low <= value <= high:
            raise unexpected(value, place, words)

    return check


def one_of(*words: str) -> Check:
    """Return the check of a word from a list."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, str) or value not in words:
            raise unexpected(value, place, f"one of {', '.join(words)}")

    return check


def maybe(check: Check) -> Check:
    """Return a check that accepts null too."""

    def or_null(value: Any, place: str) -> None:
        if value is not None:
            check(value, place)

    return or_null


def either(*checks: Check) -> Check:
    """Return a check that accepts a value if one of the checks does. Errors are those of the last check."""

    def any_of(value: Any, place: str) -> None:
        for check in checks[:-1]:
            try:
                return check(value, place)
            except Unexpected:
                continue
        return checks[-1](value, place)

    return any_of


def sequence(of: Check, least: int = 0, most: int = 10**7, unique: bool = False) -> Check:
    """Return the check of a list.

    Args:
        of: the check of each entry.
        least, most: the range of the number of entries.
        unique: whether entries must differ; they must then be hashable.
    """

    def check(value: Any, place: str) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise unexpected(value, place, "a list" if not least else f"a list of {least} to {most:,} entries")
        for n, entry in enumerate(value):
            of(entry, f"{place}[{n}]")
        if unique and len(set(value)) < len(value):
            raise Unexpected(f"{place} names an entry twice")

    return check


def mapping(of: Check) -> Check:
    """Return the check of a mapping with text keys; `of` is the check of each value."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise unexpected(value, place, "a mapping")
        for key, entry in value.items():
            word(key, f"a key of {place}")
            of(entry, f"{place}.{key}" if place else key)

    return check


def record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """Return the check of a mapping with known keys. Further keys are allowed, because later versions may add some."""
    every = {**(optional or {}), **required}

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise unexpected(value, place or "it", "a mapping")
        lacking = [key for key in required if key not in value]
        if lacking:
            raise Unexpected(f"{place or 'it'} lacks {lacking[0]}")
        for key, of in every.items():
            if key in value:
                of(value[key], f"{place}.{key}" if place else key)

    return check


def same_keys(of: Mapping[str, Any], keys: Collection[str], place: str) -> None:
    """Raise Unexpected unless the keys of a mapping are `keys`, in any order."""
    if set(of) != set(keys):
        odd = sorted(map(str, set(of) ^ set(keys)))[0]
        raise Unexpected(f"{place} has other entries than {', '.join(list(keys)[:5])}, such as {described(odd)}")
