"""Read tables with a record in each row: CSV, TSV, JSON and Parquet files, also packed by gzip."""

from __future__ import annotations

import csv
import io
import shlex
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmu_lightning.cells import whole
from gmu_lightning.data.readers.layouts import why_no_json
from gmu_lightning.data.readers.strings import MARKS, MOST_TABLE
from gmu_lightning.files import bytes_of, looks_like
from gmu_lightning.movie import UserError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*SEPARATORS, ".jsonl", ".ndjson", ".json", ".parquet")
FORMATS = "a .csv, .tsv, .jsonl, .json or .parquet file, where all but Parquet may be packed as .gz"
OTHERS = {b"PK\x03\x04": "a spreadsheet or a zip archive", b"PAR1": "a Parquet file", b"\xd0\xcf\x11\xe0": "an old spreadsheet"}
UNNAMED = "index"  # name of a first column without one, as pandas and R write it
LONGEST = 2**31 - 1  # letters of a CSV cell: the largest limit of the csv module on every system
MOST_VALUES = 3 * 10**8  # cells of a Parquet file, whose encoding can hold billions in some bytes
BATCH = 256  # rows of a Parquet file that are unpacked at once
GUESSED_FROM = 1 << 16  # bytes


@dataclass(frozen=True)
class BrokenRow:
    """A row that cannot be read.

    Attributes:
        line: of the file, from 1.
        why: a clause that describes the fault and the cure.
    """

    line: int
    why: str


@dataclass(frozen=True)
class RecordTable:
    """A table as read: N rows, without those that are broken.

    Attributes:
        path: of the file or folder.
        columns: {name: N cells}. A cell is a text in CSV and TSV, and any plain value in JSON and Parquet; None where absent.
        lines: of the N rows in the file, from 1; the number of the row in Parquet.
        broken: the rows that were left out.
    """

    path: Path
    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int]
    broken: tuple[BrokenRow, ...] = ()

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, n: int) -> str:
        """Return the file and line of row n, such as `movies.csv:17`."""
        return f"{self.path.name}:{self.lines[n]}"


def is_table(path: Path) -> bool:
    """Return whether a file has the suffix of a table."""
    return format_of(path) in SUFFIXES


def read_records(path: Path, rows: int | None = None) -> RecordTable:
    """Read a table.

    Args:
        path: of the file. Its suffix names the format.
        rows: largest number of rows to read from CSV and TSV; None for all.

    Raises:
        UserError: the file has another format or encoding, a CSV file has no sound header, or a quote is never closed.
        OSError: the system refuses to read the file.
    """
    kind = format_of(path)
    if kind not in SUFFIXES:
        raise UserError(f"{path} is no table that is read here: give {FORMATS}")
    if kind == ".parquet":
        return _parquet(path)
    data = _unpacked(path)
    if known := _other_format(data):
        raise UserError(f"{path} is no {kind[1:].upper()} file ({known}): give {FORMATS}")
    text = _text(data, path)
    if kind in SEPARATORS:
        return read_csv(text, path, SEPARATORS[kind], rows)
    return _json(text, path) if kind == ".json" else _json_lines(text, path)


def read_csv(text: str, path: Path, separator: str = ",", rows: int | None = None) -> RecordTable:
    """Return the table in the text of a CSV file.

    A header without `separator`, but with semicolons or tabs, is separated by these.

    Args:
        text: of the file.
        path: of the file, for errors and places.
        separator: of the cells.
        rows: largest number of rows to read; None for all.

    Raises:
        UserError: the header is missing or repeats a name, or a quote is wrong or never closed.
    """
    first = text[: text.find("\n") + 1 or None]
    if separator not in first:
        separator = next((other for other in (";", "\t", ",") if other in first), separator)
    with long_cells(), io.StringIO(text, newline="") as file:
        reader = csv.reader(file, strict=True, delimiter=separator)
        found, lines, broken, start = [], [], [], 1
        header: tuple[str, ...] | None = None
        try:
            for cells in reader:
                line, start = start, reader.line_num + 1
                if not any(cells):
                    continue
                if header is None:
                    header = _header(cells, path)
                elif (row := _fitted(cells, len(header))) is not None:
                    found.append(row)
                    lines.append(line)
                else:
                    broken.append(BrokenRow(line, f"it has {len(cells)} cells, the header {len(header)}: quote cells that hold "
                                                  f"the separator {_named(separator)} or a line break"))  # fmt: skip
                if rows is not None and len(found) >= rows:
                    break
        except csv.Error as error:
            raise UserError(_wrong_quote(path, start, str(error))) from error
    if header is None:
        raise UserError(f"{path} is empty: expected a header with the names of the columns, and a row for each record")
    columns = list(zip(*found, strict=True)) if found else [()] * len(header)
    return RecordTable(path, dict(zip(header, columns, strict=True)), lines, tuple(broken))


@contextmanager
def long_cells() -> Iterator[None]:
    """Raise the csv module's global limit of 131,072 letters per cell within the context."""
    limit = csv.field_size_limit(LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def from_records(
    path: Path, records: Sequence[Mapping[str, Any]], lines: Sequence[int], broken: tuple[BrokenRow, ...]
) -> RecordTable:
    """Return the table of records {name: cell}, whose columns are all of their names."""
    names = dict.fromkeys(str(name) for record in records for name in record)
    return RecordTable(path, {name: [record.get(name) for record in records] for name in names}, lines, broken)


def format_of(path: Path) -> str:
    """Return the suffix that names a table's format, in lower case and without `.gz`; "" if it names none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        return suffixes[-2] if len(suffixes) > 1 and suffixes[-2] != ".parquet" else ""
    return suffixes[-1] if suffixes else ""


def _other_format(data: bytes) -> str | None:
    """Return a clause on the format of a file that is no text, else None."""
    other = next((f"it is {name}" for start, name in OTHERS.items() if data.startswith(start)), None)
    return other or (looks_like(data) if data else None)


def _unpacked(path: Path) -> bytes:
    data = bytes_of(path, MOST_TABLE)
    if path.suffix.lower() != ".gz":
        return data
    parts, size = [], 0
    try:
        while data:
            unpacker = zlib.decompressobj(wbits=31)
            parts.append(unpacker.decompress(data, MOST_TABLE - size + 1))
            size += len(parts[-1])
            if size > MOST_TABLE:
                raise UserError(f"{path} holds more than {MOST_TABLE >> 30} GiB: unpack it, and give a part of it")
            if not unpacker.eof:
                raise UserError(f"{path} ends too early: copy or download it again")
            data = unpacker.unused_data
    except zlib.error as error:
        raise UserError(f"{path} is not packed by gzip ({error}): pack it again, or give the unpacked file") from error
    return b"".join(parts)


def _text(data: bytes, path: Path) -> str:
    """Return the text of UTF-8 bytes, without a byte order mark. Raises UserError, which names another encoding."""
    mark = next((name for start, name in MARKS.items() if data.startswith(start)), "utf-8")
    if mark == "utf-8" and not (0 < data[:4].count(0) < 4):
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line, mark = data.count(b"\n", 0, error.start) + 1, _guessed(data, error.start)
    else:
        line, mark = 1, "utf-16" if mark == "utf-8" else mark.removesuffix("-le").removesuffix("-be")
    name = mark.upper()
    better = shlex.quote(f"utf8-{path.name.removesuffix('.gz')}")
    given = f"gunzip -c {shlex.quote(str(path))} | iconv -f {name} -t UTF-8" if path.suffix.lower() == ".gz" else ""
    command = given or f"iconv -f {name} -t UTF-8 {shlex.quote(str(path))}"
    raise UserError(
        f"{path}:{line} is not UTF-8 but probably {name}: type `{command} > {better}`, or save the table as CSV UTF-8, and give "
        "that file"
    )


def _guessed(data: bytes, place: int) -> str:
    """Return the probable encoding of bytes that are not UTF-8 at a place."""
    from charset_normalizer import from_bytes

    start = max(0, place - GUESSED_FROM // 2)
    best = from_bytes(data[start : start + GUESSED_FROM]).best()
    name = best.encoding.replace("_", "-") if best else "cp1252"
    return "windows-1252" if name in ("utf-8", "ascii", "cp1252", "cp1250", "latin-1") else name


def _header(cells: Sequence[str], path: Path) -> tuple[str, ...]:
    """Return the names of the columns; one without a name is `column N`, or `index` if it is the first."""
    names = [name.strip() or (f"column {n}" if n > 1 else UNNAMED) for n, name in enumerate(cells, start=1)]
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise UserError(f"{path}:1 has two columns named {twice}: give each its own name, or remove one")
    return tuple(names)


def _fitted(cells: Sequence[str], size: int) -> Sequence[str] | None:
    """Return a row with `size` cells, or None if it has another number; empty cells at the end may be too many."""
    return cells[:size] if len(cells) >= size and not any(cells[size:]) else None


def _wrong_quote(path: Path, line: int, error: str) -> str:
    if "end of data" in error:
        return f'{path}:{line} opens a quote (") that is never closed: close it, and write a quote inside a cell twice ("")'
    return f'{path}:{line} has text behind a closing quote ("): write a quote inside a cell twice ("")'


def _named(separator: str) -> str:
    return "TAB" if separator == "\t" else f"`{separator}`"


def _json_lines(text: str, path: Path) -> RecordTable:
    records, lines, broken = [], [], []
    for n, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        if not line.strip():
            continue
        record = _record(line)
        if isinstance(record, str):
            broken.append(BrokenRow(n, record))
        else:
            records.append(record)
            lines.append(n)
    if not records:
        why = f"line {broken[0].line} is {broken[0].why}" if broken else "it is empty"
        raise UserError(f'{path} holds no record ({why}): expected an object such as {{"id": "1", "text": "..."}} on each line')
    return from_records(path, records, lines, tuple(broken))


def _record(line: str) -> dict[str, Any] | str:
    """Return the object in a line, or a clause that says why it is none."""
    found = _parsed(line)
    if isinstance(found, str):
        return found
    return found[0] if isinstance(found[0], dict) else f"a {type(found[0]).__name__} and no object"


def _json(text: str, path: Path) -> RecordTable:
    """Return the table in a file with a JSON array of objects, or with an object on each line."""
    if not text.lstrip().startswith("["):
        return _json_lines(text, path)
    found = _parsed(text)
    if isinstance(found, str):
        raise UserError(f"{path} is {found}: expected an array of objects, or an object on each line")
    places = [n for n, record in enumerate(found[0], start=1) if isinstance(record, dict)]
    broken = [BrokenRow(n, f"a {type(r).__name__} and no object") for n, r in enumerate(found[0], 1) if not isinstance(r, dict)]
    if not places:
        raise UserError(f"{path} holds no object: expected an array of objects, or an object on each line")
    return from_records(path, [found[0][n - 1] for n in places], places, tuple(broken))


def _parsed(text: str) -> tuple[Any] | str:
    """Return the value of a JSON text in a tuple, or a clause that says why it is none."""
    import json

    try:
        return (json.loads(text, parse_int=whole),)
    except (ValueError, RecursionError) as error:
        return why_no_json(text[:1024].encode(errors="replace"), error)


def _parquet(path: Path) -> RecordTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            table = _limited(file, path)
        names = table.column_names
        twice = next((name for name, times in Counter(names).items() if times > 1), None)
        columns: dict[str, Any] = {name: list(map(_plain, table.column(name).to_pylist())) for name in names} if not twice else {}
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        with path.open("rb") as file:
            why = looks_like(file.read(1024)) or " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as Parquet ({why}): write it again, or download it again") from error
    if twice is not None:
        raise UserError(f"{path} has two columns named {twice}: give each its own name, or remove one")
    return RecordTable(path, columns, range(1, table.num_rows + 1))


def _limited(file: Any, path: Path) -> Any:
    """Return the table in an open Parquet file. Raises UserError if it unpacks to more than a table has."""
    import pyarrow as pa

    batches, size = [], 0
    if file.metadata.num_rows * max(1, len(file.schema_arrow)) <= MOST_VALUES:  # pyarrow dies of damaged metadata of a column
        for batch in file.iter_batches(BATCH):
            batches.append(batch)
            size += batch.nbytes
            if size > MOST_TABLE:
                break
        else:
            return pa.Table.from_batches(batches, file.schema_arrow)
    raise UserError(
        f"{path} unpacks to more than {MOST_VALUES:,} cells or {MOST_TABLE >> 30} GiB: give a part of it, or write large values "
        "as files of their own"
    )


def _plain(cell: Any) -> Any:
    """Return a cell as plain JSON has it: dates, decimals and bytes become texts."""
    if cell is None or isinstance(cell, str | bool | int | float):
        return cell
    if isinstance(cell, Mapping):
        return {str(key): _plain(value) for key, value in cell.items()}
    if isinstance(cell, list | tuple):
        return [_plain(part) for part in cell]
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)
