"""Moviescope: plots, trailers, posters and metadata of 5,027 movies (Cascante-Bonilla et al. 2019, arXiv:1908.03180)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.data.dataset import DataSet
from gmu_lightning.data.leakage import audience_columns, leaving_out, refuse_leakage
from gmu_lightning.data.moviescope.metadata import MATRICES, TABLES, Matrices, TableRows
from gmu_lightning.data.readers.arrays import SUFFIXES, frames, log_mel, melgram, poster_vector
from gmu_lightning.data.readers.layouts import Layout, existing, here_or_one_down, reading, usable, what_it_holds
from gmu_lightning.data.readers.media import POSTERS, Folder
from gmu_lightning.data.readers.metadata_table import read_table
from gmu_lightning.data.readers.records import TEXT_KEYS, Line, SplitFiles, genres_of, plot_of, split_file
from gmu_lightning.data.store import Store
from gmu_lightning.movie import MODALITIES, ArrayFile, BadContent, Movie, UserError

LAYOUTS = ("full", "teaching")
TRAILERS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
EXPECTED = "expected train.jsonl with dev.jsonl and test.jsonl"


@dataclass(frozen=True)
class ContentFolder:
    """A folder that may hold a modality's contents, in a file per movie named by its id.

    Attributes:
        modality: of the contents.
        choice: its name in `data.<modality>=`.
        name: of the folder.
        suffixes: of its files, the preferred one first if a movie has several files.
        read: returns the array in a file; None if the file itself is the content.
        layout: `full` or `teaching`; None for both.
    """

    modality: str
    choice: str
    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path], np.ndarray] | None = None
    layout: str | None = None


# In the order of preference of `auto`.
FOLDERS = (
    ContentFolder("image", "features", "PosterFeatures", SUFFIXES, poster_vector),
    ContentFolder("image", "posters", "Raw_Poster", POSTERS),
    ContentFolder("video", "features", "200F_VGG16", SUFFIXES, frames, "full"),
    ContentFolder("video", "features", "video_frames", SUFFIXES, frames, "teaching"),
    ContentFolder("video", "trailers", "trailers", TRAILERS),
    ContentFolder("audio", "mel96", "Melspectrogram", SUFFIXES, log_mel, "full"),
    ContentFolder("audio", "mel96", "spectrograms", SUFFIXES, log_mel, "teaching"),
    ContentFolder("audio", "mel128", "MelgramPorcessed", SUFFIXES, melgram, "full"),  # the published spelling
    ContentFolder("audio", "trailers", "trailers", TRAILERS),
)


class Moviescope(DataSet):
    """Moviescope as published (`full`), or in the smaller layout for teaching.

    Only the files of the chosen modalities need to exist. Under `auto`, the first of the other choices that exists is read.

    Args:
        root: folder with `train.jsonl`, `dev.jsonl` and `test.jsonl`, or the folder above it.
        layout: `auto`, `full` (`200F_VGG16`, `Melspectrogram`, ...) or `teaching` (`video_frames`, `spectrograms`).
        video: `auto`, `features` or `trailers`.
        audio: `auto`, `mel96`, `mel128` or `trailers`.
        image: `auto`, `features` or `posters`.
        metadata: `auto`, `matrix` (`Metadata_matrices`) or `table` (`metadata.csv`, `metadata.jsonl`).
        leave_out: names of the table's columns, or numbers of the matrices' columns, to ignore.
        **common: those of every `DataSet`.
    """

    modalities: ClassVar[tuple[str, ...]] = MODALITIES
    published_genres: ClassVar[tuple[str, ...] | None] = (
        *("Mystery", "Thriller", "Comedy", "Action", "Crime", "Drama", "Family", "Horror", "Biography", "Romance"),
        *("Sci-Fi", "Fantasy", "Animation"),
    )

    def __init__(
        self,
        root: str | None,
        layout: Literal["auto", "full", "teaching"] = "auto",
        video: Literal["auto", "features", "trailers"] = "auto",
        audio: Literal["auto", "mel96", "mel128", "trailers"] = "auto",
        image: Literal["auto", "features", "posters"] = "auto",
        metadata: Literal["auto", "matrix", "table"] = "auto",
        leave_out: Annotated[Sequence[str | int], "a list, such as data.leave_out=[year]"] = (),
        **common: Any,
    ):
        super().__init__(root, **common)
        self.choices = {"image": image, "video": video, "audio": audio, "metadata": metadata}
        self.layout, self.leave_out = layout, tuple(map(str, leave_out))

    def open(self, modalities: Sequence[str], store: Store) -> Layout:
        """Return the layout, after reading the tables of the chosen modalities.

        Raises UserError if files are missing or damaged, or the metadata reveal the genres.
        """
        if not self.root:
            raise UserError("data=moviescope needs data.root=PATH: the folder that holds train.jsonl, dev.jsonl and test.jsonl.")
        root = find_root(self.root)
        with reading(root):
            return MoviescopeLayout(self, root, modalities)


class MoviescopeLayout(Layout):
    """The files of Moviescope, opened for the chosen modalities.

    Args:
        data_set: its arguments choose among the sources of a modality.
        root: folder with the split files.
        modalities: to read.

    Raises:
        UserError: a split file is missing, a chosen modality has no source, or the metadata are damaged or reveal the genres.
    """

    def __init__(self, data_set: Moviescope, root: Path, modalities: Sequence[str]):
        self.name = layout_of(root) if data_set.layout == "auto" else data_set.layout
        self.data_set, self.root = data_set, root
        self.splits = SplitFiles(root)
        self.sources = {modality: self._source(modality) for modality in modalities}

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """Yield the movies of a split.

        The text is the plot (str). Image, video and audio are an `ArrayFile`, or the Path of a poster or trailer. Metadata are a
        vector (d,) float32, or a table's row (dict).
        """
        for line in self.splits.read(split, audit):
            sources = [
                (modality, source.file(line.id, split) or line.place, partial(source.content, line, split))
                for modality, source in self.sources.items()
            ]
            yield Movie(line.id, usable(sources, line.id, split, audit), genres_of(line.record, "label"))

    def file_of(self, movie: Movie, split: str, modality: str) -> str:
        """Return the file of a movie's content in one modality, relative to the root."""
        return self.sources[modality].file(movie.id, split) or self.record_file(movie.id, split)

    def record_file(self, id: str, split: str) -> str:
        """Return the name of the split's file."""
        return self.splits.files[split].name

    def _source(self, modality: str) -> Source:
        if modality == "text":
            return Plots()
        if modality == "metadata":
            return self._metadata()
        wanted = self.data_set
        files = find_files(self.root, modality, wanted.choices[modality], wanted.layout, self.splits.first.where)
        self._warn_of_others(modality, [found.folder.name for found in files])
        return files[0]

    def _metadata(self) -> Source:
        root, leave_out = self.root, self.data_set.leave_out
        places = find_metadata(root, self.data_set.choices["metadata"])
        self._warn_of_others("metadata", places)
        name = places[0]
        genres = {line.id: genres_of(line.record, "label") for line in self.splits.lines["train"]}  # broken lines have none
        if name == MATRICES:
            matrices = Matrices(root / name, leave_out)
            refuse_leakage(matrices.flags("train", genres), genres, root / name, leave_out)
            return matrices
        table = read_table(root / name, leave_out)
        source = TableRows(table, name, self.splits.first.where)
        rows = {}
        for line in self.splits.lines["train"]:
            with suppress(BadContent):
                rows[line.id] = source.content(line, "train")
        refuse_leakage(rows, genres, root / name, leave_out)
        late = audience_columns(next(iter(table.values())))
        if late:
            self.warn(
                f"audience: {', '.join(late)} of {name} are known only once a movie is out. "
                f"Type {leaving_out(leave_out, late)} to predict without them."
            )
        return source

    def _warn_of_others(self, modality: str, found: Sequence[str]) -> None:
        if found[1:]:
            self.warn(
                f"sources: {self.data_set.root} holds several sources of {modality}: {found[0]} is read, "
                f"{', '.join(found[1:])} is not; data.{modality} chooses."
            )


class MoviescopeDataModule(MovieDataModule):
    """Batches of Moviescope, with the arguments of `Moviescope` and of `MovieDataModule`."""

    reads = Moviescope


class Source(Protocol):
    """The source of one modality's contents."""

    def content(self, line: Line, split: str) -> Any:
        """Return the content of a line's movie, as in `Movie`. Raises BadContent if it is absent."""
        ...

    def file(self, id: str, split: str) -> str | None:
        """Return the file of a movie's content, relative to the root; None for the movie's own line."""
        ...


class Plots:
    """Plots in the lines of the split files."""

    def content(self, line: Line, split: str) -> str:
        """Return the plot. Raises BadContent."""
        return plot_of(line.record, ("synopsis", *TEXT_KEYS))

    def file(self, id: str, split: str) -> None:
        """Return None, because the plot is in the line itself."""


class Files:
    """The files of a folder.

    Args:
        folder: to read.
        root: folder of the data set.
        ids: of the data set.
    """

    def __init__(self, folder: ContentFolder, root: Path, ids: Collection[str] = ()):
        self.folder, self.listing = folder, Folder(root / folder.name, folder.suffixes, ids)

    def content(self, line: Line, split: str) -> Path | ArrayFile:
        """Return the movie's file, as an `ArrayFile` if it holds an array. Raises BadContent, or OSError for the whole folder."""
        path = self.listing.content(line.id, self.folder.modality)
        return path if self.folder.read is None else ArrayFile(path, self.folder.read)

    def file(self, id: str, split: str) -> str:
        """Return the movie's file; a missing one has the preferred suffix."""
        return f"{self.folder.name}/{self.listing.name(id) or id + self.folder.suffixes[0]}"


def find_root(root: str) -> Path:
    """Return the folder with the split files: `root` or the only folder in it that has them. Raises UserError."""
    with existing(root, EXPECTED) as path:
        found = here_or_one_down(path, _at)
        if found is None:
            instead = what_it_holds(path) if path.is_dir() else "it is a file"
            if _at(path.parent):
                instead = f"the folder above it is: give data.root={path.parent}"
            raise UserError(f"data.root={root} is no Moviescope ({EXPECTED}, there or one folder down): {instead}.")
    return found


def layout_of(root: Path) -> str:
    """Return the layout whose folders have files, `full` before `teaching`; `full` if both lack files."""
    there = [folder.layout for folder in FOLDERS if folder.layout and Files(folder, root).listing.files]
    return next((layout for layout in LAYOUTS if layout in there), LAYOUTS[0])


def find_files(root: Path, modality: str, choice: str, layout: str, ids: Collection[str]) -> list[Files]:
    """Return the folders that hold a modality's contents, in the order of preference.

    Args:
        root: folder of the data set.
        modality: image, video or audio.
        choice: value of `data.<modality>`.
        layout: value of `data.layout`.
        ids: of the data set.

    Raises:
        UserError: there is no such folder with files.
    """
    folders = [folder for folder in FOLDERS if folder.modality == modality and choice in ("auto", folder.choice)]
    folders = [folder for folder in folders if layout == "auto" or folder.layout in (None, layout)]
    there = [files for folder in folders if (files := Files(folder, root, ids)).listing.files]
    if not there:
        raise UserError(_absent(root, modality, choice, [f"{folder.name}/<id>{folder.suffixes[0]}" for folder in folders]))
    return there


def find_metadata(root: Path, choice: str) -> list[str]:
    """Return the existing folder of matrices and tables, in the order of preference. Raises UserError if there are none."""
    places = {"matrix": (MATRICES,), "table": TABLES, "auto": (MATRICES, *TABLES)}[choice]
    there = [place for place in places if (root / place).exists()]
    if not there:
        raise UserError(_absent(root, "metadata", choice, places))
    return there


def _absent(root: Path, modality: str, choice: str, places: Sequence[str]) -> str:
    """Return the sentence for a chosen modality without a source."""
    asked = "" if choice == "auto" else f" with data.{modality}={choice}"
    named = f"{', '.join(places[:-1])} or {places[-1]}" if places[1:] else places[0]
    return f"data.root={root} has no {named}: modalities with {modality}{asked} need one."


def _at(place: Path) -> Path | None:
    return place if split_file(place, "train") is not None else None
