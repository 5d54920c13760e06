"""Intervals cover the truth, equal settings rarely differ, and the stated numbers of seeds find real differences."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gmu_lightning.report.comparison import compare
from gmu_lightning.report.multiplicity import holm, letters
from gmu_lightning.report.sentences import as_json, pair_sentence, seeds_command
from gmu_lightning.report.statistics import Difference, Resampling, Retuned, SplitScores

from .simulated import MANY_GENRES, World, false_claims


def scored(scores: list[float], influence: np.ndarray | None = None) -> SplitScores:
    return SplitScores(np.array(scores), np.zeros((len(scores), 50)) if influence is None else influence)


def test_difference_equals_welch_s_test_of_seeds():
    a, b = [0.50, 0.53, 0.55, 0.49], [0.47, 0.48, 0.50]
    found = Difference(scored(a), scored(b))
    expected = stats.ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.interval[1:] == pytest.approx(expected.confidence_interval(), rel=1e-9)
    assert scored(a).interval[1:] == pytest.approx(stats.t.interval(0.95, 3, np.mean(a), stats.sem(a)), rel=1e-9)


def test_interval_over_movies_equals_that_of_a_mean():
    x = np.random.default_rng(0).uniform(0.3, 0.9, 400)  # scores per movie
    one = SplitScores(np.array([x.mean()]), (x - x.mean())[None])
    expected = stats.t.interval(0.95, 399, x.mean(), stats.sem(x, ddof=0))
    assert one.interval_of_movies[1:] == pytest.approx(expected, rel=1e-9)
    assert one.interval[1:] == (None, None)  # over seeds too, of which there is one


def test_difference_equals_the_paired_test_of_movies():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.5, 1, 400), rng.normal(0.6, 1, 400)  # scores per movie
    y += x
    same = [SplitScores(np.full(3, each.mean()), np.tile(each - each.mean(), (3, 1))) for each in (x, y)]
    found, expected = Difference(*same), stats.ttest_rel(x, y)
    assert found.p == pytest.approx(expected.pvalue, rel=0.02)
    assert found.interval[1:] == pytest.approx(expected.confidence_interval(), rel=0.01)


@pytest.mark.parametrize("few", [[0.5], [0.4, 0.6]])
def test_fewer_than_three_seeds_give_no_interval(few):
    one, some = scored(few), scored([0.4, 0.41, 0.42])
    assert one.interval == (0.5, None, None)
    assert (Difference(one, some).p, Difference(one, some).interval[1:], Difference(one, some).effect) == (
        None,
        (None, None),
        None,
    )
    assert Difference(one, some).seeds_needed() is None


def test_intervals_stay_within_zero_and_one():
    assert scored([1.0, 1.0, 0.98]).interval.high == 1.0
    assert scored([0.0, 0.0, 0.02]).interval.low == 0.0


def test_equal_runs_have_p_one():
    same = scored([0.5, 0.5, 0.5])
    assert (Difference(same, same).p, Difference(same, same).interval) == (1.0, (0.0, 0.0, 0.0))
    assert Difference(scored([0.6, 0.6, 0.6]), same).p == 0.0


def test_effect_is_hedges_g_and_superiority_is_a_share():
    a, b = [0.52, 0.54, 0.56], [0.50, 0.51, 0.54]
    pooled = np.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2)
    found = Difference(scored(a), scored(b))
    assert found.effect == pytest.approx((np.mean(a) - np.mean(b)) / pooled * (1 - 3 / (4 * 4 - 1)))
    assert found.superiority == pytest.approx((3 + 2.5 + 2) / 9)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12))
@settings(deadline=None, max_examples=30)  # statsmodels collects garbage in each call
def test_holm_equals_statsmodels(p):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    known = [value for value in p if value is not None]
    found, _ = holm(p)
    assert [value is None for value in found] == [value is None for value in p]
    if known:
        expected = multitest.multipletests(known, method="holm")[1]
        assert [value for value in found if value is not None] == pytest.approx(expected.tolist())


@given(st.integers(1, 7), st.integers(0, 2**21 - 1))
def test_settings_share_a_letter_unless_they_differ(count, bits):
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
def test_intervals_cover_the_true_mean(world, seeds):
    """Draw movies and seeds 2,000 times."""
    there, rng = WORLDS[world], np.random.default_rng(7)
    truth, covered = there.truth(), 0
    for _ in range(2_000):
        _, low, high = there.runs(*there.movies(150, rng), seeds, rng).interval
        covered += low <= truth <= high
    assert 0.93 <= covered / 2_000 <= 0.97


@pytest.mark.parametrize("world", WORLDS)
def test_equal_settings_differ_in_at_most_5_percent(world):
    """Draw 1,500 comparisons of 4 settings with 3 seeds; check single pairs, and all six pairs under Holm."""
    there, rng = WORLDS[world], np.random.default_rng(11)
    singly, ever = 0, 0
    for _ in range(1_500):
        split = there.movies(120, rng)
        runs = [there.runs(*split, 3, rng) for _ in range(4)]
        p = [Difference(a, b).p for a, b in combinations(runs, 2)]
        singly += p[0] < 0.05
        ever += min(holm(p)[0]) < 0.05
    assert singly / 1_500 <= 0.05
    assert ever / 1_500 <= 0.05


@pytest.mark.parametrize("metric", ["f1_macro", "ap_macro"])
def test_rare_genres_give_no_extra_false_claims(metric):
    """Draw 400 comparisons by a macro score, where half of the genres have about two movies."""
    there, rng = World(shares=(0.4, 0.3, 0.2, 0.02, 0.02, 0.02)), np.random.default_rng(11)
    p = []
    for _ in range(400):
        split = there.movies(100, rng)
        p.append(Difference(there.runs(*split, 3, rng, metric), there.runs(*split, 3, rng, metric)).p)
    assert np.mean(np.array(p) < 0.05) <= 0.05


def sized(pilot: Difference, size: float) -> Difference:
    """Return the pilot with scores that differ by `size`."""
    return Difference(replace(pilot.a, scores=pilot.a.scores - pilot.mean + size), pilot.b)


def test_seeds_needed_find_two_points_in_80_percent():
    """Draw 200 pilots of 5 seeds; their `seeds_needed` must find the difference in 80 % and have a median below 40."""
    good, rng = World(skill=1.0615), np.random.default_rng(3)
    assert good.truth() - World().truth() == pytest.approx(0.02, abs=5e-4)
    found, seeds = 0, []
    for _ in range(200):
        split = good.movies(600, rng)
        pilot = Difference(good.runs(*split, 5, rng), World().runs(*split, 5, rng))
        needed = sized(pilot, 0.02).seeds_needed()
        seeds.append(needed or 200)
        later = Difference(good.runs(*split, seeds[-1], rng), World().runs(*split, seeds[-1], rng))
        found += later.p < 0.05 and later.mean > 0
    assert found / 200 >= 0.8
    assert np.median(seeds) < 40


def test_larger_differences_need_fewer_seeds():
    rng = np.random.default_rng(3)
    split = World().movies(400, rng)
    pilot = Difference(World(skill=1.1).runs(*split, 5, rng), World().runs(*split, 5, rng))
    needed = [sized(pilot, size).seeds_needed() for size in (0.10, 0.05, 0.03)]
    assert needed == sorted(needed)
    assert sized(pilot, 0.03).seeds_needed(alpha=0.001) > needed[-1]
    assert sized(pilot, 1e-4).seeds_needed() is None


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_seeds_needed_equal_statsmodels(alpha):
    power = pytest.importorskip("statsmodels.stats.power").TTestIndPower()
    a, b = [0.50, 0.54, 0.58, 0.52], [0.46, 0.50, 0.54, 0.48]
    at_most = np.sqrt(np.var(a, ddof=1) * 3 / stats.chi2.ppf(0.2, 3))  # upper 80 % bound of the deviation between seeds
    needed = Difference(scored(a), scored(b)).seeds_needed(alpha=alpha)
    assert power.power(0.04 / at_most, needed - 1, alpha) < 0.8 <= power.power(0.04 / at_most, needed, alpha)


NOTHING = SplitScores(np.full(3, 0.5), np.zeros((3, 200)))


@pytest.fixture
def movies() -> np.ndarray:
    """Return each movie's part of a difference."""
    return np.random.default_rng(4).normal(0.03, 0.4, 200)


@pytest.fixture
def one(movies) -> SplitScores:
    """Return a setting whose seeds have equal scores."""
    return SplitScores(np.full(3, 0.5 + movies.mean()), np.tile(movies - movies.mean(), (3, 1)))


def random(seed: int, movies: int = 90) -> SplitScores:
    rng = np.random.default_rng(seed)
    return SplitScores(rng.normal(0.5, 0.02, 3), rng.normal(0, 1, (3, movies)))


def test_permutation_equals_scipy(one, movies):
    pair = Difference(one, NOTHING)
    expected = stats.permutation_test((movies,), np.mean, permutation_type="samples", n_resamples=20_000, rng=0)
    assert Resampling([one, NOTHING], [pair]).of(pair).p_permutation == pytest.approx(expected.pvalue, abs=0.02)


def test_bootstrap_over_movies_equals_scipy(one, movies):
    pair = Difference(one, NOTHING)
    found = Resampling([one, NOTHING], [pair])
    expected = stats.bootstrap((movies,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    assert (found.of(pair).low, found.of(pair).high) == pytest.approx(expected, abs=0.004)
    assert found.interval(one) == pytest.approx([0.5 + end for end in expected], abs=0.004)


def test_bootstrap_over_seeds_equals_scipy():
    seeds = np.array([0.5, 0.53, 0.55, 0.49, 0.52])
    one = SplitScores(seeds, np.zeros((5, 40)))
    expected = stats.bootstrap((seeds,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    assert Resampling([one], []).interval(one) == pytest.approx(expected, abs=0.002)


def test_all_pairs_share_the_draws():
    a, b, c = random(1), random(2), random(3)
    first, second = Difference(a, b), Difference(a, c)
    alone, again = Resampling([a, b], [first]).of(first), Resampling([a, b], [first]).of(first)
    together = Resampling([a, b, c], [first, second]).of(first)
    assert alone == again
    assert together.p_bootstrap == pytest.approx(alone.p_bootstrap, abs=0.03)


def test_settings_on_other_movies_are_resampled_separately():
    a, b, other = random(1), random(2), random(3, movies=50)
    pair = Difference(a, b)
    found = Resampling([a, other, b], [pair])
    assert found.of(pair) == Resampling([a, b], [pair]).of(pair)
    assert found.interval(other) == Resampling([other], []).interval(other)


def test_fewer_than_three_seeds_have_no_bootstrap():
    few = SplitScores(np.array([0.5, 0.6]), np.zeros((2, 90)))
    pair = Difference(few, random(1))
    found = Resampling([few, pair.b], [pair])
    assert found.interval(few) == (None, None)
    assert found.of(pair)[:3] == (None, None, None)


def drawn(moves: np.ndarray, val: int = 50) -> SplitScores:
    """Return three seeds with similar scores, which change by `moves` with the draws of val."""
    return SplitScores(np.array([0.5, 0.51, 0.52]), np.zeros((3, 90)), lambda: Retuned(0.5 + np.tile(moves, (3, 1)), val))


def test_threshold_variance_is_the_part_shared_by_seeds():
    moves = np.random.default_rng(0).normal(0, 0.03, 100)
    assert drawn(moves).of_thresholds() == pytest.approx((moves.var(ddof=1), 49))
    own = np.random.default_rng(0).normal(0, 0.03, (3, 4_000))
    alone = SplitScores(np.array([0.5, 0.51, 0.52]), np.zeros((3, 90)), lambda: Retuned(own, 50))
    assert alone.of_thresholds().variance < 0.1 * own.var()


def test_common_threshold_variance_cancels_in_a_difference():
    moves = np.random.default_rng(0).normal(0, 0.03, 100)
    fixed = replace(drawn(moves), retune=None)
    together, apart = Difference(drawn(moves), drawn(moves)), Difference(drawn(moves), drawn(-moves))
    assert together.interval == pytest.approx(Difference(fixed, fixed).interval)
    assert apart.shared[1].variance == pytest.approx(4 * moves.var(ddof=1))
    assert apart.interval.high > 5 * together.interval.high
    assert apart.power(200) < together.power(200) or apart.mean == 0


def test_bootstrap_draws_val_movies_too():
    moves = np.random.default_rng(0).normal(0, 0.03, 100)
    one, fixed = drawn(moves), replace(drawn(moves), retune=None)
    low, high = Resampling([one], []).interval(one)
    assert (low, high) == pytest.approx(np.quantile(0.51 + moves, [0.025, 0.975]), abs=0.01)
    narrow = Resampling([fixed], []).interval(fixed)
    assert high - low > 3 * (narrow[1] - narrow[0])


@pytest.mark.parametrize("metric", ["f1_micro@val", "f1_macro@val_per_genre"])
def test_only_tuned_thresholds_on_test_add_variance(sweep, metric):
    sweep.movies = {"val": 20, "test": 400}
    (pair,) = compare([*sweep.three_seeds("one", 1.0), *sweep.three_seeds("other", 1.1)], metric).pairs
    assert pair.a.scored(metric).of_thresholds().variance > 0
    assert pair.a.scored(metric).of_thresholds().degrees == 19
    assert pair.a.scored(metric, "val").of_thresholds().variance == 0
    assert pair.a.scored(metric.partition("@")[0]).of_thresholds().variance == 0
    assert {name: found.shared[1].degrees for name, found in pair.companions.items() if "@" in name} == {}


def test_fewer_than_twenty_val_movies_claim_nothing(sweep):
    sweep.movies = {"val": 19, "test": 400}
    found = compare(sweep.rivals(), "f1_micro@val_per_genre")
    (pair,) = found.pairs
    assert pair_sentence(pair).endswith(
        "This difference cannot be tested: thresholds were tuned on 19 val movies, and a test needs 20"
    )
    assert (pair.p_holm, pair.verdict, seeds_command(pair)) == (None, "none", None)
    assert as_json(found)["settings"][0]["low"] is None
    assert compare(sweep.rivals()).pairs[0].verdict == "a"


@pytest.mark.heavy
@pytest.mark.parametrize(("val", "before"), [(50, 0.09), (235, 0.0)])
def test_tuned_thresholds_give_no_extra_false_claims(val, before):
    """Draw 300 families of 4 equal settings; with fixed thresholds and 50 val movies, more than 9 % have a false claim."""
    found = false_claims(MANY_GENRES, val, 300, "f1_micro@val_per_genre")
    assert found.fixed > before
    assert found.tuned <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)
