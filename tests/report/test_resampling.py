"""Bootstrap and permutation are scipy's where it has them, and the same for the same runs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gmu_lightning.report.inference import Difference, Scored
from gmu_lightning.report.resampling import Bootstrap, Resampling

NOTHING = Scored(np.full(3, 0.5), np.zeros((3, 200)))


@pytest.fixture
def movies() -> np.ndarray:
    """What each movie adds to a difference."""
    return np.random.default_rng(4).normal(0.03, 0.4, 200)


@pytest.fixture
def one(movies) -> Scored:
    """A setting whose seeds do not matter."""
    return Scored(np.full(3, 0.5 + movies.mean()), np.tile(movies - movies.mean(), (3, 1)))


def random(seed: int, movies: int = 90) -> Scored:
    rng = np.random.default_rng(seed)
    return Scored(rng.normal(0.5, 0.02, 3), rng.normal(0, 1, (3, movies)))


def test_permutation_is_scipy_s(one, movies):
    pair = Difference(one, NOTHING)
    expected = stats.permutation_test((movies,), np.mean, permutation_type="samples", n_resamples=20_000, rng=0)
    assert Resampling([one, NOTHING], [pair]).of(pair).p_permutation == pytest.approx(expected.pvalue, abs=0.02)


def test_the_bootstrap_is_scipy_s_where_seeds_do_not_matter(one, movies):
    pair = Difference(one, NOTHING)
    found = Resampling([one, NOTHING], [pair])
    expected = stats.bootstrap((movies,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    assert (found.of(pair).low, found.of(pair).high) == pytest.approx(expected, abs=0.004)
    assert found.interval(one) == pytest.approx([0.5 + end for end in expected], abs=0.004)


def test_the_bootstrap_is_scipy_s_where_movies_do_not_matter():
    seeds = np.array([0.5, 0.53, 0.55, 0.49, 0.52])
    one = Scored(seeds, np.zeros((5, 40)))
    expected = stats.bootstrap((seeds,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    assert Bootstrap([one]).interval(one) == pytest.approx(expected, abs=0.002)


def test_all_pairs_are_resampled_over_the_same_draws():
    a, b, c = random(1), random(2), random(3)
    first, second = Difference(a, b), Difference(a, c)
    alone, again = Resampling([a, b], [first]).of(first), Resampling([a, b], [first]).of(first)
    together = Resampling([a, b, c], [first, second]).of(first)
    assert alone == again
    assert together.p_bootstrap == pytest.approx(alone.p_bootstrap, abs=0.03)


def test_settings_on_other_movies_are_resampled_by_themselves():
    a, b, other = random(1), random(2), random(3, movies=50)
    pair = Difference(a, b)
    found = Resampling([a, other, b], [pair])
    assert found.of(pair) == Resampling([a, b], [pair]).of(pair)
    assert found.interval(other) == Resampling([other], []).interval(other)


def test_of_fewer_than_three_seeds_no_bootstrap_is_told():
    few = Scored(np.array([0.5, 0.6]), np.zeros((2, 90)))
    pair = Difference(few, random(1))
    found = Resampling([few, pair.b], [pair])
    assert found.interval(few) == (None, None)
    assert found.of(pair)[:3] == (None, None, None)
