"""What a movie adds to a score is what the score changes by when the movie counts a little more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmu_lightning.metrics import scores
from gmu_lightning.movie import UserError
from gmu_lightning.report.influence import KINDS, influence

GENRES = list("abcd")


def split(seed: int, movies: int = 40, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.random((movies, len(GENRES))) < 0.3
    probabilities = np.clip(rng.random(labels.shape) + 0.2 * labels, 0, 1)
    return labels, np.round(probabilities, 1) if ties else probabilities


@pytest.mark.parametrize("metric", KINDS)
@given(seed=st.integers(0, 10_000), ties=st.booleans(), movies=st.integers(3, 30))
@settings(max_examples=20, deadline=None)
def test_the_score_is_the_score_and_a_movie_counted_more_moves_it_so(metric, seed, ties, movies):
    labels, probabilities = split(seed, movies, ties)
    found = influence(metric, labels, probabilities)
    assert found.score == pytest.approx(scores(labels, probabilities, GENRES)[metric], abs=1e-12)
    assert found.psi.sum() == pytest.approx(0, abs=1e-9)
    movie, often, step = seed % movies, 300, 3

    def counted(times: int) -> float:
        rows = np.repeat(np.arange(movies), np.where(np.arange(movies) == movie, times, often))
        return scores(labels[rows], probabilities[rows], GENRES)[metric]

    slope = (counted(often + step) - counted(often - step)) / (2 * step) * often * movies
    assert found.psi[movie] == pytest.approx(slope, abs=2e-3)


@pytest.mark.parametrize("threshold", [0.3, np.array([0.2, 0.4, 0.6, 0.8])])
@pytest.mark.parametrize("metric", [kind for kind in KINDS if kind.startswith("f1")])
def test_thresholds_are_the_scores(metric, threshold):
    labels, probabilities = split(3)
    expected = scores(labels, probabilities, GENRES, threshold)[metric]
    assert influence(metric, labels, probabilities, threshold).score == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", KINDS)
def test_its_variance_is_that_of_a_bootstrap_over_movies(metric):
    labels, probabilities = split(5, movies=400, ties=False)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(600):
        rows = rng.integers(len(labels), size=len(labels))
        drawn.append(scores(labels[rows], probabilities[rows], GENRES)[metric])
    found = influence(metric, labels, probabilities)
    assert np.sqrt((found.psi**2).sum()) / len(labels) == pytest.approx(np.std(drawn), rel=0.1)


@pytest.mark.parametrize("metric", KINDS)
def test_a_split_without_a_single_genre_scores_nothing(metric):
    labels, probabilities = np.zeros((5, 4), bool), np.full((5, 4), 0.1)
    found = influence(metric, labels, probabilities)
    assert (found.score, np.abs(found.psi).max()) == (0.0, 0.0)


def test_a_metric_that_is_none_is_an_error_that_names_them():
    with pytest.raises(UserError, match="metric=f1_micros is no score of a whole split: choose one of f1_micro, f1_macro"):
        influence("f1_micros", *split(0))
