"""A LightningDataModule that makes batches of a table of movies from one column per modality."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gmu_lightning.data.batching import Batches
from gmu_lightning.data.dataset import DataSet
from gmu_lightning.data.table import MovieTable
from gmu_lightning.lightning import pl
from gmu_lightning.movie import Column, MovieBatch


class Movies(Dataset[MovieBatch]):
    """Map the row numbers and the weight of a batch to the batch of these movies.

    Args:
        names: ids of all N movies.
        columns: {modality: column}, in the order of the axis M.
        present: (N, M) bool, whether a movie has a modality.
        targets: (N, C) float32, the labels.
        training: whether inputs may be augmented.
    """

    def __init__(self, names: Sequence[str], columns: Mapping[str, Column], present: Tensor, targets: Tensor, training: bool):
        self.names, self.columns, self.present, self.targets, self.training = names, columns, present, targets, training

    def __getitem__(self, part: tuple[list[int], float]) -> MovieBatch:
        rows, weight = part
        chosen = torch.tensor(rows)
        inputs = {m: column.batch(rows, self.training) for m, column in self.columns.items()}
        return MovieBatch(tuple([self.names[n] for n in rows]), inputs, self.present[chosen], self.targets[chosen], weight)


class MovieDataModule(pl.LightningDataModule):
    """Batches of a data set, which a subclass names in `reads`.

    Args:
        batch_size: number of movies in a batch.
        token_budget: instead of `batch_size`, largest number of tokens in a training batch; padding counts if the encoder
            computes it. For trained text encoders.
        workers: number of loader processes; 0 makes the batches in the job itself.
        **data_set: arguments of the data set.

    Attributes:
        data_set: loads the `MovieTable`.
        table: the movies, in a module that `over` returned; so are the following.
        columns: {modality: column}, in the order of the axis M.
        present: (N, M) bool, whether a movie has a modality.
        targets: (N, C) float32, the labels.
        resumes_at: (epoch, number of its batches that are done), where a run continues.
    """

    reads: ClassVar[type[DataSet]]
    table: MovieTable
    columns: Mapping[str, Column]
    present: Tensor
    targets: Tensor

    def __init__(self, *, batch_size: int = 64, token_budget: int | None = None, workers: int = 0, **data_set: Any):
        super().__init__()
        self.data_set = self.reads(**data_set)
        self.batch_size, self.token_budget, self.workers = int(batch_size), token_budget, workers
        self.seed, self.mixed, self.resumes_at = 0, False, (0, 0)

    def over(self, table: MovieTable, columns: Mapping[str, Column], seed: int = 0, mixed: bool = False) -> Self:
        """Return a copy of the module that loads batches of a table.

        Args:
            table: the N movies.
            columns: {modality: column}, in the order of the axis M.
            seed: determines, with the epoch, the order of training batches.
            mixed: whether training batches mix texts of all lengths, because padding is free.
        """
        module = copy.copy(self)
        module.table, module.columns, module.seed, module.mixed = table, dict(columns), seed, mixed
        module.present = torch.from_numpy(np.stack([column.present for column in columns.values()], axis=1))
        module.targets = torch.from_numpy(table.labels).float()
        return module

    def loader(self, split: str, training: bool = False, epoch: int = 0, start: int = 0) -> DataLoader:
        """Return a loader of this process's batches of a split, in memory that is pinned if there is a GPU.

        Args:
            split: train, val or test.
            training: whether to shuffle the movies and allow augmentation; otherwise their order is fixed, as in `Batches`.
            epoch: determines the order in training.
            start: number of the epoch's first batches to leave out.
        """
        names = [movie.id for movie in self.table.movies]
        batches = self.batches(split, training)
        batches.set_epoch(epoch)
        batches.start = start
        movies = Movies(names, self.columns, self.present, self.targets, training)
        pin = torch.cuda.is_available()
        return DataLoader(movies, sampler=batches, batch_size=None, collate_fn=_as_is, num_workers=self.workers, pin_memory=pin)

    def train_dataloader(self) -> DataLoader:
        """Return a loader of the training batches of the trainer's epoch that are not done, or of epoch 0 without a trainer."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        return self.loader("train", training=True, epoch=epoch, start=self.resumes_at[1] if epoch == self.resumes_at[0] else 0)

    def val_dataloader(self) -> DataLoader:
        """Return a loader of the batches of val."""
        return self.loader("val")

    def total_steps(self, epochs: int, accumulate: int) -> int:
        """Return this process's number of optimiser steps in the first epochs, with gradients of `accumulate` batches in each."""
        batches = self.batches("train", training=True)
        per_epoch = [len(batches.batches(epoch)) for epoch in range(epochs)] if self.token_budget else [len(batches)] * epochs
        return sum(-(-n // accumulate) for n in per_epoch)

    @property
    def rule(self) -> dict[str, Any]:
        """The rule by which movies are assigned to training batches."""
        return {"data.batch_size": self.batch_size, "data.token_budget": self.token_budget, "mixed lengths": self.mixed}

    def batches(self, split: str, training: bool) -> Batches:
        """Return the sampler of a split's batches, at epoch 0; arguments are as in `loader`."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return Batches(
            self.table.rows(split),
            self.batch_size,
            varied_lengths(self.columns),
            self.token_budget if training else None,
            self.seed if training else None,
            torch.distributed.get_rank() if distributed else 0,
            torch.distributed.get_world_size() if distributed else 1,
            self.mixed and training,
        )


def varied_lengths(columns: Mapping[str, Column]) -> np.ndarray | None:
    """Return the lengths (N,) by which batches are made: those of texts if they vary, else of another modality, else None."""
    text_first = sorted(columns, key=lambda m: m != "text")  # the token budget concerns text
    found = ((columns[m].lengths, columns[m].present) for m in text_first)
    return next((lengths for lengths, present in found if lengths is not None and np.unique(lengths[present]).size > 1), None)


def _as_is(batch: Any) -> Any:
    return batch
