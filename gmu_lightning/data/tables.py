"""What is known of movies besides their contents, as a table of numbers, words and lists of words in a CSV or JSON lines file."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gmu_lightning.movie import UserError

ID = "id"
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|nan", re.ASCII | re.IGNORECASE)
ITEM = r"""(?:'([^']*)'|"([^"]*)")"""
LIST = re.compile(rf"\[\s*(?:{ITEM}(?:\s*,\s*{ITEM})*)?\s*\]")
BAR = "|"
ANSWERS = re.compile(
    r"(?:(?:movie|film|target|main|primary|true)_)?(?:labels?|category|categories)(?:_of_(?:the_)?(?:movies?|films?))?"
)
VERDICTS = {"score", "scores", "rating", "ratings", "vote", "votes", "metascore", "popularity"}
AGE_LIMITS = {"content", "mpaa", "age"}  # a content rating is no verdict
SAME = 0.95  # of the movies that have both: a column that equals their genres this often tells them
# Of genres in one cell; names may have a blank, a slash or an ampersand in them, so the last are tried last.
SEPARATORS = [rf"[\[\]{{}}()'\"|,;\t{more}]+" for more in ("", "/+&", r"/+&\s")]

Cell = float | str | list[str] | None
Table = dict[str, dict[str, Cell]]


def read_table(path: Path, leave_out: Sequence[str] = ()) -> Table:
    """{id: {column: number, word, list of words, or None}}, every row with all columns.

    A column holds numbers if everything in it is one; lists if everything in it is one (`["a", "b"]`), or if a value has a
    `|` between words; else words.

    Args:
        path: `.csv` with a header, or JSON lines; one column is `id`.
        leave_out: columns that are not read.

    Raises:
        UserError: the file cannot be read, a row has no id or another's, or there is no such column to leave out.
    """
    try:
        rows = _csv_rows(path) if path.suffix == ".csv" else _json_rows(path)
    except (OSError, ValueError, RecursionError, csv.Error) as broken:
        raise UserError(f"{path} cannot be read ({broken}): expected a row per movie, one column of it named id.") from broken
    if not rows:
        raise UserError(f"{path} has no rows: expected one per movie.")
    ids = [_id(row, f"{path}, row {n}") for n, row in enumerate(rows, start=1)]
    twice = next((id for id, times in Counter(ids).items() if times > 1), None)
    if twice is not None:
        raise UserError(f"{path} has two rows for id {twice}: keep one of them.")
    names = list(dict.fromkeys(name for row in rows for name in row if name != ID))
    for name in leave_out:
        if name not in names:
            near = get_close_matches(name, names, n=2) or names[:5]
            raise UserError(f"data.leave_out names {name}, which is no column of {path}: choose among {', '.join(near)}.")
    kept = [name for name in names if name not in leave_out]
    columns = {name: _column([row.get(name) for row in rows], f"{path}, column {name}") for name in kept}
    return {id: {name: cells[n] for name, cells in columns.items()} for n, id in enumerate(ids)}


def refuse_answers(table: Table, genres: Mapping[str, Sequence[str]], path: Path) -> None:
    """UserError where a column tells the genres: by its name, or because it holds them for nearly all movies of train.

    Args:
        genres: of the movies of train, by id.
    """
    for name in next(iter(table.values()), {}):
        why = "is named like the answer" if _named_like_genres(name) else None
        if why is None and _same_as_genres({id: row[name] for id, row in table.items()}, genres):
            why = "holds the movies' genres"
        if why:
            raise UserError(f"{path}: column {name} {why}, so nothing is learned from it: set data.leave_out=[{name}].")


def verdicts(columns: Iterable[str]) -> list[str]:
    """The columns that carry the audience's verdict, by their names: what is known only after a movie was seen."""
    return [name for name in columns if VERDICTS & _words(name) and not AGE_LIMITS & _words(name)]


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        names = [name.strip() or f"column {n}" for n, name in enumerate(header, start=1)]
        twice = next((name for name, times in Counter(names).items() if times > 1), None)
        if twice is not None:
            raise ValueError(f"two columns are named {twice}")
        rows = []
        for cells in reader:
            if cells and len(cells) != len(names):
                raise ValueError(f"line {reader.line_num} has {len(cells)} cells, the header {len(names)}")
            if cells:
                rows.append(dict(zip(names, cells, strict=True)))
        return rows


def _json_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for n, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as broken:
            raise ValueError(f"line {n}: {broken}") from broken
        if not isinstance(row, dict):
            raise ValueError(f"line {n} holds a {type(row).__name__}, no object")  # noqa: TRY004
        rows.append(row)
    return rows


def _id(row: Mapping[str, Any], where: str) -> str:
    value = row.get(ID)
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        raise UserError(f"{where} has no id, only {', '.join(list(row)[:5]) or 'nothing'}: expected a column named id.")
    return str(value).strip()


def _column(values: Sequence[Any], where: str) -> list[Cell]:
    odd = next((value for value in values if not _is_cell(value)), None)
    if odd is not None:
        raise UserError(f"{where} holds a {type(odd).__name__} ({str(odd)[:40]}): expected numbers, words or lists of words.")
    filled = [_plain(value) for value in values]
    for convert in (_number, _listed):
        converted = [None if value is None else convert(value) for value in filled]
        if all(now is not None for now, value in zip(converted, filled, strict=True) if value is not None):
            return [None if _is_nan(cell) or cell == [] else cell for cell in converted]
    if any(isinstance(value, list) or (isinstance(value, str) and BAR in value) for value in filled):
        return [None if value is None else _split(value) for value in filled]
    return [None if value is None else str(value) for value in filled]


def _is_cell(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(part, str | int | float) for part in value)
    return value is None or isinstance(value, str | int | float)


def _plain(value: Any) -> Any:
    """Without the white space around it; None where nothing is left."""
    if isinstance(value, str):
        return value.strip() or None
    return value if value != [] else None


def _number(value: Any) -> float | None:
    if isinstance(value, list) or (isinstance(value, str) and not NUMBER.fullmatch(value)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return None if math.isinf(number) else number


def _listed(value: Any) -> list[str] | None:
    """`["a", "b"]`, `['a', 'b']` or a list as it stands; None where it is none."""
    if isinstance(value, list):
        return [str(part) for part in value]
    if not isinstance(value, str) or not value.startswith("["):
        return None
    try:
        parts = json.loads(value)
    except (ValueError, RecursionError):
        return ["".join(item) for item in re.findall(ITEM, value)] if LIST.fullmatch(value) else None
    return [str(part) for part in parts] if isinstance(parts, list) and _is_cell(parts) else None


def _split(value: Any) -> list[str]:
    parts = _listed(value) if _listed(value) is not None else str(value).split(BAR)
    return [part.strip() for part in parts or [] if part.strip()]


def _is_nan(cell: Cell) -> bool:
    return isinstance(cell, float) and math.isnan(cell)


def _words(name: str) -> set[str]:
    """`imdbScore`, `imdb_score` -> {imdb, score}"""
    return set(_snake(name).split("_"))


def _snake(name: str) -> str:
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z]+", "_", apart.casefold()).strip("_")


def _named_like_genres(name: str) -> bool:
    return bool({"genre", "genres"} & _words(name)) or ANSWERS.fullmatch(_snake(name)) is not None


def _same_as_genres(column: Mapping[str, Cell], genres: Mapping[str, Sequence[str]]) -> bool:
    both = [(column[id], names) for id, names in genres.items() if names and isinstance(column.get(id), str | list)]
    return bool(both) and sum(_tells(cell, names) for cell, names in both) >= SAME * len(both)


def _tells(cell: Any, genres: Sequence[str]) -> bool:
    """Whether a cell lists exactly these genres, in whatever order and however they are set apart."""
    text = " | ".join(cell) if isinstance(cell, list) else cell
    for separators in SEPARATORS:
        found = {part.strip().casefold() for part in re.split(separators, text)} - {""}
        if found == {genre.casefold() for genre in genres}:
            return True
    return False
