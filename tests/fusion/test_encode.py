"""Each modality is encoded by itself, and absent modalities are not encoded."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from gmu_lightning.fusion import Concat
from gmu_lightning.movie import Features, MovieBatch


class Words(NamedTuple):
    """Two tensors of B rows."""

    ids: Tensor
    mask: Tensor


class Doubles(nn.Module):
    """Return twice the input, as vector and sequence, and record the rows."""

    dim = 2

    def __init__(self):
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, inputs):
        x = inputs.ids if isinstance(inputs, Words) else inputs
        self.seen.append(x)
        assert torch.isfinite(x).all()
        return Features(2 * x, 2 * x[:, None], torch.ones(len(x), 1, dtype=torch.bool))


X = torch.tensor([[1.0, 2.0], [float("nan")] * 2, [3.0, 4.0]])


def encode(inputs, present: list[bool], encoder: Doubles) -> Features:
    batch = MovieBatch(("a", "b", "c"), {"text": inputs}, torch.tensor(present)[:, None], None)
    return Concat({"text": 2}, hidden=False).encode({"text": encoder}, batch, lambda _, features, __: features)["text"]


@pytest.mark.parametrize("inputs", [X, Words(X, torch.ones(3, 1))])
def test_absent_rows_skip_the_encoder_and_become_zeros(inputs):
    encoder = Doubles()
    features = encode(inputs, [True, False, True], encoder)
    assert torch.equal(encoder.seen[0], X[[0, 2]])
    assert features.vector.tolist() == [[2, 4], [0, 0], [6, 8]]
    assert features.sequence.shape == (3, 1, 2)
    assert features.mask.tolist() == [[True], [False], [True]]


def test_complete_batch_is_not_copied():
    encoder, inputs = Doubles(), torch.ones(3, 2)
    encode(inputs, [True] * 3, encoder)
    assert encoder.seen[0] is inputs


def test_batch_without_the_modality_skips_the_encoder():
    encoder = Doubles()
    assert encode(X, [False] * 3, encoder).vector.tolist() == [[0, 0]] * 3
    assert not encoder.seen


def test_features_pass_through():
    encoder, features = Doubles(), Features(X)
    assert encode(features, [True, False, True], encoder) is features
    assert not encoder.seen
