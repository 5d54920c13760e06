"""MMBT: what a movie shows and sounds like, as tokens before its plot's, through one pretrained text transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gmu_lightning.encoders.prefix import Prefix
from gmu_lightning.fusion.base import Fusion, Scale, encoded, everyone, tokens
from gmu_lightning.movie import Features, Fused, MovieBatch, UserError

MOST_TOKENS = 256


class MMBT(Fusion):
    """h = pool over the plot of BERT([W_m x_m + s_m; SEP] for every other modality m, [CLS; plot; SEP]) (Kiela et al. 2019).

    arXiv 1909.02950. The tokens of each modality have positions from 0 of their own, and a segment of their own: the
    transformer's last one (the second of BERT) plus s_m, which starts at zero. The plot keeps its positions and segment, so a
    movie whose other modalities are all absent is read exactly as the text encoder alone reads it. A movie without a plot has an
    empty one.
    Before W_m the others' features are normalised and dropped out as their encoders ask (`none` and 0 are the paper's); the
    plot's vector is after it has been read, and standardised as train's plots are where they are read alone.

    Args:
        sizes: as every Fusion; the transformer's width is that of `text`.
        dim: null gives the transformer's own vector to the head, a number h = tanh(W .) of so many.
        max_tokens_per_modality: longer sequences are averaged, over as equal stretches as may be, down to so many tokens.

    Raises:
        UserError: a number is out of its range.
    """

    needs = "tokens"
    requires = ("text",)

    def __init__(self, sizes: Mapping[str, int], dim: int | None = None, max_tokens_per_modality: int = 16):
        width = sizes["text"]
        super().__init__(sizes, width if dim is None else dim)
        if not 1 <= max_tokens_per_modality <= MOST_TOKENS:
            raise UserError(
                f"fusion.max_tokens_per_modality={max_tokens_per_modality}: give a number from 1 to {MOST_TOKENS}, such as 16"
            )
        self.tokens_each = max_tokens_per_modality
        self.others = {m: i for i, m in enumerate(self.sizes) if m != "text"}
        self.project = nn.ModuleDict({m: nn.Linear(self.sizes[m], width) for m in self.others})
        self.segments = nn.ParameterDict({m: nn.Parameter(torch.zeros(width)) for m in self.others})
        self.hidden = nn.Identity() if dim is None else nn.Sequential(nn.Linear(width, dim), nn.Tanh())

    def encode(self, encoders: Any, batch: MovieBatch, scale: Scale) -> dict[str, Features]:
        """The plot as it is read beside everything else, {"text": (B, d_text)}: it stands for all that a movie has."""
        text = encoders["text"]
        parts = []
        for m, i in self.others.items():
            there = batch.present[:, i]
            features = scale(m, encoded(encoders[m], batch.inputs[m], there), there)
            parts.append(self._tokens(m, features, there, text.separator()))
        embeddings, masks, positions = zip(*parts, strict=True)
        prefix = Prefix(torch.cat(embeddings, dim=1), torch.cat(masks, dim=1), torch.cat(positions, dim=1))
        plots = text.emptied(batch.inputs["text"], ~batch.present[:, list(self.sizes).index("text")])
        return {"text": scale("text", Features(text(plots, prefix).vector), batch.present.any(dim=1))}

    def forward(self, inputs: Mapping[str, Tensor], present: Tensor | None = None) -> Fused:
        """{"text": (B, d_text)} as `encode` gives it; zero where a movie has nothing at all."""
        there = everyone(inputs, present).any(dim=1, keepdim=True)
        h = self.hidden(torch.where(there, inputs["text"], 0.0))
        return Fused(torch.where(there, h, 0.0))

    def _tokens(self, modality: str, features: Features, there: Tensor, separator: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[W_m x_m; SEP] + s_m, (B, n + 1, d_text); which of it is real, and the positions, (B, n + 1)."""
        x, mask = shortened(*tokens(features, there), self.tokens_each)
        x = torch.cat([self.project[modality](x), separator.expand(len(x), 1, -1)], dim=1) + self.segments[modality]
        places = torch.arange(mask.shape[1], device=x.device).expand(mask.shape)
        # The separator follows the last real token: how long other movies of the batch are must not move it.
        positions = torch.cat([places, mask.sum(dim=1, keepdim=True)], dim=1)
        return x, torch.cat([mask, there[:, None]], dim=1), positions


def shortened(tokens: Tensor, mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """At most so many tokens per row, each the mean over a stretch of the real ones: (B, T, d), (B, T) -> (B, n, d), (B, n)."""
    real = mask.sum(dim=1, keepdim=True)  # (B, 1)
    kept = real.clamp(max=most)
    place = (mask.cumsum(dim=1) - 1) * kept // real.clamp(min=1)  # (B, T)
    slots = torch.arange(min(most, mask.shape[1]), device=mask.device)
    member = (place[:, None] == slots[:, None]) & mask[:, None]  # (B, n, T)
    shares = member.to(tokens.dtype) / member.sum(dim=-1, keepdim=True).clamp(min=1)
    return shares @ tokens, slots < kept
