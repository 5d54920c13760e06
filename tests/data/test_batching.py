"""Assign movies to batches by seed and epoch, with little padding."""

from __future__ import annotations

import numpy as np
import pytest

from gmu_lightning.data.batching import Batches

ROWS = np.arange(100, 400)  # a split in the middle of a data set of 500
LENGTHS = np.random.default_rng(0).integers(0, 200, size=500)
ORDERS = {
    "random": {"seed": 1},
    "buckets": {"seed": 1, "lengths": LENGTHS},
    "budget": {"seed": 1, "lengths": LENGTHS, "tokens": 500},
    "mixed": {"seed": 1, "lengths": LENGTHS, "tokens": 500, "mixed": True},
    "fixed": {},
    "fixed by length": {"lengths": LENGTHS},
}
every_order = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
training_order = pytest.mark.parametrize(
    "order", [o for o in ORDERS.values() if "seed" in o], ids=[name for name, o in ORDERS.items() if "seed" in o]
)


def batches(rows: np.ndarray = ROWS, size: int = 16, epoch: int = 0, **options) -> list[list[int]]:
    return Batches(rows, size, **options).batches(epoch)


def rows_of(found: list[list[int]]) -> list[int]:
    return [row for batch in found for row in batch]


def padding(found: list[list[int]], lengths: np.ndarray) -> int:
    """Return the number of padding tokens."""
    return sum(len(batch) * lengths[batch].max() - lengths[batch].sum() for batch in found)


@every_order
@pytest.mark.parametrize("epoch", [0, 7])
def test_every_movie_stands_in_exactly_one_batch(order, epoch):
    assert sorted(rows_of(batches(epoch=epoch, **order))) == ROWS.tolist()


@every_order
def test_the_same_seed_and_epoch_give_the_same_batches(order):
    assert batches(epoch=3, **order) == batches(epoch=3, **order)


@training_order
def test_another_epoch_and_another_seed_give_other_batches(order):
    first = batches(epoch=0, **order)
    other_epoch, other_seed = batches(epoch=1, **order), batches(epoch=0, **{**order, "seed": 2})
    for other in (other_epoch, other_seed):
        same = {frozenset(batch) for batch in first} & {frozenset(batch) for batch in other}
        assert len(same) < len(first) / 10


def test_epoch_and_seed_are_not_interchangeable():
    assert batches(seed=1, epoch=2) != batches(seed=2, epoch=1)


def test_evaluation_keeps_the_order_of_the_split():
    assert rows_of(batches(epoch=0)) == rows_of(batches(epoch=5)) == ROWS.tolist()


def test_evaluation_with_lengths_is_sorted_stably():
    found = rows_of(batches(lengths=LENGTHS, epoch=5))
    assert found == sorted(ROWS.tolist(), key=lambda row: (LENGTHS[row], row))


def test_all_batches_but_the_last_have_the_chosen_size():
    assert [len(batch) for batch in batches(size=64)] == [64, 64, 64, 64, 44]
    assert sorted(len(batch) for batch in batches(size=64, seed=1, lengths=LENGTHS)) == [44, 64, 64, 64, 64]


def test_buckets_waste_far_less_padding_than_chance():
    rows, lengths = np.arange(5000), np.random.default_rng(1).integers(0, 200, size=5000)
    bucketed, random = (padding(batches(rows, **options), lengths) for options in ({"seed": 1, "lengths": lengths}, {"seed": 1}))
    assert bucketed < random / 20


@pytest.mark.parametrize("movies", [40, 300, 5000])
def test_buckets_are_a_shuffle_of_small_data_and_large(movies):
    rows = lengths = np.arange(movies)
    found, next_epoch = (batches(rows, size=4, epoch=epoch, seed=1, lengths=lengths) for epoch in (0, 1))
    assert len({frozenset(batch) for batch in found} & {frozenset(batch) for batch in next_epoch}) < len(found) / 10


@pytest.mark.parametrize("movies", [300, 5000])
def test_longer_movies_do_not_come_after_shorter_ones(movies):
    rows = lengths = np.arange(movies)
    shortest = [min(batch) for batch in batches(rows, size=4, seed=1, lengths=lengths)]
    assert 0.3 < np.mean(np.diff(shortest) > 0) < 0.7


@pytest.mark.parametrize("tokens", [200, 500, 4000])
def test_no_padded_batch_holds_more_tokens_than_its_budget(tokens):
    found = batches(seed=1, lengths=LENGTHS, tokens=tokens)
    assert all(len(batch) * LENGTHS[batch].max() <= tokens for batch in found)


def test_a_budget_is_used():
    found = batches(np.arange(10), seed=1, lengths=np.full(10, 100), tokens=300)
    assert sorted(map(len, found)) == [1, 3, 3, 3]


def test_a_movie_longer_than_the_budget_is_alone():
    lengths = np.array([10, 900, 10, 10, 700])
    found = batches(np.arange(5), seed=1, lengths=lengths, tokens=30)
    assert sorted(map(sorted, found)) == [[0, 2, 3], [1], [4]]


@every_order
@pytest.mark.parametrize("world", [2, 3, 7])
def test_processes_share_all_batches(order, world):
    shares = [batches(epoch=2, rank=rank, world=world, **order) for rank in range(world)]
    alone = batches(epoch=2, **order)
    together = [tuple(batch) for share in shares for batch in share]
    if "seed" in order:
        assert len({len(share) for share in shares}) == 1
        assert set(rows_of([list(batch) for batch in together])) == set(ROWS.tolist())
        assert max(map(len, together)) <= max(map(len, alone))
    else:
        assert set(together) == {tuple(batch) for batch in alone}
        assert len(together) == len(alone)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["random", "buckets"])
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("movies", range(40, 52))
def test_the_weighted_mean_over_processes_is_the_mean_over_movies(lengths, world, movies):
    values = np.random.default_rng(0).normal(size=500)
    shares = [Batches(ROWS[:movies], 4, lengths, seed=1, rank=rank, world=world).parts(3) for rank in range(world)]
    alone = Batches(ROWS[:movies], 4 * world, lengths, seed=1).batches(3)
    assert [len(share) for share in shares] == [len(alone)] * world
    for n, update in enumerate(alone):
        mean = np.mean([weight * values[rows].mean() for rows, weight in (share[n] for share in shares)])
        assert mean == pytest.approx(values[update].mean(), abs=1e-12)
    counted = [row for share in shares for rows, weight in share for row in (rows if weight else [])]
    assert sorted(counted) == ROWS[:movies].tolist()


def test_every_process_of_training_has_a_batch():
    shares = [Batches(ROWS[:20], 16, seed=1, rank=rank, world=7).parts(0) for rank in range(7)]
    assert [len(share) for share in shares] == [1] * 7
    assert sum(weight for ((_, weight),) in shares) == pytest.approx(7)


def test_iterating_gives_the_epoch_that_was_set():
    sampler = Batches(ROWS, 16, LENGTHS, 500, seed=1)
    sampler.set_epoch(4)
    assert [rows for rows, _ in sampler] == sampler.batches(4)
    assert len(sampler) == len(sampler.batches(4))


def test_a_split_without_movies_has_no_batches():
    assert batches(ROWS[:0], seed=1, world=2) == []


def test_with_free_padding_lengths_are_mixed():
    found = batches(seed=1, lengths=LENGTHS, tokens=1000, mixed=True)
    held = [int(LENGTHS[batch].sum()) for batch in found]
    assert max(held) <= 1000
    assert all(h + LENGTHS[after[0]] > 1000 for h, after in zip(held, found[1:], strict=False))  # filled in order
    bucketed = batches(seed=1, lengths=LENGTHS, tokens=1000)
    assert np.mean([np.std(LENGTHS[b]) for b in found]) > 3 * np.mean([np.std(LENGTHS[b]) for b in bucketed])
    assert rows_of(found) == rows_of(batches(seed=1))  # the order of a plain shuffle


def test_a_long_text_is_alone_among_mixed_lengths_too():
    lengths = np.array([5, 40, 5, 5, 40])
    found = batches(np.arange(5), seed=1, lengths=lengths, tokens=30, mixed=True)
    assert all(len(batch) == 1 for batch in found if 40 in lengths[batch])


@pytest.mark.parametrize("order", [{}, {"lengths": LENGTHS}], ids=["fixed", "fixed by length"])
@pytest.mark.parametrize("movies", [1, 16, 33, 300])
def test_every_process_of_evaluation_has_a_batch(order, movies):
    rows = ROWS[:movies]
    shares = [batches(rows, rank=rank, world=3, **order) for rank in range(3)]
    assert all(shares)
    assert set(rows_of([batch for share in shares for batch in share])) == set(rows.tolist())
