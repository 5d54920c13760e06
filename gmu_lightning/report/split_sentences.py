"""A comparison over splits in words and rows: what holds over all splits, and what holds on single ones."""

from __future__ import annotations

from typing import Any

from gmu_lightning.report.comparison import Comparison, OnSplit, Pair
from gmu_lightning.report.scoring import ScoredSetting
from gmu_lightning.report.split_statistics import FEWEST_SPLITS, DifferenceOverSplits
from gmu_lightning.report.words import chance, counted, points

SPLIT_NOTE = (
    "Intervals hold the mean over splits and seeds: Student's, over the variance between movies (infinitesimal jackknife over "
    "all splits), between seeds, and between splits, corrected because splits share movies (Nadeau & Bengio 2003)"
)


def counts(pair: Pair) -> str:
    """Return the number of runs behind a finding, such as `5 seeds` or `6 splits of 5 seeds`."""
    one, other = len(pair.a.test), len(pair.b.test)
    if not isinstance(pair.difference, DifferenceOverSplits):
        return counted(one, "seed") if one == other else f"{one} and {other} seeds"
    each = {split.scores.seeds for of in (pair.difference.a, pair.difference.b) for split in of.splits.values()}
    splits = counted(len(pair.by_split), "split")
    if len(each) == 1:
        return f"{splits} of {counted(each.pop(), 'seed')}"
    return f"{splits}, {pair.difference.a.seeds} and {pair.difference.b.seeds} runs"


def left_out(pair: Pair) -> str:
    """Return a sentence on the splits that only one of two settings has, after a full stop; empty without any."""
    if not pair.by_split:
        return ""
    found = ""
    for one, other in ((pair.a, pair.b), (pair.b, pair.a)):
        names = [name for name in one.splits if name not in other.splits]
        if names:
            several = len(names) > 1
            found += (
                f". {', '.join(names)} {'are' if several else 'is'} left out: {other.name} lacks {'them' if several else 'it'}"
            )
    return found


def untested(pair: Pair) -> str | None:
    """Return the lack of splits, or of counts of train movies, that prevents a test over splits; None without any."""
    count = len(pair.by_split)
    if count < FEWEST_SPLITS:
        return f"they share {counted(count, 'split')}, and a test over splits needs three"
    unknown = [name for name in pair.by_split if not (pair.a.splits[name].train_movies and pair.b.splits[name].train_movies)]
    if unknown:
        return f"audit.json of the runs on {', '.join(unknown)} does not count the train movies, on which the overlap depends"
    return None


def single_split_sentence(pair: Pair) -> str | None:
    """Return the finding that holds on single splits of a pair alone; None if no split has one."""
    found = pair.on_single_splits
    if not found:
        return None
    count = len(pair.by_split)
    holds = "one split only" if len(found) == 1 else f"{len(found)} of {count} splits only"
    words = []
    for better, worse, sign in ((pair.a, pair.b, 1), (pair.b, pair.a, -1)):
        own = {name: one for name, one in found.items() if one.difference.mean * sign > 0}
        if own:
            each = "; ".join(_on(name, one, sign) for name, one in own.items())
            words.append(f"{better.name} beats {worse.name} on {each}")
    tested = chance(pair.p_holm) or "not tested"
    over = f"over {count} splits the difference is {points(pair.difference.interval)}, {tested}"
    return f"{' and '.join(words)}. This holds on {holds}: {over}"


def _on(split: str, one: OnSplit, sign: int) -> str:
    interval = one.difference.interval if sign > 0 else one.difference.interval.negated()
    return f"the split {split} by {points(interval)}, {chance(one.p_holm)}"


def single_splits(comparison: Comparison) -> list[str]:
    """Return the findings that hold on single splits alone, or the sentence that there is none."""
    found = [sentence for pair in comparison.pairs if (sentence := single_split_sentence(pair))]
    if found or not any(pair.by_split for pair in comparison.pairs):
        return found
    return ["No difference is significant on one split without being significant over all"]


def splits_of(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the splits for comparison.json, each with its number of test movies."""
    sizes = {name: len(part.test[0].ids) for one in comparison.alike for name, part in one.splits.items()}
    return [{"split": name, "movies": count} for name, count in sizes.items()]


def split_rows(one: ScoredSetting, metric: str) -> list[dict[str, Any]]:
    """Return a setting's mean on each split for comparison.json."""
    parts = {name: part for name in one.setting.splits if (part := one.on(name))}
    return [{"split": name, "seeds": len(part.test), "mean": part.scored(metric).mean} for name, part in parts.items()]


def pair_on_splits(pair: Pair) -> dict[str, Any]:
    """Return the keys of a pair of comparison.json that only a comparison over splits has."""
    rows = []
    for name, one in pair.by_split.items():
        mean, low, high = one.difference.interval
        verdict = "none" if not one.claimed else "a" if mean > 0 else "b"
        tests = {"p": one.difference.p, "p_holm": one.p_holm, "verdict": verdict}
        rows.append({"split": name, "difference": mean, "low": low, "high": high} | tests)
    return {"splits": rows, "one_split_only": single_split_sentence(pair)}
