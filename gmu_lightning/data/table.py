"""The movies of a loaded data set as a table with splits, labels, contents, and the audit of their problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gmu_lightning.data.audit import Audit, many_without, nobody_has
from gmu_lightning.data.readers.layouts import Layout
from gmu_lightning.data.selection import leave_out, scorable
from gmu_lightning.movie import SPLITS, GenreVocabulary, Movie, Unusable, UserError

if TYPE_CHECKING:
    from gmu_lightning.data.dataset import DataSet

UNLABELLED = "unlabelled_test: no movie of test has a label, so test is predicted and not scored"


@dataclass(frozen=True, eq=False)
class MovieTable:
    """The N movies of a data set, in the order of its files. Row n of each array belongs to movie n.

    Tables are immutable; methods return new tables. A movie that is left out keeps its row and belongs to no split. The rows are
    the same for every drawn split, share of train and draw of missing modalities, so that stored columns serve all of them.

    Attributes:
        data_set: the loaded data set.
        layout: the layout of its files.
        movies: the N movies with their raw contents.
        splits: (N,) str, the split of each movie, or "" for a movie that is left out.
        listed: (N,) str, the split of each movie in the data's files; None if `splits` says it.
        vocabulary: the C genres of the task.
        labels: (N, C) bool, in the order of `vocabulary`.
        digests: {modality: SHA-256 of each movie's content}. It is None for an absent or unreadable content.
        fingerprint: {modality: hash of its contents}. The key "movies" has a hash of ids, splits and labels.
        audit: the problems found so far.
        warnings: sentences for the user.
        cells: {column of metadata: its type and the counts of its cells}, see `noting_cells`.
        unusable: rows of movies with an unusable content.
        missing: {modality: (N,) bool}, the contents that `data.missing` takes from the movies. Results are independent of them.
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
    listed: np.ndarray | None = None
    missing: Mapping[str, np.ndarray] = field(default_factory=dict)

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

    def taken(self, modality: str) -> np.ndarray:
        """Return whether each movie loses a modality by `data.missing`, (N,) bool."""
        return self.missing.get(modality, np.zeros(len(self.movies), dtype=bool))

    def learned_from(self, modality: str) -> np.ndarray:
        """Return whether a preparation may learn from each movie's content in a modality, (N,) bool."""
        return self.in_train & ~self.taken(modality)

    @property
    def lost(self) -> dict[str, dict[str, list[str]]]:
        """The content of missing.json: {split: {id: modalities that the movie loses}}, for the splits of `data.missing`."""
        found: dict[str, dict[str, list[str]]] = {split: {} for split in self.data_set.missing.splits}
        for n in np.flatnonzero(np.any([*self.missing.values()], axis=0)) if self.missing else ():
            if split := str(self.splits[n]):
                found[split][self.movies[n].id] = self.lost_by(int(n))
        return found

    def lost_by(self, n: int) -> list[str]:
        """Return the modalities that movie n loses by `data.missing`."""
        return [modality for modality, gone in self.missing.items() if gone[n]]

    def record_file(self, n: int) -> str:
        """Return the file of the record of movie n."""
        return self.layout.record_file(self.movies[n].id, self._listed(n))

    def content_file(self, n: int, modality: str) -> str:
        """Return the file of the content of movie n in a modality."""
        return self.layout.file_of(self.movies[n], self._listed(n), modality)

    def _listed(self, n: int) -> str:
        return str((self.splits if self.listed is None else self.listed)[n])

    def rows(self, split: str) -> np.ndarray:
        """Return the row numbers of a split, (n,) int."""
        return np.flatnonzero(self.splits == split)

    def report(self) -> dict[str, Any]:
        """Return the content of audit.json: that of `Audit.as_dict`, `columns` if the table has `cells`, and `missing`.

        `missing` is there if movies lose modalities by `data.missing`. It has their number by split and modality. They are no
        problems of the data.
        """
        names = self.vocabulary.names
        counts = {
            split: dict(zip(names, self.labels[self.rows(split)].sum(0).tolist(), strict=True)) for split in SPLITS if names
        }
        report = self.audit.as_dict(self.layout.name, {split: len(self.rows(split)) for split in SPLITS}, counts)
        report |= {"columns": dict(self.cells)} if self.cells else {}
        if self.missing:
            of = {split: self.rows(split) for split in self.data_set.missing.splits}
            report["missing"] = {s: {m: int(gone[rows].sum()) for m, gone in self.missing.items()} for s, rows in of.items()}
        return report

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
            out = np.flatnonzero(~scorable(labels, splits) & (splits != ""))
            files = {self.movies[n].id: self.record_file(n) for n in out.tolist()}
            audit = leave_out([(self.movies[n], str(splits[n])) for n in out], audit, lambda id, _: files[id])
            splits = np.where(np.isin(np.arange(len(splits)), out), "", splits)
        return replace(self, vocabulary=vocabulary, labels=labels, splits=splits, audit=audit)

    def noting(self, modality: str, bad: Sequence[Unusable]) -> MovieTable:
        """Return the table with contents that cannot be used in its audit, and their rows in `unusable`.

        All movies stay in the table. Under `absent=drop` the audit calls these movies removed, and `stored` leaves them out.
        Contents that `data.missing` takes are ignored, and so are those of movies without a split.
        """
        read = [one for one in bad if self.splits[one.row] and not self.taken(modality)[one.row]]
        action = "removed" if self.data_set.absent == "drop" else "kept_absent"
        audit = self.audit.copy()
        for row, kind, detail in read:
            movie, split = self.movies[row], str(self.splits[row])
            audit.add(movie.id, self.content_file(row, modality), split, kind, action, detail, modality=modality)
        return replace(self, audit=audit, unusable=self.unusable | {row for row, _, _ in read})

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
                if split:
                    audit.add(movie.id, self.content_file(row, modality), split, "bad_cell", "kept", f"column {name}: {why}")
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
            present: {modality: (N,) bool}, whether a movie has it, `data.missing` aside.

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
