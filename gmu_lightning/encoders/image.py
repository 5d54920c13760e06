"""Encoders of posters: pretrained networks of the timm library, and a small network that starts from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le, Len
from torch import Tensor, nn
from torch.nn import functional as F

from gmu_lightning.config.ranges import Count, Size
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.posters import PosterPreparation
from gmu_lightning.encoders.timm_network import TimmNetwork, scaled
from gmu_lightning.files import digest
from gmu_lightning.movie import Features, Preparation, UserError

SMALLEST_ZOOM = 0.8
MEAN, DEVIATION = 0.5, 0.25  # of the network from scratch


class PosterEncoder(Encoder):
    """Base class of encoders of posters. With `augment`, posters are augmented in training."""

    mean: Tensor
    deviation: Tensor

    def _scale_by(self, mean: Tensor, deviation: Tensor) -> None:
        """Keep mean and deviation of each channel, (3,), for values from 0 to 1."""
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)

    def _pixels(self, posters: Tensor) -> Tensor:
        """Return the network's inputs, float32 (B, 3, H, W), for posters, uint8 (B, 3, H, W)."""
        x = scaled(posters, self.mean, self.deviation)
        return augmented(x) if self.augment and self.training else x


class TimmImage(PosterEncoder):
    """Encode posters with any image network of the timm library, preprocessed as in the training of its weights.

    Args:
        name: timm's name with the tag of the weights (`resnet50.a1_in1k`), or a local folder in the layout of timm's repositories
            on the Hugging Face hub (config.json, model.safetensors).
        weights: a local file or folder, or a hub repository, that replaces the weights of `name`.
        num_tokens: number of tokens pooled from the feature map for `Features.sequence`; None gives no sequence.
        augment: in training, mirror, zoom and shift each poster at random.
        common: `freeze`, `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`.

    Raises:
        UserError: the name has no tag and no weights; in `check` and `build`, weights are missing or do not fit.
    """

    def __init__(
        self, name: str, weights: str | None = None, num_tokens: Count | None = None, augment: bool = False, **common: Any
    ):
        super().__init__("image", pretrained=True, **common)
        self.source = TimmNetwork(name, weights, "encoder.image")
        self.num_tokens = num_tokens
        self.augment = augment
        self._preparation: Preparation | None = None

    @property
    def preparation(self) -> Preparation:
        """Return the fitted preparation, or the one that the weights were trained with. The weights are found on first use.

        Raises UserError if they are missing.
        """
        return self._preparation or self.source.recipe.preparation

    @preparation.setter
    def preparation(self, fitted: Preparation) -> None:
        self._preparation = fitted

    @property
    def dim(self) -> int:
        return self.source.width

    @property
    def fingerprint(self) -> str:
        return digest(["timm", *self.source.identity, self.num_tokens])

    @property
    def sequences(self) -> bool:  # type: ignore[override]
        """Return whether `Features.sequence` is filled."""
        return self.num_tokens is not None

    def check(self) -> None:
        """Check that the weights are found. Raises UserError."""
        self.source.found()

    def description(self) -> dict[str, bytes]:
        return self.source.description()

    def blocks(self) -> list[nn.Module]:
        """Return the stem, then the blocks, as timm groups the layers for layer-wise learning rates."""
        from timm.models import group_parameters

        grouped = group_parameters(self.network, self.network.group_matcher(coarse=False))
        blocks: list[nn.Module] = []
        for _, names in sorted(grouped.items()):
            loose = nn.ParameterList(self.network.get_parameter(name) for name in names if "." not in name)
            owners = sorted({name.rpartition(".")[0] for name in names} - {""})
            blocks.append(nn.ModuleList([*map(self.network.get_submodule, owners), loose]))
        return blocks

    def forward(self, inputs: Tensor) -> Features:
        """Return the `Features` of posters, uint8 (B, 3, H, W)."""
        maps = self.network.forward_features(self._pixels(inputs))
        vector = self.network.forward_head(maps, pre_logits=True)  # (B, d)
        return Features(vector, self._tokens(maps, vector) if self.num_tokens else None)

    def _tokens(self, maps: Tensor, vector: Tensor) -> Tensor:
        """Return the pooled tokens of a feature map, (B, num_tokens, d)."""
        network = self.network
        if maps.ndim == 3:  # a vision transformer's (B, 1 + h w, d)
            grid = network.patch_embed.grid_size
            maps = maps[:, network.num_prefix_tokens :].unflatten(1, grid).permute(0, 3, 1, 2)
        elif getattr(network, "output_fmt", "NCHW") == "NHWC":
            maps = maps.permute(0, 3, 1, 2)
        if maps.shape[1] != vector.shape[1]:
            raise UserError(
                f"encoder.image.num_tokens={self.num_tokens}: {self.source.name} has {maps.shape[1]} channels in its map and "
                f"{vector.shape[1]} in its vector; tokens need the same number, as in ResNet or ViT"
            )
        return pooled_tokens(maps, self.num_tokens or 1)

    def _load(self) -> nn.Module:
        self._scale_by(*self.source.colours)
        return self.source.load()


class TinyConv(PosterEncoder):
    """Encode posters with three convolutions of strides 4, 2 and 1 without batch statistics, then the mean over the map.

    Args:
        size: edge of the square posters, in pixels. Posters are squeezed into the square, not cropped.
        channels: of the first two convolutions.
        dim: channels of the third convolution, and size of the vector.
        augment: in training, mirror, zoom and shift each poster at random.
        common: `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`. `freeze` stays `none`.
    """

    def __init__(
        self,
        size: Annotated[int, Ge(8), Le(1024)] = 64,
        channels: Annotated[Sequence[Size], Len(2, 2), "a list of two numbers, such as [16,32]"] = (16, 32),
        dim: Size = 64,
        augment: bool = False,
        **common: Any,
    ):
        super().__init__("image", pretrained=False, **common)
        self.size, self.channels, self._dim = size, tuple(channels), dim
        self.augment = augment
        self.preparation = PosterPreparation((size, size), interpolation="bicubic", mode="squash")
        self._scale_by(torch.full((3,), MEAN), torch.full((3,), DEVIATION))

    @property
    def fingerprint(self) -> str:
        return digest(["tiny", self.size, self.channels, self._dim])

    def forward(self, inputs: Tensor) -> Features:
        """Return the `Features` of posters, uint8 (B, 3, size, size)."""
        return Features(self.network(self._pixels(inputs)))

    def _load(self) -> nn.Module:
        a, b = self.channels
        network = nn.Sequential(
            *(nn.Conv2d(3, a, 4, stride=4), nn.ReLU()),
            *(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(b, self.dim, 3, padding=1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        return network.to(memory_format=torch.channels_last)


def augmented(pixels: Tensor) -> Tensor:
    """Mirror each image with probability 1/2, and zoom a random part with at least 80 % of its edges to full size.

    Random numbers come from torch's global generator of the device.

    Args:
        pixels: float32 (B, 3, H, W), as is the result.
    """
    count = len(pixels)
    zoom = 1 - (1 - SMALLEST_ZOOM) * torch.rand(count, device=pixels.device)
    mirror = torch.where(torch.rand(count, device=pixels.device) < 0.5, -1.0, 1.0)
    shift = (1 - zoom)[:, None] * (2 * torch.rand(count, 2, device=pixels.device) - 1)
    zero = torch.zeros_like(zoom)
    maps = torch.stack([zoom * mirror, zero, shift[:, 0], zero, zoom, shift[:, 1]], dim=1).view(count, 2, 3)
    grid = F.affine_grid(maps, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False).contiguous(memory_format=torch.channels_last)


def pooled_tokens(maps: Tensor, tokens: int) -> Tensor:
    """Return the means over so many cells of feature maps (B, d, h, w): (B, tokens, d)."""
    return F.adaptive_avg_pool2d(maps, _grid(tokens)).flatten(2).transpose(1, 2)


def _grid(tokens: int) -> tuple[int, int]:
    """Return (rows, columns) of a grid of so many cells, as square as possible with rows >= columns (Kiela et al. 2019)."""
    columns = next(c for c in range(int(tokens**0.5), 0, -1) if tokens % c == 0)
    return tokens // columns, columns
