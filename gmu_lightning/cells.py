"""Read single cells of a metadata table. The type of a column is decided elsewhere, by the majority of train's cells."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

UNREADABLE = "unreadable"  # the only key of an unreadable cell; the value is the beginning of the cell
Cell = float | str | list[str] | dict[str, str] | None

LARGEST = 3.4028234663852886e38  # largest number of single precision
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
OBJECTS = re.compile(r"\[?\s*\{\s*['\"]")  # the beginning of an object or of a list of objects
BAR = "|"
NAMES = ("name", "title", "label", "value")  # keys of an object's name, in order of preference
# Placeholders in lower case: pandas' markers in the first line, then those of MySQL, spreadsheets, R and people.
MISSING = {
    *("", "#n/a", "#n/a n/a", "#na", "-1.#ind", "-1.#qnan", "-nan", "1.#ind", "1.#qnan", "<na>", "n/a", "na", "null", "nan"),
    *("none", "\\n", "(null)", "nil", "nat", "n.a.", "#null!", "#div/0!", "#value!", "#ref!", "#num!", "#name?"),
    *("inf", "+inf", "-inf", "infinity", "+infinity", "-infinity", "?", "??", "???", "-", "--", "---", "–", "—", ".", "..."),
}
EXCERPT = 40  # characters
MOST_DIGITS = 4_300  # Python's own limit for reading an integer


def read(value: Any) -> Cell:
    """Read a cell as a number, text, a list of texts, or None where it is empty or a placeholder.

    Text that contains a list, in the syntax of JSON or Python, becomes that list, and so do words separated by `|`. Objects
    become their names. A number in text stays text, because only the column decides how to read it.

    Returns:
        The cell, or {UNREADABLE: its beginning} if a table cannot hold it.
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
    """Return whether text is one of the usual placeholders for a missing value."""
    return text.strip().casefold() in MISSING


def number(cell: Any) -> float | None:
    """Return a cell's number, or None if the cell is not a number or exceeds single precision."""
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
    """Return the words of a cell: one for text or a number, several for a list, and an empty tuple otherwise."""
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
    """Return an element of a list as text, or None for a placeholder."""
    if part is None or (isinstance(part, float) and not math.isfinite(part)):
        return None
    text = str(part).strip()
    return None if is_missing(text) else text


def _name_of(found: dict[Any, Any]) -> Cell:
    """Return an object's name, or its only text. It is None if the name is empty."""
    keys = {str(key).strip().casefold(): value for key, value in found.items()}
    named = next((keys[name] for name in NAMES if name in keys), None)
    texts = [value for value in found.values() if isinstance(value, str)]
    if named is None and len(texts) == 1:
        named = texts[0]
    if named is None and not any(name in keys for name in NAMES):
        return _unreadable(found)
    return _unreadable(found) if isinstance(named, dict | list | tuple) else _word(named)


def _parsed(text: str) -> Any:
    """Return the list or object in text, written as JSON or as a Python literal, or None for other text."""
    try:
        found = json.loads(text, parse_int=whole)
    except (ValueError, RecursionError):
        found = _literal(text)
    return found if isinstance(found, list | tuple | dict) else None


def _literal(text: str) -> Any:
    """Return the Python literal in text, evaluated as data, or None for other text."""
    if text[-1] not in "]})" or not any(quote in text for quote in "'\""):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about backslashes
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def whole(digits: str) -> int | str:
    """Return a JSON integer, or its first digits as text if it has more than `MOST_DIGITS`, which Python refuses to read."""
    return int(digits) if len(digits) <= MOST_DIGITS else f"{digits[:EXCERPT]}…"


def _unreadable(value: Any) -> dict[str, str]:
    return {UNREADABLE: str(value)[:EXCERPT]}
