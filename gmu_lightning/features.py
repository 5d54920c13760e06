"""Frozen means once: a column through a frozen encoder is a column of features, kept in the store.

Normalisation and dropout come after it, in the model, so every epoch, job and sweep reads the same features.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmu_lightning.data.batching import Batches
from gmu_lightning.data.progress import track
from gmu_lightning.data.store import Column, Store
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.files import digest
from gmu_lightning.movie import Features

BATCH = 32


@dataclass(frozen=True)
class FeatureColumn:
    """Features of every movie, resident: `vectors` (N, d) float32, zeros where absent; the same face as a Column's."""

    key: str
    vectors: Tensor
    present: np.ndarray
    bad: tuple[tuple[int, str, str], ...]
    parameters: int  # of the encoder that they came from

    lengths = None

    def batch(self, rows: Sequence[int], training: bool = False) -> Features:
        """Features of those movies."""
        return Features(self.vectors[torch.as_tensor(rows)])


def feature_key(column_key: str, encoder: Encoder) -> str:
    """All that a column of features depends on."""
    return f"{encoder.modality}-{digest([column_key, encoder.fingerprint, 'float32'])[:20]}"


def encoded(store: Store, column: Column, encoder: Encoder, device: torch.device) -> FeatureColumn:
    """The column through the encoder, computed if the store has none.

    Args:
        encoder: constant (frozen whole, nothing random in it); its network is built only if it is needed.
        device: where the network runs.
    """
    key = feature_key(column.key, encoder)

    def build(folder: Path) -> dict[str, Any]:
        network = copy.deepcopy(encoder)  # let go of when it has been used
        network.build()
        features = np.zeros((len(column.present), encoder.dim), dtype=np.float32)
        rows = np.flatnonzero(column.present)
        lengths = column.lengths if column.lengths.max(initial=0) != column.lengths[rows].min(initial=0) else None
        with _all_threads(), track(f"encoding {encoder.modality}", len(rows)) as advance:
            for batch in Batches(rows, BATCH, lengths):
                features[batch] = vectors(network, column, batch, device).numpy()
                advance(len(batch))
        broken = int((~np.isfinite(features)).any(axis=1).sum())
        if broken:
            raise FloatingPointError(f"the {encoder.modality} encoder gave {broken} movies features that are not finite")
        with (folder / "vectors.npy").open("wb") as file:
            np.save(file, features)
            file.flush()
            os.fsync(file.fileno())
        return {"movies": len(features), "dim": encoder.dim, "parameters": sum(p.numel() for p in network.parameters())}

    folder = store.folder("features", key, build)
    features = torch.from_numpy(np.load(folder / "vectors.npy"))
    parameters = json.loads((folder / "meta.json").read_text())["parameters"]
    return FeatureColumn(key, features, column.present, column.bad, parameters)


def vectors(encoder: Encoder, column: Column | FeatureColumn, rows: Sequence[int], device: torch.device) -> Tensor:
    """Feature vectors (len(rows), d) of movies that have the modality, in evaluation mode, on the CPU; no gradient."""
    if isinstance(column, FeatureColumn):
        return column.batch(rows).vector
    encoder.to(device).eval()
    parts = []
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            inputs = column.batch(rows[start : start + BATCH])
            moved = inputs.to(device) if isinstance(inputs, Tensor) else type(inputs)(*(t.to(device) for t in inputs))
            parts.append(encoder(moved).vector.float().cpu())
    return torch.cat(parts)


@contextmanager
def _all_threads() -> Iterator[None]:
    """Whichever job comes first encodes for all, with every core, so that the features do not depend on its thread count."""
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
