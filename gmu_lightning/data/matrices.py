"""Metadata as numbers that somebody made before: a matrix per split, and beside it which row is whose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning.data.arrays import read_array, read_ids
from gmu_lightning.data.layouts import FILE_NAMES
from gmu_lightning.data.media import Ids
from gmu_lightning.movie import SPLITS, BadContent, UserError


class Matrices:
    """`{train,val,test}_metadata.npy` (N, d) and `{train,val,test}_ids.pickle` {id: row}; `dev` is another name of val.

    Args:
        leave_out: the numbers of columns that are not read, from 0 on.

    Raises:
        UserError: one of the files is missing or damaged, the matrices have different widths, or there is no such column.
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
        self.rows = {split: _rows(_file_of(folder, split, "ids.pickle")) for split in SPLITS}
        self.known = {split: Ids(rows) for split, rows in self.rows.items()}

    def row(self, id: str, split: str) -> np.ndarray:
        """A movie's numbers, float32 (d,). Raises BadContent."""
        matrix, name = self.matrices[split], self.known[split].find(id)
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
        """Return {id: {column: value}} of the columns that hold two values in that split, by their numbers from 0 on."""
        matrix, found = self.matrices[split], {id: self.known[split].find(id) for id in ids}
        rows = {id: self.rows[split][name] for id, name in found.items() if name is not None}
        rows = {id: n for id, n in rows.items() if 0 <= n < len(matrix)}
        used = matrix[list(rows.values())] if rows else matrix[:0]
        two = [c for c in self.kept.tolist() if len(np.unique(used[:, c])) == 2]
        return {id: {str(c): float(matrix[n, c]) for c in two} for id, n in rows.items()}


def _file_of(folder: Path, split: str, ending: str) -> Path:
    names = [f"{name}_{ending}" for name in reversed(FILE_NAMES[split])]  # val before dev, as published
    found = next((path for name in names if (path := folder / name).is_file()), None)
    if found is None:
        raise UserError(f"{folder} has no {' or '.join(names)}: expected a matrix and the ids of its rows for each split.")
    return found


def _matrix(path: Path) -> np.ndarray:
    try:
        matrix = read_array(path)
    except BadContent as broken:
        raise UserError(f"{path} cannot be read ({broken}): restore it, or choose modalities without metadata.") from broken
    if matrix.ndim != 2 or not matrix.size or matrix.dtype.kind not in "fiu":
        raise UserError(f"{path} holds {matrix.dtype} {matrix.shape}, expected numbers, a row per movie: restore it.")
    return matrix


def _rows(path: Path) -> dict[str, int]:
    try:
        return read_ids(path)
    except BadContent as broken:
        raise UserError(f"{path} cannot be read ({broken}): restore it, or choose modalities without metadata.") from broken
