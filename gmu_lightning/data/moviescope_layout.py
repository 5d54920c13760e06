"""Where Moviescope's contents lie: which folders a modality is found in, and what a file in them holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gmu_lightning.data.arrays import SUFFIXES, frames, log_mel, melgram, poster_vector
from gmu_lightning.data.jsonl import TEXT_KEYS, Line, plot_of, split_file
from gmu_lightning.data.layouts import here_or_one_down, near_names, what_it_holds
from gmu_lightning.data.matrices import Matrices
from gmu_lightning.data.media import POSTERS, Folder, Ids
from gmu_lightning.data.tables import Table
from gmu_lightning.movie import ArrayFile, BadContent, UserError

LAYOUTS = ("full", "teaching")
TRAILERS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
EXPECTED = "expected train.jsonl with dev.jsonl and test.jsonl"


@dataclass(frozen=True)
class Kind:
    """One way in which a modality's contents lie on disk: a folder with a file per movie, named by its id.

    Attributes:
        choice: what `data.<modality>=` calls it.
        suffixes: of its files; of a movie with several, the first is read.
        read: the array in a file; None where the file itself is the content.
        layout: the one that it is part of, None for either.
    """

    modality: str
    choice: str
    folder: str
    suffixes: tuple[str, ...]
    read: Callable[[Path], np.ndarray] | None = None
    layout: str | None = None


# In the order in which `auto` prefers them.
KINDS = (
    Kind("image", "features", "PosterFeatures", SUFFIXES, poster_vector),
    Kind("image", "posters", "Raw_Poster", POSTERS),
    Kind("video", "features", "200F_VGG16", SUFFIXES, frames, "full"),
    Kind("video", "features", "video_frames", SUFFIXES, frames, "teaching"),
    Kind("video", "trailers", "trailers", TRAILERS),
    Kind("audio", "mel96", "Melspectrogram", SUFFIXES, log_mel, "full"),
    Kind("audio", "mel96", "spectrograms", SUFFIXES, log_mel, "teaching"),
    Kind("audio", "mel128", "MelgramPorcessed", SUFFIXES, melgram, "full"),  # spelt as published
    Kind("audio", "trailers", "trailers", TRAILERS),
)
MATRICES = "Metadata_matrices"
TABLES = ("metadata.csv", "metadata.jsonl")


def choices_of(modality: str) -> tuple[str, ...]:
    """What `data.<modality>=` may be."""
    kinds = ("matrix", "table") if modality == "metadata" else (kind.choice for kind in KINDS if kind.modality == modality)
    return ("auto", *dict.fromkeys(kinds))


class Source(Protocol):
    """Where one modality's contents come from."""

    def content(self, line: Line, split: str) -> Any:
        """A movie's content, as `Movie` has it. Raises BadContent where it is absent."""
        ...

    def file(self, id: str, split: str) -> str | None:
        """Where that stands, or ought to, relative to the data's folder; None for the movie's own line."""
        ...


class Plots:
    """`synopsis`, in the line itself."""

    def content(self, line: Line, split: str) -> str:
        """The plot."""
        return plot_of(line.record, ("synopsis", *TEXT_KEYS))

    def file(self, id: str, split: str) -> None:
        """The line itself."""


@dataclass(frozen=True)
class Files:
    """A folder with a file per movie."""

    kind: Kind
    root: Path
    ids: Collection[str] = field(default=(), repr=False)

    @cached_property
    def folder(self) -> Folder:
        """The files by id."""
        return Folder(self.root / self.kind.folder, self.kind.suffixes, self.ids)

    def content(self, line: Line, split: str) -> Path | ArrayFile:
        """The file, with how to read its array."""
        path = self.folder.content(line.id, self.kind.modality)
        return path if self.kind.read is None else ArrayFile(path, self.kind.read)

    def file(self, id: str, split: str) -> str:
        """With the suffix that is published, where there is no file."""
        return f"{self.kind.folder}/{self.folder.name(id) or id + self.kind.suffixes[0]}"


@dataclass(frozen=True)
class MatrixRows:
    """Rows of the published matrices."""

    matrices: Matrices

    def content(self, line: Line, split: str) -> np.ndarray:
        """float32 (d,)"""
        return self.matrices.row(line.id, split)

    def file(self, id: str, split: str) -> str:
        """The split's matrix."""
        return f"{MATRICES}/{self.matrices.files[split].name}"


@dataclass(frozen=True)
class TableRows:
    """Rows of a table."""

    table: Table
    name: str
    ids: Collection[str] = field(default=(), repr=False)

    @cached_property
    def _known(self) -> Ids:
        return Ids(self.table, self.ids)

    def content(self, line: Line, split: str) -> dict[str, Any]:
        """{column: cell}, as `cells.read` has them"""
        name = self._known.find(line.id)
        if name is None:
            raise BadContent("missing_metadata", f"it has no row; ids there are such as {next(iter(self.table))}")
        row = self.table[name]
        if all(cell is None for cell in row.values()):
            raise BadContent("missing_metadata", "its row is empty")
        return row

    def file(self, id: str, split: str) -> str:
        """The table."""
        return self.name


def find_root(root: str) -> Path:
    """The folder with the three files of lines: `root` itself, or the one folder in it. Raises UserError."""
    path = Path(root).expanduser()
    try:
        if not path.exists():
            raise UserError(f"data.root={root} does not exist{near_names(path)}: {EXPECTED}.")
        found = here_or_one_down(path, _at)
        if found is None:
            instead = what_it_holds(path) if path.is_dir() else "it is a file"
            if _at(path.parent):
                instead = f"the folder above it is: give data.root={path.parent}"
            raise UserError(f"data.root={root} is no Moviescope ({EXPECTED}, there or one folder down): {instead}.")
    except OSError as refused:
        raise UserError(f"data.root={root} cannot be read ({refused}): check its permissions and the disk.") from refused
    return found


def layout_of(root: Path) -> str:
    """The layout whose folders are there, the first of them if both; `full` where nothing says which it is."""
    there = [kind.layout for kind in KINDS if kind.layout and Files(kind, root).folder.files]
    return next((layout for layout in LAYOUTS if layout in there), LAYOUTS[0])


def find_files(root: Path, modality: str, choice: str, layout: str, ids: Collection[str]) -> list[Files]:
    """The folders with files to read a modality from, the one to read first.

    Args:
        ids: of the data set.

    Raises:
        UserError: there is none.
    """
    kinds = [kind for kind in KINDS if kind.modality == modality and choice in ("auto", kind.choice)]
    kinds = [kind for kind in kinds if layout == "auto" or kind.layout in (None, layout)]
    there = [files for kind in kinds if (files := Files(kind, root, ids)).folder.files]
    if not there:
        raise UserError(nothing_of(root, modality, choice, [f"{kind.folder}/<id>{kind.suffixes[0]}" for kind in kinds]))
    return there


def find_metadata(root: Path, choice: str) -> list[str]:
    """The folder of matrices and the tables that are there, the one to read first. Raises UserError where there is none."""
    places = {"matrix": (MATRICES,), "table": TABLES, "auto": (MATRICES, *TABLES)}[choice]
    there = [place for place in places if (root / place).exists()]
    if not there:
        raise UserError(nothing_of(root, "metadata", choice, places))
    return there


def nothing_of(root: Path, modality: str, choice: str, places: Sequence[str]) -> str:
    """The sentence for a modality that is chosen and not there at all."""
    asked = "" if choice == "auto" else f" with data.{modality}={choice}"
    named = f"{', '.join(places[:-1])} or {places[-1]}" if places[1:] else places[0]
    return f"data.root={root} has no {named}: modalities with {modality}{asked} need one."


def _at(place: Path) -> Path | None:
    return place if split_file(place, "train") is not None else None
