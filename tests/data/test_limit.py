"""data.limit: a part of the data, drawn by the data's own seed."""

from __future__ import annotations

import pytest

from gmu_lightning.data.limit import draw, parse_limit
from gmu_lightning.movie import UserError

IDS = {"train": [f"a{n}" for n in range(50)], "val": [f"b{n}" for n in range(20)], "test": [f"c{n}" for n in range(20)]}


def test_one_number_counts_for_every_split_and_three_for_one_each():
    assert parse_limit(10) == parse_limit("10") == {"train": 10, "val": 10, "test": 10}
    assert parse_limit("40/10/5") == {"train": 40, "val": 10, "test": 5}


@pytest.mark.parametrize("limit", ["ten", "0", 0, -3, "10/5", "10/5/5/5", "1.5", 1.5, True, "", "10/0/5"])
def test_anything_else_is_refused(limit):
    with pytest.raises(UserError, match=r"data\.limit="):
        parse_limit(limit)


def test_no_limit_keeps_all():
    assert draw(None, IDS, seed=0) == IDS


def test_a_draw_keeps_the_order_of_the_split():
    drawn = draw("10/5/5", IDS, seed=0)
    assert [len(drawn[split]) for split in IDS] == [10, 5, 5]
    assert all(drawn[split] == [movie for movie in IDS[split] if movie in drawn[split]] for split in IDS)


def test_a_seed_draws_the_same_movies_again_and_another_seed_others():
    assert draw(10, IDS, seed=0) == draw(10, IDS, seed=0)
    assert draw(10, IDS, seed=0)["train"] != draw(10, IDS, seed=1)["train"]


def test_a_smaller_draw_is_part_of_a_larger_one():
    assert set(draw(5, IDS, seed=3)["train"]) < set(draw(12, IDS, seed=3)["train"])


def test_what_is_drawn_of_train_depends_on_no_other_split():
    assert draw("10/5/5", IDS, seed=0)["train"] == draw("10/9/1", {**IDS, "test": ["x", "y"]}, seed=0)["train"]


def test_more_than_there_are_takes_all_there_are():
    assert draw(30, IDS, seed=0)["val"] == IDS["val"]
