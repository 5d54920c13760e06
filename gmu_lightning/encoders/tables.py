"""A movie's row of a table as numbers; what to make of each column scikit-learn learns from train alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor

from gmu_lightning import cells
from gmu_lightning.encoders.vector import VectorPreparation, finite
from gmu_lightning.movie import BadContent, UserError

LEFT_OUT = "left out"
NAMED = 3  # columns in a sentence


@dataclass(frozen=True)
class TablePreparation:
    """Turn a row {column: cell} into numbers; an array is a row that is numbers already.

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
        """Name how columns are read, and how rare a word may be."""
        return f"table of typed columns {self.min_count}"

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
        """One row -> float32 (size,). Raises BadContent where nothing in it fits its column."""
        known = self._known
        return known.store(content) if isinstance(known, VectorPreparation) else known.numbers(self._row(content))

    def columns(self, contents: Sequence[Any]) -> dict[str, dict[str, Any]]:
        """Return for each column of the contents how it is read, and which cells are filled and which do not fit.

        Returns:
            {column: {"read_as", "why", "words", "filled": [row, ...], "unfit": {row: why}}}; nothing of arrays.
        """
        known = self._known
        if isinstance(known, VectorPreparation):
            return {}
        found: dict[str, dict[str, Any]] = {}
        for n, content in enumerate(contents):
            for name, value in (content or {}).items():
                column = found.setdefault(str(name), {**known.reading(str(name)), "filled": [], "unfit": {}})
                if cells.read(value) is None:
                    continue
                column["filled"].append(n)
                if column["read_as"] != LEFT_OUT and (why := known.unfit(str(name), value)):
                    column["unfit"][n] = why
        return found

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
    """Turn a row into numbers as learned from train's rows by scikit-learn: one for each pair of a column and its value.

    A column holds numbers where more than half of train's cells in it are numbers, else words; a cell that does not fit is
    missing. A number is standardised; where it is missing train's median stands in, and `<column> missing` is 1. A word is 1
    where the movie has it; any word that train has too seldom, or never, is `<column> other`. Numbers that are the same for
    all of train's movies are left out. `missing` and `other` are made here, since scikit-learn lacks them for lists of words.

    Attributes:
        medians: of each column that holds numbers.
        words: of each other column, those that enough movies of train have, and how many have them.
        said: (column, "" or " missing" or " other" or "=word") of each number, in the order of `DictVectorizer`.
        mean, scale: of each number, as `StandardScaler` has them; 0 and 1 but for a column's own number.
        left_out: the reason why a column of train is not used, for each such column.
    """

    medians: dict[str, float]
    words: dict[str, dict[str, int]]
    said: Sequence[tuple[str, str]] = ()
    mean: Sequence[float] = ()
    scale: Sequence[float] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    @classmethod
    def fitted(cls, rows: Iterable[Mapping[str, Any]], min_count: int) -> Table:
        """Decide each column's type, and learn what its cells become, from train's rows alone."""
        from sklearn.feature_extraction import DictVectorizer
        from sklearn.feature_selection import VarianceThreshold
        from sklearn.preprocessing import StandardScaler

        filled = list(map(_filled, rows))
        columns: dict[str, list[Any]] = {}
        for name, cell in chain.from_iterable(row.items() for row in filled):
            columns.setdefault(name, []).append(cell)
        medians, words, left_out = _typed(columns, min_count)
        table = cls(medians, words, left_out=left_out)
        vectorizer, varies = DictVectorizer(sparse=False), VarianceThreshold()
        try:
            numbers = varies.fit_transform(vectorizer.fit_transform([table._said(row) for row in filled]))
        except ValueError as nothing:
            left_out |= {name: _why_unused(columns[name], min_count) for name in (*medians, *words)}
            why = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:NAMED])
            raise UserError(
                f"the metadata of all movies of train are the same, or there are none{f' ({why})' if why else ''}: "
                "mend the columns, lower encoder.metadata.min_count, or choose other modalities"
            ) from nothing
        said = vectorizer.restrict(varies.get_support()).feature_names_
        scaler, own = StandardScaler().fit(numbers), [what == "" for _, what in said]
        mean, scale = np.where(own, scaler.mean_, 0.0), np.where(own, scaler.scale_, 1.0)
        unused = {*medians, *words} - {column for column, _ in said}
        left_out |= {name: _why_unused(columns[name], min_count) for name in sorted(unused)}
        return replace(table, said=said, mean=mean.tolist(), scale=scale.tolist(), left_out=left_out)

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
        filled = _filled(row)
        if not any(name in filled and not self.unfit(name, filled[name]) for name in (*self.medians, *self.words)):
            raise BadContent("missing_metadata", "no column that train has holds a value that fits it")
        return finite((self._vectorizer.transform(self._said(filled))[0] - self.mean) / self.scale, "float32")

    def reading(self, name: str) -> dict[str, Any]:
        """Return how a column is read (`numbers`, `words`, `left out`), why it is left out, and how many words it has."""
        if name not in (*self.medians, *self.words) or name in self.left_out:
            return {"read_as": LEFT_OUT, "why": self.left_out.get(name, "no movie of train has it"), "words": None}
        if name in self.medians:
            return {"read_as": "numbers", "why": None, "words": None}
        return {"read_as": "words", "why": None, "words": len(self.words[name])}

    def unfit(self, name: str, value: Any) -> str:
        """Return why a cell does not fit its column, in a clause; an empty string where it does, or is missing."""
        cell = cells.read(value)
        if isinstance(cell, dict):
            shown = next(iter(cell.values()), "")
            return f"{shown[: cells.EXCERPT]} is neither a number, nor text, nor a list of texts or of objects with a name"
        if cell is not None and name in self.medians and cells.number(cell) is None:
            return f"{', '.join(cells.words(cell))[: cells.EXCERPT]} is no number that single precision holds"
        return ""

    @cached_property
    def _vectorizer(self) -> Any:
        from sklearn.feature_extraction import DictVectorizer

        return DictVectorizer(sparse=False, sort=False).fit([dict.fromkeys(self.said, 0.0)])

    def _said(self, filled: Mapping[str, cells.Cell]) -> dict[tuple[str, str], float]:
        """Return what is not 0 of a row."""
        said: dict[tuple[str, str], float] = {}
        for name, median in self.medians.items():
            found = cells.number(filled.get(name))
            said[name, ""] = median if found is None else found
            if found is None:
                said[name, " missing"] = 1.0
        for name, frequent in self.words.items():
            found_words = cells.words(filled.get(name))
            said |= {(name, f"={word}" if word in frequent else " other"): 1.0 for word in found_words}
            if not found_words:
                said[name, " missing"] = 1.0
        return said


def _filled(row: Mapping[str, Any]) -> dict[str, cells.Cell]:
    """Return the cells of a row that are not empty."""
    return {str(name): cell for name, value in row.items() if (cell := cells.read(value)) is not None}


def _typed(
    columns: Mapping[str, Sequence[cells.Cell]], min_count: int
) -> tuple[dict[str, float], dict[str, dict[str, int]], dict[str, str]]:
    """Return the medians of columns of numbers, the frequent words of the others, and why some are left out."""
    medians, words, left_out = {}, {}, {}
    for name, column in columns.items():
        found = [number for cell in column if (number := cells.number(cell)) is not None]
        if 2 * len(found) > len(column):
            medians[name] = float(np.median(found))
        elif 2 * sum(isinstance(cell, dict) for cell in column) > len(column):
            left_out[name] = "most of its cells hold objects without a name, or lists that cannot be read"
        else:
            counts = Counter(chain.from_iterable(set(cells.words(cell)) for cell in column))
            words[name] = {word: count for word, count in sorted(counts.items()) if count >= min_count}
    return medians, words, left_out


def _why_unused(column: Sequence[cells.Cell], min_count: int) -> str:
    """Return why a column of train says nothing of its movies."""
    found = list(map(cells.words, column))
    if len(set(found)) == 1:
        return "it is the same for all movies of train"
    return (
        f"no word of it stands in {min_count} movies of train, as {next(filter(None, found), ('',))[0][: cells.EXCERPT]} does not"
    )
