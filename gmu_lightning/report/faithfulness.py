"""Did gates promise what was lost? Scores without a modality, as `evaluate robustness=true` left them, beside the gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gmu_lightning.report.gate_evidence import gate_table
from gmu_lightning.report.robustness import BY_GENRE
from gmu_lightning.run import Predictions, Run
from gmu_lightning.run_files import records
from gmu_lightning.run_files.content import Damaged

SCORES = ("f1_micro", "ap_micro")
FEWEST_GENRES = 4  # whose order says anything


@dataclass(frozen=True)
class Faithfulness:
    """What a setting's test scores lost when every movie went without a modality. Means over the runs that were asked.

    Attributes:
        runs: how many were asked.
        others: the runs that were not.
        lost: {`f1_micro` or `ap_micro`: (M,)}, the whole score less the score without the modality; nan where it is not known.
        lost_by_genre: (C, M) average precision of the genre; nan where a genre has no movie, or the file is older than its table.
        foretold: {`gate_weighted` or `contribution`: (M,)}, Spearman's correlation over genres between that measure and
            `lost_by_genre`: whether a modality is missed most where it was said to matter most. nan where nothing varies; empty
            without gates.
    """

    modalities: tuple[str, ...]
    runs: int
    others: Sequence[Run]
    lost: Mapping[str, np.ndarray]
    lost_by_genre: np.ndarray
    foretold: Mapping[str, np.ndarray]


def faithfulness(runs: Sequence[Run]) -> Faithfulness | None:
    """From the newest study of test in each run's folder; None where `evaluate robustness=true` was asked of none of them."""
    studies = {run.folder: found for run in runs if (found := _study(run)) is not None}
    if not studies:
        return None
    asked, others = list(studies.values()), [run for run in runs if run.folder not in studies]
    first = asked[0][1]
    lost = {score: np.mean([_lost(folder, p.modalities, score) for folder, p in asked], axis=0) for score in SCORES}
    known = [(p, table) for folder, p in asked if np.isfinite(table := _lost_by_genre(folder, p)).any()]
    nothing = np.full((len(first.genres), len(first.modalities)), np.nan)
    by_genre = np.mean([table for _, table in known], axis=0) if known else nothing
    foretold: dict[str, np.ndarray] = {}
    if first.gate is not None:
        said = gate_table([p for p, _ in known] or [first]).values  # of the very runs whose losses are known
        foretold = {measure: _correlation(said[measure], by_genre) for measure in ("gate_weighted", "contribution")}
    return Faithfulness(first.modalities, len(asked), others, lost, by_genre, foretold)


def _study(run: Run) -> tuple[Path, Predictions] | None:
    """The folder of the newest one of the test split, of the movies that the run was tested on: evaluate takes others too.

    With it what the run itself said of these movies.
    """
    for path in sorted((run / "evaluate").glob("*/robustness.json"), reverse=True):
        try:
            read = _read(path.parent)
        except Damaged:  # named by `damaged_studies`
            continue
        test = run.predictions("test")
        if read is not None and read.ids == test.ids and read.data_fingerprint == test.data_fingerprint:
            return path.parent, test
    return None


def damaged_studies(run: Run) -> list[tuple[Path, str]]:
    """(folder, why) of each of a run's studies that cannot be read; the run's own scores do not depend on it."""
    found = []
    for path in sorted((run / "evaluate").glob("*/robustness.json")):
        try:
            _read(path.parent)
        except Damaged as error:
            found.append((path.parent, str(error)))
    return found


def _read(study: Path) -> Predictions | None:
    """The predictions of a study of test, each of its files checked; None where it is of another split, or lacks them."""
    if records.robustness(study / "robustness.json")["split"] != "test":
        return None
    records.none_if_gone(records.robustness_rows, study / "robustness.csv", [])
    records.none_if_gone(records.robustness_genres, study / BY_GENRE, [])
    return records.none_if_gone(Predictions.read, study / "predictions/test.parquet", None)


def _lost(study: Path, modalities: Sequence[str], score: str) -> np.ndarray:
    at = {row["subset"]: float(row[score]) for row in _rows(study) if row["kind"] == "subset" and row[score]}
    return _less(at, modalities)


def _lost_by_genre(study: Path, p: Predictions) -> np.ndarray:
    at: dict[str, dict[str, float]] = {genre: {} for genre in p.genres}
    for row in records.none_if_gone(records.robustness_genres, study / BY_GENRE, []):
        if row["ap"] and row["genre"] in at:
            at[row["genre"]][row["subset"]] = float(row["ap"])
    return np.stack([_less(at[genre], p.modalities) for genre in p.genres])


def _less(at: Mapping[str, float], modalities: Sequence[str]) -> np.ndarray:
    """(M,) the score of all modalities less the score without each."""
    whole = at.get("+".join(modalities), np.nan)
    without = ("+".join(other for other in modalities if other != modality) for modality in modalities)
    return np.array([whole - at.get(rest, np.nan) for rest in without])


def _rows(study: Path) -> list[dict[str, str]]:
    return records.none_if_gone(records.robustness_rows, study / "robustness.csv", [])


def _correlation(said: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """(M,) over the genres of which both are known."""
    from scipy.stats import spearmanr

    found = np.full(said.shape[1], np.nan)
    for m in range(said.shape[1]):
        known = np.isfinite(said[:, m]) & np.isfinite(lost[:, m])
        if known.sum() >= FEWEST_GENRES and np.ptp(said[known, m]) > 0 and np.ptp(lost[known, m]) > 0:
            found[m] = spearmanr(said[known, m], lost[known, m]).statistic
    return found
