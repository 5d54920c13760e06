"""The store: what is computed once and read ever after, each thing in a folder named by all that its bytes depend on.

A folder is filled under another name, by one process at a time, and renamed when it is complete: a crash leaves
nothing that looks finished, and two processes that start together build it once.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning.data.parts import Parts
from gmu_lightning.data.progress import track
from gmu_lightning.files import digest, write_json
from gmu_lightning.movie import ArrayFile, BadContent, Preparation, UserError

WINDOW = 64  # contents in flight between the reader, the threads and the disk


class Store:
    """A folder of finished things; `read_only` looks, and writes nothing.

    Args:
        workers: how many contents are prepared at once; None for as many as there are cores.

    Raises:
        UserError: `workers` is no such number.
    """

    def __init__(self, folder: Path | str, read_only: bool = False, workers: int | None = None):
        if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
            raise UserError(f"store.workers={workers} is no such number: give a whole number from 1 on, or null for all cores")
        self.root = Path(folder).expanduser()
        self.read_only = read_only
        self.workers = workers or cores()

    def has(self, kind: str, key: str) -> bool:
        """Whether `folder` would return at once."""
        return (self.root / kind / key / "meta.json").exists()

    def folder(self, kind: str, key: str, build: Callable[[Path], dict[str, Any]]) -> Path:
        """The finished folder of that key; `build(folder)` fills it the first time and returns its meta.json."""
        from filelock import FileLock

        final = self.root / kind / key
        if self.has(kind, key):
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(final.with_name(f".{key}.lock")):
            if self.has(kind, key):
                return final
            unfinished = final.with_name(f".{key}.unfinished")
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
        return final

    def digests(self, contents: Sequence[Any], files_of: str) -> list[str | None]:
        """SHA-256 of each raw content (None where absent).

        A file is read again only if its size, inode or one of its times changed since it was last read here.
        """
        path = self.root / "digests" / f"{digest(files_of)[:16]}.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        fresh: dict[str, list] = {}

        def of(content: Any) -> str | None:
            if content is None:
                return None
            file = content.path if isinstance(content, ArrayFile) else content
            if not isinstance(file, Path):
                return content_digest(file)
            stat = file.stat()
            state = [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
            entry = known.get(str(file))
            fresh[str(file)] = entry if entry and entry[:-1] == state else [*state, content_digest(file)]
            return fresh[str(file)][-1]

        digests = list(in_threads(self.workers, of, zip(contents)))
        if not self.read_only and any(known.get(name) != entry for name, entry in fresh.items()):
            write_json(path, {**known, **fresh})
        return digests


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    """
    key = column_key(modality, digests, in_train, preparation, fitted)

    def build(folder: Path) -> dict[str, Any]:
        ready = preparation
        if not fitted:
            ready = preparation.fit(_usable(c for c, train in zip(contents, in_train, strict=True) if train and c is not None))
        with closing(_stored(store, ready, contents, digests, modality)) as rows:
            written = _write_rows(folder, rows)
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

    def anew(content: Any) -> np.ndarray | BadContent:
        try:
            return preparation.store(_opened(content))
        except BadContent as problem:
            return problem

    def one(content: Any, sha: str | None) -> np.ndarray | BadContent | None:
        if content is None or sha is None:
            return None
        return anew(content) if parts is None else parts.get(sha, lambda: anew(content))

    close = getattr(preparation, "close", _nothing)
    rows = in_threads(store.workers, one, zip(contents, digests, strict=True), close)
    with track(f"preparing {modality}", len(contents)) as advance, closing(rows):
        for row in rows:
            advance(1)
            yield row


def _nothing() -> None:
    """There is nothing to let go of."""


def in_threads(
    workers: int, work: Callable[..., Any], items: Iterable[tuple], ended: Callable[[], None] = _nothing
) -> Generator[Any, None, None]:
    """`work(*item)` of each, in their order; what is slow holds up none but those that come `WINDOW` after it.

    `ended` is called at the end, or where nobody wants the rest: then some work may still be going on, and it has to stop that.
    """
    import torch

    # One thread in each: what a network computes is then the same for any number of workers.
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            started: deque[Future] = deque()
            for item in items:
                started.append(pool.submit(work, *item))
                if len(started) == WINDOW:
                    yield started.popleft().result()
            while started:
                yield started.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            ended()


def _opened(content: Any) -> Any:
    return content.load() if isinstance(content, ArrayFile) else content


def _usable(contents: Iterable[Any]) -> Iterator[Any]:
    """What a preparation may learn from; a file whose array is broken is named when it is stored."""
    for content in contents:
        with suppress(BadContent):
            yield _opened(content)


def _write_rows(folder: Path, rows: Iterable[np.ndarray | BadContent | None]) -> dict[str, Any]:
    bad: list[tuple[int, str, str]] = []
    sizes: list[int] = []
    shapes: list[tuple[int, ...]] = []
    dtype = None
    with (folder / "values.bin").open("wb") as file:
        for n, row in enumerate(rows):
            if isinstance(row, BadContent):
                bad.append((n, row.kind, row.detail))
            if isinstance(row, np.ndarray):
                if dtype not in (None, row.dtype):
                    raise TypeError(f"a preparation stored rows of {dtype} and of {row.dtype}: all have to be of one dtype")
                dtype = row.dtype
                file.write(np.ascontiguousarray(row).tobytes())
                sizes.append(row.size)
                shapes.append(row.shape)
            else:
                sizes.append(0)
                shapes.append(())
        file.flush()
        os.fsync(file.fileno())
    present = np.array([shape != () for shape in shapes], dtype=bool)
    axes = max((len(shape) for shape in shapes), default=1) or 1
    filled = np.array([shape or (0,) * axes for shape in shapes], dtype=np.int64).reshape(len(shapes), axes)
    np.savez(
        folder / "index.npz", offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), shapes=filled, present=present
    )
    return {"dtype": np.dtype(dtype or np.float32).name, "bad": bad}
