"""Encoders of sequences: frame features of a video, or a spectrogram of its sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gmu_lightning.config.ranges import Count, Few, Probability, Size
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.vector import ArrayPreparation, finite
from gmu_lightning.files import digest
from gmu_lightning.movie import BadContent, Features, Preparation, UserError
from gmu_lightning.nn.transformer import masked_mean, sinusoids

Dtype = Literal["float32", "float16"]
READ_TRAILERS = {"video": "encoder/video=trailer", "audio": "encoder/audio=trailer_mel96"}


class SequenceInputs(NamedTuple):
    """B sequences, padded to the longest."""

    values: Tensor  # (B, T, d) float32, zeros in padding
    mask: Tensor  # (B, T) bool, True for real steps


class StepPreparation:
    """Base class of preparations that store a movie as steps (T, size)."""

    @property
    def step(self) -> tuple[int, ...]:
        """Return the shape of one step."""
        return (self.size,)  # type: ignore[attr-defined]

    @property
    def per_second(self) -> float | None:
        """Return the number of steps in a second, or None if it is unknown."""
        return None

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> SequenceInputs:
        """Return the steps of B movies as float32 (B, T, *step), padded to the longest, and their mask.

        An absent movie becomes a single step of zeros, so every row has at least one real step.
        """
        longest = max((len(row) for row in rows if row is not None), default=1)
        values = np.zeros((len(rows), longest, *self.step), dtype=np.float32)
        mask = np.zeros((len(rows), longest), dtype=bool)
        for n, row in enumerate(rows):
            mask[n, : 1 if row is None else len(row)] = True
            if row is not None:
                values[n, : len(row)] = row
        return SequenceInputs(torch.from_numpy(values), torch.from_numpy(mask))


@dataclass(frozen=True)
class SequencePreparation(StepPreparation, ArrayPreparation):
    """Store frame features (T, d) unchanged, and a log-mel spectrogram (bands, T) transposed: (T, bands).

    Attributes:
        max_steps: sequences are cut to their first `max_steps` steps; None keeps all.
        dtype: on disk, `float32` or `float16`.
    """

    max_steps: Count | None = None
    dtype: Dtype = "float32"
    axes = 2
    kind = "sequence"

    @property
    def fingerprint(self) -> str:
        """Return the requested size, `max_steps` and the dtype, as text."""
        return f"{super().fingerprint} {self.max_steps} {self.dtype}"

    def store(self, content: Any) -> np.ndarray:
        """Return one array as (T, size) in `dtype`, with T >= 1.

        Raises:
            BadContent: the shape is another, or a number is not finite in `dtype`.
            UserError: the content is no array of numbers, such as a trailer.
        """
        array = self._array(content)
        if array.ndim != 2 or array.shape[1] != self.size or not len(array):
            expected = f"({self.size}, steps)" if self._turned else f"(steps, {self.size})"
            raise BadContent("bad_array", f"shape {content.shape}, expected {expected}")
        return finite(array[: self.max_steps], self.dtype)

    @property
    def _turned(self) -> bool:
        return self.modality == "audio"

    def _array(self, content: Any) -> np.ndarray:
        if isinstance(content, Path):
            raise UserError(
                f"this data set's {self.modality} is trailers, and this encoder/{self.modality} reads extracted features: "
                f"choose {READ_TRAILERS[self.modality]}, or another data.{self.modality}"
            )
        array = super()._array(content)
        return array.T if self._turned and array.ndim == 2 else array


class SequenceEncoder(Encoder):
    """Base class of encoders of sequences. A subclass implements `_load` and `forward`.

    Args:
        modality: `video`, of arrays (T, d), or `audio`, of arrays (bands, T).
        dim: size of the vector and of each step of the sequence; None takes the size of the input steps.
        sizes: the other sizes of the network, each at least 1.
        max_steps: sequences are cut to their first `max_steps` steps; None reads all.
        dtype: of stored steps, `float32`, or `float16` in half the space.
        preparation: stores steps (T, size) from other contents, such as trailers, and has the property `size`. It replaces
            the preparation of extracted features with its `max_steps` and `dtype`.
        common: `freeze`, `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`.
    """

    sequences = True

    def __init__(
        self,
        modality: str,
        dim: Size | None,
        sizes: Mapping[str, int] = MappingProxyType({}),
        *,
        max_steps: Count | None = None,
        dtype: Dtype = "float32",
        preparation: Preparation | None = None,
        pretrained: bool = False,
        **common: Any,
    ):
        super().__init__(modality, pretrained=pretrained, **common)
        self._dim, self.sizes = dim, dict(sizes)
        self.preparation = preparation or SequencePreparation(modality, max_steps=max_steps, dtype=dtype)

    @property
    def fingerprint(self) -> str:
        return digest([type(self).__name__, self._dim, self.sizes])

    def check(self) -> None:
        """Check that a preparation with a network finds the weights. Raises UserError."""
        if hasattr(self.preparation, "check"):
            self.preparation.check()

    def _projection(self) -> nn.Module:
        """Return a layer of steps that normalises first. VGG's activations and decibels have large means."""
        return nn.Sequential(nn.LayerNorm(self.input_size), nn.Linear(self.input_size, self.dim))


class MeanPool(SequenceEncoder):
    """Average the steps.

    Args:
        modality: `video` or `audio`.
        dim: size to which a trained layer projects each step first; None averages the steps unchanged, without training.
        bias: whether the projection has a bias.
        options: of `SequenceEncoder`.
    """

    def __init__(self, modality: str, dim: Size | None = None, bias: bool = True, **options: Any):
        super().__init__(modality, dim, pretrained=dim is None, **options)
        self.bias = bias

    def forward(self, inputs: SequenceInputs) -> Features:
        sequence = self.network(inputs.values)  # (B, T, dim)
        return Features(masked_mean(sequence, inputs.mask), sequence, inputs.mask)

    def _load(self) -> nn.Module:
        return nn.Identity() if self._dim is None else nn.Linear(self.input_size, self._dim, bias=self.bias)


class AttentionPool(SequenceEncoder):
    """Average the projected steps, weighted by gated attention (Ilse et al. 2018, arXiv 1802.04712, equation 9).

    Args:
        modality: `video` or `audio`.
        dim: size of a projected step.
        hidden: size of the attention's hidden layer.
        options: of `SequenceEncoder`.
    """

    def __init__(self, modality: str, dim: Size = 256, hidden: Size = 128, **options: Any):
        super().__init__(modality, dim, {"hidden": hidden}, **options)

    def forward(self, inputs: SequenceInputs) -> Features:
        steps = self.network.project(inputs.values)  # (B, T, dim)
        scores = self.network.score(self.network.tanh(steps) * self.network.gate(steps))[..., 0]  # (B, T)
        weights = scores.masked_fill(~inputs.mask, -torch.inf).softmax(dim=1)
        return Features((weights[..., None] * steps).sum(dim=1), steps, inputs.mask)

    def _load(self) -> nn.Module:
        hidden = self.sizes["hidden"]
        return nn.ModuleDict(
            {
                "project": self._projection(),
                "tanh": nn.Sequential(nn.Linear(self.dim, hidden), nn.Tanh()),
                "gate": nn.Sequential(nn.Linear(self.dim, hidden), nn.Sigmoid()),
                "score": nn.Linear(hidden, 1),
            }
        )


class TimeTransformer(SequenceEncoder):
    """A pre-norm transformer over the projected steps. The vector is the output at a learned first token.

    Positions are sinusoids (Vaswani et al. 2017, arXiv 1706.03762, section 3.5), so sequences may have any length.

    Args:
        modality: `video` or `audio`.
        dim: width, a multiple of 2 * `heads`.
        layers: number of layers.
        heads: attention heads of each layer.
        stride: number of consecutive steps averaged into one before the transformer. A log-mel spectrogram has thousands.
        inner_dropout: dropout probability in every layer.
        options: of `SequenceEncoder`.

    Raises:
        UserError: `dim` is not a multiple of 2 * `heads`.
    """

    def __init__(
        self,
        modality: str,
        dim: Size = 256,
        layers: Few = 2,
        heads: Few = 4,
        stride: Few = 1,
        inner_dropout: Probability = 0.1,
        **options: Any,
    ):
        super().__init__(modality, dim, {"layers": layers, "heads": heads, "stride": stride}, **options)
        if dim % (2 * heads):
            raise UserError(f"encoder.{modality}.dim={dim} heads={heads}: give a dim that is a multiple of {2 * heads}")
        self.inner_dropout = inner_dropout

    def forward(self, inputs: SequenceInputs) -> Features:
        values, mask = averaged(inputs, self.sizes["stride"])
        steps = self.network.project(values)  # (B, T, dim)
        steps = steps + sinusoids(steps, interleaved=True)
        first = self.network.first.weight.expand(steps.shape[0], 1, -1)
        x = torch.cat([first, steps], dim=1)  # (B, 1 + T, dim)
        padding = nn.functional.pad(~mask, (1, 0), value=False)
        for layer in self.network.layers:
            x = layer(x, src_key_padding_mask=padding)
        x = self.network.norm(x)
        return Features(x[:, 0], x[:, 1:], mask)

    def _load(self) -> nn.Module:
        def layer() -> nn.Module:
            return nn.TransformerEncoderLayer(
                self.dim, self.sizes["heads"], 4 * self.dim, self.inner_dropout, "gelu", batch_first=True, norm_first=True
            )

        first = nn.Embedding(1, self.dim)
        nn.init.normal_(first.weight, std=0.02)
        return nn.ModuleDict(
            {
                "project": self._projection(),
                "first": first,
                "layers": nn.ModuleList(layer() for _ in range(self.sizes["layers"])),
                "norm": nn.LayerNorm(self.dim),
            }
        )


class TimeConv(SequenceEncoder):
    """Convolutions over time with a GELU after each, then the mean. Padding is zero at the input of each convolution.

    Args:
        modality: `video` or `audio`.
        dim: number of channels, and size of the vector.
        layers: number of convolutions.
        kernel: kernel size of each convolution in steps, an odd number.
        stride: of each convolution.
        options: of `SequenceEncoder`.

    Raises:
        UserError: `kernel` is even.
    """

    def __init__(self, modality: str, dim: Size = 256, layers: Few = 2, kernel: Few = 5, stride: Few = 2, **options: Any):
        super().__init__(modality, dim, {"layers": layers, "kernel": kernel, "stride": stride}, **options)
        if kernel % 2 == 0:
            raise UserError(f"encoder.{modality}.kernel={kernel}: give an odd number")

    def forward(self, inputs: SequenceInputs) -> Features:
        x, mask = self.network.project(inputs.values), inputs.mask  # (B, T, dim)
        for convolution in self.network.convolutions:
            x = x.masked_fill(~mask[..., None], 0.0)
            x = nn.functional.gelu(convolution(x.transpose(1, 2)).transpose(1, 2))
            mask = mask[:, :: self.sizes["stride"]]  # an odd kernel, padded by half, keeps ceil(T / stride) steps
        return Features(masked_mean(x, mask), x, mask)

    def _load(self) -> nn.Module:
        kernel, stride = self.sizes["kernel"], self.sizes["stride"]
        convolutions = (nn.Conv1d(self.dim, self.dim, kernel, stride, kernel // 2) for _ in range(self.sizes["layers"]))
        return nn.ModuleDict({"project": self._projection(), "convolutions": nn.ModuleList(convolutions)})


class MelConv(SequenceEncoder):
    """Apply two strided convolutions over time, average the result over equal spans, and project each span to a token.

    As in Rodriguez-Bribiesca et al. 2021 (https://aclanthology.org/2021.maiworkshop-1.1): kernels of 128 steps, stride 2, as many
    channels as bands, 200 spans, 768 numbers. Spans divide each movie's own length, so other movies of the batch have no
    influence. A clip too short for the two kernels is lengthened by zeros.

    Args:
        modality: `audio`.
        dim: size of a token and of the vector, which is the tokens' mean.
        tokens: number of spans.
        kernel: kernel size of each convolution, in steps.
        stride: of each convolution.
        channels: of each convolution; None takes the number of bands.
        options: of `SequenceEncoder`.
    """

    def __init__(
        self,
        modality: str = "audio",
        dim: Size = 768,
        tokens: Few = 200,
        kernel: Few = 128,
        stride: Few = 2,
        channels: Size | None = None,
        **options: Any,
    ):
        sizes = {"tokens": tokens, "kernel": kernel, "stride": stride}
        super().__init__(modality, dim, sizes if channels is None else {**sizes, "channels": channels}, **options)

    @property
    def least(self) -> int:
        """Return the smallest number of steps that both convolutions can read."""
        return self.sizes["kernel"] + self.sizes["stride"] * (self.sizes["kernel"] - 1)

    def forward(self, inputs: SequenceInputs) -> Features:
        steps = inputs.values.transpose(1, 2)  # (B, bands, T), zeros in padding
        steps = nn.functional.pad(steps, (0, torch.sym_max(0, self.least - steps.shape[-1])))  # type: ignore[arg-type]
        lengths = inputs.mask.sum(dim=1).clamp(min=self.least)
        for convolution in self.network.convolutions:
            steps = convolution(steps)
            lengths = (lengths - self.sizes["kernel"]) // self.sizes["stride"] + 1
        spans = adaptive_means(lengths, steps.shape[-1], self.sizes["tokens"]).to(steps)
        sequence = self.network.project(spans @ steps.transpose(1, 2))  # (B, tokens, dim)
        mask = torch.ones(sequence.shape[:2], dtype=torch.bool, device=sequence.device)
        return Features(sequence.mean(dim=1), sequence, mask)

    def _load(self) -> nn.Module:
        bands, kernel, stride = self.input_size, self.sizes["kernel"], self.sizes["stride"]
        channels = self.sizes.get("channels", bands)
        convolutions = [nn.Conv1d(bands, channels, kernel, stride), nn.Conv1d(channels, channels, kernel, stride)]
        return nn.ModuleDict({"convolutions": nn.ModuleList(convolutions), "project": nn.Linear(channels, self.dim, bias=False)})


def adaptive_means(lengths: Tensor, steps: int, spans: int) -> Tensor:
    """Return the matrices that average each sequence over equal spans of its own length, as `nn.AdaptiveAvgPool1d` does.

    Spans overlap if a sequence has fewer steps than spans.

    Args:
        lengths: (B,) int64, steps of each sequence.
        steps: T of the padded sequences.
        spans: how many spans.

    Returns:
        float32 (B, spans, steps), to be multiplied by sequences (B, steps, d).
    """
    span = torch.arange(spans, device=lengths.device)
    start = span * lengths[:, None] // spans  # (B, spans)
    end = ((span + 1) * lengths[:, None] + spans - 1) // spans
    step = torch.arange(steps, device=lengths.device)
    inside = (start[..., None] <= step) & (step < end[..., None])
    return inside / (end - start)[..., None]


def averaged(inputs: SequenceInputs, stride: int) -> SequenceInputs:
    """Average the real ones of every `stride` consecutive steps: (B, T, d) -> (B, ceil(T / stride), d).

    A result is real if one of its steps is.
    """
    if stride == 1:
        return inputs
    batch, steps, size = inputs.values.shape
    missing = -steps % stride
    values = nn.functional.pad(inputs.values, (0, 0, 0, missing)).reshape(batch, -1, stride, size)
    mask = nn.functional.pad(inputs.mask, (0, missing)).reshape(batch, -1, stride)
    kept = mask[..., None].to(values.dtype)
    return SequenceInputs((values * kept).sum(dim=2) / kept.sum(dim=2).clamp(min=1), mask.any(dim=2))
