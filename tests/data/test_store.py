"""Build entries of the store once and atomically, with a key that depends on everything in their bytes.

As a script (`python test_store.py STORE LOG NAME OTHER`), this file is one of two processes that need the same column.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmu_lightning.data.store import PreparedColumn, Store, column_key, content_digest, prepared
from gmu_lightning.movie import BadContent, UserError
from gmu_lightning.parallel import WINDOW, in_threads

PLOTS = ["a plot", None, "", "another, longer plot", "odd"]
TRAIN = np.array([True, True, True, False, False])


@dataclass
class Letters:
    """Stores a plot's characters as numbers, (T,); the plot `broken` is unusable."""

    fingerprint: str = "letters"
    dtype: str = "int32"
    learns = False
    stored: list[str] = field(default_factory=list)

    def fit(self, contents: Iterable[str]) -> Letters:
        return self

    def state(self) -> dict[str, Any]:
        return {}

    def restored(self, state: Mapping[str, Any]) -> Letters:
        return self

    def store(self, content: str) -> np.ndarray:
        self.stored.append(content)
        if content == "broken":
            raise BadContent("bad_array", "it reads broken")
        return np.array([ord(c) for c in content], dtype=self.dtype)

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> list:
        return [None if row is None else row.tolist() for row in rows]


@dataclass
class Vocabulary(Letters):
    """Stores letters as their places among the letters of train."""

    fingerprint: str = "vocabulary"
    letters: str = ""
    learns = True

    def fit(self, contents: Iterable[str]) -> Vocabulary:
        return Vocabulary(letters="".join(sorted(set("".join(contents)))))

    def state(self) -> dict[str, Any]:
        return {"letters": self.letters}

    def restored(self, state: Mapping[str, Any]) -> Vocabulary:
        return Vocabulary(letters=state["letters"])

    def store(self, content: str) -> np.ndarray:
        return np.array([self.letters.find(c) for c in content], dtype=np.int8)


class Squares(Letters):
    """Stores an array (3, 2) for every movie."""

    def store(self, content: str) -> np.ndarray:
        return np.full((3, 2), len(content), dtype=np.uint8)


def column(
    store: Store, preparation: Letters, plots: Sequence[str | None] = PLOTS, train=TRAIN, **options: Any
) -> PreparedColumn:
    return prepared(store, "text", plots, [p and content_digest(p) for p in plots], train[: len(plots)], preparation, **options)


def key(preparation: Letters, plots: Sequence[str | None] = PLOTS, train=TRAIN, **options: Any) -> str:
    return column_key("text", [p and content_digest(p) for p in plots], train, preparation, **options)


def files_under(folder: Path) -> set[str]:
    """Return the files of a folder without locks."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix != ".lock"}


def test_ragged_rows_are_read_back_and_may_be_empty(store):
    rows = column(store, Letters())
    assert rows.present.tolist() == [True, False, True, True, True]
    assert rows.row(1) is None
    for n in (0, 2, 3, 4):
        assert rows.row(n).tolist() == [ord(c) for c in PLOTS[n]]
        assert rows.row(n).dtype == np.int32
    assert rows.lengths.tolist() == [6, 0, 0, 20, 3]
    assert rows.bad == ()


def test_rows_of_one_shape_keep_it(store):
    rows = column(store, Squares())
    assert rows.row(3).tolist() == [[20, 20]] * 3
    assert rows.row(3).dtype == np.uint8
    assert rows.lengths.tolist() == [3, 0, 3, 3, 3]


def test_a_batch_has_one_row_per_movie_in_order(store):
    assert column(store, Letters()).batch([4, 1, 0, 4]) == [
        [ord(c) for c in "odd"],
        None,
        [ord(c) for c in "a plot"],
        [ord(c) for c in "odd"],
    ]


def test_a_modality_without_movies_has_only_absent_rows(store):
    rows = column(store, Letters(), [None, None, None])
    assert rows.present.tolist() == [False] * 3
    assert rows.lengths.tolist() == [0] * 3
    assert rows.batch([0, 2]) == [None, None]


def test_unusable_content_is_absent_and_listed(store):
    plots = ["fine", "broken", None, "too"]
    for rows in (column(store, Letters(), plots), column(store, Letters(), plots)):  # built, then read again
        assert rows.present.tolist() == [True, False, False, True]
        assert rows.bad == ((1, "bad_array", "it reads broken"),)
        assert rows.row(3).tolist() == [ord(c) for c in "too"]


def test_rows_of_two_dtypes_are_refused_rather_than_misread(store):
    preparation = Letters()
    preparation.store = lambda content: np.zeros(2, np.float64 if content == "odd" else np.float32)
    with pytest.raises(TypeError, match="rows of float32 and of float64"):
        column(store, preparation)


def test_the_same_content_and_preparation_are_stored_once(store):
    first, second = Letters(), Letters()
    assert column(store, first).key == column(store, second).key
    assert sorted(first.stored) == sorted(p for p in PLOTS if p is not None)
    assert second.stored == []


def test_another_process_finds_what_was_stored(store):
    column(store, Letters())
    again = Letters()
    column(Store(store.root), again)
    assert again.stored == []


@pytest.mark.parametrize(
    "other",
    [
        key(Letters(), ["a plot", None, "", "another, longer plot", "odD"]),
        key(Letters(), ["a plot", "", None, "another, longer plot", "odd"]),
        key(Letters(), PLOTS[:4], TRAIN[:4]),
        key(Letters(fingerprint="letters of another kind")),
        column_key("audio", [p and content_digest(p) for p in PLOTS], TRAIN, Letters()),
    ],
    ids=["one letter", "another movie lacks it", "a movie less", "preparation", "modality"],
)
def test_the_key_depends_on_everything_in_the_bytes(other):
    assert other != key(Letters())


def test_without_fitting_the_key_ignores_the_splits():
    assert key(Letters(), train=~TRAIN) == key(Letters())


def test_with_fitting_the_key_depends_on_train():
    assert key(Vocabulary(), train=np.array([True, True, True, True, False])) != key(Vocabulary())


def test_fit_sees_only_train(store):
    rows = column(store, Vocabulary())
    assert rows.preparation.letters == "".join(sorted(set("a plot")))
    other = column(store, Vocabulary(), [*PLOTS[:3], "other", "tests"])
    assert other.preparation.letters == rows.preparation.letters
    assert rows.row(4).tolist() == [rows.preparation.letters.find(c) for c in "odd"]


def test_the_fitted_state_is_read_with_the_rows(store):
    column(store, Vocabulary())
    assert column(store, Vocabulary()).preparation == Vocabulary(letters=" alopt")


def test_a_fitted_preparation_is_not_fitted_again(store):
    rows = column(store, Vocabulary(letters="xyz"), fitted=True)
    assert rows.preparation.letters == "xyz"
    assert (rows.row(0) == -1).all()


def test_a_fitted_state_replaces_the_splits_in_the_key():
    fitted = key(Vocabulary(letters="xyz"), fitted=True)
    assert fitted != key(Vocabulary(letters="xy"), fitted=True)
    assert fitted == key(Vocabulary(letters="xyz"), train=~TRAIN, fitted=True)
    assert fitted != key(Vocabulary(letters="xyz"))


def test_a_failed_build_leaves_no_folder(store):
    class Failing(Letters):
        def store(self, content: str) -> np.ndarray:
            if content == "odd":
                raise MemoryError("half-way")
            return super().store(content)

    with pytest.raises(MemoryError, match="half-way"):
        column(store, Failing())
    assert files_under(store.root) == {"columns"}
    assert not store.has("columns", key(Letters()))
    assert column(store, Letters()).row(4).tolist() == [ord(c) for c in "odd"]


def test_an_unfinished_folder_is_invisible(store):
    def build(folder: Path) -> dict[str, Any]:
        (folder / "values.bin").write_bytes(b"half")
        assert not store.has("columns", "key")
        assert not (store.root / "columns" / "key").exists()
        return {}

    folder = store.folder("columns", "key", build)
    assert folder == store.root / "columns" / "key"
    assert {path.name for path in folder.iterdir()} == {"values.bin", "meta.json"}
    assert store.has("columns", "key")


def test_leftovers_of_a_killed_process_are_replaced(store):
    (store.root / "columns" / ".key.unfinished").mkdir(parents=True)
    (store.root / "columns" / ".key.unfinished" / "values.bin").write_bytes(b"half")
    folder = store.folder("columns", "key", lambda folder: {"files": [path.name for path in folder.iterdir()]})
    assert json.loads((folder / "meta.json").read_text())["files"] == []
    assert files_under(store.root / "columns") == {"key", "key/meta.json"}


def test_two_simultaneous_processes_build_once(tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    command = [sys.executable, __file__, str(tmp_path / "store"), str(log)]
    racers = [
        subprocess.Popen([*command, *names], stdout=subprocess.PIPE, text=True) for names in (("one", "two"), ("two", "one"))
    ]
    read = [racer.communicate(timeout=600)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert read[0] == read[1] != ""
    assert len((log / "builds").read_text().split()) == 1


def race(store: str, log: Path, name: str, other: str) -> str:
    """Run in each of two processes, and return the hash of all rows. The building process waits for the other one."""

    class Slow(Letters):
        def fit(self, contents: Iterable[str]) -> Letters:
            with (log / "builds").open("a") as file:
                file.write(f"{name}\n")
            for _ in range(2000):
                if (log / f"{other} is here").exists():
                    break
                time.sleep(0.01)
            time.sleep(0.2)
            return self

    (log / f"{name} is here").touch()
    rows = column(Store(store), Slow())
    return hashlib.sha256(b"".join(rows.row(n).tobytes() for n in np.flatnonzero(rows.present))).hexdigest()


@pytest.fixture
def posters(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "posters" / f"{n}.jpeg" for n in range(3)]
    paths[0].parent.mkdir()
    for n, path in enumerate(paths):
        path.write_bytes(b"poster %d" % n)
    return paths


def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that receives the names of files when they are read."""
    read: list[str] = []
    whole = content_digest

    def note(content: Any) -> str:
        if isinstance(content, Path):
            read.append(content.name)
        return whole(content)

    monkeypatch.setattr("gmu_lightning.data.store.content_digest", note)
    return read


def test_digests_depend_on_the_content_alone(store, posters):
    found = store.digests([posters[1], None, "a plot"], "here")
    assert found == [hashlib.sha256(b"poster 1").hexdigest(), None, hashlib.sha256(b"a plot").hexdigest()]
    zeros = [np.zeros(4), np.zeros(4, dtype=np.int64), np.zeros((2, 2)), np.zeros(8, dtype=np.float32)]
    assert len(set(store.digests([*zeros, np.zeros(4)], "here"))) == 4


def test_unchanged_files_are_not_read_again(store, posters, monkeypatch):
    before = store.digests(posters, "here")
    read = hashed(monkeypatch)
    assert Store(store.root).digests(posters, "here") == before
    assert read == []


def test_a_change_with_equal_size_and_time_is_noticed(store, posters, monkeypatch):
    before = store.digests(posters, "here")
    old = posters[1].stat()
    read = hashed(monkeypatch)
    while posters[1].stat().st_ctime_ns == old.st_ctime_ns:  # the clock of a file system has a resolution of milliseconds
        posters[1].write_bytes(b"poster X")
        os.utime(posters[1], ns=(old.st_atime_ns, old.st_mtime_ns))
    assert (posters[1].stat().st_size, posters[1].stat().st_mtime_ns) == (old.st_size, old.st_mtime_ns)
    after = store.digests(posters, "here")
    assert read == ["1.jpeg"]
    assert after == [before[0], hashlib.sha256(b"poster X").hexdigest(), before[2]]


def test_digests_survive_another_selection_of_files(store, posters, monkeypatch):
    store.digests(posters[:1], "here")
    store.digests(posters[1:], "here")
    read = hashed(monkeypatch)
    store.digests(posters, "here")
    assert read == []


def test_a_read_only_store_writes_no_file(tmp_path, posters):
    looking = Store(tmp_path / "store", read_only=True)
    assert looking.digests(posters, "here") == Store(tmp_path / "other").digests(posters, "here")
    assert not looking.has("columns", "key")
    assert not (tmp_path / "store").exists()


if __name__ == "__main__":
    print(race(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]))


def test_contents_are_stored_in_order_despite_a_slow_one():
    done, release = [], threading.Event()

    def work(n):
        if n == 0:
            release.wait(10)
        done.append(n)
        return n

    results = in_threads(2, work, ((n,) for n in range(20)))
    threading.Timer(0.3, release.set).start()
    assert list(results) == list(range(20))
    assert done[-1] == 0


def test_no_more_than_a_window_of_contents_is_in_flight():
    taken = []
    results = in_threads(2, lambda n: n, ((taken.append(n) or n,) for n in range(1000)))
    assert next(results) == 0
    assert len(taken) <= WINDOW
    results.close()


def test_each_thread_computes_by_itself():
    before = torch.get_num_threads()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(in_threads(2, lambda _: torch.get_num_threads(), ((n,) for n in range(4)))) == [1] * 4
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert torch.get_num_threads() == before


def test_a_preparation_is_closed_at_the_end_or_on_failure(tmp_path):
    closed = []

    class Closing(Letters):
        def close(self):
            closed.append(len(list(tmp_path.glob("columns/*/meta.json"))))

    digests = [content and content_digest(content) for content in PLOTS]
    prepared(Store(tmp_path), "text", PLOTS, digests, TRAIN, Closing())
    assert closed == [0]


def test_a_full_disk_is_an_error_and_leaves_no_folder(tmp_path):
    def build(folder: Path) -> dict[str, Any]:
        (folder / "values.bin").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"the disk of store\.dir=.* is full: make room"):
        Store(tmp_path).folder("columns", "text-1", build)
    assert files_under(tmp_path) == {"columns"}


def test_another_error_of_the_disk_names_the_folder(tmp_path):
    def build(_: Path) -> dict[str, Any]:
        raise OSError(errno.EFBIG, "File too large")

    with pytest.raises(OSError, match="File too large") as raised:
        Store(tmp_path).folder("columns", "text-1", build)
    assert str(raised.value.filename).startswith(f"{tmp_path}/columns/")


def test_an_abandoned_iteration_stops_the_work():
    stop, begun = threading.Event(), []

    def work(n):
        begun.append(n)
        assert n < 2 or stop.wait(10), "it was not stopped"
        return n

    results = in_threads(2, work, ((n,) for n in range(50)), stop.set)
    assert [next(results), next(results)] == [0, 1]
    results.close()
    assert stop.is_set()
    assert len(begun) <= 5
