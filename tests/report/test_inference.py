"""Intervals cover, what is equal is not called different, and what differs is found with the seeds that were promised."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gmu_lightning.report.inference import Difference, Scored, holm, letters

from .simulated import World


def scored(scores: list[float], influence: np.ndarray | None = None) -> Scored:
    return Scored(np.array(scores), np.zeros((len(scores), 50)) if influence is None else influence)


def test_where_movies_do_not_matter_it_is_welch_s_test_between_seeds():
    a, b = [0.50, 0.53, 0.55, 0.49], [0.47, 0.48, 0.50]
    found = Difference(scored(a), scored(b))
    expected = stats.ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.interval[1:] == pytest.approx(expected.confidence_interval(), rel=1e-9)
    assert scored(a).interval[1:] == pytest.approx(stats.t.interval(0.95, 3, np.mean(a), stats.sem(a)), rel=1e-9)


def test_where_seeds_do_not_matter_it_is_the_paired_test_between_movies():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.5, 1, 400), rng.normal(0.6, 1, 400)  # a score of each movie
    y += x
    same = [Scored(np.full(3, each.mean()), np.tile(each - each.mean(), (3, 1))) for each in (x, y)]
    found, expected = Difference(*same), stats.ttest_rel(x, y)
    assert found.p == pytest.approx(expected.pvalue, rel=0.02)
    assert found.interval[1:] == pytest.approx(expected.confidence_interval(), rel=0.01)


@pytest.mark.parametrize("few", [[0.5], [0.4, 0.6]])
def test_fewer_than_three_seeds_say_nothing_of_a_setting(few):
    one, some = scored(few), scored([0.4, 0.41, 0.42])
    assert one.interval == (0.5, None, None)
    assert (Difference(one, some).p, Difference(one, some).interval[1:], Difference(one, some).effect) == (
        None,
        (None, None),
        None,
    )
    assert Difference(one, some).seeds_needed() is None


def test_an_interval_of_a_score_stays_within_what_scores_can_be():
    assert scored([1.0, 1.0, 0.98]).interval.high == 1.0
    assert scored([0.0, 0.0, 0.02]).interval.low == 0.0


def test_runs_that_are_the_same_do_not_differ():
    same = scored([0.5, 0.5, 0.5])
    assert (Difference(same, same).p, Difference(same, same).interval) == (1.0, (0.0, 0.0, 0.0))
    assert Difference(scored([0.6, 0.6, 0.6]), same).p == 0.0


def test_effect_sizes_are_hedges_g_and_how_often_one_run_beats_another():
    a, b = [0.52, 0.54, 0.56], [0.50, 0.51, 0.54]
    pooled = np.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2)
    found = Difference(scored(a), scored(b))
    assert found.effect == pytest.approx((np.mean(a) - np.mean(b)) / pooled * (1 - 3 / (4 * 4 - 1)))
    assert found.superiority == pytest.approx((3 + 2.5 + 2) / 9)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12))
@settings(deadline=None)
def test_holm_is_statsmodels_s(p):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    known = [value for value in p if value is not None]
    found = holm(p)
    assert [value is None for value in found] == [value is None for value in p]
    if known:
        expected = multitest.multipletests(known, method="holm")[1]
        assert [value for value in found if value is not None] == pytest.approx(expected.tolist())


@given(st.integers(1, 7), st.integers(0, 2**21 - 1))
def test_settings_share_a_letter_exactly_if_they_are_not_told_apart(count, bits):
    names = [f"s{n}" for n in range(count)]
    pairs = list(combinations(names, 2))
    different = [pair for n, pair in enumerate(pairs) if bits >> n & 1]
    found = letters(names, different)
    for a, b in pairs:
        assert bool(set(found[a]) & set(found[b])) is ((a, b) not in different)
    assert all(found.values())
    assert found[names[0]].startswith("a")


def test_letters_of_a_chain():
    assert letters(["x", "y", "z"], [("x", "z")]) == {"x": "a", "y": "ab", "z": "b"}


WORLDS = {
    "both matter": World(),
    "movies matter": World(seed_sd=0.0, movie_sd=2.0, own_sd=0.1),
    "seeds matter": World(skill=0.6, seed_sd=0.1, movie_sd=0.9, own_sd=0.1),
    "each run errs by itself": World(seed_sd=0.0, movie_sd=0.1, own_sd=1.5),
}


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("world", WORLDS)
def test_intervals_of_a_mean_cover_it(world, seeds):
    """2,000 draws of movies and seeds."""
    there, rng = WORLDS[world], np.random.default_rng(7)
    truth, covered = there.truth(), 0
    for _ in range(2_000):
        _, low, high = there.runs(*there.movies(150, rng), seeds, rng).interval
        covered += low <= truth <= high
    assert 0.93 <= covered / 2_000 <= 0.97


@pytest.mark.parametrize("world", WORLDS)
def test_settings_that_are_the_same_are_called_different_no_more_often_than_said(world):
    """1,500 comparisons of 4 settings, 3 seeds each: each pair by itself, and any of the six pairs under Holm."""
    there, rng = WORLDS[world], np.random.default_rng(11)
    singly, ever = 0, 0
    for _ in range(1_500):
        split = there.movies(120, rng)
        runs = [there.runs(*split, 3, rng) for _ in range(4)]
        p = [Difference(a, b).p for a, b in combinations(runs, 2)]
        singly += p[0] < 0.05
        ever += min(holm(p)) < 0.05
    assert singly / 1_500 <= 0.05
    assert ever / 1_500 <= 0.05


@pytest.mark.parametrize("metric", ["f1_macro", "ap_macro"])
def test_rare_genres_do_not_make_more_of_settings_that_are_the_same(metric):
    """400 comparisons by a macro score, half of the genres with about two movies: their intervals are short, and it is said."""
    there, rng = World(shares=(0.4, 0.3, 0.2, 0.02, 0.02, 0.02)), np.random.default_rng(11)
    p = []
    for _ in range(400):
        split = there.movies(100, rng)
        p.append(Difference(there.runs(*split, 3, rng, metric), there.runs(*split, 3, rng, metric)).p)
    assert np.mean(np.array(p) < 0.05) <= 0.05


def test_a_difference_of_two_points_is_found_with_the_seeds_that_were_asked_for():
    """200 pilots of 5 seeds: what they ask for finds it at least 80 times in 100, and is not outrageous."""
    good, rng = World(skill=1.0615), np.random.default_rng(3)
    assert good.truth() - World().truth() == pytest.approx(0.02, abs=5e-4)
    found, asked = 0, []
    for _ in range(200):
        split = good.movies(600, rng)
        pilot = Difference(good.runs(*split, 5, rng), World().runs(*split, 5, rng))
        needed = pilot.seeds_needed(0.02)
        asked.append(needed or 200)
        later = Difference(good.runs(*split, asked[-1], rng), World().runs(*split, asked[-1], rng))
        found += later.p < 0.05 and later.mean > 0
    assert found / 200 >= 0.8
    assert np.median(asked) < 40


def test_fewer_seeds_find_a_larger_difference_and_some_are_found_by_none():
    rng = np.random.default_rng(3)
    split = World().movies(400, rng)
    pilot = Difference(World(skill=1.1).runs(*split, 5, rng), World().runs(*split, 5, rng))
    needed = [pilot.seeds_needed(size) for size in (0.10, 0.05, 0.03)]
    assert needed == sorted(needed)
    assert pilot.seeds_needed(0.03, alpha=0.001) > pilot.seeds_needed(0.03)
    assert pilot.seeds_needed(1e-4) is None


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_where_movies_do_not_matter_the_seeds_needed_are_statsmodels_s(alpha):
    power = pytest.importorskip("statsmodels.stats.power").TTestIndPower()
    a, b = [0.50, 0.54, 0.58, 0.52], [0.46, 0.50, 0.54, 0.48]
    at_most = np.sqrt(np.var(a, ddof=1) * 3 / stats.chi2.ppf(0.2, 3))  # the upper 80 % bound of the deviation between seeds
    needed = Difference(scored(a), scored(b)).seeds_needed(alpha=alpha)
    assert power.power(0.04 / at_most, needed - 1, alpha) < 0.8 <= power.power(0.04 / at_most, needed, alpha)
