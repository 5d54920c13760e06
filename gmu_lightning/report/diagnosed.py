"""The diagnoses of a comparison's settings: read and combined once, as rows of comparison.json and lines of comparison.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gmu_lightning.movie import UserError
from gmu_lightning.report.diagnosis import Combined, Diagnosis, combined
from gmu_lightning.report.diagnosis_sentences import basis, sentences
from gmu_lightning.report.scoring import ScoredSetting
from gmu_lightning.report.statistics import Interval
from gmu_lightning.run import Run


class Diagnosed(NamedTuple):
    """A setting with several modalities, and its diagnoses on test.

    Attributes:
        combined: the diagnoses of its runs together; None if no run has one, or for a `problem`.
        others: the finished runs without a diagnosis.
        problem: the reason for diagnoses that cannot be read or combined; None for sound ones.
    """

    one: ScoredSetting
    combined: Combined | None
    others: Sequence[Run]
    problem: str | None = None

    def sentences(self, metric: str) -> list[str]:
        """Return the findings, a sentence each without its full stop; [] without diagnoses."""
        return [] if self.combined is None else sentences(self.one.name, self.combined, metric)


def diagnoses_of(settings: Iterable[ScoredSetting]) -> list[Diagnosed]:
    """Return the diagnoses of the settings with several modalities, in their order."""
    return [_diagnosed(one) for one in settings if len(one.test[0].modalities) > 1]


def _diagnosed(one: ScoredSetting) -> Diagnosed:
    runs = one.setting.finished
    try:
        found = {run.folder: of for run in runs if (of := Diagnosis.of(run)) is not None}
        together = combined(list(found.values())) if found else None
    except UserError as reason:  # the setting's own scores do not depend on it
        return Diagnosed(one, None, list(runs), str(reason))
    return Diagnosed(one, together, [run for run in runs if run.folder not in found])


def diagnosis_rows(found: Iterable[Diagnosed], metric: str) -> list[dict[str, Any]]:
    """Return the entries of comparison.json, one for each setting with diagnoses. Intervals are {mean, low, high}."""
    return [_row(one, metric) for one in found if one.combined is not None or one.problem is not None]


def _row(found: Diagnosed, metric: str) -> dict[str, Any]:
    of = found.combined
    if of is None:
        return {"name": found.one.name, "problem": found.problem}

    def numbers(intervals: Mapping[str, Interval]) -> dict[str, Any]:
        return {key: interval._asdict() for key, interval in intervals.items()}

    return {
        "name": found.one.name,
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
            lines.append(f"- {one.one.name}: the diagnoses cannot be read, for {one.problem}.")
        if one.combined is not None and (words := one.sentences(metric)):
            lines += [f"- {sentence}." for sentence in words] + [f"  ({basis(one.combined)})"]
    return ["", "## Diagnoses", "", *lines] if lines else []
