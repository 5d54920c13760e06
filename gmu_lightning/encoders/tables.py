"""A movie's row of a table as numbers; what to make of each column is learned from train alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor

from gmu_lightning.encoders.vector import VectorPreparation, finite
from gmu_lightning.movie import BadContent, UserError

Cell = float | tuple[str, ...] | None  # a number, one word or several, nothing


@dataclass(frozen=True)
class TablePreparation:
    """A row {column: number, word, list of words, or None} becomes numbers; an array is a row that is numbers already.

    Attributes:
        min_count: words that fewer movies of train have are one word, `other`.
        learned: what `fit` found, None before.
    """

    modality: str = "metadata"
    min_count: int = 5
    learned: VectorPreparation | Table | None = None
    learns = True

    @property
    def fingerprint(self) -> str:
        """How rare a word may be."""
        return f"table {self.min_count}"

    @property
    def size(self) -> int:
        """Numbers per movie. Raises RuntimeError before `fit`."""
        return self._known.size

    def fit(self, contents: Iterable[Any]) -> TablePreparation:
        """With the size of train's arrays, or with the columns of its rows; the first content says which they are."""
        rest = iter(contents)
        first = next(rest, None)
        if first is None:
            raise UserError(f"no movie of train has {self.modality}; choose other modalities")
        if isinstance(first, Mapping):
            return replace(self, learned=Table.fitted(map(self._row, chain([first], rest)), self.min_count))
        return replace(self, learned=VectorPreparation(self.modality).fit(chain([first], rest)))

    def state(self) -> dict[str, Any]:
        """{"size": d} of arrays, {"columns": [{...}], "kept": [...]} of rows."""
        return self._known.state()

    def restored(self, state: Mapping[str, Any]) -> TablePreparation:
        """With that size, or those columns."""
        arrays = "size" in state
        return replace(self, learned=VectorPreparation(self.modality).restored(state) if arrays else Table.restored(state))

    def store(self, content: Any) -> np.ndarray:
        """One row -> float32 (size,). Raises BadContent where a value is not what its column holds, or all are missing."""
        known = self._known
        return known.store(content) if isinstance(known, VectorPreparation) else known.numbers(self._row(content))

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> Tensor:
        """(B, size) float32, zeros where absent."""
        return VectorPreparation(self.modality, self.size).batch(rows, training)

    @property
    def _known(self) -> VectorPreparation | Table:
        if self.learned is None:
            raise RuntimeError(f"the columns of {self.modality} were not learned yet: fit the preparation on train first")
        return self.learned

    def _row(self, content: Any) -> Mapping[str, Any]:
        if isinstance(content, Mapping):
            return content
        raise UserError(f"one movie's {self.modality} is {type(content).__name__}, another's a table's row; give all as rows")


@dataclass(frozen=True)
class Numeric:
    """Standardised; where it is missing, train's median stands in and a number of its own says so."""

    name: str
    median: float
    mean: float
    scale: float

    @classmethod
    def fitted(cls, name: str, cells: Sequence[Cell]) -> Numeric:
        """Mean and deviation are those of the column with its median filled in."""
        median = float(np.median([cell for cell in cells if cell is not None]))
        filled = np.array([median if cell is None else cell for cell in cells], dtype=np.float64)
        return cls(name, median, float(filled.mean()), float(filled.std()) or 1.0)

    @property
    def features(self) -> list[str]:
        """What each number says."""
        return [self.name, f"{self.name} missing"]

    def numbers(self, cell: Cell) -> list[float]:
        """Raises BadContent where the cell holds words."""
        if isinstance(cell, tuple):
            raise BadContent("bad_array", f"column {self.name}: {', '.join(cell)} is no number")
        return [((self.median if cell is None else cell) - self.mean) / self.scale, float(cell is None)]


@dataclass(frozen=True)
class Words:
    """A number for each frequent word (1 where the movie has it), for any other word, and for having none."""

    name: str
    words: tuple[str, ...]

    @classmethod
    def fitted(cls, name: str, cells: Sequence[Cell], min_count: int) -> Words:
        """With the words that at least `min_count` movies have, in alphabetical order."""
        counts = Counter(chain.from_iterable(set(_words(cell)) for cell in cells))
        return cls(name, tuple(sorted(word for word, count in counts.items() if count >= min_count)))

    @property
    def features(self) -> list[str]:
        """What each number says."""
        return [*(f"{self.name}={word}" for word in self.words), f"{self.name} other", f"{self.name} missing"]

    def numbers(self, cell: Cell) -> list[float]:
        """A word that train has not, or has too seldom, is `other`."""
        words = set(_words(cell))
        return [*(float(word in words) for word in self.words), float(bool(words - set(self.words))), float(not words)]


@dataclass(frozen=True)
class Table:
    """The columns of train. A number that is the same for all of train's movies says nothing and is left out.

    Attributes:
        kept: which of the columns' numbers are left.
    """

    columns: tuple[Numeric | Words, ...]
    kept: tuple[int, ...] = ()

    @classmethod
    def fitted(cls, rows: Iterable[Mapping[str, Any]], min_count: int) -> Table:
        """Columns in alphabetical order; one is numeric if all that train has in it are numbers.

        A row that holds what no table can hold is left out here, and refused when it is stored.
        """
        sound = [cells for cells in map(_sound_cells, rows) if cells is not None]
        columns: list[Numeric | Words] = []
        for name in sorted({name for cells in sound for name in cells}):
            column = [cells.get(name) for cells in sound]
            kinds = {type(cell) for cell in column if cell is not None}
            columns.append(Numeric.fitted(name, column) if kinds == {float} else Words.fitted(name, column, min_count))
        table = cls(tuple(columns))
        numbers = np.array([table._all_numbers(cells) for cells in sound])
        varies = np.ptp(numbers, axis=0) > 0 if numbers.size else np.zeros(0, dtype=bool)
        if not varies.any():
            raise UserError("the metadata of all movies of train are the same, or there are none; choose other modalities")
        return replace(table, kept=tuple(np.flatnonzero(varies).tolist()))

    @property
    def size(self) -> int:
        """Numbers per movie."""
        return len(self.kept)

    @property
    def features(self) -> tuple[str, ...]:
        """What each number says: `year`, `year missing`, `country=France`, `country other`."""
        names = [name for column in self.columns for name in column.features]
        return tuple(names[n] for n in self.kept)

    def state(self) -> dict[str, Any]:
        """Plain containers."""
        columns = [{key: list(v) if isinstance(v, tuple) else v for key, v in asdict(c).items()} for c in self.columns]
        return {"columns": columns, "kept": list(self.kept)}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Table:
        """The table that `state()` came from."""
        columns = [Words(c["name"], tuple(c["words"])) if "words" in c else Numeric(**c) for c in state["columns"]]
        return cls(tuple(columns), tuple(state["kept"]))

    def numbers(self, row: Mapping[str, Any]) -> np.ndarray:
        """One row -> float32 (size,); columns that train has not are ignored. Raises BadContent."""
        cells = _cells(row)
        if all(cells.get(column.name) is None for column in self.columns):
            raise BadContent("missing_metadata", "no column that train has holds a value")
        return finite(np.array(self._all_numbers(cells))[list(self.kept)], "float32")

    def _all_numbers(self, cells: Mapping[str, Cell]) -> list[float]:
        return [number for column in self.columns for number in column.numbers(cells.get(column.name))]


def _cells(row: Mapping[str, Any]) -> dict[str, Cell]:
    return {str(name): _cell(str(name), value) for name, value in row.items()}


def _sound_cells(row: Mapping[str, Any]) -> dict[str, Cell] | None:
    try:
        return _cells(row)
    except BadContent:
        return None


def _cell(name: str, value: Any) -> Cell:
    """A value as read; NaN, blank text and an empty list are nothing. Raises BadContent where it is something else altogether."""
    if isinstance(value, list | tuple):
        parts = [_cell(name, part) for part in value]
        return tuple(word for part in parts for word in _words(part)) or None
    if isinstance(value, str):
        return (value.strip(),) if value.strip() else None
    if value is None:
        return None
    if not isinstance(value, bool | int | float | np.number | np.bool_):
        raise BadContent("bad_array", f"column {name} holds {type(value).__name__}; expected a number, text or a list of texts")
    try:
        number = float(value)
    except OverflowError:
        number = np.inf
    if np.isinf(number):
        raise BadContent("bad_array", f"column {name} is not finite")
    return None if np.isnan(number) else number


def _words(cell: Cell) -> tuple[str, ...]:
    if cell is None:
        return ()
    return cell if isinstance(cell, tuple) else (str(cell),)
