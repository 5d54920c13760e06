"""What every fusion shares: encode each modality by itself, blank what is absent, and say what goes together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.inputs import selected
from gmu_lightning.fusion.heads import LinearHead, MaxoutHead
from gmu_lightning.movie import Features, Fused, MovieBatch, UserError

HEADS = ("linear", "maxout")
Scale = Callable[[str, Features, Tensor], Features]  # a modality's, and which of B movies have it (B,) -> as they are read


class Fusion(nn.Module):
    """{modality: (B, ..., d_m)} -> Fused.

    A subclass says what it needs of its inputs and how many modalities it takes, and fuses in `fuse`, where inputs of absent
    modalities are zeros already.

    Args:
        sizes: {modality: d_m}, in the order of every M axis.
        dim: D, the common size.
        head: `linear`, which splits a logit into contributions, or `maxout`, a network that does not (`MaxoutHead`).
        maxout_hidden: width of the maxout layers; None takes that of the fused vector.
        maxout_pieces: linear pieces of each of them.
        maxout_dropout: probability before each linear layer of the maxout head.

    Raises:
        UserError: `dim` is below 1, or the head is unknown.

    Attributes:
        needs: `vector` reads {modality: (B, d_m)}; `sequence` {modality: Features}, scaled in their tokens where there are any;
            `tokens` encodes by itself, and reads the vectors that its `encode` returned.
        requires: modalities it cannot do without.
        fewest, most: how many modalities it takes; None has no end.
        size: width of `Fused.vector`.
        open_threshold: a feature's gate is open above it: 1/M where gates sum to one over M.
    """

    needs: ClassVar[str] = "vector"
    requires: ClassVar[tuple[str, ...]] = ()
    fewest: ClassVar[int] = 2
    most: ClassVar[int | None] = None

    def __init__(
        self,
        sizes: Mapping[str, int],
        dim: int = 256,
        head: str = "linear",
        maxout_hidden: int | None = None,
        maxout_pieces: int = 2,
        maxout_dropout: float = 0.0,
    ):
        super().__init__()
        if dim < 1:
            raise UserError(f"fusion.dim={dim} is no size: give 1 or more, such as fusion.dim=256")
        if head not in HEADS:
            raise UserError(f"fusion.head={head} does not exist: choose one of {', '.join(HEADS)}")
        self.maxout = (maxout_hidden, maxout_pieces, maxout_dropout) if head == "maxout" else None
        self.sizes = dict(sizes)
        self.dim = self.size = dim
        self.open_threshold = 1 / len(self.sizes)

    def encode(self, encoders: Any, batch: MovieBatch, scale: Scale) -> dict[str, Features]:
        """Each modality by itself, scaled; features in the batch are encoded already, and an absent modality never is.

        Args:
            scale: normalises and drops out as the modality's encoder asks; whoever overrides `encode` calls it for each.
        """
        there = dict(zip(self.sizes, batch.present.unbind(dim=1), strict=True))
        return {m: scale(m, encoded(encoders[m], batch.inputs[m], there[m]), there[m]) for m in self.sizes}

    def forward(self, inputs: Mapping[str, Tensor], present: Tensor | None = None) -> Fused:
        """Fuse.

        Args:
            inputs: (B, ..., d_m) per modality.
            present: (B, M) bool, one row per movie whatever the inputs' other dimensions; None means all present.
        """
        first = next(iter(inputs.values()))
        there = everyone(inputs, present).view(len(first), *[1] * (first.ndim - 2), len(self.sizes), 1)  # (B, ..., M, 1)
        # A product with zero would let NaN through; what is absent is replaced before anything is computed.
        blanked = [torch.where(there[..., i, :], inputs[m], 0.0) for i, m in enumerate(self.sizes)]
        return self.fuse(blanked, there)

    def fuse(self, inputs: Sequence[Tensor], present: Tensor) -> Fused:
        """Inputs (B, ..., d_m) in the order of `sizes`, zeros where absent; present (B, ..., M, 1) -> Fused."""
        raise NotImplementedError

    def head(self, genres: int) -> nn.Module:
        """What turns Fused into logits (B, C)."""
        if self.maxout is None:
            return LinearHead(self.size, genres)
        hidden, pieces, dropout = self.maxout
        return MaxoutHead(self.size, genres, self.size if hidden is None else hidden, pieces, dropout)


def mismatch(fusion: type[Fusion], name: str, modalities: Sequence[str], others: Sequence[str] = ()) -> str | None:
    """Why a fusion cannot take these modalities, in a sentence with the way out; None where it can.

    Args:
        fusion: only what the class declares is asked.
        name: as `fusion=` spells it.
        others: fusions that take so many, to be named.
    """
    count, word = len(modalities), "+".join(modalities)
    if fusion.fewest <= count <= (fusion.most or count):
        lacking = [m for m in fusion.requires if m not in modalities]
        if not lacking:
            return None
        return f"fusion={name} reads {' and '.join(lacking)} and modalities={word} has none: add it, or choose another fusion"
    another = f"fusion={', '.join(others)}" if others else "another fusion"
    if count < fusion.fewest:
        takes, choose = f"at least {fusion.fewest} modalities", "choose fusion=none, or more modalities"
    elif fusion.most == 1:
        takes, choose = "exactly one modality", f"choose one, or {another}"
    else:
        takes, choose = f"at most {fusion.most} modalities", f"choose fewer, or {another}"
    return f"fusion={name} takes {takes} and modalities={word} names {count}: {choose}"


def prefix_mismatch(fusion: type[Fusion], name: str, text: type[Encoder], choice: str) -> str | None:
    """Why a text encoder cannot read the tokens a fusion puts before the plot, in a sentence; None where it can, or need not.

    Args:
        fusion, text: only what the classes declare is asked.
        name, choice: as `fusion=` and `encoder/text=` spell them.
    """
    if fusion.needs != "tokens" or text.takes_prefix:
        return None
    return (
        f"fusion={name} puts tokens before the plot's in a transformer and encoder/text={choice} is none: "
        "choose encoder/text=minilm or bert_base, or another fusion"
    )


def everyone(inputs: Mapping[str, Any], present: Tensor | None) -> Tensor:
    """`present` (B, M), or all of them where it is None."""
    if present is not None:
        return present
    first = next(iter(inputs.values()))
    first = first.vector if isinstance(first, Features) else first
    return torch.ones(len(first), len(inputs), dtype=torch.bool, device=first.device)


def tokens(features: Features, there: Tensor) -> tuple[Tensor, Tensor]:
    """A modality as a sequence, its vector being the only token where it has none, zeros wherever nothing is real.

    Args:
        there: (B,) bool, whether a movie has the modality.

    Returns:
        (B, T, d) and which tokens are real, (B, T).
    """
    x = features.vector[:, None] if features.sequence is None else features.sequence
    mask = there[:, None].expand(x.shape[:2])
    if features.sequence is not None and features.mask is not None:
        mask = mask & features.mask
    return torch.where(mask[..., None], x, 0.0), mask


def encoded(encoder: Any, inputs: Any, present: Tensor) -> Features:
    """Inputs of B rows -> Features, those not present (B,) zeros and never encoded; Features pass through."""
    if isinstance(inputs, Features):
        return inputs
    # Where rows know nothing of each other, a GPU is not asked which are there: what is absent is blanked afterwards.
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
