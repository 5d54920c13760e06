"""The leaderboard of a page: measured settings with their intervals, and beside them what others published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from gmu_lightning.report.commands import command
from gmu_lightning.report.comparison import OTHERWISE, Comparison
from gmu_lightning.report.evidence import Evidence, said
from gmu_lightning.report.inference import Interval

RULES = ("f1_micro@val", "f1_micro@val_per_genre", "f1_macro@val", "f1_macro@val_per_genre")
FIRST = ("fusion", "modalities")  # columns
SCORES = ("f1_micro", "f1_macro", "f1_weighted", "f1_samples", "ap_micro", "ap_macro", *RULES)


class Row(NamedTuple):
    """A line of the leaderboard; what a published row lacks is None or empty."""

    names: Sequence[str]  # of what it is made of
    mean: float | None
    scores: Sequence[float | None]
    published: bool = False
    seeds: int | None = None
    interval: str = ""
    letters: str = ""
    parameters: float | None = None
    seconds: float | None = None
    command: str = ""  # trains it again
    remarks: str = ""  # warnings, or who published it

    @property
    def filter(self) -> dict[str, str]:
        """What the page filters by."""
        return dict(zip(FIRST, self.names, strict=False))


class Board(NamedTuple):
    """Rows, best first."""

    names: Sequence[str]
    scores: Sequence[str]
    rows: Sequence[Row]

    @property
    def published(self) -> bool:
        """Whether some are others'."""
        return any(row.published for row in self.rows)

    @property
    def filters(self) -> dict[str, list[str]]:
        """{`modalities` or `fusion`: what was measured}."""
        measured = [row.filter for row in self.rows if not row.published]
        return {key: list(dict.fromkeys(of[key] for of in measured)) for key in FIRST}


def board(comparison: Comparison, data_set: str) -> Board:
    """Of a comparison, and of what is known of its data set."""
    names = [*FIRST, *(key for key in comparison.settings[0].setting.values if key not in FIRST)]
    also = [score for score in SCORES if score != comparison.metric]
    rows = [_measured(one, comparison, names, also) for one in comparison.settings]
    rows += [_published(row, source, comparison.metric, names, also) for row, source in published_rows(data_set)]
    rows.sort(key=lambda row: -np.inf if row.mean is None else row.mean, reverse=True)
    return Board(names, [said(score) for score in also], rows)


def _measured(one: Evidence, comparison: Comparison, names: Sequence[str], also: Sequence[str]) -> Row:
    metrics = [run.metrics for run in one.setting.finished]
    seconds = [m["seconds/total"] for m in metrics if "seconds/total" in m]
    return Row(
        names=[one.setting.values.get(name) or "" for name in names],
        mean=one.scored(comparison.metric).mean,
        scores=[one.scored(score).mean for score in also],
        seeds=len(one.test),
        interval=ends(one.scored(comparison.metric).interval),
        letters=comparison.letters.get(one.name, ""),
        parameters=metrics[0].get("parameters/total"),
        seconds=float(np.mean(seconds)) if len(seconds) == len(metrics) else None,
        command=command(one.setting, [int(seed) for seed in one.setting.seeds]),
        remarks="; ".join([*_apart(one, comparison), *one.setting.warnings]),
    )


def _apart(one: Evidence, comparison: Comparison) -> list[str]:
    if one.tested_as(comparison.settings[0]):
        return []
    return [f"tested on {OTHERWISE} ({len(one.test[0].ids)} movies)"]


def _published(row: Mapping[str, Any], source: str, metric: str, names: Sequence[str], also: Sequence[str]) -> Row:
    return Row(
        names=[str(row.get(name, "")) for name in names],
        mean=row.get(metric),
        scores=[row.get(score) for score in also],
        published=True,
        remarks=source,
    )


def published_rows(data_set: str) -> list[tuple[dict[str, Any], str]]:
    """What others reported on a data set, each row with its source."""
    tables = yaml.safe_load((Path(__file__).parent / "published.yaml").read_text(encoding="utf-8"))
    return [(row, table["source"]) for table in tables if table["data"] == data_set for row in table["rows"]]


def ends(interval: Interval) -> str:
    """`[0.612, 0.634]`"""
    return "too few seeds or movies" if interval.low is None else f"[{interval.low:.3f}, {interval.high:.3f}]"
