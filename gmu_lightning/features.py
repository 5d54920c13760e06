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
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from gmu_lightning.data.batching import Batches
from gmu_lightning.data.progress import track
from gmu_lightning.data.store import Column, Store, cores
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.files import digest
from gmu_lightning.movie import Features

BATCH = 32


@dataclass(frozen=True)
class Sequences:
    """The token features of every movie, memory-mapped: movie n has rows starts[n] to starts[n] + lengths[n] of `tokens`."""

    tokens: np.ndarray  # (all tokens, d) float32
    starts: np.ndarray  # (N,)
    lengths: np.ndarray  # (N,), 0 where absent

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(B, T, d) padded with zeros to the longest of those movies, and (B, T) bool."""
        longest = max(1, int(self.lengths[list(rows)].max(initial=0)))
        padded = np.zeros((len(rows), longest, self.tokens.shape[1]), dtype=np.float32)
        mask = np.zeros((len(rows), longest), dtype=bool)
        for i, n in enumerate(rows):
            length = self.lengths[n]
            padded[i, :length] = self.tokens[self.starts[n] : self.starts[n] + length]
            mask[i, :length] = True
        return torch.from_numpy(padded), torch.from_numpy(mask)


@dataclass(frozen=True)
class FeatureColumn:
    """Features of every movie: `vectors` (N, d) float32, resident, zeros where absent; the same face as a Column's."""

    key: str
    vectors: Tensor
    present: np.ndarray
    bad: tuple[tuple[int, str, str], ...]
    parameters: int  # of the encoder that they came from
    sequences: Sequences | None = None

    @property
    def lengths(self) -> np.ndarray | None:
        """Tokens per movie, None where there are vectors alone."""
        return None if self.sequences is None else self.sequences.lengths

    def batch(self, rows: Sequence[int], training: bool = False) -> Features:
        """Features of those movies."""
        vector = self.vectors[torch.as_tensor(rows)]
        return Features(vector) if self.sequences is None else Features(vector, *self.sequences.batch(rows))


def feature_key(column_key: str, encoder: Encoder, sequences: bool = False) -> str:
    """All that a column of features depends on."""
    what = [column_key, encoder.fingerprint, "float32"]
    return f"{encoder.modality}-{digest([*what, 'sequences'] if sequences else what)[:20]}"


def encoded(
    store: Store, column: Column, encoder: Encoder, device: torch.device, sequences: bool = False
) -> FeatureColumn | Column:
    """The column through the encoder, computed if the store has none.

    Args:
        encoder: constant (frozen whole, nothing random in it); its network is built only if it is needed.
        device: where the network runs.
        sequences: whether token features are wanted beside the vectors. An encoder without parameters then gets its own
            column back: to keep what it passes through would keep the same numbers twice.
    """
    sequences = sequences and encoder.sequences
    key = feature_key(column.key, encoder, sequences)
    if not store.has("features", key):
        network = copy.deepcopy(encoder)  # let go of when it has been used
        network.build()
        if sequences and not any(True for _ in network.parameters()):
            return column

    def build(folder: Path) -> dict[str, Any]:
        rows = np.flatnonzero(column.present)
        vectors = np.zeros((len(column.present), encoder.dim), dtype=np.float32)
        starts, lengths = (np.zeros(len(column.present), dtype=np.int64) for _ in range(2))
        varied = column.lengths if np.unique(column.lengths[rows]).size > 1 else None
        place = 0
        with _all_threads(), track(f"encoding {encoder.modality}", len(rows)) as advance, _opened(folder, sequences) as file:
            for batch in Batches(rows, BATCH, varied):
                features = _features(network, column, batch, device)
                vectors[batch] = features.vector.numpy()
                if file:
                    for n, tokens in zip(batch, _real_tokens(features), strict=True):
                        starts[n], lengths[n], place = place, len(tokens), place + len(tokens)
                        file.write(tokens.numpy().tobytes())
                advance(len(batch))
        broken = int((~np.isfinite(vectors)).any(axis=1).sum())
        if broken:
            raise FloatingPointError(f"the {encoder.modality} encoder gave {broken} movies features that are not finite")
        with (folder / "vectors.npy").open("wb") as kept:
            np.save(kept, vectors)
            kept.flush()
            os.fsync(kept.fileno())
        if sequences:
            np.savez(folder / "tokens.npz", starts=starts, lengths=lengths)
        return {"movies": len(vectors), "dim": encoder.dim, "parameters": sum(p.numel() for p in network.parameters())}

    folder = store.folder("features", key, build)
    vectors = torch.from_numpy(np.load(folder / "vectors.npy"))
    parameters = json.loads((folder / "meta.json").read_text())["parameters"]
    return FeatureColumn(key, vectors, column.present, column.bad, parameters, _read_sequences(folder) if sequences else None)


def features_of(
    encoder: Encoder, column: Column | FeatureColumn, rows: Sequence[int], device: torch.device
) -> Iterator[Features]:
    """Features of movies that have the modality, some movies at a time, in evaluation mode, on the CPU; no gradient."""
    for start in range(0, len(rows), BATCH):
        yield _features(encoder, column, rows[start : start + BATCH], device)


@torch.no_grad()
def _features(encoder: Encoder, column: Column | FeatureColumn, rows: Sequence[int], device: torch.device) -> Features:
    if isinstance(column, FeatureColumn):
        return column.batch(rows)
    encoder.to(device).eval()
    inputs = column.batch(rows)
    moved = inputs.to(device) if isinstance(inputs, Tensor) else type(inputs)(*(t.to(device) for t in inputs))
    features = encoder(moved)
    sequence, mask = (None if part is None else part.cpu() for part in features[1:])
    return Features(features.vector.float().cpu(), None if sequence is None else sequence.float(), mask)


def _real_tokens(features: Features) -> Iterator[Tensor]:
    """Per movie (T_n, d): its sequence without padding."""
    assert features.sequence is not None
    for n, tokens in enumerate(features.sequence):
        yield tokens if features.mask is None else tokens[features.mask[n]]


@contextmanager
def _opened(folder: Path, sequences: bool) -> Iterator[BinaryIO | None]:
    if not sequences:
        yield None
        return
    with (folder / "tokens.bin").open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _read_sequences(folder: Path) -> Sequences:
    index = np.load(folder / "tokens.npz")
    dim = json.loads((folder / "meta.json").read_text())["dim"]
    shape = (int(index["lengths"].sum()), dim)
    tokens = np.memmap(folder / "tokens.bin", np.float32, mode="r", shape=shape) if shape[0] else np.zeros(shape, np.float32)
    return Sequences(tokens, index["starts"], index["lengths"])


@contextmanager
def _all_threads() -> Iterator[None]:
    """Whichever job comes first encodes for all, with every core, so that the features do not depend on its thread count."""
    threads = torch.get_num_threads()
    torch.set_num_threads(cores())
    try:
        yield
    finally:
        torch.set_num_threads(threads)
