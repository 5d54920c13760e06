"""Diagnose a fitted model on the movies of a split: its scores with other gates, without interaction, and without modalities.

Scores are by the plain decisions, as in metrics.json. Every number comes with the influence of each movie on it. Some
numbers also depend on a movie as a partner of others, as the source of permuted gates, or in the calibration. Influences leave
this part out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import comb

import numpy as np
import torch

from gmu_lightning.decisions import Task, probabilities_of
from gmu_lightning.diagnosis.additive import additive
from gmu_lightning.diagnosis.crossing import CrossedMovies
from gmu_lightning.diagnosis.gates import Gates
from gmu_lightning.diagnosis.information import Split, Subset, bits, decomposed, subsets
from gmu_lightning.report.diagnosis import METRICS, Diagnosis
from gmu_lightning.report.influence import Influence, ap_per_genre, influence
from gmu_lightning.run import Predictions

PERMUTATIONS = 20
STILL = 1e-9  # a change of logits below this is rounding
Measures = dict[str, Influence]


def diagnose(
    movies: CrossedMovies,
    predictions: Predictions,
    calibration: tuple[CrossedMovies, np.ndarray] | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Return the diagnosis of a model on the N movies of a split.

    Args:
        movies: the model and the split's movies.
        predictions: of the same movies, in the same order, with at least one label.
        calibration: other movies, and their labels (n, C) bool, on which the logits of subsets are calibrated before their
            information is measured. None calibrates each half of the split on the other half.
        seed: of the permutations and of partners.
    """
    labels, logits, task = predictions.labels, predictions.logits, predictions.task
    measures = _named("score", [_scores(labels, logits, task)])
    gates = Gates.of(movies)
    if gates is not None:
        changed = (logits + _still(change) for change in gates.permuted(PERMUTATIONS, seed))
        measures |= _named("gates_permuted", [_scores(labels, one, task) for one in changed])
        measures |= _named("gates_mean", [_scores(labels, logits + _still(gates.averaged()), task)])
    found = additive(movies, logits, seed)
    measures |= _named("emap", [_scores(labels, found.logits, task)])
    without = subset_logits(movies, predictions.modalities, logits)
    measures |= _shapley(without, predictions)
    other = None
    if calibration is not None:
        other = Split(calibration[1], subset_logits(calibration[0], predictions.modalities))
    own, information = _information(Split(labels, without), other, predictions)
    about = {
        "seed": seed,
        "permutations": PERMUTATIONS,
        "partners": found.partners,
        "complete": found.partners is None,
        "calibrated_on": "val" if calibration is not None else f"halves of {predictions.split}",
        "data_fingerprint": dict(predictions.data_fingerprint),
    }
    of = (predictions.split, predictions.ids, predictions.modalities, predictions.genres, task)
    return Diagnosis(*of, measures | own, information, about)


def subset_logits(movies: CrossedMovies, modalities: Sequence[str], logits: np.ndarray | None = None) -> dict[Subset, np.ndarray]:
    """Return {subset of the modalities: logits (N, C) of the movies that keep these alone}, with the empty subset.

    Args:
        movies: the model and its movies.
        modalities: names of the M axis.
        logits: of the movies as they are; None computes them.
    """
    found: dict[Subset, np.ndarray] = {}
    every = frozenset(range(len(modalities)))
    for subset in (frozenset[int](), *subsets(modalities)):
        if subset == every and logits is not None:
            found[subset] = logits
            continue
        kept = torch.zeros_like(movies.present)
        kept[:, sorted(subset)] = True
        found[subset] = movies.logits(kept=kept)
    return found


def shapley(values: Mapping[Subset, np.ndarray], modalities: int) -> list[np.ndarray]:
    """Return the Shapley value of each modality (Shapley 1953), in the shape of the values.

    Args:
        values: {subset: its worth}, for every subset of the modalities, the empty one too.
        modalities: M.
    """
    worth = []
    for m in range(modalities):
        gains = [
            (values[subset | {m}] - value) / (modalities * comb(modalities - 1, len(subset)))
            for subset, value in values.items()
            if m not in subset
        ]
        worth.append(np.sum(gains, axis=0))
    return worth


def _shapley(without: Mapping[Subset, np.ndarray], of: Predictions) -> Measures:
    """Return `empty/METRIC`, `shapley/MODALITY/METRIC` and `shapley_by_genre/MODALITY/GENRE`."""
    scored = {subset: _scores(of.labels, one, of.task) for subset, one in without.items()}
    by_genre = {subset: ap_per_genre(of.labels, probabilities_of(one, of.task)) for subset, one in without.items()}
    found = _named("empty", [scored[frozenset()]])

    def add(key: Callable[[str], str], values: Mapping[Subset, Influence]) -> None:
        worth = shapley({subset: np.append(one.psi, one.score) for subset, one in values.items()}, len(of.modalities))
        found.update({key(m): Influence(float(one[-1]), one[:-1]) for m, one in zip(of.modalities, worth, strict=True)})

    for metric in METRICS:
        add(lambda m, metric=metric: f"shapley/{m}/{metric}", {subset: one[metric] for subset, one in scored.items()})  # type: ignore[misc]
    for c in by_genre[frozenset()]:
        genre = of.genres[c]
        add(lambda m, genre=genre: f"shapley_by_genre/{m}/{genre}", {subset: one[c] for subset, one in by_genre.items()})  # type: ignore[misc]
    return found


def _information(split: Split, other: Split | None, of: Predictions) -> tuple[Measures, dict[str, dict]]:
    """Return the means over genres as measures, and the bits of each genre. A genre without a movie, or in all, has None."""
    own = Split(split.labels, {subset: one for subset, one in split.logits.items() if subset})
    found = decomposed(bits(own, other, of.task), len(of.modalities))  # each (N, C)
    varies = np.asarray(split.labels.any(axis=0) & ~split.labels.all(axis=0))
    named = {key: one for key, one in found.items() if key in ("redundant", "joint")}
    named |= {f"unique/{m}": found[f"unique/{i}"] for i, m in enumerate(of.modalities)}
    measures = {}
    for key, values in named.items():
        each = values[:, varies].mean(axis=1) if varies.any() else np.zeros(len(values))
        measures[f"information/{key}"] = Influence(float(each.mean()), each - each.mean())

    def value(key: str, c: int) -> float | None:
        return float(found[key][:, c].mean()) if varies[c] else None

    by_genre = {
        genre: {
            "redundant": value("redundant", c),
            "unique": {m: value(f"unique/{i}", c) for i, m in enumerate(of.modalities)},
            "joint": value("joint", c),
            "co_information": value("co_information", c),
        }
        for c, genre in enumerate(of.genres)
    }
    return measures, by_genre


def _scores(labels: np.ndarray, logits: np.ndarray, task: Task) -> dict[str, Influence]:
    probabilities = probabilities_of(logits, task)
    return {metric: influence(metric, labels, probabilities, task=task) for metric in METRICS}


def _named(word: str, scored: Iterable[Mapping[str, Influence]]) -> Measures:
    """Return {`word/METRIC`: the mean over several predictions}."""
    every = list(scored)
    return {
        f"{word}/{metric}": Influence(
            float(np.mean([one[metric].score for one in every])), np.mean([one[metric].psi for one in every], axis=0)
        )
        for metric in METRICS
    }


def _still(change: np.ndarray) -> np.ndarray:
    """Return a change of logits, without the rounding of those that do not change."""
    return np.where(np.abs(change) < STILL, 0.0, change)
