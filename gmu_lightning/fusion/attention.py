"""Attention and the transformer made of it, over sequences of any length, some of which are not there at all."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmu_lightning.movie import UserError


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(D / heads)) V (Vaswani et al. 2017, arXiv 1706.03762); exactly zero where no key is real.

    Raises:
        UserError: `dim` does not split into `heads`.
    """

    def __init__(self, dim: int, heads: int = 4, dropout: float = 0.0):
        super().__init__()
        if heads < 1 or dim % heads:
            raise UserError(f"fusion.heads={heads} does not divide {dim} numbers: give numbers that go together")
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D), (B, S, D) and its mask (B, S), True where real -> (B, T, D)."""
        q, k, v = (self._split(x) for x in (self.query(queries), *self.key_value(keys).chunk(2, dim=-1)))
        some = mask.any(dim=1, keepdim=True)  # (B, 1)
        # A softmax over nothing is NaN, in its gradient too: where no key is real all are read, and the answer is dropped.
        open_keys = (mask | ~some)[:, None, None, :]  # (B, 1, 1, S)
        dropout = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=open_keys, dropout_p=dropout)
        return torch.where(some[..., None], self.out(read.transpose(1, 2).flatten(2)), 0.0)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, D / heads)


class TransformerLayer(nn.Module):
    """x + Attention(LN x, LN keys), then x + W_2 f(W_1 LN x), each followed by dropout: pre-norm, 4 D wide inside.

    Args:
        dim: D.
        heads: of the attention; must divide `dim`.
        dropout: of the attention, of its result, and within and behind W_2.
        activation: f.
    """

    def __init__(self, dim: int, heads: int = 4, dropout: float = 0.0, activation: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, dropout)
        self.dropout = nn.Dropout(dropout)
        wide = 4 * dim
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, wide), activation(), nn.Dropout(dropout), nn.Linear(wide, dim), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor, mask: Tensor, keys: Tensor | None = None) -> Tensor:
        """x (B, T, D) reads `keys` (B, S, D), or itself where there are none; mask is of what is read, (B, S) or (B, T)."""
        queries = self.norm(x)
        x = x + self.dropout(self.attention(queries, queries if keys is None else self.norm(keys), mask))
        return x + self.feed_forward(x)


class Transformer(nn.Module):
    """sqrt(D) x + positions, pre-norm layers, LayerNorm: reads itself, or at every layer another sequence that stays as it is.

    The crossmodal transformer of Tsai et al. 2019 (arXiv 1906.00295).
    """

    def __init__(self, dim: int, layers: int, heads: int = 4, dropout: float = 0.0):
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(dim, heads, dropout) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor, keys: Tensor | None = None) -> Tensor:
        """As `TransformerLayer`."""
        x = self._placed(x)
        keys = None if keys is None else self._placed(keys)
        for layer in self.layers:
            x = layer(x, mask, keys)
        return self.norm(x)

    def _placed(self, x: Tensor) -> Tensor:
        return self.dropout(math.sqrt(x.shape[-1]) * x + sinusoids(x))


def sinusoids(x: Tensor) -> Tensor:
    """The positions of x (B, T, D), sines before cosines: (T, D)."""
    length, dim = x.shape[-2:]
    half = (dim + 1) // 2
    rates = torch.exp(torch.arange(half, device=x.device) * (-math.log(10_000) / max(half - 1, 1)))
    angles = torch.arange(length, device=x.device)[:, None] * rates  # (T, D / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :dim].to(x.dtype)
