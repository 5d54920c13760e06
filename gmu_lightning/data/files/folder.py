"""Read a folder with a file for each record and modality, `<id>.txt`, `<id>.jpg` and so on, and its table of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gmu_lightning.data.files.roles import MEDIA
from gmu_lightning.data.readers.layouts import what_it_holds
from gmu_lightning.data.readers.strings import MOST_RECORD, as_utf8, parsed
from gmu_lightning.data.readers.tables import BrokenRow, RecordTable, from_records, is_table, read_records
from gmu_lightning.files import bytes_of
from gmu_lightning.movie import UserError

TEXT, RECORD = ".txt", ".json"
LABELS = "labels"  # name of the table, without suffix
KINDS = {suffix: modality for modality in ("audio", "video", "image") for suffix in MEDIA[modality]}  # video before audio
EXPECTED = "expected a table such as movies.csv, or files <id>.txt, <id>.jpg, <id>.mp4 or <id>.wav with labels.csv beside them"


def read_folder(folder: Path) -> RecordTable:
    """Return the table of a folder, with a row for each id.

    The columns `text`, `image`, `video` and `audio` name the files. Other columns are those of `<id>.json`, and of `labels.csv`,
    `.tsv`, `.jsonl` or `.parquet`. The first column of that table is the id, unless one is named `id`. A folder that has
    one table, and no other records, is that table.

    Raises:
        UserError: the folder has neither records nor exactly one table, or the table cannot be read.
        OSError: the system refuses to read the folder.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    tables = [path for path in files if is_table(path) and path.suffix.lower() != RECORD]
    labels = [path for path in tables if path.name.split(".")[0].lower() == LABELS]
    records: dict[str, dict[str, Any]] = {}
    broken: list[BrokenRow] = []
    for path in files:
        suffix = path.suffix.lower()
        if suffix == TEXT:
            records.setdefault(path.stem, {})["text"] = path
        elif suffix == RECORD:
            found = _record(path)
            if isinstance(found, str):
                broken.append(BrokenRow(len(broken) + 1, f"{path.name}: {found}"))
            else:
                records[path.stem] = {**found, **records.get(path.stem, {})}
        elif suffix in KINDS:
            records.setdefault(path.stem, {})[KINDS[suffix]] = path.name
    if not labels and (len(tables) == 1 or not records):
        return read_records(_only(tables, folder))
    if len(labels) > 1:
        raise UserError(f"{folder} has {' and '.join(path.name for path in labels)}: keep one table of labels")
    if labels:
        _add(records, read_records(labels[0]))
    rows = [{"id": name, **record} for name, record in sorted(records.items())]
    return from_records(folder, rows, range(1, len(rows) + 1), tuple(broken))


def _only(tables: list[Path], folder: Path) -> Path:
    if len(tables) == 1:
        return tables[0]
    if tables:
        names = ", ".join(path.name for path in tables[:5])
        raise UserError(f"{folder} holds several tables ({names}): give one of them as data.root, such as {tables[0]}")
    raise UserError(f"{folder} has no records: {EXPECTED}; {what_it_holds(folder)}")


def _record(path: Path) -> dict[str, Any] | str:
    """Return the object in a file, or a clause that says why there is none."""
    try:
        found = parsed(as_utf8(bytes_of(path, MOST_RECORD)))
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (ValueError, RecursionError) as error:
        return f"no JSON ({str(error).splitlines()[0][:80]})"
    return found if isinstance(found, dict) else f"a {type(found).__name__} and no object"


def _add(records: dict[str, dict[str, Any]], table: RecordTable) -> None:
    """Add the cells of the table of labels to the records of their ids."""
    names = list(table.columns)
    key = next((name for name in names if name.strip().lower() == "id"), names[0])
    for n in range(len(table)):
        id = str(table.columns[key][n]).strip()
        cells = {name: table.columns[name][n] for name in names if name != key}
        records[id] = {**cells, **records.get(id, {})}
