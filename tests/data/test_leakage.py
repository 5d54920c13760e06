"""Refuse columns of metadata that reveal the genres, and find those that an audience fills."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from gmu_lightning.data.leakage import agreement_of, audience_columns, meanings, refuse_leakage
from gmu_lightning.movie import UserError

GENRES = {"1": ("Drama", "War"), "2": ("Comedy",), "3": ("Sci-Fi", "Drama"), "4": ()}
NAMES = ("Drama", "Comedy", "Horror", "Western")


@pytest.mark.parametrize(
    "name", ["genre", "Genres", "movie_genre", "genreList", "main genre 1", "label", "Labels", "movie_category", "categories"]
)
def test_a_column_named_like_the_answer_is_refused(name):
    with pytest.raises(UserError) as error:
        refuse_leakage({"1": {"year": 1.0, name: "x"}}, GENRES, Path("metadata.csv"))
    setting = f"data.leave_out=[{name}]"
    typed = f"'{setting}'" if " " in name else setting
    assert (
        str(error.value) == f"metadata.csv: column {name} is named like the answer, so nothing is learned from it: set {typed}."
    )


@pytest.mark.parametrize("name", ["year", "record label", "general", "budget_category_id", "degenre"])
def test_a_column_with_a_similar_name_is_accepted(name):
    refuse_leakage({"1": {name: "x"}}, GENRES, Path("metadata.csv"))


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
def test_a_column_of_the_genres_is_refused_under_any_name(cells):
    table = {id: {"about": cell} for id, cell in zip("1234", [*cells, "Western"], strict=True)}
    with pytest.raises(UserError, match=r"column about holds the movies' genres, .* set data.leave_out=\[about\]"):
        refuse_leakage(table, GENRES, Path("metadata.csv"))


def test_a_genre_may_have_blanks_and_ampersands_in_its_name():
    genres = {"1": ("Action & Adventure", "War"), "2": ("Science Fiction",)}
    with pytest.raises(UserError, match="holds the movies' genres"):
        refuse_leakage({"1": {"about": "War, Action & Adventure"}, "2": {"about": "Science Fiction"}}, genres, Path("m.csv"))


@pytest.mark.parametrize(("wrong", "told"), [(0, True), (5, True), (6, False), (50, False)])
def test_a_column_that_often_differs_is_accepted(wrong, told):
    genres = {str(n): ("Drama",) for n in range(100)}
    table: dict[str, Any] = {str(n): {"about": "War" if n < wrong else "Drama"} for n in range(100)}
    table["test movie"] = {"about": "Drama"}
    if told:
        with pytest.raises(UserError, match="holds the movies' genres"):
            refuse_leakage(table, genres, Path("metadata.csv"))
    else:
        refuse_leakage(table, genres, Path("metadata.csv"))


def movies(count: int = 100, share: float = 0.3) -> list[tuple[str, ...]]:
    """Return the genres of so many movies. The first `share` are dramas, and each has one other genre."""
    r = random.Random(0)
    return [(*(("Drama",) if n < share * count else ()), r.choice(NAMES[1:])) for n in range(count)]


def flags(genres: list[tuple[str, ...]], wrong: int, yes: Any = 1.0, no: Any = 0.0) -> list[Any]:
    """Return whether each movie is a drama, with so many wrong answers, evenly spread."""
    flipped = {n * len(genres) // wrong for n in range(wrong)} if wrong else set()
    return [yes if ("Drama" in names) != (n in flipped) else no for n, names in enumerate(genres)]


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        (1.0, 0.0),
        ("1", "0"),
        ("True", "False"),
        ("yes", None),
        (None, "x"),
        (0.0, 1.0),
        (["a", "18"], ["a", "35"]),
        ("about 18", "about 35"),
        (0.93, 0.11),
    ],
)
@pytest.mark.parametrize(("wrong", "refused"), [(0, True), (5, True), (6, False)])
def test_a_column_that_agrees_in_95_percent_is_found(yes, no, wrong, refused):
    genres = movies()
    told = agreement_of("x", flags(genres, wrong, yes, no), genres)
    assert (told is not None) == refused
    if told:
        assert (told.genre, round(told.share, 9)) == ("Drama", 1 - wrong / 100)


def test_a_number_that_is_large_for_one_genre_is_found():
    r, genres = random.Random(0), movies()
    told = agreement_of("x", [("Drama" in names) + r.random() for names in genres], genres)
    assert told is not None and told.genre == "Drama" and told.what.endswith("or more")


@pytest.mark.parametrize(("share", "wrong", "refused"), [(0.06, 1, True), (0.06, 2, False), (0.94, 1, True), (0.94, 2, False)])
def test_agreement_is_compared_with_a_constant_answer(share, wrong, refused):
    genres = movies(100, share)
    assert (agreement_of("x", flags(genres, wrong), genres) is not None) == refused


@pytest.mark.parametrize("share", [0.03, 0.97])
def test_a_nearly_constant_column_is_accepted(share):
    genres = movies(100, share)
    column = ["en"] * 97 + ["fr"] * 3
    assert agreement_of("language", random.Random(1).sample(column, 100), genres) is None


def test_a_word_of_a_rare_genre_counts_if_it_is_its_name():
    genres = movies(100, 0.03)
    assert agreement_of("director", flags(genres, 0, "Ann", "Bo"), genres) is None
    assert agreement_of("is_drama", flags(genres, 0), genres) is not None
    assert agreement_of("keywords", flags(genres, 0, ["Drama"], ["x"]), genres) is not None


@pytest.mark.parametrize("codes", [{}, {"Drama": 18.0, "Comedy": 35.0, "Horror": 27.0, "Western": 37.0}])
def test_a_column_of_main_genres_is_found_by_name_or_code(codes):
    r = random.Random(1)
    genres = [tuple(r.sample(NAMES, 2)) for _ in range(100)]
    column = [codes.get(main := r.choice(names), main) for names in genres]
    assert agreement_of("x", column, genres) is None
    assert set(meanings(column, genres).values()) == set(NAMES)
    with pytest.raises(UserError, match=r"column x tells the genres \(\w+ means \w+, \w+ means \w+, \w+ means \w+, \.\.\.\)"):
        table = {str(n): {"x": cell} for n, cell in enumerate(column)}
        refuse_leakage(table, {str(n): names for n, names in enumerate(genres)}, Path("m"))


def test_a_value_of_most_movies_means_no_genre():
    genres = [("Drama",) if n % 33 else ("Comedy",) for n in range(100)]
    assert meanings(["en"] * 95 + ["fr"] * 5, genres) == {}
    assert meanings(["x"] * 5 + [None] * 95, [("War",)] * 5 + genres[5:]) == {}


def test_unique_words_and_numbers_are_accepted():
    r, genres = random.Random(0), movies()
    assert agreement_of("title", [f"Film {n}" for n in range(100)], genres) is None
    assert agreement_of("year", [float(r.randint(1950, 2010)) for _ in genres], genres) is None
    assert agreement_of("cast", [[f"a{r.randrange(300)}" for _ in range(9)] for _ in genres], genres) is None
    assert agreement_of("empty", [None] * 100, genres) is None
    assert meanings([[f"a{r.randrange(30)}" for _ in range(9)] for _ in genres], genres) == {}


@pytest.mark.parametrize("count", [10, 20, 48])
def test_columns_of_chance_are_hardly_ever_refused(count):
    refused = 0
    for seed in range(40):
        r = random.Random(seed)
        genres = [tuple(r.sample(NAMES, r.choice((1, 1, 2)))) for _ in range(count)]
        columns = [[r.choice(values) for _ in range(count)] for values in ("ab", range(10), range(10**6)) * 4]
        refused += any(agreement_of("x", column, genres) or meanings(column, genres) for column in columns)
    assert refused <= 1


def test_the_error_names_columns_genres_and_the_setting():
    genres = {str(n): names for n, names in enumerate(movies())}
    table: dict[str, Any] = {
        id: {"year": 1990.0 + int(id) % 7, **{f"g{k}, {g}": float(g in names) for k, g in enumerate(NAMES)}}
        for id, names in genres.items()
    }
    with pytest.raises(UserError) as error:
        refuse_leakage(table, genres, Path("metadata.csv"), ["title"])
    assert str(error.value).startswith(
        "metadata.csv: column g0, Drama tells Drama (value 1 stands where Drama does in 100.0 % of train), column g1, Comedy "
    )
    assert str(error.value).endswith(
        'nothing is learned from them: set \'data.leave_out=[title,"g0, Drama","g1, Comedy","g2, Horror","g3, Western"]\'.'
    )


def test_only_movies_of_train_count():
    genres = {str(n): names for n, names in enumerate(movies())}
    table: dict[str, Any] = {id: {"x": float("Drama" in names)} for id, names in genres.items()}
    table |= {f"test {n}": {"x": float(n % 2)} for n in range(500)}
    with pytest.raises(UserError, match="column x tells Drama"):
        refuse_leakage(table, genres, Path("metadata.csv"))


@pytest.mark.parametrize(
    "name",
    [
        *("imdb_score", "imdbVotes", "IMDBScore", "averageRating", "Metascore", "popularity", "vote_average", "voteaverage"),
        *("num_voted_users", "num_user_for_reviews", "num_critic_for_reviews", "movie_facebook_likes", "gross", "revenue"),
        *("boxOffice", "box office", "tomatoUserMeter", "opening_weekend", "imdbrating", "worldwide gross", "awards", "numVotes"),
    ],
)
def test_columns_of_an_audience_are_found_by_name(name):
    assert audience_columns(["year", name]) == [name]


def test_columns_known_before_release_are_not_the_audiences():
    known = ["content_rating", "mpaaRating", "age rating", "scorer", "year", "budget", "cast", "critical_mass_studio", "runtime"]
    assert audience_columns(known) == []


def test_shares_of_ratings_beside_a_rating_are_the_audiences():
    shares = [f"r{n}" for n in range(1, 11)]
    assert audience_columns(["year", "rating", *shares]) == ["rating", *shares]
    assert audience_columns(["year", *shares]) == []
    assert audience_columns(["rating", "r1", "r2"]) == ["rating"]
