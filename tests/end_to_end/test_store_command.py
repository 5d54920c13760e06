"""`gmu-store` as a user types it."""

from __future__ import annotations

import json
import subprocess

import pytest

from .shell import SMOKE, last_line, typed


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


def test_damage_is_found_by_name(tmp_path):
    from gmu_lightning.data.store import Store

    for key in ("text-1", "text-2"):
        folder = Store(tmp_path / "store").folder("features", key, lambda folder: {"size": (folder / "a").write_bytes(b"abc")})
    sound = typed("store", "verify=true", folder=tmp_path, store=tmp_path / "store")
    assert (sound.returncode, last_line(sound.stdout)) == (0, f"{tmp_path}/store: sound 2, damaged 0"), sound.stderr
    (folder / "a").write_bytes(b"abd")
    found = typed("store", "verify=true", folder=tmp_path, store=tmp_path / "store")
    assert found.returncode == 1
    assert found.stdout.splitlines() == [
        "damaged: features/text-2 (a has other bytes than were written)",
        f"{tmp_path}/store: sound 1, damaged 1",
    ]
    assert last_line(found.stderr) == (
        f"store.dir={tmp_path}/store holds damage: the next command that needs a damaged entry builds it again"
    )
    both = typed("store", "verify=true", "older_than=3", folder=tmp_path, store=tmp_path / "store")
    assert (both.returncode, last_line(both.stderr)[:30]) == (1, "verify=true removes no entry: ")


def test_a_disk_that_gets_full_while_data_are_prepared_fails_the_run(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "none", disk], check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a disk")
    try:
        small = ("encoder/text=tiny", "encoder/image=tiny", f"store.dir={disk}/store", f"hydra.run.dir={disk}/run")
        done = typed("train", *SMOKE, *small, folder=tmp_path, store=None)
        status = json.loads((disk / "run/status.json").read_text())
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
    sentence = f"the disk of store.dir={disk}/store is full: make room, or choose another"
    assert (done.returncode, last_line(done.stderr)) == (1, sentence)
    assert "Traceback" not in done.stderr
    assert (status["state"], status["why"]) == ("failed", sentence)
