"""Read the rows of a table, or of values in memory, for a trained model. Labels and splits are not needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gmu_lightning.data.audit import kind_of_missing
from gmu_lightning.data.files.folder import EXPECTED, read_folder
from gmu_lightning.data.files.records import Absent, Records
from gmu_lightning.data.files.roles import roles_of
from gmu_lightning.data.readers.layouts import existing, reading
from gmu_lightning.data.readers.tables import RecordTable, from_records, read_records
from gmu_lightning.movie import BadContent, UserError


@dataclass(frozen=True)
class InputRow:
    """A row to predict.

    Attributes:
        id: of the item; the number of the row if the table has no ids.
        content: {modality: raw content}, as in `Movie`.
        problem: a sentence on contents that cannot be used; None if there are none. An empty cell is no problem.
        place: file and line, such as `movies.csv:17`.
    """

    id: str
    content: Mapping[str, Any]
    problem: str | None
    place: str


def read_inputs(path: str) -> RecordTable:
    """Return the table of a file or folder, as `data=files` reads it. Raises UserError."""
    with existing(path, EXPECTED) as place, reading(place):
        return read_folder(place) if place.is_dir() else read_records(place)


def in_memory(rows: Sequence[Mapping[str, Any]] | Any) -> RecordTable:
    """Return the table of a list of dictionaries or of a pandas DataFrame; its files are found from the current folder."""
    if isinstance(rows, Sequence):
        return from_records(Path("rows"), rows, range(1, len(rows) + 1), ())
    columns = {str(name): _without_nan(rows[name].tolist()) for name in rows.columns}
    return RecordTable(Path("dataframe"), columns, range(1, len(rows) + 1))


def input_rows(
    table: RecordTable, modalities: Sequence[str], columns: Mapping[str, Any], metadata: Sequence[str] = (), inside: bool = True
) -> Iterator[InputRow]:
    """Yield every row of a table in its order, broken ones with their problem.

    Args:
        table: as read.
        modalities: that the model reads. A table may lack some of them, but not all.
        columns: {role: column} as in `data.columns`. A column that the table lacks is looked for by common names instead.
        metadata: names of the columns that the model has learned; a column that the table lacks is empty.
        inside: whether files must lie in the folder of the table. If not, they may lie anywhere.

    Raises:
        UserError: the table has a column for none of the modalities.
    """
    names = set(table.columns)
    typed = {role: name for role, name in columns.items() if role != "metadata" and _known(name, names)}
    roles = replace(roles_of(table, typed), metadata=tuple(metadata))
    filled = [m for m in modalities if (set(metadata) & names if m == "metadata" else getattr(roles, m))]
    if not filled:
        raise UserError(
            f"{table.path} has no column for {' or '.join(modalities)}, only {', '.join(list(table.columns)[:12]) or 'none'}: "
            f"name the columns so, or as in data.columns.{modalities[0]}=NAME"
        )
    lacking = {name: [None] * len(table) for name in metadata if name not in names}
    table = replace(table, columns={**table.columns, **lacking})
    root = table.path if table.path.is_dir() else table.path.parent
    records = Records.beside(table, roles, root) if inside else Records(table, roles, _anywhere)
    broken = iter(sorted(table.broken, key=lambda row: row.line))
    waiting = next(broken, None)
    for n in range(len(table)):
        while waiting is not None and waiting.line < table.lines[n]:
            yield _broken(table, waiting.line, waiting.why)
            waiting = next(broken, None)
        yield _row(records, n, filled)
    for row in (waiting, *broken) if waiting else ():
        yield _broken(table, row.line, row.why)


def _row(records: Records, n: int, modalities: Sequence[str]) -> InputRow:
    content, problems = {}, []
    for modality in modalities:
        try:
            content[modality] = records.content(n, modality)
        except Absent:
            continue
        except BadContent as bad:
            problems.append(f"{modality}: {bad}")
    return InputRow(records.id(n) or str(n + 1), content, "; ".join(problems) or None, records.table.place(n))


def _broken(table: RecordTable, line: int, why: str) -> InputRow:
    place = f"{table.path.name}:{line}"
    return InputRow(place, {}, f"the row cannot be read: {why}", place)


def _known(name: Any, names: set[str]) -> bool:
    return name is not None and set(map(str, name if isinstance(name, list | tuple) else [name])) <= names


def _anywhere(name: str, modality: str, suffixes: tuple[str, ...]) -> Path:
    """Return the file of a path as typed. Raises BadContent if it does not exist."""
    path = Path(name).expanduser()
    try:
        if path.is_file():
            return path
    except (OSError, ValueError) as error:
        raise BadContent(kind_of_missing(modality), f"{name[:200]} is no path ({error})") from error
    raise BadContent(kind_of_missing(modality), f"no such file: {name[:200]}")


def _without_nan(cells: list[Any]) -> list[Any]:
    """Return cells with None in place of NaN, which pandas writes for an empty cell."""
    return [None if isinstance(cell, float) and cell != cell else cell for cell in cells]  # noqa: PLR0124
