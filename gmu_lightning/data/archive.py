"""MM-IMDb's archive, unpacked once.

An archive comes from a stranger: only what the layout knows is written, under names of our own.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from gmu_lightning.data.media import POSTERS
from gmu_lightning.data.progress import QUIET
from gmu_lightning.data.store import Store
from gmu_lightning.files import digest, looks_like
from gmu_lightning.movie import UserError

PICTURES = "|".join(suffix[1:] for suffix in POSTERS)
WANTED = re.compile(rf"(?P<top>(?:[^/]+/)*?)(?P<name>split\.json|dataset/[A-Za-z0-9_-]{{1,64}}\.(?:json|(?i:{PICTURES})))")
GZIP = b"\x1f\x8b"
BLOCK = 512
BY_HAND = ": if you trust it, unpack it and give data.root the folder."


@dataclass(frozen=True)
class Limits:
    """How much an archive may unpack to.

    Attributes:
        members: files and folders in it.
        file: bytes of one file.
        ratio: unpacked bytes per packed byte; never less than `floor` bytes in all.
    """

    members: int = 200_000
    file: int = 1 << 28
    ratio: int = 50
    floor: int = 1 << 28


LIMITS = Limits()


def is_archive(path: Path) -> bool:
    """Whether it is a file named as a tar archive is."""
    return path.name.endswith((".tar.gz", ".tgz", ".tar")) and path.is_file()


def archive_key(archive: Path) -> str:
    """Names the unpacked folder: another file, or the same one changed, is another folder."""
    stat = archive.stat()
    return digest([str(archive.absolute()), stat.st_size, stat.st_mtime_ns])[:20]


def is_unpacked(archive: Path, store: Store) -> bool:
    """Whether `unpacked` would return at once."""
    return store.has("unpacked", archive_key(archive))


def unpacked(archive: Path, store: Store, limits: Limits = LIMITS) -> Path:
    """The folder with the archive's `split.json` and `dataset/`, unpacked the first time; an interrupted one leaves nothing.

    Raises:
        UserError: it is no tar archive, is truncated or damaged, holds no MM-IMDb, does not fit on the disk, exceeds
            `limits`, or has a member that is a link or a device or points outside the archive.
    """

    def build(folder: Path) -> dict[str, Any]:
        needed, free = archive.stat().st_size, shutil.disk_usage(folder).free
        if free < needed:
            room = f"at least {needed >> 20} MiB and {folder.parent} has {free >> 20}"
            raise UserError(f"Unpacking {archive} needs {room}: set store.dir to a disk with more room.")
        try:
            files = _unpack(archive, folder, limits)
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as damage:
            with archive.open("rb") as packed:
                start = packed.read(1024)
            why = damage if start.startswith(GZIP) else looks_like(start) or damage
            raise UserError(
                f"{archive} is truncated or damaged ({why}): download it again, or give data.root the unpacked folder."
            ) from damage
        return {"archive": str(archive.absolute()), "files": files}

    return store.folder("unpacked", archive_key(archive), build)


def _unpack(archive: Path, folder: Path, limits: Limits) -> int:
    """Write what is wanted of the archive into the folder; the number of files."""
    (folder / "dataset").mkdir()
    tops: set[str] = set()
    files = 0
    with _stream(archive, limits) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for n, member in enumerate(tar):
            wanted = _wanted(member, archive)
            if n >= limits.members or (wanted and member.size > limits.file):
                raise UserError(f"{archive} is refused at its member {member.name!r}, as too large for MM-IMDb{BY_HAND}")
            if wanted:
                _write(tar, member, folder / wanted["name"])
                tops.add(wanted["top"])
                files += 1
        _check_end(tar, stream)
    if len(tops) > 1:
        raise UserError(
            f"{archive} holds several data sets ({', '.join(sorted(tops)[:3])}): give data.root one of them, unpacked."
        )
    if not (folder / "split.json").exists():
        raise UserError(f"{archive} is no MM-IMDb: it lacks split.json, expected beside dataset/<id>.json and dataset/<id>.jpeg.")
    return files


def _wanted(member: tarfile.TarInfo, archive: Path) -> re.Match[str] | None:
    """The member's own name within the layout; None for what the layout does not know."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{archive} is refused: its member {member.name!r} points outside the archive.")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise UserError(f"{archive} is refused: its member {member.name!r} is neither a plain file nor a folder.")
    return WANTED.fullmatch(str(path)) if member.isreg() else None


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(member)
    if source is None:
        raise tarfile.ReadError(f"{member.name} has no content")
    with source, path.open("wb") as target:
        shutil.copyfileobj(source, target)


@contextmanager
def _stream(archive: Path, limits: Limits) -> Iterator[_Metered]:
    from rich.console import Console
    from rich.progress import wrap_file

    size = archive.stat().st_size
    shown = sys.stderr.isatty() and not os.environ.get(QUIET)
    if not shown and not os.environ.get(QUIET):
        print(f"unpacking {archive} ({size / 1e6:,.1f} MB), once", file=sys.stderr, flush=True)
    console = Console(stderr=True)
    with archive.open("rb") as raw, wrap_file(raw, size, description="unpacking", console=console, disable=not shown) as packed:
        packs = raw.read(2) == GZIP
        raw.seek(0)
        yield _Metered(gzip.GzipFile(fileobj=packed) if packs else packed, archive, max(limits.floor, size * limits.ratio))


class _Metered(io.BufferedIOBase):
    """An unpacked stream that refuses to grow beyond its limit, and remembers how it ended."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, archive: Path, limit: int):
        self.file, self.archive, self.limit = file, archive, limit
        self.size = 0
        self.tail = b""

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes. Raises UserError beyond the limit."""
        chunk = self.file.read(-1 if size is None else size)
        self.size += len(chunk)
        if self.size > self.limit:
            raise UserError(f"{self.archive} is refused: it unpacks to more than {self.limit:,} bytes{BY_HAND}")
        self.tail = (self.tail + chunk)[-BLOCK:]
        return chunk


def _check_end(tar: tarfile.TarFile, stream: _Metered) -> None:
    """A tar ends with blocks of zeros; tarfile takes a damaged header, or no more bytes, for the end as well."""
    assert tar.fileobj is not None
    while rest := tar.fileobj.read(1 << 16):
        if any(rest):
            raise tarfile.ReadError("one of its headers is damaged")
    if stream.tail != bytes(BLOCK):
        raise tarfile.ReadError("it ends before its end mark")
