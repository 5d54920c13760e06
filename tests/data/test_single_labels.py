"""data.task=multiclass: each movie has exactly one label, and movies without one are left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.dataset import DataSet
from gmu_lightning.data.readers.layouts import Layout
from gmu_lightning.data.store import Store
from gmu_lightning.data.table import MovieTable
from gmu_lightning.movie import Movie, UserError

LABELS = {"train": ["Drama", "War", "Drama", ""], "val": ["War", "Drama", ""], "test": ["Drama", "Western", "War"]}


class Films(DataSet):
    """Movies with a plot, and the labels `genres`, joined by blanks."""

    modalities = ("text",)

    def __init__(self, genres: Mapping[str, Sequence[str]], **options: object):
        super().__init__("films", **options)
        self.genres = genres

    def open(self, modalities: Sequence[str], store: Store) -> Layout:
        return Listed(self.genres)


class Listed(Layout):
    name, root = "listed", Path("films")

    def __init__(self, genres: Mapping[str, Sequence[str]]):
        self.genres = genres

    def record_file(self, id: str, split: str) -> str:
        return f"films.csv:{id}"

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        for n, genres in enumerate(self.genres[split]):
            if n == 3:
                audit.add(f"{split}{n}", "films.csv", split, "no_genre", "kept", "it has kind and no genres")
                audit.add(f"{split}{n}", "films.csv", split, "missing_image", "kept_absent", "no such file")
            yield Movie(f"{split}{n}", {"text": f"Plot {n} of {split}."}, tuple(genres.split()))


def loaded(folder: Path, task: str = "multiclass", **options: object) -> MovieTable:
    genres = {split: options.pop(split, of) for split, of in LABELS.items()}
    return Films(genres, task=task, **options).load(("text",), Store(folder / "store"))


def test_movies_without_a_label_are_removed_and_named(tmp_path):
    table = loaded(tmp_path)
    assert table.ids == {"train": ["train0", "train1", "train2"], "val": ["val0", "val1"], "test": ["test0", "test2"]}
    assert len(table.movies) == len(table.labels) == len(table.splits) == len(table.digests["text"]) == 7
    assert table.vocabulary.names == ("Drama", "War") and (table.labels.sum(axis=1) == 1).all()
    assert [(p.id, p.kind, p.action, p.detail) for p in table.audit.problems] == [
        ("train3", "no_genre", "removed", "it has kind and no genres"),
        ("val2", "no_genre", "removed", "its genres are none"),
        ("test1", "no_genre", "removed", "its genres are Western"),
    ]
    assert table.audit.problems[1].file == "films.csv:val2"
    codes = [warning.split(":")[0] for warning in table.warnings]
    assert codes == ["dropped_genre", "lost_movies", "lost_movies", "lost_movies"]


def test_the_same_movies_stay_in_a_multilabel_task(tmp_path):
    table = loaded(tmp_path, "multilabel")
    assert len(table.movies) == 10
    assert {p.action for p in table.audit.problems if p.kind == "no_genre"} == {"kept"}


def test_a_removed_movie_does_not_change_the_fingerprint(tmp_path):
    other = [label for label in LABELS["train"] if label]
    assert loaded(tmp_path).fingerprint == loaded(tmp_path, train=other).fingerprint


def test_a_movie_with_several_labels_is_named_with_the_cure(tmp_path):
    several = {"train": ["Drama", "War Drama", "War"], "test": ["Drama War"]}
    with pytest.raises(UserError) as error:
        loaded(tmp_path, **several)
    assert str(error.value) == (
        "films: movie train1 (films.csv:train1) and 1 more have several labels, here War, Drama, and data.task=multiclass takes "
        "one: correct the labels, or set data.task=multilabel"
    )
    assert loaded(tmp_path, "multilabel", **several).labels.sum() == 8


def test_a_label_that_is_repeated_is_one_label(tmp_path):
    assert loaded(tmp_path, train=["Drama Drama", "War"]).labels[0].tolist() == [True, False]


def test_a_single_label_in_train_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"every movie of train has the label Drama, and data.task=multiclass chooses between"):
        loaded(tmp_path, train=["Drama", "Drama", ""])


def test_test_movies_without_any_label_are_predicted(tmp_path):
    table = loaded(tmp_path, test=["", "", ""])
    assert table.ids["test"] == ["test0", "test1", "test2"]
    assert any(warning.startswith("unlabelled_test") for warning in table.warnings)


def test_labels_that_a_model_does_not_know_are_left_out(tmp_path):
    table = loaded(tmp_path, train=["Drama", "War", "Western"])
    known = table.labelled(("Drama", "War"))
    assert known.ids == {"train": ["train0", "train1"], "val": ["val0", "val1"], "test": ["test0", "test2"]}
    assert [p.id for p in known.audit.removed("test")] == ["test1"]
    assert np.array_equal(known.labels[known.splits != ""].sum(axis=1), np.ones(6))
