"""Label policies, and the order of the genres."""

from __future__ import annotations

import pytest

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.labels import keep23, mmbt, order_genres
from gmu_lightning.data.mmimdb import MMIMDb
from gmu_lightning.movie import Movie, UserError


def movies(**splits: list[str]) -> dict[str, list[Movie]]:
    """`train=["Drama Short"]` is one movie of train with a plot and these genres."""
    plot = {"text": "A plot."}
    return {split: [Movie(f"{split}{n}", plot, tuple(g.split())) for n, g in enumerate(rows)] for split, rows in splits.items()}


def genres(splits: dict[str, list[Movie]]) -> dict[str, list[tuple[str, ...]]]:
    return {split: [movie.genres for movie in rows] for split, rows in splits.items()}


def test_keep23_keeps_every_movie_and_ignores_exactly_the_four_rarest_labels():
    audit = Audit()
    kept = keep23(movies(train=["Drama News", "Adult Reality-TV Talk-Show", "Film-Noir"], val=["Short"], test=["News"]), audit)
    assert genres(kept) == {"train": [("Drama",), (), ("Film-Noir",)], "val": [("Short",)], "test": [()]}
    assert [(p.id, p.kind, p.action) for p in audit.problems] == [
        (movie, "dropped_genre", "kept") for movie in ("train0", "train1", "test0")
    ]
    assert "Adult, Reality-TV, Talk-Show" in audit.problems[1].detail


def test_mmbt_removes_news_from_every_split():
    audit = Audit()
    kept = mmbt(movies(train=["Drama News", "Drama"], val=["Drama News"], test=["Drama"]), audit)
    assert {split: [m.id for m in rows] for split, rows in kept.items()} == {"train": ["train1"], "val": [], "test": ["test0"]}
    assert [(p.id, p.split, p.action) for p in audit.problems] == [("train0", "train", "removed"), ("val0", "val", "removed")]


def test_mmbt_removes_val_and_test_movies_with_a_label_unseen_in_train():
    audit = Audit()
    kept = mmbt(movies(train=["Drama Adult", "Short News"], val=["Drama Short"], test=["Adult", "Drama Talk-Show"]), audit)
    assert {split: [m.id for m in rows] for split, rows in kept.items()} == {"train": ["train0"], "val": [], "test": ["test0"]}
    assert "Short" in audit.problems[1].detail  # seen in train only on a movie that is itself removed
    assert "Talk-Show" in audit.problems[2].detail


def test_mmbt_removes_movies_without_a_plot_but_their_labels_count_as_seen():
    splits = movies(train=["Drama", "Short"], val=["Short"], test=["Drama"])
    splits["train"][1] = Movie("train1", {"image": "a poster"}, ("Short",))
    splits["test"][0] = Movie("test0", {}, ("Drama",))
    audit = Audit()
    for movie, split in (("train1", "train"), ("test0", "test"), ("test0", "val")):
        audit.add(movie, "a file", split, "missing_plot", "kept_absent", "it has no plot")
    audit.add("test0", "a file", "test", "missing_image", "kept_absent", "no such file")
    kept = mmbt(splits, audit)
    assert {split: [m.id for m in rows] for split, rows in kept.items()} == {"train": ["train0"], "val": ["val0"], "test": []}
    assert [(p.id, p.split, p.kind, p.action, p.by_policy) for p in audit.problems] == [
        ("test0", "val", "missing_plot", "kept_absent", False),  # another movie's, of the same name
        ("train1", "train", "missing_plot", "removed", True),
        ("test0", "test", "missing_plot", "removed", True),
    ]


def test_what_a_policy_takes_away_does_not_trip_strict():
    audit = Audit()
    keep23(movies(train=["Drama News"]), audit)
    mmbt(movies(train=["Drama News"]), audit)
    assert len(audit.problems) == 2
    audit.raise_if_strict()


def test_genres_stand_by_frequency_in_train_with_ties_by_alphabet():
    vocabulary, unseen = order_genres({"train": [("War", "Drama"), ("Comedy", "Drama")], "val": [("War",)], "test": [("War",)]})
    assert vocabulary.names == ("Drama", "Comedy", "War")
    assert unseen == ()


def test_published_order_holds_where_train_has_exactly_the_published_genres():
    published = MMIMDb.published_genres
    assert order_genres({"train": [tuple(reversed(published))]}, published)[0].names == published
    assert order_genres({"train": [("Comedy", "Drama"), ("Comedy",)]}, published)[0].names == ("Comedy", "Drama")


def test_the_published_list_is_in_the_order_of_frequency_and_without_the_rare_labels():
    assert len(set(MMIMDb.published_genres)) == 23
    assert MMIMDb.published_genres[:3] == ("Drama", "Comedy", "Romance")
    assert MMIMDb.published_genres[-1] == "Film-Noir"
    assert not {"News", "Adult", "Reality-TV", "Talk-Show"} & set(MMIMDb.published_genres)


def test_a_genre_that_train_never_shows_is_named_and_left_out():
    vocabulary, unseen = order_genres({"train": [("Drama",)], "val": [("War", "Drama")], "test": [("Short",)]})
    assert vocabulary.names == ("Drama",)
    assert unseen == ("Short", "War")


def test_train_without_any_genre_is_an_error():
    with pytest.raises(UserError, match="No movie of train has a genre"):
        order_genres({"train": [()], "val": [("Drama",)]})


@pytest.mark.parametrize("news", ["news", "News", "NEWS", "Ne ws"])
def test_policies_know_a_genre_however_it_is_spelt(news):
    plot = {"text": "A plot."}
    splits = {"train": [Movie("a", plot, ("Drama", news)), Movie("b", plot, ("Drama",))], "val": [], "test": []}
    assert genres(keep23(splits, Audit()))["train"] == [("Drama",), ("Drama",)]
    assert [movie.id for movie in mmbt(splits, Audit())["train"]] == ["b"]


def test_keep23_ignores_reality_tv_in_every_spelling():
    names = ("Reality-TV", "reality tv", "Reality\u2013TV", "RealityTV", "talk show")
    assert genres(keep23({"train": [Movie("a", {}, ("Drama", *names))]}, Audit()))["train"] == [("Drama",)]
