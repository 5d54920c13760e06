"""A line of JSON per movie and a file per split; and MM-IMDb as the MMBT code writes it so, posters beside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.layouts import FILE_NAMES, FirstUse
from gmu_lightning.data.raw import genres_of
from gmu_lightning.data.strings import as_utf8, parsed
from gmu_lightning.movie import SPLITS, BadContent, Movie, UserError


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
                yield line


class JsonlLayout:
    """`train.jsonl`, `dev.jsonl` (or `val.jsonl`) and `test.jsonl`.

    A row is `{"id", "text", "img" | "image": path or null, "label": [...]}`.
    Poster paths are relative to the folder and stay inside it.

    Raises:
        UserError: one of the three files is missing.
    """

    name = "jsonl"

    def __init__(self, root: Path):
        self.root = root
        self.splits = SplitFiles(root)

    def record_file(self, id: str, split: str) -> str:
        """A file a split; the line is named where the line itself is at fault."""
        return self.splits.files[split].name

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """`content["text"]` is the plot (str), `content["image"]` the poster (Path)."""
        for line in self.splits.read(split, audit):
            content: dict[str, Any] = {}
            for modality, value_of in (("text", plot_of), ("image", self._poster)):
                try:
                    content[modality] = value_of(line.record)
                except BadContent as bad:
                    audit.add(line.id, line.place, split, bad.kind, "kept_absent", bad.detail)
            yield Movie(line.id, content, genres_of(line.record, "label"))

    def _poster(self, record: dict[str, Any]) -> Path:
        name = record.get("img", record.get("image"))
        if not isinstance(name, str) or not name:
            raise BadContent("missing_image", "it names no poster")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise BadContent("missing_image", f"{name[:200]} points outside the data set's folder, so it is not read")
        try:
            there = (self.root / path).is_file()
        except OSError:  # a name that no file can have
            there = False
        if not there:
            raise BadContent("missing_image", f"no such file: {name[:200]}")
        return self.root / path


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
        lines = as_utf8(path.read_bytes()).split(b"\n")
    except ValueError as broken:
        raise UserError(f"{path} cannot be decoded ({broken}): save it as UTF-8.") from broken
    return [_line(text, f"{path.name}:{n}") for n, text in enumerate(lines, start=1) if text.strip()]


def _line(text: bytes, place: str) -> Line:
    try:
        record = parsed(text)
    except (ValueError, RecursionError) as broken:
        return Line(place, place, {}, f"not JSON: {broken}")
    name = record.get("id") if isinstance(record, dict) else None
    if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
        return Line(place, place, {}, 'no object with an "id"')
    try:
        genres_of(record, "label")
    except ValueError as broken:
        return Line(str(name), place, {}, str(broken))
    return Line(str(name), place, record)


def plot_of(record: dict[str, Any], key: str = "text") -> str:
    """A record's plot. Raises BadContent where it has none."""
    text = record.get(key)
    if not isinstance(text, str) or not text.strip():
        raise BadContent("missing_plot", f"it has no {key}, or an empty one")
    return text.strip()
