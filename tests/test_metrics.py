"""Scores equal those of scikit-learn, and tuned thresholds have the highest F1."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, log_loss

from gmu_lightning.decisions import cross_entropy, decided, probabilities_of
from gmu_lightning.metrics import scores, tune_per_genre, tune_threshold

TIED = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
FREE = st.floats(0, 1, width=32)


@st.composite
def splits(draw) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels and probabilities of few movies and genres, so that empty rows, full rows and ties are common."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 5)))
    probabilities = draw(arrays(np.float32, shape, elements=draw(st.sampled_from([TIED, FREE, st.just(0.5)]))))
    return draw(arrays(np.bool_, shape)), probabilities


def names(targets: np.ndarray) -> list[str]:
    return [f"G{c}" for c in range(targets.shape[1])]


def reference(targets: np.ndarray, probabilities: np.ndarray, threshold: float | np.ndarray = 0.5) -> dict[str, float]:
    predicted, found = probabilities >= threshold, {}
    truth, positive = targets.astype(int), predicted.astype(int)
    if targets.shape[1] == 1:  # scikit-learn treats one column as a binary problem, so a second, empty column is added
        truth, positive = (np.hstack([a, np.zeros_like(a)]) for a in (truth, positive))
    per_genre = f1_score(truth, positive, average=None, zero_division=0)[: targets.shape[1]]
    for average in ("micro", "weighted", "samples"):
        found[f"f1_{average}"] = f1_score(truth, positive, average=average, zero_division=0)
    found["f1_macro"] = per_genre.mean()
    found |= {f"f1/G{c}": value for c, value in enumerate(per_genre)}
    some = np.flatnonzero(targets.any(axis=0))
    ap = {f"ap/G{c}": average_precision_score(targets[:, c], probabilities[:, c]) for c in some}
    rows = np.flatnonzero(targets.any(axis=1))
    by_movie = [average_precision_score(targets[n], probabilities[n]) for n in rows]
    found["ap_micro"] = average_precision_score(targets.ravel(), probabilities.ravel()) if len(some) else 0.0
    found["ap_macro"] = np.mean(list(ap.values())) if ap else 0.0
    found["ap_samples"] = np.mean(by_movie) if by_movie else 0.0
    return found | ap | {"ap_macro_genres": len(some)}


@settings(max_examples=300, deadline=None)
@given(splits())
def test_scores_equal_scikit_learn(split):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert scores(*split, names(split[0])) == pytest.approx(reference(*split), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(splits(), st.integers(0, 10))
def test_scores_equal_scikit_learn_with_a_threshold_per_genre(split, seed):
    thresholds = np.random.default_rng(seed).choice([0.1, 0.25, 0.6], split[0].shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert scores(*split, names(split[0]), thresholds) == pytest.approx(reference(*split, thresholds), abs=1e-6)


@st.composite
def single_labels(draw) -> tuple[np.ndarray, np.ndarray]:
    """Draw the label of each movie, and logits with ties."""
    movies, genres = draw(st.tuples(st.integers(1, 9), st.integers(2, 5)))
    label = draw(arrays(np.int64, movies, elements=st.integers(0, genres - 1)))
    return label, draw(arrays(np.float64, (movies, genres), elements=st.sampled_from([-2.0, -0.5, 0.0, 0.1, 3.0])))


@settings(max_examples=200, deadline=None)
@given(single_labels())
def test_scores_of_single_labels_equal_scikit_learn(split):
    label, logits = split
    genres = np.arange(logits.shape[1])
    targets, predicted = label[:, None] == genres, logits.argmax(axis=1)
    probabilities = probabilities_of(logits, "multiclass")
    found = scores(targets, probabilities, names(targets), task="multiclass")
    assert found["accuracy"] == found["f1_micro"] == found["f1_samples"] == accuracy_score(label, predicted)
    for average in ("macro", "weighted"):
        expected = f1_score(label, predicted, labels=genres, average=average, zero_division=0)
        assert found[f"f1_{average}"] == pytest.approx(expected)
    for c in np.unique(label):
        assert found[f"ap/G{c}"] == pytest.approx(average_precision_score(targets[:, c], probabilities[:, c]))
    assert cross_entropy(logits, targets, "multiclass") == pytest.approx(log_loss(label, probabilities, labels=genres))


def test_softmax_is_stable_and_sums_to_one():
    found = probabilities_of(np.array([[1000.0, 1000.0, -1000.0], [0.0, np.log(3), -np.inf]]), "multiclass")
    assert found == pytest.approx(np.array([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]]))


def test_single_labels_are_decided_without_a_threshold():
    probabilities = np.array([[0.2, 0.3, 0.5], [0.4, 0.4, 0.2], [0.3, 0.3, 0.4]])
    found = decided(probabilities, "multiclass", 0.99)
    assert found.tolist() == [[False, False, True], [True, False, False], [False, False, True]]
    assert decided(probabilities, "multilabel", 0.4).sum() == 4


def test_only_single_labels_have_an_accuracy():
    assert "accuracy" not in scores(np.array([[True, False]]), np.array([[0.9, 0.1]]), ["Drama", "War"])


def test_probability_at_the_threshold_predicts_the_genre():
    targets, probabilities = np.array([[True], [False]]), np.array([[0.5], [0.4999]])
    assert scores(targets, probabilities, ["G"])["f1_micro"] == 1
    assert scores(targets, probabilities, ["G"], 0.51)["f1_micro"] == 0


def test_genre_without_a_positive_has_f1_zero_and_no_ap():
    found = scores(np.array([[True, False]]), np.array([[0.9, 0.1]]), ["Drama", "War"])
    assert found["f1/War"] == 0
    assert found["f1_macro"] == 0.5
    assert "ap/War" not in found
    assert found["ap_macro"] == found["ap_macro_genres"] == 1


def test_movie_without_a_genre_counts_for_f1_samples_only():
    found = scores(np.array([[True, False], [False, False]]), np.array([[0.9, 0.1], [0.1, 0.1]]), ["Drama", "War"])
    assert found["f1_samples"] == 0.5
    assert found["ap_samples"] == 1


def test_scores_are_python_numbers():
    found = scores(np.array([[True]]), np.array([[0.9]], dtype=np.float32), ["Drama"])
    assert {type(value) for value in found.values()} == {float, int}


def micro_f1(targets: np.ndarray, probabilities: np.ndarray, threshold: float) -> float:
    hits = (targets & (probabilities >= threshold)).sum()
    return 2 * hits / max(1, targets.sum() + (probabilities >= threshold).sum())


def every_threshold(probabilities: np.ndarray) -> list[float]:
    """Return candidate thresholds: every value, the means of neighbours, and one above all values."""
    values = np.unique(probabilities).astype(float)
    return [*values, *(float(np.mean(pair)) for pair in pairwise(values)), 2.0]


@settings(max_examples=200, deadline=None)
@given(splits())
def test_tuned_threshold_has_the_highest_micro_f1(split):
    targets, probabilities = split
    best = max(micro_f1(targets, probabilities, threshold) for threshold in every_threshold(probabilities))
    assert micro_f1(targets, probabilities, tune_threshold(targets, probabilities)) == pytest.approx(best)


@settings(max_examples=200, deadline=None)
@given(splits())
def test_tuned_genre_thresholds_have_the_highest_f1(split):
    targets, probabilities = split
    tuned = tune_per_genre(targets, probabilities)
    assert tuned.shape == (targets.shape[1],)
    for c, threshold in enumerate(tuned):
        column = targets[:, c], probabilities[:, c]
        best = max(micro_f1(*column, candidate) for candidate in every_threshold(probabilities[:, c]))
        assert micro_f1(*column, threshold) == pytest.approx(best)


def test_genre_without_a_positive_keeps_threshold_half():
    targets = np.array([[True, False], [False, False]])
    assert tune_per_genre(targets, np.array([[0.2, 0.9], [0.1, 0.8]])).tolist() == [0.2, 0.5]


def test_tie_takes_the_threshold_nearest_to_half():
    targets = np.array([[True], [False], [True]])
    assert (
        tune_threshold(np.array([[True], [False], [False], [True], [True]]), np.array([[0.9], [0.8], [0.7], [0.6], [0.1]])) == 0.1
    )
    assert tune_threshold(np.array([[True], [False], [False], [True]]), np.array([[0.9], [0.8], [0.7], [0.6]])) == pytest.approx(
        0.6
    ), "2/3 at .9 and at .6"
    assert tune_threshold(targets, np.array([[0.3], [0.2], [0.2]])) == 0.2
