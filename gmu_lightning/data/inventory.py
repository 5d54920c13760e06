"""List and remove the entries of a store, and lock entries while a job uses them."""

from __future__ import annotations

import difflib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from gmu_lightning.files import acquired, lease
from gmu_lightning.movie import UserError

try:
    import fcntl
except ImportError:  # without POSIX locks, entries cannot be removed
    fcntl = None  # type: ignore[assignment]

KINDS = ("columns", "features", "parts", "planted", "unpacked")  # only these can be removed; a job makes needed ones again
GONE, UNFINISHED = ".removed", ".unfinished"
DAMAGED = ".damaged"  # ends the name of an entry that was set aside
DAY = 86_400.0  # seconds


@dataclass(frozen=True)
class Entry:
    """One finished folder of a store.

    Attributes:
        folder: its path, `<store>/<kind>/<name>`.
        data: the folder or archive that its movies were read from; empty if it was not recorded.
        used: time of the last use, in seconds since 1970.
        size: in bytes.
    """

    folder: Path
    data: str
    used: float
    size: int

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return self.folder.parent.name

    @property
    def modality(self) -> str:
        """Modality of its contents; empty for raw files, which may have several."""
        return "" if self.kind in ("planted", "unpacked") else self.folder.name.rpartition("-")[0]

    def __str__(self) -> str:
        return f"{self.kind}/{self.folder.name} ({self.size / 1e6:.1f} MB)"


def is_store(folder: Path) -> bool:
    """Return whether a folder is a store: a folder of one of the `KINDS` is in it."""
    return any((folder / kind).is_dir() for kind in KINDS)


def in_use(folder: Path) -> IO[bytes] | None:
    """Keep a folder of the store from being removed, and set its time of modification to now.

    Several jobs may use one folder at the same time.

    Args:
        folder: may not exist yet.

    Returns:
        An open file, which holds the lock until it is closed. None if the disk is read-only or has no locks: entries cannot be
        removed there.
    """
    with suppress(OSError):  # it may belong to another user, or not exist yet
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


def entries(root: Path) -> list[Entry]:
    """Return the finished entries of the store at `root`, the least recently used first."""
    found = []
    for folder in _folders(root):
        with suppress(FileNotFoundError):
            if not folder.name.startswith("."):
                found.append(Entry(folder, _data_of(folder), folder.stat().st_mtime, _size(folder)))
    return sorted(found, key=lambda entry: (entry.used, entry.folder.name))


def listing(root: Path) -> list[str]:
    """Return one line per entry of the store at `root`, with a head and the total; the total alone if there are none."""
    found = entries(root)
    head = ("name", "modality", "MB", "last use (UTC)", "data")
    rows = [
        (f"{e.kind}/{e.folder.name}", e.modality, f"{e.size / 1e6:.1f}", f"{datetime.fromtimestamp(e.used, UTC):%F %R}", e.data)
        for e in found
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]
    return [*(lines if rows else ()), f"{root}: {len(rows)} entries, {sum(entry.size for entry in found) / 1e6:.1f} MB"]


def remove(root: Path, names: Sequence[str] = (), older_than: Any = None) -> list[str]:
    """Remove entries of the store at `root`, and the leftovers of killed processes.

    Args:
        root: folder of the store.
        names: as `listing` shows them, with or without their kind.
        older_than: days since the last use, a number >= 0; older entries are removed too. None removes only `names`.

    Returns:
        A line for each entry that was removed, or that stays because a job uses it.

    Raises:
        UserError: a name is unknown or unfinished, `older_than` is no number of days, or the system has no POSIX locks; nothing
            is removed then. Or a named entry is in use; those named before it are removed.
    """
    if fcntl is None:
        raise UserError("a store's entries can be removed only on a system with POSIX file locks, such as Linux or macOS")
    before = datetime.now(UTC).timestamp() - _days(older_than) * DAY
    found = entries(root)
    named = [_named(name, found, root) for name in names]
    _clear_leftovers(root)
    for entry in named:
        if not _removed(entry.folder):
            raise UserError(f"remove={entry.folder.name} is in use by a job: remove it when that has ended")
    aged = [entry for entry in found if entry.used < before and entry not in named]
    kept = [entry for entry in aged if not _removed(entry.folder)]
    lines = [f"in use, so it stays: {entry}" if entry in kept else f"removed {entry}" for entry in (*named, *aged)]
    _clear_leftovers(root)
    return lines


def _days(older_than: Any) -> float:
    if older_than is None:
        return math.inf
    number = isinstance(older_than, int | float) and not isinstance(older_than, bool)
    if not number or not 0 <= older_than < math.inf:
        raise UserError(f"older_than={older_than} is no number of days: give one from 0 on, such as older_than=30")
    return older_than


def _named(name: str, found: Sequence[Entry], root: Path) -> Entry:
    known = {f"{entry.kind}/{entry.folder.name}": entry for entry in found}
    short = {entry.folder.name: entry for entry in found}
    if name in known or name in short:
        return known.get(name) or short[name]
    kind, _, last = name.rpartition("/")
    if any((root / each / f".{last}{UNFINISHED}").exists() for each in ((kind,) if kind else KINDS)):
        raise UserError(f"remove={name} is unfinished: a job writes it, or the next job that needs it begins it again")
    near = difflib.get_close_matches(name, [*known, *short], n=1, cutoff=0.6)
    advice = f"did you mean {near[0]}?" if near else "gmu-store without remove= lists the names"
    raise UserError(f"remove={name} is no entry of {root}: {advice}")


def _folders(root: Path) -> Iterator[Path]:
    for kind in KINDS:
        with suppress(FileNotFoundError):
            yield from [Path(entry.path) for entry in os.scandir(root / kind) if entry.is_dir(follow_symlinks=False)]


def _data_of(folder: Path) -> str:
    """Return the source of an entry's movies, which features record in their column; "" for parts of columns."""
    meta = _meta(folder)
    meta = {**meta, **_meta(folder.parent.parent / "columns" / str(meta["column"]))} if "column" in meta else meta
    return str(meta.get("data") or meta.get("archive") or "")


def _meta(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "meta.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _size(folder: Path) -> int:
    """Return the bytes in the files of a folder, without files that vanish in the meantime."""
    size = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += Path(path, name).lstat().st_size
    return size


def _removed(folder: Path) -> bool:
    """Rename a folder, so that the next job makes it again, and return True. Return False if a job uses it."""
    with _lock_of(folder).open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        with suppress(FileNotFoundError):  # another process removed it
            folder.rename(folder.with_name(f".{folder.name}.{os.getpid()}{GONE}"))
    return True


def _clear_leftovers(root: Path) -> None:
    """Remove folders that killed processes left half removed or half built."""
    for folder in _folders(root):
        if folder.name.endswith(GONE):
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.name.endswith(UNFINISHED):
            building = lease(folder.with_name(f"{folder.name.removesuffix(UNFINISHED)}.lock"))
            if acquired(building):
                shutil.rmtree(folder, ignore_errors=True)
                building.release()


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.use.lock")
