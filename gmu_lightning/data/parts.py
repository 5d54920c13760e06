"""Keep each row of a preparation in a file of its own, so that a killed run loses only the rows in progress."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gmu_lightning.data.contents import MACHINE
from gmu_lightning.data.integrity import BrokenEntry
from gmu_lightning.files import digest, write_atomically
from gmu_lightning.movie import BadContent, Preparation
from gmu_lightning.visible import first_line


@dataclass(frozen=True)
class Parts:
    """Rows of a preparation, with one file per content, named by the content's SHA-256.

    Costly preparations have them: a killed run loses only the rows in progress, and additional movies cost only themselves. Those
    of other preparations exist while several machines prepare one column.

    Attributes:
        folder: holds the files.
        damaged: names of files that could not be read.
    """

    folder: Path
    damaged: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @classmethod
    def of(cls, root: Path, modality: str, preparation: Preparation) -> Parts | None:
        """Return the parts of a preparation in the store at `root`, or None if it is cheap and has none."""
        costly = getattr(preparation, "costly", False)
        if preparation.learns and not costly:
            return None
        parts = cls.begun(root, modality, preparation) if costly else cls(cls._folder(root, modality, preparation))
        return parts if parts.folder.is_dir() else None

    @classmethod
    def begun(cls, root: Path, modality: str, preparation: Preparation) -> Parts:
        """Return the parts of a fitted preparation in the store at `root`; their folder is created."""
        parts = cls(cls._folder(root, modality, preparation))
        parts.folder.mkdir(parents=True, exist_ok=True)
        return parts

    @staticmethod
    def _folder(root: Path, modality: str, preparation: Preparation) -> Path:
        return root / "parts" / f"{modality}-{digest([preparation.fingerprint, preparation.state()])[:20]}"

    def path(self, sha: str) -> Path:
        """Return the file of a content."""
        return self.folder / f"{sha}.npz"

    def get(self, sha: str, make: Callable[[], np.ndarray | BadContent]) -> np.ndarray | BadContent:
        """Return the row of a content. If it is not stored, make it and store it.

        Args:
            sha: SHA-256 of the content.
            make: returns the row, or the reason why there is none. A reason is stored only if it is lasting.
        """
        path = self.path(sha)
        with suppress(FileNotFoundError):
            try:
                return read_part(path)
            except BrokenEntry:
                self.damaged.append(path.name)
        made = make()
        if isinstance(made, BadContent) and not made.lasting:
            return made
        content = {"bad": np.array([made.kind, made.detail])} if isinstance(made, BadContent) else {"row": made}

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(file, **content)  # type: ignore[arg-type]

        write_atomically(path, write)
        return made


def read_part(path: Path) -> np.ndarray | BadContent:
    """Return the row in a file of `Parts`, or the reason why there is none.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenEntry: the file is damaged.
        OSError: the machine is at fault.
    """
    try:
        return _content(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged archive may raise anything
        if isinstance(error, OSError) and error.errno in MACHINE:
            raise
        raise BrokenEntry(first_line(error)) from error


def _content(path: Path) -> np.ndarray | BadContent:
    with np.load(path, allow_pickle=False) as kept:
        if kept.zip.testzip():  # reading a row ends before its checksum if a damaged header claims too few numbers
            raise ValueError("it has other bytes than were written")
        if "bad" in kept:
            kind, detail = kept["bad"].tolist()
            return BadContent(kind, detail)
        return kept["row"]
