"""Thresholds tuned on val: how val's movies move a score, and that equal settings are not called different for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gmu_lightning.metrics import scores, tune_per_genre, tune_threshold
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.inference import Difference, Retuned, Scored
from gmu_lightning.report.resampling import Resampling
from gmu_lightning.report.thresholds import scores_at, tuned_again

from .simulated import MANY_GENRES, false_claims

TUNE = {"val": tune_threshold, "val_per_genre": tune_per_genre}
KINDS = ("f1_micro", "f1_macro", "f1_weighted", "f1_samples")


@pytest.fixture(params=[False, True], ids=["distinct", "ties"])
def split(request) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of 60 movies: one genre has a single positive, one has none."""
    rng = np.random.default_rng(1)
    labels, probabilities = rng.random((60, 5)) < 0.25, rng.random((60, 5))
    labels[:, 3:] = False
    labels[0, 3] = True
    return labels, probabilities.round(1) if request.param else probabilities


@pytest.mark.parametrize("rule", TUNE)
def test_a_draw_is_tuned_as_the_split_that_it_is(split, rule):
    labels, probabilities = split
    weights = np.random.default_rng(2).multinomial(60, np.full(60, 1 / 60), size=40).T
    found = tuned_again(rule, labels, probabilities, weights.astype(np.float32))
    for drawn, thresholds in zip(weights.T, found, strict=True):
        rows = np.repeat(np.arange(60), drawn)
        assert np.array_equal(np.atleast_1d(TUNE[rule](labels[rows], probabilities[rows])), thresholds)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1, 5])
def test_scores_at_thresholds_are_those_of_metrics(split, kind, width):
    labels, probabilities = split
    thresholds = np.random.default_rng(3).choice(probabilities.ravel(), size=(20, width))
    expected = [scores(labels, probabilities, tuple("abcde"), at)[kind] for at in thresholds]
    assert scores_at(kind, labels, probabilities, thresholds) == pytest.approx(expected, abs=1e-12)


def drawn(moves: np.ndarray, val: int = 50) -> Scored:
    """Three seeds that score alike, and whose scores move so with the draws of val."""
    return Scored(np.array([0.5, 0.51, 0.52]), np.zeros((3, 90)), lambda: Retuned(0.5 + np.tile(moves, (3, 1)), val))


def test_the_part_of_thresholds_is_the_variance_over_draws_that_seeds_share():
    moves = np.random.default_rng(0).normal(0, 0.03, 100)
    assert drawn(moves).of_thresholds() == pytest.approx((moves.var(ddof=1), 49))
    own = np.random.default_rng(0).normal(0, 0.03, (3, 4_000))
    alone = Scored(np.array([0.5, 0.51, 0.52]), np.zeros((3, 90)), lambda: Retuned(own, 50))
    assert alone.of_thresholds().variance < 0.1 * own.var()


def test_what_moves_two_settings_together_moves_no_difference():
    moves = np.random.default_rng(0).normal(0, 0.03, 100)
    fixed = replace(drawn(moves), retune=None)
    together, apart = Difference(drawn(moves), drawn(moves)), Difference(drawn(moves), drawn(-moves))
    assert together.interval == pytest.approx(Difference(fixed, fixed).interval)
    assert apart.shared[1].variance == pytest.approx(4 * moves.var(ddof=1))
    assert apart.interval.high > 5 * together.interval.high
    assert apart.power(200) < together.power(200) or apart.mean == 0


def test_the_bootstrap_draws_val_too():
    moves = np.random.default_rng(0).normal(0, 0.03, 100)
    one, fixed = drawn(moves), replace(drawn(moves), retune=None)
    low, high = Resampling([one], []).interval(one)
    assert (low, high) == pytest.approx(np.quantile(0.51 + moves, [0.025, 0.975]), abs=0.01)
    narrow = Resampling([fixed], []).interval(fixed)
    assert high - low > 3 * (narrow[1] - narrow[0])


@pytest.mark.parametrize("metric", ["f1_micro@val", "f1_macro@val_per_genre"])
def test_only_tuned_thresholds_and_only_on_test_have_a_part(sweep, metric):
    sweep.movies = {"val": 20, "test": 400}
    (pair,) = compare([*sweep.three_seeds("one", 1.0), *sweep.three_seeds("other", 1.1)], metric).pairs
    assert pair.a.scored(metric).of_thresholds().variance > 0
    assert pair.a.scored(metric).of_thresholds().degrees == 19
    assert pair.a.scored(metric, "val").of_thresholds().variance == 0
    assert pair.a.scored(metric.partition("@")[0]).of_thresholds().variance == 0
    assert {name: found.shared[1].degrees for name, found in pair.beside.items() if "@" in name} == {}


def test_fewer_than_twenty_val_movies_tune_no_threshold_to_claim_by(sweep):
    sweep.movies = {"val": 19, "test": 400}
    found = compare(sweep.rivals(), "f1_micro@val_per_genre")
    (pair,) = found.pairs
    assert pair.sentence.endswith("of which nothing can be claimed: thresholds were tuned on 19 val movies, and 20 are the least")
    assert (pair.p_holm, pair.verdict, pair.command) == (None, "none", None)
    assert found.as_json()["settings"][0]["low"] is None
    assert compare(sweep.rivals()).pairs[0].verdict == "a"


@pytest.mark.heavy
@pytest.mark.parametrize(("val", "before"), [(50, 0.09), (235, 0.0)])
def test_equal_settings_are_not_called_different_for_their_thresholds(val, before):
    """300 families of 4 equal settings; with 50 val movies and thresholds taken as given more than 9 % were called different."""
    found = false_claims(MANY_GENRES, val, 300, "f1_micro@val_per_genre")
    assert found.fixed > before
    assert found.tuned <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)
