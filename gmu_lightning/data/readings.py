"""How the columns of a table of metadata were read, and which cells did not fit: noted in the audit, and printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from gmu_lightning.data.module import MovieData
from gmu_lightning.movie import SPLITS


def note_cells(data: MovieData, modality: str, columns: Mapping[str, Mapping[str, Any]]) -> None:
    """Note in a data set's audit how each column was read, and each cell that did not fit.

    A column that loses more than a tenth of a split's cells is a warning.

    Args:
        columns: {column: {"read_as", "why", "words", "filled": [row, ...], "unfit": {row: why}}}.
    """
    for name, column in columns.items():
        filled, unfit = Counter(data.split_of[column["filled"]]), Counter(data.split_of[list(column["unfit"])])
        counts = {s: {"filled": filled[s], "missing": len(data.rows(s)) - filled[s], "unfit": unfit[s]} for s in SPLITS}
        data.cells[name] = {**{key: column[key] for key in ("read_as", "why", "words")}, **counts}
        for row, why in column["unfit"].items():
            movie, split = data.movies[row], str(data.split_of[row])
            data.audit.add(movie.id, data.file_of(movie, split, modality), split, "bad_cell", "kept", f"column {name}: {why}")
        lost = [f"{unfit[s]} of {filled[s]} in {s}" for s in SPLITS if 10 * unfit[s] > filled[s]]
        if lost:
            data.warnings.append(
                f"bad_cell: column {name} of {modality} is read as {column['read_as']}, by the majority of the train split "
                f"it was learned from; cells that do not fit are missing ({', '.join(lost)}), and audit.json names them."
            )


def columns_summary(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each way in which columns are read, such as `columns read as numbers: year, budget`."""
    ways: dict[str, list[str]] = {}
    for name, column in cells.items():
        known = column["why"] if column["words"] is None else f"{column['words']} word{'s' * (column['words'] != 1)}"
        ways.setdefault(column["read_as"], []).append(f"{name} ({known})" if known else name)
    return [f"columns {'' if way == 'left out' else 'read as '}{way}: {', '.join(names)}" for way, names in ways.items()]
