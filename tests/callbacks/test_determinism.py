"""Seeding before a batch gives the same random numbers as `torch.manual_seed`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmu_lightning.callbacks.determinism import seed_generators, seed_of


@pytest.mark.parametrize("seed", [0, seed_of(1, 0, 0, 0), seed_of(7, 24, 3, 1)])
def test_seeding_matches_torch_manual_seed(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = torch.nn.functional.dropout(torch.ones(64, 48)), torch.randn(5), torch.initial_seed()
        torch.manual_seed(seed + 1)
        seed_generators(seed, torch.device("cpu"))
        found = torch.nn.functional.dropout(torch.ones(64, 48)), torch.randn(5), torch.initial_seed()
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1]) and found[2] == expected[2]


def test_numbers_of_numpy_give_the_same_seed():
    assert seed_of(np.int64(1), np.int32(2), np.str_("rank")) == seed_of(1, 2, "rank")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_seeding_matches_torch_manual_seed_on_cuda():
    device = torch.device("cuda")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = torch.rand(9, device=device), torch.rand(9)
        seed_generators(5, device)
        found = torch.rand(9, device=device), torch.rand(9)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_other_accelerators_are_seeded_by_torch(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch, "manual_seed", seeded.append)
    with torch.random.fork_rng():
        seed_generators(5, torch.device("xpu"))
    assert seeded == [5]
