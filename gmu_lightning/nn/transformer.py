"""Masked attention, the transformer, sinusoidal positions and masked means, for sequences of any length."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmu_lightning.movie import UserError


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(D / heads)) V (Vaswani et al. 2017, arXiv 1706.03762), and exactly zero for a fully masked sequence.

    Args:
        dim: D.
        heads: number of heads; must divide `dim`.
        dropout: probability, on the attention weights.

    Raises:
        UserError: `heads` does not divide `dim`.
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
        """Let each query read a sequence, and return (B, T, D), zeros where a sequence has no real step.

        Args:
            queries: (B, T, D).
            keys: (B, S, D), the sequence.
            mask: (B, S) bool, True for real steps of the sequence.
            values: (B, S, D); None takes `keys`.
        """
        q, k, v = (self._split(x) for x in (self.query(queries), *self._keys_and_values(keys, values)))
        some = mask.any(dim=1, keepdim=True)  # (B, 1)
        # A softmax over zero keys is NaN, and so is its gradient. A fully masked sequence is read whole, and the result dropped.
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
    """A pre-norm layer: x + Attention(LN x, LN keys), then x + W_2 f(W_1 LN x), where W_1 has 4 D rows.

    Args:
        dim: D.
        heads: of the attention; must divide `dim`.
        dropout: probability, on the attention weights, on the attention's result, and before and after W_2.
        activation: f.
        attention_dropout: probability, on the attention weights alone; None takes `dropout`.
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
        """Return the layer's output, (B, T, D).

        Args:
            x: (B, T, D).
            mask: bool, True for real steps of the sequence that is read: (B, S) of `keys`, or (B, T) of x.
            keys: (B, S, D), the sequence that x reads; None reads x itself.
            values: (B, S, D); None takes `keys`.
        """
        queries = self.norm(x)
        keys = queries if keys is None else self.norm(keys)
        x = x + self.dropout(self.attention(queries, keys, mask, None if values is None else self.norm(values)))
        return x + self.feed_forward(x)


class Transformer(nn.Module):
    """The crossmodal transformer of Tsai et al. 2019 (arXiv 1906.00295): sqrt(D) x + positions, pre-norm layers, LayerNorm.

    Every layer reads the sequence itself, or another sequence that is the same for all layers. Details follow the code of
    Rodriguez-Bribiesca et al. 2021 (github.com/IsaacRodgz/multimodal-transformers-movies). Positions count from 1
    (position_embedding.py, line 21). Weights are initialised by Glorot's rule, and biases with 0 (transformer.py, line 191;
    multihead_attention.py, line 42).

    Args:
        dim: D.
        layers: number of layers.
        heads: of every attention.
        dropout: probability, on the results of attention and feed-forward, and within the feed-forward.
        attention_dropout: probability, on the attention weights; None takes `dropout`.
        embedding_dropout: probability, on queries, keys and values at the input, with separate masks; None takes `dropout`.
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
        """Return (B, T, D) for x (B, T, D). The arguments are those of `TransformerLayer.forward`."""
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
    """Draw the weights by Glorot's rule, and set biases to 0. Queries, keys and values count as one matrix."""
    attention = layer.attention
    drawn = [attention.out, *(part for part in layer.feed_forward if isinstance(part, nn.Linear))]
    for linear in drawn:
        nn.init.xavier_uniform_(linear.weight)
    bound = math.sqrt(6 / (4 * attention.out.in_features))  # of a matrix (3 D, D)
    for linear in (attention.query, attention.key_value):
        nn.init.uniform_(linear.weight, -bound, bound)
    for linear in (*drawn, attention.query, attention.key_value):
        nn.init.zeros_(linear.bias)


def sinusoids(x: Tensor, first: int = 0, interleaved: bool = False) -> Tensor:
    """Return the sinusoids of the positions of x, (T, D) in the dtype of x.

    Wavelengths reach from 2 pi to 10,000 * 2 pi, and all sines stand before all cosines (tensor2tensor).

    Args:
        x: (B, T, D).
        first: the first position.
        interleaved: as in Vaswani et al. 2017, section 3.5, for an even D. Each sine stands before its cosine, and the longest
            wavelength is left out.
    """
    length, dim = x.shape[-2:]
    half = (dim + 1) // 2
    rates = torch.exp(torch.arange(half, device=x.device) * (-math.log(10_000) / (half if interleaved else max(half - 1, 1))))
    angles = (first + torch.arange(length, device=x.device))[:, None] * rates  # (T, D / 2)
    waves = torch.stack([angles.sin(), angles.cos()], dim=2 if interleaved else 1)
    return waves.flatten(1)[:, :dim].to(x.dtype)


def masked_mean(sequence: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over real steps, (B, D).

    Args:
        sequence: (B, T, D).
        mask: (B, T) bool, True for real steps, of which every row has at least one.
    """
    kept = mask[..., None].to(sequence.dtype)
    return (sequence * kept).sum(dim=1) / kept.sum(dim=1)
