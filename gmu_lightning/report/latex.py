"""The leaderboard as a LaTeX table for a paper (booktabs)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from gmu_lightning.report.comparison import OTHERWISE, Comparison
from gmu_lightning.report.evidence import Evidence, said

SCORES = ("f1_micro", "f1_macro", "ap_micro", "ap_macro")
SPECIAL = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}
SPECIAL |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}


def latex(comparison: Comparison) -> str:
    """Mean and standard deviation over seeds in per cent, best mean of each column bold; equal letters: not told apart."""
    settings = comparison.alike
    means = {score: [one.scored(score).mean for one in settings] for score in SCORES}
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{llr" + "r" * len(SCORES) + "l}",
        r"\toprule",
        " & ".join(
            [
                "Fusion",
                "Modalities",
                "Seeds",
                *(escaped(said(score).replace("micro", "Micro").replace("macro", "Macro")) for score in SCORES),
                "",
            ]
        )
        + r" \\",
        r"\midrule",
    ]
    for one in settings:
        cells = [escaped(word) for word in _names(one)] + [str(len(one.test))]
        cells += [_cell(one, score, best=one.scored(score).mean == max(means[score])) for score in SCORES]
        letters = comparison.letters.get(one.name, "")
        lines.append(" & ".join([*cells, f"${{}}^{{{letters}}}$" if letters else ""]) + r" \\")
    movies = len(settings[0].test[0].ids)
    note = f"Per cent on {movies} test movies, mean and standard deviation over seeds; threshold 0.5."
    if comparison.letters:
        note += f" Settings that share a letter cannot be told apart in {said(comparison.metric)} (Holm, 5 \\%)."
    notes = [note, *(f"Not compared: {row['a']} and {row['b']}: {row['why']}." for row in comparison.refused)]
    if comparison.apart:
        notes.append(f"Left out, being tested on {OTHERWISE}: {', '.join(one.name for one in comparison.apart)}.")
    notes += [f"Warning of {one.name}: {warning}." for one in settings for warning in one.setting.warnings]
    notes = [f"% {note if n == 0 else escaped(note)}" for n, note in enumerate(notes)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *notes]) + "\n"


def _names(one: Evidence) -> Sequence[str]:
    values = one.setting.values
    more = [f"{key}={value}" for key, value in values.items() if key not in ("fusion", "modalities") and value is not None]
    return [" ".join([str(values["fusion"]), *more]), str(values["modalities"])]


def _cell(one: Evidence, score: str, best: bool) -> str:
    scores = 100 * one.scored(score).scores
    mean = f"{scores.mean():.1f}"
    spread = f" $\\pm$ {np.std(scores, ddof=1):.1f}" if len(scores) > 1 else ""
    return (rf"\textbf{{{mean}}}" if best else mean) + spread


def escaped(words: str) -> str:
    """Text that LaTeX prints as it stands, in one line."""
    return re.sub(r"[&%$#_{}~^\\]", lambda found: SPECIAL[found[0]], " ".join(words.split()))
