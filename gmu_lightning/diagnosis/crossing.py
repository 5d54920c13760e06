"""Predict a split's movies, and movies that are put together from the modalities of several of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.fusion.base import Fusion, encoded
from gmu_lightning.fusion.heads import LinearHead
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import Features, Fused, MovieBatch

AT_ONCE = {"vector": 4096}  # movies in a batch; fusions of sequences take the batch size of the data
Read = Callable[[Tensor, Tensor], Mapping[str, Any]]


@dataclass(frozen=True)
class CrossedMovies:
    """A fitted model with the inputs of N movies, each encoded once.

    A made movie is a row of M row numbers: the movies that its modalities are taken from. A modality that `kept` leaves out, or
    that its movie lacks, is absent.

    Attributes:
        fusion, head: of the model, in evaluation mode.
        present: (N, M) bool.
        read: returns the inputs of `fusion` for made movies, from their row numbers (n, M) and from `kept` (n, M) bool.
        at_once: number of made movies in a batch.
        vectors: {modality: (N, d_m)}, the inputs of a fusion that reads one vector of each modality; None for other fusions.
    """

    fusion: Fusion
    head: nn.Module
    present: Tensor
    read: Read
    at_once: int
    vectors: Mapping[str, Tensor] | None = None

    @classmethod
    def of_vectors(cls, fusion: Fusion, head: nn.Module, vectors: Mapping[str, Tensor], present: Tensor) -> CrossedMovies:
        """Return the movies of a fusion that reads vectors {modality: (N, d_m)}, normalised, in the order of the axis M."""

        def read(rows: Tensor, kept: Tensor) -> Mapping[str, Tensor]:
            return {m: x[rows[:, i]] for i, (m, x) in enumerate(vectors.items())}

        return cls(fusion.eval(), head.eval(), present, read, AT_ONCE["vector"], vectors)

    @classmethod
    @torch.no_grad()
    def of(cls, model: MovieGenreClassifier, data: MovieDataModule, split: str) -> CrossedMovies:
        """Encode the movies of a split with a fitted model. The order is the split's.

        Args:
            model: on the device that computes; it is set to evaluation mode.
            data: gives the batches of the split.
        """
        model.eval()
        rows = torch.from_numpy(data.table.rows(split))
        present = data.present[rows].to(model.device)
        if model.fusion.needs == "vector":
            return cls.of_vectors(model.fusion, model.head, _vectors(model, data, split), present)
        columns = {m: _Encoded.of(model, data, split, m, i) for i, m in enumerate(data.columns)}

        def read(chosen: Tensor, kept: Tensor) -> Mapping[str, Any]:
            inputs = {m: column.batch(chosen[:, i].tolist()) for i, (m, column) in enumerate(columns.items())}
            batch = model.transfer_batch_to_device(MovieBatch((), inputs, kept, None), model.device, 0)
            return model.read(batch, batch.present)

        return cls(model.fusion, model.head, present, read, data.batch_size)

    @property
    def own(self) -> Tensor:
        """(N, M) int64: the movies as they are."""
        count, modalities = self.present.shape
        return torch.arange(count, device=self.present.device)[:, None].expand(-1, modalities)

    def fused(self, rows: Tensor, kept: Tensor | None = None) -> Iterator[Fused]:
        """Yield the fused made movies in batches.

        Args:
            rows: (n, M) int64.
            kept: (n, M) bool; None keeps all modalities.
        """
        places = torch.arange(rows.shape[1], device=rows.device)
        for part, left in zip(rows.split(self.at_once), (rows if kept is None else kept).split(self.at_once), strict=True):
            there = self.present[part, places]
            there = there if kept is None else there & left
            yield self.fusion(self.read(part, there), there)

    @torch.no_grad()
    def logits(self, rows: Tensor | None = None, kept: Tensor | None = None) -> np.ndarray:
        """Return the logits of made movies, (n, C) float64; by default of the movies as they are. Arguments as in `fused`."""
        found = [logits_of(self.head, fused) for fused in self.fused(self.own if rows is None else rows, kept)]
        return torch.cat(found).cpu().numpy()

    @torch.no_grad()
    def doubled(self) -> tuple[nn.Module, Fused]:
        """Return a copy of the head, and all movies as they are, fused, both in float64 (float32 on mps)."""
        wide = torch.float32 if self.present.device.type == "mps" else torch.float64
        fusion, head = (copy.deepcopy(part).to(wide) for part in (self.fusion, self.head))
        parts = [
            fusion({m: _to(x, wide) for m, x in self.read(part, there).items()}, there)
            for part, there in zip(self.own.split(self.at_once), self.present.split(self.at_once), strict=True)
        ]
        joined = (None if parts[0][n] is None else torch.cat([cast(Tensor, part[n]) for part in parts]) for n in range(3))
        return head, Fused(*joined)  # type: ignore[arg-type]


def logits_of(head: nn.Module, fused: Fused) -> Tensor:
    """Return the logits (B, C) of fused movies, in float64 (float32 on mps)."""
    contributions = head.contributions(fused) if isinstance(head, LinearHead) else None
    if contributions is not None:
        return cast(Tensor, head.bias) + contributions.sum(dim=1)
    found = head(fused)
    return found if found.device.type == "mps" else found.double()


def groups(present: Tensor) -> list[tuple[np.ndarray, Tensor]]:
    """Return the movies that have the same modalities: a pattern (M,) bool and the rows (n,) int64 of each group."""
    patterns, place = np.unique(present.cpu().numpy(), axis=0, return_inverse=True)
    place = place.reshape(-1)
    return [(pattern, torch.from_numpy(np.flatnonzero(place == k)).to(present.device)) for k, pattern in enumerate(patterns)]


def _to(inputs: Any, dtype: torch.dtype) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.to(dtype)
    vector, sequence, mask = inputs
    return Features(vector.to(dtype), None if sequence is None else sequence.to(dtype), mask)


def _vectors(model: MovieGenreClassifier, data: MovieDataModule, split: str) -> dict[str, Tensor]:
    """Return the normalised vectors of a split, {modality: (N, d_m)}, in its order."""
    found: dict[str, list[Tensor]] = {m: [] for m in data.columns}
    ids: list[str] = []
    for batch in data.loader(split):
        moved = model.transfer_batch_to_device(batch, model.device, 0)
        for m, x in model.read(moved, moved.present).items():
            found[m].append(x)
        ids += batch.ids
    order = _order(ids, data.table.ids[split]).to(model.device)
    return {m: torch.cat(parts)[order] for m, parts in found.items()}


def _order(ids: Sequence[str], wanted: Sequence[str]) -> Tensor:
    place = {movie: n for n, movie in enumerate(ids)}
    return torch.tensor([place[movie] for movie in wanted])


@dataclass(frozen=True)
class _Encoded:
    """One modality of a split's movies, from which batches of any of them are made.

    Attributes:
        batch: returns the inputs of the movies in some rows of the split.
    """

    batch: Callable[[Sequence[int]], Any]

    @classmethod
    def of(cls, model: MovieGenreClassifier, data: MovieDataModule, split: str, modality: str, index: int) -> _Encoded:
        """Encode a modality once, unless its features are stored, or its encoder reads other modalities too."""
        column, rows = data.columns[modality], data.table.rows(split)
        encoder = cast(Encoder, model.encoders[modality])
        if column.cached is not None or not model.fusion.lets_cache(encoder):
            return cls(lambda chosen: column.batch(rows[list(chosen)].tolist()))
        kept: dict[str, tuple[Tensor, Tensor | None]] = {}
        for batch in data.loader(split):
            moved = model.transfer_batch_to_device(batch, model.device, 0)
            found = encoded(encoder, moved.inputs[modality], moved.present[:, index])
            for n, movie in enumerate(batch.ids):
                kept[movie] = found.vector[n], None if found.sequence is None else found.real_tokens(n)
        own = [kept[movie] for movie in data.table.ids[split]]
        if some := [tokens for _, tokens in own if tokens is not None]:  # a batch without the modality has no tokens
            own = [(vector, some[0][:0] if tokens is None else tokens) for vector, tokens in own]
        return cls(lambda chosen: _padded([own[n] for n in chosen]))


def _padded(rows: Sequence[tuple[Tensor, Tensor | None]]) -> Features:
    vector = torch.stack([one for one, _ in rows])
    sequences = [tokens for _, tokens in rows if tokens is not None]
    if not sequences:
        return Features(vector)
    lengths = torch.tensor([len(tokens) for tokens in sequences], device=vector.device)
    longest = max(1, int(lengths.max()))
    padded = [nn.functional.pad(tokens, (0, 0, 0, longest - len(tokens))) for tokens in sequences]
    return Features(vector, torch.stack(padded), torch.arange(longest, device=vector.device) < lengths[:, None])
