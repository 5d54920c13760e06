"""Frozen first blocks mean once, too: what they give is kept in the store, and every epoch begins at the first trained block.

The whole network is built all the same, and is what a checkpoint holds.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmu_lightning.data.batching import Batches
from gmu_lightning.data.progress import track
from gmu_lightning.data.store import Column, Store
from gmu_lightning.data.threads import all_threads
from gmu_lightning.data.tokens import Sequences, SequenceWriter
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.inputs import Partial, moved
from gmu_lightning.files import digest

BATCH = 32
TRIED = 3  # movies on which a network in two parts is compared with the whole
CLOSE = 1e-5  # to the largest number of the whole
BYTES = {"float32": 4, "float16": 2}
UNCUT = (ValueError, TypeError, AttributeError, LookupError, RuntimeError, AssertionError)  # of a network that takes no cut


@dataclass(frozen=True)
class PartialColumn:
    """What the frozen first blocks gave for every movie, memory-mapped; the same face as a Column's.

    Attributes:
        hidden: of each movie its tokens, or its map as one row of numbers.
        shape: of a map; () where there are tokens.
    """

    key: str
    hidden: Sequences
    shape: tuple[int, ...]
    present: np.ndarray
    bad: tuple[tuple[int, str, str], ...]

    @property
    def lengths(self) -> np.ndarray | None:
        """Tokens per movie, None where there are maps."""
        return None if self.shape else self.hidden.lengths

    def batch(self, rows: Sequence[int], training: bool = False) -> Partial:
        """Of those movies, in float32; an absent one has a single token, or map, of zeros."""
        hidden, mask = self.hidden.batch(rows)
        if self.shape:
            return Partial(hidden.view(len(rows), *self.shape))
        mask[:, 0] = True  # a row that is masked altogether would give NaN
        return Partial(hidden, mask, tuple(np.maximum(self.hidden.lengths[list(rows)], 1).tolist()))


def partial_key(column_key: str, encoder: Encoder, kept_in: str) -> str:
    """All that what the frozen blocks give depends on."""
    return f"{encoder.modality}-{digest([column_key, encoder.fingerprint, 'blocks', encoder.freeze, kept_in])[:20]}"


def partly_encoded(
    store: Store, column: Column, encoder: Encoder, device: torch.device, once: bool = False
) -> PartialColumn | Column:
    """The column through the encoder's frozen first blocks; the column itself where it is not kept, and stderr says why.

    Args:
        encoder: constant in part; a copy of it is built only if it is needed.
        device: where the network runs.
        once: the movies will be read a single time, so that nothing is kept for it. What float16 rounded is all the same, for
            else they would not be read as they were in training.

    Raises:
        UserError: the store keeps float16, which cannot hold what the blocks give.
    """
    key = partial_key(column.key, encoder, store.precision)
    if not store.holds("features", key):
        if once and store.precision == "float32":
            return column
        network = copy.deepcopy(encoder)  # let go of when it has been used
        network.build()
        why_not = _why_not_cut(network, column, device) or _why_no_room(network, column, store, device)
        if why_not:
            print(f"encoder.{encoder.modality}.freeze={encoder.freeze}: {why_not}", file=sys.stderr)
            return column

    def build(folder: Path) -> dict[str, Any]:
        rows = np.flatnonzero(column.present)
        varied = column.lengths if np.unique(column.lengths[rows]).size > 1 else None
        whose = f"frozen blocks of the {encoder.modality} encoder"
        shape: list[int] = []
        with (
            all_threads(),
            track(f"frozen blocks of {encoder.modality}", len(rows)) as advance,
            SequenceWriter(folder, len(column.present), store.precision, whose) as file,
        ):
            for batch in Batches(rows, BATCH, varied):
                partial = _stem(network, column, batch, device)
                shape = [] if partial.mask is not None else list(partial.hidden.shape[1:])
                for n, tokens in zip(batch, _tokens(partial), strict=True):
                    file.write(n, tokens.cpu().numpy())
                advance(len(batch))
        return {"shape": shape, "dim": int(np.prod(shape)) if shape else partial.hidden.shape[-1]}

    folder = store.folder("features", key, build)
    meta = json.loads((folder / "meta.json").read_text())
    hidden = Sequences.read(folder, meta["dim"], store.precision)
    return PartialColumn(key, hidden, tuple(meta["shape"]), column.present, column.bad)


@torch.no_grad()
def _stem(network: Encoder, column: Column, rows: Sequence[int], device: torch.device) -> Partial:
    return network.to(device).eval().stem(moved(column.batch(rows), device))


def _tokens(partial: Partial) -> list[Tensor]:
    """Of each row its tokens (T_n, d), or its map as one of them."""
    if partial.mask is None:
        return [numbers[None].float() for numbers in partial.hidden.flatten(1)]
    return [tokens[real].float() for tokens, real in zip(partial.hidden, partial.mask, strict=True)]


def _tried(column: Column) -> list[int]:
    """Rows to try a network on: the shortest and the longest among them."""
    there = np.flatnonzero(column.present)
    by_length = there[np.argsort(column.lengths[there], kind="stable")]
    return by_length[np.linspace(0, len(there) - 1, min(TRIED, len(there))).astype(int)].tolist()


def _why_not_cut(network: Encoder, column: Column, device: torch.device) -> str | None:
    """Why the network in two parts is not the whole one, in a sentence; None where it is.

    Judged by running it: nothing trained or random may lie before the cut, and what is behind it may read nothing else.
    """
    if len(network.blocks()) <= int(network.freeze) + 1:
        return "every block is frozen and computed in every step all the same: freeze=all keeps what comes of them"
    rows = _tried(column)
    if not rows:
        return "no movie has it, so there is nothing to keep"
    inputs = moved(column.batch(rows), device)
    network.to(device).eval()
    not_kept = f"what frozen blocks give is computed in every step, for in {type(network).__name__} of this name"
    try:
        with torch.random.fork_rng(devices=[]):
            stem = network.stem(inputs)
            if stem.hidden.requires_grad:
                return f"{not_kept} something trained comes before them"
            again = network.train().stem(inputs)
            with torch.no_grad():
                whole = network.eval()(inputs)
                parts = network(stem._replace(hidden=_without_padding(stem)))
        if not _close(_without_padding(again), _without_padding(stem)):
            return f"{not_kept} something random comes before them"
        if not _close(parts.vector, whole.vector):
            return f"{not_kept} what follows them reads more than what they give"
    except UNCUT as error:
        return f"{not_kept} they cannot be told from the rest ({str(error) or type(error).__name__})"
    return None


def _without_padding(partial: Partial) -> Tensor:
    return partial.hidden if partial.mask is None else torch.where(partial.mask[..., None], partial.hidden, 0.0)


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= CLOSE * expected.abs().max().clamp(min=1.0))


def _why_no_room(network: Encoder, column: Column, store: Store, device: torch.device) -> str | None:
    """Why there is no room for it, in a sentence; None where there is, and stderr says how much it takes."""
    rows = _tried(column)
    some = _tokens(_stem(network, column, rows, device))
    there = np.flatnonzero(column.present)
    per_token = some[0].shape[1] * BYTES[store.precision]
    varied = len({len(tokens) for tokens in some}) > 1
    size = per_token * (int(column.lengths[there].sum()) if varied else len(some[0]) * len(there))
    free = shutil.disk_usage(store.root).free
    said = f"what the frozen blocks give takes {size / 1e9:.3g} GB in {store.precision}"
    if size > free / 2:
        return f"{said}, more than half of the {free / 1e9:.3g} GB free in {store.root}: it is computed in every step"
    if store.bound is not None and size > store.bound:
        return f"{said}, more than store.max_gb={store.bound / 1e9:g}: it is computed in every step"
    print(f"encoder.{network.modality}.freeze={network.freeze}: {said} and is kept, computed once", file=sys.stderr)
    return None
