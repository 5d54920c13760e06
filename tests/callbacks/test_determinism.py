"""A batch's own randomness."""

from __future__ import annotations

import pytest
import torch

from gmu_lightning.callbacks.determinism import seed_generators, seed_of


@pytest.mark.parametrize("seed", [0, seed_of(1, 0, 0, 0), seed_of(7, 24, 3, 1)])
def test_seeding_gives_the_numbers_of_torchs_own(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = torch.nn.functional.dropout(torch.ones(64, 48)), torch.randn(5), torch.initial_seed()
        torch.manual_seed(seed + 1)
        seed_generators(seed, torch.device("cpu"))
        found = torch.nn.functional.dropout(torch.ones(64, 48)), torch.randn(5), torch.initial_seed()
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1]) and found[2] == expected[2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_the_devices_numbers_are_torchs_own_too():
    device = torch.device("cuda")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = torch.rand(9, device=device), torch.rand(9)
        seed_generators(5, device)
        found = torch.rand(9, device=device), torch.rand(9)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_an_accelerator_of_another_kind_is_seeded_by_torch(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch, "manual_seed", seeded.append)
    with torch.random.fork_rng():
        seed_generators(5, torch.device("xpu"))
    assert seeded == [5]
