"""Tokens of other modalities before a text's own, in one pretrained transformer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gmu_lightning.movie import UserError

# Their position table starts after the padding index.
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "data2vec-text", "longformer", "roberta-prelayernorm")


class Prefix(NamedTuple):
    """P tokens to be read before each of B texts, whose positions and segment stay what they are."""

    embeddings: Tensor  # (B, P, d); the network adds positions, and the last segment of its table
    mask: Tensor  # (B, P) bool, True where a token is
    positions: Tensor  # (B, P) int64, each modality's from 0


def prefixed(network: Any, ids: Tensor, mask: Tensor, prefix: Prefix) -> dict[str, Tensor]:
    """What a transformer is called with to read [prefix; text], the text being ids and mask (B, T).

    Raises:
        UserError: its architecture takes no embeddings or positions, or embeds words in another width than its own.
    """
    config, taken = network.config, inspect.signature(network.forward).parameters
    words = network.get_input_embeddings()(ids)  # (B, T, d)
    if not {"inputs_embeds", "position_ids"} <= set(taken) or words.shape[-1] != prefix.embeddings.shape[-1]:
        raise UserError(
            f"encoder.text.name: {config.model_type} reads no tokens but words; choose one like BERT, or another fusion"
        )
    positions = torch.arange(words.shape[1], device=words.device).expand(len(words), -1)
    called = {
        "inputs_embeds": torch.cat([prefix.embeddings.to(words.dtype), words], dim=1),
        "attention_mask": torch.cat([prefix.mask, mask], dim=1).long(),
        "position_ids": torch.cat([prefix.positions, positions], dim=1) + first_position(config.to_dict()),
    }
    if "token_type_ids" in taken:
        last = max(0, getattr(config, "type_vocab_size", 1) - 1)
        called["token_type_ids"] = nn.functional.pad(torch.full_like(prefix.positions, last), (0, words.shape[1]))
    return called


def first_position(config: Mapping[str, Any]) -> int:
    """The position of a text's first token in the network's table."""
    return (config.get("pad_token_id") or 0) + 1 if config.get("model_type") in OFFSET_POSITIONS else 0
