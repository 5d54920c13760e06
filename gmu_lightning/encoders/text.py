"""Plots through a pretrained transformer: tokens in, one vector (and the sequence it was pooled from) out."""

from __future__ import annotations

import inspect
import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gmu_lightning.encoders import weights
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.prefix import Prefix, first_position, prefixed
from gmu_lightning.encoders.preparing import Unlearned
from gmu_lightning.files import digest
from gmu_lightning.movie import Features, UserError

POOLS = ("mean", "cls", "pooler")
OPTION = "encoder.text.name"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json"),
    *("merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")  # no vocabulary of their own


class TokenInputs(NamedTuple):
    """B texts, padded to the longest."""

    ids: Tensor  # (B, T) int64
    mask: Tensor  # (B, T) bool, True where a token is


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

    @property
    def dim(self) -> int:
        config = _config(weights.find(self.name, OPTION).fetched())
        return int(config.get("hidden_size") or config.get("dim") or config["d_model"])

    @property
    def fingerprint(self) -> str:
        found = weights.find(self.name, OPTION)
        return digest(["transformers", weights.sha256(found.file), weights.sha256(found.fetched() / "config.json"), self.pool])

    def check(self) -> None:
        """Whether weights and tokenizer are found, and can read `max_tokens`."""
        folder = weights.find(self.name, OPTION).path
        if folder is None:
            return
        if folder.is_file():
            raise UserError(f"{OPTION}={self.name}: this is a file; give the folder that holds it, config.json and the tokenizer")
        tokenizer_files(folder)
        limit = _most_tokens(_config(folder))
        if limit and self.max_tokens > limit:
            raise UserError(f"encoder.text.max_tokens={self.max_tokens}: {self.name} reads at most {limit}; give {limit} or less")

    def blocks(self) -> list[nn.Module]:
        embeddings = getattr(self.network, "embeddings", None) or self.network.get_input_embeddings()
        layers = max((m for m in self.network.modules() if isinstance(m, nn.ModuleList)), key=len)
        return [embeddings, *layers]

    def forward(self, inputs: TokenInputs, prefix: Prefix | None = None) -> Features:
        """Features of the text, which a prefix may have been read beside. Raises UserError where the network takes none."""
        if prefix is None:
            out = self.network(input_ids=inputs.ids, attention_mask=inputs.mask.long())
            sequence = out.last_hidden_state  # (B, T, d)
        else:
            out = self.network(**prefixed(self.network, inputs.ids, inputs.mask, prefix))
            sequence = out.last_hidden_state[:, prefix.mask.shape[1] :]
        if self.pool == "pooler":
            vector = out.pooler_output if prefix is None else self.network.pooler(sequence)
        elif self.pool == "cls":
            vector = sequence[:, 0]
        else:
            vector = masked_mean(sequence, inputs.mask)
        return Features(vector, sequence, inputs.mask)

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
        return _tokenizer(weights.find(self.name, OPTION).fetched(), self.max_tokens)("")["input_ids"]

    def _load(self) -> nn.Module:
        from transformers import MODEL_MAPPING, AutoConfig, AutoModel
        from transformers.utils import logging

        self.check()
        folder = weights.find(self.name, OPTION).fetched()
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
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
                    attn_implementation="sdpa",
                    local_files_only=True,
                    output_loading_info=True,
                    **({"add_pooling_layer": self.pool == "pooler"} if poolable else {}),
                ),
            )
        finally:
            logging.set_verbosity(verbosity)
        self._check_complete(network, report)
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


@dataclass(frozen=True)
class TokenPreparation(Unlearned):
    """A plot is stored as its token ids, special tokens included: int32 (T,)."""

    name: str
    max_tokens: int

    @property
    def fingerprint(self) -> str:
        """The tokenizer's files and the length."""
        files = tokenizer_files(self._folder)
        return digest(["tokens", self.max_tokens, {file.name: weights.sha256(file) for file in files}])

    def store(self, content: Any) -> np.ndarray:
        """One plot -> int32 (T,), T <= max_tokens."""
        tokenizer = _tokenizer(self._folder, self.max_tokens)
        encoded = tokenizer(plot(content), truncation=True, max_length=self.max_tokens)
        return np.asarray(encoded["input_ids"], dtype=np.int32)

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> TokenInputs:
        """Ids padded to the longest row."""
        return padded(rows, _padding(self._folder, self.max_tokens))

    @property
    def _folder(self) -> Path:
        return weights.find(self.name, OPTION).fetched()


def plot(content: Any) -> str:
    """The text itself, as valid Unicode; a data set's vectors are not text. Raises UserError."""
    if not isinstance(content, str):
        raise UserError(
            f"this data set's text is {type(content).__name__} and no words; "
            "choose encoder/text=vector, or a data.layout with raw plots"
        )
    return content.encode("utf-8", "replace").decode("utf-8")


def padded(rows: Sequence[np.ndarray | None], padding: int) -> TokenInputs:
    """Rows of ids -> `TokenInputs`; an absent one becomes a single padding id, so that no row is all masked."""
    ids = torch.full((len(rows), max((len(row) for row in rows if row is not None), default=1)), padding, dtype=torch.int64)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for n, row in enumerate(rows):
        length = 1 if row is None else len(row)
        mask[n, :length] = True
        if row is not None:
            ids[n, :length] = torch.from_numpy(np.array(row, dtype=np.int64))
    return TokenInputs(ids, mask)


def masked_mean(sequence: Tensor, mask: Tensor) -> Tensor:
    """(B, T, d), (B, T) -> (B, d): the mean over what the mask keeps."""
    kept = mask[..., None].to(sequence.dtype)
    return (sequence * kept).sum(dim=1) / kept.sum(dim=1)


def tokenizer_files(folder: Path) -> list[Path]:
    """What defines the tokenizer of a folder. Raises UserError where there is none."""
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if all(file.name in SETTINGS_FILES for file in files):
        raise UserError(f"{OPTION}={folder}: this folder holds no tokenizer; save it beside the weights (save_pretrained)")
    return files


_LOADING = threading.Lock()


def _tokenizer(folder: Path, max_tokens: int) -> Any:
    with _LOADING:  # preparing runs in threads; truncation is set by the first call and must not be by two at once
        return _loaded_tokenizer(folder, max_tokens)


@lru_cache(maxsize=8)
def _loaded_tokenizer(folder: Path, max_tokens: int) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer("", truncation=True, max_length=max_tokens)
    return tokenizer


@lru_cache(maxsize=8)
def _padding(folder: Path, max_tokens: int) -> int:
    padding = _config(folder).get("pad_token_id")
    return int(_tokenizer(folder, max_tokens).pad_token_id or 0) if padding is None else int(padding)


@lru_cache(maxsize=8)
def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _most_tokens(config: Mapping[str, Any]) -> int | None:
    positions = config.get("max_position_embeddings")
    return positions - first_position(config) if positions else positions
