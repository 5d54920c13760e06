"""What the layouts share in which a data set is found on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from gmu_lightning.data.audit import Audit
from gmu_lightning.movie import SPLITS, Movie

# A split's name here, and the names that published files give it.
FILE_NAMES = {"train": ("train",), "val": ("dev", "val"), "test": ("test",)}


class Layout(Protocol):
    """An opened data set."""

    name: str  # raw, hdf5 or jsonl
    root: Path  # the folder, or the file, that was found

    def record_file(self, id: str, split: str) -> str:
        """The file that a movie's record stands in, relative to the data's root."""
        ...

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """Every id of the split, in its order: yielded, or in the audit as removed."""
        ...


class FirstUse:
    """Where each id stands first; splits count in the order train, val, test."""

    def __init__(self, ids: Mapping[str, Sequence[str]]):
        self.where: dict[str, tuple[str, int]] = {}
        for split in SPLITS:
            for n, movie in enumerate(ids[split]):
                self.where.setdefault(movie, (split, n))

    def repeated(self, movie: str, split: str, n: int, file: str, audit: Audit) -> bool:
        """Whether place n of the split repeats an id; if so, the audit says that it is removed."""
        first = self.where[movie]
        if first == (split, n):
            return False
        audit.add(movie, file, split, "duplicate_id", "removed", f"already in {first[0]}, place {first[1] + 1}")
        return True
