"""Frozen means once: a column through a frozen encoder is a column of features, kept in the store.

Normalisation and dropout come after it, in the model, so every epoch, job and sweep reads the same features.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmu_lightning.data.batching import Batches
from gmu_lightning.data.progress import QUIET, track
from gmu_lightning.data.store import Column, Store
from gmu_lightning.data.threads import all_threads, cores, in_threads
from gmu_lightning.data.tokens import Sequences, SequenceWriter, rounded
from gmu_lightning.encoders.backends import Encoding, Runner, run, runner
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.converted import Sample
from gmu_lightning.files import digest
from gmu_lightning.movie import Features

BATCH = 32
SAMPLE = 16  # contents that a converted network is tried on
# The most of a batch in the encoding pass: padded positions where lengths vary, else numbers and contents. A batch is one
# core's on a CPU, and its activations should stay in the cache; a GPU is to be filled.
POSITIONS, NUMBERS, CONTENTS = ({"cpu": few, "gpu": many} for few, many in ((2048, 16384), (1_300_000, 10_000_000), (256, 1024)))


@dataclass(frozen=True)
class FeatureColumn:
    """Features of every movie; the same face as a Column's.

    Attributes:
        vectors: (N, d) float32 or float16, as the store keeps them; resident, zeros where absent. A batch is float32.
    """

    key: str
    vectors: Tensor
    present: np.ndarray
    bad: tuple[tuple[int, str, str], ...]
    parameters: int  # of the encoder that they came from
    sequences: Sequences | None = None
    how: Mapping[str, Any] = field(default_factory=dict)  # `backend` and `precision` that computed them, and `from_cache`

    @property
    def lengths(self) -> np.ndarray | None:
        """Tokens per movie, None where there are vectors alone."""
        return None if self.sequences is None else self.sequences.lengths

    @property
    def resident(self) -> str:
        """What of it is in memory, in words; sequences are memory-mapped."""
        return f"{self.vectors.nbytes / 1e6:.1f} MB of {str(self.vectors.dtype).removeprefix('torch.')} features"

    def batch(self, rows: Sequence[int], training: bool = False) -> Features:
        """Features of those movies."""
        vector = self.vectors[torch.as_tensor(rows)].float()
        return Features(vector) if self.sequences is None else Features(vector, *self.sequences.batch(rows))


def feature_key(
    column_key: str, encoder: Encoder, sequences: bool = False, kept_in: str = "float32", computed_in: str = "float32"
) -> str:
    """All that a column of features depends on.

    Not the backend: in float32 all agree to 1e-4 of the features' size, or are refused. Their bytes may differ, so meta.json
    says which it was.

    Args:
        kept_in: the precision of what is on the disk, `float32` or `float16`.
        computed_in: the precision of the network's arithmetic, `float32` or `bfloat16`.
    """
    what = [column_key, encoder.fingerprint, computed_in]
    what += ["sequences"] if sequences else []
    what += [kept_in] if kept_in != "float32" else []
    return f"{encoder.modality}-{digest(what)[:20]}"


def encoded(
    store: Store,
    column: Column,
    encoder: Encoder,
    device: torch.device,
    sequences: bool = False,
    encoding: Encoding | None = None,
) -> FeatureColumn | Column:
    """The column through the encoder, computed if the store has none.

    Args:
        encoder: constant (frozen whole, nothing random in it); its network is built only if it is needed.
        device: where the network runs.
        sequences: whether token features are wanted beside the vectors. An encoder without parameters then gets its own
            column back: to keep what it passes through would keep the same numbers twice.
        encoding: what runs the network, and in which precision; None: whatever is fastest, in float32.

    Raises:
        UserError: the store keeps float16, which cannot hold the features; the chosen backend cannot run this encoder.
    """
    sequences = sequences and encoder.sequences
    encoding = encoding or Encoding()
    key = feature_key(column.key, encoder, sequences, store.precision, encoding.precision)
    stored = store.holds("features", key)
    if not stored:  # from here on no other job removes it
        network = copy.deepcopy(encoder)  # let go of when it has been used
        network.build()
        if sequences and not any(True for _ in network.parameters()):
            return column

    def build(folder: Path) -> dict[str, Any]:
        rows = np.flatnonzero(column.present)
        vectors = np.zeros((len(column.present), encoder.dim), dtype=np.float32)
        running = _runner(network, column, rows, device, encoding, sequences)
        whose = f"the {encoder.modality} encoder"
        tokens = SequenceWriter(folder, len(vectors), store.precision, whose) if sequences else nullcontext()
        with all_threads(), track(f"encoding {encoder.modality}", len(rows)) as advance, tokens as file:
            batches = _batches(column, rows, device)
            for batch, features in zip(batches, _computed(running, column, batches), strict=True):
                vectors[batch] = features.vector.numpy()
                if file:
                    for n, real in zip(batch, _real_tokens(features), strict=True):
                        file.write(n, real.numpy())
                advance(len(batch))
        broken = int((~np.isfinite(vectors)).any(axis=1).sum())
        if broken:
            raise FloatingPointError(f"the {encoder.modality} encoder gave {broken} movies features that are not finite")
        with (folder / "vectors.npy").open("wb") as kept:
            np.save(kept, rounded(vectors, store.precision, whose))
            kept.flush()
            os.fsync(kept.fileno())
        parameters = sum(p.numel() for p in network.parameters())
        how = {"backend": running.backend, "precision": running.precision}
        return {"movies": len(vectors), "dim": encoder.dim, "parameters": parameters, **how}

    folder = store.folder("features", key, build)
    vectors = torch.from_numpy(np.load(folder / "vectors.npy"))
    meta = json.loads((folder / "meta.json").read_text())
    how = {"backend": meta.get("backend", "torch"), "precision": encoding.precision, "from_cache": stored}
    kept_tokens = Sequences.read(folder, encoder.dim, store.precision) if sequences else None
    return FeatureColumn(key, vectors, column.present, column.bad, meta["parameters"], kept_tokens, how)


def features_of(
    encoder: Encoder, column: Column | FeatureColumn, rows: Sequence[int], device: torch.device
) -> Iterator[Features]:
    """Features of movies that have the modality, some movies at a time, in evaluation mode, on the CPU; no gradient."""
    for start in range(0, len(rows), BATCH):
        yield _features(encoder, column, rows[start : start + BATCH], device)


def _runner(
    network: Encoder, column: Column, rows: np.ndarray, device: torch.device, encoding: Encoding, sequences: bool
) -> Runner:
    """What runs the network; says on stderr what that is."""

    def sample() -> Sample:
        by_length = rows[np.argsort(column.lengths[rows], kind="stable")]
        chosen = by_length[np.linspace(0, len(rows) - 1, SAMPLE).round().astype(int)].tolist()
        return Sample(column.batch(chosen), column.batch(chosen[:1]))

    found = runner(network, encoding, device, sample, contents=len(rows), cores=cores(), sequences=sequences)
    if found.fell_back or not os.environ.get(QUIET):
        print(f"{network.modality} is encoded by {found.note}", file=sys.stderr)
    return found


def _batches(column: Column, rows: np.ndarray, device: torch.device) -> list[list[int]]:
    """Contents of like length together, as many as fill a batch."""
    kind = "cpu" if device.type == "cpu" else "gpu"
    lengths = column.lengths
    if np.unique(lengths[rows]).size > 1:
        return Batches(rows, CONTENTS[kind], lengths, tokens=POSITIONS[kind]).batches(0)
    numbers = int(np.prod(column.shapes[rows[0]])) if len(rows) else 1
    return Batches(rows, max(1, min(CONTENTS[kind], NUMBERS[kind] // max(1, numbers)))).batches(0)


def _computed(running: Runner, column: Column, batches: Sequence[Sequence[int]]) -> Iterator[Features]:
    """Features of each batch, in their order; a few are under way at once."""
    work = ((batch,) for batch in batches)
    return in_threads(running.workers, lambda rows: running(column.batch(rows)), work, window=running.workers + 1)


def _features(encoder: Encoder, column: Column | FeatureColumn, rows: Sequence[int], device: torch.device) -> Features:
    if isinstance(column, FeatureColumn):
        return column.batch(rows)
    return run(encoder.to(device).eval(), column.batch(rows), device)


def _real_tokens(features: Features) -> Iterator[Tensor]:
    """Per movie (T_n, d): its sequence without padding."""
    assert features.sequence is not None
    for n, tokens in enumerate(features.sequence):
        yield tokens if features.mask is None else tokens[features.mask[n]]
