"""A small convolutional network that starts from scratch, for small posters and small machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.image import network_inputs
from gmu_lightning.encoders.posters import PosterPreparation
from gmu_lightning.files import digest
from gmu_lightning.movie import Features, UserError

MEAN, DEVIATION = 0.5, 0.25


class TinyConv(Encoder):
    """Three convolutions without batch statistics, then the mean over the map: strides 4, 2, 1.

    Args:
        size: edge of the square posters, in pixels; their proportions are changed rather than anything cut.
        channels: of the first two convolutions.
        dim: channels of the third, and size of the vector.
        augment: in training, mirror, zoom and shift each poster at random.
        common: `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`; `freeze` is `none`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, size: int = 64, channels: Sequence[int] = (16, 32), dim: int = 64, augment: bool = False, **common: Any):
        super().__init__("image", pretrained=False, **common)
        if size < 8 or len(channels) != 2 or min(*channels, dim) < 1:
            raise UserError(
                f"encoder.image.size={size} channels={list(channels)} dim={dim}: give size 8 or more, two channels, a dim"
            )
        self.size, self.channels, self._dim = size, tuple(channels), dim
        self.augment = augment
        self.preparation = PosterPreparation((size, size), interpolation="bicubic", mode="squash")
        self.register_buffer("mean", torch.full((3,), MEAN), persistent=False)
        self.register_buffer("deviation", torch.full((3,), DEVIATION), persistent=False)

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def fingerprint(self) -> str:
        return digest(["tiny", self.size, self.channels, self._dim])

    def blocks(self) -> list[nn.Module]:
        return [module for module in self.network.children() if isinstance(module, nn.Conv2d)]

    def forward(self, inputs: Tensor) -> Features:
        """uint8 (B, 3, size, size) -> `Features`."""
        pixels = network_inputs(inputs, self.mean, self.deviation, self.augment and self.training)
        return Features(self.network(pixels))

    def _load(self) -> nn.Module:
        a, b = self.channels
        network = nn.Sequential(
            *(nn.Conv2d(3, a, 4, stride=4), nn.ReLU()),
            *(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(b, self._dim, 3, padding=1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        return network.to(memory_format=torch.channels_last)
