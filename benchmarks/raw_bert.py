"""A hand-written BERT encoder for packed texts, without padding, as a yardstick for the framework's speed.

Attention is a few batched products with a hand-written backward pass. The encoder shares no code with the framework.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

KEEP = 230  # a random byte below it keeps a number, so the dropout rate is 26 / 256 = 0.1016
GROWTH = 1.15  # attention pads texts to one length if their lengths differ by at most this factor
EPSILON = 1e-12


class Group(NamedTuple):
    """Texts of like length that share their attention products."""

    first: int  # slice of the packed tokens
    last: int
    texts: int
    longest: int
    places: Tensor | None  # positions of the tokens in (texts * longest); None if all texts are equally long
    bias: Tensor | None  # (texts, 1, 1, longest): 0 for tokens, -inf for padding


class Packed(NamedTuple):
    """B texts with N tokens in total, shortest first."""

    ids: Tensor  # (N,) int64
    positions: Tensor  # (N,) int64
    text: Tensor  # (N,) int64, the index of each token's text
    lengths: Tensor  # (B,)
    groups: list[Group]


class Shape(NamedTuple):
    """Sizes of a BERT."""

    layers: int
    heads: int
    width: int
    inner: int


MINILM = Shape(layers=6, heads=12, width=384, inner=1536)


def packed(rows: Sequence[Tensor]) -> Packed:
    """Pack the token ids of texts, each (T_n,) int64, sorted by length."""
    sizes = [len(row) for row in rows]
    lengths = torch.tensor(sizes)
    groups, start, first = [], 0, 0
    for n in range(1, len(sizes) + 1):
        if n == len(sizes) or sizes[n] > GROWTH * sizes[start]:
            groups.append(_group(sizes[start:n], first))
            start, first = n, groups[-1].last
    positions = torch.cat([torch.arange(size) for size in sizes])
    return Packed(torch.cat(list(rows)), positions, torch.repeat_interleave(torch.arange(len(rows)), lengths), lengths, groups)


def _group(sizes: Sequence[int], first: int) -> Group:
    count, longest = len(sizes), max(sizes)
    if min(sizes) == longest:
        return Group(first, first + sum(sizes), count, longest, None, None)
    real = torch.arange(longest) < torch.tensor(sizes)[:, None]  # (count, longest)
    bias = torch.zeros(real.shape).masked_fill(~real, float("-inf"))[:, None, None]
    return Group(first, first + sum(sizes), count, longest, real.flatten().nonzero().squeeze(1), bias)


def kept(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a dropout mask of 1 (kept) and 0 (dropped), drawn from one byte per number at a tenth of torch's cost."""
    count = math.prod(shape)
    seed = int(torch.empty((), dtype=torch.int64).random_())
    drawn = torch.from_numpy(np.random.SFC64(seed).random_raw(-(-count // 8)).view(np.uint8)[:count])
    return torch.lt(drawn.view(*shape), KEEP, out=torch.empty(*shape, dtype=dtype))


class Attention(torch.autograd.Function):
    """Compute softmax(q k^T / sqrt(d)) v from packed queries, keys and values (N, 3 d), with dropout of the probabilities."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, groups: list[Group], heads: int, drop: bool) -> Tensor:
        """Return the attended values, (N, d)."""
        width = qkv.shape[1] // 3
        out, saved = qkv.new_empty(len(qkv), width), []
        for group in groups:
            q, k, v = (
                _spread(qkv[group.first : group.last], group)
                .view(group.texts, group.longest, 3, heads, -1)
                .permute(2, 0, 3, 1, 4)
                .flatten(1, 2)
            )  # each (count * heads, longest, d / heads)
            q = q * (width // heads) ** -0.5
            scores = torch.bmm(q, k.transpose(1, 2))
            if group.bias is not None:
                scores.view(group.texts, heads, group.longest, -1).add_(group.bias.to(scores.dtype))
            p = torch.softmax(scores, dim=-1)
            held = p * kept(p.shape, p.dtype) if drop else p
            v = v * (256 / KEEP) if drop else v
            attended = torch.bmm(held, v)
            out[group.first : group.last] = _gathered(attended, group, heads)
            saved += [q, k, v, p, held, attended]
        ctx.save_for_backward(*saved)
        ctx.groups, ctx.heads, ctx.drop = groups, heads, drop
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of qkv: ds = p (dp - sum dp p), whose sum over keys equals the sum of grad * out over features."""
        heads, saved = ctx.heads, ctx.saved_tensors
        found = grad.new_empty(len(grad), 3 * grad.shape[1])
        for n, group in enumerate(ctx.groups):
            q, k, v, p, held, attended = saved[6 * n : 6 * n + 6]
            do = _spread(grad[group.first : group.last], group).view(group.texts, group.longest, heads, -1)
            do = do.transpose(1, 2).flatten(0, 1)
            dv = torch.bmm(held.transpose(1, 2), do)
            ds = torch.bmm(do, v.transpose(1, 2)).mul_(held)
            ds.addcmul_(p, (do * attended).sum(dim=-1, keepdim=True), value=-1)
            dq = torch.bmm(ds, k).mul_(q.shape[-1] ** -0.5)
            dk = torch.bmm(ds.transpose(1, 2), q)
            if ctx.drop:
                dv = dv.mul_(256 / KEEP)
            joined = torch.cat([_gathered(d, group, heads) for d in (dq, dk, dv)], dim=1)
            found[group.first : group.last] = joined
        return found, None, None, None


def _spread(tokens: Tensor, group: Group) -> Tensor:
    """Spread the tokens (n, e) of a group to (texts * longest, e), with zeros as padding."""
    if group.places is None:
        return tokens
    return tokens.new_zeros(group.texts * group.longest, tokens.shape[1]).index_copy_(0, group.places, tokens)


def _gathered(parts: Tensor, group: Group, heads: int) -> Tensor:
    """Return the real tokens of a group, (n, d), from (texts * heads, longest, d / heads)."""
    tokens = parts.view(group.texts, heads, group.longest, -1).transpose(1, 2).reshape(group.texts * group.longest, -1)
    return tokens if group.places is None else tokens[group.places]


def encoded(w: Mapping[str, Tensor], texts: Packed, shape: Shape, dtype: torch.dtype, drop: bool) -> Tensor:
    """Return the mean over each text's tokens, (B, d) float32.

    Args:
        w: weights by their names in transformers' BertModel, float32; products are computed in `dtype`.
        drop: dropout of embeddings, attention and blocks, as in training.
    """

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"].to(dtype), w[f"{name}.bias"].to(dtype))

    def joined(x: Tensor, residual: Tensor, name: str) -> Tensor:
        """Return the LayerNorm of the residual plus x after dropout."""
        x = torch.addcmul(residual, x, kept(x.shape, dtype), value=256 / KEEP) if drop else residual + x
        return F.layer_norm(x, (shape.width,), w[f"{name}.weight"].to(dtype), w[f"{name}.bias"].to(dtype), EPSILON)

    x = F.embedding(texts.ids, w["embeddings.word_embeddings.weight"])
    x = x + F.embedding(texts.positions, w["embeddings.position_embeddings.weight"])
    x = (x + w["embeddings.token_type_embeddings.weight"][0]).to(dtype)
    name = "embeddings.LayerNorm"
    x = F.layer_norm(x, (shape.width,), w[f"{name}.weight"].to(dtype), w[f"{name}.bias"].to(dtype), EPSILON)
    x = x * kept(x.shape, dtype) * (256 / KEEP) if drop else x
    for layer in range(shape.layers):
        at = f"encoder.layer.{layer}"
        names = [f"{at}.attention.self.{part}" for part in ("query", "key", "value")]
        weight, bias = (torch.cat([w[f"{name}.{kind}"] for name in names]).to(dtype) for kind in ("weight", "bias"))
        attended = Attention.apply(F.linear(x, weight, bias), texts.groups, shape.heads, drop)
        x = joined(linear(attended, f"{at}.attention.output.dense"), x, f"{at}.attention.output.LayerNorm")
        inner = F.gelu(linear(x, f"{at}.intermediate.dense"))
        x = joined(linear(inner, f"{at}.output.dense"), x, f"{at}.output.LayerNorm")
    summed = torch.zeros(len(texts.lengths), shape.width).index_add(0, texts.text, x.float())
    return summed / texts.lengths[:, None]


def training_flops(lengths: Sequence[float], shape: Shape) -> float:
    """Return the model FLOPs of forward and backward over real tokens: 3 * 2 per token and weight of a product, and attention.

    The two products of attention cost 2 T^2 d each forward, and twice that backward. Embeddings, norms and recomputation are not
    counted (PaLM, appendix B, arXiv 2204.02311).
    """
    weights = shape.layers * (4 * shape.width**2 + 2 * shape.width * shape.inner)
    return float(sum(6 * weights * t + 3 * 4 * shape.layers * shape.width * t * t for t in lengths))
