"""What a setting's gates did, and what that is worth: contributions, and the truth if known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gmu_lightning.report.gates import by_genre
from gmu_lightning.run import Predictions

MEASURES = ("gate_open", "gate", "gate_sd_across_movies", "gate_weighted", "contribution")
SWITCH = "switch"  # of a planted genre: which modality tells it differs from movie to movie


@dataclass(frozen=True)
class GateTable:
    """Means over a setting's seeds, per genre and modality, over the test movies that have the genre; nan where there is nothing.

    Attributes:
        values: {measure: (C, M)}, the columns of gates/by_genre.parquet.
        agreement: (M,) Spearman's correlation between a movie's genre-weighted gate and the size of its contribution, over the
            movies that have the modality (without it both are 0), a mean over genres and seeds; None without exact contributions.
    """

    genres: tuple[str, ...]
    modalities: tuple[str, ...]
    movies: np.ndarray
    values: Mapping[str, np.ndarray]
    agreement: np.ndarray | None


def gate_table(test: Sequence[Predictions]) -> GateTable:
    """Of the runs of one gated setting."""
    first = test[0]
    shape = (len(first.genres), len(first.modalities))
    tables = [by_genre(p) for p in test]
    values = {
        name: np.mean([np.ma.masked_array(t[name], dtype=float).filled(np.nan).reshape(shape) for t in tables], axis=0)
        for name in MEASURES
    }
    exact = first.contributions is not None and first.gate_by_genre is not None
    agreement = np.mean([_agreement(p) for p in test], axis=0) if exact else None
    return GateTable(first.genres, first.modalities, first.labels.sum(axis=0), values, agreement)


def _agreement(p: Predictions) -> np.ndarray:
    from scipy.stats import rankdata

    assert p.gate_by_genre is not None
    assert p.contributions is not None
    found = np.full(len(p.modalities), np.nan)
    for m, there in enumerate(p.present.T):
        gate, size = (rankdata(x[there, m], axis=0) for x in (p.gate_by_genre, np.abs(p.contributions)))  # (N', C)
        if there.any():
            gate, size = gate - gate.mean(axis=0), size - size.mean(axis=0)
            scale = np.sqrt((gate**2).sum(axis=0) * (size**2).sum(axis=0))
            if (scale > 0).any():  # a genre where nothing moves has no correlation
                found[m] = ((gate * size).sum(axis=0)[scale > 0] / scale[scale > 0]).mean()
    return found


def decomposition_error(test: Sequence[Predictions]) -> float | None:
    """The largest |bias + sum of contributions - logit| of any movie and genre; None where contributions are not exact."""
    errors = [
        np.abs(p.contributions.sum(axis=1) + p.bias - p.logits).max()
        for p in test
        if p.contributions is not None and p.bias is not None
    ]
    return float(max(errors)) if errors else None


@dataclass(frozen=True)
class Truth:
    """What generated movies were made of.

    Attributes:
        switch: {movie: the modality that tells the truth}.
        genres: {genre: `switch`, or the one modality that tells it}.
    """

    switch: Mapping[str, str]
    genres: Mapping[str, str]

    @classmethod
    def read(cls, root: Path) -> Truth | None:
        """truth.jsonl and genres.json of a data set's folder; None where it has none."""
        if not (root / "truth.jsonl").exists() or not (root / "genres.json").exists():
            return None
        rows = [json.loads(line) for line in (root / "truth.jsonl").read_text(encoding="utf-8").splitlines() if line]
        return cls({row["id"]: row["switch"] for row in rows}, json.loads((root / "genres.json").read_text(encoding="utf-8")))


class Recovered(NamedTuple):
    """What of the truth a setting's runs found.

    Attributes:
        correlation: {modality: Pearson's between its genre-weighted gate, a mean over the switch genres, and whether it tells the
            truth}, over test movies, a mean over seeds; empty without gates.
        named: {genre that one modality tells: (that modality, the one whose contributions tell it)}; empty without contributions.
    """

    correlation: dict[str, float]
    named: dict[str, tuple[str, str]]


def recovered(truth: Truth, test: Sequence[Predictions]) -> Recovered:
    """Of the runs of one setting; nothing where the truth is of other movies."""
    first = test[0]
    if not set(first.ids) <= set(truth.switch):  # others were tested than those that lie there now
        return Recovered({}, {})
    switches = [c for c, genre in enumerate(first.genres) if truth.genres.get(genre) == SWITCH]
    correlation: dict[str, float] = {}
    if first.gate_by_genre is not None and switches:
        for m, modality in enumerate(first.modalities):
            tells = np.array([truth.switch[movie] == modality for movie in first.ids], dtype=float)
            if 0 < tells.mean() < 1:
                gates = [p.gate_by_genre[:, m, switches].mean(axis=1) for p in test]  # type: ignore[index]
                if all(gate.std() > 0 for gate in gates):  # a fixed rule's do not move
                    correlation[modality] = float(np.mean([np.corrcoef(gate, tells)[0, 1] for gate in gates]))
    named: dict[str, tuple[str, str]] = {}
    if first.contributions is not None:
        for c, genre in enumerate(first.genres):
            teller = truth.genres.get(genre)
            if teller in first.modalities and 0 < first.labels[:, c].mean() < 1:
                named[genre] = (str(teller), first.modalities[int(_told_by(test, c).argmax())])
    return Recovered(correlation, named)


def _told_by(test: Sequence[Predictions], genre: int) -> np.ndarray:
    """(M,) how much more each modality contributes to a genre on movies that have it than on those that have not."""
    has = test[0].labels[:, genre]
    parts: Any = np.mean([p.contributions[:, :, genre] for p in test], axis=0)  # type: ignore[index]
    return parts[has].mean(axis=0) - parts[~has].mean(axis=0)


def driven(test: Sequence[Predictions], most: int = 3) -> dict[str, list[int]]:
    """{modality: the rows of the test movies that it drives most}: by how much more than all others together it contributes to
    the genres that are predicted, a mean over seeds. Empty without exact contributions or with a single modality."""
    first = test[0]
    if first.contributions is None or len(first.modalities) < 2:
        return {}
    exact = [p.contributions for p in test if p.contributions is not None]
    parts = np.mean(exact, axis=0)  # (N, M, C)
    predicted = np.mean([p.probabilities for p in test], axis=0) >= 0.5
    told = (parts * predicted[:, None]).sum(axis=2)  # (N, M)
    lead = 2 * told - told.sum(axis=1, keepdims=True)
    lead = np.where(first.present & predicted.any(axis=1, keepdims=True), lead, -np.inf)
    return {
        modality: [int(n) for n in np.argsort(-lead[:, m], kind="stable")[:most] if np.isfinite(lead[n, m])]
        for m, modality in enumerate(first.modalities)
    }
