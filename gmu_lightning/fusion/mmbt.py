"""MMBT: one pretrained text transformer reads the other modalities as tokens before the plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from gmu_lightning.config.ranges import Size
from gmu_lightning.encoders.text.huggingface import Prefix
from gmu_lightning.fusion.base import Fusion, Scale, encoded, everyone, tokens
from gmu_lightning.movie import Features, Fused, MovieBatch


class MMBT(Fusion):
    """h = pool over the plot of BERT([W_m x_m; SEP] + s_m for every other modality m that the movie has, [CLS; plot; SEP]).

    Kiela et al. 2019, arXiv 1909.02950. The tokens of each modality count their positions from 0. Their segment is the
    transformer's last one (the second of BERT) plus s_m, which starts at zero. The plot keeps its positions and segment, so a
    movie with text alone gives exactly the text encoder's features. A movie without a plot has an empty plot. The features of
    other modalities are normalised and dropped out before W_m, as their encoders set (the paper uses `none` and 0). The plot's
    vector is normalised after the transformer; `standardise` uses the statistics of plots encoded alone.

    Args:
        sizes: as in Fusion; the size of `text` is the transformer's width.
        dim: None passes the transformer's vector to the head; a number adds a layer h = tanh(W .) of this width.
        max_tokens_per_modality: longer sequences are averaged to this number of tokens, over stretches of nearly equal length.
    """

    needs = "tokens"
    requires = ("text",)

    def __init__(
        self, sizes: Mapping[str, int], dim: Size | None = None, max_tokens_per_modality: Annotated[int, Ge(1), Le(256)] = 16
    ):
        width = sizes["text"]
        super().__init__(sizes, width if dim is None else dim)
        self.tokens_each = max_tokens_per_modality
        self.others = {m: i for i, m in enumerate(self.sizes) if m != "text"}
        self.project = nn.ModuleDict({m: nn.Linear(self.sizes[m], width) for m in self.others})
        self.segments = nn.ParameterDict({m: nn.Parameter(torch.zeros(width)) for m in self.others})
        self.hidden = nn.Identity() if dim is None else nn.Sequential(nn.Linear(width, dim), nn.Tanh())

    def encode(self, encoders: Any, batch: MovieBatch, scale: Scale) -> dict[str, Features]:
        """Encode the plot together with the tokens of all other modalities.

        Returns:
            {"text": Features of (B, d_text)}, which represent all modalities of a movie.
        """
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
        """Fuse {"text": (B, d_text)} as `encode` returns it; the result is zero for a movie without any modality.

        `present` is (B, M) bool. The result has no parts and no gates.
        """
        there = everyone(inputs, present).any(dim=1, keepdim=True)
        h = self.hidden(torch.where(there, inputs["text"], 0.0))
        return Fused(torch.where(there, h, 0.0))

    def _tokens(self, modality: str, features: Features, there: Tensor, separator: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return [W_m x_m; SEP] + s_m, (B, n + 1, d_text), the mask of its real tokens and their positions, both (B, n + 1)."""
        x, mask = shortened(*tokens(features, there), self.tokens_each)
        x = torch.cat([self.project[modality](x), separator.expand(x.shape[0], 1, -1)], dim=1) + self.segments[modality]
        places = torch.arange(mask.shape[1], device=x.device).expand(mask.shape)
        # The separator follows the last real token, so its position is independent of the batch's other movies.
        positions = torch.cat([places, mask.sum(dim=1, keepdim=True)], dim=1)
        return x, torch.cat([mask, there[:, None]], dim=1), positions


def shortened(tokens: Tensor, mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Average the real tokens of each row over stretches of nearly equal length, so that at most `most` tokens are left.

    Rows of at most `most` real tokens keep them, moved to the front.

    Args:
        tokens: (B, T, d).
        mask: (B, T) bool, True for real tokens.

    Returns:
        The means (B, n, d) and their mask (B, n), with n = min(most, T).
    """
    real = mask.sum(dim=1, keepdim=True)  # (B, 1)
    kept = real.clamp(max=most)
    place = (mask.cumsum(dim=1) - 1) * kept // real.clamp(min=1)  # (B, T)
    slots = torch.arange(torch.sym_min(most, mask.shape[1]), device=mask.device)
    member = (place[:, None] == slots[:, None]) & mask[:, None]  # (B, n, T)
    shares = member.to(tokens.dtype) / member.sum(dim=-1, keepdim=True).clamp(min=1)
    return shares @ tokens, slots < kept
