"""Plots as bags of words: an embedding per word of train's vocabulary, summed or averaged."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gmu_lightning.encoders import weights
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.tokens import TokenInputs, masked_mean, padded, plot
from gmu_lightning.files import digest
from gmu_lightning.movie import Features, UserError

MODES = ("mean", "sum")
MARKS = range(0x300, 0x20000)  # where Unicode has combining marks that belong to a script
VARIATION_SELECTORS = range(0xFE00, 0xFE10)
UNKNOWN = 0
INITIAL_STD = 0.02  # with N(0, 1) the many words that say nothing drown the few that do


class BagOfWords(Encoder):
    """The mean, or the sum, of a plot's word embeddings.

    Args:
        dim: size of an embedding.
        max_words: longer plots are cut.
        min_count: words seen less often in train are unknown; all unknown words are one word.
        vocabulary_size: at most so many words, the most frequent of train.
        mode: `mean` or `sum`.
        vectors: a word2vec or GloVe file in text format (`word x_1 ... x_dim` a line, a first line `count dim` allowed) that the
            embeddings start from; a word it lacks starts as zeros. Without it they start from scratch.
        common: `freeze`, `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`.

    Attributes:
        uncovered: after `build()` with `vectors`: how many words of the vocabulary the file lacks.

    Raises:
        UserError: an argument is out of range; in `check` and `build`, `vectors` is not there or not as described.
    """

    sequences = True

    def __init__(
        self,
        *,
        dim: int = 300,
        max_words: int = 512,
        min_count: int = 2,
        vocabulary_size: int = 20_000,
        mode: str = "mean",
        vectors: str | None = None,
        **common: Any,
    ):
        super().__init__("text", pretrained=vectors is not None, **common)
        counts = {"dim": dim, "max_words": max_words, "min_count": min_count, "vocabulary_size": vocabulary_size}
        for name, value in counts.items():
            if value < 1:
                raise UserError(f"encoder.text.{name}={value}: give at least 1")
        if mode not in MODES:
            raise UserError(f"encoder.text.mode={mode}: give one of {', '.join(MODES)}")
        self._dim, self.mode = dim, mode
        self.vectors = Path(vectors).expanduser() if vectors else None
        self.uncovered = 0
        self.preparation = WordPreparation(max_words, min_count, vocabulary_size)

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def fingerprint(self) -> str:
        return digest(["words", self.mode, self._dim, self.vectors and weights.sha256(self.vectors)])

    def check(self) -> None:
        """Whether the file of vectors is there and begins with vectors of `dim` numbers."""
        if self.vectors:
            next(_lines(self.vectors, self._dim), None)

    def blocks(self) -> list[nn.Module]:
        return [self.network]

    def forward(self, inputs: TokenInputs) -> Features:
        sequence = self.network(inputs.ids)  # (B, T, d)
        if self.mode == "mean":
            return Features(masked_mean(sequence, inputs.mask), sequence, inputs.mask)
        return Features((sequence * inputs.mask[..., None]).sum(dim=1), sequence, inputs.mask)

    def _load(self) -> nn.Module:
        assert isinstance(self.preparation, WordPreparation)
        words = self.preparation.known
        embedding = nn.Embedding(len(words) + 1, self._dim)
        with torch.no_grad():
            if self.vectors:
                values, self.uncovered = read_vectors(self.vectors, words, self._dim)
                embedding.weight.zero_()[1:] = values
            else:
                embedding.weight.normal_(std=INITIAL_STD)
        return embedding


@dataclass(frozen=True)
class WordPreparation:
    """A plot is stored as the numbers of its words: int32 (T,), T >= 1. The vocabulary is learned from train.

    Attributes:
        words: the vocabulary, most frequent first, ties by alphabet; number n + 1 is words[n]. None before `fit`.
    """

    max_words: int
    min_count: int
    vocabulary_size: int
    words: tuple[str, ...] | None = None
    learns = True

    @property
    def fingerprint(self) -> str:
        """Everything but the vocabulary, which follows from it and train."""
        return digest(["words", word_pattern().pattern, self.max_words, self.min_count, self.vocabulary_size])

    @property
    def known(self) -> tuple[str, ...]:
        """The vocabulary. Raises RuntimeError before `fit`."""
        if self.words is None:
            raise RuntimeError("the vocabulary was not learned yet: fit the preparation on train first")
        return self.words

    def fit(self, contents: Iterable[Any]) -> WordPreparation:
        """With the vocabulary of these plots."""
        counts = Counter(word for content in contents for word in split(content))
        frequent = sorted((word for word, n in counts.items() if n >= self.min_count), key=lambda word: (-counts[word], word))
        return replace(self, words=tuple(frequent[: self.vocabulary_size]))

    def state(self) -> dict[str, Any]:
        """{"words": [...]}"""
        return {"words": list(self.known)}

    def restored(self, state: Mapping[str, Any]) -> WordPreparation:
        """With that vocabulary."""
        return replace(self, words=tuple(state["words"]))

    def store(self, content: Any) -> np.ndarray:
        """One plot -> int32 (T,); a plot without a word is one unknown word."""
        ids = [self._numbers.get(word, UNKNOWN) for word in split(content)[: self.max_words]]
        return np.asarray(ids or [UNKNOWN], dtype=np.int32)

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> TokenInputs:
        """Numbers padded to the longest row."""
        return padded(rows, UNKNOWN)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: n for n, word in enumerate(self.known, start=1)}


def split(text: Any) -> list[str]:
    """Split a text into lower-case words; an apostrophe inside a word and the combining marks of its letters are part of it."""
    return word_pattern().findall(unicodedata.normalize("NFC", plot(text).lower()))


@cache
def word_pattern() -> re.Pattern[str]:
    """Return the pattern of a word. Python's `\\w` lacks combining marks, such as the vowel signs of Indic scripts.

    As in Unicode's word boundaries (UAX 29, rule WB4), marks and the joiners U+200C and U+200D do not end a word.
    """
    marks = "".join(chr(n) for n in MARKS if unicodedata.category(chr(n)) in ("Mn", "Mc") and n not in VARIATION_SELECTORS)
    part = rf"\w[\w{marks}]*(?:[\u200c\u200d]+[\w{marks}]+)*"
    return re.compile(rf"{part}(?:'{part})*")


def read_vectors(path: Path, words: Sequence[str], dim: int) -> tuple[Tensor, int]:
    """Rows of a vector file for these words, (len(words), dim) with zeros for those it lacks; and how many it lacks.

    Raises:
        UserError: the file is not there, or a line is not a word and `dim` numbers.
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
    return values, len(wanted)


def _lines(path: Path, dim: int) -> Iterator[tuple[int, str, list[str]]]:
    """(line number, word, its numbers as text); a first line `count dim` is checked and passed over."""
    where = "encoder.text.vectors"
    if not path.is_file():
        raise UserError(f"{where}={path}: there is no such file; give a word2vec or GloVe file in text format")
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            fields = line.rstrip().split(" ")
            if number == 1 and len(fields) == 2 and all(field.isdecimal() for field in fields) and dim > 1:
                if int(fields[1]) != dim:
                    raise UserError(
                        f"{where}={path} holds vectors of {fields[1]} numbers: set encoder.text.dim={fields[1]}, not {dim}"
                    )
                continue
            if len(fields) <= dim:  # GloVe has words with spaces in them, so more fields are no mistake
                raise UserError(
                    f"{path}, line {number}: {len(fields)} fields; expected a word and encoder.text.dim={dim} numbers"
                )
            yield number, " ".join(fields[:-dim]), fields[-dim:]
