"""Low-rank adapters on the attention of a frozen transformer, by the library peft.

Beside each projection W of an attention stand two small matrices A (r, d) and B (d, r). The projection becomes W + 2 B A, and
only A and B are trained (LoRA, Hu et al. 2022, arXiv 2106.09685). B starts at zero, so that training starts from the pretrained
network.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

from torch import nn

from gmu_lightning.movie import UserError

SCALE = 2.0  # alpha / r, the weight of the adapters
ATTENTION = ("attention", "attn")  # one of them is in the name of every attention of the transformers library


def check_installed(rank: int) -> None:
    """Raise UserError unless peft is installed."""
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"encoder.text.lora={rank} needs peft: pip install 'gmu_lightning[lora]'")


def adapt(network: Any, blocks: Iterable[nn.Module], rank: int) -> None:
    """Put adapters beside every linear projection in the attentions of a network, in place.

    The matrices A are drawn from torch's global generator.

    Args:
        network: of the transformers library.
        blocks: its embeddings and layers.
        rank: r.

    Raises:
        UserError: the network has no such projection.
    """
    from peft import LoraConfig, inject_adapter_in_model

    within = {id(module) for block in blocks for module in block.modules()}
    targets = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and id(module) in within and any(word in name.lower() for word in ATTENTION)
    ]
    if not targets:
        raise UserError(
            f"encoder.text.lora={rank}: {network.config.model_type} has no attention of linear projections; "
            "leave lora out, or choose an encoder like BERT"
        )
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=round(SCALE * rank), target_modules=targets), network)


def is_adapter(weight: str) -> bool:
    """Return whether a weight, by its name in the network, is one of an adapter."""
    return ".lora_" in weight


def merge(network: nn.Module) -> None:
    """Add every adapter to the projection beside which it stands, and remove it, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(network.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, module.get_base_layer())
