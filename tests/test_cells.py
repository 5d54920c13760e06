"""Cells of metadata tables become numbers, words, lists or missing values."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest

from gmu_lightning.cells import number, read, words


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "N/A",
        "n/a",
        "NA",
        "#N/A",
        "\\N",
        "-",
        "--",
        "NULL",
        "null",
        "None",
        "<NA>",
        "inf",
        "-Infinity",
        "nan",
        "NaN",
        "?",
    ],
)
def test_usual_placeholders_are_missing_values(text):
    assert read(text) is None and read(f" {text} ") is None
    assert read([text, "Ann"]) == ["Ann"] and read(f"Ann|{text}") == ["Ann"] and read([text]) is None


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), [], {}, [None, ""], [float("nan")], "[]", "{}", "||"])
def test_empty_values_are_missing_values(value):
    assert read(value) is None


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (1999, 1999.0),
        (True, 1.0),
        (" 1999 ", "1999"),
        ("007", "007"),
        ("Non-stop", "Non-stop"),
        ("[draft]", "[draft]"),
        ("(500) Days", "(500) Days"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
        ("[__import__('os').getcwd()]", "[__import__('os').getcwd()]"),
        ("Ann|Bo | Cy", ["Ann", "Bo", "Cy"]),
        (["Ann", 3, True], ["Ann", "3", "True"]),
        ('["Ann", "Cy, Jr"]', ["Ann", "Cy, Jr"]),
        ("['Ann', \"Bo O'Hara\", None]", ["Ann", "Bo O'Hara"]),
        ("('Ann', 'Bo')", ["Ann", "Bo"]),
    ],
)
def test_numbers_words_and_lists_are_read(value, cell):
    assert read(value) == cell


OBJECTS = [{"id": 18, "name": "Drama"}, {"id": 35, "name": "Comedy"}]


@pytest.mark.parametrize("value", [OBJECTS, json.dumps(OBJECTS), repr(OBJECTS), f" {OBJECTS} "])
def test_lists_of_objects_become_their_names(value):
    assert read(value) == ["Drama", "Comedy"]


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ({"id": 10194, "name": "Toy Story", "poster_path": None}, "Toy Story"),
        ("{'id': 10194, 'name': 'Toy Story', 'adult': False}", "Toy Story"),
        ([{"iso": 1, "Name": "English"}, {"iso": 2, "name": ""}], ["English"]),
        ([{"title": "A"}, {"label": "B"}, {"value": 7}], ["A", "B", "7"]),
        ([{"id": 3, "actor": "Ann"}], ["Ann"]),
        ([{"id": 1, "name": "a | b"}], ["a | b"]),
    ],
)
def test_objects_become_their_names(value, cell):
    assert read(value) == cell


@pytest.mark.parametrize(
    "value",
    [
        {"id": 3},
        [{"id": 3}],
        [["Ann"], ["Bo"]],
        {"name": {"first": "Ann"}},
        '[{"id": 18, "name": "Dra',
        "[{'id': 18, 'name': 'Drama', 'votes': nan}]",
        10**400,
        "[" * 100_000 + '{"',
        b"bytes",
    ],
)
def test_unreadable_values_stay_marked(value):
    if isinstance(value, str) and value.startswith("[[["):
        assert read(value) == value  # not a list, so it is text
        return
    cell = read(value)
    assert isinstance(cell, dict) and len(cell["unreadable"]) <= 40
    assert read(cell) == cell and number(cell) is None and words(cell) == ()


def test_huge_integers_are_shortened_as_text():
    assert read('["Ann", ' + "9" * 5000 + "]") == ["Ann", "9" * 40 + "…"]


def test_backslashes_in_a_list_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(r"['a\d', 'b']") == [r"a\d", "b"]


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("1999", 1999.0),
        (" -1.5e3 ", -1500.0),
        (".5", 0.5),
        (True, 1.0),
        ("1_000", None),
        ("1,000", None),
        ("0x10", None),
        ("1e39", None),
        (1e300, None),
        ("nan", None),
        (["7"], None),
        (None, None),
        ("٣", None),
    ],
)
def test_numbers_fit_single_precision(cell: Any, found: float | None):
    assert number(cell) == found


def test_whole_numbers_become_words_without_decimals():
    assert words(7.0) == ("7",) and words(7.5) == ("7.5",) and words(["a", "b"]) == ("a", "b") and words(None) == ()
