"""What every data set shares: policies, genres, audit, fingerprint, and loaders over columns. A data set adds `read`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from gmu_lightning.data.audit import Audit, Problem
from gmu_lightning.data.batching import Batches
from gmu_lightning.data.contents import drop_incomplete, hashed, shared, without
from gmu_lightning.data.labels import order_genres
from gmu_lightning.data.layouts import reading
from gmu_lightning.data.limit import limited
from gmu_lightning.data.loading import Movies, loader
from gmu_lightning.data.lost import many_removed, many_without, no_genre, nobody_has, nothing_left
from gmu_lightning.data.store import Store
from gmu_lightning.data.strings import read_soundly, spelt_alike
from gmu_lightning.files import digest
from gmu_lightning.lightning import pl
from gmu_lightning.movie import SPLITS, ArrayFile, GenreVocabulary, Movie, UserError

UNLABELLED = "unlabelled_test: no movie of test has a label, so test is predicted and not scored"


class MovieData(pl.LightningDataModule):
    """Movies of three splits.

    A subclass says which `modalities` it has, what its `published_genres` are, and reads its files in `read`.

    Args:
        root: where the raw files are.
        limit: movies per split, or `train/val/test`, drawn by `seed`.
        seed: of the draw; the run's own seed never changes the data.
        strict: any problem of the data is an error.
        absent: `keep` movies that lack a chosen modality (it is marked absent), or `drop` them.
        batch_size: movies in a batch.
        token_budget: instead, where a text encoder is trained: the most tokens a training batch may hold, padding among them
            where the encoder computes it.
        workers: loader processes; 0 batches in the job itself.

    Attributes (after `load`): `movies` in the order train, val, test; `split_of` (N,) str; `vocabulary`; `labels` (N, C) bool;
        `digests` {modality: SHA-256 per movie, None where absent}; `fingerprint`; `audit`; `warnings`.
    """

    modalities: ClassVar[tuple[str, ...]]
    published_genres: ClassVar[tuple[str, ...] | None] = None

    def __init__(
        self,
        root: str | None,
        limit: int | str | None = None,
        seed: int = 0,
        strict: bool = False,
        absent: str = "keep",
        batch_size: int = 64,
        token_budget: int | None = None,
        workers: int = 0,
    ):
        super().__init__()
        if absent not in ("keep", "drop"):
            raise UserError(f"data.absent={absent} is neither keep nor drop: choose one of them")
        if int(batch_size) < 1:
            raise UserError(f"data.batch_size={batch_size} is no number of movies: give 1 or more")
        self.root, self.limit, self.seed, self.strict, self.absent = root, limit, seed, strict, absent
        self.batch_size, self.token_budget, self.workers = int(batch_size), token_budget, workers
        self.audit = Audit()
        self.warnings: list[str] = []
        self.columns: Mapping[str, Any] = {}
        self.order_seed = 0
        self.mixed = False
        self._unusable: set[int] = set()
        self.cells: dict[str, dict[str, Any]] = {}
        self.movies: list[Movie] = []
        self.split_of = np.zeros(0, dtype="<U5")
        self.vocabulary, self.labels = GenreVocabulary(()), np.zeros((0, 0), dtype=bool)

    @classmethod
    def offers(cls, node: Mapping[str, Any]) -> tuple[str, ...]:
        """The modalities of the data set that a configuration node describes."""
        return cls.modalities

    @property
    def layout(self) -> str:
        """The layout found on disk."""
        raise NotImplementedError

    def open(self, store: Store) -> None:
        """Find (unpack, generate) the raw files. Raises UserError."""
        raise NotImplementedError

    def pending(self, store: Store) -> str | None:
        """What `open` would have to make first (unpack, generate), in words; None where it only reads."""
        return None

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """Every id of the split, in its order: yielded, or in the audit as removed."""
        raise NotImplementedError

    def file_of(self, movie: Movie, split: str, modality: str | None = None) -> str:
        """Where a movie's record stands, or its content in one modality, as the audit names it."""
        content = movie.content.get(modality) if modality else None
        content = content.path if isinstance(content, ArrayFile) else content
        if not isinstance(content, Path):
            return self.record_file(movie.id, split)
        return content.relative_to(self.folder).as_posix() if content.is_relative_to(self.folder) else content.name

    @property
    def folder(self) -> Path:
        """The folder that the raw files were found in."""
        return Path(self.root or "")

    def record_file(self, id: str, split: str) -> str:
        """The file that a movie's record stands in, relative to the root."""
        return Path(self.root or "").name

    def apply_policy(self, movies: dict[str, list[Movie]], audit: Audit) -> dict[str, list[Movie]]:
        """What the data set's label policy leaves; all of it unless a data set has one."""
        return movies

    def load(self, modalities: Sequence[str], store: Store, require: bool = True) -> None:
        """Read all movies, and settle genres, labels, fingerprint and audit for the chosen modalities.

        Args:
            require: refuse a split in which no movie has a chosen modality. False for a trained model, which scores that too.

        Raises:
            UserError: the data cannot be read, or a split is left without a movie, a genre or a modality; it holds the audit.
        """
        with self.audited():
            self.open(store)
            with reading(self.folder):
                found = read_soundly(self.read, self.record_file, self.audit)
            self._settle_movies(found, modalities)
            self._settle_contents(modalities, store)
            if require:
                for modality in modalities:
                    self.require(modality, np.array([modality in movie.content for movie in self.movies]))

    @contextmanager
    def audited(self) -> Iterator[None]:
        """Let a refusal of the data carry the audit as far as it is known."""
        try:
            yield
        except UserError as error:
            if self.audit.problems or self.movies:
                error.audit = error.audit or self.audit_report()
            raise

    def require(self, modality: str, present: np.ndarray) -> None:
        """Refuse a split in which no movie has a modality.

        Args:
            present: (N,) bool.

        Raises:
            UserError: with the most frequent reason; it holds the audit.
        """
        for split in SPLITS:
            if not present[self.rows(split)].any():
                with self.audited():
                    raise UserError(nobody_has(self.root, modality, split, self.audit.problems))

    def _settle_movies(self, found: dict[str, list[Movie]], modalities: Sequence[str]) -> None:
        """Apply limit and policies; order movies by split, and settle genres and labels. Raises UserError."""
        for split, movies in found.items():
            removed = self._removed(split)
            self._warn(many_removed(split, len(movies) + len(removed), removed))
        by_split = limited(self.limit, found, self.seed, self.audit)
        self._warn_of_spellings(by_split)
        by_split = self.apply_policy(by_split, self.audit)
        if self.absent == "drop":
            by_split = {split: drop_incomplete(movies, modalities, split, self.audit) for split, movies in by_split.items()}
        self.audit.problems = [p if p.file else replace(p, file=self.record_file(p.id, p.split)) for p in self.audit.problems]
        self.movies = [movie for split in SPLITS for movie in by_split[split]]
        self.split_of = np.array([split for split in SPLITS for _ in by_split[split]])
        for split, movies in by_split.items():
            if not movies:
                raise UserError(nothing_left(self.root, split, self._removed(split)))
        if not any(movie.genres for movie in by_split["train"]):
            raise UserError(no_genre(self.root, self.audit.problems))
        self._settle_genres({split: [movie.genres for movie in movies] for split, movies in by_split.items()})

    def _removed(self, split: str) -> list[Problem]:
        return [problem for problem in self.audit.problems if problem.split == split and problem.action == "removed"]

    def _settle_contents(self, modalities: Sequence[str], store: Store) -> None:
        """Hash every content, and mark as absent what the system refuses to read."""
        self.digests: dict[str, list[str | None]] = {}
        for modality in modalities:
            root = str(Path(self.root or ".").absolute())
            self.digests[modality], bad = hashed(store, self.contents(modality), root, modality)
            self.note_unusable(modality, bad)
            for n, _, _ in bad:
                self.movies[n] = without(self.movies[n], modality)
        self._note_shared()
        self.audit.problems = [p if p.file else replace(p, file=self.record_file(p.id, p.split)) for p in self.audit.problems]
        labelled = [
            [m.id, s, sorted(set(m.genres) & set(self.vocabulary.names))] for m, s in zip(self.movies, self.split_of, strict=True)
        ]
        self.fingerprint = {"movies": digest(labelled), **{m: digest(self.digests[m]) for m in modalities}}

    def contents(self, modality: str) -> list[Any]:
        """Raw content per movie, None where absent."""
        return [movie.content.get(modality) for movie in self.movies]

    @property
    def in_train(self) -> np.ndarray:
        """(N,) bool."""
        return self.split_of == "train"

    @property
    def ids(self) -> dict[str, list[str]]:
        """Movie ids per split, in its order."""
        return {split: [self.movies[n].id for n in self.rows(split)] for split in SPLITS}

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split."""
        return np.flatnonzero(self.split_of == split)

    def audit_report(self) -> dict[str, Any]:
        """What audit.json holds."""
        names = self.vocabulary.names
        counts = {
            split: dict(zip(names, self.labels[self.rows(split)].sum(0).tolist(), strict=True)) for split in SPLITS if names
        }
        report = self.audit.as_dict(self.layout, {split: len(self.rows(split)) for split in SPLITS}, counts)
        return {**report, "columns": self.cells} if self.cells else report

    def raise_if_strict(self) -> None:
        """UserError if `strict` and anything was wrong."""
        if self.strict:
            self.audit.raise_if_strict()

    def check_labelled(self) -> None:
        """Note a test split without labels, which is predicted and not scored. Raises UserError where val has none."""
        if not self.labels[self.rows("val")].any():
            raise UserError(
                f"{self.root or 'the data'}: no movie of val has a genre that train has, so no epoch can be chosen: "
                "add its labels to the split file, or check data.limit"
            )
        if not self.labels[self.rows("test")].any() and UNLABELLED not in self.warnings:
            self.warnings.append(UNLABELLED)

    def note_unusable(self, modality: str, bad: Sequence[tuple[int, str, str]]) -> None:
        """Contents that could not be stored, (row, kind, detail) each: named in the audit, with what becomes of their movie."""
        action = "removed" if self.absent == "drop" else "kept_absent"
        for row, kind, detail in bad:
            movie, split = self.movies[row], str(self.split_of[row])
            file = self.file_of(movie, split, modality)
            self.audit.add(movie.id, file, split, kind, action, detail, modality=modality)
        self._unusable.update(row for row, _, _ in bad)

    def warn_of_losses(self, present: Mapping[str, np.ndarray]) -> None:
        """Warn, once all columns are there, of each split in which more than a tenth of the movies lack a modality.

        Args:
            present: {modality: (N,) bool}.
        """
        for modality, known in present.items():
            for split in SPLITS:
                rows = self.rows(split)
                without = len(rows) - int(known[rows].sum())
                self._warn(many_without(modality, split, len(rows), without, self.audit.problems))

    def _warn(self, sentence: str | None) -> None:
        if sentence is not None:
            self.warnings.append(sentence)

    def leave_out_unusable(self) -> None:
        """Under `absent=drop`, once all columns are there: movies with a content that could not be stored leave their splits.

        Raises:
            UserError: a split, or a genre's movies in train, would be empty.
        """
        if self.absent == "keep" or not self._unusable:
            return
        self.split_of[sorted(self._unusable)] = ""
        has_movies = self.labels[self.in_train].any(axis=0)
        lost = [name for name, found in zip(self.vocabulary.names, has_movies, strict=True) if not found]
        empty = [split for split in SPLITS if not len(self.rows(split))]
        if lost or empty:
            with self.audited():
                raise UserError(
                    f"data.absent=drop leaves no movie of {', '.join(lost or empty)}{' in train' if lost else ''}: "
                    "mend the files that audit.json names, or set data.absent=keep"
                )

    def use(self, columns: Mapping[str, Any]) -> None:
        """The columns that batches are made of, one per modality, in order."""
        self.columns = dict(columns)
        self.names = [movie.id for movie in self.movies]
        self.present = torch.from_numpy(np.stack([column.present for column in columns.values()], axis=1))
        self.targets = torch.from_numpy(self.labels).float()

    def mix_lengths(self) -> None:
        """From now on training batches are drawn whatever the texts' lengths: their encoder computes nothing for padding."""
        self.mixed = True

    def seed_order(self, seed: int) -> None:
        """The order of training batches is a function of this seed and the epoch."""
        self.order_seed = seed

    def loader(self, split: str, training: bool = False, epoch: int = 0) -> DataLoader:
        """Batches of a split: all of it, once; in training shuffled, elsewhere in a fixed order."""
        batches = self.batches(split, training)
        batches.set_epoch(epoch)
        return loader(Movies(self.names, self.columns, self.present, self.targets, training), batches, self.workers)

    def train_dataloader(self) -> DataLoader:
        """The epoch's batches."""
        return self.loader("train", training=True, epoch=self.trainer.current_epoch if self.trainer else 0)

    def val_dataloader(self) -> DataLoader:
        """The val split."""
        return self.loader("val")

    def total_steps(self, epochs: int, accumulate: int) -> int:
        """Updates of a whole run."""
        batches = self.batches("train", training=True)
        per_epoch = [len(batches.batches(epoch)) for epoch in range(epochs)] if self.token_budget else [len(batches)] * epochs
        return sum(-(-n // accumulate) for n in per_epoch)

    def batches(self, split: str, training: bool) -> Batches:
        """Which rows stand in which batch."""
        text_first = sorted(self.columns, key=lambda m: m != "text")  # a budget of tokens is one of text
        columns = [self.columns[m] for m in text_first]
        lengths = next((c.lengths for c in columns if c.lengths is not None and np.unique(c.lengths[c.present]).size > 1), None)
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return Batches(
            self.rows(split),
            self.batch_size,
            lengths,
            self.token_budget if training else None,
            self.order_seed if training else None,
            torch.distributed.get_rank() if distributed else 0,
            torch.distributed.get_world_size() if distributed else 1,
            self.mixed and training,
        )

    def _warn_of_spellings(self, movies: dict[str, list[Movie]]) -> None:
        self._warn(spelt_alike(genre for split in movies.values() for movie in split for genre in movie.genres))

    def _settle_genres(self, genres: dict[str, list[tuple[str, ...]]]) -> None:
        self.vocabulary, unseen = order_genres(genres, self.published_genres)
        if unseen:
            sentence = f"{', '.join(unseen)} never occurs in train, so it is removed from the genres of the task"
            if self.strict:
                raise UserError(f"{self.root}: {sentence}; data.strict=true does not accept that")
            self.warnings.append(f"dropped_genre: {sentence}")
        self.labels = self.vocabulary.encode(movie.genres for movie in self.movies)
        by_policy = {problem.id for problem in self.audit.problems if problem.by_policy}
        noted = {problem.id for problem in self.audit.problems if problem.kind == "no_genre"}
        for n, movie in enumerate(self.movies):
            split = str(self.split_of[n])
            lost = sorted(set(movie.genres) & set(unseen))
            if lost:
                self.audit.add(movie.id, "", split, "dropped_genre", "kept", f"{', '.join(lost)} never occurs in train")
            if not self.labels[n].any() and movie.id not in noted:
                why = f"its genres are {', '.join(movie.genres) or 'none'}"
                self.audit.add(movie.id, "", split, "no_genre", "kept", why, by_policy=movie.id in by_policy)

    def _note_shared(self) -> None:
        for modality, kind in (("text", "shared_plot"), ("image", "shared_image")):
            for n, first in shared(self.digests.get(modality, ())):
                movie, split = self.movies[n], str(self.split_of[n])
                with_whom = f"the same as {self.movies[first].id} in {self.split_of[first]}"
                self.audit.add(movie.id, self.file_of(movie, split, modality), split, kind, "kept", with_whom)
