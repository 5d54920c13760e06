"""What every encoder keeps to."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmu_lightning.encoders.base import Encoder
from gmu_lightning.movie import Features

TOLERANCE = 1e-5


def check_encoder(make: Callable[[], Encoder], contents: Sequence[Any]) -> None:
    """Raise AssertionError where an encoder breaks what the framework relies on.

    Args:
        make: a new encoder each time, not built.
        contents: at least two raw contents that it can use, of different lengths if lengths differ.
    """
    assert len(contents) >= 2, "give at least two contents"
    encoder = make()
    assert encoder.network is None, "constructing an encoder must not build its network"
    rows = _check_preparation(encoder, contents)
    assert isinstance(pickle.loads(pickle.dumps(encoder)), type(encoder)), "an encoder must be picklable"
    encoder.check()
    torch.manual_seed(0)
    encoder.build()
    network = encoder.network
    encoder.build()
    assert encoder.network is network, "build() must do nothing the second time"
    encoder.eval()
    together = _features(encoder, rows)
    _check_features(encoder, together, len(rows))
    assert torch.equal(together.vector, _features(encoder, rows).vector), "features differ from one evaluation to the next"
    _check_rows_alone(encoder, rows, together)
    _check_frozen(encoder, rows, together.vector)


def _check_preparation(encoder: Encoder, contents: Sequence[Any]) -> list[np.ndarray]:
    preparation = encoder.preparation
    fitted = preparation.fit(iter(contents))
    state = json.loads(json.dumps(fitted.state()))
    restored = pickle.loads(pickle.dumps(preparation.restored(state)))
    assert fitted.fingerprint == preparation.fingerprint == restored.fingerprint, "fit() or restored() changed the fingerprint"
    rows = [fitted.store(content) for content in contents]
    for row, again in zip(rows, (restored.store(content) for content in contents), strict=True):
        assert np.array_equal(row, again), "a preparation restored from its state stores other bytes"
        assert row.dtype == rows[0].dtype, "rows are stored with different dtypes"
    encoder.preparation = restored
    return rows


def _check_features(encoder: Encoder, features: Features, rows: int) -> None:
    vector, sequence, mask = features
    assert vector.shape == (rows, encoder.dim), f"vector is {tuple(vector.shape)}, expected {(rows, encoder.dim)}"
    assert vector.dtype == torch.float32, f"features are {vector.dtype}, expected float32"
    assert torch.isfinite(vector).all(), "features are not finite"
    assert (sequence is not None) == encoder.sequences, f"sequences={encoder.sequences}, yet the features say otherwise"
    if sequence is None:
        return
    assert sequence.shape[::2] == (rows, encoder.dim), f"sequence is {tuple(sequence.shape)}, expected ({rows}, T, {encoder.dim})"
    if mask is not None:
        assert mask.dtype == torch.bool and mask.shape == sequence.shape[:2], "mask is not bool (B, T), as long as the sequence"
        assert mask.any(dim=1).all(), "a movie's mask keeps none of its tokens"
    assert torch.isfinite(_real_tokens(features, slice(None))).all(), "tokens are not finite"


def _check_rows_alone(encoder: Encoder, rows: list[np.ndarray], together: Features) -> None:
    for n, row in enumerate(rows):
        alone = _features(encoder, [row])
        assert _same(alone.vector[0], together.vector[n]), f"row {n} alone differs from row {n} in a batch"
        if encoder.sequences:
            here, there = _real_tokens(alone, 0), _real_tokens(together, n)
            assert here.shape == there.shape, f"row {n} has {len(here)} tokens alone and {len(there)} in a batch"
            assert _same(here, there), f"tokens of row {n} alone differ from those in a batch"
    beside_absent = _features(encoder, [rows[0], None]).vector
    assert _same(beside_absent[0], together.vector[0]), "an absent row changes its neighbour's features"
    assert torch.isfinite(beside_absent).all(), "an absent row's placeholder gives features that are not finite"
    assert torch.isfinite(_features(encoder, [None]).vector).all(), "a batch of absent rows alone gives features not finite"


def _same(some: Tensor, other: Tensor) -> bool:
    """But for rounding, which is as large as the numbers are."""
    return torch.allclose(some, other, atol=TOLERANCE * max(1.0, float(other.abs().max())))


def _real_tokens(features: Features, rows: int | slice) -> Tensor:
    assert features.sequence is not None
    sequence = features.sequence[rows]
    return sequence if features.mask is None else sequence[features.mask[rows]]


def _check_frozen(encoder: Encoder, rows: list[np.ndarray], together: Tensor) -> None:
    encoder.train()
    trained = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    if encoder.freeze == "all":
        assert not trained, f"freeze=all, yet these get gradients: {trained[:3]}"
        assert not any(module.training for module in encoder.network.modules()), "freeze=all, yet modules are in training mode"
        if encoder.constant:
            assert torch.equal(together, _features(encoder, rows).vector), "constant, yet features differ in training"
    elif encoder.freeze == "none":
        assert len(trained) == len(list(encoder.parameters())), "freeze=none, yet some parameters get no gradient"
    encoder.eval()


@torch.no_grad()
def _features(encoder: Encoder, rows: Sequence[np.ndarray | None]) -> Features:
    return encoder(encoder.preparation.batch(rows, encoder.training))
