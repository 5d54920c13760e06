"""A disk that gets full at any moment of the work of a store: one sentence, and no half-written file is ever read."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gmu_lightning.data.ragged import write_array
from gmu_lightning.data.store import Store
from gmu_lightning.data.verification import verify
from gmu_lightning.movie import UserError

from .test_damage import READERS, places  # noqa: F401  # the fixture

PAGE = 4  # KiB
READ = ("columns", "parts", "features", "planted", "unpacked", "digests")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Yield a function that gives a disk of its own so many KiB, and returns its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", folder], check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a disk")

    def sized(kib: int) -> Path:
        subprocess.run(["mount", "-o", f"remount,size={kib}k", folder], check=True)
        return folder

    (folder / "other").write_bytes(bytes(PAGE << 10))  # fills the disk
    try:
        yield sized
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("kind", READ)
def test_a_disk_that_is_full_at_any_moment(disk, places, kind):  # noqa: F811
    expected = READERS[kind](Store(places / "store"), places)
    for pages in range(1, 200):
        root = disk(pages * PAGE) / "store"
        try:
            found = READERS[kind](Store(root), places)
        except UserError as error:
            full = f"the disk of store.dir={root} is full: make room, or choose another"
            assert str(error) == full or (kind == "unpacked" and "set store.dir to a disk with more room" in str(error))
            assert not root.exists() or verify(root).damaged == []
        else:
            assert found == expected
            break
    assert pages > 1
    assert verify(root).damaged == []


def test_an_array_that_does_not_fit_names_the_full_disk(disk):
    with pytest.raises(OSError, match="No space left"), (disk(5 * PAGE) / "vectors.npy").open("wb") as file:
        write_array(file, np.zeros(100_000))


def test_written_arrays_are_read_by_numpy(tmp_path):
    for array in (np.zeros((0, 3), np.float32), np.arange(6).reshape(2, 3).T, np.float16(2) * np.ones((2, 1, 2), np.float16)):
        with (tmp_path / "array.npy").open("wb") as file:
            write_array(file, array)
        found = np.load(tmp_path / "array.npy")
        assert found.dtype == array.dtype and np.array_equal(found, array)
