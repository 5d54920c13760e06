"""A movie's row of a table as numbers; what to make of each column scikit-learn learns from train alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor

from gmu_lightning.encoders.vector import VectorPreparation, finite
from gmu_lightning.movie import BadContent, UserError

Cell = float | tuple[str, ...]  # a number, or one word or several
LARGEST = float(np.finfo(np.float32).max)


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
        return f"scikit-learn table {self.min_count}"

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
        """{"size": d} of arrays, the fields of `Table` of rows."""
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
class Table:
    """What scikit-learn learned from train's rows: a number for each pair of a column and what is said of it.

    A number is standardised; where it is missing train's median stands in, and `<column> missing` is 1. A word is 1 where the
    movie has it; any word that train has too seldom, or never, is `<column> other`. What is the same for all of train's movies
    says nothing and is left out. `missing` and `other` are said here, since scikit-learn has neither for lists of words.

    Attributes:
        medians: of each column that holds numbers alone.
        words: of each other column, those that enough movies of train have, and how many have them.
        said: (column, "" or " missing" or " other" or "=word") of each number, in the order of `DictVectorizer`.
        mean, scale: of each number, as `StandardScaler` has them; 0 and 1 but for a column's own number.
    """

    medians: dict[str, float]
    words: dict[str, dict[str, int]]
    said: Sequence[tuple[str, str]] = ()
    mean: Sequence[float] = ()
    scale: Sequence[float] = ()

    @classmethod
    def fitted(cls, rows: Iterable[Mapping[str, Any]], min_count: int) -> Table:
        """A row that holds what no table can hold is left out here, and refused when it is stored."""
        from sklearn.feature_extraction import DictVectorizer
        from sklearn.feature_selection import VarianceThreshold
        from sklearn.preprocessing import StandardScaler

        sound: list[dict[str, Cell]] = []
        for row in rows:
            with suppress(BadContent):
                sound.append(_cells(row))
        columns: dict[str, list[Any]] = {}
        for name, cell in chain.from_iterable(cells.items() for cells in sound):
            columns.setdefault(name, []).append(cell)
        medians = {name: float(np.median(column)) for name, column in columns.items() if {*map(type, column)} == {float}}
        words = {name: _frequent(column, min_count) for name, column in columns.items() if name not in medians}
        table = cls(medians, words)
        vectorizer, varies = DictVectorizer(sparse=False), VarianceThreshold()
        try:
            numbers = varies.fit_transform(vectorizer.fit_transform([table._said(cells) for cells in sound]))
        except ValueError as nothing:
            raise UserError(
                "the metadata of all movies of train are the same, or there are none; choose other modalities"
            ) from nothing
        said = vectorizer.restrict(varies.get_support()).feature_names_
        scaler, own = StandardScaler().fit(numbers), [what == "" for _, what in said]
        mean, scale = np.where(own, scaler.mean_, 0.0), np.where(own, scaler.scale_, 1.0)
        return replace(table, said=said, mean=mean.tolist(), scale=scale.tolist())

    @property
    def size(self) -> int:
        """Numbers per movie."""
        return len(self.said)

    @property
    def features(self) -> tuple[str, ...]:
        """What each number says: `year`, `year missing`, `country=France`, `country other`."""
        return tuple(map("".join, self.said))

    def state(self) -> dict[str, Any]:
        """The fields, which are plain containers."""
        return asdict(self)

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Table:
        """The table that `state()` came from."""
        return cls(**{**state, "said": [(column, what) for column, what in state["said"]]})

    def numbers(self, row: Mapping[str, Any]) -> np.ndarray:
        """One row -> float32 (size,); columns that train has not are ignored. Raises BadContent."""
        cells = _cells(row)
        if not cells.keys() & (self.medians.keys() | self.words.keys()):
            raise BadContent("missing_metadata", "no column that train has holds a value")
        return finite((self._vectorizer.transform(self._said(cells))[0] - self.mean) / self.scale, "float32")

    @cached_property
    def _vectorizer(self) -> Any:
        from sklearn.feature_extraction import DictVectorizer

        return DictVectorizer(sparse=False, sort=False).fit([dict.fromkeys(self.said, 0.0)])

    def _said(self, cells: Mapping[str, Cell]) -> dict[tuple[str, str], float]:
        """What is not 0 of a row. Raises BadContent where words stand in a column of numbers."""
        said = {(name, " missing"): 1.0 for name in [*self.medians, *self.words] if name not in cells}
        for name, median in self.medians.items():
            cell = cells.get(name, median)
            if not isinstance(cell, float):
                raise BadContent("bad_array", f"column {name}: {', '.join(cell)} is no number")
            said[name, ""] = cell
        for name, words in self.words.items():
            said |= {(name, f"={word}" if word in words else " other"): 1.0 for word in _words(cells.get(name))}
        return said


def _frequent(column: Sequence[Cell], min_count: int) -> dict[str, int]:
    counts = Counter(chain.from_iterable(set(_words(cell)) for cell in column))
    return {word: count for word, count in sorted(counts.items()) if count >= min_count}


def _cells(row: Mapping[str, Any]) -> dict[str, Cell]:
    """What is there of a row. Raises BadContent."""
    read = ((str(name), _cell(str(name), value)) for name, value in row.items())
    return {name: cell for name, cell in read if cell is not None}


def _cell(name: str, value: Any) -> Cell | None:
    """A value as read; NaN, blank text and an empty list are None. Raises BadContent where it is something else altogether."""
    if isinstance(value, list | tuple):
        return tuple(word for part in value for word in _words(_cell(name, part))) or None
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
    if abs(number) > LARGEST:
        raise BadContent("bad_array", f"column {name} is not finite in single precision")
    return None if np.isnan(number) else number


def _words(cell: Cell | None) -> tuple[str, ...]:
    if cell is None:
        return ()
    return cell if isinstance(cell, tuple) else (str(cell),)
