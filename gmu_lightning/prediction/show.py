"""Show the prediction of one movie on a terminal."""

from __future__ import annotations

import numpy as np

from gmu_lightning.prediction.results import Results

FEWEST = 5  # genres that are shown, also if fewer are predicted


def shown(results: Results) -> str:
    """Return the predicted genres of the first row in words, and a table of the most probable ones.

    The table has the probability, for several runs its standard deviation, and for each modality its contribution to the logit.
    """
    form, probabilities = results.form, results.probabilities[0]
    genres = results.genres[0] or []
    first = np.argsort(-probabilities, kind="stable")[: max(FEWEST, len(genres))]
    head = ["genre", "probability"]
    columns = [[form.genres[c] for c in first], [f"{probabilities[c]:.3f}" for c in first]]
    if results.spread is not None:
        head.append("sd of runs")
        columns.append([f"{results.spread[0, c]:.3f}" for c in first])
    lines = [
        ", ".join(form.genres[c] for c in first if form.genres[c] in genres) if genres else "no genre reaches the threshold",
        "",
    ]
    if results.contributions is not None:
        used = [i for i, there in enumerate(results.present[0]) if there]
        head += [form.modalities[i] for i in used]
        columns += [[f"{results.contributions[0, i, c]:+.2f}" for c in first] for i in used]
    widths = [max(map(len, [name, *column])) for name, column in zip(head, columns, strict=True)]
    for cells in (head, *zip(*columns, strict=True)):
        padded = [
            cell.rjust(width) if n else cell.ljust(width) for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    if results.contributions is not None:
        lines += ["", f"{' and '.join(head[-len(used) :])}: contribution to the logit, which is their sum plus the genre's bias"]
    if results.problems[0]:
        lines += ["", f"problem: {results.problems[0]}"]
    return "\n".join(lines)
