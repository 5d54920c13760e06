"""Gather the predictions of a whole split over its batches, because scores need the whole split."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmu_lightning.data.table import MovieTable
from gmu_lightning.lightning import pl
from gmu_lightning.movie import MovieBatch, Prediction
from gmu_lightning.run import Predictions


class _Rows(NamedTuple):
    """Predictions of some movies, as arrays on the CPU."""

    ids: tuple[str, ...]
    present: np.ndarray  # (B, M)
    labels: np.ndarray  # (B, C)
    logits: np.ndarray  # (B, C)
    contributions: np.ndarray | None  # (B, M, C)
    gate: np.ndarray | None  # (B, M)
    gate_open: np.ndarray | None  # (B, M)
    gate_by_genre: np.ndarray | None  # (B, M, C)


class SplitPredictions(pl.Callback):
    """Collect the results of `validation_step` for every movie of a split.

    Args:
        table: of the movies. Predictions have its genres and fingerprint, and the rows of a split in its order, each movie once,
            from all processes.
        modalities: names of the M axis.

    Attributes:
        split: name of the split that the next pass reads; `val` at first. The caller sets it.
        latest: Predictions of the last pass; None before it.
    """

    def __init__(self, table: MovieTable, modalities: tuple[str, ...]):
        self.table, self.ids, self.modalities = table, table.ids, modalities
        self.split = "val"
        self.rows: list[_Rows] = []
        self.latest: Predictions | None = None

    def on_validation_batch_end(self, trainer: pl.Trainer, model: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Keep the predictions of the batch."""
        self.rows.append(_rows(model, outputs, batch))

    def on_validation_epoch_end(self, trainer: pl.Trainer, model: Any) -> None:
        """Join the kept batches to the Predictions of the whole split."""
        self.latest = self._whole(self.split, model)

    @torch.no_grad()
    def collect(self, model: Any, batches: Iterable[MovieBatch]) -> None:
        """Predict `batches`, which hold every movie of `split`, without a trainer. Set `latest`.

        The model stays in evaluation mode.
        """
        model.eval()
        for index, batch in enumerate(batches):
            moved = model.transfer_batch_to_device(batch, model.device, 0)
            self.rows.append(_rows(model, model.validation_step(moved, index), moved))
        self.latest = self._whole(self.split, model)

    def _whole(self, split: str, model: Any) -> Predictions:
        rows, self.rows = _from_all_processes(self.rows), []
        where = {movie: n for n, movie in enumerate(i for part in rows for i in part.ids)}
        order = [where[movie] for movie in self.ids[split]]

        def column(name: str) -> np.ndarray | None:
            parts = [getattr(part, name) for part in rows]
            return None if parts[0] is None else np.concatenate(parts)[order]

        columns = {name: column(name) for name in _Rows._fields if name != "ids"}
        exact = columns["contributions"] is not None
        return Predictions(
            ids=self.ids[split],
            split=split,
            genres=self.table.vocabulary.names,
            modalities=self.modalities,
            data_fingerprint=self.table.fingerprint,
            task=self.table.data_set.task,
            open_threshold=model.fusion.open_threshold if columns["gate"] is not None else None,
            bias=model.head.bias.detach().cpu().double().numpy() if exact else None,
            **columns,  # type: ignore[arg-type]
        )


@torch.no_grad()
def _rows(model: Any, prediction: Prediction, batch: MovieBatch) -> _Rows:
    gate = gate_open = by_genre = None
    if prediction.gates is not None:
        weight = model.head.weight.abs().float()  # (C, D)
        z = prediction.gates.float().expand(-1, -1, weight.shape[1])  # (B, M, D), also of gates (B, M, 1)
        gate, gate_open = z.mean(-1), (z > model.fusion.open_threshold).float().mean(-1)
        by_genre = z @ (weight / weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)).T  # (B, M, C)
    return _Rows(
        batch.ids,
        _array(batch.present, bool),
        _array(batch.labels, bool),
        _array(prediction.logits),
        *(None if t is None else _array(t) for t in (prediction.contributions, gate, gate_open, by_genre)),
    )


def _array(tensor: Tensor | None, dtype: Any = np.float64) -> np.ndarray:
    assert tensor is not None
    tensor = tensor.cpu()
    return (tensor.bool() if dtype is bool else tensor.double()).numpy()


def _from_all_processes(rows: list[_Rows]) -> list[_Rows]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, rows)
    return [part for process in gathered for part in process]
