"""The encoder of plots with a pretrained transformer. It returns one vector, and the sequence that the vector was pooled from."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from gmu_lightning.encoders import weights
from gmu_lightning.encoders.pretrained import TransformersEncoder, described, two_towers
from gmu_lightning.encoders.text import adapters
from gmu_lightning.encoders.text.packed import Packed, pack, packable, packed_mean, unpacked
from gmu_lightning.encoders.text.tokens import OPTION, TokenInputs, TokenPreparation, tokenizer_files, tokenizer_of
from gmu_lightning.movie import Features, UserError
from gmu_lightning.nn.dropout import with_cheap_dropout
from gmu_lightning.nn.transformer import masked_mean

logger = logging.getLogger(__name__)
PADDING_TOLERANCE = 1e-3  # relative to the largest value of a text's vectors; rounding alone causes about 1e-6
# Architectures whose positions start after the padding index.
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "data2vec-text", "longformer", "roberta-prelayernorm")


class Prefix(NamedTuple):
    """P tokens to be read before each of B texts. The texts keep their positions and their segment."""

    embeddings: Tensor  # (B, P, d); the network adds the positions and the last segment of its table
    mask: Tensor  # (B, P) bool, True for real tokens
    positions: Tensor  # (B, P) int64, counted from 0 within each modality


class HuggingFaceText(TransformersEncoder):
    """Encode plots with any text encoder of the transformers library, in float32.

    Args:
        name: a local folder, or a repository of the hub.
        pool: `mean` over the real tokens (Reimers & Gurevych 2019, arXiv 1908.10084), `cls` (the first token), `last` (the last
            token, for networks that read from left to right), `pooler` (the first token through the layer trained for
            next-sentence prediction, Devlin et al. 2019, arXiv 1810.04805), or `projection` (of networks with a tower for images:
            the vector in the space of both towers).
        max_tokens: longer plots are cut to so many tokens, including [CLS] and [SEP].
        prefix: text put before each plot, such as `query: `.
        lower: write plots in lower case, for a network whose tokenizer leaves that to others.
        fixed_length: pad each text to `max_tokens`, and let the network read the padding, as SigLIP was trained.
        unit_length: scale each vector to length 1.
        lora: rank of adapters that are trained beside the frozen network (Hu et al. 2022, arXiv 2106.09685); null or 0: none.
        common: `freeze`, `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`.

    Raises:
        UserError: `lora` is given for a network that is not frozen; in `check` and `build`, weights are missing or do not fit, or
            the network lacks the requested pooler.
    """

    sequences = True
    takes_prefix = True
    rowwise = True

    def __init__(
        self,
        name: str,
        pool: Literal["mean", "cls", "last", "pooler", "projection"] = "mean",
        max_tokens: Annotated[int, Ge(3), Le(2**20)] = 256,
        prefix: str = "",
        lower: bool = False,
        fixed_length: bool = False,
        unit_length: bool = False,
        lora: Annotated[int, Ge(0), Le(1024)] | None = None,
        **common: Any,
    ):
        super().__init__("text", name, **common)
        self.pool, self.max_tokens = pool, max_tokens
        self.fixed_length, self.unit_length, self.lora = fixed_length, unit_length, lora or None
        self.preparation = TokenPreparation(name, max_tokens, prefix, lower, fixed_length)
        self.packed: Packed | None = None  # after `build()`: the network without padding, or None if it needs padding
        if self.lora is not None and (self.freeze != "all" or self.unfreeze_at_epoch is not None):
            also = "" if self.unfreeze_at_epoch is None else f" encoder.text.unfreeze_at_epoch={self.unfreeze_at_epoch}"
            raise UserError(
                f"encoder.text.lora={lora} with encoder.text.freeze={self.freeze}{also}: adapters are trained beside a frozen "
                "network; leave out freeze and unfreeze_at_epoch, or lora"
            )

    def _readout(self) -> list[str]:
        further = {"fixed length": self.fixed_length, "unit length": self.unit_length}
        return [self.pool, *(name for name, on in further.items() if on)]

    @property
    def why_not_constant(self) -> str | None:
        return super().why_not_constant if self.lora is None else f"encoder.text.lora={self.lora} trains adapters in every step"

    @property
    def wastes_padding(self) -> bool:
        return self.packed is None

    def check(self) -> None:
        """Check that weights and tokenizer are found, and that the network can read `max_tokens`. Raises UserError."""
        folder = weights.find(self.name, OPTION).path
        if self.lora is not None:
            adapters.check_installed(self.lora)
        if folder is None:
            return
        if folder.is_file():
            raise UserError(f"{self._chosen}: this is a file; give the folder that holds it, config.json and the tokenizer")
        tokenizer_files(folder)
        config = self.settings
        config = config.get("text_config", config)
        limit = (config.get("max_position_embeddings") or 0) - first_position(config)
        if 0 < limit < self.max_tokens:
            raise UserError(f"encoder.text.max_tokens={self.max_tokens}: {self.name} reads at most {limit}; give {limit} or less")

    def description(self) -> dict[str, bytes]:
        return described(self.folder, ["config.json", *(file.name for file in tokenizer_files(self.folder))])

    def forward(self, inputs: TokenInputs, prefix: Prefix | None = None) -> Features:
        """Return the `Features` of B texts.

        Args:
            prefix: tokens of other modalities, read before each text. The features cover the text's own tokens.

        Raises:
            UserError: the network accepts no prefix.
        """
        if prefix is None and self.packed is not None and inputs.lengths is not None:
            device = inputs.ids.device
            packing = pack(inputs.lengths, inputs.ids.shape[1], device, torch.is_autocast_enabled(device.type))
            hidden = self.packed.hidden(inputs.ids, packing)  # (N, d)
            ends = packing.starts + packing.lengths - 1
            vector = self._pooled(hidden[packing.starts], lambda: hidden[ends], lambda: packed_mean(hidden, packing))
            return Features(vector, unpacked(hidden, packing, inputs.mask.shape), inputs.mask)
        if self.pool == "projection":
            return self._projected(inputs, prefix)
        if prefix is None:
            out = self.network(input_ids=inputs.ids, attention_mask=self._attended(inputs))
            sequence = out.last_hidden_state  # (B, T, d)
        else:
            out = self.network(**prefixed(self.network, inputs.ids, inputs.mask, prefix))
            sequence = out.last_hidden_state[:, prefix.mask.shape[1] :]
        vector = self._pooled(sequence[:, 0], lambda: last_of(sequence, inputs.mask), lambda: masked_mean(sequence, inputs.mask))
        return Features(vector, sequence, inputs.mask)

    def _projected(self, inputs: TokenInputs, prefix: Prefix | None) -> Features:
        """Return the `Features` by a tower. Tokens go through the same projection as the vector."""
        if prefix is not None:
            raise _no_prefix(self.network.config.model_type)
        out = self.network.get_text_features(input_ids=inputs.ids, attention_mask=self._attended(inputs))
        project = getattr(self.network, "text_projection", None) or self.tower.head
        return Features(self._scaled(out.pooler_output), project(out.last_hidden_state), inputs.mask)

    def _attended(self, inputs: TokenInputs) -> Tensor | None:
        return None if self.fixed_length else inputs.mask.long()

    def _pooled(self, first: Tensor, last: Callable[[], Tensor], mean: Callable[[], Tensor]) -> Tensor:
        """Return the vectors of B texts, given their first and last tokens (B, d) and the mean of their tokens."""
        if self.pool == "mean":
            return self._scaled(mean())
        if self.pool == "last":
            return self._scaled(last())
        return self._scaled(first if self.pool == "cls" else self.network.pooler(first[:, None]))

    def _scaled(self, vector: Tensor) -> Tensor:
        return nn.functional.normalize(vector.float(), dim=-1) if self.unit_length else vector

    def merge(self) -> None:
        if self.lora is not None and self.network is not None:
            adapters.merge(self.network)
            self.lora = None
            self._apply_freeze()

    def reloads(self, weight: str) -> bool:
        return super().reloads(weight) if self.lora is None else not adapters.is_adapter(weight)

    def _frozen(self) -> list[nn.Module]:
        return super()._frozen() if self.lora is None else []  # dropout stays on beside adapters, as if all were trained

    def _apply_freeze(self) -> None:
        super()._apply_freeze()
        if self.lora is not None and self.network is not None:
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad_(adapters.is_adapter(name))

    def separator(self) -> Tensor:
        """Return the word embedding of the token that ends a text, (d,), as a view of the built network's weights."""
        return self.network.get_input_embeddings().weight[self._empty()[-1]]

    def emptied(self, inputs: TokenInputs, rows: Tensor) -> TokenInputs:
        """Return inputs in which the empty text, [CLS] [SEP], replaces some texts, without `lengths`.

        Args:
            rows: (B,) bool, True for texts to replace.
        """
        empty = torch.tensor(self._empty(), device=inputs.ids.device)
        short = max(0, len(empty) - inputs.ids.shape[1])
        ids, mask = nn.functional.pad(inputs.ids, (0, short)), nn.functional.pad(inputs.mask, (0, short))
        ends = nn.functional.pad(empty, (0, ids.shape[1] - len(empty)))
        real = torch.arange(ids.shape[1], device=ids.device) < len(empty)
        return TokenInputs(torch.where(rows[:, None], ends, ids), (rows[:, None] & real) | (~rows[:, None] & mask))

    def _empty(self) -> list[int]:
        return tokenizer_of(self.folder, self.max_tokens)("")["input_ids"]

    def _load(self) -> nn.Module:
        from transformers import MODEL_MAPPING

        self.check()
        config = self._config()
        if config.is_encoder_decoder or type(config) not in MODEL_MAPPING:
            raise UserError(f"{self._chosen}: {config.model_type} is no text encoder; choose one like BERT or RoBERTa")
        poolable = "add_pooling_layer" in inspect.signature(MODEL_MAPPING[type(config)].__init__).parameters
        if self.pool == "pooler" and not poolable:
            raise UserError(f"encoder.text.pool=pooler: {self.name} ({config.model_type}) has no pooler; give pool=cls or mean")
        options = {"add_pooling_layer": self.pool == "pooler"} if poolable else {}
        if (self.pool == "projection") != two_towers(config.to_dict()):
            raise UserError(
                f"encoder.text.pool={self.pool}: {self.name} ({config.model_type}) has "
                + ("no tower for images; give pool=mean or cls" if self.pool == "projection" else "two; give pool=projection")
            )
        network, report = self._pretrained(config, **options)
        self._check_complete(network, report)
        with_cheap_dropout(network)
        self.network = network
        if not self.fixed_length:
            self._set_padding()
        if self.lora is not None:
            adapters.adapt(network, self.blocks(), self.lora)
        return network

    def _set_padding(self) -> None:
        """Run the network without padding if that is possible. Raises UserError if padding would change a text's vector."""
        config, tower = self.network.config, self.tower
        self.packed = None if self.pool == "projection" else packable(tower, self.blocks(), first_position(config.to_dict()))
        if self.packed is None:
            if reads_padding(tower):
                raise UserError(
                    f"{self._chosen}: {config.model_type} reads the padding of a batch, so a text's vector depends on the texts "
                    "beside it; choose an encoder with an attention mask, or give encoder.text.fixed_length=true if it was "
                    "trained so"
                )
            logger.warning("%s: %s cannot be run without padding, so its batches are padded", self._chosen, config.model_type)

    def _check_complete(self, network: nn.Module, report: Mapping[str, set[str]]) -> None:
        """Raise UserError if a weight of the network is missing or unused. Pretraining heads may stay unused."""
        missing = report["missing_keys"]
        if missing and all("pooler" in key for key in missing):
            self._refuse_missing(missing, "choose pool=cls or pool=mean")
        self._refuse_missing(missing)
        parts = {name for name, _ in network.named_children()} - {"pooler"}
        surplus = sorted(key for key in report["unexpected_keys"] if parts & set(key.split(".")[:2]) and not key.endswith("_ids"))
        if surplus:
            raise UserError(
                f"{self._chosen}: {len(surplus)} weights have no place in this network ({', '.join(surplus[:3])}); "
                "check its config.json"
            )


def last_of(sequence: Tensor, mask: Tensor) -> Tensor:
    """Return the last real token of each text, (B, d), given tokens (B, T, d) and their mask (B, T)."""
    ends = mask.long().cumsum(dim=1).argmax(dim=1)  # (B,)
    return sequence.take_along_dim(ends[:, None, None], dim=1).squeeze(1)


@torch.no_grad()
def reads_padding(network: Any) -> bool:
    """Return whether a short text's vectors change when it is padded to the length of a longer text in its batch.

    Return False for a network that cannot read such short texts.
    """
    lengths = torch.tensor([3, 7])
    ids = (torch.arange(14).view(2, 7) + 5) % network.config.vocab_size
    padding = network.config.pad_token_id or 0
    ids[ids == padding] = (padding + 1) % network.config.vocab_size
    mask = torch.arange(7) < lengths[:, None]
    ids = torch.where(mask, ids, padding)
    end = getattr(network.config, "eos_token_id", None)
    if isinstance(end, int) and end < network.config.vocab_size:  # some networks pool at the first such token
        ids[torch.arange(2), lengths - 1] = end
    training = network.training
    network.eval()
    try:
        alone = network(input_ids=ids[:1, :3], attention_mask=mask[:1, :3].long())
        beside = network(input_ids=ids, attention_mask=mask.long())
    except (TypeError, ValueError, RuntimeError, IndexError):  # the network cannot read such short texts
        return False
    finally:
        network.train(training)
    pairs = [(alone.last_hidden_state, beside.last_hidden_state[:1, :3])]
    if getattr(alone, "pooler_output", None) is not None:
        pairs.append((alone.pooler_output, beside.pooler_output[:1]))
    return any(a.shape != b.shape or bool((a - b).abs().max() > PADDING_TOLERANCE * a.abs().max()) for a, b in pairs)


def prefixed(network: Any, ids: Tensor, mask: Tensor, prefix: Prefix) -> dict[str, Tensor]:
    """Return the arguments with which a transformer reads [prefix; text].

    Args:
        network: a network of the transformers library.
        ids: (B, T) int64, the text's tokens.
        mask: (B, T) bool, True for real tokens.
        prefix: the tokens before the text.

    Raises:
        UserError: the architecture accepts no embeddings or positions, or its word embeddings have another width.
    """
    config, taken = network.config, inspect.signature(network.forward).parameters
    words = network.get_input_embeddings()(ids)  # (B, T, d)
    if not {"inputs_embeds", "position_ids"} <= set(taken) or words.shape[-1] != prefix.embeddings.shape[-1]:
        raise _no_prefix(config.model_type)
    positions = torch.arange(words.shape[1], device=words.device).expand(words.shape[0], -1)
    called = {
        "inputs_embeds": torch.cat([prefix.embeddings.to(words.dtype), words], dim=1),
        "attention_mask": torch.cat([prefix.mask, mask], dim=1).long(),
        "position_ids": torch.cat([prefix.positions, positions], dim=1) + first_position(config.to_dict()),
    }
    if "token_type_ids" in taken:
        last = max(0, getattr(config, "type_vocab_size", 1) - 1)
        called["token_type_ids"] = nn.functional.pad(torch.full_like(prefix.positions, last), (0, words.shape[1]))
    return called


def _no_prefix(model_type: str) -> UserError:
    return UserError(f"encoder.text.name: {model_type} reads no tokens but words; choose one like BERT, or another fusion")


def first_position(config: Mapping[str, Any]) -> int:
    """Return the position of a text's first token in the network's table of positions."""
    return (config.get("pad_token_id") or 0) + 1 if config.get("model_type") in OFFSET_POSITIONS else 0
