"""Load a data set as a table of movies with splits, labels and contents, and with an audit of its problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from gmu_lightning.data.audit import (
    Audit,
    many_removed,
    many_without,
    no_genre,
    nobody_has,
    nothing_left,
    without_genre,
)
from gmu_lightning.data.readers.layouts import Layout, reading
from gmu_lightning.data.readers.media import unreadable
from gmu_lightning.data.readers.strings import read_soundly, spelt_alike
from gmu_lightning.data.selection import Splits, check_single_labels, complete, leave_out, limited, order_genres, scorable
from gmu_lightning.data.store import Store
from gmu_lightning.decisions import Task
from gmu_lightning.files import digest
from gmu_lightning.movie import SPLITS, GenreVocabulary, Movie, Unusable, UserError

UNLABELLED = "unlabelled_test: no movie of test has a label, so test is predicted and not scored"


class DataSet:
    """A data set before it is read. A subclass declares its modalities and published genres, and opens its files.

    Args:
        root: file or folder with the raw data.
        limit: largest number of movies per split, such as `100` or, for train, val and test, `400/100/100`; None for all.
        seed: of the movies that `limit` draws. It is independent of the run's seed.
        strict: whether any problem of the data is an error.
        absent: `keep` or `drop` movies that lack a chosen modality.
        task: `multilabel`, or `multiclass` if every movie has exactly one genre. Movies without one are then left out.
    """

    modalities: ClassVar[tuple[str, ...]]
    published_genres: ClassVar[tuple[str, ...] | None] = None

    def __init__(
        self,
        root: str | None,
        limit: int | str | None = None,
        seed: int = 0,
        strict: bool = False,
        absent: Literal["keep", "drop"] = "keep",
        task: Task = "multilabel",
    ):
        self.root, self.limit, self.seed, self.strict, self.absent, self.task = root, limit, seed, strict, absent, task

    @classmethod
    def offers(cls, node: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the modalities of the data set that a configuration node describes."""
        return cls.modalities

    def pending(self, store: Store) -> str | None:
        """Describe the work of `open` before it can read, such as unpacking; None if there is none."""
        return None

    def open(self, modalities: Sequence[str], store: Store) -> Layout:
        """Return the layout of the raw files, after unpacking or generating them if necessary.

        Args:
            modalities: whose files are needed.
            store: receives unpacked or generated files.

        Raises:
            UserError: files are missing or damaged.
        """
        raise NotImplementedError

    def apply_policy(self, movies: Splits, audit: Audit) -> Splits:
        """Return the movies that the data set's label policy keeps; all of them by default."""
        return movies

    def load(self, modalities: Sequence[str], store: Store, fitted: bool = False) -> MovieTable:
        """Return the table of the movies that `limit`, the label policy and `absent` keep.

        Contents are hashed and not decoded; `MovieTable.noting` adds the contents that turn out to be unusable. Of the problems
        that `strict` forbids, only a genre that train lacks is an error here (see `raise_if_strict`).

        Args:
            modalities: the chosen modalities.
            store: keeps unpacked files and the hashes of files.
            fitted: whether the table is for a trained model. A split may then lack a modality, and val its labels.

        Raises:
            UserError: the data cannot be read, a split has no movie, train or val has no genre, a split lacks a modality, or a
                movie of a `multiclass` data set has several genres. The error holds the audit.
        """
        layout, audit = self.open(modalities, store), Audit()
        for needed in ("name", "root"):
            if not hasattr(layout, needed):
                raise UserError(
                    f"{type(layout).__name__} has no {needed}: set self.{needed} in its __init__, as Layout describes"
                )
        table = MovieTable(self, layout, audit=audit)
        with table.audited(), reading(layout.root):
            found = read_soundly(layout.read, layout.record_file, audit)
        warnings: list[str | None] = [*layout.warnings]
        for split, listed in found.items():
            removed = audit.removed(split)
            warnings.append(many_removed(split, len(listed) + len(removed), removed))
        with table.audited():
            by_split = limited(self.limit, found, self.seed, audit)
            warnings.append(spelt_alike(genre for split in by_split.values() for movie in split for genre in movie.genres))
            by_split = self.apply_policy(by_split, audit)
        if self.absent == "drop":
            by_split = {split: complete(movies, modalities, split, audit) for split, movies in by_split.items()}
        movies = tuple(movie for split in SPLITS for movie in by_split[split])
        splits = np.array([split for split in SPLITS for _ in by_split[split]])
        named = Audit([p if p.file else replace(p, file=layout.record_file(p.id, p.split)) for p in audit.problems])
        table = MovieTable(self, layout, movies, splits, audit=named).warned(*warnings)
        with table.audited():
            for split in SPLITS:
                if not by_split[split]:
                    raise UserError(nothing_left(self.root, split, table.audit.removed(split)))
            if not any(movie.genres for movie in by_split["train"]):
                raise UserError(no_genre(self.root, table.audit.problems))
            if self.task == "multiclass":
                check_single_labels(by_split, self.root, layout.record_file)
            table = _with_genres(table)
        with table.audited():
            table = _with_digests(table, modalities, store)
        if fitted:
            return table
        for modality in modalities:
            table.require(modality, np.array([modality in movie.content for movie in table.movies]))
        return table.checked_labels()


@dataclass(frozen=True, eq=False)
class MovieTable:
    """The N movies of a data set, in the order train, val, test. Row n of each array belongs to movie n.

    Tables are immutable; methods return new tables. A movie that is left out keeps its row and belongs to no split.

    Attributes:
        data_set: the loaded data set.
        layout: the layout of its files.
        movies: the N movies with their raw contents.
        splits: (N,) str, the split of each movie, or "" for a movie that is left out.
        vocabulary: the C genres of the task.
        labels: (N, C) bool, in the order of `vocabulary`.
        digests: {modality: SHA-256 of each movie's content}. It is None for an absent or unreadable content.
        fingerprint: {modality: hash of its contents}. The key "movies" has a hash of ids, splits and labels.
        audit: the problems found so far.
        warnings: sentences for the user.
        cells: {column of metadata: its type and the counts of its cells}, see `noting_cells`.
        unusable: rows of movies with an unusable content.
    """

    data_set: DataSet
    layout: Layout
    movies: tuple[Movie, ...] = ()
    splits: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype="<U5"))
    vocabulary: GenreVocabulary = field(default_factory=lambda: GenreVocabulary(()))
    labels: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))
    digests: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    fingerprint: dict[str, str] = field(default_factory=dict)
    audit: Audit = field(default_factory=Audit)
    warnings: tuple[str, ...] = ()
    cells: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unusable: frozenset[int] = frozenset()

    def contents(self, modality: str) -> list[Any]:
        """Return the raw content of each movie in a modality, None where absent."""
        return [movie.content.get(modality) for movie in self.movies]

    @property
    def in_train(self) -> np.ndarray:
        """(N,) bool, whether a movie is in train."""
        return self.splits == "train"

    @property
    def ids(self) -> dict[str, list[str]]:
        """{split: ids of its movies}."""
        return {split: [self.movies[n].id for n in self.rows(split)] for split in SPLITS}

    def rows(self, split: str) -> np.ndarray:
        """Return the row numbers of a split, (n,) int."""
        return np.flatnonzero(self.splits == split)

    def report(self) -> dict[str, Any]:
        """Return the content of audit.json: that of `Audit.as_dict`, and `columns` if the table has `cells`."""
        names = self.vocabulary.names
        counts = {
            split: dict(zip(names, self.labels[self.rows(split)].sum(0).tolist(), strict=True)) for split in SPLITS if names
        }
        report = self.audit.as_dict(self.layout.name, {split: len(self.rows(split)) for split in SPLITS}, counts)
        return {**report, "columns": dict(self.cells)} if self.cells else report

    @contextmanager
    def audited(self) -> Iterator[None]:
        """Add the audit to each UserError that leaves the block without one."""
        try:
            yield
        except UserError as error:
            if error.audit is None and (self.audit.problems or self.movies):
                error.audit = self.report()
            raise

    def require(self, modality: str, present: np.ndarray) -> None:
        """Raise UserError, with the audit, if a split has no movie with a modality.

        Args:
            modality: its name.
            present: (N,) bool, whether a movie has it.
        """
        for split in SPLITS:
            if not present[self.rows(split)].any():
                with self.audited():
                    raise UserError(nobody_has(self.data_set.root, modality, split, self.audit.problems))

    def raise_if_strict(self) -> None:
        """Raise UserError if the data set is `strict` and the audit holds a problem that is not `by_policy`."""
        if self.data_set.strict:
            self.audit.raise_if_strict()

    def checked_labels(self) -> MovieTable:
        """Return the table, with a warning if test has no label. Raises UserError if val has no label."""
        if not self.labels[self.rows("val")].any():
            raise UserError(
                f"{self.data_set.root or 'the data'}: no movie of val has a genre that train has, so no epoch can be chosen: "
                "add its labels to the split file, or check data.limit"
            )
        if self.labels[self.rows("test")].any() or UNLABELLED in self.warnings:
            return self
        return self.warned(UNLABELLED)

    def warned(self, *sentences: str | None) -> MovieTable:
        """Return the table with additional warnings; None is ignored."""
        return replace(self, warnings=(*self.warnings, *(sentence for sentence in sentences if sentence is not None)))

    def labelled(self, genres: Sequence[str]) -> MovieTable:
        """Return the table with the labels of another vocabulary, such as a trained model's, and the same fingerprint.

        Of a `multiclass` data set, movies that are not `scorable` belong to no split, and the audit names them as removed.
        """
        vocabulary = GenreVocabulary(tuple(genres))
        labels = vocabulary.encode(movie.genres for movie in self.movies)
        splits, audit = self.splits, self.audit
        if self.data_set.task == "multiclass":
            out = np.flatnonzero(~scorable(labels, splits))
            audit = leave_out([(self.movies[n], str(splits[n])) for n in out], audit, self.layout.record_file)
            splits = np.where(np.isin(np.arange(len(splits)), out), "", splits)
        return replace(self, vocabulary=vocabulary, labels=labels, splits=splits, audit=audit)

    def noting(self, modality: str, bad: Sequence[Unusable]) -> MovieTable:
        """Return the table with contents that cannot be used in its audit, and their rows in `unusable`.

        All movies stay in the table. Under `absent=drop` the audit calls these movies removed, and `stored` leaves them out.
        """
        action = "removed" if self.data_set.absent == "drop" else "kept_absent"
        audit = self.audit.copy()
        for row, kind, detail in bad:
            movie, split = self.movies[row], str(self.splits[row])
            audit.add(movie.id, self.layout.file_of(movie, split, modality), split, kind, action, detail, modality=modality)
        return replace(self, audit=audit, unusable=self.unusable | {row for row, _, _ in bad})

    def noting_cells(self, modality: str, columns: Mapping[str, Mapping[str, Any]]) -> MovieTable:
        """Return the table with the cells of metadata in its audit: how columns are read, and cells that do not fit.

        `cells` gets {column: {"read_as", "why", "words", and for each split {"filled", "missing", "unfit"}: counts}}. A column
        that loses more than a tenth of a split's cells adds a warning.

        Args:
            modality: of the table of metadata.
            columns: {column: {"read_as", "why", "words", "filled": [row, ...], "unfit": {row: why}}}.
        """
        audit, cells, warnings = self.audit.copy(), dict(self.cells), []
        for name, column in columns.items():
            filled, unfit = (
                {split: int(np.sum(self.splits[list(rows)] == split)) for split in SPLITS}
                for rows in (column["filled"], column["unfit"])
            )
            counts = {s: {"filled": filled[s], "missing": len(self.rows(s)) - filled[s], "unfit": unfit[s]} for s in SPLITS}
            cells[name] = {**{key: column[key] for key in ("read_as", "why", "words")}, **counts}
            for row, why in column["unfit"].items():
                movie, split = self.movies[row], str(self.splits[row])
                file = self.layout.file_of(movie, split, modality)
                audit.add(movie.id, file, split, "bad_cell", "kept", f"column {name}: {why}")
            lost = [f"{unfit[s]} of {filled[s]} in {s}" for s in SPLITS if 10 * unfit[s] > filled[s]]
            if lost:
                warnings.append(
                    f"bad_cell: column {name} of {modality} is read as {column['read_as']}, by the majority of the train split "
                    f"it was learned from; cells that do not fit are missing ({', '.join(lost)}), and audit.json names them."
                )
        return replace(self, audit=audit, cells=cells).warned(*warnings)

    def without(self, rows: Sequence[int]) -> MovieTable:
        """Return a smaller table, in which the movies of these rows belong to no split.

        Raises:
            UserError: a split would have no movie, or a genre no movie in train.
        """
        splits = self.splits.copy()
        splits[list(rows)] = ""
        smaller = replace(self, splits=splits)
        has_movies = self.labels[smaller.in_train].any(axis=0)
        lost = [name for name, found in zip(self.vocabulary.names, has_movies, strict=True) if not found]
        empty = [split for split in SPLITS if not len(smaller.rows(split))]
        with smaller.audited():
            if lost or empty:
                raise UserError(
                    f"data.absent=drop leaves no movie of {', '.join(lost or empty)}{' in train' if lost else ''}: "
                    "mend the files that audit.json names, or set data.absent=keep"
                )
        return smaller

    def stored(self, present: Mapping[str, np.ndarray]) -> MovieTable:
        """Return the table after all contents are stored.

        Under `absent=drop`, movies with an unusable content are left out. A split in which more than a tenth of the movies lack a
        modality adds a warning.

        Args:
            present: {modality: (N,) bool}, whether a movie has it.

        Raises:
            UserError: a split would have no movie, or a genre no movie in train.
        """
        table = self.without(sorted(self.unusable)) if self.unusable and self.data_set.absent == "drop" else self
        warnings = []
        for modality, known in present.items():
            for split in SPLITS:
                rows = table.rows(split)
                lacking = len(rows) - int(known[rows].sum())
                warnings.append(many_without(modality, split, len(rows), lacking, table.audit.problems))
        return table.warned(*warnings)


def _with_genres(table: MovieTable) -> MovieTable:
    """Return the table with vocabulary and labels, without movies that are left out for want of a label.

    Its audit names movies that lost a genre, an error if strict.
    """
    by_split = {split: [table.movies[n].genres for n in table.rows(split)] for split in SPLITS}
    vocabulary, unseen = order_genres(by_split, table.data_set.published_genres)
    if unseen:
        sentence = f"{', '.join(unseen)} never occurs in train, so it is removed from the genres of the task"
        if table.data_set.strict:
            raise UserError(f"{table.data_set.root}: {sentence}; data.strict=true does not accept that")
        table = table.warned(f"dropped_genre: {sentence}")
    table = table.labelled(vocabulary.names)
    audit = table.audit.copy()
    by_policy = {problem.id for problem in audit.problems if problem.by_policy}
    noted = {problem.id for problem in audit.problems if problem.kind == "no_genre"}
    kept = np.flatnonzero(table.splits != "")
    for n in kept:
        movie, split = table.movies[n], str(table.splits[n])
        file = table.layout.record_file(movie.id, split)
        lost = sorted(set(movie.genres) & set(unseen))
        if lost:
            audit.add(movie.id, file, split, "dropped_genre", "kept", f"{', '.join(lost)} never occurs in train")
        if not table.labels[n].any() and movie.id not in noted:
            audit.add(movie.id, file, split, "no_genre", "kept", without_genre(movie), by_policy=movie.id in by_policy)
    movies = tuple(table.movies[n] for n in kept)
    out = {split: [p for p in audit.removed(split) if p.kind == "no_genre"] for split in SPLITS}
    warnings = [many_removed(split, len(by_split[split]), out[split]) for split in SPLITS]
    return replace(table, movies=movies, splits=table.splits[kept], labels=table.labels[kept], audit=audit).warned(*warnings)


def _with_digests(table: MovieTable, modalities: Sequence[str], store: Store) -> MovieTable:
    """Return the table with the hash of each content and the fingerprint. Unreadable files become absent."""
    digests: dict[str, list[str | None]] = {}
    root = str(Path(table.data_set.root or ".").absolute())
    for modality in modalities:
        found = store.digests(table.contents(modality), root)
        refused = {n: unreadable(modality, one) for n, one in enumerate(found) if isinstance(one, OSError)}
        digests[modality] = [None if isinstance(one, OSError) else one for one in found]
        table = table.noting(modality, [Unusable(n, problem.kind, problem.detail) for n, problem in refused.items()])
        movies = list(table.movies)
        for n in refused:
            movies[n] = replace(movies[n], content={m: c for m, c in movies[n].content.items() if m != modality})
        table = replace(table, movies=tuple(movies))
    known = set(table.vocabulary.names)
    labelled = [[m.id, split, sorted(known & set(m.genres))] for m, split in zip(table.movies, table.splits, strict=True)]
    fingerprint = {"movies": digest(labelled), **{m: digest(digests[m]) for m in modalities}}
    return replace(table, digests=digests, fingerprint=fingerprint, audit=_with_shared(table, digests))


def _with_shared(table: MovieTable, digests: Mapping[str, Sequence[str | None]]) -> Audit:
    """Return the audit, with each movie that shares its plot or poster with an earlier one."""
    audit = table.audit.copy()
    for modality, kind in (("text", "shared_plot"), ("image", "shared_image")):
        owners: dict[str, list[int]] = {}
        for n, sha in enumerate(digests.get(modality, ())):
            if sha is not None:
                owners.setdefault(sha, []).append(n)
        for first, *others in owners.values():
            with_whom = f"the same as {table.movies[first].id} in {table.splits[first]}"
            for n in others:
                movie, split = table.movies[n], str(table.splits[n])
                audit.add(movie.id, table.layout.file_of(movie, split, modality), split, kind, "kept", with_whom)
    return audit
