"""The store: folders of results that are computed once, such as the prepared contents of a modality.

A folder's name is a hash of everything that determines its bytes. One process at a time fills a folder under a temporary name
and renames it when it is complete, so a crash leaves no half-filled folder, and two processes at once build it once.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np

from gmu_lightning.data import integrity, inventory
from gmu_lightning.data.contents import FULL, content_digest, is_about, stored, usable
from gmu_lightning.data.integrity import BrokenEntry
from gmu_lightning.data.parts import Parts
from gmu_lightning.data.ragged import VALUES, Ragged, RaggedWriter
from gmu_lightning.files import add_name, digest, file_state, lease, read_sealed, sealed, write_json
from gmu_lightning.movie import BadContent, Preparation, Unusable, UserError, file_of
from gmu_lightning.parallel import cores, in_threads, nothing, track
from gmu_lightning.visible import first_line

if TYPE_CHECKING:
    from gmu_lightning.config.schema import StoreConfig

logger = logging.getLogger(__name__)
Content = TypeVar("Content")


class Store:
    """A folder of finished results.

    As long as a Store lives, the entries that it looked for are in use, and `gmu-store` keeps them.

    Args:
        folder: of the store; it is created when the first entry is looked for, unless `read_only`.
        read_only: whether to look up entries without writing files. Entries are not kept from being removed then.
        workers: number of contents that are prepared at once; None for the number of cores.
    """

    def __init__(self, folder: Path | str, read_only: bool = False, workers: int | None = None):
        self.root = Path(folder).expanduser()
        self.read_only = read_only
        self.workers = workers or cores()
        self._used: dict[Path, IO[bytes] | None] = {}

    @classmethod
    def of(cls, config: StoreConfig, read_only: bool = False) -> Store:
        """Return the store that a run's configuration describes."""
        return cls(config.dir, read_only, config.workers)

    def has(self, kind: str, key: str) -> bool:
        """Return whether an entry is finished, and every file of it is there with its size.

        Args:
            kind: a name in `inventory.KINDS`.
            key: name of the entry's folder.
        """
        folder = self.root / kind / key
        try:
            integrity.check_sizes(folder, integrity.read_meta(folder))
        except (FileNotFoundError, BrokenEntry):
            return False
        return True

    def holds(self, kind: str, key: str) -> bool:
        """Return `has(kind, key)`, and keep the entry from being removed for as long as this Store lives."""
        self.use(self.root / kind / key)
        return self.has(kind, key)

    def use(self, folder: Path) -> None:
        """Keep a folder of the store, which need not exist yet, from being removed for as long as this Store lives."""
        if not self.read_only and folder not in self._used:
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._used[folder] = inventory.in_use(folder)

    def folder(self, kind: str, key: str, build: Callable[[Path], dict[str, Any]]) -> Path:
        """Return the finished folder of a key; arguments and errors are those of `entry`."""
        return self.entry(kind, key, build, lambda folder, _: folder)

    def entry(
        self,
        kind: str,
        key: str,
        build: Callable[[Path], dict[str, Any]],
        read: Callable[[Path, dict[str, Any]], Content],
        later: tuple[str, ...] = (),
    ) -> Content:
        """Return the content of an entry, after filling it if the store has none.

        A damaged entry is named in a warning, set aside under another name, and filled again.

        Args:
            kind: a name in `inventory.KINDS`.
            key: name of the entry's folder.
            build: fills the folder at the given path, and returns the content of its meta.json. Its errors are passed on.
            read: returns the content of the folder at the given path; its other argument is the content of meta.json.
            later: names of files whose checksums are not compared, because their bytes are not read yet.

        Raises:
            UserError: the disk is full, or the entry is damaged and the store cannot be written to.
            OSError: another error of the disk; it names a file or the folder.
        """
        final = self.root / kind / key
        with self._writing(final):
            self.use(final)
            damage: str | None = None  # only the text, because an error's traceback would keep this Store alive
            try:
                return self._read(final, read, later)
            except FileNotFoundError:
                pass
            except BrokenEntry as reason:
                damage = str(reason)
        with self._writing(final, damage):
            if self.read_only and damage:
                raise PermissionError
            with lease(final.with_name(f".{final.name}.lock")):
                try:  # another process may have filled it meanwhile
                    return self._read(final, read, later)
                except BrokenEntry as reason:
                    damaged, kept = self._named(final, reason), _aside(final).name
                    logger.warning("%s, so it is built again, and the damaged one is kept as %s", damaged, kept)
                except FileNotFoundError:
                    pass
                self._fill(final, build)
        return read(final, integrity.read_meta(final))

    def _read(self, folder: Path, read: Callable[[Path, dict[str, Any]], Content], later: tuple[str, ...]) -> Content:
        """Return the content of an entry. Raises BrokenEntry if it is damaged, and FileNotFoundError if there is none."""
        meta = integrity.read_meta(folder)
        integrity.check(folder, meta, later, remember=not self.read_only)
        try:
            return read(folder, meta)
        except FileNotFoundError as error:  # another process has set the entry aside since
            raise BrokenEntry("a file is missing") from error
        except Exception as error:  # of an older version, whose files have no checksums: damage may raise anything
            if integrity.is_described(meta) or isinstance(error, OSError):
                raise
            raise BrokenEntry(f"it cannot be read: {first_line(error)}") from error

    def _fill(self, final: Path, build: Callable[[Path], dict[str, Any]]) -> None:
        """Fill an entry, and set aside the damaged one that it replaces. The caller has its lock."""
        unfinished = final.with_name(f".{final.name}{inventory.UNFINISHED}")
        shutil.rmtree(unfinished, ignore_errors=True)  # of a killed process
        unfinished.mkdir()
        try:
            meta = integrity.described(unfinished, build(unfinished))
            write_json(unfinished / integrity.META, meta)
            if os.path.lexists(final):
                shutil.rmtree(_aside(final), ignore_errors=True)
                final.rename(_aside(final))
            unfinished.rename(final)
        except OSError as error:
            add_name(error, unfinished)
            raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        integrity.note_written(final, meta)

    def _named(self, folder: Path, damage: BaseException | str) -> str:
        return f"{folder.parent.name}/{folder.name} of store.dir={self.root} is damaged ({damage})"

    @contextmanager
    def _writing(self, folder: Path, damage: str | None = None) -> Iterator[None]:
        """Turn errors of the disk into sentences; `damage` is the reason why an entry is written again."""
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                raise UserError(f"the disk of store.dir={self.root} is full: make room, or choose another") from error
            refused = isinstance(error, PermissionError) or error.errno == errno.EROFS
            if refused and damage and Path(error.filename or self.root).is_relative_to(self.root):
                raise UserError(
                    f"{self._named(folder, damage)}, and this store cannot be written to: let somebody who may write to it run "
                    "this command, or choose another store.dir"
                ) from error
            raise

    def digests(self, contents: Sequence[Any], files_of: str) -> list[str | OSError | None]:
        """Return the SHA-256 of each raw content, in hexadecimal digits.

        A file is read again only if its size, inode or one of its times has changed. The store keeps the list of known files,
        unless it is `read_only`.

        Args:
            contents: raw contents as in `Movie`, None where absent.
            files_of: the data set's root, which names the list of known files.

        Returns:
            One entry per content: None where absent, and the error where the system refuses to read the file.

        Raises:
            OSError: the machine is at fault, such as with too many open files.
        """
        path = self.root / "digests" / f"{digest(files_of)[:16]}.json"
        files = [n for n, content in enumerate(contents) if file_of(content) is not None]
        known = self._listed(path) if files else {}
        fresh: dict[str, list] = {}

        def of(content: Any) -> str | OSError | None:
            file = file_of(content)
            if file is None:
                return None if content is None else content_digest(content)
            try:
                state = [*file_state(file)]
                entry = known.get(str(file))
                fresh[str(file)] = entry if entry and entry[:-1] == state else [*state, content_digest(file)]
            except OSError as error:
                if not is_about(error, file):
                    raise
                return error
            return fresh[str(file)][-1]

        digests = [of(content) if file_of(content) is None else None for content in contents]
        for n, found in zip(files, in_threads(self.workers, of, zip([contents[n] for n in files])), strict=True):
            digests[n] = found
        if not self.read_only and any(known.get(name) != entry for name, entry in fresh.items()):
            with self._writing(path):
                write_json(path, sealed({"files": {**known, **fresh}}))
        return digests

    def _listed(self, path: Path) -> dict[str, list]:
        """Return the known files of a list of digests; none if it is missing, damaged or of an older version."""
        with suppress(FileNotFoundError):
            try:
                return read_sealed(path, "files") or {}
            except ValueError as damage:
                logger.warning("%s, so all files of these data are read and hashed again", self._named(path, damage))
        return {}


def _aside(folder: Path) -> Path:
    """Return the place of a damaged entry that is used no more."""
    return folder.with_name(f"{folder.name}{inventory.DAMAGED}")


@dataclass(frozen=True)
class PreparedColumn:
    """One modality of one data set as its encoder needs it, memory-mapped; row n is of movie n.

    Attributes:
        key: name of the folder, and part of the name of everything that is computed from this column.
        preparation: the fitted preparation that stored the rows.
        ragged: the stored rows.
        bad: contents that could not be used.
        again: opens the column again with all checks; None if the rows are checked already.
    """

    key: str
    preparation: Preparation
    ragged: Ragged
    bad: tuple[Unusable, ...]
    again: Callable[[], PreparedColumn] | None = None
    cached = resident = None

    @property
    def present(self) -> np.ndarray:
        """(N,) bool; False where the content was absent or could not be used."""
        return self.ragged.present

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int, the size of each row's first axis; 0 where absent."""
        return self.ragged.lengths

    def checked(self) -> PreparedColumn:
        """Return the column for readers of its rows. Rows with another checksum than was written are prepared again first."""
        return self.again() if self.again else self

    def without(self, movies: np.ndarray) -> PreparedColumn:
        """Return the checked column as if some movies lacked the modality; `movies` is (N,) bool."""
        return replace(self, ragged=self.ragged.without(movies), again=None)

    def row(self, n: int) -> np.ndarray | None:
        """Return the stored array of movie n, or None where it is absent."""
        return self.ragged.row(n) if self.present[n] else None

    def batch(self, rows: Sequence[int], training: bool = False) -> Any:
        """Return the encoder's Inputs for the movies in these rows; `training` allows augmentation."""
        return self.preparation.batch([self.row(n) for n in rows], training)


def column_key(
    modality: str, digests: Sequence[str | None], in_train: np.ndarray, preparation: Preparation, fitted: bool = False
) -> str:
    """Return the modality and a hash of everything that determines a column's bytes.

    These are the contents and the preparation. A preparation that learns adds its state if it is fitted, and the rows of train
    otherwise.

    Args:
        modality: of the contents.
        digests: SHA-256 of each content, None where absent.
        in_train: (N,) bool, the movies that the preparation may learn from.
        preparation: fingerprinted with what it has learned or will learn from.
        fitted: whether the preparation has learned already.
    """
    learned: Any = None
    if preparation.learns:
        learned = preparation.state() if fitted else np.flatnonzero(in_train).tolist()
    return f"{modality}-{digest([list(digests), preparation.fingerprint, learned])[:20]}"


def prepared(
    store: Store,
    modality: str,
    contents: Sequence[Any],
    digests: Sequence[str | None],
    in_train: np.ndarray,
    preparation: Preparation,
    fitted: bool = False,
    source: str = "",
) -> PreparedColumn:
    """Return the column of one modality, after building it if the store has none. Call its `checked` before you read rows.

    Args:
        store: holds the column.
        modality: of the contents.
        contents, digests: raw content of each movie, None where absent, and its SHA-256, None where absent or unreadable.
        in_train, fitted: as in `column_key`; only contents of `in_train` are given to `Preparation.fit`.
        preparation: fits itself to train unless `fitted`, and stores each content.
        source: the folder that the contents were read from; the list of the store shows it.

    Raises:
        NoneUsable: the preparation learns from train, and train has contents of which none can be read.
        UserError: the disk is full.
    """
    key = column_key(modality, digests, in_train, preparation, fitted)

    def build(folder: Path) -> dict[str, Any]:
        ready = preparation
        if not fitted:
            ready = preparation.fit(usable(modality, contents, np.flatnonzero(in_train).tolist()))
        bad: list[Unusable] = []
        with closing(_rows(store, ready, contents, digests, modality)) as rows, RaggedWriter(folder, len(contents)) as file:
            for n, row in enumerate(rows):
                if isinstance(row, BadContent):
                    bad.append(Unusable(n, row.kind, row.detail))
                elif row is not None:
                    file.write(n, row)
        return {"dtype": file.dtype, "bad": bad, "state": ready.state(), "data": source}

    def read(folder: Path, meta: dict[str, Any]) -> PreparedColumn:
        bad = tuple(Unusable(*one) for one in meta["bad"])
        return PreparedColumn(key, preparation.restored(meta["state"]), Ragged.read(folder, meta["dtype"], len(contents)), bad)

    again = partial(store.entry, "columns", key, build, read)
    return replace(again((VALUES,)), again=again)


def keep_parts(store: Store, preparation: Preparation, contents: Sequence[Any], digests: Sequence[str], modality: str) -> int:
    """Keep the row of each content in a file of its own, where it is missing, for a column that is built later.

    Args:
        store: receives the files.
        preparation: fitted.
        contents, digests: the contents and their SHA-256.
        modality: of the contents.

    Returns:
        The number of contents.
    """
    Parts.begun(store.root, modality, preparation)
    with closing(_rows(store, preparation, contents, digests, modality)) as rows:
        return sum(1 for _ in rows)


def _rows(
    store: Store, preparation: Preparation, contents: Sequence[Any], digests: Sequence[str | None], modality: str
) -> Generator[np.ndarray | BadContent | None, None, None]:
    """Yield the row to store for each content, None where absent, or the reason why there is none."""
    parts = Parts.of(store.root, modality, preparation)
    if parts is not None:
        store.use(parts.folder)

    def one(content: Any, sha: str | None) -> np.ndarray | BadContent | None:
        if content is None or sha is None:
            return None
        if parts is None:
            return stored(preparation, modality, content)
        return parts.get(sha, lambda: stored(preparation, modality, content))

    close = getattr(preparation, "close", nothing)
    rows = in_threads(store.workers, one, zip(contents, digests, strict=True), close)
    with track(f"preparing {modality}", len(contents)) as advance, closing(rows):
        for row in rows:
            advance(1)
            yield row
    if parts is not None and parts.damaged:
        where = f"{parts} of store.dir={store.root} is damaged in {len(parts.damaged)} of its rows"
        logger.warning("%s, which were prepared again", where)
