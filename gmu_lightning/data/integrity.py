"""Record the size and checksum of every file of a store's entry, and compare them when a process first uses the entry."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gmu_lightning.files import SEAL, digest, file_checksum, sealed, unsealed

META, FILES = "meta.json", "checksums"  # the file that describes an entry, and its key for the sizes and checksums of the others
# Entries of raw files, which may hold gigabytes and are read rarely. Their bytes are compared again only after a file's size,
# inode or one of its times has changed; `.NAME.checked` beside the entry remembers these.
RAW = ("planted", "unpacked")
_compared: dict[tuple[Path, tuple[str, ...]], str] = {}  # {(entry, files left out): the state in which this process compared it}


class BrokenEntry(Exception):
    """An entry of the store that cannot be used. The text is a clause on the reason."""


def described(folder: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of an entry's meta.json: `meta` with the size and checksum of every file, and its own checksum."""
    files = {name: f"{(folder / name).stat().st_size} {file_checksum(folder / name)}" for name in sorted(_names(folder))}
    return sealed({**meta, FILES: files})


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the content of an entry's meta.json.

    Raises:
        FileNotFoundError: there is no such entry.
        BrokenEntry: the file is missing, or has other content than was written.
    """
    path = folder / META
    folder.lstat()
    if not path.is_file():
        raise BrokenEntry(f"{META} is missing")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        return unsealed(meta) if not isinstance(meta, dict) or {SEAL, FILES} & meta.keys() else meta  # else of an older version
    except (ValueError, RecursionError) as error:
        raise BrokenEntry(f"{META} has other content than was written") from error
    except OSError as error:
        raise _broken(META, error) from error


def is_described(meta: Mapping[str, Any]) -> bool:
    """Return whether a meta.json holds checksums. Entries of older versions have none."""
    return FILES in meta


def check_sizes(folder: Path, meta: Mapping[str, Any]) -> str:
    """Check that every file of an entry is there and has its size.

    Returns:
        A hash that differs after every change of a file: of sizes, inodes and times.

    Raises:
        BrokenEntry: it names the first file that differs.
    """
    states = []
    for name, (size, _) in _recorded(meta):
        try:
            found = os.stat(f"{folder}/{name}")  # noqa: PTH116  # three times as fast as a Path, and archives have 50,000 files
        except OSError as error:
            raise _broken(name, error) from error
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            raise BrokenEntry(f"{name} has {found.st_size} bytes, not {size}")
        states.append((name, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns))
    return digest(states)


def check(folder: Path, meta: Mapping[str, Any], later: tuple[str, ...] = (), remember: bool = True) -> None:
    """Check the sizes of an entry's files, and their checksums if this process has not compared them yet.

    Args:
        folder: of the entry.
        meta: content of its meta.json.
        later: names of files whose checksums are left out.
        remember: whether files may be written, which spare later processes the comparison of raw files.

    Raises:
        BrokenEntry: it names the first file that differs.
    """
    state = check_sizes(folder, meta)
    if state in (_compared.get((folder.absolute(), later)), _compared.get((folder.absolute(), ()))):
        return
    if folder.parent.name not in RAW or _remembered(folder) != state:
        compare(folder, meta, later)
    _note(folder, state, later, remember)


def note_written(folder: Path, meta: Mapping[str, Any]) -> None:
    """Note that this process wrote an entry, so it need not compare the files."""
    _note(folder, check_sizes(folder, meta), (), remember=True)


def compare(folder: Path, meta: Mapping[str, Any], later: tuple[str, ...] = ()) -> None:
    """Compare the checksum of every file of an entry, except those in `later`. Raises BrokenEntry that names a file."""
    for name, (_, checksum) in _recorded(meta):
        if name in later:
            continue
        try:
            found = file_checksum(folder / name)
        except OSError as error:
            raise _broken(name, error) from error
        if found != checksum:
            raise BrokenEntry(f"{name} has other bytes than were written")


def _note(folder: Path, state: str, later: tuple[str, ...], remember: bool) -> None:
    _compared[folder.absolute(), later] = state
    if remember and folder.parent.name in RAW:
        with suppress(OSError):  # later processes compare the files again
            _memory(folder).write_text(state)


def _names(folder: Path) -> Iterator[str]:
    """Yield the paths of all files of an entry, relative to it, without meta.json."""
    for path, _, names in os.walk(folder):
        for name in names:
            relative = Path(path, name).relative_to(folder).as_posix()
            if relative != META:
                yield relative


def _recorded(meta: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, str]]]:
    """Yield the name of each recorded file, with its size and checksum."""
    for name, both in meta.get(FILES, {}).items():
        size, checksum = both.split()
        yield name, (int(size), checksum)


def _memory(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.checked")


def _remembered(folder: Path) -> str | None:
    try:
        return _memory(folder).read_text()
    except (OSError, ValueError):
        return None


def _broken(name: str, error: OSError) -> BaseException:
    """Return the BrokenEntry for a file that is missing or cannot be read; the error itself if the file may be sound."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return BrokenEntry(f"{name} is missing")
    if error.errno in (errno.EISDIR, errno.EIO):
        return BrokenEntry(f"{name} cannot be read: {error.strerror}")
    return error
