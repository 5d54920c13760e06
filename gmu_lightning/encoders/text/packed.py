"""Run a transformer without padding: all real tokens of a batch stand in one row, and attention stays within each text.

Apart from attention, a transformer treats each token independently of its text. So the tokens of B texts are concatenated, and
the layers of the transformers library run on them as on one long text. This module replaces the attention. On a CPU it computes
batched products over groups of texts with similar lengths, with a backward of its own. On a GPU it uses flash attention over a
jagged tensor. The results equal those of the padded network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from gmu_lightning.nn.dropout import gain, kept_of

NAME = "gmu_packed"  # of this attention in the registry of the transformers library
MOST_GROUPS = 6


class Group(NamedTuple):
    """A run of b packed texts with similar lengths, of which L is the longest."""

    start: int  # index of the group's first packed token
    tokens: int  # number of tokens in the group
    texts: int  # b
    longest: int  # L
    spread: Tensor | None  # (b * L,) int64: the token at each place, an arbitrary one in padding; None if all have length L
    empty: Tensor | None  # (b, 1, 1, L): minus infinity in padding, else 0; None if all have length L
    real: Tensor | None  # (tokens,) int64: the inverse of `spread`; None if all have length L


class Packing(NamedTuple):
    """The order of the N tokens of B texts in one row, shortest text first."""

    flat: Tensor  # (N,) int64: each packed token's index in the flattened padded batch (B, T)
    owners: Tensor  # (N,) int64: each packed token's text
    positions: Tensor  # (N,) int64: each packed token's position within its text
    starts: Tensor  # (B,) int64: the index of each text's first packed token
    lengths: Tensor  # (B,) int64
    offsets: Tensor  # (B + 1,) int32: the begin of each text, shortest first, and N
    longest: int
    groups: tuple[Group, ...]  # on a CPU; empty on other devices


def pack(lengths: Sequence[int], width: int, device: torch.device) -> Packing:
    """Return the packing of a batch whose texts are padded on the right.

    It is computed on the CPU, without waiting for a GPU.

    Args:
        lengths: tokens of each text, at least 1.
        width: T of the padded batch (B, T).
        device: of the returned tensors.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(sizes, kind="stable")
    ranked = sizes[order]
    offsets = np.concatenate([[0], np.cumsum(ranked)])
    owners = np.repeat(order, ranked)
    positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], ranked)
    starts = np.empty_like(offsets[:-1])
    starts[order] = offsets[:-1]
    groups = _groups(ranked, offsets) if device.type == "cpu" else ()
    at = partial(_tensor, device=device)
    return Packing(
        flat=at(owners * width + positions),
        owners=at(owners),
        positions=at(positions),
        starts=at(starts),
        lengths=at(sizes),
        offsets=at(offsets.astype(np.int32)),
        longest=int(ranked[-1]),
        groups=groups,
    )


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def _groups(ranked: np.ndarray, offsets: np.ndarray) -> tuple[Group, ...]:
    """Return at most `MOST_GROUPS` groups of texts, chosen so that little is computed on padding."""
    cuts = _cuts(ranked.tolist())
    return tuple(_group(ranked[a:b], int(offsets[a])) for a, b in pairwise(cuts))


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


def _group(ranked: np.ndarray, start: int) -> Group:
    texts, longest, tokens = len(ranked), int(ranked[-1]), int(ranked.sum())
    if ranked[0] == longest:
        return Group(start, tokens, texts, longest, None, None, None)
    begins = np.concatenate([[0], np.cumsum(ranked)[:-1]])
    places = np.arange(longest)
    there = places < ranked[:, None]  # (b, L)
    spread = np.where(there, begins[:, None] + places, 0)
    empty = torch.zeros(there.shape).masked_fill(torch.from_numpy(~there), float("-inf"))[:, None, None]
    return Group(start, tokens, texts, longest, torch.from_numpy(spread.ravel()), empty, torch.from_numpy(np.flatnonzero(there)))


class _GroupAttention(torch.autograd.Function):
    """softmax(scale q k^T) v within each packed text, for H heads of width d, with dropout on the probabilities.

    For the backward it saves the probabilities and the dropout mask, and no further tensor of their size.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, packing: Packing, scale: float, p: float) -> Tensor:
        """Return the attention of q, k and v, each (N, H, d): (N, H, d)."""
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        q = q * scale
        saved: list[Tensor | None] = []
        for group in packing.groups:
            queries, keys, values = (_by_head(x, group) for x in (q, k, v))  # (b H, L, d)
            scores = torch.bmm(queries, keys.transpose(1, 2))
            if group.empty is not None:
                scores.view(group.texts, -1, *scores.shape[1:]).add_(group.empty.to(scores.dtype))
            probabilities = torch.softmax(scores, dim=-1)
            kept = kept_of(probabilities, p) if p else None
            read = torch.bmm(probabilities if kept is None else probabilities * kept, values)
            _put(out, read if kept is None else read.mul_(gain(p)), group)
            saved += [queries, keys, values, probabilities, kept]
        ctx.save_for_backward(*saved)
        ctx.packing, ctx.scale, ctx.p = packing, scale, p
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradients of q, k and v, each (N, H, d)."""
        dq, dk, dv = (torch.empty_like(gradient, memory_format=torch.contiguous_format) for _ in range(3))
        for n, group in enumerate(ctx.packing.groups):
            queries, keys, values, probabilities, kept = ctx.saved_tensors[5 * n : 5 * n + 5]
            out = _by_head(gradient, group)
            if group.empty is not None:  # padding has no gradient
                out.view(group.texts, -1, *out.shape[1:]).masked_fill_(group.empty.transpose(2, 3) < 0, 0.0)
            if kept is not None:
                out = out * gain(ctx.p)
            used = probabilities if kept is None else probabilities * kept
            _put(dv, torch.bmm(used.transpose(1, 2), out), group)
            slope = torch.bmm(out, values.transpose(1, 2))
            if kept is not None:
                slope.mul_(kept)
            slope = torch._softmax_backward_data(slope, probabilities, -1, probabilities.dtype)
            _put(dq, torch.bmm(slope, keys).mul_(ctx.scale), group)
            _put(dk, torch.bmm(slope.transpose(1, 2), queries), group)
        return dq, dk, dv, None, None, None


def _by_head(x: Tensor, group: Group) -> Tensor:
    """Return a group's tokens of x (N, H, d), padded with arbitrary tokens: (b H, L, d)."""
    own = x[group.start : group.start + group.tokens]
    if group.spread is not None:
        own = own[group.spread]
    heads, width = x.shape[1:]
    return own.view(group.texts, group.longest, heads, width).transpose(1, 2).reshape(-1, group.longest, width)


def _put(out: Tensor, values: Tensor, group: Group) -> None:
    """Write values (b H, L, d) into a group's tokens of out (N, H, d), without padding; the inverse of `_by_head`."""
    own = values.view(group.texts, -1, group.longest, values.shape[-1]).transpose(1, 2).flatten(0, 1)
    out[group.start : group.start + group.tokens] = own if group.real is None else own[group.real]


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute attention by the interface of the transformers library: query, key, value (1, H, N, d) -> (1, N, H, d)."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x.transpose(1, 2)[0] for x in (query, key, value))  # (N, H, d)
    if q.device.type == "cpu":
        return _GroupAttention.apply(q, k, v, packing, scale, dropout)[None], None
    offsets, longest = packing.offsets, packing.longest
    if q.device.type == "cuda" and q.dtype in (torch.bfloat16, torch.float16):
        # The attention of jagged tensors ends in this call; the direct call saves milliseconds.
        flash = torch.ops.aten._flash_attention_forward
        return flash(q, k, v, offsets, offsets, longest, longest, dropout, False, False, scale=scale)[0][None], None

    def jagged(x: Tensor) -> Tensor:
        return torch.nested.nested_tensor_from_jagged(x, offsets.long(), min_seqlen=1, max_seqlen=longest).transpose(1, 2)

    out = F.scaled_dot_product_attention(jagged(q), jagged(k), jagged(v), dropout_p=dropout, scale=scale)
    return out.transpose(1, 2).values()[None], None


class Packed:
    """Run a network of the transformers library without padding.

    Args:
        network: its embeddings take `input_ids` and `position_ids`, and its layers pass further arguments on to the
            attention, as in BERT, RoBERTa, ELECTRA and DistilBERT.
        embeddings, layers: the parts of the network.
        first_position: position of a text's first token in the network's table.
    """

    def __init__(self, network: Any, embeddings: nn.Module, layers: Sequence[nn.Module], first_position: int):
        from transformers import AttentionInterface

        AttentionInterface.register(NAME, attention)
        self.network, self.embeddings, self.layers, self.first_position = network, embeddings, layers, first_position

    def hidden(self, ids: Tensor, packing: Packing) -> Tensor:
        """Run ids (B, T) through every layer, and return the last layer's output for the packed tokens, (N, d)."""
        chosen = ids.flatten()[packing.flat][None]
        positions = (packing.positions + self.first_position)[None]
        hidden = self.embeddings(input_ids=chosen, position_ids=positions)
        device = hidden.device.type
        narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        if narrow is not None:  # the residual stream is narrow too
            hidden = hidden.to(narrow)
        with self._attention(), torch.autocast(device, enabled=narrow is not None and device == "cpu"):
            for layer in self.layers:
                # A GPU's autocast would widen every norm, and the residual stream with it.
                weights = {} if narrow is None or device == "cpu" else {n: p.to(narrow) for n, p in layer.named_parameters()}
                out = functional_call(layer, weights, (hidden,), {"attention_mask": None, "packing": packing})
                hidden = out[0] if isinstance(out, tuple) else out
        return hidden[0]

    @contextmanager
    def _attention(self) -> Iterator[None]:
        config = self.network.config
        before, config._attn_implementation = config._attn_implementation, NAME
        try:
            yield
        finally:
            config._attn_implementation = before


@torch.no_grad()
def packable(network: Any, blocks: Sequence[nn.Module], first_position: int) -> Packed | None:
    """Return the packed network if its output equals the padded network's on three texts of different lengths, else None.

    Args:
        network: a text encoder of the transformers library.
        blocks: its embeddings, then its layers.
        first_position: position of a text's first token in the network's table.
    """
    lengths = (3, 7, 5)
    ids = torch.arange(21).view(3, 7) % network.config.vocab_size
    ids[ids == network.config.pad_token_id] += 1  # some networks count positions over the ids that are not padding
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    training = network.training
    network.eval()
    try:
        packed = Packed(network, blocks[0], blocks[1:], first_position)
        packing = pack(lengths, 7, ids.device)
        expected = network(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        same = torch.allclose(
            unpacked(packed.hidden(ids, packing), packing, ids.shape)[mask], expected[mask], atol=1e-4, rtol=1e-4
        )
    except (TypeError, AttributeError, RuntimeError):
        return None
    finally:
        network.train(training)
    return packed if same else None


def unpacked(hidden: Tensor, packing: Packing, shape: Sequence[int]) -> Tensor:
    """Return packed tokens (N, d) as a padded batch (B, T, d), with zeros in padding.

    Args:
        shape: (B, T).
    """
    out = hidden.new_zeros(int(np.prod(shape)), hidden.shape[-1])
    return out.index_copy(0, packing.flat, hidden).view(*shape, -1)


def packed_mean(hidden: Tensor, packing: Packing) -> Tensor:
    """Return the mean of each text's packed tokens (N, d): float32 (B, d)."""
    sums = torch.zeros(len(packing.lengths), hidden.shape[-1], device=hidden.device)
    return sums.index_add(0, packing.owners, hidden.float()) / packing.lengths[:, None]
