"""The preparation that stores plots as token ids, and loads tokenizers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmu_lightning.encoders import weights
from gmu_lightning.encoders.base import Unlearned
from gmu_lightning.encoders.pretrained import LOCAL, config_of
from gmu_lightning.files import digest
from gmu_lightning.movie import UserError

OPTION = "encoder.text.name"
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
VOCABULARY_FILES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)


class TokenInputs(NamedTuple):
    """B texts, padded to the longest."""

    ids: Tensor  # (B, T) int64
    mask: Tensor  # (B, T) bool, True for real tokens
    lengths: tuple[int, ...] | None = None  # tokens per text if all stand at the left; known without waiting for a GPU


@dataclass(frozen=True)
class TokenPreparation(Unlearned):
    """Store a plot as its token ids, including special tokens: int32 (T,).

    Attributes:
        name: a local folder, or a repository of the hub.
        max_tokens: longer plots are cut.
        prefix: text that is put before each plot.
        lower: whether plots are written in lower case.
        fixed_length: whether every batch is padded to `max_tokens`.
    """

    name: str
    max_tokens: int
    prefix: str = ""
    lower: bool = False
    fixed_length: bool = False

    @property
    def fingerprint(self) -> str:
        """Return the hash of the tokenizer's files and of everything else that determines the ids."""
        files = tokenizer_files(self._folder)
        written = [self.prefix, self.lower] if self.prefix or self.lower else []
        return digest(["tokens", self.max_tokens, {file.name: weights.sha256(file) for file in files}, *written])

    def written(self, content: Any) -> str:
        """Return the text that the tokenizer reads. Raises UserError if the content is not text."""
        text = plot(content)
        return self.prefix + (text.lower() if self.lower else text)

    def store(self, content: Any) -> np.ndarray:
        """Return the token ids of one plot, int32 (T,) with T <= max_tokens. Raises UserError if the content is not text."""
        tokenizer = tokenizer_of(self._folder, self.max_tokens)
        encoded = tokenizer(self.written(content), truncation=True, max_length=self.max_tokens)
        return np.asarray(encoded["input_ids"], dtype=np.int32)

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> TokenInputs:
        """Return the ids of B plots, padded to the longest, or to `max_tokens` on the tokenizer's own side."""
        padding = _padding(self._folder, self.max_tokens)
        if not self.fixed_length:
            return padded(rows, padding)
        left = tokenizer_of(self._folder, self.max_tokens).padding_side == "left"
        return padded(rows, padding, self.max_tokens, left)

    @property
    def _folder(self) -> Path:
        return weights.find(self.name, OPTION).fetched()


def plot(content: Any) -> str:
    """Return the text as valid Unicode, with `?` for lone surrogates. Raises UserError if the content is not text."""
    if not isinstance(content, str):
        raise UserError(
            f"this data set's text is {type(content).__name__} and no words; "
            "choose encoder/text=vector, or a data.layout with raw plots"
        )
    return content.encode("utf-8", "replace").decode("utf-8")


def padded(rows: Sequence[np.ndarray | None], padding: int, least: int = 1, left: bool = False) -> TokenInputs:
    """Return rows of ids as `TokenInputs`.

    Args:
        rows: int (T,) each. None becomes a single padding id, so every row has at least one real token.
        padding: the id that fills shorter rows.
        least: least width of the batch.
        left: whether padding stands before the ids; `lengths` is then None.
    """
    lengths = tuple(1 if row is None else len(row) for row in rows)
    ids = torch.full((len(rows), max((*lengths, least))), padding, dtype=torch.int64)
    for n, row in enumerate(rows):
        if row is not None:
            start = ids.shape[1] - lengths[n] if left else 0
            ids[n, start : start + lengths[n]] = torch.from_numpy(np.array(row, dtype=np.int64))
    mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
    return TokenInputs(ids, mask.flip(1), None) if left else TokenInputs(ids, mask, lengths)


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files that define a folder's tokenizer. Raises UserError if there is no tokenizer."""
    files = [folder / name for name in (*VOCABULARY_FILES, *SETTINGS_FILES) if (folder / name).is_file()]
    if not any(file.name in VOCABULARY_FILES for file in files):
        raise UserError(f"{OPTION}={folder}: this folder holds no tokenizer; save it beside the weights (save_pretrained)")
    return files


@weights.loaded_once
def tokenizer_of(folder: Path, max_tokens: int) -> Any:
    """Return the tokenizer in a folder, truncating to `max_tokens`. It is shared by all callers. Raises UserError.

    Set `TOKENIZERS_PARALLELISM` to false, unless the environment sets it.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the library's threads do not survive a fork
    from transformers import AutoTokenizer

    tokenizer = weights.loading(f"the tokenizer in {folder}", lambda: AutoTokenizer.from_pretrained(folder, **LOCAL))
    tokenizer("", truncation=True, max_length=max_tokens)  # threads share the tokenizer, so none of them may set the truncation
    return tokenizer


@lru_cache(maxsize=8)
def _padding(folder: Path, max_tokens: int) -> int:
    padding = config_of(folder).get("pad_token_id")
    return int(tokenizer_of(folder, max_tokens).pad_token_id or 0) if padding is None else int(padding)
