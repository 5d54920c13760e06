"""Read files of strangers as plain data: regular files of a limited size, without aliases, duplicate keys, NaN or deep nests."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from gmu_lightning.files import of_csv_cell
from gmu_lightning.movie import UserError
from gmu_lightning.run_files.shapes import Check, Unexpected

SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's loader, if installed, is ten times as fast
DEEPEST = 32  # levels of a YAML file
DIGITS = 20  # of a whole number
LONGEST = 4096  # characters of a YAML word without quotes
NO_JSON = "it is no JSON object"
HALF = "it holds half of a character (a lone surrogate)"
PLAIN = (str, int, float, bool, type(None))
KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


class Damaged(UserError):
    """A file of a run or a sweep differs from the files that commands write. The text is one sentence that names the file."""

    def __init__(self, path: Path, problem: str, hint: str | None = None):
        inside = path.parent.name in ("predictions", "checkpoints", "search")
        owner = path.parent.parent if inside else path.parent  # the folder of the run or sweep
        super().__init__(f"{path} is damaged, for {problem}: {hint or f'restore it, or leave {owner} out'}")
        self.path = path

    def __reduce__(self) -> tuple[type[UserError], tuple[str]]:
        return UserError, (str(self),)


@contextmanager
def checking(path: Path, hint: str | None = None) -> Iterator[None]:
    """Raise Damaged, which names the file, for an Unexpected in the context.

    Args:
        path: the file.
        hint: advice about a damaged file, for the error sentence.
    """
    try:
        yield
    except Unexpected as error:
        raise Damaged(path, str(error), hint) from error


def is_there(path: Path) -> bool:
    """Return whether a path exists, even as a dangling link."""
    return os.path.lexists(path)


def check_regular(path: Path, most: int, hint: str | None = None) -> int:
    """Return the size of a regular file in bytes, without opening it.

    Raises:
        FileNotFoundError: the path does not exist.
        Damaged: the path is a folder, a pipe, a device or a dangling link, or the file is empty or larger than `most` bytes.
            `hint` is the advice in its sentence.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if is_there(path):
            raise Damaged(path, "it is a link to a file that is gone", hint) from None
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise Damaged(path, f"it cannot be read ({error.strerror})", hint) from error
    for is_kind, words in KINDS.items():
        if is_kind(found.st_mode):
            raise Damaged(path, f"it is {words}, and a file is expected", hint)
    if found.st_size == 0:
        raise Damaged(path, "it is empty", hint)
    if found.st_size > most:
        raise Damaged(path, f"it has {found.st_size:,} bytes, and at most {most:,} are expected", hint)
    return found.st_size


def text(path: Path, most: int, hint: str | None = None) -> str:
    """Return the text of a regular UTF-8 file of 1 to `most` bytes. Raises FileNotFoundError, or Damaged with the `hint`."""
    check_regular(path, most, hint)
    try:
        with path.open("rb") as file:
            found = file.read(most + 1)
        if len(found) > most:
            raise Damaged(path, f"it grew beyond {most:,} bytes while it was read", hint)
        return found.decode("utf-8")
    except OSError as error:
        raise Damaged(path, f"it cannot be read ({error.strerror})", hint) from error
    except UnicodeDecodeError as error:
        raise Damaged(path, f"its byte {error.start} is no UTF-8", hint) from error


def json_object(path: Path, most: int, check: Check) -> dict[str, Any]:
    """Return the object in a JSON file of at most `most` bytes.

    Raises:
        FileNotFoundError: the file does not exist.
        Damaged: the file is unreadable, is no JSON object, or fails the check.
    """
    with checking(path):
        return _mapping(json_of(text(path, most)), check, NO_JSON)


def json_of(written: str) -> Any:
    """Return the value in a JSON text.

    Raises:
        Unexpected: the text is no JSON, or holds a key twice, NaN, infinity, a whole number of over `DIGITS` digits, or a lone
            surrogate.
    """
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
    """Return the mapping in a YAML file of at most `most` bytes, without resolving or instantiating anything in it.

    Raises:
        FileNotFoundError: the file does not exist.
        Damaged: the file is unreadable, is no mapping of plain data, or fails the check. `hint` is the advice in its sentence.
    """
    written = text(path, most, hint)
    with checking(path, hint):
        try:
            _check_events(written)
            found = yaml.load(written, SAFE_LOADER)
        except (yaml.YAMLError, ValueError, TypeError, OverflowError):
            raise Unexpected("it is no YAML of plain data") from None
        _check_plain(found)
        return _mapping(found, check, "it is no mapping of plain data")


def _mapping(found: Any, check: Check, otherwise: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise Unexpected(otherwise)
    check(found, "")
    return found


def csv_rows(path: Path, most: int, columns: Mapping[str, Check]) -> list[dict[str, str]]:
    """Return the rows of a CSV file of at most `most` bytes, {column: text} each; texts are those before `csv_cell`.

    Args:
        columns: {required column: check of its cells}. The file may have others.

    Raises:
        FileNotFoundError: the file does not exist.
        Damaged: the file is unreadable, a column is missing or stands twice, a row has another length, or a cell fails its check.
    """
    reader = csv.DictReader(io.StringIO(text(path, most), newline=""))
    with checking(path):
        try:
            reader.fieldnames = [of_csv_cell(name) for name in reader.fieldnames or []]
            _check_columns(reader.fieldnames, columns)
            return [_checked_row(row, n + 1, columns) for n, row in enumerate(reader)]
        except csv.Error as error:
            raise Unexpected(f"it is no CSV ({error})") from error


def _check_columns(names: Sequence[str], columns: Mapping[str, Check]) -> None:
    lacking = [name for name in columns if name not in names]
    if lacking:
        raise Unexpected(f"it lacks the column {lacking[0]}")
    if len(set(names)) < len(names):
        raise Unexpected("it names a column twice")


def _checked_row(row: dict[str, str], number: int, columns: Mapping[str, Check]) -> dict[str, str]:
    if None in row or None in row.values():
        raise Unexpected(f"row {number} has not as many cells as there are columns")
    row = {name: of_csv_cell(cell) for name, cell in row.items()}
    for name, check in columns.items():
        check(row[name], f"{name} of row {number}")
    return row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
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
    """Check a YAML text event by event, which takes little memory. Raises Unexpected, or YAMLError."""
    open_nodes: list[set[str] | None] = []  # for each open mapping its keys so far, for each open list None
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
    """Raise Unexpected for a value unknown to JSON, a key that is not text, a huge number, or a lone surrogate."""
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
