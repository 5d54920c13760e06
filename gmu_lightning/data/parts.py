"""What is costly to store is kept content by content: a kill loses what was in flight, and more movies cost only themselves."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gmu_lightning.files import digest, write_atomically
from gmu_lightning.movie import BadContent, Preparation


@dataclass(frozen=True)
class Parts:
    """A folder with one file per content, named by the content's SHA-256."""

    folder: Path

    @classmethod
    def of(cls, root: Path, modality: str, preparation: Preparation) -> Parts | None:
        """Those of a preparation that says it is costly; None for any other."""
        if not getattr(preparation, "costly", False):
            return None
        folder = root / "parts" / f"{modality}-{digest([preparation.fingerprint, preparation.state()])[:20]}"
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    def get(self, sha: str, make: Callable[[], np.ndarray | BadContent]) -> np.ndarray | BadContent:
        """What was kept of that content, or what `make` gives, kept from now on; so is a lasting reason why it cannot be used."""
        path = self.folder / f"{sha}.npz"
        try:
            with np.load(path, allow_pickle=False) as kept:
                if "bad" in kept:
                    kind, detail = kept["bad"].tolist()
                    return BadContent(kind, detail)
                return kept["row"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # not there, or damaged: made again
            pass
        made = make()
        if isinstance(made, BadContent) and not made.lasting:
            return made
        content = {"bad": np.array([made.kind, made.detail])} if isinstance(made, BadContent) else {"row": made}

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(file, **content)  # type: ignore[arg-type]

        write_atomically(path, write)
        return made
