"""Apply label policies, and order the genres."""

from __future__ import annotations

import pytest

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.mmimdb import MMIMDb
from gmu_lightning.data.selection import keep23, mmbt, order_genres
from gmu_lightning.movie import Movie


def movies(**splits: list[str]) -> dict[str, list[Movie]]:
    """Return movies with a plot; `train=["Drama Short"]` is one movie of train with two genres."""
    plot = {"text": "A plot."}
    return {split: [Movie(f"{split}{n}", plot, tuple(g.split())) for n, g in enumerate(rows)] for split, rows in splits.items()}


def genres(splits: dict[str, list[Movie]]) -> dict[str, list[tuple[str, ...]]]:
    return {split: [movie.genres for movie in rows] for split, rows in splits.items()}


def test_keep23_ignores_only_the_four_rarest_labels():
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


def test_mmbt_removes_movies_with_a_label_unseen_in_train():
    audit = Audit()
    kept = mmbt(movies(train=["Drama Adult", "Short News"], val=["Drama Short"], test=["Adult", "Drama Talk-Show"]), audit)
    assert {split: [m.id for m in rows] for split, rows in kept.items()} == {"train": ["train0"], "val": [], "test": ["test0"]}
    assert "Short" in audit.problems[1].detail  # in train, only a removed movie has it
    assert "Talk-Show" in audit.problems[2].detail


def test_mmbt_removes_movies_without_a_plot():
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
        ("test0", "val", "missing_plot", "kept_absent", False),  # of another movie with the same id
        ("train1", "train", "missing_plot", "removed", True),
        ("test0", "test", "missing_plot", "removed", True),
    ]


def test_strict_accepts_removals_by_a_policy():
    audit = Audit()
    keep23(movies(train=["Drama News"]), audit)
    mmbt(movies(train=["Drama News"]), audit)
    assert len(audit.problems) == 2
    audit.raise_if_strict()


def test_genres_are_ordered_by_frequency_then_alphabet():
    vocabulary, unseen = order_genres({"train": [("War", "Drama"), ("Comedy", "Drama")], "val": [("War",)], "test": [("War",)]})
    assert vocabulary.names == ("Drama", "Comedy", "War")
    assert unseen == ()


def test_published_order_needs_exactly_the_published_genres():
    published = MMIMDb.published_genres
    assert order_genres({"train": [tuple(reversed(published))]}, published)[0].names == published
    assert order_genres({"train": [("Comedy", "Drama"), ("Comedy",)]}, published)[0].names == ("Comedy", "Drama")


def test_the_published_genres_exclude_the_rare_ones():
    assert len(set(MMIMDb.published_genres)) == 23
    assert MMIMDb.published_genres[:3] == ("Drama", "Comedy", "Romance")
    assert MMIMDb.published_genres[-1] == "Film-Noir"
    assert not {"News", "Adult", "Reality-TV", "Talk-Show"} & set(MMIMDb.published_genres)


def test_a_genre_unseen_in_train_is_left_out():
    vocabulary, unseen = order_genres({"train": [("Drama",)], "val": [("War", "Drama")], "test": [("Short",)]})
    assert vocabulary.names == ("Drama",)
    assert unseen == ("Short", "War")


@pytest.mark.parametrize("news", ["news", "News", "NEWS", "Ne ws"])
def test_policies_accept_other_spellings_of_a_genre(news):
    plot = {"text": "A plot."}
    splits = {"train": [Movie("a", plot, ("Drama", news)), Movie("b", plot, ("Drama",))], "val": [], "test": []}
    assert genres(keep23(splits, Audit()))["train"] == [("Drama",), ("Drama",)]
    assert [movie.id for movie in mmbt(splits, Audit())["train"]] == ["b"]


def test_keep23_ignores_reality_tv_in_every_spelling():
    names = ("Reality-TV", "reality tv", "Reality\u2013TV", "RealityTV", "talk show")
    assert genres(keep23({"train": [Movie("a", {}, ("Drama", *names))]}, Audit()))["train"] == [("Drama",)]
