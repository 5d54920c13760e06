"""Any set of runs -> which settings are better, which cannot be told apart, and what would tell: comparison.json and .md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import combinations
from typing import Any

from gmu_lightning.movie import UserError
from gmu_lightning.report.cautions import mixed_searches, mixed_software, rare_genres
from gmu_lightning.report.controls import Control, controls_of
from gmu_lightning.report.evidence import Evidence, checked_metric, same, why_not
from gmu_lightning.report.fairness import unfair
from gmu_lightning.report.inference import LEVEL, Difference, holm, letters
from gmu_lightning.report.resampling import Resampling
from gmu_lightning.report.settings import Setting, settings_of
from gmu_lightning.report.verdicts import ALPHA, Pair, beside
from gmu_lightning.run import Run

LEAST = "three seeds and two test movies are the least"
OTHERWISE = "other movies, genres or labels, or at another threshold"


@dataclass(frozen=True)
class Comparison:
    """Settings, every pair of them that may be compared, and why others may not.

    Attributes:
        settings: by falling mean; what most of them were tested on comes first, those tested on other movies follow.
        letters: {name: letters} of `alike`; settings that share one cannot be told apart. Empty where not every pair of these is
            compared.
        unscored: settings without a finished run.
        resampling: of the settings and the pairs.
        family: how many comparisons Holm counts: what is one result in two rows is one.
        against: the one setting that all others are compared with; None where every pair is.
        left: (folder, why) of what was found and not read.
    """

    metric: str
    settings: Sequence[Evidence]
    pairs: Sequence[Pair]
    refused: Sequence[dict[str, str]]
    letters: dict[str, str]
    unscored: Sequence[Setting]
    resampling: Resampling
    family: int
    against: str | None = None
    left: Sequence[tuple[str, str]] = ()

    @property
    def alike(self) -> list[Evidence]:
        """The settings tested on the first one's movies, genres and labels, at its threshold: what one table may hold."""
        return [one for one in self.settings if one.tested_as(self.settings[0])]

    @property
    def apart(self) -> list[Evidence]:
        """Those that were tested otherwise."""
        return [one for one in self.settings if not one.tested_as(self.settings[0])]

    @property
    def verdict(self) -> str:
        """What can be said of all settings together."""
        unknown = [one.name for one in self.alike if not one.known]
        known = [one for one in self.alike if one.known]
        warned = known[0].setting.warnings if known else []
        said_of_known = (self._against(self.against) if self.against else self._of_known(known)) if known else None
        return " ".join(
            [
                said_of_known or "Nothing can be claimed.",
                *([f"Mind {known[0].name}'s warnings: {'; '.join(warned)}."] if warned else []),
                *([f"Of {_listed(unknown)} nothing can be said: {LEAST}."] if unknown else []),
                *([f"Tested on {OTHERWISE}: {_listed([one.name for one in self.apart])}."] if self.apart else []),
            ]
        )

    def _of_known(self, known: Sequence[Evidence]) -> str:
        best, *others = known
        if not others:
            refused = {row["a"] for row in self.refused if row["a"] == row["b"]}
            more = len(refused) + len(self.unscored) + len(self.settings) - 1
            only = f"There is one setting, {best.name}" + (f", beside {more} that cannot be compared" if more else "")
            return f"{only}: nothing to compare it with."
        if not self.letters:
            return "Not every pair may be compared, so there is no ranking: see what was refused below."
        ties = [one.name for one in others if set(self.letters[one.name]) & set(self.letters[best.name])]
        if not ties:
            return f"{best.name} is the best: it beats {_others(len(others))}."
        words = f"{best.name} has the highest mean, but cannot be told apart from {_listed(ties)}."
        return words if len(ties) == len(others) else f"{words} It beats {_others(len(others) - len(ties))}."

    def _against(self, baseline: str) -> str:
        tested = [pair for pair in self.pairs if pair.p_holm is not None or pair.same]
        above = [pair.a.name for pair in tested if pair.claimed and pair.b.name == baseline]
        below = [pair.b.name for pair in tested if pair.claimed and pair.a.name == baseline]
        if len(self.settings) == 1:
            return f"There is one setting, {baseline}: nothing to compare it with."
        if not tested:
            return f"No other setting can be compared with {baseline}."
        words = f"Every other setting that may be is compared with {baseline} alone. "
        words += f"{_listed(above)} beat{'s' if len(above) == 1 else ''} it." if above else "None beats it."
        words += f" It beats {_listed(below)}." if below else ""
        rest = len(tested) - len(above) - len(below)
        return words + (f" {rest} cannot be told apart from it." if rest else "")

    @cached_property
    def caution(self) -> str | None:
        """What a reader should mind beside the numbers."""
        settings = [one.setting for one in self.settings]
        found = [
            rare_genres(self.metric, self.settings),
            unfair(settings),
            mixed_searches(self.settings),
            mixed_software(self.settings),
        ]
        return " ".join(filter(None, found)) or None

    @cached_property
    def controls(self) -> list[Control]:
        """Every gate beside the control whose gates see one modality each."""
        return controls_of(self.settings, self.pairs, {frozenset((row["a"], row["b"])): row["why"] for row in self.refused})

    def as_json(self) -> dict[str, Any]:
        """comparison.json."""
        return {
            "metric": self.metric,
            "movies": len(self.settings[0].test[0].ids),  # of those settings that are `alike`
            "level": LEVEL,
            "against": self.against,
            "caution": self.caution,
            "comparisons": self.family,
            "settings": [self._setting(one) for one in self.settings],
            "pairs": [pair.row() for pair in self.pairs],
            "controls": [control.row() for control in self.controls],
            "refused": list(self.refused),
            "left_out": [{"folder": folder, "why": why} for folder, why in self.left],
            "without_scores": [{"name": one.name, "warnings": one.warnings} for one in self.unscored],
        }

    def _setting(self, one: Evidence) -> dict[str, Any]:
        interval = one.scored(self.metric).interval
        return {
            "name": one.name,
            "seeds": len(one.test),
            "movies": len(one.test[0].ids),
            "mean": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "bootstrap": dict(zip(("low", "high"), self.resampling.interval(one.scored(self.metric)), strict=True)),
            "sd": float(one.scored(self.metric).scores.std(ddof=1)) if len(one.test) > 1 else None,
            "val": one.scored(self.metric, "val").mean,
            "letters": self.letters.get(one.name),
            "warnings": one.setting.warnings,
            "setting": one.setting.key,
        }


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _others(count: int) -> str:
    return "the other setting" if count == 1 else f"the other {count} settings"


def compare(
    runs: Iterable[Run], metric: str = "f1_micro", against: str | None = None, left: Sequence[tuple[str, str]] = ()
) -> Comparison:
    """Compare all settings of these runs on their test movies.

    Args:
        against: the words of one setting's name, chosen before the scores were seen. Then only the pairs that it is in are
            compared: there are fewer of them, so Holm asks less of each.
        left: (folder, why) of what was found beside these runs and not read, to be told.

    Raises:
        UserError: the metric is none, no run finished, or no setting, or more than one, has those words.
    """
    checked_metric(metric)
    settings = settings_of(runs)
    scored = [Evidence.of(one) for one in settings if one.finished]
    if not scored:
        raise UserError("none of these runs finished: there is nothing to compare")
    refused = [{"a": e.name, "b": e.name, "why": why} for e in scored if (why := e.split_within)]
    apart = {row["a"] for row in refused}
    sound = _ranked([e for e in scored if e.name not in apart], metric)
    if not sound:
        raise UserError(f"nothing can be compared: {refused[0]['a']}: {refused[0]['why']}")
    baseline = None if against is None else _baseline(against, [e.name for e in sound])
    both: list[tuple[Evidence, Evidence]] = []
    for a, b in combinations(sound, 2):
        if baseline not in (None, a.name, b.name):
            continue
        if why := why_not(a, b):
            refused.append({"a": a.name, "b": b.name, "why": why})
        else:
            both.append((a, b))
    differences = [Difference(a.scored(metric), b.scored(metric)) for a, b in both]
    resampling = Resampling([e.scored(metric) for e in sound], differences)
    pairs, family = _pairs(metric, both, differences, resampling, _one_result(sound))
    unscored = [one for one in settings if not one.finished]
    return Comparison(metric, sound, pairs, refused, _letters(sound, pairs), unscored, resampling, family, baseline, left)


def _ranked(settings: Sequence[Evidence], metric: str) -> list[Evidence]:
    """By falling mean, in groups that were tested alike; the largest group first, of equally large ones the better one."""
    groups: list[list[Evidence]] = []
    for one in sorted(settings, key=lambda e: -e.scored(metric).mean):
        group = next((of for of in groups if one.tested_as(of[0])), None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    return [one for group in sorted(groups, key=len, reverse=True) for one in group]


def _letters(sound: Sequence[Evidence], pairs: Sequence[Pair]) -> dict[str, str]:
    """Of the settings with seeds enough that were tested as the first was; none where not every pair of these is compared."""
    names = [one.name for one in sound if one.tested_as(sound[0]) and one.known]
    among = [pair for pair in pairs if {pair.a.name, pair.b.name} <= set(names)]
    if len(among) < len(names) * (len(names) - 1) // 2:
        return {}
    return letters(names, [(pair.a.name, pair.b.name) for pair in among if pair.claimed])


def _baseline(words: str, names: Sequence[str]) -> str:
    """The name that is these words, or the only one that has them all."""
    exact = [name for name in names if name == words]
    found = exact or [name for name in names if words.split() and set(words.split()) <= set(name.split())]
    if len(found) == 1:
        return found[0]
    some = found or get_close_matches(words, names, cutoff=0.3) or names
    listed = ", ".join(some[:5]) + (", ..." if len(some) > 5 else "")
    raise UserError(f"against={words} names {len(found)} of the settings: choose one, such as {listed}")


def _pairs(
    metric: str,
    both: Sequence[tuple[Evidence, Evidence]],
    differences: Sequence[Difference],
    resampling: Resampling,
    result: Mapping[str, str],
) -> tuple[list[Pair], int]:
    """The pairs, and how many comparisons Holm counts.

    Args:
        result: {setting: the first of those that are one result with it}.
    """
    alike = [result[a.name] == result[b.name] for a, b in both]
    first = _first(both, result)
    on_val = [Difference(a.scored(metric, "val"), b.scored(metric, "val")) for a, b in both]

    def once(found: Sequence[Difference]) -> list[float | None]:
        """What is one result is one comparison, however many rows it has."""
        return [difference.p if first[n] == n else None for n, difference in enumerate(found)]

    p = once(differences)
    adjusted, levels, adjusted_on_val = holm(p), _levels(p), holm(once(on_val))
    pairs = [
        Pair(
            metric,
            a,
            b,
            differences[n],
            1.0 if alike[n] else adjusted[first[n]],
            resampling.of(differences[n]),
            {other: Difference(a.scored(other), b.scored(other)) for other in beside(metric)},
            on_val[n],
            alike[n],
            None if alike[n] else differences[n].seeds_needed(alpha=levels[first[n]]),
            ALPHA if alike[n] else levels[first[n]],
            None if alike[n] else adjusted_on_val[first[n]],
        )
        for n, (a, b) in enumerate(both)
    ]
    return pairs, sum(value is not None for value in p)


def _one_result(settings: Sequence[Evidence]) -> dict[str, str]:
    """{setting: the first setting that predicts the same}."""
    result: dict[str, str] = {}
    for n, one in enumerate(settings):
        first = next((other for other in settings[:n] if result[other.name] == other.name and same(other, one)), one)
        result[one.name] = first.name
    return result


def _first(both: Sequence[tuple[Evidence, Evidence]], result: Mapping[str, str]) -> list[int]:
    """Of each pair the first that is the same comparison; -1 of a pair that is none, being one result."""
    seen: dict[frozenset[str], int] = {}
    found = []
    for n, (a, b) in enumerate(both):
        key = frozenset({result[a.name], result[b.name]})
        found.append(-1 if len(key) == 1 else seen.setdefault(key, n))
    return found


def _levels(p: Sequence[float | None]) -> list[float]:
    """What each p has to stay below in Holm's order, the smaller ones having done so."""
    known = sorted((value, n) for n, value in enumerate(p) if value is not None)
    levels = [ALPHA] * len(p)
    for rank, (_, n) in enumerate(known):
        levels[n] = ALPHA / (len(known) - rank)
    return levels
