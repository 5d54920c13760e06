"""Compute the reasons for predictions, by recomputing the logits of the whole model without modalities and pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from html import escape
from itertools import combinations
from math import factorial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from gmu_lightning.config.checks import near
from gmu_lightning.config.schema import EncodeConfig
from gmu_lightning.data.files.inputs import InputRow
from gmu_lightning.data.ragged import Ragged
from gmu_lightning.data.store import PreparedColumn
from gmu_lightning.explanation.files import ReasonFiles
from gmu_lightning.explanation.page import card, page
from gmu_lightning.explanation.picked import picked
from gmu_lightning.explanation.pieces import Piece, pieces
from gmu_lightning.explanation.reasons import Effect, Reasons, Words
from gmu_lightning.explanation.words import (
    OCCLUSION,
    Movie,
    Reading,
    attributed,
    bag_of_words,
    check_words,
    is_linear,
    read,
    words_without,
)
from gmu_lightning.features.columns import keeps_tokens
from gmu_lightning.features.runner import replica
from gmu_lightning.movie import Column, UserError
from gmu_lightning.parallel import in_threads
from gmu_lightning.prediction.inputs import Prepared
from gmu_lightning.prediction.results import Form, Results
from gmu_lightning.prediction.trained import Source, TrainedRun, without_content

if TYPE_CHECKING:
    from pandas import DataFrame

    from gmu_lightning.prediction.classifier import Classifier

Level = Literal["modalities", "pieces", "words"]
LEVELS: tuple[Level, ...] = ("modalities", "pieces", "words")
TOGETHER = 64 << 20  # bytes of pieces that are encoded together


@dataclass(frozen=True)
class Why:
    """The reasons that a command computes beside its predictions.

    Attributes:
        level: of detail.
        classifier: of the runs; it does not change which parts of a prediction are finished.
    """

    level: Level
    classifier: Classifier = field(repr=False)

    @property
    def costly(self) -> bool:
        """Whether the reasons of a row take seconds."""
        return self.level != "modalities"

    def explain(self, total: int) -> Explainer:
        """Return the explainer of a prediction of `total` rows. Raises UserError."""
        return Explainer(self.classifier, self.level, total)

    def companion(self, output: Path) -> ReasonFiles:
        """Return the writer of the files beside an output."""
        return ReasonFiles(output, [run.run.folder for run in self.classifier.runs])


@dataclass(frozen=True)
class Explanation:
    """The reasons for the prediction of one movie.

    Attributes:
        reasons: the numbers.
        runs: folders of the runs, whose mean the numbers are.
    """

    reasons: Reasons
    runs: tuple[str, ...]

    @property
    def table(self) -> DataFrame:
        """The numbers of the shown genres, with the columns `genre`, `kind`, `modality`, `where` and `effect`."""
        import pandas as pd

        return pd.DataFrame(self.reasons.rows())

    @property
    def record(self) -> dict[str, Any]:
        """The numbers of all genres, as in a line of the command's file."""
        return self.reasons.record()

    @property
    def html(self) -> str:
        """The page of the command, for this movie."""
        return page([card(self.reasons, self.reasons.id, self.reasons.problem)], 1, self.runs)

    def __str__(self) -> str:
        return "\n".join(self.reasons.sentences()).strip()

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, so that its styles do not reach the notebook."""
        return (
            f'<iframe title="Reasons" sandbox width="100%" height="640" style="border: 0" srcdoc="{escape(self.html)}"></iframe>'
        )


def explained(
    classifier: Classifier, movie: Any, why: Level, columns: Mapping[str, Any], threshold: float | str = 0.5
) -> Explanation:
    """Return the reasons for the prediction of one movie. Arguments and errors are those of `Classifier.explain`."""
    if why not in LEVELS:
        raise UserError(f"why={why} is no level of detail: {near(str(why), LEVELS)}")
    rows, total = classifier.rows(movie, columns)
    if total != 1:
        raise UserError(f"explain reads one movie, and {total} are given: use predict for a table, or give one row of it")
    return explained_row(classifier, next(iter(rows)), why, classifier.form(threshold))


def explained_row(classifier: Classifier, row: InputRow, why: Level, form: Form) -> Explanation:
    """Return the reasons for the prediction of one row.

    Args:
        classifier: of the runs.
        row: to predict.
        why: the level of detail.
        form: of the prediction.

    Raises:
        UserError: the row cannot be predicted, or the runs have no reasons of this kind.
    """
    explainer = Explainer(classifier, why, 1)
    (results,) = classifier.results([[row]], 1, form, explainer)
    (reasons,) = results.reasons
    if reasons is None:
        raise UserError(f"the movie cannot be explained: {results.problems[0]}")
    return Explanation(reasons, tuple(str(run.run.folder) for run in classifier.runs))


class Explainer:
    """Explain the rows of a prediction: `Classifier.results` calls it with each chunk.

    Args:
        classifier: of the runs. All numbers are means over them.
        why: the level of detail.
        total: number of rows of the whole prediction.

    Raises:
        UserError: the runs have no words that can be reached.
    """

    def __init__(self, classifier: Classifier, why: Level, total: int):
        self.classifier, self.why, self.total = classifier, why, total
        self.sources = [{m: _apart(run, m) for m in run.modalities} for run in classifier.runs]
        found = [without_content(run)[0][:, classifier.genres_of(run)] for run in classifier.runs]
        self.empty = np.mean(found, axis=0)[0]  # (C,)
        if why == "words":
            check_words(classifier.runs)

    def __call__(self, prepared: Prepared, columns: Mapping[str, Column], results: Results) -> list[Reasons | None]:
        """Return the reasons of each row of a chunk, None for a row that was not predicted."""
        chunk = _Chunk(prepared, self._features(columns), results)
        values = self._subsets(chunk)
        return [self._row(n, chunk, values[n]) if predicted else None for n, predicted in enumerate(results.predicted)]

    def _row(self, n: int, chunk: _Chunk, values: Mapping[frozenset, np.ndarray]) -> Reasons:
        modalities, results = self.classifier.modalities, chunk.results
        there = [m for m, present in zip(modalities, results.present[n], strict=True) if present]
        parts = results.contributions
        reasons = Reasons(
            id=results.ids[n],
            genres=results.form.genres,
            predicted=tuple(results.genres[n] or ()),
            logits=results.logits[n],
            probabilities=results.probabilities[n],
            bias=self.empty,
            contributions=None if parts is None else {m: parts[n, modalities.index(m)] for m in there},
            without={m: values[frozenset(there) - {m}] for m in there},
            shapley=shapley(values, there),
            pieces=None,
            words=None,
            problem=results.problems[n],
            content={m: chunk.prepared.rows[n].content[m] for m in there},
        )
        if self.why == "pieces":
            reasons = replace(reasons, pieces=[effect for m in there for effect in self._pieces(m, n, chunk)])
        if self.why == "words" and "text" in there:
            reasons = replace(reasons, words=self._words(n, chunk, reasons))
        return reasons

    def _features(self, columns: Mapping[str, Column]) -> list[dict[str, Column]]:
        """Return for each run {modality: features of the rows}. Every content is encoded once, also by trained encoders."""
        found = []
        for run, sources in zip(self.classifier.runs, self.sources, strict=True):
            own = {m: columns[run.sources[m].key] for m in sources}
            found.append({m: self._encoded(source, own[m]) for m, source in sources.items()})
        return found

    def _encoded(self, source: Source, column: Column) -> Column:
        """Return the features of prepared contents; features, and inputs that only the model can encode, are returned as is."""
        return self.classifier.inputs.encoded(source, column, self.total) if isinstance(column, PreparedColumn) else column

    def _subsets(self, chunk: _Chunk) -> list[dict[frozenset, np.ndarray]]:
        """Return for each row the logits (C,) of every subset of its present modalities."""
        modalities, results = self.classifier.modalities, chunk.results
        names = np.array(modalities, dtype=object)
        found: list[dict[frozenset, np.ndarray]] = [{frozenset(): self.empty} for _ in results.ids]
        asked: list[tuple[int, frozenset]] = []
        for n in np.flatnonzero(results.predicted).tolist():
            there = names[results.present[n]].tolist()
            found[n][frozenset(there)] = results.logits[n]
            asked += [(n, frozenset(some)) for size in range(1, len(there)) for some in combinations(there, size)]
        if asked:
            rows = np.array([n for n, _ in asked])
            present = np.array([[m in some for m in modalities] for _, some in asked])
            logits = self._logits([picked(columns, rows) for columns in chunk.columns], present)
            for (n, some), values in zip(asked, logits, strict=True):
                found[n][some] = values
        return found

    def _pieces(self, modality: str, n: int, chunk: _Chunk) -> Iterator[Effect]:
        """Yield the effect of each piece of a row's content, (C,)."""
        sources = self._preparations(modality)
        whole = {source.stored: chunk.prepared.columns[source.stored].ragged.row(n) for source in sources}
        for group in _grouped(pieces(chunk.prepared.rows[n].content[modality], sources, whole)):
            effects = self._effects(modality, n, group, whole, chunk)
            yield from (Effect(modality, piece.where, effect) for piece, effect in zip(group, effects, strict=True))

    def _preparations(self, modality: str) -> list[Source]:
        """Return the ways in which the runs read a modality, one for each preparation."""
        return list({source.stored: source for source in (run.sources[modality] for run in self.classifier.runs)}.values())

    def _effects(
        self, modality: str, n: int, found: Sequence[Piece], whole: Mapping[str, np.ndarray], chunk: _Chunk
    ) -> np.ndarray:
        """Return the logits of row n minus those without each of V pieces, (V, C). A piece that no run reads has no effect."""
        effects = np.zeros((len(found), len(self.empty)))
        read = [v for v, piece in enumerate(found) if not all(_equal(piece.arrays[key], whole[key]) for key in whole)]
        if read:
            variants = self._variants(modality, [found[v] for v in read])
            present = np.repeat(chunk.results.present[n][None], len(read), axis=0)
            there = [columns.present for columns in variants]
            present[:, self.classifier.modalities.index(modality)] = np.all(there, axis=0)
            rows = np.full(len(read), n)
            columns = [{**picked(own, rows), modality: variant} for own, variant in zip(chunk.columns, variants, strict=True)]
            effects[read] = chunk.results.logits[n] - self._logits(columns, present)
        return effects

    def _variants(self, modality: str, found: Sequence[Piece]) -> list[Column]:
        """Return for each run a column of V contents of a modality."""
        columns: dict[str, Column] = {}
        for source in (sources[modality] for sources in self.sources):
            if source.key not in columns:
                ragged = Ragged.of([piece.arrays[source.stored] for piece in found])
                columns[source.key] = self._encoded(source, PreparedColumn(source.stored, source.preparation, ragged, ()))
        return [columns[sources[modality].key] for sources in self.sources]

    def _logits(self, columns: Sequence[Mapping[str, Column]], present: np.ndarray) -> np.ndarray:
        """Return the logits (V, C), means over the runs; for a row without any modality, the logits without content."""
        found = self.classifier.predicted(columns, [""] * len(present), present)
        mean = np.mean([logits for logits, _ in found], axis=0)
        return np.where(present.any(axis=1, keepdims=True), mean, self.empty)

    def _words(self, n: int, chunk: _Chunk, reasons: Reasons) -> Words:
        """Return the effects of a row's words on the shown genres."""
        runs, genres, text = self.classifier.runs, reasons.shown, str(reasons.content["text"])
        sources = self._preparations("text")
        first = self.sources[0]["text"]
        reading = read(text, first, first.network or runs[0].model.encoders["text"])
        if bag_of_words(runs[0]) and not all(map(is_linear, runs)):
            whole = {source.stored: chunk.prepared.columns[source.stored].ragged.row(n) for source in sources}
            found = words_without(text, reading, sources, whole)
            effects = self._effects("text", n, found, whole, chunk)
            return Words(reading.words, {g: effects[:, reasons.genres.index(g)] for g in genres}, OCCLUSION, None)
        each = [self._attributed(r, n, chunk, reading, genres) for r in range(len(runs))]  # R times G
        means = {genre: np.mean([of[g][0] for of in each], axis=0) for g, genre in enumerate(genres)}
        deltas = {genre: float(np.mean([of[g][1] for of in each])) for g, genre in enumerate(genres)}
        return Words(reading.words, means, each[0][0][2], deltas)

    def _attributed(self, r: int, n: int, chunk: _Chunk, reading: Reading, genres: Sequence[str]) -> list[Any]:
        """Return what `attributed` gives of run r for each genre. Each is computed by one thread, with a model of its own."""
        run, models, source = self.classifier.runs[r], self.classifier.models[r], self.sources[r]["text"]
        present = chunk.results.present[n][[self.classifier.modalities.index(m) for m in run.modalities]]

        def attribute(genre: str) -> Any:
            model = models.get()
            try:
                own = source if source.network is None else source._replace(network=replica(source.network))
                return attributed(Movie(run, model, own, chunk.columns[r], n, present), reading, run.genres.index(genre))
            finally:
                models.put(model)

        with closing(in_threads(models.qsize(), attribute, zip(genres), window=models.qsize() + 1)) as found:
            return list(found)


class _Chunk(NamedTuple):
    """Some rows.

    Attributes:
        prepared: their contents.
        columns: for each run {modality: N rows}.
        results: their predictions.
    """

    prepared: Prepared
    columns: Sequence[Mapping[str, Column]]
    results: Results


def _apart(run: TrainedRun, modality: str) -> Source:
    """Return the way to read a modality with its encoder apart from the model, also if the run has trained the encoder.

    It stays as it is for an encoder that reads other modalities too, and for a model in half precision.
    """
    source, encoder = run.sources[modality], run.model.encoders[modality]
    fusion: Any = run.model.fusion
    mixed = run.precision.precision == "bf16-mixed"
    if source.network is not None or not fusion.lets_cache(encoder) or not (mixed or run.config.trainer.in_float32):
        return source
    network: Any = encoder
    key = f"{source.key} {run.run.folder.absolute()}"
    encoding = EncodeConfig(backend="torch", precision="bfloat16" if mixed else "float32")
    return source._replace(network=network, tokens=keeps_tokens(network, fusion), encoding=encoding, key=key)


def shapley(values: Mapping[frozenset, np.ndarray], players: Sequence[str]) -> dict[str, np.ndarray]:
    """Return {player: Shapley value (C,)}, from the values (C,) of all subsets of the players (Shapley 1953)."""
    count, found = len(players), {}
    for player in players:
        rest = [other for other in players if other != player]
        total: Any = 0.0
        for size in range(count):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            for some in map(frozenset, combinations(rest, size)):
                total = total + weight * (values[some | {player}] - values[some])
        found[player] = total
    return found


def _grouped(found: Iterator[Piece]) -> Iterator[list[Piece]]:
    """Yield the pieces in groups of a limited size in memory."""
    group: list[Piece] = []
    size = 0
    for piece in found:
        group.append(piece)
        size += sum(array.nbytes for array in piece.arrays.values() if array is not None)
        if size >= TOGETHER:
            yield group
            group, size = [], 0
    if group:
        yield group


def _equal(array: np.ndarray | None, other: np.ndarray) -> bool:
    return array is not None and np.array_equal(array, other)
