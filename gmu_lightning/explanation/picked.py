"""Rows of a column in any order and number: the movie of each subset of modalities, and of each piece, is one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gmu_lightning.movie import Column


class Picked(NamedTuple):
    """Rows of a column, in any order and any number.

    Attributes:
        column: N rows.
        rows: (V,) int, each a row of the column.
    """

    column: Column
    rows: np.ndarray

    @property
    def preparation(self) -> Any:
        return self.column.preparation

    @property
    def present(self) -> np.ndarray:
        return self.column.present[self.rows]

    @property
    def lengths(self) -> np.ndarray | None:
        lengths = self.column.lengths
        return None if lengths is None else lengths[self.rows]

    @property
    def cached(self) -> Any:
        return self.column.cached

    @property
    def resident(self) -> Any:
        return None

    def batch(self, rows: Sequence[int], training: bool = False) -> Any:
        """Return the inputs or features of some of the picked rows."""
        return self.column.batch(self.rows[list(rows)].tolist(), training)


def picked(columns: Mapping[str, Column], rows: np.ndarray) -> dict[str, Column]:
    """Return {modality: the picked rows of its column}."""
    return {m: Picked(column, rows) for m, column in columns.items()}
