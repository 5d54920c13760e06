"""The leaderboard, a row per setting: as CSV, Markdown, LaTeX, text for a terminal, and rows for the page."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning.decisions import Task
from gmu_lightning.files import markdown_table, write_rows, write_text
from gmu_lightning.report.comparison import Comparison
from gmu_lightning.report.reproduce import command
from gmu_lightning.report.scoring import (
    ACCURACY,
    COUNTS,
    OTHERWISE,
    SCORES,
    SECONDS,
    ScoredSetting,
    metric_label,
    metrics_of,
    name_for,
)
from gmu_lightning.report.sentences import ends
from gmu_lightning.report.settings import ALWAYS, Setting, by_reason
from gmu_lightning.visible import visible

WIDTH = 120  # characters of the terminal's table; without further columns it has less than 80
ONLY_IN_FILES = ("test macro F1", "params (M)")  # columns that the terminal's table leaves out
READ = {
    "test micro F1": "test/f1_micro",
    "test macro F1": "test/f1_macro",
    "test micro AP": "test/ap_micro",
    "val micro AP": "val/ap_micro",
}
DECISIONS = {"multilabel": "at the threshold 0.5", "multiclass": "of the most probable label"}
LATEX_SCORES = ("f1_micro", "f1_macro", "ap_micro", "ap_macro")
TUNED = ("f1_micro@val", "f1_micro@val_per_genre", "f1_macro@val", "f1_macro@val_per_genre")
PAGE_SCORES = {
    "multilabel": ("f1_micro", "f1_macro", "f1_weighted", "f1_samples", "ap_micro", "ap_macro", *TUNED),
    "multiclass": ("accuracy", "f1_macro", "f1_weighted", "ap_micro", "ap_macro"),  # micro and samples F1 are the accuracy
}
PAGE_NAMES = ("fusion", "modalities")  # the first columns of the page's table, and its filters
SPECIAL = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}
SPECIAL |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
Row = dict[str, Any]


def rows(settings: Iterable[Setting]) -> list[Row]:
    """Return one row per setting, by falling `test/f1_micro/mean`; settings without a finished run come last.

    Columns: `setting`, `modalities`, `fusion` and every other override whose value differs between settings, `seeds` (the number
    of finished runs), `splits` (their number, if some setting has several), `seed_list`, `warnings`, `parameters`,
    `parameters_fusion`, `seconds/mean`, then `<split>/<score>/mean` and `/sd` (ddof 1, over all runs). A mean gives each split
    the same weight. `accuracy` is among the scores if a run is multiclass. None is an empty cell.
    """
    measured = [(one, [metrics_of(run) for run in one.finished]) for one in settings]
    several = any(one.splits for one, _ in measured)
    single = any(ACCURACY[1] in metrics for _, of in measured for metrics in of)
    scores = (*SCORES, *(ACCURACY if single else ()))
    found = [
        {"setting": one.key} | dict(one.values) | _summary(metrics, one.seeds, one.warnings, scores, _weights(one, several))
        for one, metrics in measured
    ]
    ranked = ("test/f1_micro/mean", "val/f1_micro/mean")  # the second decides where test has no labels
    return sorted(found, key=lambda row: [-1.0 if row[name] is None else row[name] for name in ranked], reverse=True)


def _weights(one: Setting, several: bool) -> dict[str, list[float]] | None:
    """Return {split: weight of each of its finished runs}; every split has the same sum. None without several splits."""
    if not several:
        return None
    return {name: [1 / len(part.finished)] * len(part.finished) for name, part in one.splits.items() if part.finished}


def _summary(
    metrics: Sequence[Mapping[str, float]],
    seeds: Sequence[str],
    warnings: Sequence[str],
    scores: Sequence[str] = SCORES,
    weights: Mapping[str, Sequence[float]] | None = None,
) -> Row:
    """Return the columns of results of a setting, from the metrics of its finished runs."""
    seconds = [m[SECONDS] for m in metrics if m[SECONDS] is not None]  # unknown of adopted predictions
    of_run = None if weights is None else [weight for of_split in weights.values() for weight in of_split]
    row: Row = {
        "seeds": len(metrics),
        **({} if weights is None else {"splits": len(weights)}),
        "seed_list": ",".join(seeds),
        "warnings": "; ".join(warnings),
        **{name: metrics[0][key] if metrics else None for name, key in COUNTS.items()},
        "seconds/mean": statistics.fmean(seconds) if seconds else None,
    }
    for score in scores:
        values = [m[score] for m in metrics if score in m]
        whole = len(values) == len(metrics)
        row[f"{score}/mean"] = statistics.fmean(values, of_run if whole else None) if values else None
        row[f"{score}/sd"] = statistics.stdev(values) if len(values) > 1 else None
    return row


def write_leaderboard(
    folder: Path,
    rows: Sequence[Row],
    skipped: Sequence[tuple[str, str]] = (),
    failed: Sequence[tuple[str, str]] = (),
    unfair: str | None = None,
    interrupted: Sequence[tuple[str, str]] = (),
) -> None:
    """Write leaderboard.csv, with unrounded numbers, and leaderboard.md.

    Args:
        rows: those of `rows()`.
        skipped: name and reason of every skipped job; `failed` and `interrupted` likewise.
        unfair: the sentence on further differences between the settings.
    """
    if rows:
        write_rows(folder / "leaderboard.csv", rows)
    else:
        write_text(folder / "leaderboard.csv", ",".join(["setting", *ALWAYS, *_summary([], [], [])]) + "\n")
    lines = ["# Leaderboard", ""]
    if rows:
        task = _task(rows)
        spread = (*SCORES, *ACCURACY)
        numbers = _numbers(rows[0], 4, spread, task)
        cells = [_names(row) | _numbers(row, 4, spread, task) | {"warnings": row["warnings"]} for row in rows]
        lines += markdown_table(list(cells[0]), [list(row.values()) for row in cells], numbers)
        how = f"scores are fractions {DECISIONS[task]}"
        over = "all runs, each split with the same weight" if "splits" in rows[0] else "seeds"
        lines += ["", f"Mean ± standard deviation over {over}; {how}; seconds are wall-clock."]
    else:
        lines += ["No run finished or failed."]
    lines += [line for note in (*([unfair] if unfair else []), *_equal_by_definition(rows)) for line in ("", note)]
    for state, jobs in {"Skipped": skipped, "Failed": failed, "Interrupted": interrupted}.items():
        reasons = [
            f"- {why} ({', '.join(f'`{name}`' for name in dict.fromkeys(names))})" for why, names in by_reason(jobs).items()
        ]
        lines += ["", f"## {state}", "", *reasons] if reasons else []
    write_text(folder / "leaderboard.md", visible("\n".join(lines)) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Return the leaderboard as plain text of at most 120 columns, and a line on rows that are equal by definition."""
    if not rows:
        return "no run finished or failed: there is nothing to compare"
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    warned, task = any(row["warnings"] for row in rows), _task(rows)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in _names(rows[0]):
        shown.add_column(Text(visible(name)), overflow="fold", no_wrap=name in ALWAYS)
    if warned:
        shown.add_column(Text("warnings"), overflow="fold")
    for name in _numbers(rows[0], 3, (), task):
        if name not in ONLY_IN_FILES:
            shown.add_column(Text(name.replace(" ", "\n")), justify="right", no_wrap=True)
    for row in rows:
        found = _numbers(row, 3, ("test/f1_micro", "test/accuracy"), task)
        scores = [value for name, value in found.items() if name not in ONLY_IN_FILES]
        cells = [*_names(row).values(), *([_codes(row)] if warned else []), *scores]
        shown.add_row(*(Text(visible(cell)) for cell in cells))
    text = io.StringIO()
    Console(file=text, width=WIDTH, color_system=None).print(shown)
    lines = [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]
    return "\n".join([*lines, *_equal_by_definition(rows)])


def _names(row: Row) -> dict[str, str]:
    """Return the columns that define a setting: those between `setting` and `seeds`."""
    keys = list(row)
    return {key: row[key] or "" for key in keys[1 : keys.index("seeds")]}


def _task(rows: Sequence[Row]) -> Task:
    """Return `multiclass` if every row with a finished run is multiclass, and `multilabel` otherwise."""
    known = [row for row in rows if row["seeds"]]
    several = [row for row in known if row.get(f"{ACCURACY[1]}/mean") is None]
    return "multilabel" if several or not known else "multiclass"


def _numbers(row: Row, digits: int, spread: Collection[str], task: Task) -> dict[str, str]:
    """Return the columns of results, rounded; scores in `spread` carry their standard deviation."""

    def score(name: str) -> str:
        sd = row[f"{name}/sd"]
        return _rounded(row[f"{name}/mean"], digits) + (f" ± {sd:.{digits}f}" if name in spread and sd is not None else "")

    parameters = row["parameters"]
    return {
        **({"splits": str(row["splits"]), "runs": str(row["seeds"])} if "splits" in row else {"seeds": str(row["seeds"])}),
        **{label: score(name) for label, name in _read(task).items()},
        "params (M)": _rounded(None if parameters is None else parameters / 1e6, 2),
        "seconds": _rounded(row["seconds/mean"], 1),
    }


def _read(task: Task) -> dict[str, str]:
    """Return {label: score} of the printed scores."""
    if task == "multilabel":
        return READ
    return {"test accuracy": "test/accuracy"} | {label: score for label, score in READ.items() if score != "test/f1_micro"}


def _rounded(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _codes(row: Row) -> str:
    """Return the codes of a row's warnings, such as `flat_loss 2/3, failed 1/3`."""
    short = []
    for warning in filter(None, row["warnings"].split("; ")):
        count = re.search(r" \((\d+) of (\d+) (?:seeds|runs)\)$", warning)
        code = re.match(r"\w+(?=: )", warning)
        short.append((code[0] if code else "other") + (f" {count[1]}/{count[2]}" if count else ""))
    return ", ".join(short)


def _equal_by_definition(rows: Sequence[Row]) -> Iterator[str]:
    """Explain why two rows agree: with two modalities the hierarchical gate is the original one."""
    means = [f"{score}/mean" for score in SCORES]
    for one, other in product(rows, rows):
        if (one["fusion"], other["fusion"]) != ("gmu_hier", "gmu_original") or None in (one[means[0]], other[means[0]]):
            continue
        same = all(one[key] == other[key] for key in (*_names(one), "seed_list") if key != "fusion")
        two = one["modalities"].count("+") == 1
        if two and same and all(abs(one[mean] - other[mean]) <= 1e-6 for mean in means):
            yield (
                f"`gmu_hier` equals `gmu_original` on {one['modalities']} by definition: with two modalities the first takes "
                "its gate and the second what is left, which is the tied gate of the bimodal unit. These two rows are one result."
            )


def latex(comparison: Comparison) -> str:
    """Return the leaderboard as a LaTeX table (booktabs), in per cent.

    Each cell holds mean and standard deviation over seeds, with the best mean of each column in bold. Equal letters mark ties.
    """
    settings = comparison.alike
    scores = [name_for(score, comparison.task) for score in LATEX_SCORES]
    best = {score: max(one.scored(score).mean for one in settings) for score in scores}
    labels = [label[0].upper() + label[1:] for label in map(metric_label, scores)]
    head = ["Fusion", "Modalities", "Runs" if comparison.splits else "Seeds", *map(latex_escaped, labels), ""]
    lines = [r"% \usepackage{booktabs}", r"\begin{tabular}{llr" + "r" * len(scores) + "l}", r"\toprule"]
    lines += [" & ".join(head) + r" \\", r"\midrule"]
    for one in settings:
        values = one.setting.values
        more = [f"{key}={value}" for key, value in values.items() if key not in PAGE_NAMES and value is not None]
        cells = [*map(latex_escaped, (" ".join([str(values["fusion"]), *more]), str(values["modalities"]))), str(len(one.test))]
        cells += [_latex_score(one, score, best[score]) for score in scores]
        letters = comparison.letters.get(one.name, "")
        lines.append(" & ".join([*cells, f"${{}}^{{{letters}}}$" if letters else ""]) + r" \\")
    how = {"multilabel": "threshold 0.5", "multiclass": "decisions for the most probable label"}[comparison.task]
    tested, over = f"on {len(settings[0].test[0].ids)} test movies", "seeds"
    if comparison.splits:
        tested, over = f"over {len(comparison.splits)} splits", "all runs"
    note = f"Per cent {tested}, mean and standard deviation over {over}; {how}."
    if comparison.letters:
        note += f" Settings that share a letter do not differ significantly in {metric_label(comparison.metric)} (Holm, 5 \\%)."
    notes = [f"Not compared: {row['a']} and {row['b']}: {row['why']}." for row in comparison.refused]
    if comparison.apart:
        notes.append(f"Left out, being tested on {OTHERWISE}: {', '.join(one.name for one in comparison.apart)}.")
    notes += [f"Warning of {one.name}: {warning}." for one in settings for warning in one.setting.warnings]
    return (
        "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *(f"% {text}" for text in [note, *map(latex_escaped, notes)])])
        + "\n"
    )


def _latex_score(one: ScoredSetting, score: str, best: float) -> str:
    scores, found = 100 * one.scored(score).scores, one.scored(score).mean
    mean = f"{100 * found if one.splits else scores.mean():.1f}"
    mean = rf"\textbf{{{mean}}}" if found == best else mean
    return mean + (f" $\\pm$ {np.std(scores, ddof=1):.1f}" if len(scores) > 1 else "")


def latex_escaped(words: str) -> str:
    """Return text in one line that LaTeX prints unchanged."""
    return re.sub(r"[&%$#_{}~^\\]", lambda found: SPECIAL[found[0]], " ".join(words.split()))


def page_table(comparison: Comparison, published: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the page's leaderboard, best first: measured settings with intervals, and published rows marked as such.

    Args:
        published: rows of published.yaml, each with its `source`.
    """
    keys = [*PAGE_NAMES, *(key for key in comparison.settings[0].setting.values if key not in PAGE_NAMES)]
    also = [score for score in PAGE_SCORES[comparison.task] if score != comparison.metric]
    rows = [_measured(one, comparison, keys, also) for one in comparison.settings]
    for row in published:
        names, scores = [str(row.get(key, "")) for key in keys], [row.get(score) for score in also]
        absent = {**dict.fromkeys(("seeds", "splits", "parameters", "seconds")), "interval": "", "letters": "", "command": ""}
        mean, remarks = row.get(comparison.metric), row["source"]
        rows.append({**absent, "names": names, "mean": mean, "scores": scores, "published": True, "remarks": remarks})
    for row in rows:
        row["filter"] = dict(zip(PAGE_NAMES, row["names"], strict=False))
    rows.sort(key=lambda row: -np.inf if row["mean"] is None else row["mean"], reverse=True)
    filters = {key: list(dict.fromkeys(row["filter"][key] for row in rows if not row["published"])) for key in PAGE_NAMES}
    labels = [{"label": metric_label(score), "more": score not in (*LATEX_SCORES, "accuracy")} for score in also]
    notes = list(dict.fromkeys(row["remarks"] for row in rows if row["remarks"]))
    for row in rows:
        row["note"] = notes.index(row["remarks"]) + 1 if row["remarks"] else None
    found = {"names": keys, "scores": labels, "rows": rows, "filters": filters, "published": bool(published), "notes": notes}
    return found | {"splits": bool(comparison.splits)}


def _measured(one: ScoredSetting, comparison: Comparison, keys: Sequence[str], also: Sequence[str]) -> Row:
    apart = [f"tested on {OTHERWISE} ({len(one.test[0].ids)} movies)"] if one in comparison.apart else []
    row = _summary([metrics_of(run) for run in one.setting.finished], one.setting.seeds, [*apart, *one.setting.warnings])
    return {
        "names": [one.setting.values.get(key) or "" for key in keys],
        "mean": one.scored(comparison.metric).mean,
        "scores": [one.scored(score).mean if one.has(score) else None for score in also],
        "published": False,
        "seeds": row["seeds"],
        "splits": sum(bool(part.finished) for part in one.setting.splits.values()),
        "interval": ends(one.scored(comparison.metric).interval),
        "letters": comparison.letters.get(one.name, ""),
        "command": command(one.setting, [int(seed) for seed in one.setting.seeds]),
        "parameters": row["parameters"],
        "seconds": row["seconds/mean"],
        "remarks": row["warnings"],
    }
