"""Information of the modalities about each genre, in bits, from the cross-entropies of a model's predictions on their subsets.

I(Y; S) = H(Y) - CE(Y | S), with the entropy H(Y) of the genre in the split, and the cross-entropy of the model that sees the
modalities in S. A model that was not trained on subsets is wrong about its own certainty there. So the logits of every subset
and genre are first calibrated by a logistic regression on other movies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gmu_lightning.decisions import Task, probabilities_of

RIDGE = 0.1  # Pulls slope and offset to 1 and 0, with a fraction of a movie's weight.
ROUNDS, STABLE, SMALL = 50, 1e-8, 1e-9  # Of Newton's method: number of steps, smallest step, smallest loss.
CERTAIN = 1e-6  # Distance of probabilities from 0 and 1.
Subset = frozenset[int]


@dataclass(frozen=True)
class Split:
    """Labels and the logits of every subset of modalities, all (N, C). The subsets are sets of indices of modalities."""

    labels: np.ndarray
    logits: Mapping[Subset, np.ndarray]


def bits(split: Split, calibration: Split | None, task: Task) -> dict[Subset, np.ndarray]:
    """Return {subset: bits of each movie about each genre, (N, C)}. Their means over the movies are I(Y; S).

    Args:
        split: the movies that are judged.
        calibration: other movies. None calibrates each half of the split, every other movie, on the other half.
        task: of the labels.
    """
    count = len(split.labels)
    share = np.clip(split.labels.mean(axis=0), CERTAIN, 1 - CERTAIN)
    prior = _log2_of_truth(np.broadcast_to(share, split.labels.shape), split.labels)
    found = {}
    for subset, logits in split.logits.items():
        own = _single(logits, task)
        if calibration is not None:
            found[subset] = _log2_of_truth(
                _calibrated(_single(calibration.logits[subset], task), calibration.labels, own), split.labels
            )
        else:
            found[subset] = np.empty_like(own)
            for half in (np.arange(count) % 2 == 0, np.arange(count) % 2 == 1):
                fitted = _calibrated(own[~half], split.labels[~half], own[half])
                found[subset][half] = _log2_of_truth(fitted, split.labels[half])
        found[subset] -= prior
    return found


def decomposed(values: Mapping[Subset, np.ndarray], modalities: int) -> dict[str, np.ndarray]:
    """Return `joint`, `redundant`, `co_information` and `unique/<index>` of the bits of subsets, in the shape of the bits.

    `joint` is the information of all modalities. `unique/m` is the loss without modality m. `redundant` is the rest, joint minus
    the sum of unique: information that several modalities share, minus synergy. `co_information` is the alternating sum over all
    subsets (McGill 1954). For two modalities it equals `redundant`.
    """
    every = frozenset(range(modalities))
    joint = values[every]
    nothing = np.zeros_like(joint)
    unique = {f"unique/{m}": joint - values.get(every - {m}, nothing) for m in range(modalities)}
    shared = joint - sum(unique.values(), nothing)
    alternating = sum(((-1) ** (len(subset) + 1) * one for subset, one in values.items()), nothing)
    return {"joint": joint, "redundant": shared, "co_information": alternating, **unique}


def _single(logits: np.ndarray, task: Task) -> np.ndarray:
    """Return each genre's logit against all others, (N, C)."""
    if task == "multilabel":
        return logits
    p = np.clip(probabilities_of(logits, task), CERTAIN, 1 - CERTAIN)
    return np.asarray(np.log(p) - np.log1p(-p))


def _log2_of_truth(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    p = np.clip(probabilities, CERTAIN, 1 - CERTAIN)
    return np.log2(np.where(labels, p, 1 - p))


def _calibrated(logits: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the probabilities sigmoid(a z + b) of other logits z (n, C), with a and b (C,) fitted to logits and labels (N, C).

    The loss is the cross-entropy plus RIDGE ((a - 1)^2 + b^2) / 2. Newton's method minimises it from a = 0 on. It halves a step
    that does not lower the loss.
    """
    share = np.clip(labels.mean(axis=0), CERTAIN, 1 - CERTAIN)
    slope, offset = np.zeros_like(share), np.log(share) - np.log1p(-share)

    def loss(slope: np.ndarray, offset: np.ndarray) -> np.ndarray:
        z = slope * logits + offset
        return (np.logaddexp(0, z) - labels * z).sum(axis=0) + RIDGE * ((slope - 1) ** 2 + offset**2) / 2

    for _ in range(ROUNDS):
        p = probabilities_of(slope * logits + offset, "multilabel")
        error, weight = p - labels, p * (1 - p)
        gradient = (error * logits).sum(axis=0) + RIDGE * (slope - 1), error.sum(axis=0) + RIDGE * offset
        aa, ab, bb = (weight * logits**2).sum(axis=0) + RIDGE, (weight * logits).sum(axis=0), weight.sum(axis=0) + RIDGE
        determinant = aa * bb - ab**2
        down = (bb * gradient[0] - ab * gradient[1]) / determinant, (aa * gradient[1] - ab * gradient[0]) / determinant
        before, length = loss(slope, offset), np.ones_like(share)
        while (worse := loss(slope - length * down[0], offset - length * down[1]) > before + SMALL).any():
            length[worse] /= 2
        slope, offset = slope - length * down[0], offset - length * down[1]
        if max(np.abs(down[0]).max(), np.abs(down[1]).max()) < STABLE:
            break
    return probabilities_of(slope * others + offset, "multilabel")


def subsets(modalities: Sequence[object]) -> list[Subset]:
    """Return every subset of the modalities that is not empty, as sets of indices."""
    count = len(modalities)
    return [frozenset(i for i in range(count) if number >> i & 1) for number in range(1, 2**count)]
