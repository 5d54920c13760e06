"""Score a model on movies that lack modalities which it was trained with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, cast

import numpy as np
import torch

from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.experiment.results import split_scores
from gmu_lightning.fusion.base import encoded
from gmu_lightning.lightning import pl
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import MODALITIES, MovieBatch, Prediction
from gmu_lightning.report.robustness import ALL, SCORES, Robustness, Row
from gmu_lightning.run import Predictions

SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Scenario:
    """The modalities that N movies keep.

    Attributes:
        present: (N, M) bool.
        about: the columns of robustness.csv that identify the scenario.
    """

    present: np.ndarray
    about: Row


def ablation(model: MovieGenreClassifier, data: MovieDataModule, split: str, seed: int) -> ModalityAblation:
    """Return a model that also predicts a split's movies without some of their modalities.

    Args:
        model: fitted.
        data: holds the split.
        split: `train`, `val` or `test`.
        seed: draws the order in which movies lose a modality.
    """
    present = data.present[data.table.rows(split)].numpy()
    return ModalityAblation(model, data.table.ids[split], scenarios(present, list(data.columns), seed), seed)


def scenarios(present: np.ndarray, modalities: Sequence[str], seed: int) -> list[Scenario]:
    """Return the scenarios: each modality removed from shares of its movies, all removed at once, and every subset by itself.

    The seed, the name of a modality and N determine the order in which movies lose that modality. So movies that lack it at one
    share lack it at every larger share. `all` removes each modality from the same movies that lose it in its own scenarios.

    Args:
        present: (N, M) bool, the modalities that the movies have, in the split's order.
        modalities: names of the M axis.
        seed: of the draw.
    """
    orders = [_losing_order(present[:, i], modality, seed) for i, modality in enumerate(modalities)]
    groups = {modality: [i] for i, modality in enumerate(modalities)}
    if len(modalities) > 1:
        groups[ALL] = list(range(len(modalities)))
    shares = [_without(present, orders, group, name, share) for name, group in groups.items() for share in SHARES]
    return [*shares, *_subsets(present, modalities)]


def _losing_order(has: np.ndarray, modality: str, seed: int) -> np.ndarray:
    """Return the rows of movies that have a modality, in the order in which they lose it, whichever other movies have it."""
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


class ModalityAblation(pl.LightningModule):
    """Predict each movie, and in the same pass the movie without some of its modalities.

    Every modality is encoded once per movie; fusion and head run again for each scenario. The one exception is a text that is
    encoded together with other modalities (see `Fusion.lets_cache`): it is encoded again for each scenario.

    Args:
        model: fitted; the returned predictions are its own.
        ids: N movies, in the order of the scenarios' rows.
        scenarios: equal ones are computed once.
        seed: that the scenarios were drawn with.
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
        """Return the model's own prediction of a batch, and keep the logits of every scenario."""
        known = batch._replace(inputs={m: self._once(batch, m, i) for i, m in enumerate(self.model.encoders)})
        prediction = self.model(known)
        if not self.logits.size:
            self.logits = np.full((*self.left.shape[:2], prediction.logits.shape[1]), np.nan)
        rows = [self.row[movie] for movie in batch.ids]
        for k, left in enumerate(self.left[:, rows].to(batch.present.device)):
            self.logits[k, rows] = self.model(known._replace(present=left)).logits.cpu().double().numpy()
        return prediction

    def _once(self, batch: MovieBatch, modality: str, i: int) -> Any:
        encoder = cast(Encoder, self.model.encoders[modality])
        if not self.fusion.lets_cache(encoder):
            return batch.inputs[modality]
        return encoded(encoder, batch.inputs[modality], batch.present[:, i])

    def study(self, run: str, predictions: Predictions) -> Robustness:
        """Return the scores of every scenario. Call it after the pass that gave the split's predictions.

        Args:
            run: name of the run.
            predictions: of the whole split, with at least one label.
        """
        rows, genres = [], []
        for scenario, place in zip(self.scenarios, self.place, strict=True):
            left = replace(predictions, present=scenario.present, logits=self.logits[place])
            found = split_scores(left, self.model, {})
            rows.append(scenario.about | {name: found[name] for name in ("movies", "movies_without_input", *SCORES)})
            if scenario.about["kind"] == "subset":
                genres += _by_genre(str(scenario.about["subset"]), predictions, found)
        had = dict(zip(predictions.modalities, predictions.present.sum(axis=0).tolist(), strict=True))
        rates = dict(zip(predictions.modalities, self.model.modality_dropout, strict=True))
        return Robustness(run, predictions.split, self.seed, had, rates, rows, genres, predictions.task)


def _by_genre(subset: str, of: Predictions, found: Mapping[str, float]) -> list[Row]:
    """Return the rows of robustness_by_genre.csv for one subset of modalities."""
    movies = of.labels.sum(axis=0).tolist()
    return [
        {"subset": subset, "genre": genre, "movies": count, "f1": found[f"f1/{genre}"], "ap": found.get(f"ap/{genre}")}
        for genre, count in zip(of.genres, movies, strict=True)
    ]
