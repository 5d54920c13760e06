"""How files are written, beside their name and then renamed: nobody sees half of one. And what names a content."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ESCAPED = "backslashreplace"  # of lone surrogates, which UTF-8 cannot hold; in JSON this is the escape of JSON itself


def write_atomically(path: Path, write: Callable[[Path], Any], lasting: bool = True) -> None:
    """`write(temporary)` fills a file beside `path`, which then takes its name; a failure leaves `path` as it was.

    Args:
        lasting: wait for the disk, so that not even a power cut takes the file back. False for what is written again soon, or
            can be drawn again: a killed process costs nothing there either.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        write(temporary)
        if lasting:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8, atomically. A lone surrogate, as in the name of a file, is written as its escape sequence."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors=ESCAPED))


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, atomically. A NaN is refused: no reader but Python's accepts it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], lasting: bool = True) -> None:
    """A CSV with a column for every key of any row, in order of first appearance; None is an empty cell."""
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors=ESCAPED) as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write, lasting)


def sound(text: str) -> str:
    """Join pairs of surrogates, and put U+FFFD in the place of each lone one, which UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def now() -> str:
    """ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON: the same on any machine."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def write_table(path: Path, columns: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> None:
    """Columns as parquet, atomically; `about` becomes the file's metadata key `gmu_lightning`, as JSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(dict(columns))
    if about is not None:
        table = table.replace_schema_metadata({"gmu_lightning": json.dumps(about, ensure_ascii=False)})
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def looks_like(data: bytes) -> str | None:
    """Name what a file holds in place of data, judged by its first bytes: a pointer, a web page, a packed file; else None."""
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, and git lfs pull fetches the file"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or b"<html" in start:
        return "it is an HTML page and not the file"
    if data.startswith(b"\x1f\x8b"):
        return "it is packed by gzip"
    return "it is empty" if not data else None
