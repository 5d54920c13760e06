"""Posters through a pretrained image network: pixels in, the vector before its classifier (and a few tokens of its map) out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.inputs import Partial
from gmu_lightning.encoders.splitting import entered_with, entering
from gmu_lightning.encoders.timm_network import TimmNetwork, scaled
from gmu_lightning.files import digest
from gmu_lightning.movie import Features, Preparation, UserError

SMALLEST_ZOOM = 0.8


class TimmImage(Encoder):
    """Any image network of the timm library, preprocessing as its weights were trained with.

    Args:
        name: timm's name with the tag of the weights (`resnet50.a1_in1k`), or a local folder in the layout of timm's repositories
            on the Hugging Face hub (config.json, model.safetensors).
        weights: a local file or folder, or a hub repository, to take the weights from instead of the name's own.
        num_tokens: so many tokens pooled from the feature map become `Features.sequence`; None gives no sequence.
        augment: in training, mirror, zoom and shift each poster at random.
        common: `freeze`, `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`.

    Raises:
        UserError: the name has no tag and no weights; in `check` and `build`, weights are missing or do not fit.
    """

    splits = True
    mean: Tensor
    deviation: Tensor

    def __init__(
        self, name: str, weights: str | None = None, num_tokens: int | None = None, augment: bool = False, **common: Any
    ):
        super().__init__("image", pretrained=True, **common)
        if num_tokens is not None and num_tokens < 1:
            raise UserError(f"encoder.image.num_tokens={num_tokens}: give at least 1, or null for no sequence")
        self.source = TimmNetwork(name, weights, "encoder.image")
        self.num_tokens = num_tokens
        self.augment = augment
        self._entrance: str | None = None  # the name of the module that what frozen blocks gave enters
        self._preparation: Preparation | None = None

    @property
    def preparation(self) -> Preparation:
        """Size, crop and interpolation of the weights, asked for when they are first needed."""
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
        """Whether tokens were asked for."""
        return self.num_tokens is not None

    def check(self) -> None:
        """Whether the weights are found."""
        self.source.found()

    def blocks(self) -> list[nn.Module]:
        """Stem, then blocks, as timm groups the layers for layer-wise learning rates."""
        blocks: list[nn.Module] = []
        for names in self._groups():
            loose = nn.ParameterList(self.network.get_parameter(name) for name in names if "." not in name)
            blocks.append(nn.ModuleList([*(self.network.get_submodule(owner) for owner in _owners(names)), loose]))
        return blocks

    def _groups(self) -> list[list[str]]:
        """The names of each block's parameters."""
        from timm.models import group_parameters

        grouped = group_parameters(self.network, self.network.group_matcher(coarse=False))
        return [names for _, names in sorted(grouped.items())]

    def forward(self, inputs: Tensor | Partial) -> Features:
        """uint8 (B, 3, H, W) -> `Features`."""
        if isinstance(inputs, Partial):
            maps = self._rest(inputs.hidden)
        else:
            pixels = network_inputs(inputs, self.mean, self.deviation, self.augment and self.training)
            maps = self.network.forward_features(pixels)
        vector = self.network.forward_head(maps, pre_logits=True)  # (B, d)
        return Features(vector, self._tokens(maps, vector) if self.num_tokens else None)

    def stem(self, inputs: Tensor) -> Partial:
        """What stem and frozen blocks give."""
        pixels = network_inputs(inputs, self.mean, self.deviation, augment=False)
        return Partial(entering(self._first_trained(), lambda: self.network.forward_features(pixels)))

    def _rest(self, hidden: Tensor) -> Tensor:
        """The feature map that the blocks make which are trained."""
        layout = torch.channels_last if hidden.ndim == 4 else torch.contiguous_format
        # A black poster goes the same way up to the first of them, where what is known of the B takes its place: whatever
        # else a network does on its way (flatten, add positions) is done as ever, at the price of one poster.
        size = self.source.recipe.preparation.size
        black = torch.zeros(1, 3, *size, device=hidden.device).contiguous(memory_format=torch.channels_last)
        with entered_with(self._first_trained(), hidden.contiguous(memory_format=layout)):
            return self.network.forward_features(black)

    def _first_trained(self) -> nn.Module:
        """The largest module that holds the first of what is trained, and nothing of what is frozen."""
        network = self.network
        if self._entrance is None:
            trained = set(self._groups()[int(self.freeze) + 1])
            known = [name for name, _ in network.named_modules()]
            place = min(_owners(trained), key=known.index).split(".")
            for depth in range(1, len(place) + 1):
                self._entrance = ".".join(place[:depth])
                module = network.get_submodule(self._entrance)
                names = {f"{self._entrance}.{name}" for name, _ in module.named_parameters()}
                if names <= trained and not isinstance(module, nn.ModuleList):
                    break
        return network.get_submodule(self._entrance or "")

    def _tokens(self, maps: Tensor, vector: Tensor) -> Tensor:
        """The feature map -> (B, num_tokens, d)."""
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
        return F.adaptive_avg_pool2d(maps, _grid(self.num_tokens or 1)).flatten(2).transpose(1, 2)

    def _load(self) -> nn.Module:
        mean, deviation = self.source.colours
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)
        return self.source.load()


def _owners(names: Iterable[str]) -> list[str]:
    """The modules that hold these parameters, but not the network itself, by name."""
    return sorted({name.rpartition(".")[0] for name in names} - {""})


def network_inputs(pixels: Tensor, mean: Tensor, deviation: Tensor, augment: bool) -> Tensor:
    """uint8 (B, 3, H, W) -> what the network sees: scaled and, if asked for, augmented."""
    x = scaled(pixels, mean, deviation)
    return augmented(x) if augment else x


def augmented(pixels: Tensor) -> Tensor:
    """Each image mirrored with probability 1/2, and a random part of at least 80 % of its edges zoomed to full size."""
    count = len(pixels)
    zoom = 1 - (1 - SMALLEST_ZOOM) * torch.rand(count, device=pixels.device)
    mirror = torch.where(torch.rand(count, device=pixels.device) < 0.5, -1.0, 1.0)
    shift = (1 - zoom)[:, None] * (2 * torch.rand(count, 2, device=pixels.device) - 1)
    zero = torch.zeros_like(zoom)
    maps = torch.stack([zoom * mirror, zero, shift[:, 0], zero, zoom, shift[:, 1]], dim=1).view(count, 2, 3)
    grid = F.affine_grid(maps, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False).contiguous(memory_format=torch.channels_last)


def _grid(tokens: int) -> tuple[int, int]:
    """Rows and columns, rows >= columns, as near to a square as their product allows (Kiela et al. 2019, arXiv 1909.02950)."""
    columns = next(c for c in range(int(tokens**0.5), 0, -1) if tokens % c == 0)
    return tokens // columns, columns
