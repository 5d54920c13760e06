"""JSON, YAML and CSV of strangers as plain data: no alias, no duplicate key, no NaN, no depth without end."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gmu_lightning.run_files.content import Damaged, text
from gmu_lightning.run_files.shapes import Check, Unexpected

SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where it is there, is ten times as fast
DEEPEST = 32  # levels of a YAML file
DIGITS = 20  # of a whole number
LONGEST = 4096  # characters of a YAML word without quotes
NO_JSON = "it is no JSON object"
HALF = "it holds half of a character (a lone surrogate)"
PLAIN = (str, int, float, bool, type(None))


def json_object(path: Path, most: int, check: Check, hint: str | None = None) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        most: bytes.
        check: of the object.
        hint: what to do about a damaged file.

    Raises:
        FileNotFoundError: there is no file.
        Damaged: the file is no such object.
    """
    written = text(path, most, hint)
    try:
        found = json_of(written)
    except Unexpected as error:
        raise Damaged(path, str(error), hint) from error
    return _checked(path, found, check, NO_JSON, hint)


def json_of(written: str) -> Any:
    """Return the value in a JSON text. Raises Unexpected."""
    try:
        found = json.loads(written, object_pairs_hook=_once, parse_constant=_no_number, parse_int=_short_int, parse_float=_finite)
        if "\\u" in written:
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Unexpected(HALF) from None
    except RecursionError:
        raise Unexpected("it is nested too deeply") from None
    except ValueError:
        raise Unexpected(NO_JSON) from None
    return found


def yaml_mapping(path: Path, most: int, check: Check, hint: str | None = None) -> dict[str, Any]:
    """Return the mapping in a YAML file, as plain data: nothing in it is resolved or instantiated.

    Args:
        most: bytes.
        check: of the mapping.
        hint: what to do about a damaged file.

    Raises:
        FileNotFoundError: there is no file.
        Damaged: the file is no such mapping.
    """
    written = text(path, most, hint)
    try:
        _check_events(written)
        found = yaml.load(written, SAFE_LOADER)
        _check_plain(found)
    except Unexpected as error:
        raise Damaged(path, str(error), hint) from error
    except RecursionError as error:
        raise Damaged(path, "it is nested too deeply", hint) from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise Damaged(path, "it is no YAML of plain data", hint) from error
    return _checked(path, found, check, "it is no mapping of plain data", hint)


def csv_rows(path: Path, most: int, columns: Mapping[str, Check]) -> list[dict[str, str]]:
    """Return the rows of a CSV file.

    Args:
        most: bytes.
        columns: {name: check of its cells}; further columns are allowed.

    Raises:
        FileNotFoundError: there is no file.
        Damaged: it is no such table.
    """
    reader = csv.DictReader(io.StringIO(text(path, most), newline=""))
    try:
        _check_columns(list(reader.fieldnames or []), columns)
        return [_checked_row(row, n + 1, columns) for n, row in enumerate(reader)]
    except Unexpected as error:
        raise Damaged(path, str(error)) from error
    except csv.Error as error:
        raise Damaged(path, f"it is no CSV ({error})") from error


def _check_columns(names: Sequence[str], columns: Mapping[str, Check]) -> None:
    lacking = [name for name in columns if name not in names]
    if lacking:
        raise Unexpected(f"it lacks the column {lacking[0]}")
    if len(set(names)) < len(names):
        raise Unexpected("it names a column twice")


def _checked_row(row: dict[str, str], number: int, columns: Mapping[str, Check]) -> dict[str, str]:
    if None in row or None in row.values():
        raise Unexpected(f"row {number} has not as many cells as there are columns")
    for name, check in columns.items():
        check(row[name], f"{name} of row {number}")
    return row


def _checked(path: Path, found: Any, check: Check, otherwise: str, hint: str | None) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise Damaged(path, otherwise, hint)
    try:
        check(found, "")
    except Unexpected as error:
        raise Damaged(path, str(error), hint) from error
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise Unexpected(f"it holds the key {twice[:40]!r} twice")
    return found


def _no_number(name: str) -> float:
    raise Unexpected(f"it holds {name}, which is no number")


def _short_int(digits: str) -> int:
    if len(digits) > DIGITS:
        raise Unexpected(f"it holds a number of {len(digits):,} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise Unexpected(f"it holds {digits[:40]}, which is too large a number")
    return value


def _check_events(written: str) -> None:
    """Read a YAML file as a stream of events, which needs no memory. Raises Unexpected, or YAMLError."""
    open_nodes: list[set[str] | None] = []  # of each mapping its keys so far, None for a list
    awaits_key: list[bool] = []
    for event in yaml.parse(written, SAFE_LOADER):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise Unexpected("it holds an anchor or an alias, which no run writes")
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            open_nodes.pop()
            awaits_key.pop()
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        keys = open_nodes[-1] if open_nodes else None
        if keys is not None:
            if awaits_key[-1]:
                _check_key(event, keys)
            awaits_key[-1] = not awaits_key[-1]
        if isinstance(event, yaml.ScalarEvent):
            if event.implicit[0] and len(event.value) > LONGEST:
                raise Unexpected(f"it holds a word of {len(event.value):,} characters without quotes")
        else:
            open_nodes.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
            awaits_key.append(True)
            if len(open_nodes) > DEEPEST:
                raise Unexpected(f"it is nested more than {DEEPEST} levels deep")


def _check_key(event: yaml.NodeEvent, keys: set[str]) -> None:
    if not isinstance(event, yaml.ScalarEvent):
        raise Unexpected("it holds a key that is no word")
    if event.value in keys:
        raise Unexpected(f"it holds the key {event.value[:40]!r} twice")
    keys.add(event.value)


def _check_plain(found: Any) -> None:
    """Raise Unexpected for a value that JSON has not, a key that is no text, a huge number, or half of a character."""
    waiting = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            odd = next((key for key in value if not isinstance(key, str)), None)
            if odd is not None:
                raise Unexpected(f"it holds the key {str(odd)[:40]}, which is no word")
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif not isinstance(value, PLAIN):
            raise Unexpected(f"it holds a {type(value).__name__}, which is no plain data")
        elif isinstance(value, int) and abs(value) >= 10**DIGITS:
            raise Unexpected(f"it holds a number of more than {DIGITS} digits")
        elif isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise Unexpected(HALF)
