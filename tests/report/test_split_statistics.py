"""Intervals over splits: the correction for shared movies, the parts that are known better, and the share of false claims."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gmu_lightning.report.split_statistics import DifferenceOverSplits, OneSplit, ScoresOverSplits, difference_of
from gmu_lightning.report.statistics import Retuned, SplitScores

from .simulated import Splits, World, split_claims

IDS = tuple(str(n) for n in range(50))


def on_splits(scores: list[list[float]], ratio: float | None = 0.5, influence: np.ndarray | None = None) -> ScoresOverSplits:
    """Return runs with these scores, {split: seeds}, without an influence of single movies."""
    found = {}
    for n, of_split in enumerate(scores):
        psi = np.zeros((len(of_split), 50)) if influence is None else np.tile(influence, (len(of_split), 1))
        found[f"random {n}"] = OneSplit(SplitScores(np.array(of_split), psi), IDS, IDS, ratio)
    return ScoresOverSplits(found)


def one_seed(scores: list[float], **more) -> ScoresOverSplits:
    return on_splits([[score] for score in scores], **more)


A, B = [0.52, 0.55, 0.51, 0.56, 0.53], [0.50, 0.51, 0.50, 0.53, 0.50]


def test_one_seed_per_split_gives_the_corrected_resampled_t():
    found = difference_of(one_seed(A), one_seed(B))
    by_split = np.subtract(A, B)
    sd = np.sqrt((1 / 5 + 0.5) * by_split.var(ddof=1))
    assert found.p == pytest.approx(2 * stats.t.sf(by_split.mean() / sd, 4))
    half = stats.t.ppf(0.975, 4) * sd
    assert found.interval == pytest.approx((by_split.mean(), by_split.mean() - half, by_split.mean() + half))


def test_differences_are_paired_by_split():
    harder = np.array([0.0, 0.2, -0.1, 0.1, 0.05])  # the same for both settings
    plain = difference_of(one_seed(A), one_seed(B))
    moved = difference_of(one_seed((A + harder).tolist()), one_seed((B + harder).tolist()))
    assert moved.p == pytest.approx(plain.p)
    assert moved.interval == pytest.approx(plain.interval)


def test_only_common_splits_are_compared():
    both = difference_of(one_seed([*A, 0.9]), one_seed(B))
    assert both.p == pytest.approx(difference_of(one_seed(A), one_seed(B)).p)


def test_fewer_than_three_splits_or_unknown_train_movies_test_nothing():
    for few in (difference_of(one_seed(A[:2]), one_seed(B[:2])), difference_of(one_seed(A, ratio=None), one_seed(B, ratio=None))):
        assert few.p is None
        assert few.interval.low is None
        assert few.seeds_needed() is None


def test_variance_is_never_below_the_correction():
    rng = np.random.default_rng(1)
    for _ in range(50):
        a, b = (on_splits(rng.normal(0.5, 0.02, (5, 4)).tolist(), influence=rng.normal(0, 0.1, 50)) for _ in range(2))
        found = difference_of(a, b)
        between = (1 / 5 + 0.5) * (a.means - b.means).var(ddof=1)
        assert sum(part.variance for part in found.parts) >= between - 1e-12


def test_the_part_of_the_splits_keeps_the_correction():
    """However large the part of the movies is, that of the splits is at least test / train times their variance."""
    rng = np.random.default_rng(4)
    a, b = (on_splits(rng.normal(0.5, 0.02, (5, 4)).tolist(), influence=rng.normal(0, 5, 50)) for _ in range(2))
    found = difference_of(a, b)
    assert found.parts[0].variance > (1 / 5 + 0.5) * (a.means - b.means).var(ddof=1)
    assert found.parts[2].variance == pytest.approx(0.5 * (a.means - b.means).var(ddof=1))


def test_seeds_of_all_splits_are_pooled():
    rng = np.random.default_rng(2)
    scores = rng.normal(0.5, 0.01, (5, 4))
    found = on_splits(scores.tolist()).between_seeds
    assert found.variance == pytest.approx(scores.var(axis=1, ddof=1).mean() / 20)
    assert found.degrees == 15
    assert one_seed(A).between_seeds is None


def test_movie_of_several_splits_counts_with_its_sum():
    """The same test movies in every split have the variance of one split; disjoint ones have a K-th of it."""
    psi = np.random.default_rng(3).normal(0, 1, 50)
    same = on_splits([[0.5, 0.5]] * 4, influence=psi)
    others = {name: one._replace(movies=tuple(f"{name} {n}" for n in range(50))) for name, one in same.splits.items()}
    apart = ScoresOverSplits(others)
    of_one = float(psi @ psi) / 50**2
    assert same.parts[0].variance == pytest.approx(of_one)
    assert apart.parts[0].variance == pytest.approx(of_one / 4)


def test_thresholds_covary_by_shared_val_movies():
    moves = np.random.default_rng(0).normal(0, 0.03, 100)
    tuned = SplitScores(np.array([0.5, 0.51]), np.zeros((2, 50)), lambda: Retuned(np.tile(moves, (2, 1)), 50))
    same = ScoresOverSplits({f"random {n}": OneSplit(tuned, IDS, IDS, 0.5) for n in range(3)})
    apart = ScoresOverSplits({name: one._replace(val=tuple(name + i for i in IDS)) for name, one in same.splits.items()})
    assert same.parts[1].variance == pytest.approx(moves.var(ddof=1))
    assert apart.parts[1].variance == pytest.approx(moves.var(ddof=1) / 3)


def test_stated_seeds_reach_the_power():
    rng = np.random.default_rng(4)
    a, b = (on_splits((mean + rng.normal(0, 0.01, (5, 3))).tolist()) for mean in (0.52, 0.50))
    found = difference_of(a, b)
    needed = found.seeds_needed(0.01)
    assert needed is not None
    assert found.power(needed, 0.01) >= 0.8
    assert needed == 3 or found.power(needed - 1, 0.01) < 0.8
    assert difference_of(one_seed(A), one_seed(B)).seeds_needed() is None


def test_effect_and_superiority_compare_runs_of_the_same_split():
    shift = [[0.10, 0.12], [0.50, 0.52], [0.90, 0.92]]
    found = difference_of(on_splits([[x + 0.05 for x in row] for row in shift]), on_splits(shift))
    assert found.superiority == 1
    assert found.effect == pytest.approx(0.05 / np.std([0.10, 0.12], ddof=1) * (1 - 3 / (4 * 6 - 1)))


def test_simulated_splits_share_movies():
    (one, *_) = Splits(pool=200).family([World()], np.random.default_rng(0))
    first, second = (set(split.movies) for split in list(one.splits.values())[:2])
    assert 0 < len(first & second) < len(first) == 60
    assert isinstance(difference_of(one, one), DifferenceOverSplits)


@pytest.mark.heavy
@pytest.mark.parametrize("splits", [5, 6])
def test_equal_settings_have_false_claims_in_at_most_5_percent_of_families(splits):
    """Draw 300 families of 4 equal settings with 5 seeds on each split; the plain variance claims far too much."""
    found = split_claims(Splits(splits=splits), 300)
    assert found.naive > 0.15
    assert found.corrected <= 0.05


@pytest.mark.heavy
def test_a_difference_of_two_points_is_found():
    """Draw 60 families in which one of four settings is 2 points better, with 1,500 test movies and 6 splits."""
    assert split_claims(Splits(pool=5_000, splits=6), 60, gain=0.055).power > 0.5
