"""Read a table of predictions: for each movie an id, and a probability for every genre or a list of labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning import cells
from gmu_lightning.config.checks import near
from gmu_lightning.data.files.labels import SEPARATORS, Labels
from gmu_lightning.data.files.roles import COMMON
from gmu_lightning.data.files.splits import NAMES
from gmu_lightning.data.readers.strings import spelling
from gmu_lightning.data.readers.tables import RecordTable, read_records
from gmu_lightning.decisions import Task
from gmu_lightning.movie import UserError

PROB = "prob/"  # begins the name of a genre's column of probabilities
NESTED = ("prob", "probs", "probabilities", "scores")  # columns that may hold {genre: probability}
# The names of predictions come first, since a table may hold the true genres too.
LABELS = ("predicted_genres", "predicted_labels", "predictions", "prediction", "predicted", *COMMON["labels"])
SEEDS = ("seed", "random_seed")
ADD_UP = 0.05  # largest distance from 1 of a sum of rounded probabilities, under `multiclass`
SHOWN = 40  # letters of a cell in a sentence
Fault = tuple[str, str]  # place and excerpt of a cell


@dataclass(frozen=True)
class PredictedTable:
    """N rows of predictions.

    Attributes:
        path: of the file.
        places: of the rows, such as `gpt.csv:17`.
        ids: of the movies.
        probabilities: (N, C), in the order of the genres. Labels are probabilities of 0 and 1.
        seeds: of the rows; None without a column of seeds.
        splits: of the rows, None where the cell is empty; None without a column of splits.
        read: a clause on the columns that were read.
    """

    path: Path
    places: Sequence[str]
    ids: Sequence[str]
    probabilities: np.ndarray
    seeds: Sequence[int] | None
    splits: Sequence[str | None] | None
    read: str

    @classmethod
    def of(cls, path: Path, genres: Sequence[str], task: Task) -> PredictedTable:
        """Read a file of predictions.

        Args:
            path: of a CSV, TSV, JSON or Parquet file. The columns are found by common names.
            genres: C names of the data set.
            task: of the labels.

        Raises:
            UserError: the file cannot be read, or a row or a column is missing or wrong.
        """
        table = _expanded(_read(path))
        id_column = _named(table, COMMON["id"])
        if id_column is None:
            raise UserError(f"{path} has no column of ids, only {_columns(table)}: name the one with the movies' ids id")
        ids = [_id(cell) for cell in table.columns[id_column]]
        if "" in ids:
            raise UserError(
                f"{path} has {ids.count('')} rows without an id, the first in {table.place(ids.index(''))}: add the ids"
            )
        seed_column, split_column = _named(table, SEEDS), _named(table, COMMON["split"])
        columns = _of_genres(table, genres)
        if columns:
            found, read = _probabilities(table, columns, task), f"probabilities from {_shortened(list(columns.values()))}"
        else:
            column = _labels_column(table, genres)
            found, read = _labels(table, column, genres, task), f"labels from {column}"
        extra = {"seeds": seed_column, "splits": split_column}
        words = [f"ids from {id_column}", read, *(f"{role} from {name}" for role, name in extra.items() if name)]
        return cls(
            path,
            [table.place(n) for n in range(len(table))],
            ids,
            found,
            None if seed_column is None else _seeds(table, seed_column),
            None if split_column is None else _splits(table, split_column),
            ", ".join(words),
        )


def _read(path: Path) -> RecordTable:
    try:
        if not path.exists():
            raise UserError(f"predictions={path} does not exist: give a .csv, .tsv, .jsonl, .json or .parquet file, or a folder")
        table = read_records(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions and the disk") from error
    if table.broken:
        line, why = table.broken[0].line, table.broken[0].why
        raise UserError(f"{path} has {_count(len(table.broken), 'row')} that cannot be read, the first in line {line}: {why}")
    if not len(table):
        raise UserError(f"{path} has no row: expected a row for each movie of val and test")
    return table


def _expanded(table: RecordTable) -> RecordTable:
    """Return the table with a column for each genre of a column that holds {genre: probability}."""
    name = _named(table, NESTED)
    if name is None or not all(isinstance(cell, Mapping) for cell in table.columns[name]):
        return table
    rows = table.columns[name]
    genres = dict.fromkeys(genre for row in rows for genre in row)
    return replace(table, columns={**table.columns, **{f"{PROB}{genre}": [row.get(genre) for row in rows] for genre in genres}})


def _named(table: RecordTable, names: Sequence[str]) -> str | None:
    """Return the column with the first of these names, in any case and with blanks for `_`; None without one."""
    by_name = {name.strip().lower().replace(" ", "_"): name for name in reversed(list(table.columns))}
    return next((by_name[name] for name in names if name in by_name), None)


def _id(cell: Any) -> str:
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return "" if cell is None or cell != cell or isinstance(cell, list | dict) else str(cell).strip()  # noqa: PLR0124  # NaN


def _of_genres(table: RecordTable, genres: Sequence[str]) -> dict[str, str]:
    """Return {genre: its column of probabilities}; {} if the table has labels instead.

    Raises:
        UserError: a genre has no column, two columns are of one genre, or a column names an unknown genre.
    """
    marked = {name: name.removeprefix(PROB).strip() for name in table.columns if name.startswith(PROB)}
    candidates = marked or {name: name.strip() for name in table.columns}
    by_spelling = {spelling(genre): genre for genre in genres}
    columns: dict[str, str] = {}
    unknown: list[str] = []
    for name, word in candidates.items():
        genre = word if word in genres else by_spelling.get(spelling(word))
        if genre is None:
            unknown.append(word)
        elif columns.setdefault(genre, name) != name:
            raise UserError(f"{table.path} has two columns for {genre}, {columns[genre]} and {name}: remove one")
    if marked and unknown:
        raise UserError(
            f"{table.path} has {_count(len(unknown), 'column')} of no genre of the data, the first {PROB}{unknown[0][:SHOWN]}: "
            f"rename or remove them; {near(unknown[0], genres)}"
        )
    lacking = [genre for genre in genres if genre not in columns]
    if lacking and (marked or (columns and _named(table, LABELS) is None)):
        raise UserError(
            f"{table.path} lacks {len(lacking)} of {len(genres)} genres, the first {lacking[0]}: give a column "
            f"{PROB}{lacking[0]}, and so for every genre"
        )
    return {} if lacking else {genre: columns[genre] for genre in genres}


def _labels_column(table: RecordTable, genres: Sequence[str]) -> str:
    column = _named(table, LABELS)
    if column is None:
        raise UserError(
            f"{table.path} has no predictions, only {_columns(table)}: give a column {PROB}GENRE for each of the {len(genres)} "
            f"genres, such as {PROB}{genres[0]}, or a column labels with lists such as {'|'.join(genres[:2])}"
        )
    return column


def _probabilities(table: RecordTable, columns: Mapping[str, str], task: Task) -> np.ndarray:
    found = np.full((len(table), len(columns)), np.nan)
    for c, name in enumerate(columns.values()):
        found[:, c] = [np.nan if (value := cells.number(cell)) is None else value for cell in table.columns[name]]
    names = list(columns.values())

    def refuse(wrong: np.ndarray, problem: Callable[[int], str], cure: str) -> None:
        if wrong.any():
            n, c = (int(k) for k in np.argwhere(wrong)[0])
            place, cell = f"{table.place(n)}, column {names[c]}", str(table.columns[names[c]][n])[:SHOWN]
            raise UserError(f"{table.path} has {problem(int(wrong.sum()))}, the first in {place} ({cell!r}): {cure}")

    refuse(
        np.isnan(found),
        lambda count: f"{_count(count, 'cell')} without a number",
        "give a probability from 0 to 1 for every movie and genre",
    )
    refuse(
        (found < 0) | (found > 1),
        lambda count: f"{_count(count, 'number')} outside 0 to 1",
        "give probabilities; divide per cent by 100, and put logits through the "
        f"{'sigmoid' if task == 'multilabel' else 'softmax'} first",
    )
    off = np.abs(found.sum(axis=1) - 1) > ADD_UP
    if task == "multiclass" and off.any():
        n = int(off.argmax())
        raise UserError(
            f"{table.path} has {_count(int(off.sum()), 'row')} whose probabilities do not add up to 1, the first in "
            f"{table.place(n)} ({found[n].sum():.3g}): data.task=multiclass takes the softmax over all labels"
        )
    return found


def _labels(table: RecordTable, column: str, genres: Sequence[str], task: Task) -> np.ndarray:
    labels = Labels(table, (column,), "auto" if task == "multiclass" else _separator(table, column, genres), task)
    by_spelling = {spelling(genre): c for c, genre in enumerate(genres)}
    exact = {genre: c for c, genre in enumerate(genres)}
    found = np.zeros((len(table), len(genres)))
    unknown: list[Fault] = []
    for n in range(len(table)):
        try:
            names = labels.of(n)
        except ValueError as error:
            raise UserError(f"{table.place(n)}: {error}: give a list of genres, or genres separated by |") from None
        if table.columns[column][n] is None:
            raise UserError(f"{table.place(n)} has no {column}: predict every movie; an empty list predicts no genre")
        for name in names:
            c = exact.get(name, by_spelling.get(spelling(name)))
            if c is None:
                unknown.append((table.place(n), name))
            else:
                found[n, c] = 1
    if unknown:
        place, name = unknown[0]
        raise UserError(
            f"{table.path} has {_count(len(unknown), 'label')} that are no genre of the data, the first in {place} "
            f"({name[:SHOWN]!r}): correct or delete them; {near(name, genres)}"
        )
    several = np.flatnonzero(found.sum(axis=1) != 1)
    if task == "multiclass" and len(several):
        first = table.place(int(several[0]))
        raise UserError(
            f"{table.path} has {_count(len(several), 'row')} without exactly one label, the first in {first}: "
            "data.task=multiclass takes one for each movie"
        )
    return found


def _separator(table: RecordTable, column: str, genres: Sequence[str]) -> str:
    """Return the separator of the labels in a column of texts: the first that occurs, and is part of no genre."""
    texts = [cell for cell in table.columns[column] if isinstance(cell, str)]
    usable = [one for one in SEPARATORS if not any(one in genre for genre in genres)]
    return next((one for one in usable if any(one in text and not text.lstrip().startswith("[") for text in texts)), "|")


def _seeds(table: RecordTable, column: str) -> list[int]:
    seeds = []
    for n, cell in enumerate(table.columns[column]):
        value = cells.number(cell)
        if value is None or isinstance(cell, bool) or not 0 <= value < 2**31 or value != int(value):
            raise UserError(f"{table.place(n)} has {column}={str(cell)[:SHOWN]}: give a whole number from 0 on in every row")
        seeds.append(int(value))
    return seeds


def _splits(table: RecordTable, column: str) -> list[str | None]:
    splits: list[str | None] = []
    for n, cell in enumerate(table.columns[column]):
        text = "" if cell is None else str(cell).strip().lower()
        if text and text not in NAMES:
            raise UserError(
                f"{table.place(n)} has {column}={text[:SHOWN]}: name it train, val (or dev) or test, or remove the column"
            )
        splits.append(NAMES.get(text))
    return splits


def _columns(table: RecordTable) -> str:
    return _shortened(list(table.columns))


def _shortened(names: Sequence[str]) -> str:
    """Return names joined by commas; of more than five, the first three and the number of the others."""
    return ", ".join(names if len(names) < 6 else [*names[:3], f"and {len(names) - 3} more columns"])


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
