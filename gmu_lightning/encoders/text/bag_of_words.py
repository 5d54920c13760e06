"""The bag-of-words encoder of plots: one embedding per word of train's vocabulary, summed or averaged."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gmu_lightning.config.ranges import Count, Size
from gmu_lightning.encoders import weights
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.text.tokens import TokenInputs, padded, plot
from gmu_lightning.files import digest
from gmu_lightning.movie import Features, UserError
from gmu_lightning.nn.transformer import masked_mean

OPTION = "encoder.text.vectors"
MARKS = range(0x300, 0x20000)  # code points that include every script's combining marks
VARIATION_SELECTORS = range(0xFE00, 0xFE10)
UNKNOWN = 0
INITIAL_STD = 0.02  # with N(0, 1) the many uninformative words drown the few informative ones


class BagOfWords(Encoder):
    """Encode a plot as the mean or the sum of its word embeddings.

    Args:
        dim: size of an embedding.
        max_words: plots are cut to their first `max_words` words.
        min_count: words that occur less often in train are unknown. All unknown words share one embedding.
        vocabulary_size: keep at most so many words, the most frequent of train.
        mode: `mean` or `sum`.
        vectors: a word2vec or GloVe file in text format with the initial embeddings: `word x_1 ... x_dim` on each line, and
            optionally `count dim` on the first. A word missing from the file starts as zeros. None starts from scratch.
        common: `freeze`, `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`.

    Raises:
        UserError: in `check` and `build`, the file `vectors` is missing or malformed.
    """

    sequences = True

    def __init__(
        self,
        *,
        dim: Size = 300,
        max_words: Count = 512,
        min_count: Count = 2,
        vocabulary_size: Count = 20_000,
        mode: Literal["mean", "sum"] = "mean",
        vectors: str | None = None,
        **common: Any,
    ):
        super().__init__("text", pretrained=vectors is not None, **common)
        self._dim, self.mode = dim, mode
        self.vectors = Path(vectors).expanduser() if vectors else None
        self.preparation = WordPreparation(max_words, min_count, vocabulary_size)

    @property
    def fingerprint(self) -> str:
        return digest(["words", self.mode, self._dim, self.vectors and weights.sha256(self.vectors)])

    def check(self) -> None:
        """Check that the file of vectors exists and begins with vectors of `dim` numbers. Raises UserError."""
        if self.vectors:
            next(_lines(self.vectors, self.dim), None)

    def forward(self, inputs: TokenInputs) -> Features:
        sequence = self.network(inputs.ids)  # (B, T, d)
        if self.mode == "mean":
            return Features(masked_mean(sequence, inputs.mask), sequence, inputs.mask)
        return Features((sequence * inputs.mask[..., None]).sum(dim=1), sequence, inputs.mask)

    def _load(self) -> nn.Module:
        assert isinstance(self.preparation, WordPreparation)
        words = self.preparation.known
        embedding = nn.Embedding(len(words) + 1, self.dim)
        with torch.no_grad():
            if self.vectors:
                embedding.weight.zero_()[1:] = read_vectors(self.vectors, words, self.dim)
            else:
                embedding.weight.normal_(std=INITIAL_STD)
        return embedding


@dataclass(frozen=True)
class WordPreparation:
    """Store a plot as its words' numbers, int32 (T,) with T >= 1. The vocabulary is learned from train.

    Attributes:
        words: the vocabulary, most frequent first, ties by alphabet; the number n + 1 stands for words[n]. None before `fit`.
    """

    max_words: int
    min_count: int
    vocabulary_size: int
    words: tuple[str, ...] | None = None
    learns = True

    @property
    def fingerprint(self) -> str:
        """Return an identifier of all settings. Together with train they determine the vocabulary."""
        return digest(["words", word_pattern().pattern, self.max_words, self.min_count, self.vocabulary_size])

    @property
    def known(self) -> tuple[str, ...]:
        """Return the vocabulary. Raises RuntimeError before `fit`."""
        if self.words is None:
            raise RuntimeError("the vocabulary was not learned yet: fit the preparation on train first")
        return self.words

    def fit(self, contents: Iterable[Any]) -> WordPreparation:
        """Return a preparation with the vocabulary of these plots."""
        counts = Counter(word for content in contents for word in split(content))
        frequent = sorted((word for word, n in counts.items() if n >= self.min_count), key=lambda word: (-counts[word], word))
        return replace(self, words=tuple(frequent[: self.vocabulary_size]))

    def state(self) -> dict[str, Any]:
        """Return {"words": [...]}, the vocabulary."""
        return {"words": list(self.known)}

    def restored(self, state: Mapping[str, Any]) -> WordPreparation:
        """Return a preparation with the vocabulary in `state`."""
        return replace(self, words=tuple(state["words"]))

    def store(self, content: Any) -> np.ndarray:
        """Return the numbers of a plot's words, int32 (T,). A plot without words counts as one unknown word."""
        ids = [self._numbers.get(word, UNKNOWN) for word in split(content)[: self.max_words]]
        return np.asarray(ids or [UNKNOWN], dtype=np.int32)

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> TokenInputs:
        """Return the numbers of B plots, padded to the longest."""
        return padded(rows, UNKNOWN)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: n for n, word in enumerate(self.known, start=1)}


def split(text: Any) -> list[str]:
    """Split a text into lower-case words. A word includes its inner apostrophes and its letters' combining marks."""
    return word_pattern().findall(unicodedata.normalize("NFC", plot(text).lower()))


@cache
def word_pattern() -> re.Pattern[str]:
    """Return the pattern of a word.

    Python's `\\w` lacks combining marks, such as the vowel signs of Indic scripts. As in Unicode's word boundaries (UAX 29,
    rule WB4), a word continues through marks and through the joiners U+200C and U+200D.
    """
    marks = "".join(chr(n) for n in MARKS if unicodedata.category(chr(n)) in ("Mn", "Mc") and n not in VARIATION_SELECTORS)
    part = rf"\w[\w{marks}]*(?:[\u200c\u200d]+[\w{marks}]+)*"
    return re.compile(rf"{part}(?:'{part})*")


def read_vectors(path: Path, words: Sequence[str], dim: int) -> Tensor:
    """Return the vectors of some words, float32 (len(words), dim), with zeros for words that the file lacks.

    Raises:
        UserError: the file is missing, or a line is not a word and `dim` finite numbers.
    """
    values = torch.zeros(len(words), dim)
    wanted = {word: n for n, word in enumerate(words)}
    for number, word, fields in _lines(path, dim):
        row = wanted.pop(unicodedata.normalize("NFC", word), None)
        if row is None:
            continue
        try:
            values[row] = torch.tensor([float(field) for field in fields])
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}; expected a word and {dim} numbers") from error
        if not torch.isfinite(values[row]).all():
            raise UserError(f"{path}, line {number}: the vector of '{word}' is not finite; expected a word and {dim} numbers")
    return values


def _lines(path: Path, dim: int) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (line number, word, its numbers as text) for each line but the header."""
    if not path.is_file():
        raise UserError(f"{OPTION}={path}: there is no such file; give a word2vec or GloVe file in text format")
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            fields = line.rstrip().split(" ")
            if number == 1 and _is_header(fields, path, dim):
                continue
            if len(fields) <= dim:  # more fields are correct, because some words of GloVe contain spaces
                raise UserError(
                    f"{path}, line {number}: {len(fields)} fields; expected a word and encoder.text.dim={dim} numbers"
                )
            yield number, " ".join(fields[:-dim]), fields[-dim:]


def _is_header(fields: Sequence[str], path: Path, dim: int) -> bool:
    """Return whether a first line is `count dim`. Raises UserError if it states another dim."""
    if dim == 1 or len(fields) != 2 or not all(field.isdecimal() for field in fields):
        return False
    if int(fields[1]) != dim:
        raise UserError(f"{OPTION}={path} holds vectors of {fields[1]} numbers: set encoder.text.dim={fields[1]}, not {dim}")
    return True
