"""Read tables of metadata, such as year, countries and keywords, from CSV or JSON lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gmu_lightning.cells import Cell, read, whole
from gmu_lightning.data.readers.strings import text_in
from gmu_lightning.data.readers.tables import read_csv
from gmu_lightning.movie import UserError

ID = "id"

Table = dict[str, dict[str, Cell]]


def read_table(path: Path, leave_out: Sequence[str] = ()) -> Table:
    """Read a table of metadata.

    Args:
        path: a `.csv` with a header, or JSON lines; one column is `id`.
        leave_out: names of columns to ignore.

    Returns:
        {id: {column: cell as `cells.read` returns it}}, in the order of the file. Every row has all columns but `id`.

    Raises:
        UserError: the file cannot be read or has no rows, an id is missing or repeated, or there is no column of `leave_out`.
    """
    try:
        rows = _csv_rows(path) if path.suffix == ".csv" else _json_rows(path)
    except (OSError, ValueError, RecursionError) as broken:
        raise UserError(f"{path} cannot be read ({broken}): expected a row per movie, one column of it named id.") from broken
    if not rows:
        raise UserError(f"{path} has no rows: expected one per movie.")
    ids = [_id(row, f"{path}, row {n}") for n, row in enumerate(rows, start=1)]
    twice = next((id for id, times in Counter(ids).items() if times > 1), None)
    if twice is not None:
        raise UserError(f"{path} has two rows for id {twice}: keep one of them.")
    names = list(dict.fromkeys(name for row in rows for name in row if name != ID))
    for name in leave_out:
        if name not in names:
            near = get_close_matches(name, names, n=2) or names[:5]
            raise UserError(f"data.leave_out names {name}, which is no column of {path}: choose among {', '.join(near)}.")
    kept = [name for name in names if name not in leave_out]
    return {id: {name: read(row.get(name)) for name in kept} for id, row in zip(ids, rows, strict=True)}


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    table = read_csv(text_in(path), path)
    if table.broken:
        raise ValueError(f"line {table.broken[0].line}: {table.broken[0].why}")
    return [dict(zip(table.columns, cells, strict=True)) for cells in zip(*table.columns.values(), strict=True)]


def _json_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for n, line in enumerate(text_in(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_int=whole)
        except (ValueError, RecursionError) as broken:
            raise ValueError(f"line {n}: {broken}") from broken
        if not isinstance(row, dict):
            raise ValueError(f"line {n} holds a {type(row).__name__}, no object")  # noqa: TRY004
        rows.append(row)
    return rows


def _id(row: Mapping[str, Any], where: str) -> str:
    value = row.get(ID)
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        raise UserError(f"{where} has no id, only {', '.join(list(row)[:5]) or 'nothing'}: expected a column named id.")
    return str(value).strip()
