"""The page's sections on several splits, and on amounts of data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from gmu_lightning.report.caveats import listed
from gmu_lightning.report.comparison import LEAST, Comparison, Pair
from gmu_lightning.report.curves import Curve, is_logarithmic, label
from gmu_lightning.report.page import svg
from gmu_lightning.report.scoring import ScoredSetting, metric_label
from gmu_lightning.report.split_sentences import single_splits
from gmu_lightning.report.words import counted

DRAWN = 4  # pairs with a chart of their splits
KINDS = 10  # colours of curves


def on_one_split(comparison: Comparison) -> list[ScoredSetting]:
    """Return the settings in `alike` with the runs of one split: the first split of the best setting.

    Without several splits, return them unchanged.
    """
    if not comparison.splits:
        return list(comparison.alike)
    return [part for one in comparison.alike if (part := one.on(comparison.splits[0]))]


def split_section(comparison: Comparison) -> dict[str, Any]:
    """Return `splits`, the section on several splits; None without several."""
    names = comparison.splits
    if not names:
        return {"splits": None}
    rows = []
    for one in comparison.alike:
        own = {name: part.scored(comparison.metric).mean for name in names if (part := one.on(name))}
        rows.append({"name": one.name, "values": [own.get(name) for name in names]})
    over = [pair for pair in comparison.pairs if pair.by_split]
    claimed, only = [pair for pair in over if pair.claimed], [pair for pair in over if pair.on_single_splits]
    about = f"Each setting was trained on {len(names)} splits: {listed(names)}. "
    about += f"Significant over all splits: {len(claimed)} of {counted(len(over), 'difference')}. "
    about += f"Significant on single splits only: {len(only)}."
    below = (
        "Splits share movies, so the variance between them is corrected (Nadeau & Bengio 2003). A difference is paired by split. "
        f"All sections below show the runs of one split, {names[0]}."
    )
    charts = [_pair_chart(pair) for pair in sorted(over, key=lambda pair: not pair.on_single_splits)[:DRAWN]]
    single = single_splits(comparison) if only else []
    return {"splits": {"about": about, "single": single, "charts": charts, "columns": names, "rows": rows, "below": below}}


def _pair_chart(pair: Pair) -> dict[str, str]:
    """Draw the difference of a pair on each split and over all of them, in points."""
    rows = [("over all splits", pair.difference.interval, "lead" if pair.claimed else "")]
    rows += [(name, one.difference.interval, "lead" if one.claimed else "") for name, one in pair.by_split.items()]
    scaled = []
    for name, (mean, low, high), kind in rows:
        ends = [None if end is None else _points(end) for end in (low, high)]
        scaled.append(svg.Dot(name, _points(mean), ends[0], ends[1], kind=kind))
    title = f"{pair.a.name} minus {pair.b.name}"
    caption = f"{title}, points of {metric_label(pair.metric)} with 95 % intervals. Filled: significant."
    return {"svg": svg.dots(scaled, f"{title} by split", "points", digits=1), "caption": caption}


def _points(value: float) -> float:
    """Return a fraction in points, without a negative zero among the printed digits."""
    return round(100 * value, 2) if abs(value) >= LEAST else 0.0


def data_curves(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a chart and a table of the curves of each option."""
    return [_option(option, list(curves), comparison.metric) for option, curves in groupby(comparison.curves, lambda c: c.option)]


def _option(option: str, curves: Sequence[Curve], metric: str) -> dict[str, Any]:
    values = sorted({point.value for curve in curves for point in curve.points})
    lines, rows = [], []
    for n, curve in enumerate(curves):
        found = {point.value: interval for point, interval in zip(curve.points, curve.intervals(metric), strict=True)}
        lines.append(svg.Estimates(curve.name, list(found), list(found.values()), f"f{n % KINDS}"))
        rows.append({"name": curve.name, "cells": [found.get(value) for value in values]})
    words = label(option)
    score = metric_label(metric)
    drawn = svg.estimates(lines, f"{score} of {counted(len(curves), 'setting')} by {words}", words, score, is_logarithmic(values))
    return {
        "title": f"Score by {words}",
        "option": option,
        "charts": [{"svg": drawn, "caption": f"{score} by {words}, with 95 % intervals"}],
        "columns": [f"{value:g}" for value in values],
        "rows": rows,
    }
