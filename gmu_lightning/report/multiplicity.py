"""Correct for the number of comparisons, and show which settings are tied."""

from __future__ import annotations

from collections.abc import Sequence

from gmu_lightning.report.statistics import ALPHA


def holm(p: Sequence[float | None]) -> tuple[list[float | None], list[float]]:
    """Return step-down adjusted p and significance levels, both in the order of `p` (Holm 1979).

    None marks a missing comparison: its adjusted p is None, and its level is `ALPHA`.
    """
    known = sorted((value, n) for n, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    levels = [ALPHA] * len(p)
    highest = 0.0
    for rank, (value, n) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * value))
        adjusted[n], levels[n] = highest, ALPHA / (len(known) - rank)
    return adjusted, levels


def letters(names: Sequence[str], different: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return {name: letters}, the compact letter display: ties share a letter (Piepho 2004, insert and absorb).

    Args:
        names: best first; letters run from a in that order.
        different: significantly different pairs.
    """
    groups: list[frozenset[str]] = [frozenset(names)]
    for a, b in different:
        split = [part for group in groups for part in ((group - {a}, group - {b}) if {a, b} <= group else (group,))]
        groups = [g for n, g in enumerate(split) if not any(g < other or (g == other and m < n) for m, other in enumerate(split))]
    groups.sort(key=lambda group: sorted(names.index(name) for name in group))
    alphabet = [chr(ord("a") + n) if n < 26 else f"({n + 1})" for n in range(len(groups))]
    return {name: "".join(x for x, group in zip(alphabet, groups, strict=True) if name in group) for name in names}
