"""Tables of metadata: what a column holds is read off its values, and a column that tells the genres is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gmu_lightning.data.tables import read_table, refuse_answers, verdicts
from gmu_lightning.movie import UserError

GENRES = {"1": ("Drama", "War"), "2": ("Comedy",), "3": ("Sci-Fi", "Drama"), "4": ()}


def csv_of(folder: Path, text: str) -> Path:
    path = folder / "metadata.csv"
    path.write_text(text, encoding="utf-8")
    return path


def lines_of(folder: Path, *rows: Any) -> Path:
    path = folder / "metadata.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        (["1999", " 2001.5 ", "-1e3"], [1999.0, 2001.5, -1000.0]),
        (["1999", "", "nan"], [1999.0, None, None]),
        (["1999", "unknown", ""], ["1999", "unknown", None]),
        (["1_000", "2", "3"], ["1_000", "2", "3"]),
        (["inf", "2", "3"], ["inf", "2", "3"]),
        (["1e400", "2", "3"], ["1e400", "2", "3"]),
        (["France", " Italy ", "  "], ["France", "Italy", None]),
        (["Ann|Bo | Cy", "Ann", ""], [["Ann", "Bo", "Cy"], ["Ann"], None]),
        (['["Ann", "Bo"]', '["Cy, Jr"]', "[]"], [["Ann", "Bo"], ["Cy, Jr"], None]),
        (["['Ann', \"Bo O'Hara\"]", "['Cy']", ""], [["Ann", "Bo O'Hara"], ["Cy"], None]),
        (["[draft]", "[cut]", "x"], ["[draft]", "[cut]", "x"]),
        (["__import__('os').getcwd()", "x", "y"], ["__import__('os').getcwd()", "x", "y"]),
    ],
)
def test_what_a_csv_column_holds_is_read_off_its_values(tmp_path, cells, read):
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    path = csv_of(tmp_path, "id,x\n" + "".join(f"{n},{cell}\n" for n, cell in enumerate(quoted)))
    assert read_table(path) == {str(n): {"x": value} for n, value in enumerate(read)}


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        ([1999, "2001", None], [1999.0, 2001.0, None]),
        ([True, False, None], [1.0, 0.0, None]),
        ([1999, "unknown", None], ["1999", "unknown", None]),
        ([["Ann", "Bo"], [], None], [["Ann", "Bo"], None, None]),
        ([["Ann", "Bo"], "Cy", None], [["Ann", "Bo"], ["Cy"], None]),
        ([float("nan"), 1, 2], [None, 1.0, 2.0]),
    ],
)
def test_what_a_column_of_json_lines_holds_is_read_off_its_values(tmp_path, cells, read):
    path = lines_of(tmp_path, *({"id": n, "x": cell} for n, cell in enumerate(cells)))
    assert read_table(path) == {str(n): {"x": value} for n, value in enumerate(read)}


def test_every_row_has_all_columns(tmp_path):
    path = lines_of(tmp_path, {"id": "1", "year": 1999}, "", {"id": "2", "country": "France"})
    assert read_table(path) == {"1": {"year": 1999.0, "country": None}, "2": {"year": None, "country": "France"}}


def test_columns_may_be_left_out_and_a_wrong_name_is_answered_with_near_ones(tmp_path):
    path = csv_of(tmp_path, "\ufeffid,year,country\n1,1999,France\n")
    assert read_table(path, ["country"]) == {"1": {"year": 1999.0}}
    with pytest.raises(UserError, match=r"data.leave_out names yaer, which is no column of .*metadata.csv: choose among year"):
        read_table(path, ["yaer"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no rows"),
        ("id,year\n", "has no rows"),
        ("movie,year\n1,1999\n", "row 1 has no id, only movie, year"),
        ("id,year\n1,1999\n1,2000\n", "two rows for id 1"),
        ("id,year\n1,1999,France\n", "line 2 has 3 cells, the header 2"),
        ("id,year,year\n1,1999,2000\n", "two columns are named year"),
        ('id,year\n1,"1999\n', "cannot be read"),
    ],
)
def test_a_broken_csv_is_named_with_what_is_wrong(tmp_path, text, sentence):
    with pytest.raises(UserError, match=sentence):
        read_table(csv_of(tmp_path, text))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"id": "2", "year"', "cannot be read .line 2"),
        ("[1]", "line 2 holds a list"),
        ('{"id": null}', "row 2 has no id"),
        ('{"id": true}', "row 2 has no id"),
        ('{"id": "2", "cast": {"lead": "Ann"}}', "column cast holds a dict"),
    ],
)
def test_a_broken_line_is_named_with_what_is_wrong(tmp_path, line, sentence):
    with pytest.raises(UserError, match=sentence):
        read_table(lines_of(tmp_path, {"id": "1", "year": 1999}, line))


@pytest.mark.parametrize(
    "name", ["genre", "Genres", "movie_genre", "genreList", "main genre 1", "label", "Labels", "movie_category", "categories"]
)
def test_a_column_named_like_the_answer_is_refused(name):
    with pytest.raises(UserError) as error:
        refuse_answers({"1": {"year": 1.0, name: "x"}}, GENRES, Path("metadata.csv"))
    assert str(error.value) == (
        f"metadata.csv: column {name} is named like the answer, so nothing is learned from it: set data.leave_out=[{name}]."
    )


@pytest.mark.parametrize("name", ["year", "record label", "general", "budget_category_id", "degenre"])
def test_a_column_that_is_only_named_alike_is_not(name):
    refuse_answers({"1": {name: "x"}}, GENRES, Path("metadata.csv"))


@pytest.mark.parametrize(
    "cells",
    [
        ["Drama|War", "Comedy", "Sci-Fi|Drama"],
        ["war, drama", "COMEDY", "Drama; Sci-Fi"],
        ["War / Drama", "Comedy", "Drama & Sci-Fi"],
        ["Drama War", "Comedy", "Drama Sci-Fi"],
        ["['War', 'Drama']", "['Comedy']", "{Drama, Sci-Fi}"],
        [["War", "Drama"], ["Comedy"], ["Drama", "Sci-Fi"]],
    ],
)
def test_a_column_that_holds_the_genres_is_refused_whatever_its_name_and_order(cells):
    table = {id: {"about": cell} for id, cell in zip("1234", [*cells, "Western"], strict=True)}
    with pytest.raises(UserError, match=r"column about holds the movies' genres, .* set data.leave_out=\[about\]"):
        refuse_answers(table, GENRES, Path("metadata.csv"))


def test_a_genre_may_have_blanks_and_ampersands_in_its_name():
    genres = {"1": ("Action & Adventure", "War"), "2": ("Science Fiction",)}
    with pytest.raises(UserError, match="holds the movies' genres"):
        refuse_answers({"1": {"about": "War, Action & Adventure"}, "2": {"about": "Science Fiction"}}, genres, Path("m.csv"))


@pytest.mark.parametrize(("wrong", "told"), [(0, True), (5, True), (6, False), (50, False)])
def test_a_column_that_often_differs_from_the_genres_is_no_answer(wrong, told):
    genres = {str(n): ("Drama",) for n in range(100)}
    table: dict[str, Any] = {str(n): {"about": "War" if n < wrong else "Drama"} for n in range(100)}
    table["test movie"] = {"about": "Drama"}
    if told:
        with pytest.raises(UserError, match="holds the movies' genres"):
            refuse_answers(table, genres, Path("metadata.csv"))
    else:
        refuse_answers(table, genres, Path("metadata.csv"))


def test_verdicts_of_an_audience_are_found_by_their_names():
    columns = [
        "imdb_score",
        "imdbVotes",
        "averageRating",
        "Metascore",
        "popularity",
        "content_rating",
        "scorer",
        "year",
        "budget",
    ]
    assert verdicts(columns) == ["imdb_score", "imdbVotes", "averageRating", "Metascore", "popularity"]
