"""Any set of runs -> which settings are better, which cannot be told apart, and what would tell: comparison.json and .md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from gmu_lightning.files import write_json, write_text
from gmu_lightning.movie import UserError
from gmu_lightning.report.evidence import Evidence, checked_metric, said, same, why_not
from gmu_lightning.report.inference import LEVEL, Difference, Resampled, holm, letters, resampled
from gmu_lightning.report.settings import Setting, settings_of
from gmu_lightning.report.verdicts import ALPHA, Pair, beside
from gmu_lightning.run import Run, runs_under


@dataclass(frozen=True)
class Comparison:
    """Settings by falling mean, every pair of them that may be compared, and why others may not.

    Attributes:
        letters: {name: letters}; settings that share one cannot be told apart. Empty where not every pair may be compared.
        unscored: settings without a finished run.
    """

    metric: str
    settings: Sequence[Evidence]
    pairs: Sequence[Pair]
    refused: Sequence[dict[str, str]]
    letters: dict[str, str]
    unscored: Sequence[Setting]

    def as_json(self) -> dict[str, Any]:
        """comparison.json."""
        return {
            "metric": self.metric,
            "movies": len(self.settings[0].test[0].ids),
            "level": LEVEL,
            "settings": [self._setting(one) for one in self.settings],
            "pairs": [pair.row() for pair in self.pairs],
            "refused": list(self.refused),
            "without_scores": [{"name": one.name, "warnings": one.warnings} for one in self.unscored],
        }

    def _setting(self, one: Evidence) -> dict[str, Any]:
        interval = one.scored(self.metric).interval
        return {
            "name": one.name,
            "seeds": len(one.test),
            "mean": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "sd": float(one.scored(self.metric).scores.std(ddof=1)) if len(one.test) > 1 else None,
            "val": one.scored(self.metric, "val").mean,
            "letters": self.letters.get(one.name),
            "warnings": one.setting.warnings,
            "setting": one.setting.key,
        }


def runs_in(folders: Iterable[Path]) -> list[Run]:
    """The runs that these folders are or hold. Raises UserError where one is and holds none."""
    found: list[Run] = []
    for folder in folders:
        if not folder.exists() or folder == Path():
            raise UserError(f"runs={'' if folder == Path() else folder} does not exist: give the folder of a run or a sweep")
        here = [Run(folder)] if (folder / "config.yaml").exists() else runs_under(folder)
        runs = [run for run in here if (run / "config.yaml").exists()]
        if not runs:
            sweeps = ", ".join(run.folder.name for run in here[:3])
            of = f"it holds sweeps ({sweeps}): give one of them" if sweeps else "give the folder of a run or a sweep"
            raise UserError(f"{folder} holds no run: {of}, or several with commas")
        found += runs
    return found


def compare(runs: Iterable[Run], metric: str = "f1_micro") -> Comparison:
    """Compare all settings of these runs on their test movies.

    Raises:
        UserError: the metric is none, or no run finished.
    """
    checked_metric(metric)
    settings = settings_of(runs)
    scored = [Evidence.of(one) for one in settings if one.finished]
    if not scored:
        raise UserError("none of these runs finished: there is nothing to compare")
    refused = [{"a": e.name, "b": e.name, "why": why} for e in scored if (why := e.split_within)]
    apart = {row["a"] for row in refused}
    sound = sorted((e for e in scored if e.name not in apart), key=lambda e: -e.scored(metric).mean)
    if not sound:
        raise UserError(f"nothing can be compared: {refused[0]['a']}: {refused[0]['why']}")
    both: list[tuple[Evidence, Evidence]] = []
    for a, b in combinations(sound, 2):
        if why := why_not(a, b):
            refused.append({"a": a.name, "b": b.name, "why": why})
        else:
            both.append((a, b))
    pairs = _pairs(metric, both)
    told_apart = [(pair.a.name, pair.b.name) for pair in pairs if pair.claimed]
    complete = len(pairs) == len(sound) * (len(sound) - 1) // 2
    found = letters([e.name for e in sound], told_apart) if complete else {}
    return Comparison(metric, sound, pairs, refused, found, [one for one in settings if not one.finished])


def _pairs(metric: str, both: Sequence[tuple[Evidence, Evidence]]) -> list[Pair]:
    differences = [Difference(a.scored(metric), b.scored(metric)) for a, b in both]
    alike = [same(a, b) for a, b in both]
    first = _first(both, alike)
    # What is one result is one comparison, however many rows it has.
    p = [difference.p if first[n] == n else None for n, difference in enumerate(differences)]
    adjusted, levels = holm(p), _levels(p)
    tests = _resampled(differences)
    return [
        Pair(
            metric,
            a,
            b,
            differences[n],
            1.0 if alike[n] else adjusted[first[n]],
            tests[n],
            {other: Difference(a.scored(other), b.scored(other)) for other in beside(metric)},
            Difference(a.scored(metric, "val"), b.scored(metric, "val")),
            alike[n],
            differences[n].seeds_needed(alpha=levels[first[n]]),
        )
        for n, (a, b) in enumerate(both)
    ]


def _first(both: Sequence[tuple[Evidence, Evidence]], alike: Sequence[bool]) -> list[int]:
    """Of each pair the first that is the same comparison; -1 of a pair that is none, being one result."""
    stands_for: dict[str, str] = {}
    for (a, b), one in zip(both, alike, strict=True):
        if one:
            stands_for.setdefault(b.name, stands_for.get(a.name, a.name))
    seen: dict[frozenset[str], int] = {}
    found = []
    for n, (a, b) in enumerate(both):
        key = frozenset({stands_for.get(a.name, a.name), stands_for.get(b.name, b.name)})
        found.append(-1 if len(key) == 1 else seen.setdefault(key, n))
    return found


def _resampled(differences: Sequence[Difference]) -> list[Resampled]:
    """Of pairs that need not all be on the same movies."""
    found: dict[int, Resampled] = {}
    counts = [difference.a.influence.shape[1] for difference in differences]
    for count in set(counts):
        of_these = [n for n, other in enumerate(counts) if other == count]
        found |= dict(zip(of_these, resampled([differences[n] for n in of_these]), strict=True))
    return [found[n] for n in range(len(differences))]


def _levels(p: Sequence[float | None]) -> list[float]:
    """What each p has to stay below in Holm's order, the smaller ones having done so."""
    known = sorted((value, n) for n, value in enumerate(p) if value is not None)
    levels = [ALPHA] * len(p)
    for rank, (_, n) in enumerate(known):
        levels[n] = ALPHA / (len(known) - rank)
    return levels


def write(comparison: Comparison, folder: Path) -> None:
    """comparison.json and comparison.md."""
    write_json(folder / "comparison.json", comparison.as_json())
    write_text(folder / "comparison.md", markdown(comparison))


def markdown(comparison: Comparison) -> str:
    """For reading."""
    found = comparison.as_json()
    lines = [
        f"# {said(comparison.metric)[0].upper()}{said(comparison.metric)[1:]} on {found['movies']} test movies",
        "",
        "| setting | seeds | mean | 95 % interval | val | |",
        "|---|---:|---:|---|---:|---|",
    ]
    for one in found["settings"]:
        ends = "too few seeds" if one["low"] is None else f"[{one['low']:.3f}, {one['high']:.3f}]"
        lines.append(
            f"| {one['name']} | {one['seeds']} | {one['mean']:.3f} | {ends} | {one['val']:.3f} | {one['letters'] or ''} |"
        )
    lines += [
        "",
        "Settings that share a letter cannot be told apart. Intervals hold the mean over all seeds and all such movies: "
        "Student's, over the variance between seeds and between movies (infinitesimal jackknife). p are Holm's over all pairs.",
    ]
    lines += ["", "## Pairs", ""]
    for pair in sorted(comparison.pairs, key=lambda pair: not pair.claimed):
        lines.append(f"- {pair.sentence}.")
        if pair.only_on_val:
            lines.append(f"  {pair.only_on_val} wins on val, and not on test: val chose it by chance, or was tuned on.")
        if pair.command:
            lines.append(f"  `{pair.command}`")
    flagged = [(one["name"], one["warnings"]) for one in found["settings"] + found["without_scores"] if one["warnings"]]
    for title, rows in (
        ("Warnings", [f"- {name}: {warning}" for name, warnings in flagged for warning in warnings]),
        ("Not compared", [f"- {row['a']} and {row['b']}: {row['why']}" for row in comparison.refused]),
    ):
        if rows:
            lines += ["", f"## {title}", "", *rows]
    return "\n".join(lines) + "\n"
