"""Read the HDF5 layout of MM-IMDb."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.mmimdb import layouts
from gmu_lightning.data.mmimdb.layouts import Hdf5Layout
from gmu_lightning.movie import SPLITS, UserError

h5py = pytest.importorskip("h5py")

MOVIES = 10
GENRES = ["Drama", "Comedy", "War"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file of ten movies. Row n holds n everywhere, and movie n has the genres of n's bits."""
    path = tmp_path / "multimodal_imdb.hdf5"
    rows = np.arange(MOVIES)
    with h5py.File(path, "w") as file:
        file["features"] = np.repeat(rows[:, None], 300, axis=1).astype(np.float32)
        file["vgg_features"] = np.repeat(rows[:, None], 4096, axis=1).astype(np.float32)
        file["genres"] = (rows[:, None] >> np.arange(3) & 1).astype(np.int32)
        file["genres"].attrs["target_names"] = json.dumps(GENRES)
        file["imdb_ids"] = np.array([f"{n:07d}" for n in rows], dtype="S7")
    return path


def split(path: Path, train: list[int], dev: list[int], test: list[int]) -> None:
    ids = {name: [f"{n:07d}" for n in rows] for name, rows in (("train", train), ("dev", dev), ("test", test))}
    (path.parent / "split.json").write_text(json.dumps(ids))


def test_a_file_of_published_size_has_the_published_split(path, monkeypatch):
    monkeypatch.setattr(layouts, "PUBLISHED_SPLITS", {"train": 6, "val": 1, "test": 3})
    layout = Hdf5Layout(path)
    read = {name: [movie.id for movie in layout.read(name, Audit())] for name in SPLITS}
    assert read == {
        "train": [f"{n:07d}" for n in range(6)],
        "val": ["0000006"],
        "test": ["0000007", "0000008", "0000009"],
    }


def test_the_published_counts_are_those_of_the_paper():
    assert sum(layouts.PUBLISHED_SPLITS.values()) == 25959
    assert list(layouts.PUBLISHED_SPLITS.items()) == [("train", 15552), ("val", 2608), ("test", 7799)]


@pytest.mark.parametrize("window", [2, 512])
def test_vectors_and_genres_belong_to_the_id_in_any_order(path, monkeypatch, window):
    monkeypatch.setattr(layouts, "WINDOW", window)
    split(path, [7, 2, 3, 0], [5], [6, 1])
    movies = list(Hdf5Layout(path).read("train", Audit()))
    assert [movie.id for movie in movies] == ["0000007", "0000002", "0000003", "0000000"]
    for movie in movies:
        n = int(movie.id)
        assert movie.content["text"].shape == (300,)
        assert movie.content["image"].shape == (4096,)
        assert movie.content["text"].dtype == movie.content["image"].dtype == np.float32
        assert (movie.content["text"] == n).all()
        assert (movie.content["image"] == n).all()
        assert movie.genres == tuple(genre for c, genre in enumerate(GENRES) if n >> c & 1)


def own_split(path: Path, rows: list[tuple], shape: tuple = ()) -> None:
    """Write the attribute `split`: (split, source, start, stop) or (split, source, [rows]), as Fuel does."""
    fields = [("split", "S5"), ("source", "S12"), ("start", np.int64, shape), ("stop", np.int64, shape)]
    fields += [("indices", h5py.special_dtype(ref=h5py.Reference)), ("available", bool, shape), ("comment", "S1")]
    with h5py.File(path, "r+") as file:
        table = np.zeros(len(rows), np.dtype(fields))
        for n, (name, source, *where) in enumerate(rows):
            start, stop = where if len(where) == 2 else (0, 0)
            reference = h5py.Reference()
            if len(where) == 1:
                file[f"{name}_{source}"] = np.array(where[0])
                reference = file[f"{name}_{source}"].ref
            table[n] = (name.encode(), source.encode(), start, stop, reference, stop > start or len(where) == 1, b".")
        file.attrs["split"] = table


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_file_of_another_size_has_its_own_split(path, shape):
    places = {"train": (0, 5), "dev": (5, 7), "test": (7, 10)}
    rows = [(name, source, *place) for name, place in places.items() for source in ("features", "genres", "vgg_features")]
    own_split(path, [*rows, ("train", "word_grams", 0, 0)], shape)
    split(path, [9], [8], [7])  # takes precedence over split.json
    layout = Hdf5Layout(path)
    found = {name: [int(movie.id) for movie in layout.read(name, Audit())] for name in SPLITS}
    assert found == {"train": [0, 1, 2, 3, 4], "val": [5, 6], "test": [7, 8, 9]}


def test_a_split_may_list_its_rows(path):
    own_split(path, [("train", "features", [4, 0, 2]), ("val", "features", 5, 6), ("test", "features", 6, 8)])
    assert [int(movie.id) for movie in Hdf5Layout(path).read("train", Audit())] == [4, 0, 2]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([("train", "features", 0, 5), ("dev", "features", 5, 7)], "has no rows for test, only for train, dev"),
        (
            [("train", "features", 0, 5), ("dev", "features", 5, 7), ("test", "features", 7, 11)],
            "the rows 7 to 11, and the file has 10",
        ),
        ([("train", "features", [0, -1])], "the rows -1 to 0, and the file has 10"),
        ([("train", "features", 0, 5), ("train", "genres", 0, 6)], "gives train other rows in genres than elsewhere"),
        ([("train", "features", 0, 0)], "has no rows for train, only for nothing"),
    ],
)
def test_a_split_attribute_that_does_not_fit_is_refused(path, rows, sentence):
    own_split(path, rows)
    with pytest.raises(UserError, match=f"its attribute split .*{sentence}"):
        Hdf5Layout(path)


@pytest.mark.parametrize("value", ["train", np.arange(3), np.zeros(2, np.dtype([("split", "S5"), ("start", int)]))])
def test_a_split_attribute_that_is_no_table_is_refused(path, value):
    with h5py.File(path, "r+") as file:
        file.attrs["split"] = value
    with pytest.raises(UserError, match="has no rows of split, source, start, stop: expected the table"):
        Hdf5Layout(path)


def test_another_count_needs_a_split(path):
    with pytest.raises(UserError, match=r"has 10 movies instead of the published 25959, no attribute split, and no split.json"):
        Hdf5Layout(path)


def test_ids_without_a_row_and_repeated_ids_are_removed(path):
    split(path, [0, 77], [1], [0, 2])
    layout, audit = Hdf5Layout(path), Audit()
    assert {name: len(list(layout.read(name, audit))) for name in SPLITS} == {"train": 1, "val": 1, "test": 1}
    assert [(p.id, p.split, p.kind, p.action) for p in audit.problems] == [
        ("0000077", "train", "broken_json", "removed"),
        ("0000000", "test", "duplicate_id", "removed"),
    ]


def test_the_first_of_two_rows_with_one_id_is_kept(path, monkeypatch):
    monkeypatch.setattr(layouts, "PUBLISHED_SPLITS", {"train": 6, "val": 1, "test": 3})
    with h5py.File(path, "r+") as file:
        file["imdb_ids"][8] = b"0000002"
    layout, audit = Hdf5Layout(path), Audit()
    movies = [movie for name in SPLITS for movie in layout.read(name, audit)]
    assert [int(movie.content["text"][0]) for movie in movies] == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    assert [(p.id, p.split, p.kind) for p in audit.problems] == [("0000002", "test", "duplicate_id")]


@pytest.mark.parametrize("part", ["features", "vgg_features", "genres", "imdb_ids"])
def test_a_missing_part_is_named(path, part):
    with h5py.File(path, "r+") as file:
        del file[part]
    with pytest.raises(UserError, match=f"lacks .*{part}.* with a row per movie"):
        Hdf5Layout(path)


def test_a_part_of_another_length_is_named(path):
    with h5py.File(path, "r+") as file:
        del file["vgg_features"]
        file["vgg_features"] = np.zeros((MOVIES - 1, 4096), np.float32)
    with pytest.raises(UserError, match="lacks vgg_features with a row per movie"):
        Hdf5Layout(path)


@pytest.mark.parametrize("names", [None, "not json", '["Drama"]', '{"Drama": 1}'])
def test_genres_without_their_names_are_refused(path, names):
    with h5py.File(path, "r+") as file:
        del file["genres"].attrs["target_names"]
        if names is not None:
            file["genres"].attrs["target_names"] = names
    with pytest.raises(UserError, match="target_names of genres is no JSON list of its 3 columns"):
        Hdf5Layout(path)


def test_a_file_cut_short_is_refused(path):
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="cannot be read as HDF5"):
        Hdf5Layout(path)


def test_without_h5py_the_error_names_the_package(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r'pip install "gmu-lightning\[hdf5\]"'):
        Hdf5Layout(path)


def test_an_opened_layout_goes_to_worker_processes(path):
    split(path, [0], [1], [2])
    layout = pickle.loads(pickle.dumps(Hdf5Layout(path)))
    assert [movie.id for movie in layout.read("test", Audit())] == ["0000002"]


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [(-1, "i4", "-1"), (2, "u1", "2"), (np.nan, "f4", "nan"), (0.5, "f8", "0.5"), (-1, "i1", "-1"), (b"1", "S1", "b'[01]'")],
)
def test_a_label_other_than_0_and_1_is_refused(path, value, dtype, said):
    split(path, [0, 1, 2], [3, 4], [5, 6])
    with h5py.File(path, "r+") as file:
        labels = file["genres"][:].astype(dtype)
        labels[4, 1] = value
        del file["genres"]
        file["genres"] = labels
        file["genres"].attrs["target_names"] = json.dumps(GENRES)
    with pytest.raises(UserError, match=f"genres holds {said} for movie .*: expected 1 where a movie has a genre and 0"):
        for name in SPLITS:
            list(Hdf5Layout(path).read(name, Audit()))


@pytest.mark.parametrize("dtype", ["bool", "u1", "f4", "f8", "i8"])
def test_labels_may_be_booleans_or_numbers(path, dtype):
    split(path, [3, 1, 2], [4], [5])
    with h5py.File(path, "r+") as file:
        labels = file["genres"][:].astype(dtype)
        del file["genres"]
        file["genres"] = labels
        file["genres"].attrs["target_names"] = json.dumps(GENRES)
    assert [movie.genres for movie in Hdf5Layout(path).read("train", Audit())] == [("Drama", "Comedy"), ("Drama",), ("Comedy",)]


def test_names_of_genres_are_strings(path):
    with h5py.File(path, "r+") as file:
        file["genres"].attrs["target_names"] = json.dumps([1, 2, 3])
    with pytest.raises(UserError, match="target_names of genres is no JSON list of its 3 columns"):
        Hdf5Layout(path)
