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

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor, values: Tensor | None = None) -> Tensor:
        """Read a sequence: (B, T, D), (B, S, D) and its mask (B, S), True where real -> (B, T, D).

        Args:
            values: (B, S, D), read in place of `keys`; None reads `keys`.
        """
        q, k, v = (self._split(x) for x in (self.query(queries), *self._keys_and_values(keys, values)))
        some = mask.any(dim=1, keepdim=True)  # (B, 1)
        # A softmax over nothing is NaN, in its gradient too: where no key is real all are read, and the answer is dropped.
        open_keys = (mask | ~some)[:, None, None, :]  # (B, 1, 1, S)
        dropout = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=open_keys, dropout_p=dropout)
        return torch.where(some[..., None], self.out(read.transpose(1, 2).flatten(2)), 0.0)

    def _keys_and_values(self, keys: Tensor, values: Tensor | None) -> tuple[Tensor, ...]:
        if values is None:
            return self.key_value(keys).chunk(2, dim=-1)
        layers = zip(self.key_value.weight.chunk(2), self.key_value.bias.chunk(2), (keys, values), strict=True)
        return tuple(F.linear(x, weight, bias) for weight, bias, x in layers)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, D / heads)


class TransformerLayer(nn.Module):
    """x + Attention(LN x, LN keys), then x + W_2 f(W_1 LN x), each followed by dropout: pre-norm, 4 D wide inside.

    Args:
        dim: D.
        heads: of the attention; must divide `dim`.
        dropout: of the attention, of its result, and within and behind W_2.
        activation: f.
        attention_dropout: of the attention alone; None takes `dropout`.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 4,
        dropout: float = 0.0,
        activation: type[nn.Module] = nn.ReLU,
        attention_dropout: float | None = None,
    ):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, dropout if attention_dropout is None else attention_dropout)
        self.dropout = nn.Dropout(dropout)
        wide = 4 * dim
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, wide), activation(), nn.Dropout(dropout), nn.Linear(wide, dim), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor, mask: Tensor, keys: Tensor | None = None, values: Tensor | None = None) -> Tensor:
        """x (B, T, D) reads `keys` (B, S, D), or itself where there are none; mask is of what is read, (B, S) or (B, T).

        Args:
            values: (B, S, D), read in place of `keys`; None reads `keys`.
        """
        queries = self.norm(x)
        keys = queries if keys is None else self.norm(keys)
        x = x + self.dropout(self.attention(queries, keys, mask, None if values is None else self.norm(values)))
        return x + self.feed_forward(x)


class Transformer(nn.Module):
    """sqrt(D) x + positions, pre-norm layers, LayerNorm: reads itself, or at every layer another sequence that stays as it is.

    The crossmodal transformer of Tsai et al. 2019 (arXiv 1906.00295), as in the code of Rodriguez-Bribiesca et al. 2021
    (github.com/IsaacRodgz/multimodal-transformers-movies). Positions count from 1 (position_embedding.py, line 21). Weights start
    by Glorot's rule, and biases at 0 (transformer.py, line 191; multihead_attention.py, line 42).

    Args:
        dim, layers, heads: D, how many layers, and of every attention.
        dropout: of what attention and feed-forward add, and within the latter.
        attention_dropout: of the attention; None takes `dropout`.
        embedding_dropout: of queries, keys and values as they enter, each drawn by itself; None takes `dropout`.
    """

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int = 4,
        dropout: float = 0.0,
        attention_dropout: float | None = None,
        embedding_dropout: float | None = None,
    ):
        super().__init__()
        made = [TransformerLayer(dim, heads, dropout, attention_dropout=attention_dropout) for _ in range(layers)]
        self.layers = nn.ModuleList(made)
        self.dropout = nn.Dropout(dropout if embedding_dropout is None else embedding_dropout)
        self.norm = nn.LayerNorm(dim)
        for layer in made:
            _start_as_published(layer)

    def forward(self, x: Tensor, mask: Tensor, keys: Tensor | None = None) -> Tensor:
        """As `TransformerLayer`."""
        x = self.dropout(_placed(x))
        values = None
        if keys is not None:
            placed = _placed(keys)
            keys = self.dropout(placed)
            values = self.dropout(placed) if self.training and self.dropout.p else None
        for layer in self.layers:
            x = layer(x, mask, keys, values)
        return self.norm(x)


def _placed(x: Tensor) -> Tensor:
    return math.sqrt(x.shape[-1]) * x + sinusoids(x, first=1)


def _start_as_published(layer: TransformerLayer) -> None:
    """Draw the weights by Glorot's rule, those of queries, keys and values as one matrix, and set biases to 0."""
    attention = layer.attention
    drawn = [attention.out, *(part for part in layer.feed_forward if isinstance(part, nn.Linear))]
    for linear in drawn:
        nn.init.xavier_uniform_(linear.weight)
    bound = math.sqrt(6 / (4 * attention.out.in_features))  # of a matrix (3 D, D)
    for linear in (attention.query, attention.key_value):
        nn.init.uniform_(linear.weight, -bound, bound)
    for linear in (*drawn, attention.query, attention.key_value):
        nn.init.zeros_(linear.bias)


def sinusoids(x: Tensor, first: int = 0) -> Tensor:
    """The positions of x (B, T, D), counted from `first`, sines before cosines: (T, D)."""
    length, dim = x.shape[-2:]
    half = (dim + 1) // 2
    rates = torch.exp(torch.arange(half, device=x.device) * (-math.log(10_000) / max(half - 1, 1)))
    angles = (first + torch.arange(length, device=x.device))[:, None] * rates  # (T, D / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :dim].to(x.dtype)
