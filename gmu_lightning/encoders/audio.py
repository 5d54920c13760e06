"""Log-mel spectrograms through the convolutions of the published multimodal transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gmu_lightning.encoders.sequences import SequenceEncoder, SequenceInputs
from gmu_lightning.movie import Features


class MelConv(SequenceEncoder):
    """Two strided convolutions over time, an average over so many equal spans, a projection.

    As in Rodriguez-Bribiesca et al. 2021 (https://aclanthology.org/2021.maiworkshop-1.1): kernels of 128 steps, stride 2, as many
    channels as bands, 200 spans, 768 numbers. Spans are those of each movie's own length, so its batch changes nothing; a clip
    too short for the two kernels is lengthened by zeros.

    Args:
        modality: `audio`.
        dim: size of a token, and of their mean, the vector.
        tokens: spans.
        kernel: steps that each convolution sees.
        stride: of each.
        channels: of each; None for as many as there are bands.
        options: of `SequenceEncoder`.
    """

    def __init__(
        self,
        modality: str = "audio",
        dim: int = 768,
        tokens: int = 200,
        kernel: int = 128,
        stride: int = 2,
        channels: int | None = None,
        **options: Any,
    ):
        sizes = {"tokens": tokens, "kernel": kernel, "stride": stride}
        super().__init__(modality, dim, sizes if channels is None else {**sizes, "channels": channels}, **options)

    @property
    def least(self) -> int:
        """Steps that leave one after both convolutions."""
        return self.sizes["kernel"] + self.sizes["stride"] * (self.sizes["kernel"] - 1)

    def forward(self, inputs: SequenceInputs) -> Features:
        steps = inputs.values.transpose(1, 2)  # (B, bands, T), zeros where no step is
        steps = nn.functional.pad(steps, (0, max(0, self.least - steps.shape[-1])))
        lengths = inputs.mask.sum(dim=1).clamp(min=self.least)
        for convolution in self.network.convolutions:
            steps = convolution(steps)
            lengths = (lengths - self.sizes["kernel"]) // self.sizes["stride"] + 1
        spans = adaptive_means(lengths, steps.shape[-1], self.sizes["tokens"]).to(steps)
        sequence = self.network.project(spans @ steps.transpose(1, 2))  # (B, tokens, dim)
        mask = torch.ones(sequence.shape[:2], dtype=torch.bool, device=sequence.device)
        return Features(sequence.mean(dim=1), sequence, mask)

    def _load(self) -> nn.Module:
        bands, kernel, stride = self.size, self.sizes["kernel"], self.sizes["stride"]
        channels = self.sizes.get("channels", bands)
        convolutions = [nn.Conv1d(bands, channels, kernel, stride), nn.Conv1d(channels, channels, kernel, stride)]
        return nn.ModuleDict({"convolutions": nn.ModuleList(convolutions), "project": nn.Linear(channels, self.dim, bias=False)})


def adaptive_means(lengths: Tensor, steps: int, spans: int) -> Tensor:
    """(B,) -> (B, spans, steps) float32: what a sequence is multiplied by to be averaged as `nn.AdaptiveAvgPool1d` does, each
    over its own length; spans of a sequence shorter than their number overlap."""
    span = torch.arange(spans, device=lengths.device)
    start = span * lengths[:, None] // spans  # (B, spans)
    end = ((span + 1) * lengths[:, None] + spans - 1) // spans
    step = torch.arange(steps, device=lengths.device)
    inside = (start[..., None] <= step) & (step < end[..., None])
    return inside / (end - start)[..., None]
