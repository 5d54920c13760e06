"""A line of JSON per movie and a file per split; and MM-IMDb as the MMBT code writes it so, posters beside."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.layouts import FILE_NAMES, FirstUse, why_no_json
from gmu_lightning.data.media import NamedFiles
from gmu_lightning.data.raw import PLOTS, genres_of, note_other_key, plots_of
from gmu_lightning.data.strings import as_utf8, parsed
from gmu_lightning.files import looks_like
from gmu_lightning.movie import SPLITS, BadContent, Movie, UserError

LINE_END = re.compile(rb"\r\n|\n|\r")
TEXT_KEYS = ("text", "plot", "plots", "synopsis", "overview", "description", "summary")


@dataclass(frozen=True)
class Line:
    """A line of a split's file: its record, or what is wrong with it."""

    id: str
    place: str  # file:line
    record: dict[str, Any]
    broken: str | None = None


class SplitFiles:
    """`train.jsonl`, `dev.jsonl` (or `val.jsonl`) and `test.jsonl`, of rows with at least `{"id", "label": [...]}`.

    Raises:
        UserError: one of the three files is missing.
    """

    def __init__(self, root: Path):
        self.files = {split: _file_of(root, split) for split in SPLITS}
        self.lines = {split: _lines(path) for split, path in self.files.items()}
        self.first = FirstUse({split: [line.id for line in lines] for split, lines in self.lines.items()})

    def read(self, split: str, audit: Audit) -> Iterator[Line]:
        """The sound lines of the split, an id's first each; the others are in the audit as removed."""
        for n, line in enumerate(self.lines[split]):
            if line.broken is not None:
                audit.add(line.id, line.place, split, "broken_json", "removed", line.broken)
            elif not self.first.repeated(line.id, split, n, line.place, audit):
                note_other_key(line.record, "label", line.id, line.place, split, audit)
                yield line


class JsonlLayout:
    """`train.jsonl`, `dev.jsonl` (or `val.jsonl`) and `test.jsonl`.

    A row is `{"id", "text", "img" | "image": path or null, "label": [...]}`.
    Poster paths are relative to the folder, or absolute, and stay inside it.

    Args:
        root: the folder.
        plot: which of a movie's plots is its text, where a row lists several: a key of `PLOTS`.

    Raises:
        UserError: one of the three files is missing.
    """

    name = "jsonl"

    def __init__(self, root: Path, plot: str = "longest"):
        self.root, self.plot = root, plot
        self.splits = SplitFiles(root)
        self.posters = NamedFiles(root)

    def record_file(self, id: str, split: str) -> str:
        """A file a split; the line is named where the line itself is at fault."""
        return self.splits.files[split].name

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """`content["text"]` is the plot (str), `content["image"]` the poster (Path)."""
        for line in self.splits.read(split, audit):
            content: dict[str, Any] = {}
            for modality, value_of in (("text", self._plot), ("image", self.posters.poster)):
                try:
                    content[modality] = value_of(line.record)
                except BadContent as bad:
                    audit.add(line.id, line.place, split, bad.kind, "kept_absent", bad.detail, modality=modality)
            yield Movie(line.id, content, genres_of(line.record, "label"))

    def _plot(self, record: dict[str, Any]) -> str:
        return plot_of(record, TEXT_KEYS, self.plot)


def split_file(root: Path, split: str) -> Path | None:
    """The split's file, None where there is none."""
    return next((path for name in FILE_NAMES[split] if (path := root / f"{name}.jsonl").is_file()), None)


def _file_of(root: Path, split: str) -> Path:
    path = split_file(root, split)
    if path is None:
        names = " or ".join(f"{name}.jsonl" for name in FILE_NAMES[split])
        raise UserError(f"{root} has no {names}: expected one file for each of train, dev and test.")
    return path


def _lines(path: Path) -> list[Line]:
    try:
        data = as_utf8(path.read_bytes())
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


def plot_of(record: dict[str, Any], keys: Sequence[str] = TEXT_KEYS, choice: str = "longest") -> str:
    """A record's plot, under the first key that holds one. Raises BadContent where it has none."""
    plots = plots_of(record, keys)
    if not plots:
        raise BadContent("missing_plot", f"it has no {keys[0]}, or an empty one")
    return PLOTS[choice](plots)
