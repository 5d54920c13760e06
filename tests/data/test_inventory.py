"""List and remove the entries of a store, except those in use.

As a script (`python test_inventory.py STORE KEYS TIMES SEED`), this file is one of several processes that fill and empty a store.
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

from gmu_lightning.data import inventory
from gmu_lightning.data.inventory import DAY, entries, listing, remove
from gmu_lightning.data.parts import Parts
from gmu_lightning.data.store import Store, content_digest, prepared
from gmu_lightning.files import lease
from gmu_lightning.movie import UserError

SIZE = 1000  # bytes of an entry


def filled(store: Store, key: str, kind: str = "features", **meta: Any) -> Path:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "vectors.npy").write_bytes(b"x" * SIZE)
        return meta

    return store.folder(kind, key, build)


def old(folder: Path, days: float) -> None:
    """Set the last use to so many days ago."""
    then = folder.stat().st_mtime - days * DAY
    os.utime(folder, (then, then))


def names(root: Path) -> set[str]:
    """Return the finished folders of a store."""
    return {entry.folder.name for entry in entries(root)}


def test_entries_are_listed_by_last_use_with_their_data(tmp_path):
    old(filled(Store(tmp_path), "text-1", "columns", data="/movies"), 1)
    old(filled(Store(tmp_path), "text-2", column="text-1"), 2)
    old(filled(Store(tmp_path), "abc", "unpacked", archive="/mmimdb.tar.gz"), 3)
    head, *rows, total = listing(tmp_path)
    assert head.split() == ["name", "modality", "MB", "last", "use", "(UTC)", "data"]
    assert [(row.split()[0], row.split()[-1]) for row in rows] == [
        ("unpacked/abc", "/mmimdb.tar.gz"),
        ("features/text-2", "/movies"),
        ("columns/text-1", "/movies"),
    ]
    assert [row.split()[1] for row in rows[1:]] == ["text", "text"]
    assert total == f"{tmp_path}: 3 entries, 0.0 MB"


def test_an_empty_store_lists_a_total_of_zero(tmp_path):
    assert listing(tmp_path) == [f"{tmp_path}: 0 entries, 0.0 MB"]


def test_a_damaged_meta_file_hides_no_entry(tmp_path):
    (filled(Store(tmp_path), "text-1") / "meta.json").write_bytes(b"\xff[")
    assert names(tmp_path) == {"text-1"}


def test_entries_are_removed_by_name_with_or_without_kind(tmp_path):
    for key in ("a-1", "b-1", "c-1"):
        filled(Store(tmp_path), key)
    assert remove(tmp_path, ["features/a-1", "b-1"]) == ["removed features/a-1 (0.0 MB)", "removed features/b-1 (0.0 MB)"]
    assert names(tmp_path) == {"c-1"}
    assert not list(tmp_path.glob("*/*.removed"))


def test_only_old_entries_of_known_kinds_are_removed_by_age(tmp_path):
    for kind in ("columns", "features", "planted", "unpacked"):
        old(filled(Store(tmp_path), "x", kind), 31)
    parts = tmp_path / "parts/video-1"
    parts.mkdir(parents=True)
    (parts / "sha.npz").write_bytes(b"x" * SIZE)
    old(parts, 31)
    for other in ("digests", "weights"):
        (tmp_path / other).mkdir()
        (tmp_path / other / "file").write_bytes(b"x" * SIZE)
        old(tmp_path / other, 31)
    old(filled(Store(tmp_path), "new"), 29)
    assert len(remove(tmp_path, older_than=30)) == 5
    assert names(tmp_path) == {"new"}
    assert (tmp_path / "digests/file").exists() and (tmp_path / "weights/file").exists()


def test_a_use_makes_an_entry_young(tmp_path):
    old(filled(Store(tmp_path), "a"), 31)
    filled(Store(tmp_path), "a")
    assert remove(tmp_path, older_than=30) == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("text-abd", r"remove=text-abd is no entry of .*: did you mean text-abc\?"),
        ("columns/text-abc", r"remove=columns/text-abc is no entry of .*: did you mean "),
        ("zzzz", r"remove=zzzz is no entry of .*: gmu-store without remove= lists the names"),
        ("../features/text-abc", r"remove=\.\./features/text-abc is no entry of "),
    ],
)
def test_a_wrong_name_removes_no_entry(tmp_path, name, sentence):
    filled(Store(tmp_path), "text-abc")
    filled(Store(tmp_path), "right")
    with pytest.raises(UserError, match=sentence):
        remove(tmp_path, ["right", name])
    assert names(tmp_path) == {"text-abc", "right"}


def test_an_unfinished_entry_is_an_error_and_kept(tmp_path):
    (tmp_path / "features/.text-1.unfinished").mkdir(parents=True)
    with pytest.raises(UserError, match="remove=text-1 is unfinished"):
        remove(tmp_path, ["text-1"])


@pytest.mark.parametrize("days", [-1, "much", True, float("nan"), float("inf")])
def test_an_age_that_is_no_number_of_days_is_refused(tmp_path, days):
    with pytest.raises(UserError, match=f"older_than={days} is no number of days: give one from 0 on"):
        remove(tmp_path, older_than=days)


def test_used_entries_stay_until_their_store_is_gone(tmp_path):
    mine = Store(tmp_path)
    old(filled(mine, "mine"), 31)
    with pytest.raises(UserError, match="remove=mine is in use by a job"):
        remove(tmp_path, ["mine"])
    assert remove(tmp_path, older_than=30) == ["in use, so it stays: features/mine (0.0 MB)"]
    assert names(tmp_path) == {"mine"}
    del mine
    assert remove(tmp_path, ["mine"]) == ["removed features/mine (0.0 MB)"]


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
    remove(tmp_path, older_than=0)
    assert names(tmp_path) == {column.key, parts.folder.name}


def test_another_process_keeps_what_it_uses(tmp_path):
    waiting = "from gmu_lightning.data.store import Store; s = Store({!r}); s.holds('features', 'theirs'); print(); input()"
    filled(Store(tmp_path), "theirs")
    with subprocess.Popen(
        [sys.executable, "-c", waiting.format(str(tmp_path))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        other.stdout.readline()
        remove(tmp_path, older_than=0)
        assert names(tmp_path) == {"theirs"}
        other.communicate("\n")
    remove(tmp_path, older_than=0)
    assert names(tmp_path) == set()


def test_mapped_rows_are_readable_after_removal(tmp_path):
    kept = np.memmap(filled(Store(tmp_path), "a") / "vectors.npy", np.uint8, mode="r")
    remove(tmp_path, ["a"])
    assert bytes(kept) == b"x" * SIZE
    assert (filled(Store(tmp_path), "a") / "vectors.npy").exists()  # made again


def test_leftovers_are_cleared_and_builds_are_kept(tmp_path):
    for name in (".a.removed", ".b.unfinished", ".c.unfinished"):
        (tmp_path / "features" / name).mkdir(parents=True)
        (tmp_path / "features" / name / "half").write_bytes(b"x")
    with lease(tmp_path / "features/.c.lock"):
        remove(tmp_path, older_than=30)
    assert {path.name for path in (tmp_path / "features").iterdir() if path.is_dir()} == {".c.unfinished"}


def test_without_locks_no_entry_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(inventory, "fcntl", None)
    assert filled(Store(tmp_path), "a").exists()
    with pytest.raises(UserError, match="only on a system with POSIX file locks"):
        remove(tmp_path, ["a"])


def test_a_store_without_write_permission_is_read(tmp_path, monkeypatch):
    folder = filled(Store(tmp_path), "a")

    whole = Path.open

    def refused(path: Any, mode: str = "r", *options: Any, **names: Any) -> Any:
        if mode in ("r", "rb"):
            return whole(path, mode, *options, **names)
        raise PermissionError

    monkeypatch.setattr(Path, "open", refused)
    monkeypatch.setattr(os, "utime", lambda *_: refused("", "w"))
    assert filled(Store(tmp_path), "a") == folder


def test_removals_by_other_processes_spoil_no_reading(tmp_path):
    command = [sys.executable, __file__, str(tmp_path), "5", "40"]
    racers = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for seed in range(3)
    ]
    ended = [(*racer.communicate(), racer.returncode) for racer in racers]
    assert [(out.splitlines()[-1], code) for out, _, code in ended] == [("40 read", 0)] * 3, ended
    assert any("removed features/" in out for out, _, _ in ended)


def _race(root: Path, keys: int, times: int, seed: int) -> None:
    """Read random entries again and again, and remove unused ones."""
    draw = random.Random(seed)
    for _ in range(times):
        key = str(draw.randrange(keys))
        store = Store(root)
        content = (filled(store, key) / "vectors.npy").read_bytes()
        assert content == b"x" * SIZE
        print("\n".join(remove(root, older_than=0)))
    print(times, "read")


if __name__ == "__main__":
    _race(Path(sys.argv[1]), *(int(word) for word in sys.argv[2:]))
