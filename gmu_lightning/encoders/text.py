"""Plots through a pretrained transformer: tokens in, one vector (and the sequence it was pooled from) out."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gmu_lightning.encoders import weights
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.dropout import with_cheap_dropout
from gmu_lightning.encoders.inputs import Partial
from gmu_lightning.encoders.packed import Packed, Packing, pack, packable, packed_mean, unpacked
from gmu_lightning.encoders.prefix import Prefix, first_position, prefixed
from gmu_lightning.encoders.splitting import entered_with, entering, skipped
from gmu_lightning.encoders.tokens import (
    OPTION,
    TokenInputs,
    TokenPreparation,
    config_of,
    masked_mean,
    tokenizer_files,
    tokenizer_of,
)
from gmu_lightning.files import digest
from gmu_lightning.movie import Features, UserError

POOLS = ("mean", "cls", "pooler")
PADDING_TOLERANCE = 1e-3  # of the largest number of a text's vectors; rounding differs by about 1e-6


class HuggingFaceText(Encoder):
    """Any encoder of the transformers library, in float32.

    Args:
        name: a local folder, or a repository of the hub.
        pool: `mean` over the real tokens (Reimers & Gurevych 2019, arXiv 1908.10084), `cls` (the first token), or `pooler`
            (the first token through the layer trained for next-sentence prediction, Devlin et al. 2019, arXiv 1810.04805).
        max_tokens: longer plots are cut to so many tokens, [CLS] and [SEP] among them.
        common: `freeze`, `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`.

    Raises:
        UserError: `pool` is unknown, `max_tokens` too small; in `check` and `build`, weights are missing or do not fit.
    """

    sequences = True
    takes_prefix = True
    rowwise = True
    splits = True

    def __init__(self, name: str, pool: str = "mean", max_tokens: int = 256, **common: Any):
        super().__init__("text", pretrained=True, **common)
        if pool not in POOLS:
            raise UserError(f"encoder.text.pool={pool}: give one of {', '.join(POOLS)}")
        if max_tokens < 3:
            raise UserError(
                f"encoder.text.max_tokens={max_tokens}: give at least 3, two of them are the special tokens at the ends"
            )
        self.name, self.pool, self.max_tokens = name, pool, max_tokens
        self.preparation = TokenPreparation(name, max_tokens)
        self.packed: Packed | None = None  # after `build()`: how the network runs without padding, where it can

    @property
    def dim(self) -> int:
        config = config_of(weights.find(self.name, OPTION).fetched())
        return int(config.get("hidden_size") or config.get("dim") or config["d_model"])

    @property
    def fingerprint(self) -> str:
        found = weights.find(self.name, OPTION)
        return digest(["transformers", weights.sha256(found.file), weights.sha256(found.fetched() / "config.json"), self.pool])

    @property
    def wastes_padding(self) -> bool:
        return self.packed is None

    def check(self) -> None:
        """Whether weights and tokenizer are found, and can read `max_tokens`."""
        folder = weights.find(self.name, OPTION).path
        if folder is None:
            return
        if folder.is_file():
            raise UserError(f"{OPTION}={self.name}: this is a file; give the folder that holds it, config.json and the tokenizer")
        tokenizer_files(folder)
        limit = _most_tokens(config_of(folder))
        if limit and self.max_tokens > limit:
            raise UserError(f"encoder.text.max_tokens={self.max_tokens}: {self.name} reads at most {limit}; give {limit} or less")

    def blocks(self) -> list[nn.Module]:
        embeddings = getattr(self.network, "embeddings", None) or self.network.get_input_embeddings()
        layers = max((m for m in self.network.modules() if isinstance(m, nn.ModuleList)), key=len)
        return [embeddings, *layers]

    def forward(self, inputs: TokenInputs | Partial, prefix: Prefix | None = None) -> Features:
        """Features of the text, which a prefix may have been read beside. Raises UserError where the network takes none."""
        if isinstance(inputs, Partial):
            return self._rest(inputs)
        if prefix is None and self.packed is not None and inputs.lengths is not None:
            return self._without_padding(inputs, self.packed, inputs.lengths)
        if prefix is None:
            out = self.network(input_ids=inputs.ids, attention_mask=inputs.mask.long())
            sequence = out.last_hidden_state  # (B, T, d)
        else:
            out = self.network(**prefixed(self.network, inputs.ids, inputs.mask, prefix))
            sequence = out.last_hidden_state[:, prefix.mask.shape[1] :]
        return self._pooled(sequence, inputs.mask)

    def stem(self, inputs: TokenInputs) -> Partial:
        """What embeddings and frozen layers give."""
        frozen = int(self.freeze)
        if self.packed is not None and inputs.lengths is not None:
            packing = pack(inputs.lengths, inputs.ids.shape[1], inputs.ids.device)
            hidden = unpacked(self.packed.hidden(inputs.ids, packing, frozen), packing, inputs.ids.shape)
        else:
            first = self.blocks()[frozen + 1]
            hidden = entering(first, lambda: self.network(input_ids=inputs.ids, attention_mask=inputs.mask.long()))
        return Partial(hidden, inputs.mask, inputs.lengths)

    def _rest(self, partial: Partial) -> Features:
        """What the layers that are trained make of it."""
        hidden, mask, frozen = partial.hidden, partial.mask, int(self.freeze)
        assert mask is not None
        if self.packed is not None and partial.lengths is not None:
            packing = pack(partial.lengths, hidden.shape[1], hidden.device)
            return self._pooled_packed(self.packed.onwards(hidden.flatten(0, 1)[packing.flat], packing, frozen), packing, mask)
        layers = self.blocks()[1:]
        with skipped(layers[:frozen]), entered_with(layers[frozen], hidden):
            # Which ids these are does not matter: what is made of them is replaced before it meets a layer.
            out = self.network(input_ids=mask.long(), attention_mask=mask.long())
        return self._pooled(out.last_hidden_state, mask)

    def _pooled(self, sequence: Tensor, mask: Tensor) -> Features:
        if self.pool == "pooler":
            vector = self.network.pooler(sequence)
        elif self.pool == "cls":
            vector = sequence[:, 0]
        else:
            vector = masked_mean(sequence, mask)
        return Features(vector, sequence, mask)

    def _without_padding(self, inputs: TokenInputs, packed: Packed, lengths: Sequence[int]) -> Features:
        packing = pack(lengths, inputs.ids.shape[1], inputs.ids.device)
        return self._pooled_packed(packed.hidden(inputs.ids, packing), packing, inputs.mask)

    def _pooled_packed(self, hidden: Tensor, packing: Packing, mask: Tensor) -> Features:
        """Of packed tokens (N, d)."""
        if self.pool == "mean":
            vector = packed_mean(hidden, packing)
        else:
            first = hidden[packing.starts]
            vector = first if self.pool == "cls" else self.network.pooler(first[:, None])
        return Features(vector, unpacked(hidden, packing, mask.shape), mask)

    def separator(self) -> Tensor:
        """The embedding of the token that ends a text, (d,)."""
        return self.network.get_input_embeddings().weight[self._empty()[-1]]

    def emptied(self, inputs: TokenInputs, rows: Tensor) -> TokenInputs:
        """The same texts, but the empty one, [CLS] [SEP], where `rows` (B,) is True."""
        empty = torch.tensor(self._empty(), device=inputs.ids.device)
        short = max(0, len(empty) - inputs.ids.shape[1])
        ids, mask = nn.functional.pad(inputs.ids, (0, short)), nn.functional.pad(inputs.mask, (0, short))
        ends = nn.functional.pad(empty, (0, ids.shape[1] - len(empty)))
        real = torch.arange(ids.shape[1], device=ids.device) < len(empty)
        return TokenInputs(torch.where(rows[:, None], ends, ids), torch.where(rows[:, None], real, mask))

    def _empty(self) -> list[int]:
        return tokenizer_of(weights.find(self.name, OPTION).fetched(), self.max_tokens)("")["input_ids"]

    def _load(self) -> nn.Module:
        from transformers import MODEL_MAPPING, AutoConfig, AutoModel
        from transformers.utils import logging

        self.check()
        folder = weights.find(self.name, OPTION).fetched()
        config = weights.loading(
            f"{OPTION}={self.name}", lambda: AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        )
        if config.is_encoder_decoder or type(config) not in MODEL_MAPPING:
            raise UserError(f"{OPTION}={self.name}: {config.model_type} is no text encoder; choose one like BERT or RoBERTa")
        architecture = MODEL_MAPPING[type(config)]
        poolable = "add_pooling_layer" in inspect.signature(architecture.__init__).parameters
        if self.pool == "pooler" and not poolable:
            raise UserError(f"encoder.text.pool=pooler: {self.name} ({config.model_type}) has no pooler; give pool=cls or mean")
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            network, report = weights.loading(
                f"{OPTION}={self.name}",
                lambda: AutoModel.from_pretrained(
                    folder,
                    config=config,
                    dtype=torch.float32,
                    local_files_only=True,
                    trust_remote_code=False,
                    weights_only=True,
                    output_loading_info=True,
                    **({"add_pooling_layer": self.pool == "pooler"} if poolable else {}),
                ),
            )
        finally:
            logging.set_verbosity(verbosity)
        self._check_complete(network, report)
        with_cheap_dropout(network)
        self.network = network
        self.packed = packable(network, self.blocks(), first_position(config.to_dict()))
        if self.packed is None:
            if reads_padding(network):
                raise UserError(
                    f"{OPTION}={self.name}: {config.model_type} reads the padding of a batch, so a text's vector depends on the "
                    "texts beside it; choose an encoder with an attention mask, like BERT or MiniLM"
                )
            print(
                f"{OPTION}={self.name}: {config.model_type} cannot be run without padding, so its batches are padded",
                file=sys.stderr,
            )
        return network

    def _check_complete(self, network: nn.Module, report: Mapping[str, Iterable[str]]) -> None:
        """Heads of the pretraining tasks may be left over; a weight of the network itself may be neither absent nor left over."""
        missing = sorted(report["missing_keys"])
        if missing:
            pooler_only = all("pooler" in key for key in missing)
            cure = "choose pool=cls or pool=mean" if pooler_only else "these are the weights of another network"
            raise UserError(f"{OPTION}={self.name}: {len(missing)} weights are missing ({', '.join(missing[:3])}); {cure}")
        parts = {name for name, _ in network.named_children()} - {"pooler"}
        surplus = sorted(key for key in report["unexpected_keys"] if parts & set(key.split(".")[:2]) and not key.endswith("_ids"))
        if surplus:
            raise UserError(
                f"{OPTION}={self.name}: {len(surplus)} weights have no place in this network ({', '.join(surplus[:3])}); "
                "check its config.json"
            )
        for key, parameter in network.named_parameters():
            assert parameter.dtype == torch.float32, f"{key} is {parameter.dtype}"


@torch.no_grad()
def reads_padding(network: Any) -> bool:
    """Return whether the vectors of a short text differ when a longer text stands beside it and the short one is padded."""
    lengths = torch.tensor([3, 7])
    ids = (torch.arange(14).view(2, 7) + 5) % network.config.vocab_size
    padding = network.config.pad_token_id or 0
    ids[ids == padding] = (padding + 1) % network.config.vocab_size
    mask = torch.arange(7) < lengths[:, None]
    ids = torch.where(mask, ids, padding)
    training = network.training
    network.eval()
    try:
        alone = network(input_ids=ids[:1, :3], attention_mask=mask[:1, :3].long()).last_hidden_state
        beside = network(input_ids=ids, attention_mask=mask.long()).last_hidden_state[:1, :3]
    except (TypeError, ValueError, RuntimeError, IndexError):  # it takes no texts as short as these
        return False
    finally:
        network.train(training)
    return alone.shape != beside.shape or bool((alone - beside).abs().max() > PADDING_TOLERANCE * alone.abs().max())


def _most_tokens(config: Mapping[str, Any]) -> int | None:
    positions = config.get("max_position_embeddings")
    return positions - first_position(config) if positions else positions
