"""The fields of the page, and the movie that their values describe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gmu_lightning import cells
from gmu_lightning.data.readers.strings import shows
from gmu_lightning.encoders.metadata import Table, TablePreparation
from gmu_lightning.movie import MODALITIES, UserError, file_of
from gmu_lightning.prediction.classifier import Classifier
from gmu_lightning.prediction.inputs import reads_features

WORDS = {"text": "plot", "image": "poster", "video": "trailer", "audio": "sound", "metadata": "table"}
FILES = ("image", "video", "audio")
CHOICES = 200  # most frequent words of a column that are offered; others can be typed


class Field(NamedTuple):
    """A field of the page.

    Attributes:
        modality: that it belongs to.
        label: shown beside it.
        column: of a table, else None.
        choices: words of the column; None for a column of numbers, and for other modalities.
        hint: an example of a value.
    """

    modality: str
    label: str
    column: str | None = None
    choices: tuple[str, ...] | None = None
    hint: str = ""


def fields_of(classifiers: Sequence[Classifier]) -> list[Field]:
    """Return the fields for everything that the runs read, in the order of `MODALITIES`.

    There is no field for a modality that a run reads as an extracted vector.

    Raises:
        UserError: there is no field at all.
    """
    runs = [run for classifier in classifiers for run in classifier.runs]
    sources = [source for run in runs for source in run.sources.values()]
    raw = {m for m in MODALITIES if any(s.modality == m for s in sources)}
    raw -= {source.modality for source in sources if reads_features(source.preparation)}
    if not raw:
        raise UserError("the page takes texts, pictures, clips and tables, and the run reads features: give another one")
    found = [Field(m, WORDS[m].capitalize()) for m in MODALITIES if m in raw and m != "metadata"]
    tables = [s.preparation.learned for s in sources if "metadata" in raw and isinstance(s.preparation, TablePreparation)]
    columns: dict[str, Field] = {}
    for table in tables:
        if isinstance(table, Table):
            columns |= {field.column or "": field for field in _columns(table)}
    return [*found, *columns.values()]


def _columns(table: Table) -> list[Field]:
    numbers = [Field("metadata", name, name, hint=f"such as {median:g}") for name, median in table.medians.items()]
    words = []
    for name, counts in table.words.items():
        frequent = tuple(sorted(counts, key=lambda word: -counts[word])[:CHOICES])
        words.append(Field("metadata", name, name, frequent))
    return [*numbers, *words]


def content_of(fields: Sequence[Field], values: Sequence[Any], used: Sequence[str], uploads: Path) -> dict[str, Any]:
    """Return {modality: raw content} of the filled fields.

    Args:
        fields: of the page.
        values: of the fields, as the browser sends them: a text, a list of words, or the mapping of an uploaded file.
        used: modalities that are switched on.
        uploads: folder of uploaded files.

    Raises:
        UserError: an uploaded file is not there any more.
    """
    content: dict[str, Any] = {}
    for field, value in zip(fields, values, strict=True):
        if field.modality not in used or value in (None, "", []):
            continue
        if field.column is not None:
            cell = cells.read(value if isinstance(value, list) else str(value))
            if cell is not None:
                content.setdefault("metadata", {})[field.column] = cell
        elif field.modality in FILES:
            content[field.modality] = _file(field, value, uploads)
        elif shows(str(value)):
            content[field.modality] = str(value)
    return content


def _file(field: Field, value: Any, uploads: Path) -> Path:
    path = Path(str(value.get("path") if isinstance(value, Mapping) else value)).resolve()
    if not path.is_relative_to(uploads) or not path.is_file():
        raise UserError(f"the file of the {WORDS[field.modality]} is not on the server any more: choose it again")
    return path


def values_of(fields: Sequence[Field], content: Mapping[str, Any]) -> list[Any]:
    """Return the value of each field for a raw content; None for a field that it does not fill. Files are paths."""
    row = content.get("metadata")
    found: list[Any] = []
    for field in fields:
        value = content.get(field.modality)
        if field.column is not None:
            value = cells.read(row.get(field.column)) if isinstance(row, Mapping) else None
            found.append(_words(value) if field.choices is not None else _plain(value))
        elif field.modality in FILES:
            found.append(value if isinstance(value, Path) and file_of(value) else None)
        else:
            found.append(value if isinstance(value, str) else None)
    return found


def _words(value: Any) -> list[str]:
    return [] if value is None else [str(one) for one in (value if isinstance(value, list) else [value])]


def _plain(value: Any) -> str | None:
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)
