"""Write files atomically, and hash values.

A file is written under a temporary name and then renamed, so readers never see half of it.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import re
import stat
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmu_lightning.confidential import without_secrets

if TYPE_CHECKING:
    from filelock import SoftFileLease

FULL = (errno.ENOSPC, errno.EDQUOT)  # errors of a full disk
LEASE = 30.0  # seconds without a sign of life after which the holder of a file on another machine counts as dead
FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # beginnings of a text that a spreadsheet may execute
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
ESCAPED = "backslashreplace"  # writes lone surrogates, which UTF-8 cannot hold, as escapes; JSON has the same escapes
SEAL = "seal"  # the key of a mapping's own checksum
BLOCK = 1 << 20  # bytes that are read at once


def write_atomically(path: Path, write: Callable[[Path], Any], lasting: bool = True, keep: Path | None = None) -> None:
    """Fill a temporary file beside `path` by `write`, then rename it to `path`. An error is raised and leaves `path` unchanged.

    Args:
        path: its folder is created.
        write: writes the file at the given path.
        lasting: whether to wait for the disk, so that the file survives a power cut. False suits files that are rewritten soon
            or can be created again; they survive a killed process too.
        keep: path to which an existing file is renamed just before; None replaces it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        write(temporary)
        if lasting:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
    except OSError as error:
        add_name(error, path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def lease(path: Path) -> SoftFileLease:
    """Return a lock at `path` that also excludes processes of other machines, whose shared disks often have no POSIX locks.

    A thread of the holder renews it. A holder that stands still longer than `LEASE` loses it to others, so whoever writes under
    a lease has to check that nobody else did.
    """
    from filelock import SoftFileLease

    return SoftFileLease(path, lease_duration=LEASE)


def acquired(lock: SoftFileLease) -> bool:
    """Acquire a lease, and return True; return False at once if somebody else has it. Release it afterwards."""
    from filelock import Timeout

    for _ in range(2):  # an attempt that finds a dead holder only removes its mark
        with suppress(Timeout):
            lock.acquire(timeout=0)
            return True
    return False


def add_name(error: OSError, path: Path) -> None:
    """Add a path to an error of the system that names no file, such as that of a write to a full disk."""
    if error.errno is not None and error.filename is None:
        error.filename = str(path)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically, without secrets of the environment.

    A lone surrogate, as in some file names, is written as its escape sequence.
    """
    shown = without_secrets(text)
    write_atomically(path, lambda temporary: temporary.write_text(shown, encoding="utf-8", errors=ESCAPED))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, atomically. Raises ValueError for NaN and infinity, because most readers reject them."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Collection[str] = ()) -> list[str]:
    """Return the lines of a Markdown table; the columns named in `numeric` are aligned to the right.

    A `|` in a cell is escaped, and a line break becomes a space.
    """
    marks = ["---:" if name in numeric else "---" for name in head]
    lines = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in (head, marks, *rows))
    return [f"| {' | '.join(line)} |" for line in lines]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], lasting: bool = True) -> None:
    """Write rows as CSV, atomically. Each key becomes a column, in order of first appearance.

    None, or a key that a row lacks, becomes an empty cell. Texts are written as by `csv_cell`.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors=ESCAPED) as file:
            writer = csv.writer(file)
            writer.writerow(map(csv_cell, columns))
            writer.writerows([csv_cell(row.get(column)) for column in columns] for row in rows)

    write_atomically(path, write, lasting)


def csv_cell(value: Any) -> Any:
    """Return a value as a cell of a CSV file: a text that a spreadsheet could take for a formula gets a `'` in front.

    Numbers stay as they are, also in texts. A text that begins with `'` and such a sign gets one more, so `of_csv_cell` is exact.
    """
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value) else value


def of_csv_cell(cell: str) -> str:
    """Return the text of which `csv_cell` made a cell."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) and not NUMBER.fullmatch(cell[1:]) else cell


def sound(text: str) -> str:
    """Return text that UTF-8 can hold: pairs of surrogates are joined, and each lone surrogate becomes U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def is_place(value: object) -> bool:
    """Return whether a value is text that names a place on this machine: a path from the root, the home or the current folder."""
    return isinstance(value, str) and (value.startswith(("/", "~", "./", "../")) or Path(value).is_absolute())


def now() -> str:
    """Return the time now in UTC, in ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON as 64 hexadecimal digits, the same on every machine.

    The order of keys has no influence. Raises TypeError for a value that JSON cannot hold.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def bytes_of(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file. Raises OSError, also for a pipe, a device, or more than `most` bytes."""
    with open(path, "rb", opener=_without_waiting) as file:  # a Path has no opener
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if found.st_size > most:
            raise OSError(errno.EOVERFLOW, f"it has more than {most:,} bytes", str(path))
        if not found.st_size and file.read(1):  # of the system, such as in /proc
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return file.read(found.st_size)  # no more, even if it grows meanwhile


def _without_waiting(path: str, flags: int) -> int:
    """Open a file, without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_checksum(path: Path) -> str:
    """Return the CRC-32 of a file's bytes as eight hexadecimal digits. Raises OSError if it cannot be read."""
    value, block = 0, memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            value = zlib.crc32(block[:size], value)
    return f"{value:08x}"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping as plain JSON, with its own checksum under the key `SEAL`, so that `unsealed` finds changes."""
    plain = json.loads(json.dumps(content))
    return {**plain, SEAL: digest(plain)}


def unsealed(content: Any) -> dict[str, Any]:
    """Return the content of a sealed mapping. Raises ValueError if it is no mapping, has no seal or was changed."""
    rest = {key: value for key, value in content.items() if key != SEAL} if isinstance(content, dict) else {}
    if not isinstance(content, dict) or content.get(SEAL) != digest(rest):
        raise ValueError("it has other content than was written")
    return rest


def read_sealed(path: Path, key: str) -> Any:
    """Return what a JSON file, written as `sealed({key: ...})`, holds under the key; None if an older version wrote it unsealed.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it has other content than was written.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if isinstance(content, dict) and not {SEAL, key} & content.keys():
        return None
    return unsealed(content)[key]


def file_state(path: Path) -> tuple[int, int, int, int]:
    """Return size, inode, and times of modification and change. One of them differs after every change of the file's bytes."""
    found = path.stat()
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def write_table(path: Path, columns: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> None:
    """Write columns as parquet, atomically. `about` is stored as JSON under the file's metadata key `gmu_lightning`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(dict(columns))
    if about is not None:
        table = table.replace_schema_metadata({"gmu_lightning": json.dumps(about, ensure_ascii=False)})
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def looks_like(data: bytes) -> str | None:
    """Return a clause if a file is a pointer, a web page, packed or empty instead of data, by its first bytes; else None."""
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, and git lfs pull fetches the file"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or b"<html" in start:
        return "it is an HTML page and not the file"
    if data.startswith(b"\x1f\x8b"):
        return "it is packed by gzip"
    return "it is empty" if not data else None
