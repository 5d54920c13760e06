"""A row per setting: the mean and spread of its seeds, and what was wrong with them."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from gmu_lightning.files import write_rows, write_text
from gmu_lightning.movie import UserError
from gmu_lightning.report.settings import ALWAYS, Setting, settings_of
from gmu_lightning.run import Run
from gmu_lightning.run_files.shapes import is_number
from gmu_lightning.visible import visible

SCORES = tuple(
    f"{split}/{score}"
    for split in ("test", "val")
    for score in ("f1_micro", "f1_macro", "f1_weighted", "f1_samples", "ap_micro", "ap_macro")
)
COUNTS = {"parameters": "parameters/total", "parameters_fusion": "parameters/fusion"}
SECONDS = "seconds/total"
WIDTH = 120  # characters of the console's table
Row = dict[str, Any]
Cell = Callable[[Row], str]


def rows(runs: Sequence[Run]) -> list[Row]:
    """One row per setting, `test/f1_micro/mean` falling, settings without a finished run last.

    Columns: `setting`, `modalities`, `fusion` and every other override whose value differs between settings, `seeds` (how many
    finished), `seed_list`, `warnings`, `parameters`, `parameters_fusion`, `seconds/mean`, then `<split>/<score>/mean` and `/sd`
    (ddof 1). None is an empty cell. Two runs of one identity count once; skipped and unended ones do not count.
    """
    return rows_of(settings_of(runs))


def rows_of(settings: Iterable[Setting]) -> list[Row]:
    """The rows of these settings."""
    found = [{"setting": one.key} | dict(one.values) | _summary(one.finished, one.seeds, one.warnings) for one in settings]
    ranked = ("test/f1_micro/mean", "val/f1_micro/mean")  # the second alone where test has no labels
    return sorted(found, key=lambda row: [-1.0 if row[name] is None else row[name] for name in ranked], reverse=True)


def write_leaderboard(
    folder: Path,
    rows: Sequence[Row],
    skipped: Sequence[tuple[str, str]] = (),
    failed: Sequence[tuple[str, str]] = (),
    unfair: str | None = None,
    interrupted: Sequence[tuple[str, str]] = (),
) -> None:
    """leaderboard.csv, nothing rounded, and leaderboard.md, for reading.

    Args:
        rows: those of `rows()`.
        skipped: name and reason of every job that was skipped.
        failed: name and reason of every job that failed.
        unfair: what else the settings differ in; None if in nothing.
        interrupted: name and reason of every job that Ctrl-C ended.
    """
    if rows:
        write_rows(folder / "leaderboard.csv", rows)
    else:
        write_text(folder / "leaderboard.csv", ",".join(["setting", *ALWAYS, *_summary([], [], [])]) + "\n")
    others = {"Skipped": skipped, "Failed": failed, "Interrupted": interrupted}
    write_text(folder / "leaderboard.md", _markdown(rows, others, unfair))


def table(rows: Sequence[Row]) -> str:
    """The leaderboard as plain text, at most 120 characters wide, and a line on rows that are equal by definition."""
    if not rows:
        return "no run finished or failed: there is nothing to compare"
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names, numbers = _names(rows), _numbers(digits=3, spread=("test/f1_micro",))
    notes: dict[str, Cell] = {"warnings": _codes} if any(row["warnings"] for row in rows) else {}
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        shown.add_column(Text(visible(name)), overflow="fold", no_wrap=name in ALWAYS)
    for name in notes:
        shown.add_column(Text(name), overflow="fold")
    for name in numbers:
        shown.add_column(Text(name.replace(" ", "\n")), justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(*(Text(visible(cell(row))) for cell in {**names, **notes, **numbers}.values()))
    text = io.StringIO()
    Console(file=text, width=WIDTH, color_system=None).print(shown)
    lines = [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]
    return "\n".join([*lines, *_equal_by_definition(rows)])


def metrics_of(run: Run) -> dict[str, float]:
    """A finished run's metrics.json. Raises UserError where it lacks what a leaderboard shows."""
    found = run.metrics
    scores = [key for key in SCORES if not (key.startswith("test/") and found.get("test/movies_with_genre") == 0)]
    lacking = [key for key in (*COUNTS.values(), SECONDS, *scores) if not is_number(found.get(key))]
    if lacking:
        raise UserError(f"{run / 'metrics.json'} lacks {', '.join(lacking[:3])}: leave this run out, or train it again")
    return found


def _summary(finished: Sequence[Run], seeds: Sequence[str], warnings: Sequence[str]) -> Row:
    """The columns of one setting that are numbers and warnings."""
    metrics = [metrics_of(run) for run in finished]
    row: Row = {
        "seeds": len(finished),
        "seed_list": ",".join(seeds),
        "warnings": "; ".join(warnings),
        **{name: metrics[0][key] if metrics else None for name, key in COUNTS.items()},
        "seconds/mean": statistics.fmean(m[SECONDS] for m in metrics) if metrics else None,
    }
    for score in SCORES:
        values = [m[score] for m in metrics if score in m]
        row[f"{score}/mean"] = statistics.fmean(values) if values else None
        row[f"{score}/sd"] = statistics.stdev(values) if len(values) > 1 else None
    return row


def _names(rows: Sequence[Row]) -> dict[str, Cell]:
    """What a setting is: the columns between `setting` and `seeds`."""
    keys = list(rows[0])
    return {key: partial(_text, key) for key in keys[1 : keys.index("seeds")]}


def _numbers(digits: int, spread: Sequence[str]) -> dict[str, Cell]:
    """What a setting reached, for reading; the scores in `spread` with their standard deviations."""
    scores = {
        "test micro F1": "test/f1_micro",
        "test macro F1": "test/f1_macro",
        "test micro AP": "test/ap_micro",
        "val micro AP": "val/ap_micro",
    }
    return {
        "seeds": lambda row: str(row["seeds"]),
        **{name: partial(_score, score, digits, score in spread) for name, score in scores.items()},
        "params (M)": partial(_scaled, "parameters", 1e6, 2),
        "seconds": partial(_scaled, "seconds/mean", 1.0, 1),
    }


def _text(key: str, row: Row) -> str:
    return row[key] or ""


def _scaled(key: str, unit: float, digits: int, row: Row) -> str:
    return "-" if row[key] is None else f"{row[key] / unit:.{digits}f}"


def _score(score: str, digits: int, spread: bool, row: Row) -> str:
    sd = row[f"{score}/sd"]
    return _scaled(f"{score}/mean", 1.0, digits, row) + (f" ± {sd:.{digits}f}" if spread and sd is not None else "")


def _codes(row: Row) -> str:
    """`flat_loss 2/3, failed 1/3`: the sentences stand in the files."""
    short = []
    for warning in filter(None, row["warnings"].split("; ")):
        count = re.search(r" \((\d+) of (\d+) seeds\)$", warning)
        code = re.match(r"\w+(?=: )", warning)
        short.append((code[0] if code else "other") + (f" {count[1]}/{count[2]}" if count else ""))
    return ", ".join(short)


def _markdown(rows: Sequence[Row], others: Mapping[str, Sequence[tuple[str, str]]], unfair: str | None) -> str:
    lines = ["# Leaderboard", ""]
    if rows:
        names, numbers = _names(rows), _numbers(digits=4, spread=SCORES)
        columns: dict[str, Cell] = {**names, **numbers, "warnings": partial(_text, "warnings")}
        lines += [_line(columns), _line("---:" if name in numbers else "---" for name in columns)]
        lines += [_line(cell(row) for cell in columns.values()) for row in rows]
        lines += [
            "",
            "Mean ± standard deviation over seeds; scores are fractions, at the threshold 0.5; seconds are a run's wall-clock.",
        ]
    else:
        lines += ["No run finished or failed."]
    lines += [line for note in (*([unfair] if unfair else []), *_equal_by_definition(rows)) for line in ("", note)]
    for state, jobs in others.items():
        reasons: dict[str, list[str]] = {}
        for name, why in jobs:
            reasons.setdefault(why, []).append(f"`{name}`")
        if jobs:
            lines += ["", f"## {state}", "", *(f"- {why} ({', '.join(names)})" for why, names in reasons.items())]
    return visible("\n".join(lines)) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(map(escaped, cells)) + " |"


def escaped(cell: str) -> str:
    """What stands in one cell of a Markdown table, whatever it is."""
    return cell.replace("|", "\\|").replace("\n", " ")


def _equal_by_definition(rows: Sequence[Row]) -> Iterator[str]:
    """Why two rows are the same: with two modalities the hierarchical gate is the original one."""
    means = [f"{score}/mean" for score in SCORES]
    for one, other in product(rows, rows):
        if (one["fusion"], other["fusion"]) != ("gmu_hier", "gmu_original") or None in (one[means[0]], other[means[0]]):
            continue
        same = all(one[key] == other[key] for key in (*_names(rows), "seed_list") if key != "fusion")
        two = one["modalities"].count("+") == 1
        if two and same and all(abs(one[mean] - other[mean]) <= 1e-6 for mean in means):
            yield (
                f"`gmu_hier` equals `gmu_original` on {one['modalities']} by definition: with two modalities the first takes "
                "its gate and the second what is left, which is the tied gate of the bimodal unit. These two rows are one result."
            )
