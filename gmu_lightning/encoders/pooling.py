"""Steps of video or sound -> one vector: attention, a transformer, convolutions over time; all start from scratch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gmu_lightning.encoders.sequences import SequenceEncoder, SequenceInputs
from gmu_lightning.encoders.tokens import masked_mean
from gmu_lightning.movie import Features, UserError


class AttentionPool(SequenceEncoder):
    """A weighted mean of the projected steps, weighed by gated attention (Ilse et al. 2018, arXiv 1802.04712, equation 9).

    Args:
        modality: `video` or `audio`.
        dim: size of a projected step.
        hidden: size of the attention's own layer.
        options: of `SequenceEncoder`.
    """

    def __init__(self, modality: str, dim: int = 256, hidden: int = 128, **options: Any):
        super().__init__(modality, dim, {"hidden": hidden}, **options)

    def forward(self, inputs: SequenceInputs) -> Features:
        steps = self.network.project(inputs.values)  # (B, T, dim)
        scores = self.network.score(self.network.tanh(steps) * self.network.gate(steps))[..., 0]  # (B, T)
        weights = scores.masked_fill(~inputs.mask, -torch.inf).softmax(dim=1)
        return Features((weights[..., None] * steps).sum(dim=1), steps, inputs.mask)

    def _load(self) -> nn.Module:
        hidden = self.sizes["hidden"]
        return nn.ModuleDict(
            {
                "project": projection(self.size, self.dim),
                "tanh": nn.Sequential(nn.Linear(self.dim, hidden), nn.Tanh()),
                "gate": nn.Sequential(nn.Linear(self.dim, hidden), nn.Sigmoid()),
                "score": nn.Linear(hidden, 1),
            }
        )


class TimeTransformer(SequenceEncoder):
    """A pre-norm transformer over the projected steps; its vector is that of a learned first token.

    Positions are sinusoids (Vaswani et al. 2017, arXiv 1706.03762, section 3.5), so that any length can be read.

    Args:
        modality: `video` or `audio`.
        dim: width, a multiple of 2 * `heads`.
        layers: how many.
        heads: per layer.
        stride: so many steps in a row are averaged into one before: a log-mel spectrogram has thousands.
        inner_dropout: probability, in every layer.
        options: of `SequenceEncoder`.
    """

    def __init__(
        self,
        modality: str,
        dim: int = 256,
        layers: int = 2,
        heads: int = 4,
        stride: int = 1,
        inner_dropout: float = 0.1,
        **options: Any,
    ):
        super().__init__(modality, dim, {"layers": layers, "heads": heads, "stride": stride}, **options)
        if dim % (2 * heads):
            raise UserError(f"encoder.{modality}.dim={dim} heads={heads}: give a dim that is a multiple of {2 * heads}")
        if not 0 <= inner_dropout < 1:
            raise UserError(f"encoder.{modality}.inner_dropout={inner_dropout}: give a probability from 0 up to, but not, 1")
        self.inner_dropout = inner_dropout

    def forward(self, inputs: SequenceInputs) -> Features:
        values, mask = averaged(inputs, self.sizes["stride"])
        steps = self.network.project(values)  # (B, T, dim)
        steps = steps + sinusoids(steps.shape[1], self.dim).to(steps)
        first = self.network.first.weight.expand(len(steps), 1, -1)
        x = torch.cat([first, steps], dim=1)  # (B, 1 + T, dim)
        padding = nn.functional.pad(~mask, (1, 0), value=False)
        for layer in self.network.layers:
            x = layer(x, src_key_padding_mask=padding)
        x = self.network.norm(x)
        return Features(x[:, 0], x[:, 1:], mask)

    def _load(self) -> nn.Module:
        def layer() -> nn.Module:
            return nn.TransformerEncoderLayer(
                self.dim, self.sizes["heads"], 4 * self.dim, self.inner_dropout, "gelu", batch_first=True, norm_first=True
            )

        first = nn.Embedding(1, self.dim)
        nn.init.normal_(first.weight, std=0.02)
        return nn.ModuleDict(
            {
                "project": projection(self.size, self.dim),
                "first": first,
                "layers": nn.ModuleList(layer() for _ in range(self.sizes["layers"])),
                "norm": nn.LayerNorm(self.dim),
            }
        )


class TimeConv(SequenceEncoder):
    """Convolutions over time, GELU after each, then the mean; what lies beyond a sequence's end is zero to each of them.

    Args:
        modality: `video` or `audio`.
        dim: channels.
        layers: how many convolutions.
        kernel: steps that each sees, an odd number.
        stride: of each.
        options: of `SequenceEncoder`.
    """

    def __init__(self, modality: str, dim: int = 256, layers: int = 2, kernel: int = 5, stride: int = 2, **options: Any):
        super().__init__(modality, dim, {"layers": layers, "kernel": kernel, "stride": stride}, **options)
        if kernel % 2 == 0:
            raise UserError(f"encoder.{modality}.kernel={kernel}: give an odd number")

    def forward(self, inputs: SequenceInputs) -> Features:
        x, mask = self.network.project(inputs.values), inputs.mask  # (B, T, dim)
        for convolution in self.network.convolutions:
            x = x.masked_fill(~mask[..., None], 0.0)
            x = nn.functional.gelu(convolution(x.transpose(1, 2)).transpose(1, 2))
            mask = mask[:, :: self.sizes["stride"]]  # an odd kernel, padded by half, keeps ceil(T / stride) steps
        return Features(masked_mean(x, mask), x, mask)

    def _load(self) -> nn.Module:
        kernel, stride = self.sizes["kernel"], self.sizes["stride"]
        convolutions = (nn.Conv1d(self.dim, self.dim, kernel, stride, kernel // 2) for _ in range(self.sizes["layers"]))
        return nn.ModuleDict({"project": projection(self.size, self.dim), "convolutions": nn.ModuleList(convolutions)})


def projection(size: int, dim: int) -> nn.Module:
    """(..., size) -> (..., dim). Normalised first: activations of VGG, and decibels, are far from mean 0, variance 1."""
    return nn.Sequential(nn.LayerNorm(size), nn.Linear(size, dim))


def averaged(inputs: SequenceInputs, stride: int) -> SequenceInputs:
    """Each `stride` steps in a row become their mean, a last few that are fewer too: (B, T, d) -> (B, ceil(T / stride), d)."""
    if stride == 1:
        return inputs
    batch, steps, size = inputs.values.shape
    missing = -steps % stride
    values = nn.functional.pad(inputs.values, (0, 0, 0, missing)).reshape(batch, -1, stride, size)
    mask = nn.functional.pad(inputs.mask, (0, missing)).reshape(batch, -1, stride)
    kept = mask[..., None].to(values.dtype)
    return SequenceInputs((values * kept).sum(dim=2) / kept.sum(dim=2).clamp(min=1), mask.any(dim=2))


def sinusoids(steps: int, dim: int) -> Tensor:
    """(steps, dim) float32: sine and cosine of each position at wavelengths from 2 pi to 10,000 * 2 pi."""
    rates = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    angles = torch.arange(steps)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
