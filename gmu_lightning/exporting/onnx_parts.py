"""The parts of a model as modules of plain tensors, from which ONNX files are made: each encoder, then fusion and head."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.pretrained import TransformersEncoder
from gmu_lightning.encoders.temporal import SequenceInputs
from gmu_lightning.encoders.text import HuggingFaceText
from gmu_lightning.encoders.text.tokens import TokenInputs
from gmu_lightning.encoders.trailers import HuggingFaceAudio
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import Features, MovieBatch
from gmu_lightning.nn.normalise import Batch, Standardise
from gmu_lightning.nn.transformer import masked_mean
from gmu_lightning.prediction.trained import TrainedRun

PRESENT, LOGITS = "present", "logits"


class Part(NamedTuple):
    """A part of a model, for one ONNX file.

    Attributes:
        name: of the file.
        module: takes the inputs as tensors, and returns the outputs.
        inputs, outputs: names of the tensors. Those of an encoder's outputs are inputs of `fusion`.
    """

    name: str
    module: nn.Module
    inputs: Sequence[str]
    outputs: Sequence[str]


def built_encoder(run: TrainedRun, modality: str) -> Encoder:
    """Return the encoder of a modality that computes features: that of the model, or the frozen one beside it."""
    own = run.model.encoders[modality]
    found = own if own.network is not None else run.sources[modality].network
    if found is None:  # its features are its inputs
        found = own
    assert isinstance(found, Encoder)
    return found


def encodes_text_within(run: TrainedRun, modality: str) -> bool:
    """Return whether the fusion itself runs the encoder of a modality, as mmbt does."""
    return run.model.fusion.needs == "tokens" and modality == "text"


def input_names(modality: str, inputs: Any) -> list[str]:
    """Return the names of the tensors among the inputs of an encoder."""
    if isinstance(inputs, TokenInputs):
        return [f"{modality}_ids", f"{modality}_ids_mask"]
    return [f"{modality}_steps", f"{modality}_steps_mask"] if isinstance(inputs, SequenceInputs) else [f"{modality}_input"]


def tensors_of(inputs: Any) -> list[Tensor]:
    """Return the tensors among the inputs of an encoder, in row-major memory."""
    parts = [inputs] if isinstance(inputs, Tensor) else inputs
    return [part.contiguous() for part in parts if isinstance(part, Tensor)]


def feature_names(modality: str, features: Features) -> list[str]:
    """Return the names of the tensors of a modality's features: its vector, its tokens and their mask."""
    names = (modality, f"{modality}_tokens", f"{modality}_mask")
    return [name for name, part in zip(names, features, strict=True) if part is not None]


def read_by_fusion(run: TrainedRun, modality: str, features: Features) -> Features:
    """Return the features that the fusion reads: without tokens if it reads vectors alone."""
    return features if run.model.fusion.reads_tokens(modality) else Features(features.vector)


def parts_of(run: TrainedRun, inputs: Mapping[str, Any], features: Mapping[str, Features]) -> Iterator[Part]:
    """Yield the parts of a run's model. An encoder that returns its inputs has no part.

    Args:
        run: with its model, on the CPU.
        inputs: {modality: inputs of its encoder}, an example.
        features: {modality: features that the fusion reads}, of the same example. A modality that the fusion encodes is absent.
    """
    for m, found in features.items():
        encoder = built_encoder(run, m)
        if any(True for _ in encoder.parameters()) or not isinstance(inputs[m], Tensor):
            names = input_names(m, inputs[m])
            yield Part(f"encoder_{m}", _EncoderPart(encoder, inputs[m], found), names, feature_names(m, found))
    names = [
        name for m in run.modalities for name in (feature_names(m, features[m]) if m in features else input_names(m, inputs[m]))
    ]
    yield Part("fusion", _FusionPart(run.model, inputs, features), [*names, PRESENT], [LOGITS])


class _EncoderPart(nn.Module):
    """An encoder with tensors as inputs, and the tensors that the fusion reads as outputs."""

    def __init__(self, encoder: Encoder, inputs: Any, features: Features):
        super().__init__()
        self.encoder = plain_copy(encoder)
        self.kind = None if isinstance(inputs, Tensor) else type(inputs)
        self.wanted = [name for name, part in zip(Features._fields, features, strict=True) if part is not None]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = tensors[0] if self.kind is None else self.kind(*tensors)
        whole = isinstance(self.encoder, HuggingFaceAudio)
        features = _of_all_windows(self.encoder, inputs) if whole else self.encoder(inputs)  # type: ignore[arg-type]
        return tuple(getattr(features, name) for name in self.wanted)


class _FusionPart(nn.Module):
    """Normalisers, fusion and head, with the features of every modality and `present` (B, M) bool as inputs."""

    def __init__(self, model: MovieGenreClassifier, inputs: Mapping[str, Any], features: Mapping[str, Features]):
        super().__init__()
        self.model = plain_copy(model)
        self.kinds = {m: Features if m in features else type(inputs[m]) for m in model.fusion.sizes}
        self.counts = {
            m: len([part for part in features[m] if part is not None]) if m in features else len(tensors_of(inputs[m]))
            for m in model.fusion.sizes
        }

    def forward(self, *tensors: Tensor) -> Tensor:
        rest, inputs = iter(tensors), {}
        for m, kind in self.kinds.items():
            inputs[m] = kind(*(next(rest) for _ in range(self.counts[m])))
        return self.model(MovieBatch((), inputs, next(rest), None)).logits.float()


class _FixedBatch(nn.Module):
    """`Batch` in evaluation mode, without a choice of rows."""

    def __init__(self, batch: Batch):
        super().__init__()
        self.norm = batch

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        norm = self.norm
        scaled = nn.functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return torch.where(present[:, None], scaled, 0.0)


def plain_copy(module: nn.Module) -> Any:
    """Return a copy in evaluation mode that computes the same by plain operations: eager attention, padding, fixed statistics."""
    own = copy.deepcopy(module).float().eval().requires_grad_(False)
    for one in list(own.modules()):
        if isinstance(one, TransformersEncoder) and one.network is not None:
            one.network.set_attn_implementation("eager")
            if isinstance(one, HuggingFaceText):
                one.packed = None
        if isinstance(one, Standardise):
            one.look()
        for name, child in one.named_children():
            if isinstance(child, Batch):
                setattr(one, name, _FixedBatch(child))
    return own


def _of_all_windows(encoder: HuggingFaceAudio, inputs: SequenceInputs) -> Features:
    """Return the features of windows (B, W, *shape), as the encoder does, but with the padding's windows encoded too."""
    tokens = encoder._tokens(inputs.values.flatten(0, 1)).unflatten(0, inputs.mask.shape)
    tokens = torch.where(inputs.mask[..., None], tokens, 0.0)
    return Features(masked_mean(tokens, inputs.mask), tokens, inputs.mask)
