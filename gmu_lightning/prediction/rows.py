"""Rows to be predicted: the state of one, and the movie that is typed on the command line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gmu_lightning import cells
from gmu_lightning.config.checks import near
from gmu_lightning.data.contents import content_digest
from gmu_lightning.data.files.inputs import InputRow
from gmu_lightning.data.readers.strings import shows
from gmu_lightning.data.readers.tables import RecordTable
from gmu_lightning.files import file_state
from gmu_lightning.movie import MODALITIES, UserError, file_of

ROLES = ("id", *(m for m in MODALITIES if m != "metadata"))  # columns of metadata are those that the run has learned
ONE = "movie"  # id and place of the movie that is typed


def row_state(row: InputRow) -> list[Any]:
    """Return plain values that change whenever a content of a row changes. A file counts by its size, inode and times."""
    return [row.id, row.problem, {modality: _state(content) for modality, content in row.content.items()}]


def _state(content: Any) -> Any:
    file = file_of(content)
    if file is None:
        return content if isinstance(content, str) else content_digest(content)
    try:
        return [str(file), *file_state(file)]
    except OSError as error:
        return [str(file), error.errno]


def check_column(role: str, names: Any, table: RecordTable) -> None:
    """Check that a role of columns exists, and that the table has its columns. Raises UserError."""
    if role not in ROLES:
        raise UserError(f"data.columns.{role} is no column that predict reads: {near(role, ROLES)}")
    for name in names if isinstance(names, list | tuple) else [names]:
        if str(name) not in table.columns:
            raise UserError(
                f"data.columns.{role}={name}: {table.path} has no such column: {near(str(name), list(table.columns))}"
            )


def typed_row(typed: Mapping[str, str], modalities: Sequence[str], metadata: Sequence[str]) -> InputRow:
    """Return the movie that was typed.

    Args:
        typed: {`text`, `image`, `video`, `audio` or `metadata.KEY`: value as typed}. An empty value counts as absent.
        modalities: that the runs read.
        metadata: columns that the runs have learned.

    Raises:
        UserError: a key is unknown or not read by the runs, a file does not exist, or no modality is given.
    """
    content: dict[str, Any] = {}
    for key, value in typed.items():
        modality, _, column = key.partition(".")
        _check_key(key, modalities, metadata)
        if not shows(value):
            continue
        if modality == "metadata":
            content.setdefault(modality, {})[column] = cells.read(value)
        else:
            content[modality] = value if modality == "text" else _existing(key, value)
    if not content:
        ways = [f"movie.{m}={'KEY=VALUE' if m == 'metadata' else 'TEXT' if m == 'text' else 'FILE'}" for m in modalities]
        raise UserError(f"no modality of the movie is given: type {' or '.join(ways).replace('metadata=KEY', 'metadata.KEY')}")
    return InputRow(ONE, content, None, ONE)


def _check_key(key: str, modalities: Sequence[str], metadata: Sequence[str]) -> None:
    """Check that runs read the key `movie.<key>`. Raises UserError."""
    modality, dot, column = key.partition(".")
    known = [m for m in modalities if m != "metadata"] + [f"metadata.{name}" for name in metadata]
    if modality in MODALITIES and modality not in modalities:
        raise UserError(
            f"movie.{key} is not read, as the run reads {' and '.join(modalities)}: leave it out, or give another run"
        )
    if key in known:
        return
    close = difflib.get_close_matches(key, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(f'movie.{name}' for name in close)}?" if close else _choices(known)
    what = "no column of metadata that the run has learned" if modality == "metadata" and dot and column else "no part of a movie"
    raise UserError(f"movie.{key} is {what}: {hint}")


def _choices(known: Sequence[str]) -> str:
    shown = ", ".join(f"movie.{name}" for name in known[:20])
    return f"choices are {shown}" + (f" and {len(known) - 20} more" if len(known) > 20 else "")


def _existing(key: str, value: str) -> Path:
    """Return the path of a file that was typed. Raises UserError if there is none."""
    path = Path(value)
    try:
        path = path.expanduser()
        if path.is_file():
            return path
        there = path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"movie.{key}={value} cannot be read ({error}): give the path of a file") from error
    names = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    hint = f"did you mean {path.parent / close[0]}?" if close and not there else "give the path of a file"
    raise UserError(f"movie.{key}={value} is {'no file' if there else 'not there'}: {hint}")
