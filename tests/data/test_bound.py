"""A bounded store: the least recently used goes, what somebody uses stays, and nobody crashes over it.

As a script (`python test_bound.py STORE KEYS TIMES`) it is one of several processes that fill one store at once.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from gmu_lightning.data import bound
from gmu_lightning.data.parts import Parts
from gmu_lightning.data.store import Store, content_digest, prepared
from gmu_lightning.movie import UserError

SIZE = 1000  # bytes of what a test stores
META = 4  # of its meta.json
GB = 1e9


def filled(store: Store, key: str, kind: str = "features", size: int = SIZE) -> Path:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "vectors.npy").write_bytes(b"x" * size)
        return {}

    return store.folder(kind, key, build)


def old(folder: Path, seconds: float) -> None:
    """As if it was last used so long ago."""
    then = folder.stat().st_mtime - seconds
    os.utime(folder, (then, then))


def names(root: Path) -> set[str]:
    """The finished folders of a store."""
    return {path.name for kind in bound.KINDS for path in (root / kind).glob("[!.]*")}


def bounded(root: Path, entries: float) -> Store:
    """A store that holds so many of what `filled` stores."""
    return Store(root, max_gb=entries * (SIZE + META) / GB)


def test_the_least_recently_used_goes_and_is_named(tmp_path, capsys):
    for n, key in enumerate(("oldest", "older", "old")):
        old(filled(Store(tmp_path), key), 300 - 100 * n)
    filled(Store(tmp_path), "oldest")  # used again: now it is the last to go
    filled(bounded(tmp_path, 2.5), "new")
    assert names(tmp_path) == {"oldest", "new"}
    said = capsys.readouterr().err
    assert "removed what was used least recently: features/older (0.0 MB), features/old (0.0 MB)" in said
    assert said.count("\n") == 1


def test_what_fits_stays_and_without_a_bound_everything_does(tmp_path, capsys):
    for key in "abc":
        filled(Store(tmp_path), key)
    filled(bounded(tmp_path, 4), "d")
    assert names(tmp_path) == set("abcd")
    assert capsys.readouterr().err == ""


def test_folders_of_every_kind_go_and_nothing_else_does(tmp_path):
    for kind in ("columns", "features", "unpacked"):
        old(filled(Store(tmp_path), "x", kind), 100)
    parts = tmp_path / "parts/video-1"
    parts.mkdir(parents=True)
    (parts / "sha.npz").write_bytes(b"x" * SIZE)
    old(parts, 100)
    for other in ("digests", "planted"):
        (tmp_path / other).mkdir()
        (tmp_path / other / "file").write_bytes(b"x" * SIZE)
    filled(bounded(tmp_path, 1.5), "new")
    assert names(tmp_path) == {"new"}
    assert (tmp_path / "digests/file").exists() and (tmp_path / "planted/file").exists()


def test_what_a_store_uses_stays_until_that_store_is_gone(tmp_path):
    mine = Store(tmp_path)
    old(filled(mine, "mine"), 100)
    filled(bounded(tmp_path, 1), "new")
    assert names(tmp_path) == {"mine"} | {"new"}
    del mine
    filled(bounded(tmp_path, 1), "newer")
    assert names(tmp_path) == {"newer"}


def test_a_column_and_its_parts_are_in_use(tmp_path):
    class Costly:
        fingerprint, learns, costly = "costly", False, True
        fit = restored = lambda self, _: self

        def state(self) -> dict[str, Any]:
            return {}

        def store(self, content: str) -> np.ndarray:
            return np.zeros(500)

    store = Store(tmp_path)
    column = prepared(store, "video", ["a"], [content_digest("a")], np.ones(1, bool), Costly())  # type: ignore[arg-type]
    parts = Parts.of(tmp_path, "video", Costly())  # type: ignore[arg-type]
    assert parts is not None
    filled(bounded(tmp_path, 1), "new")
    assert names(tmp_path) == {column.key, parts.folder.name, "new"}


def test_another_process_keeps_what_it_uses(tmp_path):
    waiting = "from gmu_lightning.data.store import Store; s = Store({!r}); s.holds('features', 'theirs'); print(); input()"
    filled(Store(tmp_path), "theirs")
    with subprocess.Popen(
        [sys.executable, "-c", waiting.format(str(tmp_path))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        other.stdout.readline()
        old(tmp_path / "features/theirs", 100)
        filled(bounded(tmp_path, 1), "new")
        assert "theirs" in names(tmp_path)
        other.communicate("\n")
    filled(bounded(tmp_path, 1), "newer")
    assert names(tmp_path) == {"newer"}


def test_a_bound_below_what_one_job_needs_warns_once_and_everything_works(tmp_path, capsys):
    store = bounded(tmp_path, 0.5)
    folders = [filled(store, key) for key in "abc"]
    assert all((folder / "vectors.npy").exists() for folder in folders)
    said = capsys.readouterr().err
    assert said.count("warning: store.max_gb=") == 1
    assert "in use" in said


def test_what_was_mapped_can_be_read_after_it_went(tmp_path):
    kept = np.memmap(filled(Store(tmp_path), "a") / "vectors.npy", np.uint8, mode="r")
    filled(bounded(tmp_path, 1), "new")
    assert names(tmp_path) == {"new"}
    assert bytes(kept) == b"x" * SIZE


def test_what_went_is_made_again(tmp_path):
    filled(Store(tmp_path), "a")
    filled(bounded(tmp_path, 1), "new")
    assert not Store(tmp_path).has("features", "a")
    assert (filled(Store(tmp_path), "a") / "vectors.npy").exists()


def test_what_killed_processes_left_is_cleared_but_not_what_is_being_built(tmp_path):
    for name in (".a.removed", ".b.unfinished", ".c.unfinished"):
        (tmp_path / "features" / name).mkdir(parents=True)
        (tmp_path / "features" / name / "half").write_bytes(b"x")
    with FileLock(tmp_path / "features/.c.lock"):
        filled(bounded(tmp_path, 1), "new")
    left = {path.name for path in (tmp_path / "features").iterdir() if path.is_dir()}
    assert left == {"new", ".c.unfinished"}


@pytest.mark.parametrize("size", [0, -1, "much", True, float("nan"), float("inf")])
def test_a_bound_that_is_no_size_is_refused(tmp_path, size):
    with pytest.raises(UserError, match=f"store.max_gb={size} is no size: give a number of gigabytes above 0, or null"):
        Store(tmp_path, max_gb=size)


def test_where_there_are_no_locks_there_is_no_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(bound, "fcntl", None)
    with pytest.raises(UserError, match=r"store\.max_gb needs file locks"):
        Store(tmp_path, max_gb=1)
    assert filled(Store(tmp_path), "a").exists()


def test_a_store_that_may_only_be_read_is_read(tmp_path, monkeypatch):
    folder = filled(Store(tmp_path), "a")

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refused)
    monkeypatch.setattr(os, "utime", refused)
    assert filled(Store(tmp_path), "a") == folder


def test_processes_that_push_each_other_out_all_read_what_they_asked_for(tmp_path):
    command = [sys.executable, __file__, str(tmp_path), "5", "40"]
    racers = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for seed in range(3)
    ]
    ended = [(*racer.communicate(), racer.returncode) for racer in racers]
    assert [(out.strip(), code) for out, _, code in ended] == [("40 read", 0)] * 3, ended
    assert any("removed what was used least recently" in said for _, said, _ in ended)


def _race(root: Path, keys: int, times: int, seed: int) -> None:
    """Ask for random things again and again, in a store that holds two of them, and read each."""
    draw = random.Random(seed)
    for _ in range(times):
        key = str(draw.randrange(keys))
        store = bounded(root, 2)
        store.holds("features", key)
        content = (filled(store, key) / "vectors.npy").read_bytes()
        assert content == b"x" * SIZE
    print(times, "read")


if __name__ == "__main__":
    _race(Path(sys.argv[1]), *(int(word) for word in sys.argv[2:]))
