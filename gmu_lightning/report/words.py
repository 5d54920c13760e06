"""Counts, differences and intervals in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gmu_lightning.report.statistics import Interval


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, such as `1 seed` or `3 more seeds`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def points(interval: Interval, of: str = "") -> str:
    """Return an interval in points, such as `5.6 points of micro F1 [3.9, 7.2]`, without brackets if its ends are unknown.

    `of` follows the word points, with its space.
    """
    mean, *bounds = (None if value is None else f"{round(100 * value, 1) + 0.0:.1f}" for value in interval)  # + 0.0: no -0.0
    return f"{mean} points{of}" + (f" [{bounds[0]}, {bounds[1]}]" if bounds[0] is not None else "")


def ends(interval: Interval) -> str:
    """Return an interval's ends, such as `[0.612, 0.634]`, or `too few seeds or movies`."""
    return "too few seeds or movies" if interval.low is None else f"[{interval.low:.3f}, {interval.high:.3f}]"


def split_in_words(config: Mapping[str, Any]) -> str:
    """Return the split of a run's data, such as `published` or `random, seed 3`."""
    data = config.get("data") or {}
    split = str(data.get("split") or "published")
    if split in ("published", "column"):
        return split
    seed = data.get("split_seed")
    return f"{split}, seed {data.get('seed') if seed is None else seed}"
