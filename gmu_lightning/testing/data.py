"""What every data set keeps to."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from gmu_lightning.data.module import MovieData
from gmu_lightning.data.store import Store
from gmu_lightning.movie import SPLITS


def check_data(
    data: MovieData, modalities: Sequence[str], store: Store, offered: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Raise AssertionError where a data set breaks what the framework relies on.

    Args:
        data: not loaded yet, of all its movies (no `limit`); it stays as it is.
        modalities: to be loaded, of those it has.
        store: where what it unpacks or generates is kept.
        offered: {split: ids}, as the data set's own split file lists them.
    """
    unknown = [m for m in modalities if m not in data.modalities]
    assert not unknown, f"{type(data).__name__} has no {', '.join(unknown)}"
    loaded = _loaded(data, modalities, store)
    _check_movies(loaded)
    _check_labels(loaded)
    if offered is not None:
        _check_offered(loaded, offered)
    again = _loaded(data, modalities, store).fingerprint
    assert again == loaded.fingerprint, "the fingerprint differs from one reading to the next"
    assert set(again) == {"movies", *modalities}, f"the fingerprint has {', '.join(again)}, expected movies and each modality"
    if data.root is not None:
        elsewhere = _read_elsewhere(data, modalities)
        assert elsewhere == again, "the fingerprint of the same files in another folder differs"


def _loaded(data: MovieData, modalities: Sequence[str], store: Store) -> MovieData:
    fresh = copy.deepcopy(data)
    fresh.load(modalities, store)
    return fresh


def _read_elsewhere(data: MovieData, modalities: Sequence[str]) -> dict[str, str]:
    with TemporaryDirectory() as folder:
        root = Path(str(data.root)).expanduser()
        there = Path(folder) / "elsewhere" / root.name
        there.parent.mkdir()
        if root.is_dir():
            shutil.copytree(root, there)
        else:
            shutil.copy(root, there)
        moved = copy.deepcopy(data)
        moved.root = str(there)
        return _loaded(moved, modalities, Store(Path(folder) / "store")).fingerprint


def _check_movies(data: MovieData) -> None:
    order = [SPLITS.index(split) for split in data.split_of]
    assert order == sorted(order), f"movies do not stand in the order {', '.join(SPLITS)}"
    for movie in data.movies:
        empty = [m for m, content in movie.content.items() if content is None]
        assert not empty, f"movie {movie.id} has an empty {', '.join(empty)}: what is absent has no key"
        other = [m for m in movie.content if m not in data.modalities]
        assert not other, f"movie {movie.id} has {', '.join(other)}, which {type(data).__name__} does not declare"


def _check_labels(data: MovieData) -> None:
    names = data.vocabulary.names
    assert len(set(names)) == len(names), "a genre stands twice in the vocabulary"
    expected = [[genre in movie.genres for genre in names] for movie in data.movies]
    assert np.array_equal(data.labels, expected), "labels are not the movies' genres in the order of the vocabulary"
    assert data.labels[data.in_train].any(axis=0).all(), "a genre of the vocabulary has no movie in train"


def _check_offered(data: MovieData, offered: Mapping[str, Sequence[str]]) -> None:
    for split in SPLITS:
        kept = data.ids[split]
        removed = [problem.id for problem in data.audit.problems if problem.split == split and problem.action == "removed"]
        lost = set(offered[split]) - set(kept) - set(removed)
        assert not lost, f"of {split}, {', '.join(sorted(lost)[:3])} is neither kept nor in the audit as removed"
        added = (set(kept) | set(removed)) - set(offered[split])
        assert not added, f"{', '.join(sorted(added)[:3])} is not in the split file's {split}"
        position = {movie: n for n, movie in reversed(list(enumerate(offered[split])))}
        assert kept == sorted(kept, key=position.__getitem__), f"the movies of {split} are not in the split file's order"
