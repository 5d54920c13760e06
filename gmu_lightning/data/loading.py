"""Row numbers -> batches of movies, as a loader of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gmu_lightning.data.batching import Batches
from gmu_lightning.movie import MovieBatch


class Movies(Dataset[MovieBatch]):
    """A list of row numbers -> the batch of those movies.

    Args:
        names: ids of all movies.
        columns: one per modality, in order.
        present, targets: (N, M) bool and (N, C) float32.
        training: whether inputs may be augmented.
    """

    def __init__(self, names: Sequence[str], columns: Mapping[str, Any], present: Tensor, targets: Tensor, training: bool):
        self.names, self.columns, self.present, self.targets, self.training = names, columns, present, targets, training

    def __getitem__(self, rows: list[int]) -> MovieBatch:
        chosen = torch.tensor(rows)
        inputs = {m: column.batch(rows, self.training) for m, column in self.columns.items()}
        return MovieBatch(tuple([self.names[n] for n in rows]), inputs, self.present[chosen], self.targets[chosen])


def loader(movies: Movies, batches: Batches, workers: int) -> DataLoader:
    """One batch of movies per list of rows; pinned where there is a GPU to send it to."""
    pin = torch.cuda.is_available()
    return DataLoader(movies, sampler=batches, batch_size=None, collate_fn=_as_is, num_workers=workers, pin_memory=pin)


def _as_is(batch: Any) -> Any:
    return batch
