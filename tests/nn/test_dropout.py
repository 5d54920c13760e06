from __future__ import annotations

import torch

from gmu_lightning.nn.dropout import Dropout


def test_inputs_with_and_without_gradient_get_the_same_mask():
    dropout, x, drawn = Dropout(0.3), torch.randn(40, 30), []
    for gradient in (False, True):
        torch.manual_seed(5)
        drawn.append(dropout(x.clone().requires_grad_(gradient)).detach())
    assert torch.equal(*drawn)
    assert 0.2 < (drawn[0] == 0).float().mean() < 0.4
