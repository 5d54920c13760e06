"""The page's sections on scores: settings and their predictions become tables and charts, ready for the template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gmu_lightning.decisions import cross_entropy, probabilities_of
from gmu_lightning.metrics import ratio, scores, tune_per_genre
from gmu_lightning.report.comparison import Comparison
from gmu_lightning.report.page import svg
from gmu_lightning.report.scoring import ScoredSetting, metric_label
from gmu_lightning.report.settings import ALWAYS
from gmu_lightning.run import Predictions, Run

GENRE_SCORES = {
    "multilabel": {
        "f1": "F1 at the threshold .5",
        "ap": "Average precision",
        "f1_tuned": "F1 at one threshold per genre, tuned on val",
        "threshold": "Threshold per genre, tuned on val",
    },
    "multiclass": {"f1": "F1 of the most probable label", "ap": "Average precision, each label against all others"},
}
CURVES = {"val/ap_micro": "val micro AP", "train/loss": "training loss"}
KINDS = 10  # colours of fusions
DRAWN = 20  # best settings in the summary's chart
MOST_LABELS = 30  # of the confusion matrix
BINS = 10  # of a reliability curve


def heat(caption: str, corner: str, columns: Sequence[str], rows: Iterable[tuple[str, Iterable[float]]]) -> dict[str, Any]:
    """Return a table with cells shaded by their share of the largest value, `most`.

    `most` is 1 if no value is known or the largest is 0.
    """
    filled: list[dict[str, Any]] = [{"name": name, "values": [float(value) for value in values]} for name, values in rows]
    known = [value for row in filled for value in row["values"] if not np.isnan(value)]
    return {"caption": caption, "corner": corner, "columns": columns, "rows": filled, "most": max(known, default=1.0) or 1.0}


def fusion_kinds(settings: Sequence[ScoredSetting]) -> dict[str, str]:
    """Return the CSS class of each fusion's colour, the same in all charts. Colours repeat after ten fusions."""
    names = dict.fromkeys(e.fusion for e in settings)
    return {name: f"f{n % KINDS}" for n, name in enumerate(names)}


def interval_charts(comparison: Comparison) -> list[str]:
    """Draw mean and interval of every setting in `alike`, best first: the first `DRAWN` settings, and a chart of all others."""
    metric, letters, rows = metric_label(comparison.metric), comparison.letters, []
    best = comparison.alike[0].name
    for one in comparison.alike:
        ties = letters.get(one.name, "")
        kind = "lead" if one.name == best or set(ties) & set(letters.get(best, "")) else ""
        rows.append(svg.Dot(one.name, *one.scored(comparison.metric).interval, note=ties, kind=kind))
    parts = [part for part in (rows[:DRAWN], rows[DRAWN:]) if part]
    return [svg.dots(part, f"{metric} of {len(part)} settings, the best first", metric, rows) for part in parts]


def curve_charts(settings: Sequence[ScoredSetting], kinds: Mapping[str, str]) -> list[dict[str, str]]:
    """Draw one chart of val AP and one of training loss for each choice of modalities.

    Each curve is a mean over seeds, at the epochs that all reached.
    """
    charts = []
    for modalities, group in _by_modalities(settings).items():
        names = _short_names(group)
        for column, label in CURVES.items():
            means = {one.name: found for one in group if (found := _mean_curve(one, column))}
            curves = [
                svg.Line(one.name, list(means[one.name]), list(means[one.name].values()), kinds[one.fusion], names[one.name])
                for one in group
                if one.name in means
            ]
            if curves:
                drawn = svg.lines(curves, f"{label} of {len(curves)} settings on {modalities} by epoch", "epoch", label)
                charts.append({"svg": drawn, "caption": f"{label}, {modalities}, mean over seeds"})
    return charts


def _short_names(group: Sequence[ScoredSetting]) -> dict[str, str]:
    """Return {setting: its fusion, with the values of other keys if several settings have the fusion}."""
    counts = Counter(one.fusion for one in group)
    others = {one.name: [str(v) for k, v in one.setting.values.items() if k not in ALWAYS and v is not None] for one in group}
    return {one.name: " ".join([one.fusion, *(others[one.name] if counts[one.fusion] > 1 else [])]) for one in group}


def _by_modalities(settings: Sequence[ScoredSetting]) -> dict[str, list[ScoredSetting]]:
    """Return the settings of each choice of modalities."""
    found: dict[str, list[ScoredSetting]] = {}
    for one in settings:
        found.setdefault(str(one.setting.values["modalities"]), []).append(one)
    return found


def _mean_curve(one: ScoredSetting, column: str) -> dict[int, float]:
    """Return {epoch: mean over seeds} of a column of the history, for the epochs that all seeds reached."""
    by_epoch: dict[int, list[float]] = {}
    for row in (row for run in one.setting.finished for row in run.history if row.get(column)):
        by_epoch.setdefault(int(row["epoch"]), []).append(float(row[column]))
    seeds = len(by_epoch.get(0, []))  # later epochs may lack a seed, so their mean would be of other seeds
    return {epoch: float(np.mean(by_epoch[epoch])) for epoch in sorted(by_epoch) if len(by_epoch[epoch]) == seeds}


def genre_tables(settings: Sequence[ScoredSetting]) -> list[dict[str, Any]]:
    """Return one table per score and one of thresholds, as means over seeds; genres with most test movies come first.

    All settings have the same genres.
    """
    found = {one.name: _genre_scores(one) for one in settings}
    genres, support = settings[0].test[0].genres, settings[0].test[0].labels.sum(axis=0)
    order = np.argsort(-support, kind="stable")
    columns = [f"{genres[c]} ({support[c]})" for c in order]
    about = "mean over seeds; in brackets the number of test movies with the genre"
    return [
        heat(f"{words}, {about}", "setting", columns, [(name, of[score][order]) for name, of in found.items()])
        for score, words in GENRE_SCORES[settings[0].task].items()
    ]


def _genre_scores(one: ScoredSetting) -> dict[str, np.ndarray]:
    """Return {entry of `GENRE_SCORES`: (C,) means over seeds}; the AP of a genre without test movies is nan."""
    plain = [scores(p.labels, p.probabilities, p.genres, task=p.task) for p in one.test]

    def each(of: Sequence[Mapping[str, float]], score: str) -> np.ndarray:
        return np.mean([[found.get(f"{score}/{g}", np.nan) for g in one.test[0].genres] for found in of], axis=0)

    found = {"f1": each(plain, "f1"), "ap": each(plain, "ap")}
    if one.task == "multiclass":
        return found
    thresholds = [tune_per_genre(p.labels, p.probabilities) for p in one.val]
    tuned = [scores(p.labels, p.probabilities, p.genres, at) for p, at in zip(one.test, thresholds, strict=True)]
    return {**found, "f1_tuned": each(tuned, "f1"), "threshold": np.mean(thresholds, axis=0)}


def distribution(run: Run) -> dict[str, Any]:
    """Return the share of each split's movies that have each genre, from the run's audit."""
    counts, totals = run.audit.get("genres") or {}, run.audit.get("movies") or {}
    genres = list(next(iter(counts.values()), {}))
    rows = [
        (f"{split} ({totals.get(split, 0)})", [of.get(g, 0) / max(1, totals.get(split, 1)) for g in genres])
        for split, of in counts.items()
    ]
    return heat("Share of movies with each genre, by split", "split", genres, rows)


def cooccurrence(best: ScoredSetting) -> dict[str, Any]:
    """Return two tables, `predicted` and `true`, and a sentence `about` the best setting's largest confusion.

    Row i holds shares of the test movies of genre i: those with genre j, and those with genre j predicted at .5, over all seeds.
    """
    genres, labels = best.test[0].genres, best.test[0].labels.astype(float)
    counts = labels.sum(axis=0)[:, None]
    with np.errstate(invalid="ignore"):
        truly = labels.T @ labels / counts
        named = np.mean([labels.T @ p.decisions for p in best.test], axis=0) / counts
    excess = np.where(np.eye(len(genres), dtype=bool), -np.inf, np.nan_to_num(named - truly, nan=-np.inf))
    i, j = np.unravel_index(int(excess.argmax()), excess.shape)
    about = f"For {best.name}, every genre is predicted together with another at most as often as the labels have both."
    if excess[i, j] > 0:
        about = (
            f"The largest excess for {best.name}: {truly[i, j]:.0%} of the {counts[i, 0]:.0f} test movies of {genres[i]} "
            f"are also {genres[j]}, and the model predicts {genres[j]} for {named[i, j]:.0%} of them."
        )
    predicted = "Predicted: share of the movies with the row's genre for which the column's genre is predicted"
    true = "True: share of the movies with the row's genre that also have the column's genre"
    heats = {
        name: heat(caption, "movies that have", genres, zip(genres, values, strict=True))
        for name, caption, values in (("predicted", predicted, named), ("true", true, truly))
    }
    return {"about": about, **heats}


def confusion_matrix(best: ScoredSetting) -> dict[str, Any]:
    """Return `columns` and `rows` of the best setting's confusion matrix, its `caption`, and a sentence `about` it.

    The cell of row i and column j counts the test movies of label i for which j is predicted, summed over seeds. Its `share` is
    the part of row i. Labels with most test movies come first. Labels after the first `MOST_LABELS` are left out.
    """
    names, seeds = best.test[0].genres, len(best.test)
    counts = np.sum([p.labels.astype(int).T @ p.decisions for p in best.test], axis=0)
    totals = counts.sum(axis=1)
    shares = ratio(counts, np.broadcast_to(totals[:, None], counts.shape))
    order = np.argsort(-totals, kind="stable")[:MOST_LABELS]
    rows = [
        {
            "name": f"{names[i]} ({totals[i]})",
            "cells": [{"count": int(counts[i, j]), "share": float(shares[i, j]), "right": bool(i == j)} for j in order],
        }
        for i in order
    ]
    missed = np.where(np.eye(len(names), dtype=bool), 0, counts)
    i, j = np.unravel_index(int(missed.argmax()), missed.shape)
    about = f"{best.name} predicts the right label for every test movie."
    if missed[i, j]:
        share = f"{100 * shares[i, j]:.0f} %"
        about = f"The most frequent error of {best.name}: it predicts {names[j]} for {share} of the movies of {names[i]}."
    if len(names) > MOST_LABELS:
        about += f" The table shows the {MOST_LABELS} labels with most test movies, of {len(names)}."
    summed = "" if seeds == 1 else f", summed over {seeds} seeds"
    caption = f"Rows: true label. Columns: predicted label. Cells: number of test movies{summed}, and its share of the row's."
    return {"columns": [names[j] for j in order], "rows": rows, "caption": caption, "about": about}


def reliability_section(settings: Sequence[ScoredSetting], kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return reliability curves of each setting's first seed, and calibration errors as means over seeds."""
    found = {one.name: [calibration(v, t) for v, t in zip(one.val, one.test, strict=True)] for one in settings}
    charts = []
    for modalities, group in _by_modalities(settings).items():
        first = [(one, found[one.name][0].before) for one in group]
        curves = [svg.Line(one.name, of.mean.tolist(), of.true.tolist(), kinds[one.fusion]) for one, of in first]
        about = f"reliability diagram of {len(curves)} settings on {modalities}"
        drawn = svg.lines(curves, about, "predicted probability", "share of positives", square=True)
        charts.append({"svg": drawn, "caption": f"Reliability diagram, {modalities}, first seed"})
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


class Reliability(NamedTuple):
    """Decisions (one per movie and genre) grouped into K bins by their probability; empty bins are left out."""

    mean: np.ndarray  # (K,) mean probability
    true: np.ndarray  # (K,) share of true decisions
    error: float  # expected calibration error: mean |mean - true|, weighted by the bins' sizes (Naeini et al. 2015)


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> Reliability:
    """Return the reliability curve of labels and probabilities, both (N, C), over bins of equal width."""
    place = np.minimum((probabilities.ravel() * BINS).astype(int), BINS - 1)
    count = np.bincount(place, minlength=BINS)
    some = count > 0
    mean = np.bincount(place, probabilities.ravel(), BINS)[some] / count[some]
    true = np.bincount(place, labels.ravel().astype(float), BINS)[some] / count[some]
    return Reliability(mean, true, float(np.abs(mean - true) @ count[some] / count.sum()))


def temperature(val: Predictions) -> float:
    """Return the T between 0.05 and 20 that minimises the cross-entropy of logits / T on val.

    Guo et al. 2017, arXiv 1706.04599.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_t: float) -> float:
        return cross_entropy(val.logits / np.exp(log_t), val.labels, val.task)

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-4}).x))


class Calibration(NamedTuple):
    """Reliability of a run's test probabilities, before and after dividing logits by the temperature."""

    before: Reliability
    after: Reliability
    temperature: float


def calibration(val: Predictions, test: Predictions) -> Calibration:
    """Return the calibration of one run; val sets the temperature."""
    t = temperature(val)
    scaled = probabilities_of(test.logits / t, test.task)
    return Calibration(reliability(test.labels, test.probabilities), reliability(test.labels, scaled), t)
