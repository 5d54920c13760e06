"""Compare any set of runs: every pair of settings tested, ties as letters, and each gate against its control. Numbers only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

from gmu_lightning.decisions import Task
from gmu_lightning.movie import UserError
from gmu_lightning.report.caveats import differing
from gmu_lightning.report.curves import Curve, by_amounts, curves_of, other_amounts, why_apart
from gmu_lightning.report.diagnosed import Diagnosed, diagnoses_of
from gmu_lightning.report.multiplicity import holm, letters
from gmu_lightning.report.scoring import (
    ScoredSetting,
    check_metric,
    common_splits,
    companion_metrics,
    incompatibility,
    own_metric,
    same,
)
from gmu_lightning.report.settings import Setting, settings_of
from gmu_lightning.report.split_statistics import DifferenceOverSplits, difference_of
from gmu_lightning.report.statistics import ALPHA, Difference, Interval, Resampled, Resampling, SplitScores
from gmu_lightning.run import Run

CONTROL = "self_gate"
LEAST = 0.0005  # smaller differences are printed as 0.0 points


class OnSplit(NamedTuple):
    """The difference of a pair on one of several splits, as a comparison of the runs of that split would judge it."""

    difference: Difference
    p_holm: float | None  # over the pairs on this split

    @property
    def claimed(self) -> bool:
        """Whether the difference is significant on this split."""
        return self.p_holm is not None and self.p_holm < ALPHA


@dataclass(frozen=True)
class Pair:
    """Two compared settings, the better one first.

    Attributes:
        difference: on the same movies, or over the splits that both settings have.
        p_holm: adjusted p over all pairs; None if a setting has fewer than three seeds, or both share fewer than three splits.
        tests: resampling tests of the same difference.
        companions: {metric: difference} for tuned thresholds and for average precision. They show how much of a lead is due to
            the decisions. Empty for an average precision.
        on_val: the same difference on val.
        same: whether both settings predict the same, seed by seed.
        needed: seeds of each setting that would show this difference with 80 % power; None above `MOST_SEEDS`.
        level: significance level of this pair in Holm's order.
        p_val: adjusted p on val, over all pairs.
        by_split: {split: the difference on it} if there are several splits.
    """

    metric: str
    a: ScoredSetting
    b: ScoredSetting
    difference: Difference | DifferenceOverSplits
    p_holm: float | None
    tests: Resampled
    companions: dict[str, Difference | DifferenceOverSplits]
    on_val: Difference | DifferenceOverSplits
    same: bool
    needed: int | None
    level: float
    p_val: float | None
    by_split: Mapping[str, OnSplit] = field(default_factory=dict)

    @property
    def claimed(self) -> bool:
        """Whether the difference is significant over all pairs."""
        return self.p_holm is not None and self.p_holm < ALPHA

    @property
    def verdict(self) -> str:
        """`a`, `b` or `none`."""
        if not self.claimed:
            return "none"
        return "a" if self.difference.mean > 0 else "b"

    @property
    def negligible(self) -> bool:
        """Whether the difference is printed as 0.0 points."""
        return abs(self.difference.mean) < LEAST

    @property
    def on_single_splits(self) -> dict[str, OnSplit]:
        """The significant differences on single splits that do not hold over all splits."""
        first = self.difference.mean > 0
        claims = {name: one for name, one in self.by_split.items() if one.claimed}
        return {name: one for name, one in claims.items() if not (self.claimed and (one.difference.mean > 0) is first)}

    @property
    def only_on_val(self) -> str | None:
        """The setting that wins on val without winning on test, each over all pairs; None if no setting does."""
        if self.p_holm is None or self.p_val is None or self.p_val >= ALPHA:
            return None
        first = self.on_val.mean > 0
        beats_on_test = self.claimed and (self.difference.mean > 0) is first
        return None if beats_on_test else self.a.name if first else self.b.name


@dataclass(frozen=True)
class Control:
    """A gate and its control, a fusion whose gates see one modality each.

    Attributes:
        control: None if no setting is a control of this gate.
        pair: the comparison of both; None if they are not compared.
        refused: the reason for a refused comparison.
        alike: all gates that lack the same control, this one included.
    """

    gate: ScoredSetting
    control: ScoredSetting | None
    pair: Pair | None = None
    refused: str | None = None
    alike: Sequence[ScoredSetting] = ()

    @property
    def verdict(self) -> str | None:
        """`gate` or `control`, the significantly better one; `none`; None without a judged pair."""
        if self.pair is None or self.pair.difference.p is None:
            return None
        first = self.pair.a is self.gate
        return {"none": "none", "a": "gate" if first else "control", "b": "control" if first else "gate"}[self.pair.verdict]

    @property
    def interval(self) -> Interval | None:
        """The gate's score minus the control's."""
        if self.pair is None:
            return None
        found = self.pair.difference.interval
        return found if self.pair.a is self.gate else found.negated()


@dataclass(frozen=True)
class Comparison:
    """Compared settings, their pairs, and refused pairs with reasons.

    Attributes:
        settings: by falling mean. The largest group tested on the same movies comes first.
        refused: {a, b, why} of each pair that is not comparable.
        letters: {name: letters} of `alike`; settings with a common letter are tied. Empty if a pair of these is not compared.
        unscored: settings without a finished run.
        resampling: bootstrap of the settings and pairs.
        family: number of comparisons in Holm's correction. Settings with equal predictions count once.
        against: name of the only setting that others are compared with; None compares every pair.
        left: (folder, reason) of folders that were not read.
        curves: settings that differ in an amount of data alone. Pairs of different amounts are among `refused`, with `options`.
    """

    metric: str
    settings: Sequence[ScoredSetting]
    pairs: Sequence[Pair]
    refused: Sequence[dict[str, Any]]
    letters: dict[str, str]
    unscored: Sequence[Setting]
    resampling: Resampling
    family: int
    against: str | None = None
    left: Sequence[tuple[str, str]] = ()
    curves: Sequence[Curve] = ()

    @cached_property
    def splits(self) -> list[str]:
        """Names of the splits of the settings in `alike`, if there are several; the first one's come first."""
        return list(dict.fromkeys(name for one in self.alike for name in one.splits))

    @property
    def task(self) -> Task:
        """Task of the settings in `alike`."""
        return self.settings[0].task

    @cached_property
    def alike(self) -> list[ScoredSetting]:
        """Settings with the first setting's test movies, genres, labels, task and threshold."""
        return [one for one in self.settings if one.tested_as(self.settings[0])]

    @cached_property
    def apart(self) -> list[ScoredSetting]:
        """All other settings."""
        return [one for one in self.settings if not one.tested_as(self.settings[0])]

    @cached_property
    def diagnoses(self) -> list[Diagnosed]:
        """What `evaluate diagnose=true` left in the runs, a row for each setting with several modalities."""
        return diagnoses_of(self.settings)

    @cached_property
    def controls(self) -> list[Control]:
        """Every gate with each of its controls; gates without a control come last."""
        controls = [one for one in self.settings if one.fusion == CONTROL and (one.config.get("fusion") or {}).get("gate", True)]
        pairs = {frozenset((pair.a.name, pair.b.name)): pair for pair in self.pairs}
        refused = {frozenset((row["a"], row["b"])): row["why"] for row in self.refused}
        found, alone = [], []
        for gate in self.settings:
            if not gate.gates_move:  # weights that are the same for every movie need no control
                continue
            own = [one for one in controls if _alike(gate, one)]
            alone += [] if own else [gate]
            names = [(control, frozenset((gate.name, control.name))) for control in own]
            found += [Control(gate, control, pairs.get(both), refused.get(both)) for control, both in names]
        return found + [Control(gate, None, alike=group) for group in grouped(alone, _alike) for gate in group]


def _alike(a: ScoredSetting, b: ScoredSetting) -> bool:
    return a.test[0].modalities == b.test[0].modalities and not differing([a.setting, b.setting])


def grouped(
    settings: Iterable[ScoredSetting], alike: Callable[[ScoredSetting, ScoredSetting], bool]
) -> list[list[ScoredSetting]]:
    """Return groups of settings that are alike, in order of their first members."""
    groups: list[list[ScoredSetting]] = []
    for one in settings:
        group = next((of for of in groups if alike(one, of[0])), None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    return groups


def compare(
    runs: Iterable[Run], metric: str = "auto", against: str | None = None, left: Sequence[tuple[str, str]] = ()
) -> Comparison:
    """Compare all settings of these runs on their test movies.

    Args:
        metric: a score, or `auto` (see `own_metric`).
        against: words of one setting's name, chosen before its scores are known. Only its pairs are compared, so Holm's
            correction is milder.
        left: (folder, reason) of folders that were not read.

    Raises:
        UserError: the metric is unknown or a setting lacks it, no run finished, or `against` names no setting or several.
    """
    check_metric(metric)
    settings = settings_of(runs)
    scored = [ScoredSetting.of(one) for one in settings if one.finished]
    if not scored:
        raise UserError("none of these runs finished: there is nothing to compare")
    metric = own_metric(metric, scored)
    refused: list[dict[str, Any]] = [{"a": e.name, "b": e.name, "why": why} for e in scored if (why := e.split_within)]
    broken = {row["a"] for row in refused}
    ranked = sorted((e for e in scored if e.name not in broken), key=lambda e: -e.scored(metric).mean)
    groups = sorted(grouped(ranked, ScoredSetting.tested_as), key=len, reverse=True)
    sound = [one for group in groups for one in group]
    if not sound:
        raise UserError(f"nothing can be compared: {refused[0]['a']}: {refused[0]['why']}")
    baseline = None if against is None else _baseline(against, [e.name for e in sound])
    both: list[tuple[ScoredSetting, ScoredSetting]] = []
    for a, b in combinations(sound, 2):
        if baseline not in (None, a.name, b.name):
            continue
        if why := why_apart(a, b):
            refused.append({"a": a.name, "b": b.name, "why": why, "options": other_amounts(a, b)})
        elif why := incompatibility(a, b):
            refused.append({"a": a.name, "b": b.name, "why": why})
        else:
            turned = bool(a.splits) and difference(a, b, metric).mean < 0  # the means may be over other splits
            both.append((b, a) if turned else (a, b))
    differences = [difference(a, b, metric) for a, b in both]
    drawn = [one for e in sound if isinstance(one := e.scored(metric), SplitScores)]
    resampling = Resampling(drawn, [one for one in differences if isinstance(one, Difference)])
    result = {one.name: group[0].name for group in grouped(sound, same) for one in group}
    pairs, family = _pairs(metric, both, differences, resampling, result)
    unscored = [one for one in settings if not one.finished]
    lettered, curves = _letters(sound, pairs), curves_of(sound)
    return Comparison(metric, sound, pairs, refused, lettered, unscored, resampling, family, baseline, left, curves)


def difference(a: ScoredSetting, b: ScoredSetting, metric: str, split: str = "test") -> Difference | DifferenceOverSplits:
    """Return setting a minus setting b on val or test, over the splits that both have if there are several."""
    return difference_of(a.scored(metric, split), b.scored(metric, split))


def _letters(sound: Sequence[ScoredSetting], pairs: Sequence[Pair]) -> dict[str, str]:
    """Return the letters of the settings alike with enough seeds; empty if some of their pairs are not compared.

    Settings with other amounts of data are not compared, and have letters of their own.
    """
    found: dict[str, str] = {}
    for group in by_amounts([one for one in sound if one.tested_as(sound[0]) and one.known]).values():
        names = [one.name for one in group]
        among = [pair for pair in pairs if {pair.a.name, pair.b.name} <= set(names)]
        if len(among) < len(names) * (len(names) - 1) // 2:
            return {}
        found |= letters(names, [(pair.a.name, pair.b.name) for pair in among if pair.claimed])
    return found


def _baseline(words: str, names: Sequence[str]) -> str:
    """Return the name that equals these words, or the only name that contains them all."""
    exact = [name for name in names if name == words]
    found = exact or [name for name in names if words.split() and set(words.split()) <= set(name.split())]
    if len(found) == 1:
        return found[0]
    some = found or get_close_matches(words, names, cutoff=0.3) or names
    listed = ", ".join(some[:5]) + (", ..." if len(some) > 5 else "")
    raise UserError(f"against={words} names {len(found)} of the settings: choose one, such as {listed}")


def _pairs(
    metric: str,
    both: Sequence[tuple[ScoredSetting, ScoredSetting]],
    differences: Sequence[Difference | DifferenceOverSplits],
    resampling: Resampling,
    result: Mapping[str, str],
) -> tuple[list[Pair], int]:
    """Return the pairs and the number of comparisons in Holm's correction.

    Args:
        result: {setting: the first setting with the same predictions}.
    """
    seen: dict[frozenset[str], int] = {}
    results = [frozenset({result[a.name], result[b.name]}) for a, b in both]
    # For each pair, the index of the first pair that compares the same two results.
    first = [seen.setdefault(key, n) for n, key in enumerate(results)]
    once = [first[n] == n and len(key) == 2 for n, key in enumerate(results)]
    on_val = [difference(a, b, metric, "val") for a, b in both]
    p = [difference.p if counts else None for difference, counts in zip(differences, once, strict=True)]
    p_val, _ = holm([difference.p if counts else None for difference, counts in zip(on_val, once, strict=True)])
    adjusted, levels = holm(p)
    by_split = _on_splits(both, differences, once, first)
    pairs = []
    for n, (a, b) in enumerate(both):
        of: dict[str, Any] = {"p_holm": 1.0, "same": True, "needed": None, "level": ALPHA, "p_val": None}
        if len(results[n]) == 2:
            k = first[n]
            needed = differences[n].seeds_needed(alpha=levels[k])
            of = {"p_holm": adjusted[k], "same": False, "needed": needed, "level": levels[k], "p_val": p_val[k]}
        companions = {other: difference(a, b, other) for other in companion_metrics(metric, a.task)}
        of |= {"tests": resampling.of(differences[n]), "companions": companions, "on_val": on_val[n], "by_split": by_split[n]}
        pairs.append(Pair(metric, a, b, differences[n], **of))
    return pairs, sum(value is not None for value in p)


def _on_splits(
    both: Sequence[tuple[ScoredSetting, ScoredSetting]],
    differences: Sequence[Difference | DifferenceOverSplits],
    once: Sequence[bool],
    first: Sequence[int],
) -> list[dict[str, OnSplit]]:
    """Return the differences of each pair by split, with Holm's correction over the pairs on one split.

    Args:
        once: whether a pair counts in the correction.
        first: for each pair, the index of the first pair with the same results.
    """
    found: list[dict[str, OnSplit]] = [{} for _ in both]
    for split in dict.fromkeys(name for a, b in both for name in common_splits(a, b)):
        own = [d.by_split.get(split) if isinstance(d, DifferenceOverSplits) else None for d in differences]
        adjusted, _ = holm([None if one is None or not counts else one.p for one, counts in zip(own, once, strict=True)])
        for n, one in enumerate(own):
            if one is not None:
                found[n][split] = OnSplit(one, adjusted[first[n]])
    return found
