"""Load a data set as a table of movies: read its files, choose the movies and genres, and hash the contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from gmu_lightning.config.ranges import Seed, Share
from gmu_lightning.data.audit import (
    Audit,
    many_removed,
    no_genre,
    nothing_left,
    without_genre,
)
from gmu_lightning.data.draws import Missing, redrawn, share_of_train
from gmu_lightning.data.readers.layouts import Layout, reading
from gmu_lightning.data.readers.media import unreadable
from gmu_lightning.data.readers.strings import read_soundly, spelt_alike
from gmu_lightning.data.selection import Splits, check_single_labels, complete, limited, order_genres
from gmu_lightning.data.store import Store
from gmu_lightning.data.table import MovieTable
from gmu_lightning.decisions import Task
from gmu_lightning.files import digest
from gmu_lightning.movie import SPLITS, Unusable, UserError

Rates = Annotated[Mapping[str, Any], "rates by modality, such as data.missing.image=0.7"]
Drawn = dict[tuple[str, str], str]  # {(split in the files, id): drawn split}


class DataSet:
    """A data set before it is read. A subclass declares its modalities and published genres, and opens its files.

    Args:
        root: file or folder with the raw data.
        limit: largest number of movies per split, such as `100` or, for train, val and test, `400/100/100`; None for all.
        seed: of the movies that `limit` and `train_share` draw. It is independent of the run's seed.
        strict: whether any problem of the data is an error.
        absent: `keep` or `drop` movies that lack a chosen modality.
        task: `multilabel`, or `multiclass` if every movie has exactly one genre. Movies without one are then left out.
        split: `published`, or `random`: movies are drawn anew into splits of the published sizes, stratified by genres.
        split_seed: of a random split; None for `seed`.
        train_share: share of the movies of train that are kept. Val, test and the genres of the task stay those of all of train.
        missing: {modality: share of its movies that lose it}, `splits` and `seed`, as in `Missing`.
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
        split: Literal["published", "random"] = "published",
        split_seed: Seed | None = None,
        train_share: Share = 1.0,
        missing: Rates | None = None,
    ):
        self.root, self.limit, self.seed, self.strict, self.absent, self.task = root, limit, seed, strict, absent, task
        self.split: str = split
        self.split_seed = seed if split_seed is None else split_seed
        self.train_share, self.missing = train_share, Missing.of(missing)

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
            UserError: the data cannot be read, a split has no movie, train or val has no genre, a split lacks a modality, a movie
                of a `multiclass` data set has several genres, or `train_share` is too small. The error holds the audit.
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
        for split, kept in found.items():
            removed = audit.removed(split)
            warnings.append(many_removed(split, len(kept) + len(removed), removed))
        with table.audited():
            by_split = limited(self.limit, found, self.seed, audit)
            warnings.append(spelt_alike(genre for split in by_split.values() for movie in split for genre in movie.genres))
            by_split = self.apply_policy(by_split, audit)
            drawn = self._drawn(by_split)
        if self.absent == "drop":
            by_split = {split: complete(movies, modalities, split, audit) for split, movies in by_split.items()}
        listed = [(split, movie) for split in SPLITS for movie in by_split[split]]
        if (place := layout.order) is not None:  # so that stored columns serve every split
            listed.sort(key=lambda one: place[one[1].id])
        movies, files = tuple(movie for _, movie in listed), np.array([split for split, _ in listed])
        splits = np.array([drawn.get((split, movie.id), split) for split, movie in listed])
        named = Audit([p if p.file else replace(p, file=layout.record_file(p.id, p.split)) for p in audit.problems])
        if drawn:
            named = _in_drawn_splits(named, drawn)
        table = MovieTable(self, layout, movies, splits, audit=named, listed=files).warned(*warnings)
        with table.audited():
            for split in SPLITS:
                if not len(table.rows(split)):
                    raise UserError(nothing_left(self.root, split, table.audit.removed(split)))
            if not any(movies[n].genres for n in table.rows("train")):
                raise UserError(no_genre(self.root, table.audit.problems))
            if self.task == "multiclass":
                check_single_labels(by_split, self.root, layout.record_file)
            table = _with_share(_with_genres(table))
        with table.audited():
            table = _with_digests(table, modalities, store)
        if fitted:
            return table
        for modality in modalities:
            present = np.array([modality in movie.content for movie in table.movies])
            table.require(modality, present & ~table.taken(modality))
        return table.checked_labels()

    def _drawn(self, movies: Splits) -> Drawn:
        """Return the split of each movie if splits are drawn, which has the same movies for all modalities; {} otherwise.

        Raises UserError if a split has no labels to stratify by.
        """
        if self.split != "random":
            return {}
        for split, listed in movies.items():
            if listed and not any(movie.genres for movie in listed):
                raise UserError(
                    f"data.split=random draws train, val and test from all movies, and no movie of {split} in {self.root} has a "
                    "genre: add its labels, or set data.split=published"
                )
        keys = [(split, movie.id) for split in SPLITS for movie in movies[split]]
        genres = [movie.genres for split in SPLITS for movie in movies[split]]
        splits = redrawn(genres, np.array([split for split, _ in keys]), self.split_seed)
        return dict(zip(keys, splits.tolist(), strict=True))


def _in_drawn_splits(audit: Audit, drawn: Drawn) -> Audit:
    """Return the audit with the drawn splits of the movies that are kept. Removed movies keep the split of their file."""
    kept = [p if p.action == "removed" else replace(p, split=drawn.get((p.split, p.id), p.split)) for p in audit.problems]
    return Audit(kept)


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
        file = table.record_file(int(n))
        lost = sorted(set(movie.genres) & set(unseen))
        if lost:
            audit.add(movie.id, file, split, "dropped_genre", "kept", f"{', '.join(lost)} never occurs in train")
        if not table.labels[n].any() and movie.id not in noted:
            audit.add(movie.id, file, split, "no_genre", "kept", without_genre(movie), by_policy=movie.id in by_policy)
    movies = tuple(table.movies[n] for n in kept)
    out = {split: [p for p in audit.removed(split) if p.kind == "no_genre"] for split in SPLITS}
    warnings = [many_removed(split, len(by_split[split]), out[split]) for split in SPLITS]
    table = replace(table, listed=None if table.listed is None else table.listed[kept])
    return replace(table, movies=movies, splits=table.splits[kept], labels=table.labels[kept], audit=audit).warned(*warnings)


def _with_share(table: MovieTable) -> MovieTable:
    """Return the table with a share of train. The audit omits the other movies of train, unless they were removed."""
    data_set, rows = table.data_set, table.rows("train")
    if data_set.train_share == 1:
        return table
    kept = share_of_train(table.labels[rows], data_set.train_share, data_set.seed)
    out = {table.movies[n].id for n in rows[~kept]}
    splits = table.splits.copy()
    splits[rows[~kept]] = ""
    problems = [p for p in table.audit.problems if p.action == "removed" or p.split != "train" or p.id not in out]
    return replace(table, splits=splits, audit=Audit(problems))


def _with_digests(table: MovieTable, modalities: Sequence[str], store: Store) -> MovieTable:
    """Return the table with the hash of each content, the contents that `data.missing` takes, and the fingerprint.

    Unreadable files become absent. In the fingerprint, contents that are taken count as absent.
    """
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
    table = _with_missing(replace(table, digests=digests))
    taken = {m: table.taken(m).tolist() for m in modalities}
    left = {m: [None if gone else one for one, gone in zip(digests[m], taken[m], strict=True)] for m in modalities}
    rows = list(range(len(table.movies)))
    if table.layout.order is not None:  # the order of older runs' fingerprints
        rows = np.concatenate([table.rows(split) for split in (*SPLITS, "")]).tolist()
    labelled = [[table.movies[n].id, str(table.splits[n]), sorted(known & set(table.movies[n].genres))] for n in rows]
    fingerprint = {"movies": digest(labelled), **{m: digest([left[m][n] for n in rows]) for m in modalities}}
    return replace(table, fingerprint=fingerprint, audit=_with_shared(table, left))


def _with_missing(table: MovieTable) -> MovieTable:
    """Return the table with the contents that `data.missing` takes. A warning names rates that the data cannot meet."""
    draw = table.data_set.missing
    if not draw:
        return table
    has = {m: np.array([one is not None for one in found]) for m, found in table.digests.items()}
    lost = draw.lost(has, table.splits)
    return replace(table, missing=lost).warned(*draw.shortfalls(lost, has, table.splits))


def _with_shared(table: MovieTable, digests: Mapping[str, Sequence[str | None]]) -> Audit:
    """Return the audit, with each movie that shares its plot or poster with an earlier one."""
    audit = table.audit.copy()
    for modality, kind in (("text", "shared_plot"), ("image", "shared_image")):
        owners: dict[str, list[int]] = {}
        for n, sha in enumerate(digests.get(modality, ())):
            if sha is not None and table.splits[n]:
                owners.setdefault(sha, []).append(n)
        for first, *others in owners.values():
            with_whom = f"the same as {table.movies[first].id} in {table.splits[first]}"
            for n in others:
                movie, split = table.movies[n], str(table.splits[n])
                audit.add(movie.id, table.content_file(n, modality), split, kind, "kept", with_whom)
    return audit
