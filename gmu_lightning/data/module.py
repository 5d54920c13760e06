"""What every data set shares: policies, genres, audit, fingerprint, and loaders over columns. A data set adds `read`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from gmu_lightning.data.audit import Audit, kind_of_missing
from gmu_lightning.data.batching import Batches
from gmu_lightning.data.labels import order_genres
from gmu_lightning.data.limit import draw
from gmu_lightning.data.loading import Movies, loader
from gmu_lightning.data.store import Store
from gmu_lightning.data.strings import read_soundly, spelt_alike
from gmu_lightning.files import digest
from gmu_lightning.lightning import pl
from gmu_lightning.movie import SPLITS, ArrayFile, Movie, UserError

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

    def load(self, modalities: Sequence[str], store: Store) -> None:
        """Read all movies, and settle genres, labels, fingerprint and audit for the chosen modalities."""
        self.open(store)
        by_split = self._limited(read_soundly(self.read, self.record_file, self.audit))
        self._warn_of_spellings(by_split)
        by_split = self.apply_policy(by_split, self.audit)
        if self.absent == "drop":
            by_split = {split: self._complete(movies, modalities, split) for split, movies in by_split.items()}
        for split, movies in by_split.items():
            if not movies:
                raise UserError(f"{self.root}: no movie is left in {split}; check the split file, data.limit and data.absent")
        self.movies = [movie for split in SPLITS for movie in by_split[split]]
        self.split_of = np.array([split for split in SPLITS for _ in by_split[split]])
        self._settle_genres({split: [movie.genres for movie in movies] for split, movies in by_split.items()})
        self.digests = {m: store.digests(self.contents(m), str(Path(self.root or ".").absolute())) for m in modalities}
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
        counts = {split: dict(zip(names, self.labels[self.rows(split)].sum(0).tolist(), strict=True)) for split in SPLITS}
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
            self.audit.add(movie.id, self.file_of(movie, split, modality), split, kind, action, detail)
        self._unusable.update(row for row, _, _ in bad)

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

    def _limited(self, movies: dict[str, list[Movie]]) -> dict[str, list[Movie]]:
        if self.limit is None:
            return movies
        ids = {
            split: set(kept)
            for split, kept in draw(self.limit, {s: [m.id for m in movies[s]] for s in SPLITS}, self.seed).items()
        }
        drawn = {split: [movie for movie in movies[split] if movie.id in ids[split]] for split in SPLITS}
        self.audit.problems = [p for p in self.audit.problems if p.action == "removed" or p.id in ids[p.split]]
        return drawn

    def _complete(self, movies: list[Movie], modalities: Sequence[str], split: str) -> list[Movie]:
        lacking = {movie.id: absent for movie in movies if (absent := [m for m in modalities if m not in movie.content])}
        self.audit.problems = [p for p in self.audit.problems if p.id not in lacking or p.split != split or p.action == "removed"]
        for movie, absent in lacking.items():
            for modality in absent:
                self.audit.add(movie, "", split, kind_of_missing(modality), "removed", "data.absent=drop", by_policy=True)
        return [movie for movie in movies if movie.id not in lacking]

    def _warn_of_spellings(self, movies: dict[str, list[Movie]]) -> None:
        alike = spelt_alike(genre for split in movies.values() for movie in split for genre in movie.genres)
        if alike:
            self.warnings.append(alike)

    def _settle_genres(self, genres: dict[str, list[tuple[str, ...]]]) -> None:
        self.vocabulary, unseen = order_genres(genres, self.published_genres)
        if unseen:
            sentence = f"{', '.join(unseen)} never occurs in train, so it is removed from the genres of the task"
            if self.strict:
                raise UserError(f"{self.root}: {sentence}; data.strict=true does not accept that")
            self.warnings.append(f"dropped_genre: {sentence}")
        self.labels = self.vocabulary.encode(movie.genres for movie in self.movies)
        by_policy = {problem.id for problem in self.audit.problems if problem.by_policy}
        for n, movie in enumerate(self.movies):
            split = str(self.split_of[n])
            lost = sorted(set(movie.genres) & set(unseen))
            if lost:
                self.audit.add(movie.id, "", split, "dropped_genre", "kept", f"{', '.join(lost)} never occurs in train")
            if not self.labels[n].any():
                why = f"its genres are {', '.join(movie.genres) or 'none'}"
                self.audit.add(movie.id, "", split, "no_genre", "kept", why, by_policy=movie.id in by_policy)

    def _note_shared(self) -> None:
        for modality, kind in (("text", "shared_plot"), ("image", "shared_image")):
            owners = defaultdict(list)
            for n, found in enumerate(self.digests.get(modality, ())):
                if found is not None:
                    owners[found].append(n)
            for first, *others in owners.values():
                for n in others:
                    movie, split = self.movies[n], str(self.split_of[n])
                    with_whom = f"the same as {self.movies[first].id} in {self.split_of[first]}"
                    self.audit.add(movie.id, self.file_of(movie, split, modality), split, kind, "kept", with_whom)
