"""A hand-written BERT encoder for packed texts, without padding, as a yardstick for the framework's speed.

Attention is a few batched products with a hand-written backward pass. The encoder shares no code with the framework. For speed it
does less in training: it drops no attention probabilities, and it takes dropout masks from a bank that is drawn once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

DROPOUT = 0.1
BANK = 2**23  # numbers in the bank of masks
PADDING = 0.12  # a group of texts holds at most this share of padding
EPSILON = 1e-12


class Group(NamedTuple):
    """Texts of like length that share their attention products."""

    first: int  # slice of the packed tokens
    last: int
    texts: int
    longest: int
    spread: Tensor | None  # (texts * longest,) the token at each place; None if all texts are equally long
    places: Tensor | None  # (tokens,) the inverse of `spread`
    empty: Tensor | None  # (texts, 1, 1, longest - shortest) bool, True for padding


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
        if n == len(sizes) or (n - start + 1) * sizes[n] > (1 + PADDING) * sum(sizes[start : n + 1]):
            groups.append(_group(sizes[start:n], first))
            start, first = n, groups[-1].last
    positions = torch.cat([torch.arange(size) for size in sizes])
    return Packed(torch.cat(list(rows)), positions, torch.repeat_interleave(torch.arange(len(rows)), lengths), lengths, groups)


def _group(sizes: Sequence[int], first: int) -> Group:
    count, longest, total = len(sizes), max(sizes), sum(sizes)
    if min(sizes) == longest:
        return Group(first, first + total, count, longest, None, None, None)
    real = torch.arange(longest) < torch.tensor(sizes)[:, None]  # (count, longest)
    places = real.flatten().nonzero().squeeze(1)
    spread = torch.zeros(count * longest, dtype=torch.int64)
    spread[places] = torch.arange(total)
    return Group(first, first + total, count, longest, spread, places, ~real[:, None, None, min(sizes) :])


class Masks:
    """Dropout masks with values 0 and 1 / (1 - `DROPOUT`): windows at random places of a bank."""

    def __init__(self, dtype: torch.dtype):
        self.bank = torch.empty(BANK, dtype=dtype).bernoulli_(1 - DROPOUT).div_(1 - DROPOUT)

    def of(self, shape: Sequence[int]) -> Tensor:
        """Return a mask of this shape."""
        count = math.prod(shape)
        start = int(torch.randint(BANK - count, ()))
        return self.bank[start : start + count].view(*shape)


class Attention(torch.autograd.Function):
    """Compute softmax(q k^T / sqrt(d)) v from packed queries, keys and values (N, 3 d)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, groups: list[Group], heads: int) -> Tensor:
        """Return the attended values, (N, d)."""
        width = qkv.shape[1] // 3
        out, saved = qkv.new_empty(len(qkv), width), []
        for group in groups:
            q, k, v = _by_head(qkv, group, 3, heads)  # each (texts * heads, longest, d / heads)
            scores = torch.bmm(q, k.transpose(1, 2)).mul_((width // heads) ** -0.5)
            if group.empty is not None:
                shared = scores.view(group.texts, heads, group.longest, -1)
                shared[..., -group.empty.shape[-1] :].masked_fill_(group.empty, float("-inf"))
            p = torch.softmax(scores, dim=-1)
            _gather(torch.bmm(p, v)[None], group, out)
            saved += [q, k, v, p]
        ctx.save_for_backward(*saved)
        ctx.groups, ctx.heads = groups, heads
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of qkv."""
        heads, saved = ctx.heads, ctx.saved_tensors
        found = grad.new_empty(len(grad), 3 * grad.shape[1])
        for n, group in enumerate(ctx.groups):
            q, k, v, p = saved[4 * n : 4 * n + 4]
            (do,) = _by_head(grad, group, 1, heads)
            if group.places is not None:
                real = torch.zeros(group.texts * group.longest, dtype=do.dtype).index_fill_(0, group.places, 1)
                do.view(group.texts, heads, group.longest, -1).mul_(real.view(group.texts, 1, -1, 1))
            ds = torch._softmax_backward_data(torch.bmm(do, v.transpose(1, 2)), p, -1, p.dtype).mul_(q.shape[-1] ** -0.5)
            own = torch.empty(3, *q.shape, dtype=grad.dtype)
            torch.bmm(ds, k, out=own[0])
            torch.bmm(ds.transpose(1, 2), q, out=own[1])
            torch.bmm(p.transpose(1, 2), do, out=own[2])
            _gather(own, group, found)
        return found, None, None


def _by_head(x: Tensor, group: Group, parts: int, heads: int) -> Tensor:
    """Return a group's tokens of x (N, parts * d) as (parts, texts * heads, longest, d / heads), with any token as padding."""
    tokens = x[group.first : group.last]
    if group.spread is not None:
        tokens = tokens.index_select(0, group.spread)
    apart = tokens.view(group.texts, group.longest, parts, heads, -1).permute(2, 0, 3, 1, 4)
    return apart.clone(memory_format=torch.contiguous_format).flatten(1, 2)


def _gather(own: Tensor, group: Group, out: Tensor) -> None:
    """Write (parts, texts * heads, longest, d / heads) into a group's rows of out (N, parts * d)."""
    apart = own.view(len(own), group.texts, -1, *own.shape[2:]).permute(1, 3, 0, 2, 4)
    tokens = apart.reshape(group.texts * group.longest, -1)
    out[group.first : group.last] = tokens if group.places is None else tokens.index_select(0, group.places)


def encoded(w: Mapping[str, Tensor], texts: Packed, shape: Shape, masks: Masks | None) -> Tensor:
    """Return the mean over each text's tokens, (B, d) float32.

    Args:
        w: weights by their names in transformers' BertModel, all with the dtype of the computation.
        masks: of the dropout of embeddings and blocks; None for none.
    """

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (shape.width,), w[f"{name}.weight"], w[f"{name}.bias"], EPSILON)

    def dropped(x: Tensor) -> Tensor:
        return x if masks is None else x * masks.of(x.shape)

    x = F.embedding(texts.ids, w["embeddings.word_embeddings.weight"])
    x = x + F.embedding(texts.positions, w["embeddings.position_embeddings.weight"])
    x = dropped(norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm"))
    for layer in range(shape.layers):
        at = f"encoder.layer.{layer}"
        names = [f"{at}.attention.self.{part}" for part in ("query", "key", "value")]
        weight, bias = (torch.cat([w[f"{name}.{kind}"] for name in names]) for kind in ("weight", "bias"))
        attended = Attention.apply(F.linear(x, weight, bias), texts.groups, shape.heads)
        x = norm(x + dropped(linear(attended, f"{at}.attention.output.dense")), f"{at}.attention.output.LayerNorm")
        inner = F.gelu(linear(x, f"{at}.intermediate.dense"))
        x = norm(x + dropped(linear(inner, f"{at}.output.dense")), f"{at}.output.LayerNorm")
    summed = torch.zeros(len(texts.lengths), shape.width).index_add(0, texts.text, x.float())
    return summed / texts.lengths[:, None]


def training_flops(lengths: Sequence[float], shape: Shape) -> float:
    """Return the model FLOPs of forward and backward over real tokens: 3 * 2 per token and weight of a product, and attention.

    The two products of attention cost 2 T^2 d each forward, and twice that backward. Embeddings, norms and recomputation are not
    counted (PaLM, appendix B, arXiv 2204.02311).
    """
    weights = shape.layers * (4 * shape.width**2 + 2 * shape.width * shape.inner)
    return float(sum(6 * weights * t + 3 * 4 * shape.layers * shape.width * t * t for t in lengths))
