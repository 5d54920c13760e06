"""The parts of a page: settings and their predictions -> tables and charts, with nothing left to compute for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gmu_lightning.report.calibration import BINS, calibration
from gmu_lightning.report.comparison import Comparison
from gmu_lightning.report.evidence import Evidence, said
from gmu_lightning.report.genres import co_occurrence, genre_scores
from gmu_lightning.report.page import svg
from gmu_lightning.run import Run

GENRE_SCORES = {
    "f1": "F1 of each genre at .5",
    "ap": "Average precision of each genre",
    "f1_tuned": "F1 of each genre at a threshold of its own, tuned on val",
    "threshold": "The threshold that val chose for each genre",
}
KINDS = 10  # colours of fusions


@dataclass(frozen=True)
class Heat:
    """A table whose cells are shaded by their share of the largest."""

    caption: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]

    @cached_property
    def _most(self) -> float:
        found = [v for row in self.rows for v in row["values"] if not np.isnan(v)]
        return max(found, default=1.0) or 1.0

    def share(self, value: float) -> float:
        """0 to 1."""
        return max(0.0, value / self._most)


def fusion_kinds(settings: Sequence[Evidence]) -> dict[str, str]:
    """A colour for each fusion, the same all over the page."""
    names = dict.fromkeys(str(e.setting.values["fusion"]) for e in settings)
    return {name: f"f{n % KINDS}" for n, name in enumerate(names)}


def interval_chart(comparison: Comparison) -> str:
    """Mean and interval of every setting that was tested alike, best first."""
    rows = []
    for one in comparison.alike:
        mean, low, high = one.scored(comparison.metric).interval
        letters = comparison.letters.get(one.name, "")
        rows.append(svg.Dot(f"{one.name}  {letters}".rstrip(), mean, low, high))
    best, metric = comparison.settings[0], said(comparison.metric)
    about = f"{metric} of {len(rows)} settings; the best is {best.name} with {best.scored(comparison.metric).mean:.3f}"
    return svg.dots(rows, about, metric)


def curve_charts(settings: Sequence[Evidence], kinds: Mapping[str, str]) -> list[dict[str, str]]:
    """Per choice of modalities the val AP and the training loss of every fusion by epoch, means over seeds."""
    charts = []
    for modalities, group in by_modalities(settings).items():
        for column, words in (("val/ap_micro", "val micro AP"), ("train/loss", "training loss")):
            curves = [curve for one in group if (curve := _curve(one, column, kinds))]
            if curves:
                about = f"{words} of {len(curves)} settings on {modalities} by epoch"
                drawn = svg.lines(curves, about, "epoch", words)
                charts.append({"svg": drawn, "caption": f"{words}, {modalities}, a mean over seeds"})
    return charts


def by_modalities(settings: Sequence[Evidence]) -> dict[str, list[Evidence]]:
    """Settings by what they read."""
    found: dict[str, list[Evidence]] = {}
    for one in settings:
        found.setdefault(str(one.setting.values["modalities"]), []).append(one)
    return found


def _curve(one: Evidence, column: str, kinds: Mapping[str, str]) -> svg.Line | None:
    by_epoch: dict[int, list[float]] = {}
    for run in one.setting.finished:
        for row in run.history:
            if row.get(column):
                by_epoch.setdefault(int(row["epoch"]), []).append(float(row[column]))
    seeds = len(by_epoch.get(0, []))
    epochs = [epoch for epoch in sorted(by_epoch) if len(by_epoch[epoch]) == seeds]  # beyond, others' seeds would be compared
    if not epochs:
        return None
    return svg.Line(one.name, epochs, [float(np.mean(by_epoch[e])) for e in epochs], kinds[str(one.setting.values["fusion"])])


def genre_tables(settings: Sequence[Evidence]) -> list[Heat]:
    """Scores and thresholds of every genre and setting, means over seeds; the genres with most movies first."""
    found = {one.name: genre_scores(one.test, one.val) for one in settings}
    first = next(iter(found.values()))
    order = np.argsort(-first.support, kind="stable")
    columns = [f"{first.genres[c]} ({first.support[c]})" for c in order]
    return [
        Heat(
            f"{words}, a mean over seeds; in brackets the test movies that have the genre",
            "setting",
            columns,
            [{"name": name, "values": [float(getattr(one, score)[c]) for c in order]} for name, one in found.items()],
        )
        for score, words in GENRE_SCORES.items()
    ]


def distribution(run: Run) -> Heat:
    """How many movies of each split have each genre, from the run's audit."""
    counts = run.audit.get("genres") or {}
    totals = run.audit.get("movies") or {}
    genres = list(next(iter(counts.values()), {}))
    rows = [
        {"name": f"{split} ({totals.get(split, 0)})", "values": [of.get(g, 0) / max(1, totals.get(split, 1)) for g in genres]}
        for split, of in counts.items()
    ]
    return Heat("Share of each split's movies that have a genre", "split", genres, rows)


def confusion(best: Evidence) -> dict[str, Any]:
    """Which genres the best setting takes for each other, and the pair it does most."""
    found = co_occurrence(best.test)
    excess = np.where(np.eye(len(found.genres), dtype=bool), -np.inf, np.nan_to_num(found.predicted - found.true, nan=-np.inf))
    i, j = np.unravel_index(int(excess.argmax()), excess.shape)

    def heat(values: np.ndarray, caption: str) -> Heat:
        rows = [{"name": g, "values": [float(v) for v in values[c]]} for c, g in enumerate(found.genres)]
        return Heat(caption, "movies that have", found.genres, rows)

    row, column, movies = found.genres[i], found.genres[j], best.test[0].labels[:, i].sum()
    about = f"Of {best.name}. No genre is predicted more often beside another than it truly stands there."
    if excess[i, j] > 0:
        about = (
            f"Of {best.name}. Of the {movies} test movies that are {row}, {found.true[i, j]:.0%} are {column} too, and "
            f"{found.predicted[i, j]:.0%} are predicted to be: the largest excess of all pairs."
        )
    return {
        "about": about,
        "predicted": heat(found.predicted, "Share of the movies with the row's genre for which the column's is predicted"),
        "true": heat(found.true, "Share of the movies with the row's genre that truly have the column's"),
    }


def reliability_section(settings: Sequence[Evidence], kinds: Mapping[str, str]) -> dict[str, Any]:
    """Reliability curves per choice of modalities (each setting's first seed), and the errors, means over seeds."""
    found = {one.name: [calibration(v, t) for v, t in zip(one.val, one.test, strict=True)] for one in settings}
    charts = []
    for modalities, group in by_modalities(settings).items():
        curves = []
        for one in group:
            before = found[one.name][0].before
            curves.append(
                svg.Line(one.name, before.said.tolist(), before.true.tolist(), kinds[str(one.setting.values["fusion"])])
            )
        drawn = svg.lines(
            curves,
            f"reliability of {len(curves)} settings on {modalities}",
            "probability",
            "share true",
            bounds=(0.0, 1.0),
            diagonal=True,
        )
        charts.append(
            {"svg": drawn, "caption": f"{modalities}: share of decisions that are true, by the probability said; the first seed"}
        )
    rows = [
        {
            "name": name,
            "before": float(np.mean([c.before.error for c in each])),
            "after": float(np.mean([c.after.error for c in each])),
            "temperature": float(np.mean([c.temperature for c in each])),
        }
        for name, each in found.items()
    ]
    return {"charts": charts, "rows": rows, "bins": BINS}
