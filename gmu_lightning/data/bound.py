"""How large a store may grow: what is in use is marked so, and of the rest what was used least recently goes first."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gmu_lightning.movie import UserError

try:
    import fcntl
except ImportError:  # no POSIX: a store cannot be bounded there
    fcntl = None  # type: ignore[assignment]

KINDS = ("columns", "features", "parts", "unpacked")  # all of it can be made again; nothing else in a store is removed
GONE, UNFINISHED = ".removed", ".unfinished"

_too_small: set[Path] = set()  # stores of which that was said by this process


def checked_bound(gigabytes: Any) -> float | None:
    """The bound in bytes, None where there is none. Raises UserError."""
    if gigabytes is None:
        return None
    number = isinstance(gigabytes, int | float) and not isinstance(gigabytes, bool)
    if not number or not math.isfinite(gigabytes) or gigabytes <= 0:
        raise UserError(f"store.max_gb={gigabytes} is no size: give a number of gigabytes above 0, or null for no bound")
    if fcntl is None:
        raise UserError("store.max_gb needs file locks as Linux and macOS have them: leave it null on this system")
    return gigabytes * 1e9


def in_use(folder: Path) -> IO[bytes] | None:
    """Keep a folder of the store, there or not yet, from being removed for as long as the returned file is open.

    Any number of jobs may use the same one; its time of modification becomes that of its last use. None where a disk takes no
    locks, or may only be read: nothing is removed there.
    """
    with suppress(OSError):  # it may be somebody else's, or not there yet
        os.utime(folder)
    if fcntl is None:
        return None
    try:
        file = _lock_of(folder).open("a+b")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH)  # waits at most for a rename
    except OSError:
        file.close()
        return None
    return file


def keep_within(root: Path, bound: float) -> None:
    """Remove finished folders that no job uses, those used least recently first, until they hold at most `bound` bytes.

    What was removed is said on stderr, and so is, once a process, that what is in use needs more.
    """
    from filelock import FileLock

    with FileLock(root / ".bound.lock"):  # one at a time, or two would both remove for the same excess
        _clear_leftovers(root)
        entries = sorted(_entries(root), key=lambda entry: (entry.used, entry.folder.name))
        size = sum(entry.size for entry in entries)
        removed = []
        for entry in entries:
            if size <= bound:
                break
            if _removed(entry.folder):
                size -= entry.size
                removed.append(entry)
        for entry in removed:
            shutil.rmtree(_gone(entry.folder), ignore_errors=True)
    if removed:
        names = ", ".join(f"{entry.folder.relative_to(root)} ({entry.size / 1e6:.1f} MB)" for entry in removed)
        print(f"store.max_gb={bound / 1e9:g}: removed what was used least recently: {names}", file=sys.stderr, flush=True)
    if size > bound and root not in _too_small:
        _too_small.add(root)
        print(
            f"warning: store.max_gb={bound / 1e9:g} is less than the {size / 1e9:.3g} GB that are in use in {root}: "
            "they stay, and the store is larger than that for now",
            file=sys.stderr,
            flush=True,
        )


@dataclass(frozen=True)
class _Entry:
    """One folder that could go."""

    folder: Path
    used: float  # seconds since the epoch
    size: int  # bytes


def _entries(root: Path) -> Iterator[_Entry]:
    for folder in _folders(root):
        with suppress(FileNotFoundError):
            if not folder.name.startswith("."):
                yield _Entry(folder, folder.stat().st_mtime, _size(folder))


def _folders(root: Path) -> Iterator[Path]:
    for kind in KINDS:
        with suppress(FileNotFoundError):
            yield from [Path(entry.path) for entry in os.scandir(root / kind) if entry.is_dir(follow_symlinks=False)]


def _size(folder: Path) -> int:
    """Bytes in the files of a folder; one that vanishes meanwhile counts nothing."""
    size = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += Path(path, name).lstat().st_size
    return size


def _removed(folder: Path) -> bool:
    """Take a folder's name away unless a job uses it; whoever wants it next finds nothing, and makes it again."""
    try:
        with _lock_of(folder).open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder.rename(_gone(folder))
    except OSError:
        return False
    return True


def _clear_leftovers(root: Path) -> None:
    """What killed processes left half removed or half built."""
    from filelock import FileLock, Timeout

    for folder in _folders(root):
        if folder.name.endswith(GONE):
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.name.endswith(UNFINISHED):
            with suppress(Timeout), FileLock(folder.with_name(f"{folder.name.removesuffix(UNFINISHED)}.lock"), timeout=0):
                shutil.rmtree(folder, ignore_errors=True)


def _gone(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}{GONE}")


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.use.lock")
