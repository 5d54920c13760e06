"""The rules of data sets: the same fingerprint at each reading and place, and every movie of the split file."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from gmu_lightning.data.dataset import DataSet
from gmu_lightning.data.store import Store
from gmu_lightning.data.table import MovieTable
from gmu_lightning.movie import SPLITS, file_of


def check_data(
    data: DataSet, modalities: Sequence[str], store: Store, offered: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Check that a data set follows the framework's rules.

    It is loaded twice, and once more from a copy of its root, if any, in a temporary folder. Errors of `load` are passed on.

    Args:
        data: the data set with all its movies (without `limit`); it is not changed.
        modalities: the modalities to load.
        store: receives the files that the data set unpacks or generates.
        offered: {split: ids} of the data set's own split file; None skips the comparison with it.

    Raises:
        AssertionError: a rule is broken.
    """
    unknown = [m for m in modalities if m not in data.modalities]
    assert not unknown, f"{type(data).__name__} has no {', '.join(unknown)}: add it to its `modalities`, or check fewer"
    table = data.load(modalities, store)
    _check_movies(table)
    if offered is not None:
        _check_offered(table, offered)
    again = data.load(modalities, store).fingerprint
    assert again == table.fingerprint, (
        "the fingerprint differs from one reading to the next: read movies in a fixed order, without random numbers"
    )
    assert set(again) == {"movies", *modalities}, (
        f"the fingerprint has {', '.join(again)}, expected movies and each modality: leave `load` to DataSet"
    )
    if data.root is not None:
        assert _read_elsewhere(data, modalities, table) == again, (
            "the fingerprint of the same files in another folder differs: leave the folder's name out of ids and contents"
        )


def _read_elsewhere(data: DataSet, modalities: Sequence[str], table: MovieTable) -> Mapping[str, str]:
    with TemporaryDirectory() as folder:
        root = Path(str(data.root)).expanduser()
        there = Path(folder) / "elsewhere" / root.name
        there.parent.mkdir()
        if root.is_dir():
            shutil.copytree(root, there)
        else:
            _copy_with_files(root, there, table)
        moved = copy.copy(data)
        moved.root = str(there)
        return moved.load(modalities, Store(Path(folder) / "store")).fingerprint


def _copy_with_files(root: Path, there: Path, table: MovieTable) -> None:
    """Copy a file of records, and the files beside it that the records name."""
    shutil.copy(root, there)
    files = {file for movie in table.movies for content in movie.content.values() if (file := file_of(content)) is not None}
    for file in files:
        if file.is_relative_to(root.parent):
            copied = there.parent / file.relative_to(root.parent)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copied)


def _check_movies(table: MovieTable) -> None:
    own = type(table.data_set).__name__
    for movie in table.movies:
        empty = [m for m, content in movie.content.items() if content is None]
        assert not empty, f"movie {movie.id} has an empty {', '.join(empty)}: an absent modality must have no key"
        other = [m for m in movie.content if m not in table.data_set.modalities]
        assert not other, f"movie {movie.id} has {', '.join(other)}, which {own} does not declare: name it in `modalities`"
    names = table.vocabulary.names
    assert len(set(names)) == len(names), "a genre stands twice in the vocabulary: name it once in `published_genres`"
    expected = [[genre in movie.genres for genre in names] for movie in table.movies]
    assert np.array_equal(table.labels, expected), (
        "labels are not the movies' genres in the order of the vocabulary: leave labels to DataSet"
    )
    assert table.labels[table.in_train].any(axis=0).all(), (
        "a genre of the vocabulary has no movie in train: leave the vocabulary to DataSet"
    )


def _check_offered(table: MovieTable, offered: Mapping[str, Sequence[str]]) -> None:
    for split in SPLITS:
        kept = table.ids[split]
        removed = [problem.id for problem in table.audit.problems if problem.split == split and problem.action == "removed"]
        lost = set(offered[split]) - set(kept) - set(removed)
        assert not lost, (
            f"of {split}, {', '.join(sorted(lost)[:3])} is neither kept nor in the audit as removed: yield it, or "
            "name it in the audit"
        )
        added = (set(kept) | set(removed)) - set(offered[split])
        assert not added, f"{', '.join(sorted(added)[:3])} is not in the split file's {split}: yield each movie in its split"
        position = {movie: n for n, movie in reversed(list(enumerate(offered[split])))}
        assert kept == sorted(kept, key=position.__getitem__), (
            f"the movies of {split} are not in the split file's order: yield them as the file lists them"
        )
