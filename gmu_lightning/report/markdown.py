"""A comparison's files: comparison.json for programs, comparison.md for reading."""

from __future__ import annotations

from pathlib import Path

from gmu_lightning.files import write_json, write_text
from gmu_lightning.report.comparison import Comparison
from gmu_lightning.report.evidence import said
from gmu_lightning.report.leaderboard import escaped
from gmu_lightning.report.verdicts import counted
from gmu_lightning.visible import visible


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
        " ".join(filter(None, [comparison.verdict, comparison.caution])),
        "",
        "| setting | seeds | mean | 95 % interval | val | |",
        "|---|---:|---:|---|---:|---|",
    ]
    apart = {one.name for one in comparison.apart}
    for one in found["settings"]:
        name = f"{one['name']}, tested otherwise ({one['movies']} movies)" if one["name"] in apart else one["name"]
        ends = "too few seeds or movies" if one["low"] is None else f"[{one['low']:.3f}, {one['high']:.3f}]"
        lines.append(
            f"| {escaped(name)} | {one['seeds']} | {one['mean']:.3f} | {ends} | {one['val']:.3f} | {one['letters'] or ''} |"
        )
    lines += [
        "",
        ("Settings that share a letter cannot be told apart. " if comparison.letters else "")
        + "Intervals hold the mean over all seeds and all such movies: "
        f"Student's, over the variance between seeds and between movies (infinitesimal jackknife){_tuned(comparison)}. p are "
        "Holm's over "
        f"{counted(comparison.family, 'comparison')}. Whoever adds seeds until something shows claims too much: settle their "
        "number once.",
    ]
    if comparison.controls:
        lines += ["", "## Is it the gate?", ""]
    for sentence, command in is_it_the_gate(comparison):
        lines.append(f"- {sentence}.")
        if command:
            lines.append(f"  `{command}`")
    if comparison.pairs:
        lines += ["", f"## Against {comparison.against}" if comparison.against else "## Pairs", ""]
    for pair in sorted(comparison.pairs, key=lambda pair: not pair.claimed):
        lines.append(f"- {pair.sentence}.")
        if pair.only_on_val:
            lines.append(f"  {pair.only_on_val} wins on val, and not on test.")
        if pair.command:
            lines.append(f"  `{pair.command}`")
    flagged = [(one["name"], one["warnings"]) for one in found["settings"] + found["without_scores"] if one["warnings"]]
    for title, rows in (
        ("Warnings", [f"{name}: {warning}" for name, warnings in flagged for warning in warnings]),
        ("Not compared", [f"{row['a']} and {row['b']}: {row['why']}" for row in comparison.refused]),
        ("Left out", [f"{folder}: {why}" for folder, why in comparison.left]),
    ):
        if rows:
            lines += ["", f"## {title}", "", *(f"- {' '.join(row.split())}" for row in rows)]
    return visible("\n".join(lines)) + "\n"


def is_it_the_gate(comparison: Comparison) -> list[tuple[str, str | None]]:
    """Return the sentences on gates and their controls, each once, with the command that adds what is missing."""
    return list(dict.fromkeys((control.sentence, control.command) for control in comparison.controls))


def _tuned(comparison: Comparison) -> str:
    return ", and between thresholds tuned on other draws of val (bootstrap)" if "@" in comparison.metric else ""
