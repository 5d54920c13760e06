"""`gmu-store` as a user types it."""

from __future__ import annotations

from .shell import last_line, typed


def test_entries_are_listed_removed_and_named(tmp_path):
    from gmu_lightning.data.store import Store

    for key in ("text-1", "text-2"):
        Store(tmp_path / "store").folder("features", key, lambda _: {})
    listed = typed("store", folder=tmp_path, store=tmp_path / "store")
    assert listed.returncode == 0, listed.stderr
    assert "features/text-1  text" in listed.stdout and listed.stdout.rstrip().endswith("store: 2 entries, 0.0 MB")
    removed = typed("store", "remove=text-1, features/text-2", folder=tmp_path, store=tmp_path / "store")
    assert removed.stdout.splitlines() == ["removed features/text-1 (0.0 MB)", "removed features/text-2 (0.0 MB)"], removed.stderr
    wrong = typed("store", "remove=text-1", folder=tmp_path, store=tmp_path / "store")
    assert wrong.returncode == 1
    assert last_line(wrong.stderr).startswith("remove=text-1 is no entry of ")


def test_a_store_that_does_not_exist_is_one_sentence(tmp_path):
    done = typed("store", folder=tmp_path, store=None)
    assert done.returncode == 1
    assert last_line(done.stderr).startswith("store.dir=outputs/store does not exist")
    assert not list(tmp_path.iterdir())
