"""Metadata of Moviescope: the published matrices, and tables."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gmu_lightning.data.readers.arrays import read_array, read_ids
from gmu_lightning.data.readers.layouts import FILE_NAMES
from gmu_lightning.data.readers.media import Ids
from gmu_lightning.data.readers.metadata_table import Table
from gmu_lightning.data.readers.records import Line
from gmu_lightning.movie import SPLITS, BadContent, UserError

Read = TypeVar("Read")
MATRICES = "Metadata_matrices"
TABLES = ("metadata.csv", "metadata.jsonl")


class Matrices:
    """The published matrices: `{train,val,test}_metadata.npy` (N, d) and `{train,val,test}_ids.pickle` {id: row}.

    Args:
        folder: holds the files; `dev` may replace `val` in their names.
        leave_out: numbers of columns to ignore, from 0 on.

    Raises:
        UserError: a file is missing or damaged, the matrices have different widths, or a column of `leave_out` does not exist.
    """

    def __init__(self, folder: Path, leave_out: Sequence[Any] = ()):
        self.files = {split: _file_of(folder, split, "metadata.npy") for split in SPLITS}
        self.matrices = {split: _matrix(path) for split, path in self.files.items()}
        widths = {self.files[split].name: matrix.shape[1] for split, matrix in self.matrices.items()}
        if len(set(widths.values())) > 1:
            stated = ", ".join(f"{name} has {width}" for name, width in widths.items())
            raise UserError(f"{folder}: matrices of different widths ({stated} columns): restore them.")
        width = next(iter(widths.values()))
        odd = next((column for column in leave_out if not str(column).isdecimal() or int(column) >= width), None)
        if odd is not None:
            raise UserError(
                f"data.leave_out={odd} names columns of a table, and {folder.name} is read: set data.metadata=table, "
                f"give numbers of columns from 0 to {width - 1}, or set data.leave_out=[]."
            )
        self.kept = np.setdiff1d(np.arange(width), [int(column) for column in leave_out])
        self.rows = {split: _restored(read_ids, _file_of(folder, split, "ids.pickle")) for split in SPLITS}
        self.known = {split: Ids(rows) for split, rows in self.rows.items()}

    def file(self, id: str, split: str) -> str:
        """Return the file of the split's matrix, relative to the data's root."""
        return f"{MATRICES}/{self.files[split].name}"

    def content(self, line: Line, split: str) -> np.ndarray:
        """Return a movie's numbers in the columns that are not left out, (d,) float32. Raises BadContent."""
        matrix, name = self.matrices[split], self.known[split].find(line.id)
        if name is None:
            example = next(iter(self.rows[split]), None)
            raise BadContent("missing_metadata", f"it has no row{f'; ids there are such as {example}' if example else ''}")
        n = self.rows[split][name]
        if not 0 <= n < len(matrix):
            raise BadContent("bad_array", f"its row is number {n} of a matrix with {len(matrix)}")
        with np.errstate(over="ignore", invalid="ignore"):
            row = matrix[n, self.kept].astype(np.float32)
        broken = int((~np.isfinite(row)).sum())
        if broken:
            raise BadContent("bad_array", f"{broken} of the {len(row)} numbers in row {n} are not finite")
        return row

    def flags(self, split: str, ids: Iterable[str]) -> dict[str, dict[str, float]]:
        """Return {id: {number of a column: value}} for the columns that have exactly two values among these ids of a split.

        Ids without a row, and columns that are left out, are ignored.
        """
        matrix, found = self.matrices[split], {id: self.known[split].find(id) for id in ids}
        rows = {id: self.rows[split][name] for id, name in found.items() if name is not None}
        rows = {id: n for id, n in rows.items() if 0 <= n < len(matrix)}
        used = matrix[list(rows.values())] if rows else matrix[:0]
        two = [c for c in self.kept.tolist() if len(np.unique(used[:, c])) == 2]
        return {id: {str(c): float(matrix[n, c]) for c in two} for id, n in rows.items()}


def _file_of(folder: Path, split: str, ending: str) -> Path:
    names = [f"{name}_{ending}" for name in reversed(FILE_NAMES[split])]  # val before dev, because it is the published name
    found = next((path for name in names if (path := folder / name).is_file()), None)
    if found is None:
        raise UserError(f"{folder} has no {' or '.join(names)}: expected a matrix and the ids of its rows for each split.")
    return found


def _matrix(path: Path) -> np.ndarray:
    matrix = _restored(read_array, path)
    if matrix.ndim != 2 or not matrix.size or matrix.dtype.kind not in "fiu":
        raise UserError(f"{path} holds {matrix.dtype} {matrix.shape}, expected numbers, a row per movie: restore it.")
    return matrix


def _restored(read: Callable[[Path], Read], path: Path) -> Read:
    try:
        return read(path)
    except BadContent as broken:
        raise UserError(f"{path} cannot be read ({broken}): restore it, or choose modalities without metadata.") from broken


class TableRows:
    """The rows of a table.

    Args:
        table: {id: {column: cell}}.
        name: of its file.
        ids: of the data set.
    """

    def __init__(self, table: Table, name: str, ids: Collection[str]):
        self.table, self.name, self.known = table, name, Ids(table, ids)

    def content(self, line: Line, split: str) -> dict[str, Any]:
        """Return a movie's row, {column: cell as `cells.read` returns it}. Raises BadContent."""
        name = self.known.find(line.id)
        if name is None:
            raise BadContent("missing_metadata", f"it has no row; ids there are such as {next(iter(self.table))}")
        row = self.table[name]
        if all(cell is None for cell in row.values()):
            raise BadContent("missing_metadata", "its row is empty")
        return row

    def file(self, id: str, split: str) -> str:
        """Return the name of the table."""
        return self.name
