"""How much arithmetic a model's training needs, counted; and how much of it a machine can do, measured."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gmu_lightning.lightning import pl
from gmu_lightning.movie import Features, MovieBatch

SIZES = (512, 1024, 2048, 4096)  # of the square products that are tried
Terms = tuple[float, float, float]  # of a quadratic: constant, linear, square
NONE: Terms = (0.0, 0.0, 0.0)


class Work(NamedTuple):
    """What some batches held, summed. Arrays are int64 (M,), one number per modality."""

    movies: int
    present: np.ndarray  # movies that have it
    tokens: np.ndarray  # real ones of those movies; 0 where the modality is no sequence
    squares: np.ndarray  # each movie's number of tokens, squared
    positions: np.ndarray  # that those movies' tokens were padded to


def work_of(batch: MovieBatch, modalities: Sequence[str]) -> Tensor:
    """A batch's `present`, `tokens`, `squares` and `positions`: int64 (4, M) on its device, which is not waited for."""
    columns = []
    for i, modality in enumerate(modalities):
        there = batch.present[:, i]  # (B,)
        count, mask = there.sum(), mask_of(batch.inputs[modality])
        if mask is None:
            columns.append(torch.stack([count, *[torch.zeros_like(count)] * 3]))
        else:
            lengths = (mask & there[:, None]).sum(dim=1)  # (B,)
            columns.append(torch.stack([count, lengths.sum(), (lengths * lengths).sum(), count * mask.shape[1]]))
    return torch.stack(columns, dim=1)


def mask_of(inputs: Any) -> Tensor | None:
    """(B, T) bool, which positions of a modality's inputs are real; None where they are no sequences."""
    mask = getattr(inputs, "mask", None)
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


class ModelFlops:
    """Floating-point operations that a model's training needs for a movie, forward and backward, counted as they are done.

    Counted is what Chowdhery et al. 2022 (PaLM, arXiv 2204.02311, appendix B) count: matrix products, convolutions and attention,
    two operations for a multiplication and its addition; nothing that is elementwise or computed again, no optimizer; and real
    tokens alone: padding is waste and no work. What is not trained has no backward pass; features from the store cost nothing.
    A modality that modality dropout took away counts as if it had been there.

    Movies of train are replayed one by one, so that nothing is padded, through a copy of the model in training mode: with all
    modalities, and without one. The difference is that one's encoder, what is left is fusion and head. Each is a quadratic in
    the movie's tokens (constant; tokens times weights; tokens times tokens, in attention), that three movies determine: the
    shortest, a middle one and the longest. Fusion and head follow one modality's tokens, text's where they differ in length;
    where a fusion multiplies the tokens of two modalities, that is an approximation.

    Args:
        model: stays as it is, and so does every generator.
        trainer: of a fit that has just ended: gives device, precision and the data module's movies.
    """

    def __init__(self, model: Any, trainer: pl.Trainer):
        self._trainer, self._device = trainer, trainer.strategy.root_device
        self._data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._dataset = self._data.loader("train", training=True).dataset
        self._modalities = list(model.encoders)
        self._model = _replica(model).to(self._device)  # Lightning has moved it back to the CPU by now
        normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in self._model.modules())
        self._copies = 2 if normed else 1  # of the movie in its batch: one alone has no batch statistics
        chosen = [self._chosen(i) for i in range(len(self._modalities))]
        self._leading = max(range(len(chosen)), key=lambda i: (len(chosen[i]), self._modalities[i] == "text", -i))
        cuda = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), torch.enable_grad():
            self.encoders = [self._encoder(i, rows) for i, rows in enumerate(chosen)]
            self.rest = self._rest(chosen[self._leading])
        del self._model

    def __call__(self, work: Work) -> float:
        """Operations for so many movies and tokens."""
        total = 0.0
        for i, terms in enumerate(self.encoders):
            total += np.dot(terms, (work.present[i], work.tokens[i], work.squares[i]))
        return float(total + np.dot(self.rest, (work.movies, work.tokens[self._leading], work.squares[self._leading])))

    def _chosen(self, i: int) -> list[int]:
        """Movies of train that have the modality: three of different length, or one where all are of one length."""
        rows = self._data.rows("train")
        there = rows[self._data.present[rows, i].numpy()]
        lengths = self._data.columns[self._modalities[i]].lengths
        if lengths is None or not len(there):
            return there[:1].tolist()
        ranked = there[np.argsort(lengths[there], kind="stable")]
        picks = ranked[[0, len(ranked) // 2, -1]]
        return picks[np.unique(lengths[picks], return_index=True)[1]].tolist()

    def _encoder(self, i: int, rows: Sequence[int]) -> Terms:
        """What the modality's encoder needs; nothing where its features are in the batch."""
        lengths, counts = [], []
        for row in rows:
            batch = self._batch(row)
            inputs = batch.inputs[self._modalities[i]]
            if isinstance(inputs, Features):
                return NONE
            without = batch.present.clone()
            without[:, i] = False
            lengths.append(_length(inputs))
            counts.append(self._flops(batch) - self._flops(batch._replace(present=without)))
        return quadratic(lengths, counts) if rows else NONE

    def _rest(self, rows: Sequence[int]) -> Terms:
        """What fusion and head need: what the encoders leave of the whole."""
        lengths, counts = [], []
        for row in rows:
            batch = self._batch(row)
            each = [_length(batch.inputs[m]) for m in self._modalities]
            encoders = sum(a + b * t + c * t * t for (a, b, c), t in zip(self.encoders, each, strict=True))
            lengths.append(each[self._leading])
            counts.append(self._flops(batch) - encoders)
        return quadratic(lengths, counts) if rows else NONE

    def _batch(self, row: int) -> MovieBatch:
        """One movie, with placeholders for what it lacks."""
        batch = self._trainer.precision_plugin.convert_input(self._dataset[[row] * self._copies])
        batch = self._trainer.strategy.batch_to_device(batch)
        return batch._replace(present=torch.ones_like(batch.present))

    def _flops(self, batch: MovieBatch) -> float:
        """Per movie. Attention is done as plain products, each of which torch counts."""
        counter = FlopCounterMode(display=False)
        with counter, sdpa_kernel(SDPBackend.MATH), self._trainer.precision_plugin.train_step_context():
            loss = self._model.loss(self._model(batch).logits, batch.labels)
            loss.backward()
        self._model.zero_grad()
        return counter.get_total_flops() / self._copies


def _length(inputs: Any) -> int:
    """Real tokens of a single movie."""
    mask = mask_of(inputs)
    return 0 if mask is None else int(mask[0].sum())


def _replica(model: Any) -> Any:
    """A copy in training mode, of the same function, that takes no modality away and runs every text through plain layers."""
    replica = copy.deepcopy(model).train()
    replica.modality_dropout = ()
    for encoder in replica.encoders.values():
        if hasattr(encoder, "packed"):
            encoder.packed = None
    return replica


def quadratic(x: Sequence[int], y: Sequence[float]) -> Terms:
    """The terms of the quadratic through three points; of the line or constant through fewer."""
    terms = np.polynomial.polynomial.polyfit(np.asarray(x, dtype=float), np.asarray(y, dtype=float), len(x) - 1)
    a, b, c = [*terms.tolist(), 0.0, 0.0][:3]
    return a, b, c


class Peak(NamedTuple):
    """The fastest product of two square matrices that a machine was seen to do."""

    flops_per_second: float
    size: int


def measured_peak(device: torch.device, dtype: torch.dtype, seconds: float = 1.5) -> Peak:
    """The best of `SIZES`, on as many threads as torch has now.

    Args:
        seconds: how long it may take, about; sizes that would take longer are left out.
    """
    generator = torch.Generator(device).manual_seed(0)
    best, began = Peak(0.0, 0), time.perf_counter()
    for size in SIZES:
        left = seconds - (time.perf_counter() - began)
        if best.size and 4 * 2 * size**3 / best.flops_per_second > left:
            break
        a, b = (torch.randn(size, size, generator=generator, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        ends = time.perf_counter() + left / len(SIZES)
        tries = 0
        while tries < 3 or time.perf_counter() < ends:
            best = max(best, Peak(2 * size**3 / _seconds_of_product(a, b, out), size))
            tries += 1
    return best


def _seconds_of_product(a: Tensor, b: Tensor, out: Tensor) -> float:
    if a.device.type != "cuda":
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        return time.perf_counter() - start
    times, start_event, end_event = 10, *(torch.cuda.Event(enable_timing=True) for _ in range(2))
    start_event.record()
    for _ in range(times):
        torch.mm(a, b, out=out)
    end_event.record()
    end_event.synchronize()
    return start_event.elapsed_time(end_event) / 1000 / times
