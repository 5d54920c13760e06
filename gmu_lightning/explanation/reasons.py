"""The reasons for one movie's prediction: as a line of a file, as a table, and in sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

DIGITS = 7  # behind the point of a logit in files
FEWEST = 3  # genres that are shown, also if fewer are predicted
EXCERPT = 90  # characters of a sentence in a sentence
SMALLEST = 0.005  # logits; the effect of a piece in a sentence, which has two digits
STRONGEST = 3  # pieces and words of a genre in sentences


class Effect(NamedTuple):
    """The effect of a piece on every genre.

    Attributes:
        modality: of the piece.
        where: its place. A text has `start` and `end` in code points, a poster `row` and `column` of the grid from 1 on. A
            sequence has `from` and `to` in seconds, or `from_step` and `to_step` from 0 on. A table has `column`.
        effects: (C,), the logit with the piece minus the logit without it.
    """

    modality: str
    where: Mapping[str, Any]
    effects: np.ndarray


class Word(NamedTuple):
    """A word of the text, with its place in code points; None if the tokeniser does not tell it."""

    word: str
    start: int | None
    end: int | None


class Words(NamedTuple):
    """The effects of the words on some genres.

    Attributes:
        words: W words in their order.
        effects: {genre: (W,)}.
        baseline: the text that the effects compare with, and the method.
        delta: {genre: sum of the effects minus the difference of the logits from the baseline}; None for an occlusion.
    """

    words: Sequence[Word]
    effects: Mapping[str, np.ndarray]
    baseline: str
    delta: Mapping[str, float] | None


@dataclass(frozen=True)
class Reasons:
    """The reasons for the prediction of one movie, in logits; means over the runs.

    Attributes:
        id: of the movie.
        genres: C names.
        predicted: names of the predicted genres.
        logits, probabilities: (C,) of the prediction.
        bias: (C,), the logits without any modality.
        contributions: {present modality: (C,)} with bias + their sum = logit; None if the model is not exact.
        without: {present modality: (C,)}, the logits without it.
        shapley: {present modality: (C,)}, whose sum is logit - bias.
        pieces: effects of the pieces; None if they were not requested.
        words: effects of the words; None if they were not requested, or the movie has no text.
        problem: a sentence on contents that were not used, or None.
        content: {present modality: raw content}.
    """

    id: str
    genres: tuple[str, ...]
    predicted: tuple[str, ...]
    logits: np.ndarray
    probabilities: np.ndarray
    bias: np.ndarray
    contributions: Mapping[str, np.ndarray] | None
    without: Mapping[str, np.ndarray]
    shapley: Mapping[str, np.ndarray]
    pieces: Sequence[Effect] | None
    words: Words | None
    problem: str | None
    content: Mapping[str, Any]

    @property
    def shown(self) -> list[str]:
        """The predicted genres and at least the three most probable ones, most probable first."""
        return shown_genres(self.genres, self.predicted, self.probabilities)

    def record(self) -> dict[str, Any]:
        """Return the object of a line of the file of reasons."""
        return {"id": self.id, "genres": {g: self._of_genre(c, g) for c, g in enumerate(self.genres)}, "problem": self.problem}

    def _of_genre(self, c: int, genre: str) -> dict[str, Any]:
        def each(values: Mapping[str, np.ndarray]) -> dict[str, float]:
            return {m: rounded(value[c]) for m, value in values.items()}

        found: dict[str, Any] = {
            "logit": rounded(self.logits[c]),
            "bias": rounded(self.bias[c]),
            "contributions": None if self.contributions is None else each(self.contributions),
            "without": each(self.without),
            "shapley": each(self.shapley),
        }
        if self.pieces is not None:
            found["pieces"] = [
                {"modality": p.modality, "where": dict(p.where), "effect": rounded(p.effects[c])} for p in self.pieces
            ]
        if self.words is not None and genre in self.words.effects:
            effects = self.words.effects[genre].tolist()
            found["words"] = [
                {"word": w.word, "effect": rounded(effect), "start": w.start, "end": w.end}
                for w, effect in zip(self.words.words, effects, strict=True)
            ]
            found["baseline"] = self.words.baseline
            found["convergence_delta"] = None if self.words.delta is None else rounded(self.words.delta[genre])
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Return the numbers as rows of a table: `genre`, `kind`, `modality`, `where` and `effect`, for each shown genre.

        The kinds are `bias`, `contribution`, `without`, `shapley`, `piece` and `word`. The effect of `bias` and `without` is the
        logit.
        """
        rows = []
        for genre in self.shown:
            c = self.genres.index(genre)
            found: list[tuple[str, str | None, str | None, Any]] = [("bias", None, None, self.bias[c])]
            kinds = (("contribution", self.contributions or {}), ("without", self.without), ("shapley", self.shapley))
            found += [(kind, m, None, value[c]) for kind, values in kinds for m, value in values.items()]
            found += [("piece", p.modality, self.place(p), p.effects[c]) for p in self.pieces or ()]
            if self.words is not None and genre in self.words.effects:
                pairs = zip(self.words.words, self.words.effects[genre], strict=True)
                found += [("word", "text", word.word, effect) for word, effect in pairs]
            rows += [
                {"genre": genre, "kind": kind, "modality": m, "where": where, "effect": float(effect)}
                for kind, m, where, effect in found
            ]
        return rows

    def place(self, piece: Effect) -> str:
        """Return the place of a piece in words: of a text, the sentence itself."""
        where = piece.where
        if piece.modality == "text":
            return " ".join(str(self.content["text"])[where["start"] : where["end"]].split())
        if "row" in where:
            return f"row {where['row']}, column {where['column']} of the {piece.modality}"
        if "from" in where:
            return f"seconds {where['from']:g} to {where['to']:g} of the {piece.modality}"
        return (
            f"steps {where['from_step']} to {where['to_step']} of the {piece.modality}" if "to_step" in where else where["column"]
        )

    def sentences(self) -> list[str]:
        """Return the reasons in sentences, strongest first, for the predicted genres, or the most probable one if none is."""
        lines: list[str] = []
        for genre in [one for one in self.shown if one in self.predicted] or self.shown[:1]:
            c = self.genres.index(genre)
            lines += ["", f"{genre}: logit {self.logits[c]:+.2f}, probability {self.probabilities[c]:.3f}"]
            for m, logit in self.without.items():
                lines.append(f"  without {m} the logit would be {logit[c]:+.2f} (Shapley value of {m} {self.shapley[m][c]:+.2f})")
            lines += self._piece_lines(c, genre)
            lines += self._word_lines(genre)
        lines += ["", f"words are compared with {self.words.baseline}"] if self.words is not None else []
        return lines

    def _piece_lines(self, c: int, genre: str) -> list[str]:
        """Return the strongest pieces, and of each modality the piece that speaks most for the genre, strongest first."""
        lines = []
        ranked = sorted(self.pieces or (), key=lambda piece: -abs(piece.effects[c]))
        for n, piece in enumerate(ranked):
            of_modality = [other.effects[c] for other in ranked if other.modality == piece.modality]
            if abs(piece.effects[c]) < SMALLEST or (n >= STRONGEST and piece.effects[c] < max(of_modality)):
                continue
            effect, place = piece.effects[c], self.place(piece)
            what = {
                "text": "removing this sentence",
                "image": f"covering {place}",
                "metadata": f"leaving out the column {place}",
            }.get(piece.modality, f"removing {place}")
            excerpt = f': "{place if len(place) <= EXCERPT else place[: EXCERPT - 2] + " …"}"' if piece.modality == "text" else ""
            lines.append(f"  {what} {'lowers' if effect > 0 else 'raises'} {genre} by {abs(effect):.2f} logits{excerpt}")
        return lines

    def _word_lines(self, genre: str) -> list[str]:
        if self.words is None or genre not in self.words.effects:
            return []
        effects = self.words.effects[genre]
        strongest = np.argsort(-np.abs(effects), kind="stable")[: 2 * STRONGEST]
        words = ", ".join(f"{self.words.words[n].word} {effects[n]:+.2f}" for n in strongest)
        delta = f" (convergence delta {self.words.delta[genre]:+.4f})" if self.words.delta is not None else ""
        return [f"  words with the largest effect on {genre}: {words}{delta}"] if words else []


def shown_genres(genres: Sequence[str], predicted: Sequence[str], probabilities: np.ndarray) -> list[str]:
    """Return the predicted genres and at least `FEWEST` others of the most probable ones, most probable first."""
    order = np.argsort(-probabilities, kind="stable").tolist()
    first = {genres[c] for c in order[:FEWEST]}
    return [genres[c] for c in order if genres[c] in first or genres[c] in predicted]


def line_of(reasons: Reasons | None, id: str, problem: str | None) -> str:
    """Return a line of the file of reasons; `genres` is null for a row without a prediction, which has a problem."""
    record = {"id": id, "genres": None, "problem": problem} if reasons is None else reasons.record()
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def rounded(value: Any) -> float:
    """Return a logit for a file."""
    return round(float(value), DIGITS) + 0.0
