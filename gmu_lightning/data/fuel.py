"""The attribute `split` of an HDF5 file, as the library Fuel writes it: which rows belong to which split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning.data.layouts import FILE_NAMES
from gmu_lightning.movie import SPLITS, UserError

FIELDS = ("split", "source", "start", "stop")  # and `available`, `indices`, `comment`, which may be absent
EXPECTED = "the table that fuel's H5PYDataset.create_split_array makes of train, dev and test"


def own_split(file: Any, path: Path) -> dict[str, list[int]] | None:
    """Return the rows of each split, or None where the file has no attribute `split`.

    A row of the attribute gives a split, a source (a data set of the file), and the source's rows in this split. They are
    `start` to `stop`, or the list behind the reference `indices`. All sources of one split must have the same rows.

    Raises:
        UserError: the attribute is no such table, lacks a split, names rows that the file lacks, or disagrees with itself.
    """
    try:
        table = file.attrs.get("split")
    except (OSError, TypeError, ValueError) as damage:
        raise UserError(f"{path}: its attribute split cannot be read ({damage}): write {EXPECTED} again.") from damage
    if table is None:
        return None
    names = getattr(getattr(table, "dtype", None), "names", None) or ()
    if np.ndim(table) != 1 or any(field not in names for field in FIELDS):
        raise UserError(f"{path}: its attribute split has no rows of {', '.join(FIELDS)}: expected {EXPECTED}.")
    count = len(file["imdb_ids"])
    found: dict[str, list[int]] = {}
    for entry in table:
        if "available" in names and not np.all(entry["available"]):
            continue
        name, source = _word(entry["split"]), _word(entry["source"])
        rows = _rows(file, entry, names, f"{path}: its attribute split gives {name} {source}", count)
        if found.setdefault(name, rows) != rows:
            raise UserError(
                f"{path}: its attribute split gives {name} other rows in {source} than elsewhere: expected {EXPECTED}."
            )
    return {split: _rows_of(split, found, path) for split in SPLITS}


def _rows(file: Any, entry: Any, names: tuple[str, ...], what: str, count: int) -> list[int]:
    try:
        listed = "indices" in names and bool(entry["indices"])
        start, stop = (int(np.ravel(entry[field])[0]) for field in ("start", "stop"))
        rows = [int(row) for row in np.ravel(file[entry["indices"]][...])] if listed else None
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as damage:
        raise UserError(f"{what} rows that cannot be read ({damage}): expected {EXPECTED}.") from damage
    inside = 0 <= start <= stop <= count if rows is None else all(0 <= row < count for row in rows)
    if not inside:
        given = f"{start} to {stop}" if rows is None else f"{min(rows)} to {max(rows)}"
        raise UserError(f"{what} the rows {given}, and the file has {count}: expected {EXPECTED}.")
    return list(range(start, stop)) if rows is None else rows


def _rows_of(split: str, found: dict[str, list[int]], path: Path) -> list[int]:
    rows = next((found[name] for name in FILE_NAMES[split] if name in found), None)
    if not rows:
        raise UserError(
            f"{path}: its attribute split has no rows for {' or '.join(FILE_NAMES[split])}, "
            f"only for {', '.join(found) or 'nothing'}: expected {EXPECTED}."
        )
    return rows


def _word(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
