"""Run a transformer without padding: all real tokens of a batch stand in one row, and attention stays within each text.

Apart from attention, a transformer treats each token independently of its text. So the tokens of B texts are concatenated, and
the layers of the transformers library run on them as on one long text. This module replaces the attention. On a CPU it is
`group_attention`, and the layers of a BERT are replaced as a whole (`post_norm`). On a GPU it is flash attention over a jagged
tensor. The results equal those of the padded network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from gmu_lightning.encoders.text.group_attention import Group, GroupAttention, groups_of
from gmu_lightning.encoders.text.post_norm import layer_of, run

NAME = "gmu_packed"  # of this attention in the registry of the transformers library
# oneDNN compiles a kernel for each new shape of a product in bfloat16. Rounded sizes let shapes repeat.
TOKENS = 32  # a row is padded to a multiple of it
LENGTH = 8  # the longest text of a group is padded to a multiple of it


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
    spare: int  # tokens that a network reads after the N, and that belong to no text


def pack(lengths: Sequence[int], width: int, device: torch.device, narrow: bool = False) -> Packing:
    """Return the packing of a batch whose texts are padded on the right.

    It is computed on the CPU, without waiting for a GPU.

    Args:
        lengths: tokens of each text, at least 1.
        width: T of the padded batch (B, T).
        device: of the returned tensors.
        narrow: the network computes in bfloat16; on a CPU, sizes are then rounded up.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(sizes, kind="stable")
    ranked = sizes[order]
    offsets = np.concatenate([[0], np.cumsum(ranked)])
    owners = np.repeat(order, ranked)
    positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], ranked)
    starts = np.empty_like(offsets[:-1])
    starts[order] = offsets[:-1]
    cpu = device.type == "cpu"
    tokens, length = (TOKENS, LENGTH) if narrow and cpu else (1, 1)
    at = partial(_tensor, device=device)
    return Packing(
        flat=at(owners * width + positions),
        owners=at(owners),
        positions=at(positions),
        starts=at(starts),
        lengths=at(sizes),
        offsets=at(offsets.astype(np.int32)),
        longest=int(ranked[-1]),
        groups=groups_of(ranked, offsets, length) if cpu else (),
        spare=-len(owners) % tokens,
    )


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


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
        return GroupAttention.apply(torch.stack([q, k, v], dim=1), packing.groups, scale, dropout)[None], None
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
        chosen = F.pad(ids.flatten()[packing.flat], (0, packing.spare))[None]
        positions = F.pad(packing.positions + self.first_position, (0, packing.spare))[None]
        hidden = self.embeddings(input_ids=chosen, position_ids=positions)
        device = hidden.device.type
        narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        if narrow is not None:  # the residual stream is narrow too
            hidden = hidden.to(narrow)
        layers = [layer_of(layer) for layer in self.layers] if device == "cpu" else [None]
        if None not in layers:
            with torch.autocast(device, enabled=False):
                hidden = reduce(lambda x, layer: run(layer, x, packing.groups), layers, hidden[0])
                return hidden[: len(packing.flat)]
        with self._attention(), torch.autocast(device, enabled=narrow is not None and device == "cpu"):
            for layer in self.layers:
                # A GPU's autocast would widen every norm, and the residual stream with it.
                weights = {} if narrow is None or device == "cpu" else {n: p.to(narrow) for n, p in layer.named_parameters()}
                out = functional_call(layer, weights, (hidden,), {"attention_mask": None, "packing": packing})
                hidden = out[0] if isinstance(out, tuple) else out
        return hidden[0, : len(packing.flat)]

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
