"""A movie's influence is the derivative of a score with respect to the movie's weight."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmu_lightning.metrics import scores, tune_per_genre, tune_threshold
from gmu_lightning.report.influence import KINDS, influence, scores_at, tuned_again

GENRES = list("abcd")


def split(seed: int, movies: int = 40, ties: bool = True, task: str = "multilabel") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.random((movies, len(GENRES))) < 0.3
    if task == "multiclass":
        labels = np.eye(len(GENRES), dtype=bool)[rng.integers(len(GENRES), size=movies)]
    probabilities = np.clip(rng.random(labels.shape) + 0.2 * labels, 0, 1)
    return labels, np.round(probabilities, 1) if ties else probabilities


BOTH = [*((kind, "multilabel") for kind in KINDS if kind != "accuracy"), *((kind, "multiclass") for kind in KINDS)]


@pytest.mark.parametrize(("metric", "task"), BOTH)
@given(seed=st.integers(0, 10_000), ties=st.booleans(), movies=st.integers(3, 30))
@settings(max_examples=20, deadline=None)
def test_influence_is_the_slope_in_a_movie_s_weight(metric, task, seed, ties, movies):
    labels, probabilities = split(seed, movies, ties, task)
    found = influence(metric, labels, probabilities, task=task)
    assert found.score == pytest.approx(scores(labels, probabilities, GENRES, task=task)[metric], abs=1e-12)
    assert found.psi.sum() == pytest.approx(0, abs=1e-9)
    movie, often, step = seed % movies, 300, 3

    def counted(times: int) -> float:
        rows = np.repeat(np.arange(movies), np.where(np.arange(movies) == movie, times, often))
        return scores(labels[rows], probabilities[rows], GENRES, task=task)[metric]

    slope = (counted(often + step) - counted(often - step)) / (2 * step) * often * movies
    assert found.psi[movie] == pytest.approx(slope, abs=2e-3)


@pytest.mark.parametrize("threshold", [0.3, np.array([0.2, 0.4, 0.6, 0.8])])
@pytest.mark.parametrize("metric", [kind for kind in KINDS if kind.startswith("f1")])
def test_influence_scores_at_given_thresholds(metric, threshold):
    labels, probabilities = split(3)
    expected = scores(labels, probabilities, GENRES, threshold)[metric]
    assert influence(metric, labels, probabilities, threshold).score == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("metric", "task"), BOTH)
def test_influence_variance_equals_the_bootstrap_s(metric, task):
    labels, probabilities = split(5, movies=400, ties=False, task=task)
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(labels), size=len(labels)) for _ in range(600)]
    drawn = [scores(labels[rows], probabilities[rows], GENRES, task=task)[metric] for rows in draws]
    found = influence(metric, labels, probabilities, task=task)
    assert np.sqrt((found.psi**2).sum()) / len(labels) == pytest.approx(np.std(drawn), rel=0.1)


@pytest.mark.parametrize("metric", KINDS)
def test_split_without_labels_has_score_zero(metric):
    labels, probabilities = np.zeros((5, 4), bool), np.full((5, 4), 0.1)
    found = influence(metric, labels, probabilities)
    assert (found.score, np.abs(found.psi).max()) == (0.0, 0.0)


TUNE = {"val": tune_threshold, "val_per_genre": tune_per_genre}


@pytest.fixture(params=[False, True], ids=["distinct", "ties"])
def movies_60(request) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities of 60 movies; one genre has a single positive and one has no positive."""
    rng = np.random.default_rng(1)
    labels, probabilities = rng.random((60, 5)) < 0.25, rng.random((60, 5))
    labels[:, 3:] = False
    labels[0, 3] = True
    return labels, probabilities.round(1) if request.param else probabilities


@pytest.mark.parametrize("movies", [60, 8])  # of 8 movies, several thresholds often have the best F1
@pytest.mark.parametrize("rule", TUNE)
def test_weighted_tuning_equals_tuning_the_resampled_split(movies_60, rule, movies):
    labels, probabilities = (array[:movies] for array in movies_60)
    weights = np.random.default_rng(2).multinomial(movies, np.full(movies, 1 / movies), size=40).T
    found = tuned_again(rule, labels, probabilities, weights.astype(np.float32))
    for drawn, thresholds in zip(weights.T, found, strict=True):
        rows = np.repeat(np.arange(movies), drawn)
        assert np.array_equal(np.atleast_1d(TUNE[rule](labels[rows], probabilities[rows])), thresholds)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("f1")])
@pytest.mark.parametrize("width", [1, 5])
def test_scores_at_thresholds_equal_metrics(movies_60, kind, width):
    labels, probabilities = movies_60
    thresholds = np.random.default_rng(3).choice(probabilities.ravel(), size=(20, width))
    expected = [scores(labels, probabilities, tuple("abcde"), at)[kind] for at in thresholds]
    assert scores_at(kind, labels, probabilities, thresholds) == pytest.approx(expected, abs=1e-12)
