"""MM-IMDb: 25,959 movies with a plot and a poster (Arevalo et al. 2017, arXiv 1702.01992).

This module finds the files, unpacks an archive, and opens their layout.
"""

from __future__ import annotations

import gzip
import io
import logging
import re
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar, Literal

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.data.dataset import DataSet
from gmu_lightning.data.mmimdb.layouts import HDF5_FILE, Hdf5Layout, JsonlLayout, RawLayout
from gmu_lightning.data.readers.layouts import Layout, existing, here_or_one_down, reading, what_it_holds
from gmu_lightning.data.readers.media import POSTERS
from gmu_lightning.data.readers.records import split_file
from gmu_lightning.data.selection import POLICIES, Splits
from gmu_lightning.data.store import Store
from gmu_lightning.files import digest, looks_like
from gmu_lightning.movie import UserError

logger = logging.getLogger(__name__)
EXPECTED = {
    "raw": "split.json beside a folder dataset",
    "hdf5": HDF5_FILE,
    "jsonl": "train.jsonl with dev.jsonl and test.jsonl",
}
PICTURES = "|".join(suffix[1:] for suffix in POSTERS)
WANTED = re.compile(rf"(?P<top>(?:[^/]+/)*?)(?P<name>split\.json|dataset/[A-Za-z0-9_-]{{1,64}}\.(?:json|(?i:{PICTURES})))")
GZIP = b"\x1f\x8b"
BLOCK = 512  # bytes of a tar archive
BY_HAND = ": if you trust it, unpack it and give data.root the folder."


class MMIMDb(DataSet):
    """MM-IMDb in one of its layouts, or another data set in such a layout.

    Args:
        root: its folder, the folder above it, the `.tar.gz`, or the `.hdf5` file.
        layout: `raw` (plots and posters), `hdf5` (word2vec and VGG vectors), `jsonl` (plots and posters), or `auto` for the first
            of these that is there.
        label_policy: a key of `POLICIES`; results under different policies are not comparable.
        plot: the plot to read of several: `longest`, `first`, or all of them joined (`concat`).
        **common: those of every `DataSet`.
    """

    modalities: ClassVar[tuple[str, ...]] = ("text", "image")
    published_genres: ClassVar[tuple[str, ...] | None] = (
        *("Drama", "Comedy", "Romance", "Thriller", "Crime", "Action", "Adventure", "Horror", "Documentary", "Mystery"),
        *("Sci-Fi", "Fantasy", "Family", "Biography", "War", "History", "Music", "Animation", "Musical", "Western", "Sport"),
        *("Short", "Film-Noir"),
    )

    def __init__(
        self,
        root: str | None,
        layout: Literal["auto", "raw", "hdf5", "jsonl"] = "auto",
        label_policy: Literal["keep23", "mmbt"] = "keep23",
        plot: Literal["longest", "first", "concat"] = "longest",
        **common: Any,
    ):
        super().__init__(root, **common)
        self.layout, self.label_policy, self.plot = layout, label_policy, plot

    def pending(self, store: Store) -> str | None:
        """Describe the archive that `open` has to unpack first, or return None if there is none."""
        archive = Path(self.root or "").expanduser()
        return f"unpack {archive} once" if is_archive(archive) and not is_unpacked(archive, store) else None

    def open(self, modalities: Sequence[str], store: Store) -> Layout:
        """Return the layout of the files, after unpacking an archive. Raises UserError if they are missing or damaged."""
        if not self.root:
            raise UserError("data=mmimdb needs data.root=PATH: the folder that holds split.json, or mmimdb.tar.gz.")
        found = find_mmimdb(self.root, self.layout, store)
        (name, path), *others = found.items()
        with reading(path):
            layouts = {"raw": RawLayout, "jsonl": JsonlLayout}
            layout: Layout = layouts[name](path, self.plot) if name in layouts else Hdf5Layout(path)
        if others:
            unread = ", ".join(other for other, _ in others)
            layout.warn(f"layouts: {self.root} holds several layouts: {name} is read, {unread} is not.")
        return layout

    def apply_policy(self, movies: Splits, audit: Audit) -> Splits:
        """Return the movies and genres that `label_policy` keeps; the audit names the others."""
        return POLICIES[self.label_policy](movies, audit)


class MMIMDbDataModule(MovieDataModule):
    """Batches of MM-IMDb, with the arguments of `MMIMDb` and of `MovieDataModule`."""

    reads = MMIMDb


def find_mmimdb(root: str, layout: str, store: Store) -> dict[str, Path]:
    """Find MM-IMDb, after unpacking an archive into the store.

    Args:
        root: the folder with the files, the folder above it, the `.tar.gz` (or `.tar`), or the `.hdf5` file.
        layout: a key of `EXPECTED`, or `auto` for all of them.
        store: holds unpacked archives.

    Returns:
        {layout: its folder or HDF5 file}, in the order of `EXPECTED`; not empty.

    Raises:
        UserError: no such layout is there, or the files cannot be read.
    """
    wanted = tuple(EXPECTED) if layout == "auto" else (layout,)
    expected = "expected " + ", or ".join(EXPECTED[name] for name in wanted)
    with existing(root, expected) as path:
        place = unpacked(path, store) if is_archive(path) else path
        found = {name: there for name in wanted if (there := here_or_one_down(place, partial(_at, name))) is not None}
        if not found:
            raise UserError(f"data.root={root} is no MM-IMDb ({expected}, there or one folder down): {_instead(path)}.")
    return found


def _at(layout: str, place: Path) -> Path | None:
    """Return the folder or file of a layout if it is at this place."""
    if layout == "raw":
        return place if (place / "split.json").is_file() and (place / "dataset").is_dir() else None
    if layout == "jsonl":
        return place if split_file(place, "train") is not None else None
    file = place if place.suffix in (".hdf5", ".h5") else place / HDF5_FILE
    return file if file.is_file() else None


def _instead(path: Path) -> str:
    if not path.is_dir():
        if is_archive(path):
            return "an archive is read as raw"
        return "it is a file, and neither a .tar.gz, a .tar nor an .hdf5; data=files reads a table of your own"
    if any(_at(layout, path.parent) is not None for layout in EXPECTED):
        return f"the folder above it is: give data.root={path.parent}"
    return what_it_holds(path)


@dataclass(frozen=True)
class Limits:
    """Largest sizes of an archive.

    Attributes:
        members: number of files and folders in it.
        file: bytes of one unpacked file.
        ratio: unpacked bytes per packed byte.
        floor: unpacked bytes that are always accepted, whatever the ratio.
    """

    members: int = 200_000
    file: int = 1 << 28
    ratio: int = 50
    floor: int = 1 << 28


LIMITS = Limits()


def is_archive(path: Path) -> bool:
    """Return whether a path is a file with the suffix of a tar archive."""
    return path.name.endswith((".tar.gz", ".tgz", ".tar")) and path.is_file()


def is_unpacked(archive: Path, store: Store) -> bool:
    """Return whether the store has the unpacked archive already."""
    return store.has("unpacked", _archive_key(archive))


def _archive_key(archive: Path) -> str:
    stat = archive.stat()
    return digest([str(archive.absolute()), stat.st_size, stat.st_mtime_ns])[:20]


def unpacked(archive: Path, store: Store, limits: Limits = LIMITS) -> Path:
    """Return the folder of the store with the archive's `split.json` and `dataset/`, after unpacking it if necessary.

    Archives are untrusted: only files that the raw layout knows are written, with names of our own.

    Args:
        archive: a `.tar`, or a `.tar.gz`.
        store: holds the folder.
        limits: refuse archives that exceed them.

    Raises:
        UserError: the archive is no tar file, is truncated or damaged, lacks MM-IMDb, does not fit on the disk, exceeds `limits`,
            or has a member that is a link or a device or points outside the archive.
    """

    def build(folder: Path) -> dict[str, Any]:
        needed, free = archive.stat().st_size, shutil.disk_usage(folder).free
        if free < needed:
            room = f"at least {needed >> 20} MiB and {folder.parent} has {free >> 20}"
            raise UserError(f"Unpacking {archive} needs {room}: set store.dir to a disk with more room.")
        try:
            _unpack(archive, folder, limits)
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as damage:
            with archive.open("rb") as packed:
                start = packed.read(1024)
            why = damage if start.startswith(GZIP) else looks_like(start) or damage
            raise UserError(
                f"{archive} is truncated or damaged ({why}): download it again, or give data.root the unpacked folder."
            ) from damage
        return {"archive": str(archive.absolute())}

    return store.folder("unpacked", _archive_key(archive), build)


def _unpack(archive: Path, folder: Path, limits: Limits) -> None:
    """Write the wanted files of the archive into the folder."""
    (folder / "dataset").mkdir()
    tops: set[str] = set()
    with _stream(archive, limits) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for n, member in enumerate(tar):
            wanted = _wanted(member, archive)
            if n >= limits.members or (wanted and member.size > limits.file):
                raise UserError(f"{archive} is refused at its member {member.name!r}, as too large for MM-IMDb{BY_HAND}")
            if wanted:
                tar.extract(member.replace(name=wanted["name"]), folder, set_attrs=False, filter="data")
                tops.add(wanted["top"])
        _check_end(tar, stream)
    if len(tops) > 1:
        raise UserError(
            f"{archive} holds several data sets ({', '.join(sorted(tops)[:3])}): give data.root one of them, unpacked."
        )
    if not (folder / "split.json").exists():
        raise UserError(f"{archive} is no MM-IMDb: it lacks split.json, expected beside dataset/<id>.json and dataset/<id>.jpeg.")


def _wanted(member: tarfile.TarInfo, archive: Path) -> re.Match[str] | None:
    """Return the match of a member's name within the raw layout, or None for a member that the layout does not know."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{archive} is refused: its member {member.name!r} points outside the archive.")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise UserError(f"{archive} is refused: its member {member.name!r} is neither a plain file nor a folder.")
    return WANTED.fullmatch(str(path)) if member.isreg() else None


@contextmanager
def _stream(archive: Path, limits: Limits) -> Iterator[_Metered]:
    from rich.console import Console
    from rich.progress import wrap_file

    size = archive.stat().st_size
    shown = sys.stderr.isatty() and logger.isEnabledFor(logging.INFO)
    if not shown:
        logger.info("unpacking %s (%s MB), once", archive, f"{size / 1e6:,.1f}")
    console = Console(stderr=True)
    with archive.open("rb") as raw, wrap_file(raw, size, description="unpacking", console=console, disable=not shown) as packed:
        packs = raw.read(2) == GZIP
        raw.seek(0)
        yield _Metered(gzip.GzipFile(fileobj=packed) if packs else packed, archive, max(limits.floor, size * limits.ratio))


class _Metered(io.BufferedIOBase):
    """An unpacked stream with a limit to its bytes; `tail` holds the last block."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, archive: Path, limit: int):
        self.file, self.archive, self.limit = file, archive, limit
        self.size = 0
        self.tail = b""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes. Raises UserError beyond the limit."""
        chunk = self.file.read(-1 if size is None else size)
        self.size += len(chunk)
        if self.size > self.limit:
            raise UserError(f"{self.archive} is refused: it unpacks to more than {self.limit:,} bytes{BY_HAND}")
        self.tail = (self.tail + chunk)[-BLOCK:]
        return chunk


def _check_end(tar: tarfile.TarFile, stream: _Metered) -> None:
    """Raise ReadError unless the archive ends with blocks of zeros; tarfile also ends at damaged headers and truncation."""
    assert tar.fileobj is not None
    while rest := tar.fileobj.read(1 << 16):
        if any(rest):
            raise tarfile.ReadError("one of its headers is damaged")
    if stream.tail != bytes(BLOCK):
        raise tarfile.ReadError("it ends before its end mark")
