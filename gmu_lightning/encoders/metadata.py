"""Encoders of a movie's metadata (year, country, people, ...), and the preparation that turns a table's row into numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor, nn

from gmu_lightning import cells
from gmu_lightning.config.ranges import Count, Probability, Size
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.vector import VectorPreparation, finite
from gmu_lightning.files import digest
from gmu_lightning.movie import BadContent, Features, UserError

LEFT_OUT = "left out"
NAMED = 3  # columns in a sentence
ARRAYS = VectorPreparation("metadata")


class MetadataVector(Encoder):
    """Pass the numbers of a row through unchanged.

    Args:
        min_count: words of fewer than `min_count` movies of train share one number.
        common: `freeze`, `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`.
    """

    def __init__(self, min_count: Count = 5, *, pretrained: bool = True, **common: Any):
        super().__init__("metadata", pretrained=pretrained, **common)
        self.preparation = TablePreparation(min_count)

    @property
    def fingerprint(self) -> str:
        return "metadata vector"

    def forward(self, inputs: Tensor) -> Features:
        """Return the `Features` of numbers, float32 (B, size)."""
        return Features(self.network(inputs))

    def _load(self) -> nn.Module:
        return nn.Identity()


class MetadataMLP(MetadataVector):
    """A perceptron with one hidden layer, trained from scratch.

    Args:
        hidden: size of the hidden layer.
        dim: size of the vector.
        inner_dropout: dropout probability of the hidden layer.
        min_count, common: as in `MetadataVector`.
    """

    def __init__(
        self, hidden: Size = 256, dim: Size = 128, inner_dropout: Probability = 0.1, min_count: Count = 5, **common: Any
    ):
        super().__init__(min_count, pretrained=False, **common)
        self.hidden, self._dim, self.inner_dropout = hidden, dim, inner_dropout

    @property
    def fingerprint(self) -> str:
        return digest(["metadata", self.hidden, self._dim])

    def _load(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(self.input_size, self.hidden), nn.GELU(), nn.Dropout(self.inner_dropout), nn.Linear(self.hidden, self.dim)
        )


@dataclass(frozen=True)
class TablePreparation:
    """Turn a row {column: cell} into numbers. An array of numbers is stored unchanged.

    Attributes:
        min_count: words of fewer than `min_count` movies of train become the word `other`.
        learned: the result of `fit`; None before.
    """

    min_count: int = 5
    learned: VectorPreparation | Table | None = None
    learns = True

    @property
    def fingerprint(self) -> str:
        """Return the way of reading columns and `min_count`, as text."""
        return f"table of typed columns {self.min_count}"

    @property
    def size(self) -> int:
        """Return how many numbers a movie has. Raises RuntimeError before `fit`."""
        return self._known.size

    def fit(self, contents: Iterable[Any]) -> TablePreparation:
        """Return a preparation that knows the size of train's arrays, or the columns of its rows.

        Args:
            contents: of train. The first one decides whether all are arrays or rows.

        Raises:
            UserError: train has no metadata, contains both arrays and rows, or its metadata are all the same.
        """
        rest = iter(contents)
        first = next(rest, None)
        if first is None:
            raise UserError("no movie of train has metadata; choose other modalities")
        everything, rows = chain([first], rest), isinstance(first, Mapping)
        return replace(self, learned=Table.fitted(everything, self.min_count) if rows else ARRAYS.fit(everything))

    def state(self) -> dict[str, Any]:
        """Return {"size": d} for arrays, and the fields of `Table` for rows."""
        return self._known.state()

    def restored(self, state: Mapping[str, Any]) -> TablePreparation:
        """Return a preparation with the size or the columns in `state`."""
        return replace(self, learned=ARRAYS.restored(state) if "size" in state else Table.restored(state))

    def store(self, content: Any) -> np.ndarray:
        """Return the numbers of one row or array, float32 (size,).

        Raises:
            BadContent: no cell of a row fits its column, an array has another shape, or a number is not finite.
            UserError: some contents are rows and others arrays.
        """
        return self._known.store(content)

    def columns(self, contents: Sequence[Any]) -> dict[str, dict[str, Any]]:
        """Return how each column of the contents is read, which cells are filled, and which cells do not fit.

        Returns:
            {column: {"read_as", "why", "words", "filled": [row, ...], "unfit": {row: why}}}; an empty mapping for arrays.
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
        """Return float32 (B, size), with zeros for absent rows."""
        return replace(ARRAYS, learned=self.size).batch(rows, training)

    @property
    def _known(self) -> VectorPreparation | Table:
        if self.learned is None:
            raise RuntimeError("the columns of metadata were not learned yet: fit the preparation on train first")
        return self.learned


@dataclass(frozen=True)
class Table:
    """Turn a row into numbers, with the columns, words and scales that scikit-learn learned from train's rows.

    A column is numeric if more than half of train's filled cells in it are numbers. Every other column holds words. A cell
    that does not fit its column counts as missing. A number is standardised. A missing number is replaced by train's median,
    and the number `<column> missing` is then 1. A word is 1 if the movie has it. A word that is rare or unknown in train
    counts as `<column> other`. Numbers that are equal for all movies of train are left out. This class makes `missing` and
    `other` itself, because scikit-learn lacks them for lists of words.

    Attributes:
        medians: {numeric column: its median in train}, which replaces a missing number.
        words: {column of words: {frequent word: number of movies of train that have it}}.
        feature_names: (column, suffix) of each number, in the order of the row. The suffix is "" for the column's own number,
            " missing", " other", or "=" and the word.
        mean, scale: of each number; `store` returns (number - mean) / scale. Numbers with a suffix have 0 and 1.
        left_out: {unused column: the reason}.
    """

    medians: dict[str, float]
    words: dict[str, dict[str, int]]
    feature_names: Sequence[tuple[str, str]] = ()
    mean: Sequence[float] = ()
    scale: Sequence[float] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    @classmethod
    def fitted(cls, rows: Iterable[Any], min_count: int) -> Table:
        """Return the table learned from train's rows alone: each column's type, words, medians and scales.

        Raises:
            UserError: the rows are empty, or the same for all movies, or one of them is no row.
        """
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
            numbers = varies.fit_transform(vectorizer.fit_transform([table._features(row) for row in filled]))
        except ValueError as nothing:
            left_out |= {name: _why_unused(columns[name], min_count) for name in (*medians, *words)}
            why = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:NAMED])
            raise UserError(
                f"the metadata of all movies of train are the same, or there are none{f' ({why})' if why else ''}: "
                "mend the columns, lower encoder.metadata.min_count, or choose other modalities"
            ) from nothing
        names = vectorizer.restrict(varies.get_support()).feature_names_
        scaler, own = StandardScaler().fit(numbers), [suffix == "" for _, suffix in names]
        mean, scale = np.where(own, scaler.mean_, 0.0), np.where(own, scaler.scale_, 1.0)
        unused = {*medians, *words} - {column for column, _ in names}
        left_out |= {name: _why_unused(columns[name], min_count) for name in sorted(unused)}
        return replace(table, feature_names=names, mean=mean.tolist(), scale=scale.tolist(), left_out=left_out)

    @property
    def size(self) -> int:
        """Return how many numbers a movie has."""
        return len(self.feature_names)

    def state(self) -> dict[str, Any]:
        """Return the fields, as plain containers. The feature names have the key `said`, as in earlier checkpoints."""
        return {"said" if name == "feature_names" else name: value for name, value in asdict(self).items()}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Table:
        """Return the table with this `state()`."""
        rest = {name: value for name, value in state.items() if name != "said"}
        return cls(**rest, feature_names=[(column, suffix) for column, suffix in state["said"]])

    def store(self, row: Any) -> np.ndarray:
        """Return the numbers of one row, float32 (size,). Columns unknown in train are ignored.

        Raises:
            BadContent: no cell fits its column, or a number is not finite.
            UserError: the content is no row.
        """
        filled = _filled(row)
        if not any(name in filled and not self.unfit(name, filled[name]) for name in (*self.medians, *self.words)):
            raise BadContent("missing_metadata", "no column that train has holds a value that fits it")
        return finite((self._vectorizer.transform(self._features(filled))[0] - self.mean) / self.scale, "float32")

    def reading(self, name: str) -> dict[str, Any]:
        """Return how a column is read.

        Returns:
            {"read_as": `numbers`, `words` or `left out`, "why": the reason if left out, "words": how many words it has}.
        """
        if name not in (*self.medians, *self.words) or name in self.left_out:
            return {"read_as": LEFT_OUT, "why": self.left_out.get(name, "no movie of train has it"), "words": None}
        if name in self.medians:
            return {"read_as": "numbers", "why": None, "words": None}
        return {"read_as": "words", "why": None, "words": len(self.words[name])}

    def unfit(self, name: str, value: Any) -> str:
        """Return the reason why a cell does not fit its column, as a clause; an empty string if it fits or is missing."""
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

        return DictVectorizer(sparse=False, sort=False).fit([dict.fromkeys(self.feature_names, 0.0)])

    def _features(self, filled: Mapping[str, cells.Cell]) -> dict[tuple[str, str], float]:
        """Return the nonzero numbers of a row, before scaling."""
        features: dict[tuple[str, str], float] = {}
        for name, median in self.medians.items():
            found = cells.number(filled.get(name))
            features[name, ""] = median if found is None else found
            if found is None:
                features[name, " missing"] = 1.0
        for name, frequent in self.words.items():
            found_words = cells.words(filled.get(name))
            features |= {(name, f"={word}" if word in frequent else " other"): 1.0 for word in found_words}
            if not found_words:
                features[name, " missing"] = 1.0
        return features


def _filled(row: Any) -> dict[str, cells.Cell]:
    """Return the filled cells of a row. Raises UserError for another content."""
    if not isinstance(row, Mapping):
        raise UserError(f"one movie's metadata is {type(row).__name__}, another's a table's row; give all as rows")
    return {str(name): cell for name, value in row.items() if (cell := cells.read(value)) is not None}


def _typed(
    columns: Mapping[str, Sequence[cells.Cell]], min_count: int
) -> tuple[dict[str, float], dict[str, dict[str, int]], dict[str, str]]:
    """Return the medians of numeric columns, the frequent words of the others, and the reason for each unusable column."""
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
    """Return the reason why a column of train carries no information."""
    found = list(map(cells.words, column))
    if len(set(found)) == 1:
        return "it is the same for all movies of train"
    return (
        f"no word of it stands in {min_count} movies of train, as {next(filter(None, found), ('',))[0][: cells.EXCERPT]} does not"
    )
