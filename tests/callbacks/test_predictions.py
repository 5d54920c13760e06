"""Gather predictions of batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from gmu_lightning.callbacks.predictions import _rows
from gmu_lightning.movie import MovieBatch, Prediction


def test_one_gate_for_all_features_counts_as_equal_gates():
    torch.manual_seed(0)
    model: Any = SimpleNamespace(head=SimpleNamespace(weight=torch.randn(5, 7)), fusion=SimpleNamespace(open_threshold=0.5))
    gates, logits = torch.rand(4, 3, 1), torch.randn(4, 5)
    batch = MovieBatch(("a", "b", "c", "d"), {}, torch.ones(4, 3, dtype=torch.bool), torch.ones(4, 5))
    one = _rows(model, Prediction(logits, None, gates), batch)
    many = _rows(model, Prediction(logits, None, gates.expand(4, 3, 7)), batch)
    for name in ("gate", "gate_open", "gate_by_genre"):
        torch.testing.assert_close(torch.as_tensor(getattr(one, name)), torch.as_tensor(getattr(many, name)))
    torch.testing.assert_close(torch.as_tensor(one.gate_by_genre), gates.double().expand(4, 3, 5), atol=1e-6, rtol=0)
