"""Moviescope: plots, trailers, posters and metadata of 5,027 movies (Cascante-Bonilla et al. 2019, arXiv:1908.03180)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from gmu_lightning.data.answers import leaving_out, refuse_answers, verdicts
from gmu_lightning.data.audit import Audit
from gmu_lightning.data.jsonl import Line, SplitFiles
from gmu_lightning.data.layouts import check_choices, reading
from gmu_lightning.data.matrices import Matrices
from gmu_lightning.data.module import MovieData
from gmu_lightning.data.moviescope_layout import (
    LAYOUTS,
    MATRICES,
    MatrixRows,
    Plots,
    Source,
    TableRows,
    choices_of,
    find_files,
    find_metadata,
    find_root,
    layout_of,
)
from gmu_lightning.data.raw import genres_of
from gmu_lightning.data.store import Store
from gmu_lightning.data.tables import read_table
from gmu_lightning.movie import MODALITIES, BadContent, Movie, UserError


class Moviescope(MovieData):
    """Moviescope as published (`full`), or in the smaller layout that is used in teaching; of the folders, any may be missing.

    Of a movie's contents only those of the chosen modalities are looked for.

    Args:
        root: the folder with `train.jsonl`, `dev.jsonl` and `test.jsonl`, or the folder above it.
        layout: `auto`, `full` (`200F_VGG16`, `Melspectrogram`, ...) or `teaching` (`video_frames`, `spectrograms`).
        video: `auto`, `features` or `trailers`.
        audio: `auto`, `mel96`, `mel128` or `trailers`.
        image: `auto`, `features` or `posters`.
        metadata: `auto`, `matrix` (`Metadata_matrices`) or `table` (`metadata.csv`, `metadata.jsonl`).
            `auto` takes the first of these that is there.
        leave_out: columns of the table, or numbers of columns of the matrices, that are not read.
        **common: `MovieData`'s.

    Raises:
        UserError: an argument has none of its values.
    """

    modalities: ClassVar[tuple[str, ...]] = MODALITIES
    published_genres: ClassVar[tuple[str, ...] | None] = (
        *("Mystery", "Thriller", "Comedy", "Action", "Crime", "Drama", "Family", "Horror", "Biography", "Romance"),
        *("Sci-Fi", "Fantasy", "Animation"),
    )

    def __init__(
        self,
        root: str | None,
        layout: str = "auto",
        video: str = "auto",
        audio: str = "auto",
        image: str = "auto",
        metadata: str = "auto",
        leave_out: Sequence[str] = (),
        **common: Any,
    ):
        super().__init__(root, **common)
        self.choices = {"image": image, "video": video, "audio": audio, "metadata": metadata}
        known = {"layout": ("auto", *LAYOUTS), **{modality: choices_of(modality) for modality in self.choices}}
        check_choices({"layout": layout, **self.choices}, known)
        if isinstance(leave_out, str):
            raise UserError(f"data.leave_out={leave_out} is no list: give data.leave_out=[{leave_out}].")
        self.wanted_layout, self.leave_out = layout, tuple(leave_out)
        self.chosen: tuple[str, ...] = self.modalities
        self.sources: dict[str, Source] = {}
        self._folder: Path | None = None

    @property
    def layout(self) -> str:
        """The layout found on disk; before `open`, the one asked for."""
        return layout_of(self._folder) if self._folder and self.wanted_layout == "auto" else self.wanted_layout

    @property
    def folder(self) -> Path:
        """Where the files of lines were found."""
        return self._folder or super().folder

    def load(self, modalities: Sequence[str], store: Store, require: bool = True) -> None:
        """Read all movies, and of their contents the chosen modalities.

        Raises:
            UserError: nothing of a chosen modality is there, or no movie of a split has it.
        """
        self.chosen = tuple(modalities)
        super().load(modalities, store, require)

    def open(self, store: Store) -> None:
        """Find the folders of the chosen modalities, and read what is in tables. Raises UserError."""
        if not self.root:
            raise UserError("data=moviescope needs data.root=PATH: the folder that holds train.jsonl, dev.jsonl and test.jsonl.")
        root = find_root(self.root)
        self._folder = root
        with reading(root):
            self.splits = SplitFiles(root)
            self.sources = {modality: self._source(root, modality) for modality in self.chosen}

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """Every id of the split, in its order: yielded, or in the audit as removed.

        `content["text"]` is the plot (str); the image, video and audio are an `ArrayFile` or a poster's or trailer's Path;
        `content["metadata"]` is a vector, or a table's row (dict of cells).
        """
        for line in self.splits.read(split, audit):
            content = {}
            for modality, source in self.sources.items():
                try:
                    content[modality] = source.content(line, split)
                except BadContent as bad:
                    file = source.file(line.id, split) or line.place
                    audit.add(line.id, file, split, bad.kind, "kept_absent", bad.detail, modality=modality)
            yield Movie(line.id, content, genres_of(line.record, "label"))

    def file_of(self, movie: Movie, split: str, modality: str | None = None) -> str:
        """Where a movie's record stands, or its content in one modality, as the audit names it."""
        source = self.sources.get(modality) if modality else None
        return (source.file(movie.id, split) if source else None) or self.record_file(movie.id, split)

    def record_file(self, id: str, split: str) -> str:
        """A file a split."""
        return self.splits.files[split].name

    def _source(self, root: Path, modality: str) -> Source:
        if modality == "text":
            return Plots()
        if modality == "metadata":
            return self._metadata(root)
        files = find_files(root, modality, self.choices[modality], self.wanted_layout, self.splits.first.where)
        self._warn_of_others(modality, [found.kind.folder for found in files])
        return files[0]

    def _metadata(self, root: Path) -> Source:
        places = find_metadata(root, self.choices["metadata"])
        self._warn_of_others("metadata", places)
        name = places[0]
        genres = {line.id: _genres(line.record) for line in self.splits.lines["train"]}
        if name == MATRICES:
            matrices = Matrices(root / name, self.leave_out)
            refuse_answers(matrices.flags("train", genres), genres, root / name, self.leave_out)
            return MatrixRows(matrices)
        table = read_table(root / name, self.leave_out)
        source = TableRows(table, name, self.splits.first.where)
        refuse_answers(_rows_of(source, self.splits.lines["train"]), genres, root / name, self.leave_out)
        told = verdicts(next(iter(table.values())))
        if told:
            self.warnings.append(
                f"verdicts: {', '.join(told)} of {name} come from an audience, once a movie was out; "
                f"{leaving_out(self.leave_out, told)} predicts without them."
            )
        return source

    def _warn_of_others(self, modality: str, found: Sequence[str]) -> None:
        if found[1:]:
            self.warnings.append(
                f"sources: {self.root} holds several sources of {modality}: {found[0]} is read, {', '.join(found[1:])} is not; "
                f"data.{modality} chooses."
            )


def _genres(record: dict[str, Any]) -> tuple[str, ...]:
    """None of a broken line."""
    return genres_of(record, "label") if record else ()


def _rows_of(source: TableRows, lines: Sequence[Line]) -> dict[str, dict[str, Any]]:
    """Return {id: row} of the movies that have one."""
    rows = {}
    for line in lines:
        with suppress(BadContent):
            rows[line.id] = source.content(line, "train")
    return rows
