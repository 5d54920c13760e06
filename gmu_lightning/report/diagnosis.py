"""Diagnoses of runs: what gates, interaction and each modality are worth. Write them, read them, and combine seeds.

A diagnosis is RUN/evaluate/<time>/diagnosis.json. Beside it, diagnosis.parquet holds the influence of every movie on every
number (report/influence.py), from which intervals over movies and seeds follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning.decisions import Task
from gmu_lightning.files import write_json, write_table
from gmu_lightning.movie import UserError
from gmu_lightning.report.influence import Influence
from gmu_lightning.report.statistics import Difference, Interval, SplitScores
from gmu_lightning.run import Run, disagreeing
from gmu_lightning.run_files import records
from gmu_lightning.run_files.arrays import number_table
from gmu_lightning.run_files.plain import Damaged
from gmu_lightning.run_files.shapes import is_number

NAME, TABLE = "diagnosis.json", "diagnosis.parquet"
METRICS = ("f1_micro", "ap_micro")
CHANGES = ("gates_permuted", "gates_mean", "emap")  # other predictions of the same model, each with a cost
INFORMATION = ("redundant", "joint")


@dataclass(frozen=True)
class Diagnosis:
    """The diagnosis of one run on one split.

    Attributes:
        split: `train`, `val` or `test`.
        ids: of the N movies.
        modalities, genres: of the run.
        task: of the labels.
        measures: {key: value and its influences}. The keys are `score/METRIC`, `gates_permuted/METRIC`, `gates_mean/METRIC`,
            `emap/METRIC`, `empty/METRIC`, `shapley/MODALITY/METRIC`, `shapley_by_genre/MODALITY/GENRE`, and the means over genres
            `information/redundant`, `information/joint` and `information/unique/MODALITY`. Those of gates are absent for a fusion
            without gates, and those of a genre without a movie are absent too.
        information_bits: {genre: {`redundant`: bits, `unique`: {modality: bits}, `joint`: bits, `co_information`: bits}}.
        about: further content of diagnosis.json: how it was computed, and the data's fingerprint.
    """

    split: str
    ids: Sequence[str]
    modalities: Sequence[str]
    genres: Sequence[str]
    task: Task
    measures: Mapping[str, Influence]
    information_bits: Mapping[str, Mapping[str, Any]]
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, split: str = "test") -> Diagnosis | None:
        """Return a run's newest diagnosis of a split on the run's own data; None if there is none.

        Raises:
            UserError: a file of the diagnosis is damaged or missing.
        """
        path = newest(run, split)
        return None if path is None else cls.read(path)

    @classmethod
    def read(cls, path: Path) -> Diagnosis:
        """Return the diagnosis of a diagnosis.json. Raises UserError if it or diagnosis.parquet is damaged or missing."""
        found = records.diagnosis(path)
        values = _values(found)
        table = path.with_name(TABLE)
        hint = "evaluate the run with diagnose=true again"
        try:
            ids, columns = number_table(table)
        except FileNotFoundError:
            raise Damaged(table, "it is not there", hint) from None
        lacking = [key for key in values if key not in columns]
        if lacking:
            raise Damaged(table, f"it lacks the column {lacking[0][:80]}", hint)
        if len(ids) != found["movies"]:
            raise Damaged(table, f"it has {len(ids):,} movies, and {NAME} counts {found['movies']:,}", hint)
        return cls(
            split=found["split"],
            ids=ids,
            modalities=list(found["shapley"]),
            genres=list(found["information_bits"]),
            task=found["task"],
            measures={key: Influence(value, columns[key]) for key, value in values.items()},
            information_bits=found["information_bits"],
            about={key: found[key] for key in ABOUT if key in found},
        )

    def write(self, folder: Path, sentences: Sequence[str] = ()) -> None:
        """Write diagnosis.json and diagnosis.parquet to a folder.

        Args:
            folder: is created.
            sentences: the findings in words, which are added to the JSON.
        """
        influences = {key: one.psi.astype(np.float32) for key, one in self.measures.items()}
        write_table(folder / TABLE, {"id": list(self.ids), **influences})
        write_json(folder / NAME, {**as_json(self), "sentences": list(sentences)})


def newest(run: Run, split: str = "test") -> Path | None:
    """Return the diagnosis.json of a run's newest diagnosis of a split on the run's own data; None if there is none.

    Raises:
        UserError: a newer diagnosis.json is damaged.
    """
    for path in sorted((run / "evaluate").glob(f"*/{NAME}"), reverse=True):
        found = records.diagnosis(path)
        if found["split"] == split and not disagreeing(run.data_fingerprint, found["data_fingerprint"]):
            return path
    return None


ABOUT = ("seed", "permutations", "partners", "complete", "calibrated_on", "data_fingerprint")


@dataclass(frozen=True)
class Combined:
    """The diagnoses of one setting's runs.

    Attributes:
        split, modalities, genres, task: as in `Diagnosis`.
        runs: number of diagnosed runs.
        movies: number of movies.
        measures: {key of `Diagnosis.measures`: mean over the runs, with interval}.
        costs: {`CHANGE/METRIC`: the score minus the score after the change, with interval}, for each of `CHANGES` that the runs
            have. A positive cost means that the model scores lower after the change.
        over_seeds: whether intervals are over movies and seeds, which takes three runs. Otherwise they are over movies alone, for
            these runs.
        information_bits: as in `Diagnosis`, means over the runs.
    """

    split: str
    modalities: Sequence[str]
    genres: Sequence[str]
    task: Task
    runs: int
    movies: int
    measures: Mapping[str, Interval]
    costs: Mapping[str, Interval]
    over_seeds: bool
    information_bits: Mapping[str, Mapping[str, Any]]

    def shapley(self, modality: str, metric: str) -> Interval:
        """Return the Shapley value of a modality."""
        return self.measures[f"shapley/{modality}/{metric}"]

    def shapley_of(self, genre: str) -> dict[str, Interval]:
        """Return {modality: its Shapley value of a genre's average precision}; {} for a genre without a movie."""
        keys = {m: f"shapley_by_genre/{m}/{genre}" for m in self.modalities}
        return {m: self.measures[key] for m, key in keys.items() if key in self.measures}


def of_setting(runs: Sequence[Run], split: str = "test") -> Combined | None:
    """Return the combined diagnoses of those runs of a setting that have one; None if no run has one.

    Raises:
        UserError: a file is damaged, or the runs were diagnosed on different movies.
    """
    found = [one for run in runs if (one := Diagnosis.of(run, split)) is not None]
    return combined(found) if found else None


def combined(found: Sequence[Diagnosis]) -> Combined:
    """Return the diagnoses of one setting's runs as means with intervals. Raises UserError if they are of different movies.

    Args:
        found: at least one; a measure counts if all of them have it.
    """
    first = found[0]
    for other in found[1:]:
        for word in ("split", "ids", "modalities", "genres"):
            if list(getattr(first, word)) != list(getattr(other, word)):
                raise UserError(f"diagnoses with different {word} cannot be combined: evaluate all runs on the same data again")
    keys = [key for key in first.measures if all(key in one.measures for one in found)]
    measures = {key: _interval([one.measures[key] for one in found]) for key in keys}
    costs = {
        f"{change}/{metric}": _interval([_cost(one, change, metric) for one in found])
        for change in CHANGES
        for metric in METRICS
        if f"{change}/{metric}" in keys
    }
    over_seeds = Difference(*_against_nothing([one.measures["score/f1_micro"] for one in found])).parts is not None
    bits = {genre: _mean([one.information_bits[genre] for one in found]) for genre in first.genres}
    of = (first.split, first.modalities, first.genres, first.task, len(found), len(first.ids))
    return Combined(*of, measures, costs, over_seeds, bits)


def _mean(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of nested mappings of numbers; a number that one of them lacks is None."""
    nested = {key: [one[key] for one in found] for key in found[0] if all(key in one for one in found)}
    return {
        key: _mean(values)
        if isinstance(values[0], Mapping)
        else (float(np.mean(values)) if all(is_number(value) for value in values) else None)
        for key, values in nested.items()
    }


def _cost(of: Diagnosis, change: str, metric: str) -> Influence:
    """Return the score minus the score after a change."""
    before, after = of.measures[f"score/{metric}"], of.measures[f"{change}/{metric}"]
    return Influence(before.score - after.score, before.psi - after.psi)


def _against_nothing(runs: Sequence[Influence]) -> tuple[SplitScores, SplitScores]:
    """Return the runs, and zeros of the same shape, so that `Difference` does not limit a number to [0, 1]."""
    psi = np.stack([one.psi for one in runs]).astype(np.float64)
    return SplitScores(np.array([one.score for one in runs]), psi), SplitScores(np.zeros(len(psi)), np.zeros_like(psi))


def _interval(runs: Sequence[Influence]) -> Interval:
    """Return the mean with its interval over movies and seeds, or over movies alone with fewer than three runs."""
    difference = Difference(*_against_nothing(runs))
    return difference.interval_of_movies if difference.parts is None else difference.interval


def as_json(of: Diagnosis) -> dict[str, Any]:
    """Return the content of diagnosis.json. Intervals are over the movies, for this run alone."""

    def measured(key: str) -> dict[str, float | None] | None:
        return _interval([of.measures[key]])._asdict() if key in of.measures else None

    def by_metric(of_one: Any) -> dict[str, Any] | None:
        found = {metric: of_one(metric) for metric in METRICS}
        return None if None in found.values() else found

    def value(key: str) -> float | None:
        return of.measures[key].score if key in of.measures else None

    content: dict[str, Any] = {"split": of.split, "movies": len(of.ids), "task": of.task, **of.about}
    content["score"] = {metric: value(f"score/{metric}") for metric in METRICS}
    content["score_interval"] = {metric: measured(f"score/{metric}") for metric in METRICS}
    for change in CHANGES:
        there = f"{change}/{METRICS[0]}" in of.measures
        content[change] = by_metric(lambda metric, change=change: measured(f"{change}/{metric}"))
        content[f"{change}_difference"] = (
            {metric: _interval([_cost(of, change, metric)])._asdict() for metric in METRICS} if there else None
        )
    content["empty"] = {metric: value(f"empty/{metric}") for metric in METRICS}
    content["shapley"] = {m: {metric: value(f"shapley/{m}/{metric}") for metric in METRICS} for m in of.modalities}
    content["shapley_interval"] = {m: {metric: measured(f"shapley/{m}/{metric}") for metric in METRICS} for m in of.modalities}
    for word, get in (("shapley_by_genre", value), ("shapley_by_genre_interval", measured)):
        content[word] = {g: {m: get(f"shapley_by_genre/{m}/{g}") for m in of.modalities} for g in of.genres}
    content["information_bits"] = {genre: dict(bits) for genre, bits in of.information_bits.items()}
    content["information_mean"] = {
        **{word: measured(f"information/{word}") for word in INFORMATION},
        "unique": {m: measured(f"information/unique/{m}") for m in of.modalities},
    }
    return content


def _values(found: Mapping[str, Any]) -> dict[str, float]:
    """Return {key of `Diagnosis.measures`: value} of a diagnosis.json."""
    modalities = list(found["shapley"])
    values = {f"{word}/{metric}": found[word][metric] for word in ("score", "empty") for metric in METRICS}
    for change in CHANGES:
        if found[change] is not None:
            values |= {f"{change}/{metric}": found[change][metric]["mean"] for metric in METRICS}
    values |= {f"shapley/{m}/{metric}": found["shapley"][m][metric] for m in modalities for metric in METRICS}
    for genre, worth in found["shapley_by_genre"].items():
        values |= {f"shapley_by_genre/{m}/{genre}": value for m, value in worth.items() if value is not None}
    bits = found["information_mean"]
    values |= {f"information/{word}": bits[word]["mean"] for word in INFORMATION}
    return values | {f"information/unique/{m}": bits["unique"][m]["mean"] for m in modalities}
