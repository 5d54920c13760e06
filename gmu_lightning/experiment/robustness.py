"""Missing modalities as an experiment: what a model is worth when its movies lack what it was trained with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch

from gmu_lightning.data.module import MovieData
from gmu_lightning.experiment.results import split_scores
from gmu_lightning.fusion.base import encoded
from gmu_lightning.lightning import pl
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import MODALITIES, MovieBatch, Prediction, UserError
from gmu_lightning.report.robustness import ALL, SCORES, Robustness, Row
from gmu_lightning.run import Predictions

SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Scenario:
    """What is left of the modalities of N movies.

    Attributes:
        present: (N, M) bool.
        about: the columns of robustness.csv that say which scenario it is.
    """

    present: np.ndarray
    about: Row


def seed_of_draw(robustness: Any, seed: Any) -> int | None:
    """The seed of the order in which movies lose a modality; None where `robustness` is false. Raises UserError."""
    if not isinstance(robustness, bool):
        raise UserError(f"robustness={robustness} is neither true nor false: give one of them")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UserError(f"robustness_seed={seed} is no seed: give a whole number from 0 on, such as robustness_seed=1")
    return seed if robustness else None


def deprived(model: MovieGenreClassifier, data: MovieData, split: str, seed: int) -> Deprived:
    """The model, to be asked about a split's movies with less and less of them."""
    present = data.present[data.rows(split)].numpy()
    return Deprived(model, data.ids[split], scenarios(present, list(data.columns), seed), seed)


def scenarios(present: np.ndarray, modalities: Sequence[str], seed: int) -> list[Scenario]:
    """Each modality taken from a share of the movies that have it, then all of them at once, then every subset alone.

    Args:
        present: (N, M) bool, what the movies have, in the split's order.
        seed: with a modality's name and N it settles in which order movies lose that modality. So those that lack it at one share
            lack it at every larger one, and `all` takes each modality from the movies that lose it alone.
    """
    orders = [_losing_order(present[:, i], modality, seed) for i, modality in enumerate(modalities)]
    groups = {modality: [i] for i, modality in enumerate(modalities)}
    if len(modalities) > 1:
        groups[ALL] = list(range(len(modalities)))
    shares = [_without(present, orders, group, name, share) for name, group in groups.items() for share in SHARES]
    return [*shares, *_subsets(present, modalities)]


def _losing_order(has: np.ndarray, modality: str, seed: int) -> np.ndarray:
    """The movies that have a modality, in the order in which they lose it; whoever else lacks it does not change it."""
    order = np.random.default_rng((seed, MODALITIES.index(modality))).permutation(len(has))
    return order[has[order]]


def _without(present: np.ndarray, orders: Sequence[np.ndarray], group: Sequence[int], name: str, share: float) -> Scenario:
    left = present.copy()
    for i in group:
        left[orders[i][: round(share * len(orders[i]))], i] = False
    had = int(present[:, group].sum())
    realised = (had - int(left[:, group].sum())) / had if had else None
    return Scenario(left, {"kind": "share", "modality": name, "share": share, "realised": realised, "subset": None})


def _subsets(present: np.ndarray, modalities: Sequence[str]) -> Iterator[Scenario]:
    for size in range(1, len(modalities) + 1):
        for chosen in combinations(range(len(modalities)), size):
            left = np.zeros_like(present)
            left[:, chosen] = present[:, chosen]
            name = "+".join(modalities[i] for i in chosen)
            yield Scenario(left, {"kind": "subset", "modality": None, "share": None, "realised": None, "subset": name})


class Deprived(pl.LightningModule):
    """A model that says of each movie, in the pass in which it is predicted, what it would have said with less of it.

    Its predictions are the model's own. Every modality is read and encoded once, and only what follows is computed anew for each
    scenario; of the inputs a text that is read together with other modalities (`needs = "tokens"`) is the one exception.

    Args:
        ids: N movies, in the order of the scenarios' rows.
        scenarios: equal ones are computed once.
        seed: that they were drawn with.
    """

    def __init__(self, model: MovieGenreClassifier, ids: Sequence[str], scenarios: Sequence[Scenario], seed: int):
        super().__init__()
        self.model, self.fusion, self.head = model, model.fusion, model.head
        self.row = {movie: n for n, movie in enumerate(ids)}
        self.scenarios, self.seed = scenarios, seed
        distinct, self.place = np.unique([scenario.present for scenario in scenarios], axis=0, return_inverse=True)
        self.left = torch.from_numpy(distinct)  # (K, N, M)
        self.logits = np.empty((0, 0, 0))  # (K, N, C)

    def validation_step(self, batch: MovieBatch, _index: int) -> Prediction:  # type: ignore[override]
        """The model's own prediction."""
        known = batch._replace(inputs={m: self._once(batch, m, i) for i, m in enumerate(self.model.encoders)})
        prediction = self.model(known)
        if not self.logits.size:
            self.logits = np.full((*self.left.shape[:2], prediction.logits.shape[1]), np.nan)
        rows = [self.row[movie] for movie in batch.ids]
        for k, left in enumerate(self.left[:, rows].to(batch.present.device)):
            self.logits[k, rows] = self.model(known._replace(present=left)).logits.cpu().double().numpy()
        return prediction

    def _once(self, batch: MovieBatch, modality: str, i: int) -> Any:
        if self.fusion.needs == "tokens" and modality == "text":
            return batch.inputs[modality]
        return encoded(self.model.encoders[modality], batch.inputs[modality], batch.present[:, i])

    def study(self, run: str, predictions: Predictions) -> Robustness:
        """The scores of every scenario, after the pass that gave the split's predictions."""
        rows, genres = [], []
        for scenario, place in zip(self.scenarios, self.place, strict=True):
            left = replace(predictions, present=scenario.present, logits=self.logits[place])
            found = split_scores(left, self.model, {})
            rows.append(scenario.about | {name: found[name] for name in ("movies", "movies_without_input", *SCORES)})
            if scenario.about["kind"] == "subset":
                genres += _by_genre(str(scenario.about["subset"]), predictions, found)
        had = dict(zip(predictions.modalities, predictions.present.sum(axis=0).tolist(), strict=True))
        rates = dict(zip(predictions.modalities, self.model.modality_dropout, strict=True))
        return Robustness(run, predictions.split, self.seed, had, rates, rows, genres)


def _by_genre(subset: str, of: Predictions, found: Mapping[str, float]) -> list[Row]:
    """Rows of robustness_by_genre.csv."""
    movies = of.labels.sum(axis=0).tolist()
    return [
        {"subset": subset, "genre": genre, "movies": count, "f1": found[f"f1/{genre}"], "ap": found.get(f"ap/{genre}")}
        for genre, count in zip(of.genres, movies, strict=True)
    ]
