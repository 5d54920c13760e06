"""Attention within packed texts on a CPU: batched products over groups of texts with similar lengths, with their backward."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from gmu_lightning.nn.dropout import gain, kept_of

MOST_GROUPS = 6
SAVED = 6  # tensors of a group for the backward


class Group(NamedTuple):
    """A run of b packed texts with similar lengths, all padded to L."""

    start: int  # index of the group's first packed token
    tokens: int  # number of tokens in the group
    texts: int  # b
    longest: int  # L, the length of the longest text, or a few more
    spread: Tensor | None = None  # (b * L,) int64: the token at each place, an arbitrary one in padding; None without padding
    empty: Tensor | None = None  # (b, 1, 1, L - l) bool: whether a place is padding, from the length l of the shortest text on
    real: Tensor | None = None  # (tokens,) int64: the places of the tokens, in their order
    unreal: Tensor | None = None  # (b * L - tokens,) int64: the places of padding


def groups_of(ranked: np.ndarray, offsets: np.ndarray, multiple: int = 1) -> tuple[Group, ...]:
    """Return at most `MOST_GROUPS` groups of texts, chosen so that little is computed on padding.

    Args:
        ranked: (B,) int64, the lengths of the texts, which do not fall.
        offsets: (B + 1,) int64, the begin of each text, and N.
        multiple: the longest text of each group is padded to a multiple of it.
    """
    cuts = _cuts(ranked.tolist())
    return tuple(_group(ranked[a:b], int(offsets[a]), multiple) for a, b in pairwise(cuts))


def _cuts(ranked: list[int]) -> list[int]:
    """Return the begin of each group among texts of rising lengths, and the end of the last.

    Neighbouring groups are joined, the cheapest pair first, while there are too many groups or a join saves time. A join costs
    L^2 - l^2 extra attention scores for each shorter text. A further group costs about as much as 110^2 scores.
    """
    ends = [n + 1 for n in range(len(ranked)) if n + 1 == len(ranked) or ranked[n] != ranked[n + 1]]
    cuts = [0, *ends]
    while len(cuts) > 2:
        costs = [
            (cuts[i] - cuts[i - 1]) * (ranked[cuts[i + 1] - 1] ** 2 - ranked[cuts[i] - 1] ** 2) for i in range(1, len(cuts) - 1)
        ]
        cheapest = min(range(len(costs)), key=costs.__getitem__)
        if len(cuts) - 1 <= MOST_GROUPS and costs[cheapest] > 110**2:
            break
        del cuts[cheapest + 1]
    return cuts


def _group(ranked: np.ndarray, start: int, multiple: int) -> Group:
    texts, tokens = len(ranked), int(ranked.sum())
    longest = -(-int(ranked[-1]) // multiple) * multiple
    if ranked[0] == longest:
        return Group(start, tokens, texts, longest)
    begins = np.concatenate([[0], np.cumsum(ranked)[:-1]])
    places = np.arange(longest)
    there = places < ranked[:, None]  # (b, L)
    spread = np.where(there, begins[:, None] + places, 0).ravel()
    empty = ~there[:, None, None, ranked[0] :]
    return Group(
        start, tokens, texts, longest, *map(torch.from_numpy, (spread, empty, np.flatnonzero(there), np.flatnonzero(~there)))
    )


def attended(qkv: Tensor, groups: Sequence[Group], scale: float, p: float) -> tuple[Tensor, list[Tensor | None]]:
    """Return softmax(scale q k^T) v within each packed text, with dropout on the probabilities, and what its gradient needs.

    Args:
        qkv: queries, keys and values of N packed tokens for H heads of width d, (N, 3, H, d).
        p: dropout probability.

    Returns:
        (N, H, d), zeros for tokens after the last group, and `SAVED` tensors per group.
    """
    out = qkv.new_empty(len(qkv), *qkv.shape[2:])
    out[_end(groups) :] = 0
    saved: list[Tensor | None] = []
    for group in groups:
        queries, keys, values = _by_head(qkv, group)  # (b H, L, d)
        scores = torch.bmm(queries.mul_(scale), keys.transpose(1, 2))
        if group.empty is not None:  # padding begins at the end of the shortest text
            ends = scores.view(group.texts, -1, *scores.shape[1:])[..., -group.empty.shape[-1] :]
            ends.masked_fill_(group.empty, float("-inf"))
        probabilities = torch.softmax(scores, dim=-1)
        used, kept = probabilities, None
        if p:
            kept = kept_of(probabilities, p)
            used = probabilities * kept
            values.mul_(gain(p))
        _put(out[:, None], torch.bmm(used, values)[None], group)
        saved += [queries, keys, values, probabilities, kept, used]
    return out, saved


def attention_gradient(
    gradient: Tensor, saved: Sequence[Tensor | None], groups: Sequence[Group], scale: float, p: float
) -> Tensor:
    """Return the gradient of `qkv`, (N, 3, H, d), given the gradient of `attended` (N, H, d) and what it saved."""
    found = gradient.new_empty(len(gradient), 3, *gradient.shape[1:])
    found[_end(groups) :] = 0
    for n, group in enumerate(groups):
        queries, keys, values, probabilities, kept, used = cast(Sequence[Tensor], saved[SAVED * n : SAVED * (n + 1)])
        (out,) = _by_head(gradient[:, None], group, padding=0.0)
        slope = torch.bmm(out, values.transpose(1, 2))
        if p:
            slope.mul_(kept)
        slope = torch._softmax_backward_data(slope, probabilities, -1, probabilities.dtype)
        own = torch.empty(3, *queries.shape, dtype=gradient.dtype)
        torch.bmm(slope, keys, out=own[0]).mul_(scale)
        torch.bmm(slope.transpose(1, 2), queries, out=own[1])
        torch.bmm(used.transpose(1, 2), out, out=own[2])
        if p:
            own[2].mul_(gain(p))
        _put(found, own, group)
    return found


def _end(groups: Sequence[Group]) -> int:
    return groups[-1].start + groups[-1].tokens


def _by_head(x: Tensor, group: Group, padding: float | None = None) -> Tensor:
    """Return a copy of a group's tokens of x (N, k, H, d): (k, b H, L, d).

    Args:
        padding: the number that fills padding; None leaves an arbitrary token there.
    """
    own = x[group.start : group.start + group.tokens]
    if group.spread is not None and group.unreal is not None:
        own = own.index_select(0, group.spread)
        if padding is not None:
            own.index_fill_(0, group.unreal, padding)
    parts, heads, width = x.shape[1:]
    apart = own.view(group.texts, group.longest, parts, heads, width).permute(2, 0, 3, 1, 4)
    return apart.clone(memory_format=torch.contiguous_format).view(parts, -1, group.longest, width)


def _put(out: Tensor, values: Tensor, group: Group) -> None:
    """Write values (k, b H, L, d) into a group's tokens of out (N, k, H, d), without padding; the inverse of `_by_head`."""
    parts, _, longest, width = values.shape
    own = values.view(parts, group.texts, -1, longest, width).permute(1, 3, 0, 2, 4)  # (b, L, k, H, d)
    place = out[group.start : group.start + group.tokens]
    if group.real is None:
        place.view(own.shape).copy_(own)
    else:
        torch.index_select(own.flatten(0, 1), 0, group.real, out=place)


class GroupAttention(torch.autograd.Function):
    """`attended` with its gradient."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, groups: Sequence[Group], scale: float, p: float) -> Tensor:
        """Return the attention of qkv (N, 3, H, d): (N, H, d)."""
        out, saved = attended(qkv, groups, scale, p)
        ctx.save_for_backward(*saved)
        ctx.given = groups, scale, p
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradient of qkv, (N, 3, H, d)."""
        return attention_gradient(gradient, ctx.saved_tensors, *ctx.given), None, None, None
