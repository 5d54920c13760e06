from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import MultiLabelBinarizer, OneHotEncoder, StandardScaler

from gmu_lightning.encoders.metadata import Table, TablePreparation
from gmu_lightning.movie import BadContent, UserError

ROWS = [
    {"year": 1994, "runtime": 142.0, "country": "USA", "cast": ["Robbins", "Freeman"], "format": "film"},
    {"year": 1972, "runtime": None, "country": "USA", "cast": ["Pacino"], "format": "film"},
    {"year": 2001, "runtime": 88.0, "country": "France", "cast": [], "format": "film"},
    {"year": 2008, "runtime": 152.0, "country": None, "cast": ["Freeman", "Bale"], "format": "film"},
    {"year": 1997, "runtime": float("nan"), "country": "Italy", "format": "film"},
]


def fitted(rows=ROWS, min_count: int = 1) -> TablePreparation:
    return TablePreparation(min_count=min_count).fit(iter(rows))


def features_of(preparation: TablePreparation) -> tuple[str, ...]:
    """Return the name of each number, such as `year`, `year missing`, `country=France`, `country other`."""
    return tuple(map("".join, preparation.learned.feature_names))


def columns(preparation: TablePreparation, *names: str) -> np.ndarray:
    assert isinstance(preparation.learned, Table)
    features = features_of(preparation)
    return np.stack([preparation.store(row) for row in ROWS])[:, [features.index(name) for name in names]]


def test_numbers_equal_imputed_and_scaled_ones_of_sklearn():
    raw = np.array([[row["year"], np.nan if row["runtime"] is None else row["runtime"]] for row in ROWS])
    imputed = SimpleImputer(strategy="median", add_indicator=True).fit_transform(raw)
    expected = np.hstack([StandardScaler().fit_transform(imputed[:, :2]), imputed[:, 2:]])
    np.testing.assert_allclose(columns(fitted(), "year", "runtime", "runtime missing"), expected, atol=1e-6)


def test_categories_equal_one_hot_ones_of_sklearn():
    raw = np.array([[row["country"] or "nothing"] for row in ROWS])
    encoder = OneHotEncoder(min_frequency=2, sparse_output=False).fit(raw)
    expected = encoder.transform([["USA"], ["France"], ["Italy"]])
    found = columns(fitted(min_count=2), "country=USA", "country other")
    np.testing.assert_array_equal(found[[0, 2, 4]], expected)
    np.testing.assert_array_equal(columns(fitted(min_count=2), "country missing").ravel(), [0, 0, 0, 1, 0])


def test_lists_equal_multi_hot_ones_of_sklearn():
    binarizer = MultiLabelBinarizer()
    expected = binarizer.fit_transform([row.get("cast", []) for row in ROWS])
    names = [f"cast={name}" for name in binarizer.classes_]
    np.testing.assert_array_equal(columns(fitted(), *names), expected)


def test_rare_words_are_other():
    features = features_of(fitted(min_count=2))
    assert "cast=Freeman" in features and "cast=Pacino" not in features
    np.testing.assert_array_equal(columns(fitted(min_count=2), "cast other").ravel(), [1, 1, 0, 1, 0])


def test_constant_numbers_are_left_out():
    features = features_of(fitted())
    assert not [name for name in features if name.startswith("format")]
    assert "year" in features and "year missing" not in features and "country other" not in features


def test_storing_other_splits_changes_no_state():
    preparation = fitted()
    row = preparation.store({"year": 1800, "country": "Peru", "cast": ["Nobody"], "studio": "unheard of"})
    assert row.shape == (preparation.size,)
    words = [n for n, name in enumerate(features_of(preparation)) if "=" in name]
    assert not row[words].any()
    assert preparation == fitted()


def test_a_word_of_every_movie_does_not_count_as_other():
    preparation = fitted([{"genre": ["film", "x"]}, {"genre": ["film", "y"]}, {"genre": "film"}], min_count=2)
    assert features_of(preparation) == ("genre other",)
    assert preparation.store({"genre": "film"}).tolist() == [0]


def test_columns_with_confusable_names_stay_apart():
    rows = [{"a": 1, "a missing": 20}, {"a missing": 10}, {"a": 3, "a missing": 30}]
    preparation = fitted(rows)
    assert features_of(preparation) == ("a", "a missing", "a missing")
    _, mark, number = np.stack([preparation.store(row) for row in rows]).T
    assert mark.tolist() == [0, 1, 0]
    assert number.tolist() == pytest.approx([0, -(1.5**0.5), 1.5**0.5])


def test_missing_columns_and_their_order_do_not_matter():
    preparation = fitted()
    given = {"year": 1994, "country": "USA"}
    explicit = dict.fromkeys(("cast", "runtime", "format")) | dict(reversed(given.items()))
    assert np.array_equal(preparation.store(given), preparation.store(explicit))


def test_the_state_restores_every_bit():
    preparation = fitted()
    restored = TablePreparation(min_count=1).restored(json.loads(json.dumps(preparation.state())))
    assert restored == preparation
    for row in ROWS:
        assert preparation.store(row).tobytes() == restored.store(row).tobytes()


@pytest.mark.parametrize(
    ("cells", "read_as"),
    [
        ([7, "PG", True, "PG"], "words"),
        ([7, "8", True, "PG"], "numbers"),
        (["1", "2", ["a"], None, None], "numbers"),
        (["1", "a", "b", ["c"]], "words"),
        ([{"id": 1}, [{"id": 2}], "a"], "left out"),
        ([None, "N/A", "?"], "left out"),
    ],
)
def test_the_majority_of_cells_decides_a_columns_type(cells, read_as):
    learned = fitted([{"x": cell, "year": n} for n, cell in enumerate(cells)]).learned
    assert learned.reading("x")["read_as"] == read_as


def test_an_unfit_cell_counts_as_missing():
    rows = [{"budget": n, "year": n} for n in range(9)]
    clean, dirty = fitted(rows), fitted([*rows, {"budget": "a lot", "year": 4}])
    assert dirty.learned.medians["budget"] == clean.learned.medians["budget"]
    assert features_of(dirty) == ("budget", "budget missing", "year")
    blank = {"budget": None, "year": 4}
    for odd in ("a lot", "1,000", ["7", "8"], {"id": 7}, 1e300, 10**400, float("inf"), "N/A"):
        assert np.array_equal(dirty.store({"budget": odd, "year": 4}), dirty.store(blank))


def test_numbers_in_a_column_of_words_are_words():
    preparation = fitted([{"rating": cell} for cell in ("PG", 7, "7", True, "R", "U")])
    assert features_of(preparation) == ("rating=1", "rating=7", "rating=PG", "rating=R", "rating=U")


@pytest.mark.parametrize("blank", [None, float("nan"), "  ", [], [None, ""]])
def test_blank_text_nan_and_empty_lists_are_missing(blank):
    preparation = fitted([{"a": "x", "year": 1}, {"a": "y", "year": 2}, {"year": 3}])
    assert np.array_equal(preparation.store({"a": blank, "year": 1}), preparation.store({"year": 1}))


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        ({"year": "a lot"}, "missing_metadata", "no column that train has holds a value that fits it"),
        ({"cast": [["Pacino"]]}, "missing_metadata", "no column that train has holds a value that fits it"),
        ({"studio": "Gaumont"}, "missing_metadata", "no column that train has holds a value"),
        ({"year": None}, "missing_metadata", "no column"),
    ],
)
def test_an_unusable_row_is_an_error(row, kind, words):
    with pytest.raises(BadContent, match=words) as caught:
        fitted().store(row)
    assert caught.value.kind == kind


def test_columns_report_types_and_unfit_cells():
    rows = [*ROWS, None, {"empty": "", "year": "soon", "runtime": "N/A", "format": 35, "studio": "Gaumont", "cast": [{"id": 3}]}]
    columns = fitted(min_count=2).columns(rows)
    assert {name: (column["read_as"], column["words"]) for name, column in columns.items()} == {
        **{"year": ("numbers", None), "runtime": ("numbers", None), "country": ("words", 1), "cast": ("words", 1)},
        **{"format": ("left out", None), "studio": ("left out", None), "empty": ("left out", None)},
    }
    assert columns["format"]["why"] == "it is the same for all movies of train"
    assert columns["studio"]["why"] == "no movie of train has it"
    assert columns["runtime"]["filled"] == [0, 2, 3] and columns["empty"]["filled"] == []
    assert {name: column["unfit"] for name, column in columns.items() if column["unfit"]} == {
        "year": {6: "soon is no number that single precision holds"},
        "cast": {6: "[{'id': 3}] is neither a number, nor text, nor a list of texts or of objects with a name"},
    }
    assert TablePreparation().fit([np.ones(2)]).columns([np.ones(2)]) == {}


def test_a_column_of_rare_words_is_left_out_with_a_reason():
    learned = fitted([{"budget": f"${n},000", "year": n, "same": "x"} for n in range(9)], min_count=2).learned
    assert learned.left_out == {
        "budget": "no word of it stands in 2 movies of train, as $0,000 does not",
        "same": "it is the same for all movies of train",
    }


def test_a_state_without_left_out_columns_is_restored():
    state = fitted().state()
    del state["left_out"]
    restored = TablePreparation(min_count=1).restored(state)
    assert all(np.array_equal(restored.store(row), fitted().store(row)) for row in ROWS)


def test_arrays_are_stored_unchanged():
    preparation = TablePreparation().fit([np.arange(4.0), np.ones(4)])
    row = preparation.store(np.arange(4))
    assert row.dtype == np.float32 and row.tolist() == [0, 1, 2, 3]
    assert preparation.state() == {"size": 4} and preparation.restored({"size": 4}) == preparation
    with pytest.raises(BadContent, match=r"shape \(5,\), expected \(4,\)"):
        preparation.store(np.zeros(5))
    with pytest.raises(BadContent, match="1 of 4 numbers are not finite"):
        preparation.store(np.array([0, 1, 2, np.nan]))


def test_a_batch_holds_zeros_where_a_movie_has_no_metadata():
    preparation = TablePreparation().fit([np.ones(2)])
    assert preparation.batch([None, np.ones(2, dtype=np.float32)], training=False).tolist() == [[0, 0], [1, 1]]


def test_the_fingerprint_is_that_of_min_count():
    prints = [TablePreparation(min_count=n).fingerprint for n in (1, 2, 5)]
    assert all(a != b for a, b in pairwise(prints)) and fitted().fingerprint == prints[0]


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ([], "no movie of train has metadata"),
        ([{"format": "film"}, {"format": "film"}], "are the same, or there are none"),
        (
            [{"title": "A"}, {"title": "B"}],
            r"or there are none \(title: no word of it stands in 2 movies of train, as A does not\)",
        ),
        ([{}, {"year": None}], "are the same, or there are none"),
        ([{"year": 1}, np.zeros(3)], "is ndarray, another's a table's row"),
        (["a plot"], "is str and no vector"),
    ],
)
def test_uninformative_metadata_is_an_error(contents, words):
    with pytest.raises(UserError, match=words):
        TablePreparation(min_count=2).fit(contents)


def test_the_size_is_unknown_before_fit():
    with pytest.raises(RuntimeError, match="fit the preparation on train first"):
        _ = TablePreparation().size
