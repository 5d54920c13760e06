"""The store: folders of results that are computed once, such as the prepared contents of a modality.

A folder's name is a hash of everything that determines its bytes. One process at a time fills a folder under a temporary name
and renames it when it is complete, so a crash leaves no half-filled folder, and two processes at once build it once.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from gmu_lightning.data import inventory
from gmu_lightning.data.contents import FULL, content_digest, described, is_about, opened, stored
from gmu_lightning.data.ragged import Ragged, RaggedWriter
from gmu_lightning.files import add_name, digest, file_state, write_atomically, write_json
from gmu_lightning.movie import BadContent, Preparation, Unusable, UserError, file_of
from gmu_lightning.parallel import cores, in_threads, nothing, track

if TYPE_CHECKING:
    from gmu_lightning.config.schema import StoreConfig


class NoneUsable(UserError):
    """No content of train can be used.

    Args:
        modality: of the contents.
        bad: contents of train, at least one.
    """

    def __init__(self, modality: str, bad: Sequence[Unusable]):
        super().__init__(f"no {modality} of train can be used ({bad[0].detail}): restore the files, or choose other modalities")
        self.bad = bad


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
        """Return whether an entry is finished.

        Args:
            kind: a name in `inventory.KINDS`.
            key: name of the entry's folder.
        """
        return (self.root / kind / key / "meta.json").exists()

    def holds(self, kind: str, key: str) -> bool:
        """Return whether an entry is finished, and keep it from being removed for as long as this Store lives."""
        self.use(self.root / kind / key)
        return self.has(kind, key)

    def use(self, folder: Path) -> None:
        """Keep a folder of the store, which need not exist yet, from being removed for as long as this Store lives."""
        if not self.read_only and folder not in self._used:
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._used[folder] = inventory.in_use(folder)

    def folder(self, kind: str, key: str, build: Callable[[Path], dict[str, Any]]) -> Path:
        """Return the finished folder of a key, after filling it if the store has none.

        Args:
            kind: a name in `inventory.KINDS`.
            key: name of the folder.
            build: fills the folder at the given path, and returns the content of its meta.json. Its errors are passed on.

        Raises:
            UserError: the disk is full.
            OSError: another error of the disk; it names a file or the folder.
        """
        from filelock import FileLock

        final = self.root / kind / key
        if self.holds(kind, key):
            return final
        with FileLock(final.with_name(f".{final.name}.lock")):
            if self.has(kind, key):
                return final
            unfinished = final.with_name(f".{final.name}{inventory.UNFINISHED}")
            shutil.rmtree(unfinished, ignore_errors=True)  # of a killed process
            unfinished.mkdir()
            try:
                write_json(unfinished / "meta.json", build(unfinished))
                shutil.rmtree(final, ignore_errors=True)
                unfinished.rename(final)
            except OSError as error:
                if error.errno in FULL:
                    raise UserError(f"the disk of store.dir={self.root} is full: make room, or choose another") from error
                add_name(error, unfinished)
                raise
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
        return final

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
        known = json.loads(path.read_text()) if path.exists() else {}
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
        files = [n for n, content in enumerate(contents) if file_of(content) is not None]
        for n, found in zip(files, in_threads(self.workers, of, zip([contents[n] for n in files])), strict=True):
            digests[n] = found
        if not self.read_only and any(known.get(name) != entry for name, entry in fresh.items()):
            write_json(path, {**known, **fresh})
        return digests


@dataclass(frozen=True)
class PreparedColumn:
    """One modality of one data set as its encoder needs it, memory-mapped; row n belongs to movie n.

    Attributes:
        key: name of the folder, and part of the name of everything that is computed from this column.
        preparation: the fitted preparation that stored the rows.
        ragged: the stored rows.
        bad: contents that could not be used.
    """

    key: str
    preparation: Preparation
    ragged: Ragged
    bad: tuple[Unusable, ...]
    cached = resident = None

    @property
    def present(self) -> np.ndarray:
        """(N,) bool; False where the content was absent or could not be used."""
        return self.ragged.present

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int, the size of each row's first axis; 0 where absent."""
        return self.ragged.lengths

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
        in_train: (N,) bool.
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
    """Return the column of one modality, after building it if the store has none.

    Args:
        store: holds the column.
        modality: of the contents.
        contents: raw content of each movie, None where absent.
        digests: SHA-256 of each content, None where absent or unreadable.
        in_train: (N,) bool; only these contents are given to `Preparation.fit`.
        preparation: fits itself to train unless `fitted`, and stores each content.
        fitted: whether the preparation has learned already.
        source: the folder that the contents were read from; the list of the store shows it.

    Raises:
        NoneUsable: the preparation learns from train, and train has contents of which none can be read.
        UserError: the disk is full.
    """
    key = column_key(modality, digests, in_train, preparation, fitted)

    def build(folder: Path) -> dict[str, Any]:
        ready = preparation
        if not fitted:
            ready = preparation.fit(_usable(modality, contents, np.flatnonzero(in_train).tolist()))
        bad: list[Unusable] = []
        with closing(_rows(store, ready, contents, digests, modality)) as rows, RaggedWriter(folder, len(contents)) as file:
            for n, row in enumerate(rows):
                if isinstance(row, BadContent):
                    bad.append(Unusable(n, row.kind, row.detail))
                elif row is not None:
                    file.write(n, row)
        return {"dtype": file.dtype, "bad": bad, "state": ready.state(), "data": source}

    folder = store.folder("columns", key, build)
    meta = json.loads((folder / "meta.json").read_text())
    bad = tuple(Unusable(*one) for one in meta["bad"])
    return PreparedColumn(key, preparation.restored(meta["state"]), Ragged.read(folder, meta["dtype"]), bad)


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


def _usable(modality: str, contents: Sequence[Any], rows: Sequence[int]) -> Iterator[Any]:
    """Yield the readable contents of these rows, from which a preparation may learn. Raises NoneUsable."""
    bad: list[Unusable] = []
    there = [n for n in rows if contents[n] is not None]
    for n in there:
        try:
            content = opened(contents[n])
        except BadContent as problem:
            problem = described(problem, file_of(contents[n]))
            bad.append(Unusable(n, problem.kind, problem.detail))
        else:
            yield content
    if bad and len(bad) == len(there):
        raise NoneUsable(modality, bad)


@dataclass(frozen=True)
class Parts:
    """Rows of a costly preparation, with one file per content, named by the content's SHA-256.

    A killed run loses only the rows in progress, and additional movies cost only themselves.

    Attributes:
        folder: holds the files.
    """

    folder: Path

    @classmethod
    def of(cls, root: Path, modality: str, preparation: Preparation) -> Parts | None:
        """Return the parts of a costly preparation in the store at `root`, or None if the preparation is cheap."""
        if not getattr(preparation, "costly", False):
            return None
        folder = root / "parts" / f"{modality}-{digest([preparation.fingerprint, preparation.state()])[:20]}"
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    def get(self, sha: str, make: Callable[[], np.ndarray | BadContent]) -> np.ndarray | BadContent:
        """Return the row of a content. If it is not stored, make it and store it.

        Args:
            sha: SHA-256 of the content.
            make: returns the row, or the reason why there is none. A reason is stored only if it is lasting.
        """
        path = self.folder / f"{sha}.npz"
        try:
            with np.load(path, allow_pickle=False) as kept:
                if "bad" in kept:
                    kind, detail = kept["bad"].tolist()
                    return BadContent(kind, detail)
                return kept["row"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # absent or damaged: make it again
            pass
        made = make()
        if isinstance(made, BadContent) and not made.lasting:
            return made
        content = {"bad": np.array([made.kind, made.detail])} if isinstance(made, BadContent) else {"row": made}

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(file, **content)  # type: ignore[arg-type]

        write_atomically(path, write)
        return made
