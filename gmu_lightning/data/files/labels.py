"""Read the labels of a record: a list, a text with separators, or a column for each label."""

from __future__ import annotations

import ast
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gmu_lightning.cells import is_missing
from gmu_lightning.data.files.roles import flags
from gmu_lightning.data.readers.records import genres_of
from gmu_lightning.data.readers.tables import RecordTable
from gmu_lightning.movie import UserError

SEPARATORS = ("|", ";", ",")  # tried in this order
YES, NO = ("1", "1.0", "true", "yes", "t", "y"), ("", "0", "0.0", "false", "no", "f", "n")
SHOWN = 40  # letters of a cell in a sentence
MANY = 0.5  # share of records with a label of their own from which a column holds no labels


class Labels:
    """The labels of a table's records.

    Args:
        table: as read.
        columns: the column of labels, or several columns with one label each.
        separator: of the labels in a text: `auto`, or one character.
        task: `multilabel` or `multiclass`. A text is one label under `multiclass`.

    Attributes:
        separator: in use; None if every text is one label.

    Raises:
        UserError: several separators occur, and none was chosen.
    """

    def __init__(self, table: RecordTable, columns: Sequence[str], separator: str, task: str):
        self.table, self.columns, self.task = table, columns, task
        self.one_hot = len(columns) > 1
        whole = self.one_hot or (task == "multiclass" and separator == "auto")
        self.separator = None if whole else self._separator(separator)

    def of(self, n: int) -> tuple[str, ...]:
        """Return the distinct labels of row n. Raises ValueError, which describes a cell that holds no labels."""
        if self.one_hot:
            return tuple(name for name in self.columns if _flag(name, self.table.columns[name][n]))
        cell = self.table.columns[self.columns[0]][n]
        if isinstance(cell, str):
            cell = cell.strip()
            parts = _listed(cell)
            if parts is None:
                parts = cell.split(self.separator) if self.separator else [cell]
            cell = [part.strip() if isinstance(part, str) else part for part in parts]
            cell = [part for part in cell if not (isinstance(part, str) and is_missing(part))]
        elif isinstance(cell, bool | int | float):
            whole = isinstance(cell, float) and cell.is_integer()
            cell = [] if isinstance(cell, float) and math.isnan(cell) else [str(int(cell) if whole else cell)]
        return genres_of({"labels": cell}, "labels")

    def _separator(self, typed: str) -> str | None:
        if typed != "auto":
            return typed
        texts = [cell for cell in self.table.columns[self.columns[0]] if isinstance(cell, str) and _listed(cell) is None]
        found = [separator for separator in SEPARATORS if any(separator in text for text in texts)]
        if len(found) > 1:
            examples = [next(text for text in texts if separator in text)[:SHOWN] for separator in found]
            raise UserError(
                f"{self.table.path}: labels in column {self.columns[0]} are separated by "
                f"{' or by '.join(f'`{s}` ({example})' for s, example in zip(found, examples, strict=True))}: "
                f"choose one, as in data.separator='{found[0]}'"
            )
        return found[0] if found else None


def check_labels(labels: Labels, found: Mapping[int, Sequence[str]]) -> None:
    """Raise UserError if nearly every record has a label of its own, as in a column of titles.

    Args:
        labels: how they were read.
        found: {row: its labels}, of records with labels.
    """
    if labels.one_hot or len(found) < 20:
        return
    counts = Counter(label for names in found.values() for label in names)
    once = sum(count == 1 for count in counts.values())
    if once > MANY * len(found):
        example = next(label for label, count in counts.items() if count == 1)
        raise UserError(
            f"{labels.table.path}: column {labels.columns[0]} has {len(counts):,} different labels in {len(found):,} records, "
            f"most of them once, such as {example[:SHOWN]!r}: {_cure(labels)}"
        )


def no_labels(table: RecordTable) -> str:
    """Return the sentence for a table without a column of labels, with columns of 0 and 1 that may be labels."""
    binary = flags(table)
    names = ", ".join(list(table.columns)[:12]) + (", ..." if len(table.columns) > 12 else "")
    if len(binary) > 1:
        return (
            f"{table.path} has no column of labels: name it, as in data.columns.labels=NAME; if each of its columns of 0 and 1 "
            f"is a label, type data.columns.labels=[{','.join(binary)}]"
        )
    return f"{table.path} has no column of labels, only {names}: name it, as in data.columns.labels=NAME"


def _cure(labels: Labels) -> str:
    if labels.task == "multiclass":
        return "give the column of classes as data.columns.labels, or set data.task=multilabel"
    return "give the separator of its labels, as in data.separator=/, or another column as data.columns.labels"


def _flag(name: str, cell: Any) -> bool:
    text = "" if cell is None else str(cell).strip().lower()
    if text in YES or text in NO or is_missing(text):
        return text in YES
    raise ValueError(f"column {name} holds {text[:SHOWN]!r}, expected 1 where the label is right and 0 where it is not")


def _listed(text: str) -> list[Any] | None:
    """Return the list in a text that holds one in JSON or Python, or None."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return found if isinstance(found, list) else None
    return None
