"""The store: what is computed once and read ever after, each thing in a folder named by all that its bytes depend on.

A folder is filled under another name, by one process at a time, and renamed when it is complete: a crash leaves
nothing that looks finished, and two processes that start together build it once.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from gmu_lightning.data import bound
from gmu_lightning.data.media import unreadable
from gmu_lightning.data.parts import Parts
from gmu_lightning.data.progress import track
from gmu_lightning.data.ragged import write_ragged
from gmu_lightning.data.threads import cores, in_threads, nothing
from gmu_lightning.files import digest, looks_like, write_json
from gmu_lightning.movie import ArrayFile, BadContent, Preparation, UserError

PRECISIONS = ("float32", "float16")


class NoneUsable(UserError):
    """No content of train can be used; `bad` is as in `Column`."""

    def __init__(self, modality: str, bad: Sequence[tuple[int, str, str]]):
        super().__init__(f"no {modality} of train can be used ({bad[0][2]}): restore the files, or choose other modalities")
        self.bad = bad


class Store:
    """A folder of finished things; `read_only` looks, and writes nothing.

    What was asked for through a Store is in use for as long as that Store lives: no other job's bound removes it.

    Args:
        workers: how many contents are prepared at once; None for as many as there are cores.
        precision: in which features of frozen encoders are kept, `float32` or `float16`.
        max_gb: gigabytes (10^9 bytes) that columns, features, parts and unpacked archives may hold together. After something
            new is stored, what no job uses goes, the least recently used first. None for no bound.
        blocks: whether what the frozen first blocks of a network give is kept, where the others are trained.

    Raises:
        UserError: `workers` or `max_gb` is no such number, `blocks` no truth value, or there is no such `precision`.
    """

    def __init__(
        self,
        folder: Path | str,
        read_only: bool = False,
        workers: int | None = None,
        precision: str = "float32",
        max_gb: float | None = None,
        blocks: bool = True,
    ):
        if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
            raise UserError(f"store.workers={workers} is no such number: give a whole number from 1 on, or null for all cores")
        self.root = Path(folder).expanduser()
        self.read_only = read_only
        self.workers = workers or cores()
        self.bound = bound.checked_bound(max_gb)
        self._keep(precision, blocks)
        self._used: dict[Path, IO[bytes] | None] = {}

    @classmethod
    def of(cls, node: Mapping[str, Any], read_only: bool = False) -> Store:
        """The store that a configuration's `store:` describes. Raises UserError."""
        options = {key: node[key] for key in ("workers", "precision", "max_gb", "blocks") if key in node}
        return cls(node["dir"], read_only, **options)

    def keeping(self, precision: str = "float32", blocks: bool = True) -> Store:
        """The same store, in which features are kept otherwise. Raises UserError."""
        other = copy.copy(self)
        other._keep(precision, blocks)
        return other

    def _keep(self, precision: str, blocks: bool) -> None:
        if precision not in PRECISIONS:
            raise UserError(f"store.precision={precision} is not known: give one of {', '.join(PRECISIONS)}")
        if not isinstance(blocks, bool):
            raise UserError(f"store.blocks={blocks} is neither true nor false: give one of them")
        self.precision, self.blocks = precision, blocks

    def has(self, kind: str, key: str) -> bool:
        """Whether `folder` would return at once."""
        return (self.root / kind / key / "meta.json").exists()

    def holds(self, kind: str, key: str) -> bool:
        """The same, and what is there stays for as long as this Store lives."""
        self.use(self.root / kind / key)
        return self.has(kind, key)

    def use(self, folder: Path) -> None:
        """Keep a folder of the store, there or not yet, from being removed for as long as this Store lives."""
        if not self.read_only and folder not in self._used:
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._used[folder] = bound.in_use(folder)

    def folder(self, kind: str, key: str, build: Callable[[Path], dict[str, Any]]) -> Path:
        """The finished folder of that key; `build(folder)` fills it the first time and returns its meta.json."""
        final = self.root / kind / key
        if not self.holds(kind, key):
            self._fill(final, build)
            if self.bound is not None:
                bound.keep_within(self.root, self.bound)
        return final

    def _fill(self, final: Path, build: Callable[[Path], dict[str, Any]]) -> None:
        from filelock import FileLock

        with FileLock(final.with_name(f".{final.name}.lock")):
            if (final / "meta.json").exists():
                return
            unfinished = final.with_name(f".{final.name}{bound.UNFINISHED}")
            shutil.rmtree(unfinished, ignore_errors=True)  # what a killed process left
            unfinished.mkdir()
            try:
                write_json(unfinished / "meta.json", build(unfinished))
                shutil.rmtree(final, ignore_errors=True)
                unfinished.rename(final)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise UserError(f"the disk of store.dir={self.root} is full: make room, or choose another") from error
                raise
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)

    def digests(self, contents: Sequence[Any], files_of: str) -> list[str | OSError | None]:
        """SHA-256 of each raw content: None where absent, the error where the system refuses to read its file.

        A file is read again only if its size, inode or one of its times changed since it was last read here.
        """
        path = self.root / "digests" / f"{digest(files_of)[:16]}.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        fresh: dict[str, list] = {}

        def of(content: Any) -> str | OSError | None:
            file = file_of(content)
            try:
                return known_digest(content, file)
            except OSError as error:
                if not about(error, file):
                    raise
                return error

        def known_digest(content: Any, file: Path | None) -> str | None:
            if content is None:
                return None
            if file is None:
                return content_digest(content)
            stat = file.stat()
            state = [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
            entry = known.get(str(file))
            fresh[str(file)] = entry if entry and entry[:-1] == state else [*state, content_digest(file)]
            return fresh[str(file)][-1]

        digests = list(in_threads(self.workers, of, zip(contents)))
        if not self.read_only and any(known.get(name) != entry for name, entry in fresh.items()):
            write_json(path, {**known, **fresh})
        return digests


def file_of(content: Any) -> Path | None:
    """Return the file that a raw content is read from; None where it is in memory."""
    file = content.path if isinstance(content, ArrayFile) else content
    return file if isinstance(file, Path) else None


def about(error: OSError, file: Path | None) -> bool:
    """Whether the system refuses this file, and not the store or the machine's resources."""
    machine = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    return file is not None and error.errno not in machine and error.filename in (None, file, str(file))


def content_digest(content: Any) -> str:
    """SHA-256 of a file's bytes, a text, an array or a table's row."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if isinstance(content, np.ndarray):
        return hashlib.sha256(f"{content.dtype}{content.shape}".encode() + np.ascontiguousarray(content).tobytes()).hexdigest()
    if isinstance(content, dict):
        return digest(content)
    return hashlib.sha256(content if isinstance(content, bytes) else str(content).encode()).hexdigest()


@dataclass(frozen=True)
class Column:
    """One modality of one data set as its encoder wants it, memory-mapped; row n belongs to movie n.

    Attributes:
        key: names the folder, and whatever is computed from this column.
        present: (N,) bool; False where the content was absent or could not be used.
        bad: (row, kind, detail) of each content that could not be used.
    """

    key: str
    preparation: Preparation
    values: np.ndarray
    offsets: np.ndarray
    shapes: np.ndarray
    present: np.ndarray
    bad: tuple[tuple[int, str, str], ...]

    @property
    def lengths(self) -> np.ndarray:
        """Size of each row's first axis, (N,); 0 where absent."""
        return self.shapes[:, 0]

    def row(self, n: int) -> np.ndarray | None:
        """One movie's stored array, None where absent."""
        if not self.present[n]:
            return None
        return self.values[self.offsets[n] : self.offsets[n + 1]].reshape(self.shapes[n])

    def batch(self, rows: Sequence[int], training: bool = False) -> Any:
        """Inputs of the encoder, with len(rows) rows."""
        return self.preparation.batch([self.row(n) for n in rows], training)


def column_key(
    modality: str, digests: Sequence[str | None], in_train: np.ndarray, preparation: Preparation, fitted: bool = False
) -> str:
    """All that a column's bytes depend on: content, preparation, and what that learned or the train split it will learn from."""
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
) -> Column:
    """The column of one modality, built if the store has none.

    Args:
        contents: raw content per movie, None where absent.
        in_train: (N,) bool; `Preparation.fit` sees these alone.
        fitted: the preparation has learned already.

    Raises:
        NoneUsable: no content of train can be read, and the preparation has to learn from them.
    """
    key = column_key(modality, digests, in_train, preparation, fitted)

    def build(folder: Path) -> dict[str, Any]:
        ready = preparation
        if not fitted:
            ready = preparation.fit(_usable(modality, contents, np.flatnonzero(in_train).tolist()))
        with closing(_stored(store, ready, contents, digests, modality)) as rows:
            written = write_ragged(folder, rows)
        return {**written, "state": ready.state()}

    folder = store.folder("columns", key, build)
    meta = json.loads((folder / "meta.json").read_text())
    index = np.load(folder / "index.npz")
    size = int(index["offsets"][-1])
    values = np.memmap(folder / "values.bin", meta["dtype"], mode="r", shape=(size,)) if size else np.zeros(0, meta["dtype"])
    bad = tuple((n, kind, detail) for n, kind, detail in meta["bad"])
    return Column(key, preparation.restored(meta["state"]), values, index["offsets"], index["shapes"], index["present"], bad)


def _stored(
    store: Store, preparation: Preparation, contents: Sequence[Any], digests: Sequence[str | None], modality: str
) -> Generator[np.ndarray | BadContent | None, None, None]:
    parts = Parts.of(store.root, modality, preparation)
    if parts is not None:
        store.use(parts.folder)

    def anew(content: Any) -> np.ndarray | BadContent:
        file = file_of(content)
        try:
            return preparation.store(_opened(content))
        except BadContent as problem:
            return _named(problem, file)
        except OSError as error:
            if not about(error, file):
                raise
            return unreadable(modality, error)

    def one(content: Any, sha: str | None) -> np.ndarray | BadContent | None:
        if content is None or sha is None:
            return None
        return anew(content) if parts is None else parts.get(sha, lambda: anew(content))

    close = getattr(preparation, "close", nothing)
    rows = in_threads(store.workers, one, zip(contents, digests, strict=True), close)
    with track(f"preparing {modality}", len(contents)) as advance, closing(rows):
        for row in rows:
            advance(1)
            yield row


def _named(problem: BadContent, file: Path | None) -> BadContent:
    """The problem, with what the file is in truth where that is known by its first bytes."""
    if file is None:
        return problem
    with suppress(OSError), file.open("rb") as raw:
        known = looks_like(raw.read(1024))
        if known:
            return BadContent(problem.kind, known, problem.lasting)
    return problem


def _opened(content: Any) -> Any:
    return content.load() if isinstance(content, ArrayFile) else content


def _usable(modality: str, contents: Sequence[Any], rows: Sequence[int]) -> Iterator[Any]:
    """Yield what a preparation may learn from, leaving out contents that cannot be read. Raises NoneUsable."""
    bad: list[tuple[int, str, str]] = []
    for n in rows:
        if contents[n] is None:
            continue
        try:
            content = _opened(contents[n])
        except BadContent as problem:
            problem = _named(problem, file_of(contents[n]))
            bad.append((n, problem.kind, problem.detail))
        else:
            yield content
    if bad and len(bad) == sum(contents[n] is not None for n in rows):
        raise NoneUsable(modality, bad)
