"""Turn the rows of a table into movies: an id, the content of each modality, and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning import cells
from gmu_lightning.data.files.roles import ARRAYS, MEDIA, Roles
from gmu_lightning.data.readers.arrays import numbers
from gmu_lightning.data.readers.media import NamedFiles, suffix_of
from gmu_lightning.data.readers.strings import MOST_RECORD, as_utf8, shows
from gmu_lightning.data.readers.tables import RecordTable
from gmu_lightning.files import bytes_of
from gmu_lightning.movie import ArrayFile, BadContent

Find = Callable[[str, str, tuple[str, ...]], Path]  # path as written, modality, suffixes


class Absent(BadContent):
    """The cell of a content is empty, or the table has no column for it."""


@dataclass(frozen=True)
class Records:
    """The rows of a table as movies.

    Attributes:
        table: as read.
        roles: the columns by their role.
        find: returns the file that a cell names. Raises BadContent.
    """

    table: RecordTable
    roles: Roles
    find: Find

    @classmethod
    def beside(cls, table: RecordTable, roles: Roles, root: Path) -> Records:
        """Return the records of a table whose files lie in the folder `root`."""
        return cls(table, roles, NamedFiles(root).find)

    def id(self, n: int) -> str:
        """Return the id of row n: the cell of its column, or the number of the row from 1 on; "" if the cell is empty."""
        if self.roles.id is None:
            return str(n + 1)
        cell = self.table.columns[self.roles.id][n]
        if isinstance(cell, float) and cell.is_integer():
            cell = int(cell)
        return "" if cell is None or isinstance(cell, list | dict) else str(cell).strip()

    def sources(self, n: int, modalities: Sequence[str]) -> list[tuple[str, str, Callable[[], Any]]]:
        """Return for each modality its name, the place of row n, and a function that returns its content or raises BadContent."""
        return [(m, self.table.place(n), partial(self.content, n, m)) for m in modalities]

    def content(self, n: int, modality: str) -> Any:
        """Return the content of row n in a modality, as in `Movie`. Raises BadContent: `Absent` for an empty cell."""
        if modality == "text":
            return self._text(n)
        if modality == "metadata":
            return self._metadata(n)
        column = getattr(self.roles, modality)
        cell = self.table.columns[column][n] if column else None
        if isinstance(cell, Mapping):
            cell = cell.get("path")
        if isinstance(cell, np.ndarray | bytes):  # of a table in memory
            return cell
        cell = str(cell) if isinstance(cell, Path) else cell
        if not isinstance(cell, str) or cells.is_missing(cell):
            raise Absent(f"missing_{modality}", f"column {column} is empty" if column else f"it has no {modality}")
        if suffix_of(cell) in ARRAYS:
            return ArrayFile(self.find(cell, modality, ARRAYS), numbers)
        return self.find(cell, modality, MEDIA[modality])

    def _text(self, n: int) -> str:
        parts = []
        for column in self.roles.text:
            cell = self.table.columns[column][n]
            if isinstance(cell, Path):
                cell = _text_of(cell)
            if isinstance(cell, list):
                cell = "\n".join(part for part in cell if isinstance(part, str))
            if isinstance(cell, int | float) and not isinstance(cell, bool) and cell == cell:  # noqa: PLR0124  # NaN is empty
                cell = f"{cell:g}" if isinstance(cell, float) else str(cell)
            if isinstance(cell, str) and shows(cell):
                parts.append(cell.strip())
        if not parts:
            raise Absent("missing_plot", f"{_named(self.roles.text)} is empty" if self.roles.text else "it has no text")
        return "\n".join(parts)

    @cached_property
    def _cells(self) -> dict[str, list[cells.Cell]]:
        """{column of metadata: N cells}; equal texts are read once."""
        found = {}
        for name in self.roles.metadata:
            column = self.table.columns[name]
            known = {cell: cells.read(cell) for cell in set(filter(_is_text, column))}
            found[name] = [known[cell] if isinstance(cell, str) else cells.read(cell) for cell in column]
        return found

    def _metadata(self, n: int) -> dict[str, cells.Cell]:
        row = {name: column[n] for name, column in self._cells.items()}
        if all(cell is None for cell in row.values()):
            raise Absent("missing_metadata", "its cells are empty" if row else "it has no metadata")
        return row


def _is_text(cell: Any) -> bool:
    return isinstance(cell, str)


def _named(columns: Sequence[str]) -> str:
    return f"column {columns[0]}" if len(columns) == 1 else f"each of the columns {', '.join(columns)}"


def _text_of(path: Path) -> str:
    try:
        return as_utf8(bytes_of(path, MOST_RECORD)).decode("utf-8")
    except OSError as error:
        raise BadContent("missing_plot", f"{path.name} cannot be read: {error.strerror}", lasting=False) from error
    except ValueError as error:
        raise BadContent("missing_plot", f"{path.name} is not UTF-8: save it so") from error
