"""A comparison in words: the sentence of each pair and gate, the summary, comparison.md and comparison.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gmu_lightning.files import markdown_table, write_json, write_text
from gmu_lightning.report.caveats import OF_EVERY_FUSION, caveats, listed, shortened
from gmu_lightning.report.comparison import CONTROL, LEAST, Comparison, Control, Pair
from gmu_lightning.report.curve_tables import curve_lines, curve_rows, other_questions, write_figures
from gmu_lightning.report.curves import by_amounts
from gmu_lightning.report.diagnosed import diagnosis_lines, diagnosis_rows
from gmu_lightning.report.reproduce import more_seeds, with_fusion
from gmu_lightning.report.scoring import OTHERWISE, RANKING, ScoredSetting, metric_label, shared_and_same
from gmu_lightning.report.settings import FEWEST_SEEDS
from gmu_lightning.report.split_sentences import (
    SPLIT_NOTE,
    counts,
    left_out,
    pair_on_splits,
    single_splits,
    split_rows,
    splits_of,
    untested,
)
from gmu_lightning.report.split_statistics import DifferenceOverSplits
from gmu_lightning.report.statistics import (
    ALPHA,
    FEWEST_MOVIES,
    FEWEST_TUNED,
    LEVEL,
    MOST_SEEDS,
    Difference,
    Interval,
)
from gmu_lightning.report.words import chance, counted, ends, points
from gmu_lightning.visible import visible

TOO_FEW = "a test needs three seeds and two test movies"
TOO_FEW_SPLITS = "a test over splits needs three splits, and the number of their train movies"
ONE_EACH = "whose gates see one modality each"
NO_BENEFIT = "this shows no benefit of weighing modalities"


def pair_sentence(pair: Pair) -> str:
    """Return the finding of one pair."""
    a, b, size = pair.a.name, pair.b.name, points(pair.difference.interval, f" of {metric_label(pair.metric)}")
    if pair.same:
        return f"{a} and {b} are one result: they predict the same for every movie, seed by seed"
    if few := too_few(pair):
        return f"{a} is {size} above {b}. This difference cannot be tested: {few}{_of_these_runs(pair)}"
    if pair.claimed:
        return f"{a} beats {b} by {size}, {chance(pair.p_holm)}, {counts(pair)}{_threshold_part(pair)}{left_out(pair)}"
    over = f", {counts(pair)}" if pair.by_split else ""
    words = f"{a} and {b} do not differ significantly ({size}, {chance(pair.p_holm)}{over}). {_seeds_wanted(pair)}"
    words += _shared(pair) + left_out(pair)
    low = pair.difference.interval.low
    if low is not None and low > 0:
        words += ". The interval excludes 0, but only p is corrected for the number of comparisons"
    return words


def too_few(pair: Pair) -> str | None:
    """Return the lack of movies, seeds or splits that prevents a finding; None if there are enough."""
    if pair.difference.p is not None:
        return None
    if pair.by_split and (why := untested(pair)):
        return f"{why}{left_out(pair)}"
    if len(pair.a.test[0].ids) < FEWEST_MOVIES:
        return "there is one test movie"
    if pair.by_split and not pair.difference.a.tuned_on_few:
        return "a split has one test movie"
    if pair.difference.a.tuned_on_few:
        return f"thresholds were tuned on {counted(len(pair.a.val[0].ids), 'val movie')}, and a test needs {FEWEST_TUNED}"
    few = [f"{e.name} has {counted(len(e.test), 'seed')}" for e in (pair.a, pair.b) if len(e.test) < FEWEST_SEEDS]
    return f"{' and '.join(few)}, and a test needs three{_shared(pair)}"


def _of_these_runs(pair: Pair) -> str:
    """Return what is known of a difference between too few seeds: its interval over movies, and its part by the threshold."""
    difference = pair.difference
    if not isinstance(difference, Difference) or min(difference.a.seeds, difference.b.seeds) >= FEWEST_SEEDS:
        return ""
    words = f". Over movies, for these runs alone, it is {points(difference.interval_of_movies)}"
    tuned = next((of for metric, of in pair.companions.items() if metric.endswith("@val")), None)
    return words + (f", and at a threshold tuned on val {100 * tuned.mean:.1f} points" if tuned else "")


def _shared(pair: Pair) -> str:
    shared = shared_and_same(pair.a, pair.b)
    noun = "run" if pair.by_split else "seed"
    return f". They predict the same on the {counted(shared, noun)} that both have" if shared else ""


def _threshold_part(pair: Pair) -> str:
    """Return the part of a lead that comes from the threshold."""
    words = ""
    for metric, difference in pair.companions.items():
        if metric in RANKING.values():
            label = metric_label(metric)
            needs = "threshold" if pair.a.task == "multilabel" else "decision"
            words += f". {label[0].upper()}{label[1:]}, which needs no {needs}, differs by {points(difference.interval)}"
        elif metric.endswith("@val"):
            words += f". At a threshold tuned on val {_left(pair, difference)}"
    return words


def _left(pair: Pair, tuned: Difference | DifferenceOverSplits) -> str:
    threshold = pair.difference.mean - tuned.mean
    part = "the threshold is not the cause" if threshold < LEAST else f"{100 * threshold:.1f} points come from the threshold"
    words = f"the lead is {points(tuned.interval)}, so {part}"
    if tuned.p is None or tuned.p >= ALPHA:
        return f"{words}. The remaining lead is not significant"
    return words if tuned.mean > 0 else f"{words}. There the other setting leads"


def _seeds_wanted(pair: Pair) -> str:
    if pair.negligible:
        return "The difference is negligible"
    every = " on every split" if pair.by_split else ""
    if pair.by_split and min(pair.a.seeds_each, pair.b.seeds_each) < 2:
        return "One seed on a split does not tell how many seeds would show a difference of this size"
    if pair.needed is None:
        power = pair.difference.power(MOST_SEEDS, pair.level)
        movies = f"{len(pair.a.test[0].ids)} test movies"
        movies += "" if pair.difference.a.retune is None else f" and {len(pair.a.val[0].ids)} val movies"
        where = f"With {movies}" if not every else f"On these {len(pair.by_split)} splits"
        return f"{where}, even {MOST_SEEDS} seeds of each{every} would show this difference in only {power:.0%} of comparisons"
    more = [max(pair.needed - one.seeds_each, 0) for one in (pair.a, pair.b)]
    of = f"{counted(max(more[0], 1), 'more seed')} of each"
    if more[0] != more[1]:
        of = f"{counted(more[0], 'more seed')} of {pair.a.name} and {more[1]} of {pair.b.name}"
    return f"About {of}{every} would be needed to show a difference of this size"


def seeds_command(pair: Pair) -> str | None:
    """Return the commands that train a pair's missing seeds, joined by `; `.

    Return None if the pair is claimed, equal or negligible, has the seeds it needs, or would need more than `MOST_SEEDS`.
    """
    wanted = FEWEST_SEEDS if pair.difference.p is None and not pair.by_split else pair.needed
    if pair.claimed or wanted is None or pair.same or pair.negligible:
        return None
    return "; ".join(filter(None, (more_seeds(e.setting, wanted) for e in (pair.a, pair.b)))) or None


def control_sentence(found: Control) -> str:
    """Return the sentence on a gate and its control, or on gates that lack one."""
    gate = found.gate.name
    if found.control is None:
        names, has = listed([one.name for one in found.alike]), "has" if len(found.alike) == 1 else "have"
        return f"{names} {has} no control. Add fusion={CONTROL}, {ONE_EACH}, to test whether weighing modalities helps"
    who, interval = f"{found.control.name}, {ONE_EACH}", found.interval
    if found.pair is None or interval is None:
        return f"{gate} is not compared with {who}: {found.refused or 'this comparison is against another setting'}"
    if few := too_few(found.pair):
        return f"{gate} cannot be tested against {who}: {few}"
    if found.verdict == "gate":
        return f"{gate} beats {who}, by {points(interval)}: weighing modalities against each other helps here"
    if found.verdict == "control":
        return f"{gate} is beaten by {who}, by {points(interval.negated())}: {NO_BENEFIT}"
    return f"{gate} does not beat {who} ({points(interval)}): {NO_BENEFIT}"


def control_command(found: Control) -> str | None:
    """Return the command that trains a missing control; None if the gate has one."""
    return None if found.control else with_fusion(found.alike[0].setting, CONTROL, OF_EVERY_FUSION)


def is_it_the_gate(comparison: Comparison) -> list[tuple[str, str | None]]:
    """Return each sentence on gates and controls once, with the command for a missing control."""
    return list(dict.fromkeys((control_sentence(one), control_command(one)) for one in comparison.controls))


def summary(comparison: Comparison) -> str:
    """Return the finding over all settings."""
    known = [one for one in comparison.alike if one.known]
    words = ["No difference can be claimed."]
    if known:
        words = [_against(comparison, comparison.against) if comparison.against else _ranking(comparison, known)]
        warned = known[0].setting.warnings
        words += [f"{known[0].name} has warnings: {'; '.join(warned)}."] if warned else []
        if any(found.gate is known[0] and found.control is None for found in comparison.controls):
            words.append(f"Whether its gates are the reason is open: fusion={CONTROL} is missing.")
    if unknown := [one.name for one in comparison.alike if not one.known]:
        words.append(f"{shortened(unknown)} cannot be tested: {TOO_FEW_SPLITS if comparison.splits else TOO_FEW}.")
    if single := sum(bool(pair.on_single_splits) for pair in comparison.pairs):
        words.append(f"{counted(single, 'difference')} {'is' if single == 1 else 'are'} significant on single splits only.")
    if comparison.apart:
        words.append(f"Tested on {OTHERWISE}: {shortened([one.name for one in comparison.apart])}.")
    return " ".join(words)


def _ranking(comparison: Comparison, known: Sequence[ScoredSetting]) -> str:
    """Return the finding over the settings, or for each amount of data if these differ."""
    groups = by_amounts(known)
    if len(groups) == 1:
        return _best(comparison, known)
    found = [f"With {amounts}: {_best(comparison, group)}" for amounts, group in groups.items() if len(group) > 1]
    return " ".join(found) or "Each amount of data has one setting, so there is no ranking."


def _best(comparison: Comparison, known: Sequence[ScoredSetting]) -> str:
    best, *others = known
    if not others:
        refused = {row["a"] for row in comparison.refused if row["a"] == row["b"]}
        more = len(refused) + len(comparison.unscored) + len(comparison.settings) - 1
        if more:
            return (
                f"Only {best.name} can be compared, and {more} other{'s' if more > 1 else ''} cannot, so there is no comparison."
            )
        return f"There is one setting, {best.name}, so there is no comparison."
    if not comparison.letters:
        return "Some pairs are not comparable, so there is no ranking. The reasons are below."
    letters = comparison.letters
    ties = [one.name for one in others if set(letters[one.name]) & set(letters[best.name])]
    beaten = len(others) - len(ties)
    beats = f"beats {'the other setting' if beaten == 1 else f'the other {beaten} settings'}."
    if not ties:
        return f"{best.name} is the best: it {beats}"
    words = f"{best.name} has the highest mean, but does not differ significantly from {shortened(ties)}."
    return f"{words} It {beats}" if beaten else words


def _against(comparison: Comparison, baseline: str) -> str:
    tested = [pair for pair in comparison.pairs if pair.p_holm is not None or pair.same]
    above = [pair.a.name for pair in tested if pair.claimed and pair.b.name == baseline]
    below = [pair.b.name for pair in tested if pair.claimed and pair.a.name == baseline]
    if len(comparison.settings) == 1:
        return f"There is one setting, {baseline}, so there is no comparison."
    if not tested:
        return f"No other setting can be compared with {baseline}."
    words = f"All comparable settings are compared with {baseline} only. "
    words += f"{shortened(above)} beat{'s' if len(above) == 1 else ''} it." if above else "No setting beats it."
    words += f" It beats {shortened(below)}." if below else ""
    rest = len(tested) - len(above) - len(below)
    return words + (f" {rest} do{'es' if rest == 1 else ''} not differ significantly from it." if rest else "")


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the content of comparison.json."""
    return {
        "metric": comparison.metric,
        "movies": len(comparison.settings[0].test[0].ids),  # of the settings in `alike`
        "level": LEVEL,
        "against": comparison.against,
        "caution": caveats(comparison.metric, comparison.settings),
        "comparisons": comparison.family,
        "settings": [_setting_row(one, comparison) for one in comparison.settings],
        "pairs": [pair_row(pair) for pair in comparison.pairs],
        "controls": [_control_row(one) for one in comparison.controls],
        "diagnoses": diagnosis_rows(comparison.diagnoses, comparison.metric),
        "refused": list(comparison.refused),
        "left_out": [{"folder": folder, "why": why} for folder, why in comparison.left],
        "without_scores": [{"name": one.name, "warnings": one.warnings} for one in comparison.unscored],
        **({"splits": splits_of(comparison)} if comparison.splits else {}),
        **({"curves": curve_rows(comparison)} if comparison.curves else {}),
    }


def _setting_row(one: ScoredSetting, comparison: Comparison) -> dict[str, Any]:
    scored = one.scored(comparison.metric)
    bootstrap = dict(zip(("low", "high"), comparison.resampling.interval(scored), strict=True))
    return {
        "name": one.name,
        "seeds": len(one.test),
        "movies": len(one.test[0].ids),
        **scored.interval._asdict(),
        "bootstrap": bootstrap,
        "sd": float(scored.scores.std(ddof=1)) if len(one.test) > 1 else None,
        "val": one.scored(comparison.metric, "val").mean,
        "letters": comparison.letters.get(one.name),
        "warnings": one.setting.warnings,
        "setting": one.setting.key,
        **({"splits": split_rows(one, comparison.metric)} if comparison.splits else {}),
    }


def pair_row(pair: Pair) -> dict[str, Any]:
    """Return a pair's entry of comparison.json."""
    mean, low, high = pair.difference.interval
    return {
        "a": pair.a.name,
        "b": pair.b.name,
        "difference": mean,
        "low": low,
        "high": high,
        "p": pair.difference.p,
        "p_holm": pair.p_holm,
        "effect": pair.difference.effect,
        "superiority": pair.difference.superiority,
        "verdict": pair.verdict,
        "sentence": pair_sentence(pair),
        "bootstrap": pair.tests._asdict(),
        "beside": {metric: d.interval._asdict() | {"p": d.p} for metric, d in pair.companions.items()},
        "val": pair.on_val.interval._asdict() | {"p": pair.on_val.p},
        "only_on_val": pair.only_on_val,
        "seeds_needed": pair.needed,
        "command": seeds_command(pair),
        **(pair_on_splits(pair) if pair.by_split else {}),
    }


def _control_row(one: Control) -> dict[str, Any]:
    mean, low, high = one.interval or (None, None, None)
    names = {"gate": one.gate.name, "control": one.control.name if one.control else None}
    found = names | {"verdict": one.verdict, "sentence": control_sentence(one), "difference": mean, "low": low, "high": high}
    return found | {"p_holm": one.pair.p_holm if one.pair else None, "command": control_command(one)}


def write(comparison: Comparison, folder: Path) -> None:
    """Write comparison.json, comparison.md and figures of curves. Create the folder if necessary.

    Raises ValueError if a number is NaN.
    """
    write_json(folder / "comparison.json", as_json(comparison))
    write_text(folder / "comparison.md", markdown(comparison))
    write_figures(comparison, folder)


def _method(comparison: Comparison) -> str:
    """Return how letters, intervals and p are computed."""
    tuned = ", and between thresholds tuned on other draws of val (bootstrap)" if "@" in comparison.metric else ""
    words = "Settings that share a letter do not differ significantly. " if comparison.letters else ""
    if comparison.letters and len(by_amounts(comparison.alike)) > 1:
        words = "Settings with the same amount of data that share a letter do not differ significantly. "
    words += (
        f"{SPLIT_NOTE}{tuned}. A difference is paired by split. "
        if comparison.splits
        else "Intervals hold the mean over all seeds and all such movies: Student's, over the variance between seeds and between "
        f"movies (infinitesimal jackknife){tuned}. "
    )
    return (
        f"{words}p are Holm's over {counted(comparison.family, 'comparison')}. Fix the number of seeds in advance: adding seeds "
        "until a difference is significant inflates false claims."
    )


def markdown(comparison: Comparison) -> str:
    """Return the content of comparison.md."""
    found, label = as_json(comparison), metric_label(comparison.metric)
    findings = " ".join(filter(None, [summary(comparison), found["caution"]]))
    splits = comparison.splits
    tested = f"over {len(splits)} splits" if splits else f"on {found['movies']} test movies"
    lines = [f"# {label[0].upper()}{label[1:]} {tested}", "", findings, ""]
    apart, table = {one.name for one in comparison.apart}, []
    for one in found["settings"]:
        name = f"{one['name']}, tested otherwise ({one['movies']} movies)" if one["name"] in apart else one["name"]
        interval = ends(Interval(one["mean"], one["low"], one["high"]))
        runs = [str(len(one["splits"])), str(one["seeds"])] if splits else [str(one["seeds"])]
        table.append([name, *runs, f"{one['mean']:.3f}", interval, f"{one['val']:.3f}", one["letters"] or ""])
    head = ["splits", "runs"] if splits else ["seeds"]
    lines += markdown_table(["setting", *head, "mean", "95 % interval", "val", ""], table, (*head, "mean", "val"))
    lines += ["", _method(comparison)]
    if comparison.controls:
        lines += ["", "## Gated fusion against its control", ""]
    for sentence, command in is_it_the_gate(comparison):
        lines += [f"- {sentence}.", *([f"  `{command}`"] if command else [])]
    lines += diagnosis_lines(comparison.diagnoses, comparison.metric)
    if comparison.pairs:
        lines += ["", f"## Against {comparison.against}" if comparison.against else "## Pairs", ""]
    for row in sorted(found["pairs"], key=lambda row: row["verdict"] == "none"):
        lines.append(f"- {row['sentence']}.")
        lines += [f"  {row['only_on_val']} wins on val, and not on test."] if row["only_on_val"] else []
        lines += [f"  `{row['command']}`"] if row["command"] else []
    if splits:
        lines += ["", "## On single splits", "", *(f"- {words}." for words in single_splits(comparison))]
    lines += curve_lines(comparison)
    flagged = [(one["name"], one["warnings"]) for one in found["settings"] + found["without_scores"] if one["warnings"]]
    refused = [row for row in comparison.refused if not row.get("options")]
    for title, rows in (
        ("Warnings", [f"{name}: {warning}" for name, warnings in flagged for warning in warnings]),
        ("Not compared", [*(f"{row['a']} and {row['b']}: {row['why']}" for row in refused), *other_questions(comparison)]),
        ("Left out", [f"{folder}: {why}" for folder, why in comparison.left]),
    ):
        if rows:
            lines += ["", f"## {title}", "", *(f"- {' '.join(row.split())}" for row in rows)]
    return visible("\n".join(lines)) + "\n"
