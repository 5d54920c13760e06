"""A pair of settings -> what can be claimed of it, in a sentence, and the command that would tell more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gmu_lightning.report.commands import more_seeds
from gmu_lightning.report.evidence import Evidence, said, shared_and_same
from gmu_lightning.report.inference import FEWEST_MOVIES, FEWEST_SEEDS, FEWEST_TUNED, LEVEL, MOST_SEEDS, Difference, Interval
from gmu_lightning.report.resampling import Resampled

ALPHA = 1 - LEVEL
LEAST = 0.0005  # what is printed as 0.0 points is none
RANKING = {"f1_micro": "ap_micro", "f1_macro": "ap_macro", "f1_weighted": "ap_macro", "f1_samples": "ap_samples"}  # no threshold


@dataclass(frozen=True)
class Pair:
    """Two settings compared, the better one first.

    Attributes:
        p_holm: of no difference, over all pairs of the comparison; None where a setting has fewer than three seeds.
        tests: the same pair resampled.
        beside: {metric: difference} of what a threshold cannot explain; empty where the metric has none.
        on_val: the same difference on val.
        same: whether the two are one result, predictions and all.
        needed: how many seeds of each would show a difference of this size four times in five; None where even `MOST_SEEDS`
            would not.
        level: what p has to stay below, the smaller ones of the comparison having done so (Holm).
        p_val: of no difference on val, over all pairs.
    """

    metric: str
    a: Evidence
    b: Evidence
    difference: Difference
    p_holm: float | None
    tests: Resampled
    beside: dict[str, Difference]
    on_val: Difference
    same: bool
    needed: int | None
    level: float
    p_val: float | None

    @property
    def claimed(self) -> bool:
        """Whether the difference stands, all pairs considered."""
        return self.p_holm is not None and self.p_holm < ALPHA

    @property
    def verdict(self) -> str:
        """`a`, `b` or `none`."""
        if not self.claimed:
            return "none"
        return "a" if self.difference.mean > 0 else "b"

    @property
    def only_on_val(self) -> str | None:
        """Who beats the other on val and not on test, each over all pairs; None where nobody does, or test cannot judge."""
        if self.p_holm is None or self.p_val is None or self.p_val >= ALPHA:
            return None
        first = self.on_val.mean > 0
        beats_on_test = self.claimed and (self.difference.mean > 0) is first
        return None if beats_on_test else self.a.name if first else self.b.name

    @cached_property
    def sentence(self) -> str:
        """What a reader may write down."""
        a, b, size = self.a.name, self.b.name, points(self.difference.interval, f" of {said(self.metric)}")
        if self.same:
            return f"{a} and {b} are one result: they predict the same for every movie, seed by seed"
        if self.too_few:
            return f"{a} is {size} above {b}, of which nothing can be claimed: {self.too_few}"
        if self.claimed:
            one, other = len(self.a.test), len(self.b.test)
            counts = counted(one, "seed") if one == other else f"{one} and {other} seeds"
            return f"{a} beats {b} by {size}, {_p(self.p_holm)}, {counts}{self._threshold}"
        return f"no difference between {a} and {b} can be claimed ({size}, {_p(self.p_holm)}); {self._more}{self._shared}"

    @property
    def too_few(self) -> str | None:
        """Of what there is too little to claim anything; None where there is enough."""
        if self.difference.p is not None:
            return None
        if len(self.a.test[0].ids) < FEWEST_MOVIES:
            return "there is one test movie"
        if self.difference.a.tuned_on_few:
            return f"thresholds were tuned on {counted(len(self.a.val[0].ids), 'val movie')}, and {FEWEST_TUNED} are the least"
        few = [f"{e.name} has {counted(len(e.test), 'seed')}" for e in (self.a, self.b) if len(e.test) < FEWEST_SEEDS]
        return f"{' and '.join(few)}, and three are the least{self._shared}"

    @property
    def _shared(self) -> str:
        """Of settings that are one result as far as their seeds go, and have others beside these."""
        shared = shared_and_same(self.a, self.b)
        return f"; on the {counted(shared, 'seed')} that both have they predict the same" if shared else ""

    @property
    def _threshold(self) -> str:
        """What of a lead is threshold."""
        words = ""
        for metric, difference in self.beside.items():
            if metric in RANKING.values():
                words += f"; {said(metric)}, which needs no threshold, differs by {points(difference.interval)}"
            elif metric.endswith("@val"):
                words += f"; at a threshold tuned on val {self._left(difference)}"
        return words

    def _left(self, tuned: Difference) -> str:
        """Of the lead, where a threshold does what it can for either setting."""
        size, threshold = points(tuned.interval), self.difference.mean - tuned.mean
        if threshold < LEAST:
            words = f"it is {size}, so none of it is threshold"
        else:
            words = f"it is {size}, so {100 * threshold:.1f} points of it are threshold"
        if tuned.p is None or tuned.p >= ALPHA:
            return f"{words}, and what is left cannot be claimed"
        return words if tuned.mean > 0 else f"{words}, and the other one leads"

    @property
    def _nothing(self) -> bool:
        """Whether the difference is none as it is printed."""
        return abs(self.difference.mean) < LEAST

    @property
    def _more(self) -> str:
        if self._nothing:
            return "there is nothing to look for"
        if self.needed is None:
            chance = self.difference.power(MOST_SEEDS, self.level)
            return (
                f"even {MOST_SEEDS} seeds of each would show one of this size in only {chance:.0%} of such comparisons: "
                f"{self._movies} tell no more"
            )
        more = [max(self.needed - len(one.test), 0) for one in (self.a, self.b)]
        if more[0] != more[1]:
            of_both = f"{counted(more[0], 'more seed')} of {self.a.name} and {more[1]} of {self.b.name}"
            return f"about {of_both} would be needed to see one of this size"
        return f"about {counted(max(more[0], 1), 'more seed')} of each would be needed to see one of this size"

    @property
    def _movies(self) -> str:
        """How many movies judge, and how many chose the thresholds."""
        test = f"{len(self.a.test[0].ids)} test movies"
        return test if self.difference.a.retune is None else f"{test} and {len(self.a.val[0].ids)} val movies"

    @cached_property
    def command(self) -> str | None:
        """What trains just the seeds that are wanting; None where nothing is wanting, or nothing would help."""
        wanted = FEWEST_SEEDS if self.difference.p is None else self.needed
        if self.claimed or wanted is None or self.same or self._nothing:
            return None
        lines = [more_seeds(e.setting, wanted) for e in (self.a, self.b)]
        return "; ".join(line for line in lines if line) or None

    def row(self) -> dict[str, Any]:
        """Of comparison.json."""
        interval = self.difference.interval
        return {
            "a": self.a.name,
            "b": self.b.name,
            "difference": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "p": self.difference.p,
            "p_holm": self.p_holm,
            "effect": self.difference.effect,
            "superiority": self.difference.superiority,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "bootstrap": self.tests._asdict(),
            "beside": {metric: d.interval._asdict() | {"p": d.p} for metric, d in self.beside.items()},
            "val": self.on_val.interval._asdict() | {"p": self.on_val.p},
            "only_on_val": self.only_on_val,
            "seeds_needed": self.needed,
            "command": self.command,
        }


def counted(count: int, noun: str) -> str:
    """`1 seed`, `3 more seeds`"""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def points(interval: Interval, of: str = "") -> str:
    """`5.6 points of micro F1 [3.9, 7.2]`"""
    mean = f"{_hundredfold(interval.mean)} points{of}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} [{_hundredfold(interval.low)}, {_hundredfold(interval.high)}]"


def _hundredfold(value: float) -> str:
    """With one digit, and no minus before a zero."""
    return f"{round(100 * value, 1) + 0.0:.1f}"


def _p(p: float | None) -> str:
    return "" if p is None else "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".")


def beside(metric: str) -> Sequence[str]:
    """The metrics that tell what of a lead is threshold."""
    kind, _, rule = metric.partition("@")
    if kind.startswith("ap_"):
        return []
    return [*([] if rule else [f"{kind}@val", f"{kind}@val_per_genre"]), RANKING[kind]]
