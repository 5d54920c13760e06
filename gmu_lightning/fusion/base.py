"""The base class of all fusions: encode each modality by itself, replace absent ones by zeros, check which modalities fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor

from gmu_lightning.config.classes import class_of
from gmu_lightning.config.groups import choices_of, node_of
from gmu_lightning.config.ranges import Few, Probability, Size
from gmu_lightning.decisions import Task
from gmu_lightning.encoders.base import Encoder, selected
from gmu_lightning.fusion.heads import LinearHead, MaxoutHead
from gmu_lightning.movie import Features, Fused, MovieBatch, UserError

Scale = Callable[[str, Features, Tensor], Features]  # modality, its features, (B,) which movies have it -> normalised features


class Fusion(nn.Module):
    """{modality: (B, ..., d_m)} -> Fused.

    A subclass declares its inputs (`needs`) and its number of modalities (`fewest`, `most`). It implements `fuse`, where the
    inputs of absent modalities are already zeros.

    Args:
        sizes: {modality: d_m}, in the order of every M axis.
        dim: D, the common size.
        head: `linear` splits each logit into contributions; `maxout` is a network without contributions (`MaxoutHead`).
        maxout_hidden: width of the maxout layers; None takes the width of the fused vector.
        maxout_pieces: number of linear pieces per maxout unit.
        maxout_dropout: probability before each linear layer of the maxout head.

    Raises:
        UserError: `dim` is below 1.

    Attributes:
        needs: the inputs of `forward`. `vector`: {modality: (B, d_m)}. `sequence`: {modality: Features}, whose tokens are
            normalised where a modality has any. `tokens`: the vectors that the fusion's own `encode` returns.
        requires: modalities that must be among the chosen ones.
        fewest, most: smallest and largest number of modalities; None means no limit.
        size: width of `Fused.vector`.
        open_threshold: a gate above this value counts as open; 1/M where the gates sum to one over M modalities.
        lr_scale: learning rate of the fusion's weights, as a multiple of `optimizer.lr`.
        unimodal: whether a linear head has logits of single modalities, which balanced training reads. The fusion then returns
            `parts`, or has a head with a method `unimodal`.
    """

    needs: ClassVar[str] = "vector"
    requires: ClassVar[tuple[str, ...]] = ()
    fewest: ClassVar[int] = 2
    most: ClassVar[int | None] = None
    unimodal: ClassVar[bool] = True
    lr_scale: float = 1.0

    def __init__(
        self,
        sizes: Mapping[str, int],
        dim: Size = 256,
        head: Literal["linear", "maxout"] = "linear",
        maxout_hidden: Size | None = None,
        maxout_pieces: Few = 2,
        maxout_dropout: Probability = 0.0,
    ):
        super().__init__()
        if dim < 1:
            raise UserError(f"fusion.dim={dim} is no size: give 1 or more, such as fusion.dim=256")
        self.maxout = (maxout_hidden, maxout_pieces, maxout_dropout) if head == "maxout" else None
        self.sizes = dict(sizes)
        self.dim = self.size = dim
        self.open_threshold = 1 / len(self.sizes)

    @classmethod
    def takes(cls, modalities: Sequence[str]) -> bool:
        """Return whether the fusion can fuse these modalities."""
        return cls.fewest <= len(modalities) <= (cls.most or len(modalities)) and set(cls.requires) <= set(modalities)

    @classmethod
    def reads_tokens(cls, modality: str) -> bool:
        """Return whether the fusion reads the tokens of a modality whose encoder gives any, and not their vector alone."""
        return cls.needs == "sequence" or (cls.needs == "tokens" and modality != "text")

    @classmethod
    def lets_cache(cls, encoder: Encoder) -> bool:
        """Return whether the features of an encoder may be cached: it reads its modality alone, without tokens of others."""
        return cls.needs != "tokens" or encoder.modality != "text"

    @classmethod
    def arguments(cls, encoders: Mapping[str, Encoder]) -> dict[str, Any]:
        """Return the arguments of the constructor that follow from the encoders: `sizes`, and `sequences` if it `needs` them."""
        sizes = {"sizes": {m: encoder.dim for m, encoder in encoders.items()}}
        return {**sizes, "sequences": [m for m, e in encoders.items() if e.sequences]} if cls.needs == "sequence" else sizes

    def read(self, encoders: Any, batch: MovieBatch, kept: Tensor, scale: Scale) -> dict[str, Any]:
        """Encode a batch, and return the inputs of `forward`: {modality: Features} if it needs sequences, else of vectors.

        Args:
            kept: (B, M) bool, the modalities that modality dropout left. Where modalities meet inside an encoder, a dropped
                modality does not enter it; any other encoder, and its normaliser, reads the movie as it is.
            scale: as in `encode`.
        """
        features = self.encode(encoders, batch._replace(present=kept) if self.needs == "tokens" else batch, scale)
        return dict(features) if self.needs == "sequence" else {m: feature.vector for m, feature in features.items()}

    def encode(self, encoders: Any, batch: MovieBatch, scale: Scale) -> dict[str, Features]:
        """Encode each modality by itself, unless the batch holds its `Features` already, and normalise it.

        Args:
            encoders: {modality: Encoder}.
            scale: normalisation and dropout of one modality; an override of `encode` calls it for each modality.

        Returns:
            {modality: Features} of B rows, in the order of `sizes`.
        """
        there = dict(zip(self.sizes, batch.present.unbind(dim=1), strict=True))
        return {m: scale(m, encoded(encoders[m], batch.inputs[m], there[m]), there[m]) for m in self.sizes}

    def forward(self, inputs: Mapping[str, Tensor], present: Tensor | None = None) -> Fused:
        """Fuse the modalities, absent ones as zeros.

        Args:
            inputs: {modality: (B, ..., d_m)}, floating point.
            present: (B, M) bool, one row per movie also for inputs with more dimensions; None means all present.

        Returns:
            `Fused` with `vector` (B, ..., size), in the inputs' dtype.
        """
        first = next(iter(inputs.values()))
        there = everyone(inputs, present).view(first.shape[0], *[1] * (first.ndim - 2), len(self.sizes), 1)  # (B, ..., M, 1)
        return self.fuse([blanked(inputs[m], there[..., i, :]) for i, m in enumerate(self.sizes)], there)

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Fuse inputs (B, ..., d_m), in the order of `sizes` and zero where absent; `present` is (B, ..., M, 1) bool."""
        raise NotImplementedError

    def separate(self, inputs: Sequence[Tensor]) -> list[Tensor] | None:
        """Return for each modality all that `fuse` computes from it alone, (B, ..., k_m); None if it does not divide its work.

        Args:
            inputs: as of `fuse`.
        """
        return None

    def join(self, separate: Sequence[Tensor], present: Tensor) -> Fused:
        """Return a `Fused` with the vector of `fuse`, from what `separate` returned. Its rows broadcast against each other.

        So the modalities of N movies are paired N x N times at the cost of what concerns several modalities.
        """
        raise NotImplementedError

    def head(self, genres: int, task: Task = "multilabel") -> nn.Module:
        """Return a new module that turns `Fused` into logits (B, C). `task` matters only to a head that mixes probabilities."""
        if self.maxout is None:
            return LinearHead(self.size, genres)
        hidden, pieces, dropout = self.maxout
        return MaxoutHead(self.size, genres, self.size if hidden is None else hidden, pieces, dropout)


def mismatch(fusion: type[Fusion], name: str, modalities: Sequence[str]) -> str | None:
    """Return why a fusion cannot take these modalities, as a sentence with a way out; None if it can.

    Args:
        fusion: the class; its declarations alone decide.
        name: its choice in `fusion=`.
    """
    if fusion.takes(modalities):
        return None
    count, word = len(modalities), "+".join(modalities)
    lacking = [m for m in fusion.requires if m not in modalities]
    if count < fusion.fewest:
        takes, choose = f"at least {fusion.fewest} modalities", "choose fusion=none, or more modalities"
    elif fusion.most is None or count <= fusion.most:
        return f"fusion={name} reads {' and '.join(lacking)} and modalities={word} has none: add it, or choose another fusion"
    else:
        takes = "exactly one modality" if fusion.most == 1 else f"at most {fusion.most} modalities"
        choose = f"choose {'one' if fusion.most == 1 else 'fewer'}, or fusion={', '.join(_choices_for(modalities))}"
    return f"fusion={name} takes {takes} and modalities={word} names {count}: {choose}"


def _choices_for(modalities: Sequence[str]) -> list[str]:
    """Return the choices of `fusion=` that take these modalities, without those whose class cannot be imported."""
    found = []
    for choice in choices_of("fusion"):
        with suppress(UserError, KeyError):  # another package is damaged, or its YAML file names no class of its own
            if class_of(node_of("fusion", choice)["_target_"]).takes(modalities):
                found.append(choice)
    return found


def prefix_mismatch(fusion: type[Fusion], name: str, text: type[Encoder], choice: str) -> str | None:
    """Return why a text encoder cannot read the tokens that a fusion puts before the plot; None if it can or need not.

    Args:
        fusion, text: the classes; their declarations alone decide.
        name, choice: their choices in `fusion=` and `encoder/text=`.
    """
    if fusion.needs != "tokens" or text.takes_prefix:
        return None
    return (
        f"fusion={name} puts tokens before the plot's in a transformer and encoder/text={choice} is none: "
        "choose encoder/text=minilm or bert_base, or another fusion"
    )


def head_mismatch(fusion: type[Fusion], name: str, task: Task) -> str | None:
    """Return why a fusion's own head cannot serve a task, as a sentence; None if it can.

    Args:
        fusion: the class. A `head` that takes `task` serves every task, and any other one multilabel tasks alone.
        name: its choice in `fusion=`.
        task: of the labels.
    """
    if task == "multilabel" or "task" in inspect.signature(fusion.head).parameters:
        return None
    return (
        f"fusion={name} has a head for data.task=multilabel alone, and data.task={task}: "
        "give it a method head(self, genres, task), or choose another fusion"
    )


def balance_mismatch(fusion: type[Fusion], name: str, head: str, modalities: Sequence[str], method: str) -> str | None:
    """Return why a training method cannot balance the modalities of a fusion, as a sentence with a way out; None if it can.

    Args:
        fusion: the class; its declarations alone decide.
        name: its choice in `fusion=`.
        head: its option `head`.
        modalities: the chosen ones.
        method: a choice in `training=` that reads logits of single modalities.
    """
    if len(modalities) < 2:
        word = "+".join(modalities)
        return f"training={method} balances several modalities and modalities={word} names one: choose training=none, or more"
    if _predicts_alone(fusion) and head == "linear":
        return None
    if _predicts_alone(fusion):
        name, choose = f"{name} fusion.head={head}", "choose fusion.head=linear"
    else:
        having = [c for c in _choices_for(modalities) if _predicts_alone(class_of(node_of("fusion", c)["_target_"]))]
        choose = f"choose fusion={', '.join(having)}"
    return (
        f"training={method} reads a prediction of each modality by itself and fusion={name} has none: {choose}, or training=none"
    )


def _predicts_alone(fusion: type[Fusion]) -> bool:
    """Return whether a fusion with a linear head has logits of single modalities, unmixed by attention between tokens."""
    return fusion.unimodal and fusion.needs == "vector"


def everyone(inputs: Mapping[str, Any], present: Tensor | None) -> Tensor:
    """Return `present` (B, M) bool, or a mask of ones on the inputs' device if it is None."""
    if present is not None:
        return present
    first = next(iter(inputs.values()))
    first = first.vector if isinstance(first, Features) else first
    return torch.ones(first.shape[0], len(inputs), dtype=torch.bool, device=first.device)


def blanked(x: Tensor, there: Tensor) -> Tensor:
    """Return x with zeros for absent movies, or x itself on a CPU if all movies are there.

    Zero times NaN is NaN, so values are replaced instead of multiplied. The mask is not read on a GPU, because that waits for the
    GPU, and not in stacked or compiled models, because there it has no values.

    Args:
        x: (B, ..., d).
        there: bool, which broadcasts against x.
    """
    known = there.device.type == "cpu" and not is_batchedtensor(there) and not torch.compiler.is_compiling()
    return x if known and bool(there.all()) else torch.where(there, x, 0.0)


def tokens(features: Features, there: Tensor) -> tuple[Tensor, Tensor]:
    """Return a modality as a sequence. A modality without a sequence has its vector as the only token.

    Args:
        there: (B,) bool, True for movies that have the modality.

    Returns:
        The sequence (B, T, d), zero at padding and in movies without the modality, and the mask of its real tokens (B, T).
    """
    x = features.vector[:, None] if features.sequence is None else features.sequence
    mask = there[:, None].expand(x.shape[:2])
    if features.sequence is not None and features.mask is not None:
        mask = mask & features.mask
    return torch.where(mask[..., None], x, 0.0), mask


def encoded(encoder: Any, inputs: Any, present: Tensor) -> Features:
    """Encode the rows of one modality that are present (B,) bool, and return Features of all B rows.

    Absent rows are zeros. On a GPU, an encoder whose rows are independent encodes absent rows too; the fusion discards them. If
    no row is present, there is only a vector. `Features` pass through unchanged.
    """
    if isinstance(inputs, Features):
        return inputs
    # Selecting rows would wait for the GPU. With independent rows that is unnecessary: fusions blank absent rows anyway.
    if (present.is_cuda and encoder.rowwise) or bool(present.all()):
        return encoder(inputs)
    rows = present.nonzero().squeeze(1)
    if not len(rows):
        return Features(torch.zeros(len(present), encoder.dim, device=present.device))
    vector, sequence, mask = encoder(selected(inputs, rows))

    def scattered(tensor: Tensor) -> Tensor:
        return tensor.new_zeros(len(present), *tensor.shape[1:]).index_copy(0, rows, tensor)

    return Features(
        scattered(vector), None if sequence is None else scattered(sequence), None if mask is None else scattered(mask)
    )
