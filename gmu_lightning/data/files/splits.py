"""Assign records to train, val and test by a column, and read the shares of a split that is drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gmu_lightning.data.readers.tables import RecordTable
from gmu_lightning.movie import SPLITS, UserError

NAMES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
SHARES = re.compile(r"(0?\.\d+|0|1)/(0?\.\d+|0|1)/(0?\.\d+|0|1)", re.ASCII)
DEFAULT = "0.7/0.1/0.2"
FORM = "shares of train, val and test that add up to 1, such as 0.7/0.1/0.2, or column"


def by_column(table: RecordTable, column: str, rows: Sequence[int]) -> dict[int, str | None]:
    """Return {row: its split}, None where the cell is empty.

    Args:
        table: as read.
        column: name of the column of splits.
        rows: to assign.

    Raises:
        UserError: a cell names no split, or a split has no row.
    """
    cells = table.columns[column]
    found: dict[int, str | None] = {}
    for n in rows:
        text = "" if cells[n] is None else str(cells[n]).strip().lower()
        if text and text not in NAMES:
            raise UserError(
                f"{table.path}: {table.place(n)} has {column}={text[:40]}, expected train, val (or dev) or test: name the splits "
                f"so, or draw them, as in data.split={DEFAULT}"
            )
        found[n] = NAMES.get(text)
    lacking = [split for split in SPLITS if split not in found.values()]
    if lacking:
        raise UserError(
            f"{table.path}: column {column} has no row of {' and '.join(lacking)}: mark some rows so, or draw the splits, as in "
            f"data.split={DEFAULT}"
        )
    return found


def shares_of(text: str) -> tuple[float, float, float]:
    """Return the shares of train, val and test in a text such as `0.7/0.1/0.2`. Raises UserError."""
    match = SHARES.fullmatch(text.strip())
    shares = tuple(map(float, match.groups())) if match else ()
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"data.split={text} is no split: give {FORM}")
    return shares
