"""Compare every file of a store with its checksum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gmu_lightning.data import integrity
from gmu_lightning.data.integrity import BrokenEntry
from gmu_lightning.data.inventory import DAMAGED, entries
from gmu_lightning.data.parts import read_part
from gmu_lightning.files import read_sealed

LISTS = {"digests": "files", "weights": "note"}  # {folder of sealed JSON files: the key of their content}


@dataclass(frozen=True)
class Verified:
    """The result of a check of a whole store.

    Attributes:
        root: folder of the store.
        damaged: a line for each damaged entry.
        sound: number of entries whose files have the recorded checksums.
        unknown: number of entries of older versions, without checksums.
    """

    root: Path
    damaged: list[str]
    sound: int
    unknown: int

    def __str__(self) -> str:
        unknown = f", {self.unknown} of an older version without checksums" if self.unknown else ""
        return f"{self.root}: sound {self.sound}, damaged {len(self.damaged)}{unknown}"


def verify(root: Path) -> Verified:
    """Read every finished entry of the store at `root`, and compare its files with their checksums.

    Entries that were set aside are left out. Raises OSError if a file cannot be read for another reason than damage.
    """
    damaged: list[str] = []
    sound = unknown = 0
    for path in _all(root):
        try:
            known = _check(path)
        except FileNotFoundError:  # a job removed it, or set it aside
            continue
        except (BrokenEntry, ValueError) as damage:
            damaged.append(f"damaged: {path.relative_to(root)} ({damage})")
            continue
        sound, unknown = sound + known, unknown + (not known)
    return Verified(root, damaged, sound, unknown)


def _all(root: Path) -> Iterator[Path]:
    """Yield the folder of each entry, and each list and note."""
    yield from (entry.folder for entry in entries(root) if not entry.folder.name.endswith(DAMAGED))
    yield from (path for name in LISTS for path in sorted((root / name).glob("[!.]*.json")))


def _check(path: Path) -> bool:
    """Return whether an entry has checksums. Raises BrokenEntry or ValueError if it is damaged."""
    kind = path.parent.name
    if kind in LISTS:
        return read_sealed(path, LISTS[kind]) is not None
    if kind == "parts":
        return _check_parts(path)
    meta = integrity.read_meta(path)
    integrity.check_sizes(path, meta)
    integrity.compare(path, meta)
    return integrity.is_described(meta)


def _check_parts(folder: Path) -> bool:
    """Return True. Raises BrokenEntry if a row cannot be read."""
    for path in sorted(folder.glob("[!.]*.npz")):
        try:
            read_part(path)
        except BrokenEntry as damage:
            raise BrokenEntry(f"{path.name}: {damage}") from damage
    return True
