"""An own fusion."""

import torch
from torch import nn

from gmu_lightning.fusion import Fusion
from gmu_lightning.movie import Fused


class Weighted(Fusion):
    """Add the projected modalities, each with one learned weight."""

    def __init__(self, sizes, dim=32):
        super().__init__(sizes, dim)
        self.layers = nn.ModuleList(nn.Linear(size, dim) for size in sizes.values())
        self.weights = nn.Parameter(torch.ones(len(sizes), 1))

    def fuse(self, inputs, present):
        projected = torch.stack([layer(inputs[m]) for m, layer in enumerate(self.layers)], dim=-2)
        parts = torch.where(present, self.weights * projected, 0.0)
        return Fused(parts.sum(dim=-2), parts)
