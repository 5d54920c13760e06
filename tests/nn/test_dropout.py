from __future__ import annotations

import pytest
import torch

from gmu_lightning.nn.dropout import SHORTEST, Dropout, kept_of


def test_inputs_with_and_without_gradient_get_the_same_mask():
    dropout, x, drawn = Dropout(0.3), torch.randn(40, 30), []
    for gradient in (False, True):
        torch.manual_seed(5)
        drawn.append(dropout(x.clone().requires_grad_(gradient)).detach())
    assert torch.equal(*drawn)
    assert 0.2 < (drawn[0] == 0).float().mean() < 0.4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_follows_torchs_generator(dtype):
    x = torch.empty(64, 3000, dtype=dtype)

    def drawn(seed):
        torch.manual_seed(seed)
        return kept_of(x, 0.25, 2.0)

    first, again, other = map(drawn, (1, 1, 2))
    assert first.dtype == dtype and first.shape == x.shape and set(first.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(first, again)
    assert abs((first == 0).double().mean() - 0.25) < 0.01
    assert abs((first == other).double().mean() - (0.25**2 + 0.75**2)) < 0.01  # as of two independent masks


def test_a_mask_may_be_longer_than_the_shortest_row():
    torch.manual_seed(3)
    kept = kept_of(torch.empty(SHORTEST + 7), 0.5)
    assert abs(kept.double().mean() - 0.5) < 0.001
    halves = kept[: SHORTEST // 2], kept[SHORTEST // 2 : SHORTEST]
    assert abs((halves[0] == halves[1]).double().mean() - 0.5) < 0.002  # nothing repeats within a mask
