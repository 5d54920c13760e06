"""Plots as tokens: stored as their ids, batched to the longest."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmu_lightning.encoders import weights
from gmu_lightning.encoders.preparing import Unlearned
from gmu_lightning.files import digest
from gmu_lightning.movie import UserError

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
    lengths: tuple[int, ...] | None = None  # tokens per text, where all stand at the left; so that no GPU is asked for them


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
        tokenizer = tokenizer_of(self._folder, self.max_tokens)
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
    lengths = tuple(1 if row is None else len(row) for row in rows)
    ids = torch.full((len(rows), max(lengths, default=1)), padding, dtype=torch.int64)
    for n, row in enumerate(rows):
        if row is not None:
            ids[n, : lengths[n]] = torch.from_numpy(np.array(row, dtype=np.int64))
    mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
    return TokenInputs(ids, mask, lengths)


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


def tokenizer_of(folder: Path, max_tokens: int) -> Any:
    with _LOADING:  # preparing runs in threads; truncation is set by the first call and must not be by two at once
        return _loaded_tokenizer(folder, max_tokens)


@lru_cache(maxsize=8)
def _loaded_tokenizer(folder: Path, max_tokens: int) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork
    from transformers import AutoTokenizer

    tokenizer = weights.loading(
        f"the tokenizer in {folder}",
        lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
    )
    tokenizer("", truncation=True, max_length=max_tokens)
    return tokenizer


@lru_cache(maxsize=8)
def _padding(folder: Path, max_tokens: int) -> int:
    padding = config_of(folder).get("pad_token_id")
    return int(tokenizer_of(folder, max_tokens).pad_token_id or 0) if padding is None else int(padding)


@lru_cache(maxsize=8)
def config_of(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    found = weights.loading(str(path), lambda: json.loads(path.read_text(encoding="utf-8")))
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object: give a folder as save_pretrained writes it")
    return found
