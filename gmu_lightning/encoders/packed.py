"""Texts without padding: all real tokens of a batch in one row, and attention within each text.

A transformer's work on a token does not depend on which text it stands in, attention apart. So the tokens of B texts are laid
one after the other, and every layer of the transformers library runs on them as on one long text, with an attention of our own
in place of its own: on a CPU batched products over groups of texts of like length, with their own backward; on a GPU flash
attention over a jagged tensor. What it computes is what the padded network computes.
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

from gmu_lightning.encoders.dropout import gain, kept_of

NAME = "gmu_packed"  # of the attention, among those the transformers library knows
MOST_GROUPS = 6


class Group(NamedTuple):
    """Texts of like length, one after the other among the packed tokens; L is the longest of the b."""

    start: int  # of its tokens
    tokens: int  # how many they are
    texts: int  # b
    longest: int  # L
    spread: Tensor | None  # (b * L,) int64: which of its tokens stands where, any where none does; None where all have L
    empty: Tensor | None  # (b, 1, 1, L): minus infinity where no token stands, else 0
    real: Tensor | None  # (tokens,) int64: the inverse of `spread`


class Packing(NamedTuple):
    """Where the tokens of B texts stand, shortest text first."""

    flat: Tensor  # (N,) int64: of each packed token, its place in the padded (B, T) laid flat
    owners: Tensor  # (N,) int64: its text
    positions: Tensor  # (N,) int64: its place in the text
    starts: Tensor  # (B,) int64: of each text, where its first token stands
    lengths: Tensor  # (B,) int64
    offsets: Tensor  # (B + 1,) int32: where each text begins, shortest first
    longest: int
    groups: tuple[Group, ...]


def pack(lengths: Sequence[int], width: int, device: torch.device) -> Packing:
    """The packing of texts of these lengths, each at least 1, that stand at the left of rows of `width`.

    All of it is computed on the CPU, so that a GPU is never waited for.
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
    """At most `MOST_GROUPS` runs of texts, so cut that little is computed for nothing."""
    cuts = _cuts(ranked.tolist())
    return tuple(_group(ranked[a:b], int(offsets[a])) for a, b in pairwise(cuts))


def _cuts(ranked: list[int]) -> list[int]:
    """Where groups of rising lengths begin, and the end: neighbours are joined, the cheapest first, while there are too many.

    Joining costs what the shorter texts waste, L^2 - l^2 scores each; a group more costs about as much as 110 scores squared.
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
    """softmax(scale q k^T) v within each text, heads H of width d, dropout on the probabilities; all tokens in one row.

    Its own backward keeps the probabilities, a mask of what was not dropped, and nothing else of their size.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, packing: Packing, scale: float, p: float) -> Tensor:
        """(N, H, d) each -> (N, H, d)."""
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
        """Of q, k and v; all of one size."""
        dq, dk, dv = (torch.empty_like(gradient, memory_format=torch.contiguous_format) for _ in range(3))
        for n, group in enumerate(ctx.packing.groups):
            queries, keys, values, probabilities, kept = ctx.saved_tensors[5 * n : 5 * n + 5]
            out = _by_head(gradient, group)
            if group.empty is not None:  # what stands where no token is comes from nowhere
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
    """A group's tokens of (N, H, d) -> (b H, L, d); where no token stands any other one's."""
    own = x[group.start : group.start + group.tokens]
    if group.spread is not None:
        own = own[group.spread]
    heads, width = x.shape[1:]
    return own.view(group.texts, group.longest, heads, width).transpose(1, 2).reshape(-1, group.longest, width)


def _put(out: Tensor, values: Tensor, group: Group) -> None:
    """The inverse of `_by_head`, into the group's tokens of out (N, H, d)."""
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
    """The transformers library's interface: (1, H, N, d) each -> (1, N, H, d)."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x.transpose(1, 2)[0] for x in (query, key, value))  # (N, H, d)
    if q.device.type == "cpu":
        return _GroupAttention.apply(q, k, v, packing, scale, dropout)[None], None
    offsets, longest = packing.offsets, packing.longest
    if q.device.type == "cuda" and q.dtype in (torch.bfloat16, torch.float16):
        # What a jagged tensor's attention calls in the end, without the milliseconds that it takes to get there.
        flash = torch.ops.aten._flash_attention_forward
        return flash(q, k, v, offsets, offsets, longest, longest, dropout, False, False, scale=scale)[0][None], None

    def jagged(x: Tensor) -> Tensor:
        return torch.nested.nested_tensor_from_jagged(x, offsets.long(), min_seqlen=1, max_seqlen=longest).transpose(1, 2)

    out = F.scaled_dot_product_attention(jagged(q), jagged(k), jagged(v), dropout_p=dropout, scale=scale)
    return out.transpose(1, 2).values()[None], None


class Packed:
    """A network of the transformers library, run without padding.

    Args:
        network: with embeddings that take `input_ids` and `position_ids`, and layers that hand further arguments on to the
            attention, as BERT, RoBERTa, ELECTRA and DistilBERT have.
        embeddings, layers: its parts.
        first_position: of a text's first token in the network's table.
    """

    def __init__(self, network: Any, embeddings: nn.Module, layers: Sequence[nn.Module], first_position: int):
        from transformers import AttentionInterface

        AttentionInterface.register(NAME, attention)
        self.network, self.embeddings, self.layers, self.first_position = network, embeddings, layers, first_position

    def hidden(self, ids: Tensor, packing: Packing, layers: int | None = None) -> Tensor:
        """Ids (B, T) -> the output of the last layer, or of the first `layers` of them, for the packed tokens, (N, d)."""
        chosen = ids.flatten()[packing.flat][None]
        positions = (packing.positions + self.first_position)[None]
        hidden = self.embeddings(input_ids=chosen, position_ids=positions)
        return self._through(self.layers[:layers], hidden, packing)

    def onwards(self, hidden: Tensor, packing: Packing, first: int) -> Tensor:
        """What layer `first` reads, (N, d) -> the output of the last layer, (N, d)."""
        return self._through(self.layers[first:], hidden[None], packing)

    def _through(self, layers: Sequence[nn.Module], hidden: Tensor, packing: Packing) -> Tensor:
        device = hidden.device.type
        narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        if narrow is not None:  # what is added up from layer to layer, too
            hidden = hidden.to(narrow)
        with self._attention(), torch.autocast(device, enabled=narrow is not None and device == "cpu"):
            for layer in layers:
                # A GPU's autocast would widen every norm, and with it all that is added up.
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
    """The network packed, if that gives what the padded network gives, tried on three texts of different length; else None.

    Args:
        blocks: embeddings, then the layers.
    """
    lengths = (3, 7, 5)
    ids = torch.arange(21).view(3, 7) % network.config.vocab_size
    ids[ids == network.config.pad_token_id] += 1  # positions may be counted over what is no padding
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
    """(N, d) -> (B, T, d), zeros where no token is."""
    out = hidden.new_zeros(int(np.prod(shape)), hidden.shape[-1])
    return out.index_copy(0, packing.flat, hidden).view(*shape, -1)


def packed_mean(hidden: Tensor, packing: Packing) -> Tensor:
    """(N, d) -> (B, d) in float32: each text's mean."""
    sums = torch.zeros(len(packing.lengths), hidden.shape[-1], device=hidden.device)
    return sums.index_add(0, packing.owners, hidden.float()) / packing.lengths[:, None]
