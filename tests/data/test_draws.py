"""Draw splits, shares of train and missing modalities with seeds of their own."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest

from gmu_lightning.data.draws import Missing, redrawn, rounded, share_of_train
from gmu_lightning.movie import SPLITS, UserError

FILES = np.array(["train"] * 600 + ["val"] * 150 + ["test"] * 250)
ALL = np.ones(1000, dtype=bool)
PAIR = {"text": ALL, "image": ALL}


def genres_of(movies: int) -> list[tuple[str, ...]]:
    """Return the genres of movies; genre n is on a share of about 1 / (n + 2) of them."""
    rng = np.random.default_rng(0)
    return [tuple(f"g{n}" for n in range(20) if rng.random() < 1 / (n + 2)) for _ in range(movies)]


def counts(lost: dict[str, np.ndarray]) -> dict[str, list[int]]:
    return {m: [int(gone[split == FILES].sum()) for split in SPLITS] for m, gone in lost.items()}


@pytest.mark.parametrize(("text", "image"), [(0.7, 0.3), (0.9, 0.1), (0.35, 0.35), (0.1, 0.7), (0.05, 0.95), (0.5, 0.5)])
def test_counts_are_the_rounded_rates_and_no_movie_loses_both(text, image):
    lost = Missing({"text": text, "image": image}).lost(PAIR, FILES)
    sizes = (600, 150, 250)
    assert counts(lost) == {"text": [rounded(text, n) for n in sizes], "image": [rounded(image, n) for n in sizes]}
    assert not (lost["text"] & lost["image"]).any()


def test_rates_refer_to_movies_that_have_the_modality():
    has = {"text": ALL, "image": np.arange(1000) % 3 > 0}
    lost = Missing({"image": 0.7}).lost(has, FILES)["image"]
    assert counts({"image": lost})["image"] == [rounded(0.7, n) for n in (400, 100, 166)]
    assert not (lost & ~has["image"]).any()


def test_a_smaller_rate_takes_some_movies_of_a_larger_one():
    rates = [round(0.1 * n, 1) for n in range(1, 10)]
    found = {(t, i): Missing({"text": t, "image": i}).lost(PAIR, FILES) for t in rates for i in rates if t + i <= 1}
    for (a, small), (b, large) in combinations(found.items(), 2):
        if a[0] <= b[0] and a[1] <= b[1]:
            assert all((small[m] <= large[m]).all() for m in small)


@pytest.mark.parametrize("rates", [(0.3, 0.3, 0.3), (0.9, 0.5, 0.5), (0.8, 0.6, 0.6), (0.9, 0.9, 0.2)])
def test_three_modalities_leave_one_to_every_movie(rates):
    names = ("text", "video", "audio")
    draw = Missing(dict(zip(names, rates, strict=True)))
    lost = draw.lost(dict.fromkeys(names, ALL), FILES)
    assert [int(lost[m].sum()) for m in names] == [rounded(rate, 1000) for rate in rates]
    assert not np.all(list(lost.values()), axis=0).any()


def test_modalities_are_lost_independently_of_each_other():
    names = ("text", "image", "video", "audio", "metadata")
    lost = Missing(dict.fromkeys(names, 0.3)).lost(dict.fromkeys(names, ALL), FILES)
    both = [float((lost[a] & lost[b]).mean()) for a, b in combinations(names, 2)]
    assert np.mean(both) == pytest.approx(0.3 * 0.3, abs=0.02)


def test_only_the_named_splits_lose_modalities():
    assert counts(Missing({"text": 0.5}, ("val",)).lost(PAIR, FILES)) == {"text": [0, 75, 0]}


def test_the_seed_determines_who_loses_a_modality_and_their_order_does_not():
    def lost(seed: int, **has: np.ndarray) -> np.ndarray:
        return Missing({"text": 0.5, "image": 0.2}, SPLITS, seed).lost(has, FILES)["text"]

    assert (lost(0, text=ALL, image=ALL) == lost(0, image=ALL, text=ALL)).all()
    assert (lost(0, text=ALL, image=ALL) != lost(1, text=ALL, image=ALL)).any()


def test_one_movie_of_each_split_keeps_the_modality():
    splits = np.array(["train"] * 3 + ["val"] * 2 + ["test"])
    lost = Missing({"text": 0.9}).lost({"text": np.ones(6, dtype=bool), "image": np.ones(6, dtype=bool)}, splits)["text"]
    assert [int(lost[splits == split].sum()) for split in SPLITS] == [2, 1, 0]


def test_a_rate_that_the_data_cannot_meet_is_named():
    has = {"text": ALL, "image": np.arange(1000) % 2 > 0}
    draw = Missing({"text": 0.7}, ("train",))
    lost = draw.lost(has, FILES)
    assert counts(lost)["text"] == [300, 0, 0]
    assert draw.shortfalls(lost, has, FILES) == [
        "missing_rates: 300 of 600 movies of train lose text in place of 420, because no movie loses all of its modalities"
    ]
    assert not draw.shortfalls(draw.lost(PAIR, FILES), PAIR, FILES)


def unevenness(genres: list[tuple[str, ...]], splits: np.ndarray) -> float:
    """Return how many labels are in another split than equal shares of each genre would have."""
    total = Counter(name for names in genres for name in names)
    found = Counter((one, name) for names, one in zip(genres, splits.tolist(), strict=True) for name in names)
    return sum(abs(found[split, name] - np.mean(splits == split) * n) for split in SPLITS for name, n in total.items())


def test_a_random_split_has_the_published_sizes_and_is_stratified():
    genres = genres_of(1000)
    found = redrawn(genres, FILES, seed=1)
    assert Counter(found.tolist()) == {"train": 600, "val": 150, "test": 250}
    by_chance = [unevenness(genres, np.random.default_rng(seed).permutation(FILES)) for seed in range(5)]
    assert unevenness(genres, found) < 0.5 * min(by_chance)


def test_the_split_seed_determines_a_random_split():
    genres = genres_of(1000)
    assert (redrawn(genres, FILES, 1) == redrawn(genres, FILES, 1)).all()
    assert 0.3 < np.mean(redrawn(genres, FILES, 1) == redrawn(genres, FILES, 2)) < 0.7


def labels_of(movies: int) -> np.ndarray:
    return np.array([[f"g{n}" in names for n in range(20)] for names in genres_of(movies)])


def test_a_smaller_share_of_train_is_part_of_a_larger_one():
    labels = labels_of(600)
    shares = [share_of_train(labels, share, 0) for share in (0.05, 0.1, 0.3, 0.9, 1.0)]
    assert [int(kept.sum()) for kept in shares] == [30, 60, 180, 540, 600]
    assert all((small <= large).all() for small, large in pairwise(shares))
    assert (share_of_train(labels, 0.3, 0) != share_of_train(labels, 0.3, 1)).any()


def test_every_genre_keeps_a_movie_in_a_small_share():
    labels = np.zeros((600, 4), dtype=bool)
    labels[:, 0] = labels[17, 1] = labels[333, 2] = labels[::9, 3] = True
    for seed in range(5):
        assert labels[share_of_train(labels, 0.01, seed)].any(axis=0).all()


def test_a_share_too_small_for_all_genres_is_refused_with_the_smallest():
    labels = np.eye(20, dtype=bool)[np.arange(400) % 20]
    with pytest.raises(UserError, match=r"^data.train_share=0.04 keeps 16 of the 400 movies of train.*: give 0.05 or more$"):
        share_of_train(labels, 0.04, 0)
    assert labels[share_of_train(labels, 0.05, 0)].any(axis=0).all()
