"""Compute the features of frozen encoders once, and keep them in the store.

Normalisation and dropout are applied later, by the model, so every epoch, job and sweep reads the same features.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gmu_lightning.config.schema import EncodeConfig
from gmu_lightning.data.batching import Batches
from gmu_lightning.data.ragged import Ragged, RaggedWriter, write_array
from gmu_lightning.data.store import PreparedColumn, Store
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.features.runner import Runner, Sample, runner
from gmu_lightning.files import digest
from gmu_lightning.movie import Cached, Features, Preparation
from gmu_lightning.parallel import all_threads, cores, in_threads, track

logger = logging.getLogger(__name__)
SAMPLE = 16  # contents on which a converted network is tried; fewer if a batch holds fewer
# Limits of a batch during encoding: padded positions if lengths vary, else numbers and contents. On a CPU one core computes a
# batch, and its activations should fit into the core's cache. On a GPU a batch should fill the device.
POSITIONS, NUMBERS, CONTENTS = ({"cpu": few, "gpu": many} for few, many in ((2048, 16384), (1_300_000, 10_000_000), (256, 1024)))


class Reader(Protocol):
    """The part of a fusion that decides which features are read."""

    def reads_tokens(self, modality: str) -> bool: ...

    def lets_cache(self, encoder: Encoder) -> bool: ...


@dataclass(frozen=True)
class FeatureColumn:
    """The features of N movies, from the store.

    Attributes:
        key: of the features in the store.
        preparation: fitted, of the encoder's inputs.
        vectors: (N, d) float32, a mapped file that all processes share; zeros for absent movies.
        present: (N,) bool.
        cached: how the features came into the store.
        sequences: memory-mapped tokens; None if only vectors are read.
    """

    key: str
    preparation: Preparation
    vectors: Tensor
    present: np.ndarray
    cached: Cached
    sequences: Ragged | None = None

    @property
    def lengths(self) -> np.ndarray | None:
        """Return the number of tokens of each movie, or None if only vectors are read."""
        return None if self.sequences is None else self.sequences.lengths

    @property
    def resident(self) -> Tensor | None:
        """Return the vectors if no tokens are read, else None."""
        return self.vectors if self.sequences is None else None

    def without(self, movies: np.ndarray) -> FeatureColumn:
        """Return the column as if some movies lacked the modality; `movies` is (N,) bool."""
        vectors = self.vectors.masked_fill(torch.from_numpy(movies)[:, None], 0.0)
        sequences = None if self.sequences is None else self.sequences.without(movies)
        return replace(self, vectors=vectors, present=self.present & ~movies, sequences=sequences)

    def batch(self, rows: Sequence[int], training: bool = False) -> Features:
        """Return the features of some movies, by their rows, on the CPU; `training` is not used."""
        vector = self.vectors[torch.as_tensor(rows)]
        return Features(vector) if self.sequences is None else Features(vector, *self.sequences.padded(rows))


def is_cacheable(encoder: Encoder, fusion: Reader) -> bool:
    """Return whether an encoder's features are computed once and kept."""
    return encoder.constant and fusion.lets_cache(encoder)


def keeps_tokens(encoder: Encoder, fusion: Reader) -> bool:
    """Return whether the tokens of a cacheable encoder are kept beside its vectors."""
    return encoder.sequences and fusion.reads_tokens(encoder.modality)


def network_of(encoder: Encoder) -> Encoder:
    """Return a built copy of an encoder; the encoder itself stays unbuilt. Raises UserError if weights are missing."""
    network = copy.deepcopy(encoder)
    network.build()
    return network


def passes_through(network: Encoder, sequences: bool) -> bool:
    """Return whether the tokens that a built encoder gives are its inputs, because it has no parameters."""
    return sequences and not any(True for _ in network.parameters())


def feature_key(column_key: str, encoder: Encoder, sequences: bool = False, computed_in: str = "float32") -> str:
    """Return the modality and a hash of everything that determines a column of features.

    The hash leaves out the backend, because in float32 backends agree to 1e-4 of the features' size or are refused. Their bytes
    may differ, so meta.json names the backend.

    Args:
        column_key: of the prepared column in the store.
        encoder: computes the features.
        sequences: whether tokens are kept beside the vectors.
        computed_in: precision of the network's arithmetic, `float32` or `bfloat16`.
    """
    what = [column_key, encoder.fingerprint, computed_in]
    what += ["tokens"] if sequences else []
    return f"{encoder.modality}-{digest(what)[:20]}"


@dataclass(frozen=True)
class FeatureCache:
    """Compute the features of frozen encoders once, and keep them in a store.

    Args:
        store: keeps the features.
        device: of the networks.
        encoding: backend and precision of the networks; by default the fastest backend in float32.
    """

    store: Store
    device: torch.device
    encoding: EncodeConfig = field(default_factory=EncodeConfig)

    def column(self, encoder: Encoder, raw: PreparedColumn, fusion: Reader) -> PreparedColumn | FeatureColumn:
        """Return the column that the model's batches are read from: cached features, or the prepared column.

        Features that the store lacks are computed. An encoder of tokens without parameters gets the prepared column back, because
        the store would hold the same numbers twice.

        Args:
            encoder: has the preparation of `raw`. Its network is built only if features are computed.
            raw: the prepared column.
            fusion: decides whether features may be cached, and whether tokens are kept beside the vectors.

        Raises:
            UserError: the chosen backend cannot run this encoder, weights are missing, or the disk is full.
            FloatingPointError: features that were computed are not finite.
        """
        if not is_cacheable(encoder, fusion):
            return raw.checked()
        sequences = keeps_tokens(encoder, fusion)
        key = feature_key(raw.key, encoder, sequences, self.encoding.precision)
        network = None
        if not self.store.holds("features", key):  # `holds` has marked stored features as in use, so no other job removes them
            network = network_of(encoder)  # freed after the encoding
            if passes_through(network, sequences):
                return raw.checked()
        filled: list[Path] = []

        def fill(folder: Path) -> dict[str, Any]:
            filled.append(folder)
            return self._fill(folder, network_of(encoder) if network is None else network, raw.checked(), sequences)

        def read(folder: Path, meta: dict[str, Any]) -> FeatureColumn:
            # Mapped, the file is in memory once for all processes of a machine. Mode "c" keeps changes out of the file.
            vectors = np.load(folder / "vectors.npy", mmap_mode="c", allow_pickle=False)
            if vectors.shape != (len(raw.present), meta["dim"]):
                raise ValueError(f"vectors.npy holds {vectors.shape}, and not {len(raw.present)} movies x {meta['dim']}")
            how = meta.get("backend", "torch"), self.encoding.precision
            tokens = Ragged.read(folder, "float32", len(vectors)) if sequences else None
            cached = Cached(meta["parameters"], *how, network is None and not filled, vectors.nbytes)
            return FeatureColumn(key, raw.preparation, torch.from_numpy(vectors), raw.present, cached, tokens)

        return self.store.entry("features", key, fill, read)

    def _fill(self, folder: Path, network: Encoder, column: PreparedColumn, sequences: bool) -> dict[str, Any]:
        """Encode every movie into a folder of the store, and return its meta.json."""
        rows = np.flatnonzero(column.present)
        vectors = np.zeros((len(column.present), network.dim), dtype=np.float32)
        running = self._runner(network, column, rows, sequences)
        tokens: Any = RaggedWriter(folder, len(vectors)) if sequences else nullcontext()
        with all_threads(), track(f"encoding {network.modality}", len(rows)) as advance, tokens as file:
            for batch, features in encoded(running, column, rows, self.device):
                vectors[batch] = features.vector.numpy()
                for row, n in enumerate(batch if file else ()):
                    file.write(n, features.real_tokens(row).numpy())
                advance(len(batch))
        broken = int((~np.isfinite(vectors)).any(axis=1).sum())
        if broken:
            raise FloatingPointError(f"the {network.modality} encoder gave {broken} movies features that are not finite")
        with (folder / "vectors.npy").open("wb") as kept:
            write_array(kept, vectors)
            kept.flush()
            os.fsync(kept.fileno())
        parameters = sum(p.numel() for p in network.parameters())
        how = {"backend": running.backend, "precision": running.precision}
        return {"movies": len(vectors), "dim": network.dim, "parameters": parameters, "column": column.key, **how}

    def _runner(self, network: Encoder, column: PreparedColumn, rows: np.ndarray, sequences: bool) -> Runner:
        """Return the runner of the network, and log its backend."""

        def sample() -> Sample:
            by_length = rows[np.argsort(column.lengths[rows], kind="stable")]
            count = sample_size(column, rows, self.device)
            chosen = by_length[np.linspace(0, len(rows) - 1, count).round().astype(int)].tolist()
            return Sample(column.batch(chosen), column.batch(chosen[:1]))

        found = runner(network, self.encoding, self.device, sample, contents=len(rows), cores=cores(), sequences=sequences)
        logger.log(logging.WARNING if found.fell_back else logging.INFO, "%s is encoded by %s", network.modality, found.note)
        return found


def encoded(
    running: Runner, column: PreparedColumn, rows: np.ndarray, device: torch.device
) -> Generator[tuple[list[int], Features], None, None]:
    """Yield the features of some movies in batches of similar lengths, each computed by one thread.

    Args:
        running: computes the features.
        column: of the prepared inputs.
        rows: movies that have the modality.
        device: of the network; it decides the size of a batch.
    """
    batches = _batches(column, rows, device)
    window = running.workers + 1
    computed = in_threads(running.workers, lambda batch: running(column.batch(batch)), zip(batches), window=window)
    with closing(computed):
        yield from zip(batches, computed, strict=True)


def sample_size(column: PreparedColumn, rows: np.ndarray, device: torch.device) -> int:
    """Return how many contents a converted network is tried on: as many as a batch may hold, but at most `SAMPLE`."""
    return min(SAMPLE, _most(column, rows, device))


def _kind(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else "gpu"


def _most(column: PreparedColumn, rows: np.ndarray, device: torch.device) -> int:
    """Return how many contents a batch may hold. If their lengths vary, fewer positions may fill it."""
    kind = _kind(device)
    if np.unique(column.lengths[rows]).size > 1:
        return CONTENTS[kind]
    numbers = int(np.prod(column.ragged.shapes[rows[0]])) if len(rows) else 1
    return max(1, min(CONTENTS[kind], NUMBERS[kind] // max(1, numbers)))


def _batches(column: PreparedColumn, rows: np.ndarray, device: torch.device) -> list[list[int]]:
    """Return batches of rows with similar lengths, within the limits of the device."""
    most, lengths = _most(column, rows, device), column.lengths
    if np.unique(lengths[rows]).size > 1:
        return Batches(rows, most, lengths, tokens=POSITIONS[_kind(device)]).batches(0)
    return Batches(rows, most).batches(0)
