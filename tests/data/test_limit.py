"""Limit the movies of each split by `data.limit`, with the seed of the data."""

from __future__ import annotations

import pytest

from gmu_lightning.data.selection import draw
from gmu_lightning.movie import UserError

IDS = {"train": [f"a{n}" for n in range(50)], "val": [f"b{n}" for n in range(20)], "test": [f"c{n}" for n in range(20)]}


def sizes(limit: int | str) -> list[int]:
    return [len(ids) for ids in draw(limit, IDS, seed=0).values()]


def test_one_number_limits_each_split_and_three_one_each():
    assert sizes(10) == sizes("10") == [10, 10, 10]
    assert sizes("40/10/5") == [40, 10, 5]


@pytest.mark.parametrize("limit", ["ten", "0", 0, -3, "10/5", "10/5/5/5", "1.5", 1.5, True, "", "10/0/5"])
def test_anything_else_is_refused(limit):
    with pytest.raises(UserError, match=r"data\.limit="):
        draw(limit, IDS, seed=0)


def test_a_draw_keeps_the_order_of_the_split():
    drawn = draw("10/5/5", IDS, seed=0)
    assert [len(drawn[split]) for split in IDS] == [10, 5, 5]
    assert all(drawn[split] == [movie for movie in IDS[split] if movie in drawn[split]] for split in IDS)


def test_the_seed_determines_the_drawn_movies():
    assert draw(10, IDS, seed=0) == draw(10, IDS, seed=0)
    assert draw(10, IDS, seed=0)["train"] != draw(10, IDS, seed=1)["train"]


def test_a_smaller_draw_is_part_of_a_larger_one():
    assert set(draw(5, IDS, seed=3)["train"]) < set(draw(12, IDS, seed=3)["train"])


def test_the_draw_of_train_ignores_the_other_splits():
    assert draw("10/5/5", IDS, seed=0)["train"] == draw("10/9/1", {**IDS, "test": ["x", "y"]}, seed=0)["train"]


def test_more_than_there_are_takes_all_there_are():
    assert draw(30, IDS, seed=0)["val"] == IDS["val"]
