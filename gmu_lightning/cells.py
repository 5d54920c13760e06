"""One cell of a table of metadata, judged by itself: a column's type is decided elsewhere, by the majority of train."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

UNREADABLE = "unreadable"  # the key of a cell that holds something no table can hold; the value is its beginning
Cell = float | str | list[str] | dict[str, str] | None

LARGEST = 3.4028234663852886e38  # in single precision
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
OBJECTS = re.compile(r"\[?\s*\{\s*['\"]")  # how a list of objects begins
BAR = "|"
NAMES = ("name", "title", "label", "value")  # the keys of an object that stand for it, the first that it has
# Compared in lower case. The first line are pandas' markers, then those of MySQL, spreadsheets, R and people.
MISSING = {
    *("", "#n/a", "#n/a n/a", "#na", "-1.#ind", "-1.#qnan", "-nan", "1.#ind", "1.#qnan", "<na>", "n/a", "na", "null", "nan"),
    *("none", "\\n", "(null)", "nil", "nat", "n.a.", "#null!", "#div/0!", "#value!", "#ref!", "#num!", "#name?"),
    *("inf", "+inf", "-inf", "infinity", "+infinity", "-infinity", "?", "??", "???", "-", "--", "---", "–", "—", ".", "..."),
}
EXCERPT = 40
MOST_DIGITS = 4_300  # as many as Python makes an integer of


def read(value: Any) -> Cell:
    """Read a cell as a number, text, a list of texts, or None where it is empty or a placeholder.

    Text that is a list, as JSON or Python writes it, becomes that list, and so do words between `|`. Objects become their
    names. A number stays text where text it was, since only its column knows what it is.
    """
    if isinstance(value, str):
        return _of_text(value.strip())
    if isinstance(value, bool | int | float):
        return _of_number(value)
    if isinstance(value, list | tuple):
        return _of_list(value)
    if isinstance(value, dict):
        return (value if UNREADABLE in value else _name_of(value)) if value else None
    return None if value is None else _unreadable(value)


def is_missing(text: str) -> bool:
    """Return whether text is one of the usual placeholders for nothing."""
    return text.strip().casefold() in MISSING


def number(cell: Any) -> float | None:
    """Return a cell's number, or None where it is none that single precision holds."""
    if isinstance(cell, str) and NUMBER.fullmatch(cell.strip()):
        cell = float(cell)
    if not isinstance(cell, bool | int | float):
        return None
    try:
        found = float(cell)
    except OverflowError:
        return None
    return found if abs(found) <= LARGEST else None  # False for NaN


def words(cell: Any) -> tuple[str, ...]:
    """Return the words of a cell: one for text or a number, several for a list, an empty tuple otherwise."""
    if isinstance(cell, str):
        return (cell.strip(),)
    if isinstance(cell, list | tuple):
        return tuple(word for part in cell for word in words(part))
    found = number(cell)
    if found is None:
        return ()
    return (str(int(found)) if found.is_integer() else str(found),)


def _of_text(text: str) -> Cell:
    if is_missing(text):
        return None
    if text[0] in "[{(":
        parsed = _parsed(text)
        if parsed is not None:
            return read(parsed)
        if OBJECTS.match(text):
            return _unreadable(text)
    if BAR in text:
        return _of_list(text.split(BAR))
    return text


def _of_number(value: float) -> Cell:
    try:
        found = float(value)
    except OverflowError:
        return _unreadable("a number that no machine holds")
    return found if math.isfinite(found) else None


def _of_list(parts: Sequence[Any]) -> Cell:
    names: list[str] = []
    for part in parts:
        cell = _name_of(part) if isinstance(part, dict) else None if isinstance(part, list | tuple) else _word(part)
        if isinstance(cell, dict) or isinstance(part, list | tuple):
            return _unreadable(parts)
        if isinstance(cell, str):
            names.append(cell)
    return names or None


def _word(part: Any) -> str | None:
    """Return an element of a list as text; None for a placeholder."""
    if part is None or (isinstance(part, float) and not math.isfinite(part)):
        return None
    text = str(part).strip()
    return None if is_missing(text) else text


def _name_of(found: dict[Any, Any]) -> Cell:
    """Return an object's name, or its only text; None where the name is empty."""
    keys = {str(key).strip().casefold(): value for key, value in found.items()}
    named = next((keys[name] for name in NAMES if name in keys), None)
    texts = [value for value in found.values() if isinstance(value, str)]
    if named is None and len(texts) == 1:
        named = texts[0]
    if named is None and not any(name in keys for name in NAMES):
        return _unreadable(found)
    return _unreadable(found) if isinstance(named, dict | list | tuple) else _word(named)


def _parsed(text: str) -> Any:
    """Return the list or object that text is, written as JSON or as Python's literals; None where it is none."""
    try:
        found = json.loads(text, parse_int=whole)
    except (ValueError, RecursionError):
        found = _literal(text)
    return found if isinstance(found, list | tuple | dict) else None


def _literal(text: str) -> Any:
    """Return Python's literal, evaluated as data; None where text is none."""
    if text[-1] not in "]})" or not any(quote in text for quote in "'\""):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def whole(digits: str) -> int | str:
    """Return a JSON integer. One of thousands of digits is returned as text, since Python's reader would refuse the line."""
    return int(digits) if len(digits) <= MOST_DIGITS else f"{digits[:EXCERPT]}…"


def _unreadable(value: Any) -> dict[str, str]:
    return {UNREADABLE: str(value)[:EXCERPT]}
