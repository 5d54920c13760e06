"""Read records of movies: files with a JSON object per line, and the plot and genres of an object."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.readers.layouts import FILE_NAMES, FirstUse, why_no_json
from gmu_lightning.data.readers.strings import MOST_TABLE, as_utf8, parsed, shows
from gmu_lightning.files import bytes_of, looks_like
from gmu_lightning.movie import SPLITS, BadContent, UserError

LINE_END = re.compile(rb"\r\n|\n|\r")
TEXT_KEYS = ("text", "plot", "plots", "synopsis", "overview", "description", "summary")
GENRE_KEYS = ("genres", "genre", "label", "labels", "category", "categories", "tags")
PLOTS: dict[str, Callable[[Sequence[str]], str]] = {
    "longest": lambda plots: max(plots, key=len),  # in characters; the first of several, as in the published readers
    "first": lambda plots: plots[0],
    "concat": " ".join,
}


@dataclass(frozen=True)
class Line:
    """A line of a split's file.

    Attributes:
        id: of the movie; the place if the line has no id.
        place: `file:line`.
        record: the JSON object; empty if the line is broken.
        broken: describes the fault of a broken line.
    """

    id: str
    place: str
    record: dict[str, Any]
    broken: str | None = None


class SplitFiles:
    """`train.jsonl`, `dev.jsonl` (or `val.jsonl`) and `test.jsonl`, with at least `{"id", "label": [...]}` on each line.

    Args:
        root: folder that holds the three files.

    Raises:
        UserError: one of the three files is missing or cannot be read.
    """

    def __init__(self, root: Path):
        self.files = {split: _file_of(root, split) for split in SPLITS}
        self.lines = {split: _lines(path) for split, path in self.files.items()}
        self.first = FirstUse({split: [line.id for line in lines] for split, lines in self.lines.items()})

    def read(self, split: str, audit: Audit) -> Iterator[Line]:
        """Yield the sound lines of a split, the first of each id. The audit names the others as removed."""
        for n, line in enumerate(self.lines[split]):
            if line.broken is not None:
                audit.add(line.id, line.place, split, "broken_json", "removed", line.broken)
            elif not self.first.repeated(line.id, split, n, line.place, audit):
                note_other_key(line.record, "label", line.id, line.place, split, audit)
                yield line


def split_file(root: Path, split: str) -> Path | None:
    """Return the file of a split in a folder, or None if there is none."""
    return next((path for name in FILE_NAMES[split] if (path := root / f"{name}.jsonl").is_file()), None)


def _file_of(root: Path, split: str) -> Path:
    path = split_file(root, split)
    if path is None:
        names = " or ".join(f"{name}.jsonl" for name in FILE_NAMES[split])
        raise UserError(f"{root} has no {names}: expected one file for each of train, dev and test.")
    return path


def _lines(path: Path) -> list[Line]:
    try:
        data = as_utf8(bytes_of(path, MOST_TABLE))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions and the disk.") from error
    except ValueError as broken:
        raise UserError(f"{path} cannot be decoded ({broken}): save it as UTF-8.") from broken
    whole = looks_like(data) if data else None
    if data.lstrip().startswith(b"[") and _is_array(data):
        whole = "a JSON array: expected an object on each line, and no brackets around them"
    if whole:
        return [Line(f"{path.name}:1", f"{path.name}:1", {}, whole)]
    return [_line(text, f"{path.name}:{n}") for n, text in enumerate(LINE_END.split(data), start=1) if text.strip()]


def _is_array(data: bytes) -> bool:
    try:
        return isinstance(parsed(data), list)
    except (ValueError, RecursionError):
        return False


def _line(text: bytes, place: str) -> Line:
    try:
        record = parsed(text)
    except (ValueError, RecursionError) as broken:
        return Line(place, place, {}, why_no_json(text, broken))
    name = record.get("id") if isinstance(record, dict) else None
    if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
        has = f", only {', '.join(list(record)[:5])}" if isinstance(record, dict) and record else ""
        return Line(place, place, {}, f'no object with an "id"{has}')
    try:
        genres_of(record, "label")
    except ValueError as broken:
        return Line(str(name), place, {}, str(broken))
    return Line(str(name), place, record)


def genres_of(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return the distinct genres under a key of a record; empty if the key is missing.

    A genre is a string, or an object with a name such as TMDB's `{"id": 18, "name": "Drama"}`.

    Raises:
        ValueError: the genres are no list of these.
    """
    genres = record.get(key)
    if genres is None:
        return ()
    listed = genres if isinstance(genres, list) else [None]
    named = [genre.get("name") if isinstance(genre, Mapping) else genre for genre in listed]
    names = [name for name in named if isinstance(name, str) and name]
    if len(names) < len(named):
        raise ValueError(f"{key} is {str(genres)[:60]!r}, expected a list of strings")
    return tuple(dict.fromkeys(names))


def note_other_key(record: Mapping[str, Any], key: str, id: str, file: str, split: str, audit: Audit) -> None:
    """Add a movie to the audit if its genres stand under another key of `GENRE_KEYS`, and nothing under the data set's `key`."""
    if record.get(key):
        return
    other = next((name for name in GENRE_KEYS if name != key and record.get(name)), None)
    if other:
        audit.add(id, file, split, "no_genre", "kept", f"it has {other} and no {key}: rename the key to {key}")


def plot_of(record: Mapping[str, Any], keys: Sequence[str], choice: str = "longest") -> str:
    """Return a record's plot, without white space around it.

    Args:
        record: as read from JSON.
        keys: the first of them that holds a visible plot, or a list of plots, is read.
        choice: a key of `PLOTS`, which chooses among several plots.

    Raises:
        BadContent: there is no plot, or only empty ones.
    """
    for key in keys:
        plots = record.get(key)
        listed = plots if isinstance(plots, list) else [plots]
        found = [plot.strip() for plot in listed if isinstance(plot, str) and shows(plot)]
        if found:
            return PLOTS[choice](found)
    raise BadContent("missing_plot", f"it has no {keys[0]}, or an empty one")
