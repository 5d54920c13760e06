"""The rules of encoders: preparation, shapes and dtype, rows alone and in a batch, and frozen networks."""

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

ENCODED = 1e-5  # largest difference of features, in float32


def check_encoder(make: Callable[[], Encoder], contents: Sequence[Any]) -> None:
    """Check that an encoder follows the framework's rules. Seed torch's generator with 0.

    The encoder is built, so pretrained weights are loaded. Errors of its own methods are passed on.

    Args:
        make: returns a new encoder, not yet built, at each call.
        contents: at least two raw contents that the encoder can read, of different lengths if lengths can differ.

    Raises:
        AssertionError: a rule is broken.
    """
    assert len(contents) >= 2, "give at least two contents, such as two plots"
    encoder = make()
    assert isinstance(encoder, Encoder), (
        f"the object is a {type(encoder).__name__}: give a function that makes a subclass of gmu_lightning.encoders.base.Encoder"
    )
    assert encoder.network is None, "the constructor builds the network: build it in `_load`, which `build` calls"
    assert hasattr(encoder, "preparation"), "the encoder has no preparation: set self.preparation in the constructor"
    rows = _check_preparation(encoder, contents)
    _check_pickled(encoder)
    assert _fingerprint(encoder) == _fingerprint(make()), (
        "two encoders of the same arguments have different fingerprints: make `fingerprint` of settings alone"
    )
    encoder.check()
    torch.manual_seed(0)
    encoder.build()
    network = encoder.network
    encoder.build()
    assert encoder.network is network, "build() makes a second network: make it in `_load`, and leave `build` to Encoder"
    encoder.eval()
    together = _features(encoder, rows)
    _check_features(encoder, together, len(rows))
    assert torch.equal(together.vector, _features(encoder, rows).vector), (
        "features differ from one evaluation to the next: draw random numbers only while self.training is true"
    )
    _check_rows_alone(encoder, rows, together)
    _check_frozen(encoder, rows, together.vector)


def _check_pickled(encoder: Encoder) -> None:
    try:
        pickle.dumps(encoder)
    except Exception as error:
        raise AssertionError(
            f"the encoder cannot be pickled ({error}): keep open files and local functions out of its attributes"
        ) from error


def _fingerprint(encoder: Encoder) -> str:
    try:
        return encoder.fingerprint
    except NotImplementedError as error:
        raise AssertionError(
            "the encoder has no `fingerprint`: return a text of all settings that determine its features"
        ) from error


def _check_preparation(encoder: Encoder, contents: Sequence[Any]) -> list[np.ndarray]:
    preparation = encoder.preparation
    fitted = preparation.fit(iter(contents))
    state = json.loads(json.dumps(fitted.state()))
    restored = pickle.loads(pickle.dumps(preparation.restored(state)))
    assert fitted.fingerprint == preparation.fingerprint == restored.fingerprint, (
        "fit() or restored() changed the fingerprint of the preparation: make it of settings alone"
    )
    rows = [fitted.store(content) for content in contents]
    for row, again in zip(rows, (restored.store(content) for content in contents), strict=True):
        assert np.array_equal(row, again), (
            "a preparation restored from its state stores other numbers: return everything that `fit` learns from state()"
        )
        assert row.dtype == rows[0].dtype, "rows are stored with different dtypes: return arrays of one dtype from store()"
    encoder.adopt(restored)
    return rows


def _check_features(encoder: Encoder, features: Features, rows: int) -> None:
    vector, sequence, mask = features
    assert vector.shape == (rows, encoder.dim), (
        f"vector is {tuple(vector.shape)}, expected {(rows, encoder.dim)}: return (B, encoder.dim) numbers, and set self._dim"
    )
    assert vector.dtype == torch.float32, f"features are {vector.dtype}, expected float32: convert them with .float()"
    assert torch.isfinite(vector).all(), "features are not finite: look for a division by zero or a logarithm of zero"
    assert (sequence is not None) == encoder.sequences, (
        f"sequences={encoder.sequences}, yet the features have {'no' if sequence is None else 'a'} sequence: correct one of them"
    )
    if sequence is None:
        return
    assert sequence.shape[::2] == (rows, encoder.dim), (
        f"sequence is {tuple(sequence.shape)}, expected ({rows}, T, {encoder.dim}): give each token encoder.dim numbers"
    )
    if mask is not None:
        assert mask.dtype == torch.bool and mask.shape == sequence.shape[:2], (
            f"mask is {tuple(mask.shape)} of {mask.dtype}, expected {tuple(sequence.shape[:2])} of torch.bool: one for each token"
        )
        assert mask.any(dim=1).all(), "a movie has no real token in its mask: keep at least one"
    assert torch.isfinite(features.real_tokens()).all(), "tokens are not finite: look for a division or a logarithm of zero"


def _check_rows_alone(encoder: Encoder, rows: list[np.ndarray], together: Features) -> None:
    remedy = "compute each row by itself, and leave padding out"
    for n, row in enumerate(rows):
        alone = _features(encoder, [row])
        assert _same(alone.vector[0], together.vector[n]), f"content {n} alone has other features than in a batch: {remedy}"
        if encoder.sequences:
            here, there = alone.real_tokens(0), together.real_tokens(n)
            assert here.shape == there.shape, f"content {n} has {len(here)} tokens alone and {len(there)} in a batch: {remedy}"
            assert _same(here, there), f"tokens of content {n} alone differ from those in a batch: {remedy}"
    beside_absent = _features(encoder, [rows[0], None]).vector
    assert _same(beside_absent[0], together.vector[0]), f"an absent row changes its neighbour's features: {remedy}"
    remedy = "let the preparation's batch() put zeros in place of None"
    assert torch.isfinite(beside_absent).all(), f"an absent row beside another has features that are not finite: {remedy}"
    assert torch.isfinite(_features(encoder, [None]).vector).all(), f"a batch of absent rows is not finite: {remedy}"


def _same(some: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal up to rounding, relative to their largest value."""
    return torch.allclose(some, other, atol=ENCODED * max(1.0, float(other.abs().max())))


def _check_frozen(encoder: Encoder, rows: list[np.ndarray], together: Tensor) -> None:
    encoder.train()
    trained = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    if encoder.freeze == "all" and getattr(encoder, "lora", None):
        return
    if encoder.freeze == "all":
        assert not trained, f"freeze=all, yet {', '.join(trained[:3])} would be trained: keep all parameters in self.network"
        assert not any(module.training for module in encoder.network.modules()), (
            "freeze=all, yet modules are in training mode: leave train() to Encoder"
        )
        if encoder.constant:
            assert torch.equal(together, _features(encoder, rows).vector), (
                "freeze=all, yet features differ in training: name the reason in `why_not_constant`, or remove it"
            )
    elif encoder.freeze == "none":
        fixed = [name for name, parameter in encoder.named_parameters() if not parameter.requires_grad]
        assert not fixed, f"freeze=none, yet {', '.join(fixed[:3])} would not be trained: leave requires_grad to Encoder"


@torch.no_grad()
def _features(encoder: Encoder, rows: Sequence[np.ndarray | None]) -> Features:
    return encoder(encoder.preparation.batch(rows, encoder.training))
