"""The diagnoses of a comparison's settings: read and combined once, as rows of comparison.json and lines of comparison.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gmu_lightning.movie import UserError
from gmu_lightning.report.diagnosis import Combined, Diagnosis, combined
from gmu_lightning.report.diagnosis_sentences import basis, sentences
from gmu_lightning.report.scoring import ScoredSetting
from gmu_lightning.report.splits import split_of
from gmu_lightning.report.statistics import Interval
from gmu_lightning.run import Run


class Diagnosed(NamedTuple):
    """The diagnoses of a setting with several modalities, on the test movies of one split.

    Attributes:
        name: of the setting, with the split if its diagnoses are of several ones.
        combined: the diagnoses of its runs together; None if no run has one, or for a `problem`.
        movies: {genre: number of these movies}.
        runs: number of the setting's finished runs on the split.
        others: the setting's finished runs without a diagnosis, in the first entry of a setting.
        problem: the reason for diagnoses that cannot be read or combined; None for sound ones.
    """

    one: ScoredSetting
    name: str
    combined: Combined | None
    movies: Mapping[str, int]
    runs: int
    others: Sequence[Run]
    problem: str | None = None

    def sentences(self, metric: str) -> list[str]:
        """Return the findings, a sentence each without its full stop; [] without diagnoses."""
        return [] if self.combined is None else sentences(self.name, self.combined, metric)


def diagnoses_of(settings: Iterable[ScoredSetting]) -> list[Diagnosed]:
    """Return the diagnoses of the trained settings with several modalities, in their order."""
    several = [one for one in settings if len(one.test[0].modalities) > 1 and not one.setting.is_adopted]
    return [found for one in several for found in _diagnosed(one)]


def _diagnosed(one: ScoredSetting) -> list[Diagnosed]:
    runs = one.setting.finished
    splits = {run.folder: split_of(config) for run, config in zip(runs, one.setting.of_finished, strict=True)}
    together: dict[str, list[Diagnosis]] = {}
    try:
        found = {run.folder: of for run in runs if (of := Diagnosis.of(run)) is not None}
        for folder, of in found.items():
            together.setdefault(splits[folder], []).append(of)
        each = {split: combined(of_split) for split, of_split in together.items()}
    except UserError as reason:  # the setting's own scores do not depend on it
        return [Diagnosed(one, one.name, None, {}, len(runs), list(runs), str(reason))]
    others = [run for run in runs if run.folder not in found]
    if not each:
        return [Diagnosed(one, one.name, None, {}, len(runs), others)]
    rows: list[Diagnosed] = []
    for split, whole in each.items():
        test = next(run for run in runs if splits[run.folder] == split).predictions("test")
        movies = dict(zip(test.genres, test.labels.sum(axis=0).tolist(), strict=True))
        name = f"{one.name} ({split})" if len(set(splits.values())) > 1 else one.name
        rows.append(Diagnosed(one, name, whole, movies, list(splits.values()).count(split), [] if rows else others))
    return rows


def diagnosis_rows(found: Iterable[Diagnosed], metric: str) -> list[dict[str, Any]]:
    """Return the entries of comparison.json, one for each setting with diagnoses. Intervals are {mean, low, high}."""
    return [_row(one, metric) for one in found if one.combined is not None or one.problem is not None]


def _row(found: Diagnosed, metric: str) -> dict[str, Any]:
    of = found.combined
    if of is None:
        return {"name": found.name, "problem": found.problem}

    def numbers(intervals: Mapping[str, Interval]) -> dict[str, Any]:
        return {key: interval._asdict() for key, interval in intervals.items()}

    return {
        "name": found.name,
        "problem": None,
        "runs": of.runs,
        "movies": of.movies,
        "over_seeds": of.over_seeds,
        "costs": numbers(of.costs),
        "measures": numbers(of.measures),
        "information_bits": dict(of.information_bits),
        "sentences": found.sentences(metric),
    }


def diagnosis_lines(found: Iterable[Diagnosed], metric: str) -> list[str]:
    """Return the section of comparison.md; [] without diagnoses."""
    lines = []
    for one in found:
        if one.problem is not None:
            lines.append(f"- {one.name}: the diagnoses cannot be read, for {one.problem}.")
        if one.combined is not None and (words := one.sentences(metric)):
            lines += [f"- {sentence}." for sentence in words] + [f"  ({basis(one.combined)})"]
    return ["", "## Diagnoses", "", *lines] if lines else []
