"""Gates by genre: their values, and how these agree with contributions, planted truth, and scores lost without a modality."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gmu_lightning.decisions import decided
from gmu_lightning.report.robustness import BY_GENRE
from gmu_lightning.run import Predictions, Run
from gmu_lightning.run_files import records
from gmu_lightning.run_files.plain import Damaged

SWITCH = "switch"  # kind of a planted genre that a different modality reveals in each movie
LOST = ("f1_micro", "ap_micro")
FEWEST_GENRES = 4  # for a rank correlation
DRIVEN = 3  # most driven movies of each modality


def by_genre(predictions: Predictions) -> dict[str, np.ndarray]:
    """Return the columns of gates/by_genre.parquet: one row per genre and modality, C x M rows, grouped by genre.

    `movies` counts the movies that have the genre. Over these movies, `gate` and `gate_open` are means of `gate/<m>` and
    `gate_open/<m>`, `gate_weighted` of `gate/<m>/<Genre>`, and `contribution` of `contribution/<m>/<Genre>`.
    `gate_sd_across_movies` has ddof 1. Missing values are masked, and null in the file.

    Raises:
        ValueError: the predictions hold no gates.
    """
    if predictions.gate is None:
        raise ValueError("these predictions hold no gates: only a gated fusion has them")
    genres, modalities = predictions.genres, predictions.modalities
    return {
        "genre": np.repeat(np.array(genres, dtype=object), len(modalities)),
        "modality": np.tile(np.array(modalities, dtype=object), len(genres)),
        "movies": np.repeat(predictions.labels.sum(axis=0), len(modalities)),
        **{name: np.ma.masked_invalid(values).reshape(-1) for name, values in _measures(predictions).items()},
    }


def _measures(p: Predictions) -> dict[str, np.ndarray]:
    """Return {measure of `by_genre`: (C, M)}; missing values are nan."""
    assert p.gate is not None
    sd = np.full((len(p.genres), len(p.modalities)), np.nan)
    for c in np.flatnonzero(p.labels.sum(axis=0) > 1):
        sd[c] = p.gate[np.flatnonzero(p.labels[:, c])].std(axis=0, ddof=1)
    return {
        "gate": _mean(p, p.gate),
        "gate_sd_across_movies": sd,
        "gate_open": _mean(p, p.gate_open),
        "gate_weighted": _mean(p, p.gate_by_genre),
        "contribution": _mean(p, p.contributions),
    }


def _mean(p: Predictions, values: np.ndarray | None) -> np.ndarray:
    """Return the mean of (N, M) or (N, M, C) over each genre's movies, (C, M); nan for None and a genre without movies."""
    if values is None:
        return np.full((len(p.genres), len(p.modalities)), np.nan)
    movies = p.labels.sum(axis=0)
    weight = p.labels / np.maximum(movies, 1)  # (N, C)
    mean = np.einsum("nc,nm->cm" if values.ndim == 2 else "nc,nmc->cm", weight, values)
    return np.where(movies[:, None] == 0, np.nan, mean)


@dataclass(frozen=True)
class GateTable:
    """Means over a setting's seeds, per genre and modality, over the test movies of the genre. Missing values are nan.

    Attributes:
        movies: (C,) test movies of each genre.
        values: {measure: (C, M)}, the columns of gates/by_genre.parquet.
        agreement: (M,) Spearman's correlation between the genre-weighted gate and the size of the contribution, over movies that
            have the modality; a mean over genres and seeds. None without exact contributions.
    """

    genres: tuple[str, ...]
    modalities: tuple[str, ...]
    movies: np.ndarray
    values: Mapping[str, np.ndarray]
    agreement: np.ndarray | None


def gate_table(test: Sequence[Predictions]) -> GateTable:
    """Return the table of one gated setting, from its runs' test predictions, which must have gates."""
    first, measured = test[0], [_measures(p) for p in test]
    values = {name: np.mean([of[name] for of in measured], axis=0) for name in measured[0]}
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
            if (scale > 0).any():  # a genre with constant values has no correlation
                found[m] = ((gate * size).sum(axis=0)[scale > 0] / scale[scale > 0]).mean()
    return found


def decomposition_error(test: Sequence[Predictions]) -> float | None:
    """Return the largest |bias + sum of contributions - logit|; None without exact contributions."""
    errors = [
        np.abs(p.contributions.sum(axis=1) + p.bias - p.logits).max()
        for p in test
        if p.contributions is not None and p.bias is not None
    ]
    return float(max(errors)) if errors else None


@dataclass(frozen=True)
class Truth:
    """The plan of generated movies.

    Attributes:
        switch: {movie: the modality that reveals its switch genres}.
        genres: {genre: `switch`, or the one modality that reveals it}.
    """

    switch: Mapping[str, str]
    genres: Mapping[str, str]

    @classmethod
    def read(cls, root: Path) -> Truth | None:
        """Read truth.jsonl and genres.json in a data set's folder. Return None if one of them is missing.

        Damaged JSON raises ValueError, and an entry that lacks a key KeyError.
        """
        if not (root / "truth.jsonl").exists() or not (root / "genres.json").exists():
            return None
        rows = [json.loads(line) for line in (root / "truth.jsonl").read_text(encoding="utf-8").splitlines() if line]
        return cls({row["id"]: row["switch"] for row in rows}, json.loads((root / "genres.json").read_text(encoding="utf-8")))


class Recovered(NamedTuple):
    """The part of the truth that a setting's runs recovered.

    Attributes:
        correlation: {modality: Pearson's correlation between its genre-weighted gate and the movies that it reveals}. The gate is
            averaged over switch genres, the result over seeds. Empty without gates.
        named: {genre of one modality: (that modality, the modality with the largest mean contribution in movies with the genre
            minus that in movies without)}. Empty without contributions.
    """

    correlation: dict[str, float]
    named: dict[str, tuple[str, str]]


def recovered(truth: Truth, test: Sequence[Predictions]) -> Recovered:
    """Compare the test predictions of one setting with the truth. The result is empty if the truth lacks a test movie."""
    first = test[0]
    if not set(first.ids) <= set(truth.switch):
        return Recovered({}, {})
    correlation: dict[str, float] = {}
    switches = [c for c, genre in enumerate(first.genres) if truth.genres.get(genre) == SWITCH]
    if first.gate_by_genre is not None and switches:
        for m, modality in enumerate(first.modalities):
            reveals = np.array([truth.switch[movie] == modality for movie in first.ids], dtype=float)
            gates = [p.gate_by_genre[:, m, switches].mean(axis=1) for p in test if p.gate_by_genre is not None]
            if 0 < reveals.mean() < 1 and all(gate.std() > 0 for gate in gates):  # the gates of a fixed rule are constant
                correlation[modality] = float(np.mean([np.corrcoef(gate, reveals)[0, 1] for gate in gates]))
    named: dict[str, tuple[str, str]] = {}
    exact = [p.contributions for p in test if p.contributions is not None]
    if first.contributions is not None:
        parts = np.mean(exact, axis=0)  # (N, M, C)
        for c, genre in enumerate(first.genres):
            source, has = truth.genres.get(genre), first.labels[:, c]
            if source in first.modalities and 0 < has.mean() < 1:
                lead = parts[has, :, c].mean(axis=0) - parts[~has, :, c].mean(axis=0)
                named[genre] = (str(source), first.modalities[int(lead.argmax())])
    return Recovered(correlation, named)


def driven(test: Sequence[Predictions]) -> dict[str, list[int]]:
    """Return {modality: at most three rows of test movies, by falling lead}; empty without exact contributions to compare.

    A modality drives a movie by the lead of its contributions to the predicted genres over those of all other modalities.
    """
    first = test[0]
    if first.contributions is None or len(first.modalities) < 2:
        return {}
    parts = np.mean([p.contributions for p in test if p.contributions is not None], axis=0)  # (N, M, C)
    predicted = decided(np.mean([p.probabilities for p in test], axis=0), first.task)
    total = (parts * predicted[:, None]).sum(axis=2)  # (N, M)
    lead = 2 * total - total.sum(axis=1, keepdims=True)
    lead = np.where(first.present & predicted.any(axis=1, keepdims=True), lead, -np.inf)
    return {
        modality: [int(n) for n in np.argsort(-lead[:, m], kind="stable")[:DRIVEN] if np.isfinite(lead[n, m])]
        for m, modality in enumerate(first.modalities)
    }


@dataclass(frozen=True)
class Faithfulness:
    """Test scores that a setting loses if every movie lacks a modality, as means over the evaluated runs.

    Attributes:
        runs: number of evaluated runs.
        others: the runs without such an evaluation.
        lost: {`f1_micro` or `ap_micro`: (M,)}, the full score minus the score without the modality. Unknown values are nan.
        lost_by_genre: (C, M) loss of the genre's average precision; nan for a genre without movies, or from an old file.
        foretold: {`gate_weighted` or `contribution`: (M,)}, Spearman's correlation over genres between that measure and
            `lost_by_genre`. It is nan for constant values or fewer than four genres, and empty without gates.
    """

    modalities: tuple[str, ...]
    runs: int
    others: Sequence[Run]
    lost: Mapping[str, np.ndarray]
    lost_by_genre: np.ndarray
    foretold: Mapping[str, np.ndarray]


def faithfulness(runs: Sequence[Run]) -> Faithfulness | None:
    """Read each run's newest readable study of its own test movies. Return None if no run has one.

    Raises UserError if the test predictions of a run with a study are missing or damaged.
    """
    studies = {run.folder: found for run in runs if (found := _study(run)) is not None}
    if not studies:
        return None
    evaluated, others = list(studies.values()), [run for run in runs if run.folder not in studies]
    first = evaluated[0].predictions
    lost = {score: np.mean([study.lost(score) for study in evaluated], axis=0) for score in LOST}
    known = [(study.predictions, table) for study in evaluated if np.isfinite(table := study.lost_by_genre()).any()]
    nothing = np.full((len(first.genres), len(first.modalities)), np.nan)
    lost_by_genre = np.mean([table for _, table in known], axis=0) if known else nothing
    foretold: dict[str, np.ndarray] = {}
    if first.gate is not None:
        measured = gate_table([p for p, _ in known] or [first]).values  # of the runs with known losses
        foretold = {measure: _correlation(measured[measure], lost_by_genre) for measure in ("gate_weighted", "contribution")}
    return Faithfulness(first.modalities, len(evaluated), others, lost, lost_by_genre, foretold)


class _Study(NamedTuple):
    """A study of lost modalities: predictions with all modalities, and the rows of robustness.csv and robustness_by_genre.csv."""

    predictions: Predictions
    rows: Sequence[Mapping[str, str]]
    genres: Sequence[Mapping[str, str]]

    def lost(self, score: str) -> np.ndarray:
        """Return (M,) the loss of a score without each modality."""
        scores = {row["subset"]: float(row[score]) for row in self.rows if row["kind"] == "subset" and row[score]}
        return _losses(scores, self.predictions.modalities)

    def lost_by_genre(self) -> np.ndarray:
        """Return (C, M) the loss of each genre's average precision without each modality."""
        scores: dict[str, dict[str, float]] = {genre: {} for genre in self.predictions.genres}
        for row in self.genres:
            if row["ap"] and row["genre"] in scores:
                scores[row["genre"]][row["subset"]] = float(row["ap"])
        return np.stack([_losses(of, self.predictions.modalities) for of in scores.values()])


def _study(run: Run) -> _Study | None:
    """Return the newest study on the run's own test movies."""
    for path in sorted((run / "evaluate").glob("*/robustness.json"), reverse=True):
        try:
            found = _read(path.parent)
        except Damaged:  # `damaged_studies` reports it
            continue
        test = run.predictions("test")
        if found and found.predictions.ids == test.ids and found.predictions.data_fingerprint == test.data_fingerprint:
            return found._replace(predictions=test)
    return None


def damaged_studies(run: Run) -> list[tuple[Path, str]]:
    """Return (folder, reason) of each unreadable study of a run. The run's own scores do not depend on these."""
    found = []
    for path in sorted((run / "evaluate").glob("*/robustness.json")):
        try:
            _read(path.parent)
        except Damaged as error:
            found.append((path.parent, str(error)))
    return found


def _read(study: Path) -> _Study | None:
    """Read a study of test; None for another split or missing predictions. Raises Damaged."""
    if records.robustness(study / "robustness.json")["split"] != "test":
        return None
    rows = records.none_if_gone(records.robustness_rows, study / "robustness.csv", [])
    genres = records.none_if_gone(records.robustness_genres, study / BY_GENRE, [])
    predictions = records.none_if_gone(Predictions.read, study / "predictions/test.parquet", None)
    return predictions and _Study(predictions, rows, genres)


def _losses(scores: Mapping[str, float], modalities: Sequence[str]) -> np.ndarray:
    """Return (M,) the score of all modalities minus the score without each, from {subset: score}."""
    whole = scores.get("+".join(modalities), np.nan)
    without = ("+".join(other for other in modalities if other != modality) for modality in modalities)
    return np.array([whole - scores.get(rest, np.nan) for rest in without])


def _correlation(measured: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Return (M,) Spearman's correlations over genres with both values known; nan below `FEWEST_GENRES`."""
    from scipy.stats import spearmanr

    found = np.full(measured.shape[1], np.nan)
    for m in range(measured.shape[1]):
        known = np.isfinite(measured[:, m]) & np.isfinite(lost[:, m])
        if known.sum() >= FEWEST_GENRES and np.ptp(measured[known, m]) > 0 and np.ptp(lost[known, m]) > 0:
            found[m] = spearmanr(measured[known, m], lost[known, m]).statistic
    return found
