"""The effect of each word of a text: integrated gradients, the exact weights of a linear model, or the exact occlusion."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gmu_lightning.data.readers.strings import shows
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.text.bag_of_words import BagOfWords, word_pattern
from gmu_lightning.encoders.text.tokens import TokenInputs, plot, tokenizer_of
from gmu_lightning.explanation.pieces import Piece, prepared
from gmu_lightning.explanation.reasons import Word
from gmu_lightning.fusion.baselines import Concat, SingleModality, Sum
from gmu_lightning.fusion.heads import LinearHead
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import Column, MovieBatch, UserError
from gmu_lightning.nn.normalise import Batch, Standardise, Unchanged
from gmu_lightning.prediction.trained import Source, TrainedRun

STEPS = 32  # of the path of integrated gradients
AT_ONCE = 16  # points of the path in a batch
LOST = "they have no word embeddings that can be reached"
WEIGHTS = "no words (embeddings of zeros); each number is exact, since the model is linear in the embeddings of words"
OCCLUSION = "the text without that word, recomputed by the whole model; each number is exact"


class Reading(NamedTuple):
    """A text as its tokens.

    Attributes:
        ids: (1, T) int64.
        words: W words.
        owners: (T,) int, the word of each token, or -1 for a special token, padding, and the prefix that the encoder adds.
        mask: (1, T) bool, True for real tokens.
    """

    ids: Tensor
    words: Sequence[Word]
    owners: np.ndarray
    mask: Tensor


class Movie(NamedTuple):
    """One movie for one run.

    Attributes:
        run: the run.
        model: of the run.
        source: way to read the text.
        columns: {modality: column with the movie}; that of the text is not read.
        row: of the movie in the columns.
        present: (M,) bool, in the order of the run.
    """

    run: TrainedRun
    model: MovieGenreClassifier
    source: Source
    columns: Mapping[str, Column]
    row: int
    present: np.ndarray

    @property
    def encoder(self) -> Any:
        """The encoder of the text, which runs apart from the model if it is frozen."""
        return self.source.network or self.model.encoders["text"]

    def logits(self, text: TokenInputs) -> Tensor:
        """Return the logits (B, C) of the movie with B texts in place of its own, with gradients.

        Mixed precision is left out, since rounded gradients would not sum to the change of the logit.
        """
        count = len(text.ids)
        inputs = {m: column.batch([self.row] * count) for m, column in self.columns.items() if m != "text"}
        there = torch.from_numpy(np.repeat(self.present[None], count, axis=0))
        batch = MovieBatch(("",) * count, {m: inputs.get(m, text) for m in self.run.modalities}, there, None)
        batch = self.run.precision.convert_input(self.model.transfer_batch_to_device(batch, self.run.device, 0))
        mixed = str(self.run.precision.precision).endswith("-mixed")
        with nullcontext() if mixed else self.run.precision.forward_context():
            if self.source.network is not None:
                features = self.source.network(batch.inputs["text"])
                batch.inputs["text"] = features if self.source.tokens else features._replace(sequence=None, mask=None)
            return self.model(batch).logits


def check_words(runs: Sequence[TrainedRun]) -> None:
    """Check that the effects of words can be computed for all runs.

    Raises:
        UserError: a run reads no text, its embeddings cannot be reached, runs have other tokens, or captum is missing.
    """
    first = runs[0]
    if "text" not in first.modalities:
        raise UserError(f"why=words reads the text, and the run reads {' and '.join(first.modalities)}: choose why=pieces")
    for run in runs:
        encoder = _encoder(run)
        if not isinstance(encoder, BagOfWords) and (_embedding(encoder) is None or not hasattr(encoder, "max_tokens")):
            raise UserError(f"why=words: {type(encoder).__name__} of {run.run.folder} has none, as {LOST}: choose why=pieces")
        if run.sources["text"].stored != first.sources["text"].stored:
            raise UserError(
                f"why=words: {first.run.folder} and {run.run.folder} split a text into other words, so these have no mean: "
                "give runs with the same text encoder and data"
            )
    if not isinstance(_encoder(first), BagOfWords):
        try:
            import captum.attr  # noqa: F401
        except ImportError:
            raise UserError("why=words needs captum for this text encoder: pip install 'gmu_lightning[explain]'") from None


def bag_of_words(run: TrainedRun) -> bool:
    """Return whether a run reads a text as a bag of words."""
    return isinstance(_encoder(run), BagOfWords)


def is_linear(run: TrainedRun) -> bool:
    """Return whether a run's logits are linear in the word embeddings of its text."""
    model = run.model
    plain = isinstance(model.normalisers["text"], Unchanged | Standardise | Batch)
    fusion: Any = model.fusion
    joined = isinstance(fusion, Sum) or (isinstance(fusion, SingleModality | Concat) and not fusion.hidden)
    return bag_of_words(run) and plain and joined and isinstance(model.head, LinearHead)


def read(text: str, source: Source, encoder: Any) -> Reading:
    """Return the words of a text that an encoder reads, with their tokens."""
    if isinstance(encoder, BagOfWords):
        ids = torch.from_numpy(source.preparation.store(text).astype(np.int64))[None]
        words = words_of(text)[: ids.shape[1]]
        owners = np.arange(ids.shape[1]) if words else np.full(ids.shape[1], -1)
        return Reading(ids, words, owners, torch.ones_like(ids, dtype=torch.bool))
    preparation: Any = source.preparation
    tokenizer, written = tokenizer_of(encoder.folder, encoder.max_tokens), preparation.written(text)
    ahead = len(preparation.prefix)
    places = getattr(tokenizer, "is_fast", False) and len(written) == ahead + len(text)  # a lower case may be longer
    options = {"return_offsets_mapping": True} if places else {}
    found = tokenizer(written, truncation=True, max_length=encoder.max_tokens, return_special_tokens_mask=True, **options)
    own_text = [not special for special in found["special_tokens_mask"]]
    if places:
        own_text = [own and end > ahead for own, (_, end) in zip(own_text, found["offset_mapping"], strict=True)]
    ids = found["input_ids"]
    numbers = [None if not own else (found.word_ids()[t] if places else t) for t, own in enumerate(own_text)]
    order = {number: n for n, number in enumerate(dict.fromkeys(number for number in numbers if number is not None))}
    owners = np.array([-1 if number is None else order[number] for number in numbers])
    words = []
    for n in range(len(order)):
        own = np.flatnonzero(owners == n)
        if places:
            start = max(0, found["offset_mapping"][own[0]][0] - ahead)
            end = found["offset_mapping"][own[-1]][1] - ahead
            start += len(text[start:end]) - len(text[start:end].lstrip())
            words.append(Word(text[start:end], start, end))
        else:
            words.append(Word(tokenizer.convert_ids_to_tokens(ids[own[0]]), None, None))
    inputs = preparation.batch([np.array(ids)], training=False)
    placed = np.full(inputs.ids.shape[1], -1)
    placed[inputs.mask[0].numpy()] = owners
    return Reading(inputs.ids, words, placed, inputs.mask)


def words_of(text: str) -> list[Word]:
    """Return the words of a text as the bag of words splits it, with their places in the text as it is.

    There are no places if lower-case letters or composed characters have no clear origin.
    """
    whole = unicodedata.normalize("NFC", plot(text).lower())
    starts = [n for n, letter in enumerate(text) if n == 0 or not unicodedata.combining(letter)]
    origin: list[tuple[int, int]] = []
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        origin += [(start, end)] * len(unicodedata.normalize("NFC", plot(text[start:end]).lower()))
    matches: list[re.Match[str]] = list(word_pattern().finditer(whole))
    if len(origin) != len(whole):
        return [Word(found[0], None, None) for found in matches]
    places = [(origin[found.start()][0], origin[found.end() - 1][1]) for found in matches]
    return [Word(text[start:end], start, end) for start, end in places]


def words_without(text: str, reading: Reading, sources: Sequence[Source], stored: Mapping[str, np.ndarray]) -> list[Piece]:
    """Return the text without each of its words, prepared.

    Args:
        text: the raw text.
        reading: its words.
        sources: ways in which runs read the text.
        stored: {key of a preparation: array of the whole text}.
    """
    found = []
    for n, word in enumerate(reading.words):
        if word.start is None or word.end is None:
            found.append(Piece({}, {source.stored: np.delete(stored[source.stored], n) for source in sources}))
        else:
            rest = text[: word.start] + text[word.end :]
            found.append(Piece({}, prepared(rest if shows(rest) else None, sources)))
    return found


def attributed(movie: Movie, reading: Reading, genre: int) -> tuple[np.ndarray, float, str]:
    """Return the effects of the words on one genre, (W,), their convergence delta, and the baseline in words.

    A linear model takes the gradient times the embedding. Every other model takes integrated gradients (Sundararajan et al.
    2017, arXiv 1703.01365) by captum, from a text of the same length whose words are replaced by one token.
    """
    encoder, device = movie.encoder, movie.run.device
    embedding = _embedding(encoder)
    assert embedding is not None
    with torch.no_grad():
        own = embedding(reading.ids.to(device)).float()  # (1, T, d)
    if isinstance(encoder, BagOfWords):
        about = WEIGHTS
        found, delta = _weighted(_forward(movie, embedding, reading), own, genre)
    else:
        token, name = _blank(encoder)
        with torch.no_grad():
            vector = embedding(torch.tensor([[token]], device=device)).float()
        words = torch.from_numpy(reading.owners >= 0).to(device)
        blank = torch.where(words[None, :, None], vector, own)
        about = f"the text with {name} in place of every word; integrated gradients of {STEPS} steps on the word embeddings"
        found, delta = _integrated(_forward(movie, embedding, reading), own, blank, genre)
    tokens = found.sum(dim=-1).cpu().double().numpy()  # (T,)
    effects = np.zeros(len(reading.words))
    np.add.at(effects, reading.owners[reading.owners >= 0], tokens[reading.owners >= 0])
    return effects, delta, about


def _weighted(forward: Callable[[Tensor], Tensor], own: Tensor, genre: int) -> tuple[Tensor, float]:
    """Return gradient times embedding (T, d), and its sum minus the change of the logit from embeddings of zeros."""
    point = own.clone().requires_grad_(True)
    logit = forward(point)[0, genre]
    found = torch.autograd.grad(logit, point)[0] * own
    with torch.no_grad():
        change = logit - forward(torch.zeros_like(own))[0, genre]
    return found[0], float(found.double().sum() - change.double())


def _integrated(forward: Callable[[Tensor], Tensor], own: Tensor, blank: Tensor, genre: int) -> tuple[Tensor, float]:
    """Return the attributions (T, d) and the convergence delta."""
    from captum.attr import IntegratedGradients

    options = {"n_steps": STEPS, "internal_batch_size": AT_ONCE, "return_convergence_delta": True}
    found, delta = IntegratedGradients(forward).attribute(own, blank, target=genre, **options)
    return found[0].detach(), float(delta)


def _forward(movie: Movie, embedding: nn.Module, reading: Reading) -> Callable[[Tensor], Tensor]:
    """Return a function of word embeddings (B, T, d) that returns logits (B, C)."""

    def forward(points: Tensor) -> Tensor:
        def replaced(module: nn.Module, given: Any, out: Tensor) -> Tensor:
            return points.to(out.dtype) if out.shape == points.shape else out

        repeated, mask = (tensor.expand(len(points), -1) for tensor in (reading.ids, reading.mask))
        handle = embedding.register_forward_hook(replaced)
        try:
            return movie.logits(TokenInputs(repeated, mask))
        finally:
            handle.remove()

    return forward


def _encoder(run: TrainedRun) -> Any:
    return run.sources["text"].network or run.model.encoders["text"]


def _embedding(encoder: Encoder) -> nn.Module | None:
    """Return the module that turns token ids into embeddings, or None if it cannot be reached."""
    if isinstance(encoder, BagOfWords):
        return encoder.network
    found = getattr(getattr(encoder, "tower", encoder.network), "get_input_embeddings", None)
    return found() if callable(found) else None


def _blank(encoder: Any) -> tuple[int, str]:
    """Return the token that replaces every word of a baseline, and its name."""
    tokenizer = tokenizer_of(encoder.folder, encoder.max_tokens)
    for name in ("mask_token", "pad_token", "unk_token", "eos_token"):
        if getattr(tokenizer, name, None) is not None:
            return int(getattr(tokenizer, f"{name}_id")), str(getattr(tokenizer, name))
    raise UserError(f"why=words: the tokeniser of {encoder.name} has no token to replace words with: choose why=pieces")
