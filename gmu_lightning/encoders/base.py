"""The base class of encoders, and helpers for their inputs.

An encoder turns one modality's inputs into `Features`. Its `Preparation` stores and batches these inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from gmu_lightning.config.ranges import FromZero, Positive, Probability
from gmu_lightning.movie import Features, Preparation, UserError


class Encoder(nn.Module):
    """Turn one modality's inputs into `Features`, whose `vector` has the shape (B, dim).

    Constructing an encoder is cheap, because only `build()` loads or creates the network. A subclass implements `_load()`,
    `fingerprint` and `forward`, and sets `preparation`. It sets `_dim` if vectors differ in size from stored rows, and implements
    `blocks()` if a part of its network can be frozen. The configuration checks arguments against the ranges in their annotations.

    Args:
        modality: the encoder's name in `modalities=`.
        pretrained: whether the network starts from pretrained weights. A network from scratch is initialised from torch's
            global generator, and cannot be frozen.
        freeze: `all`, `none`, or n for the embeddings (or stem) and the first n blocks. Frozen parts get no gradient and
            stay in evaluation mode: no dropout, fixed batch statistics.
        unfreeze_at_epoch: from this epoch on (counted from 0) everything is trained; None keeps `freeze` for the whole run.
        lr: learning rate of this encoder; None takes the optimizer's.
        normalise: how the model normalises the vector before fusion: `none`, `layer`, `batch`, `standardise`.
        dropout: probability, applied by the model to the normalised vector.
        modality_dropout: probability with which the model removes the modality from a movie in training.

    Attributes:
        preparation: of the encoder's inputs; `adopt` replaces it by the fitted one.
        network: an nn.Module; None until `build()`.

    Raises:
        UserError: a network from scratch is frozen, or `unfreeze_at_epoch` is given for a network that is not frozen.
    """

    sequences: ClassVar[bool] = False  # whether Features.sequence is filled
    takes_prefix: ClassVar[bool] = False  # whether `forward` accepts tokens of other modalities before its own
    rowwise: ClassVar[bool] = False  # whether a row's features depend on that row alone, in training too

    def __init__(
        self,
        modality: str,
        *,
        pretrained: bool,
        freeze: Literal["all", "none"] | FromZero = "none",
        unfreeze_at_epoch: FromZero | None = None,
        lr: Positive | None = None,
        normalise: Literal["none", "layer", "batch", "standardise"] = "layer",
        dropout: Probability = 0.0,
        modality_dropout: Probability = 0.0,
    ):
        super().__init__()
        self.modality = modality
        self.pretrained = pretrained
        self.freeze = freeze
        self.unfreeze_at_epoch = unfreeze_at_epoch
        self.lr = lr
        self.normalise = normalise
        self.dropout = dropout
        self.modality_dropout = modality_dropout
        self.augment = False
        self.preparation: Preparation
        self.network: Any = None
        self._dim: int | None = None
        self._unfrozen = False
        where = f"encoder.{modality}"
        if not pretrained and freeze != "none":
            raise UserError(f"{where}.freeze={freeze}: an encoder that starts from scratch would never learn; use none")
        if unfreeze_at_epoch is not None and freeze == "none":
            raise UserError(
                f"{where}.unfreeze_at_epoch={unfreeze_at_epoch} with {where}.freeze={freeze}: "
                "give an epoch from 0 on, and freeze=all or a number of blocks to be unfrozen then"
            )

    @property
    def input_size(self) -> int:
        """Return the size of the last axis of stored rows, if they are arrays of features."""
        return self.preparation.size  # type: ignore[attr-defined]

    @property
    def dim(self) -> int:
        """Return the size of `Features.vector`. It is known before `build()`, at the latest once `adopt` was called."""
        return self._dim or self.input_size

    @property
    def fingerprint(self) -> str:
        """Return an identifier of everything besides the inputs that determines the features: weights, pooling, scaling."""
        raise NotImplementedError

    def blocks(self) -> list[nn.Module]:
        """Return the embeddings or stem, then the blocks in the order in which the inputs pass through them."""
        return [self.network]

    def _load(self) -> nn.Module:
        """Return the network, with pretrained weights in float32 or newly initialised."""
        raise NotImplementedError

    def forward(self, inputs: Any) -> Features:
        """Return the `Features` of inputs from `preparation.batch`, one row per movie. Every movie has the modality."""
        raise NotImplementedError

    def check(self) -> None:
        """Check without loading anything that `build()` will find its files. Raises UserError if a file is missing."""

    def description(self) -> dict[str, bytes]:
        """Return {name: content} of the files that describe the pretrained network and its inputs, without weights.

        It is {} for an encoder whose arguments alone determine its network. Raises UserError if the weights are not found.
        """
        return {}

    @property
    def wastes_padding(self) -> bool:
        """Return whether the built network spends time on padding, so that batches of similar lengths run faster."""
        return True

    @property
    def constant(self) -> bool:
        """Return whether the same inputs give the same features in every epoch, so that they may be computed once and cached."""
        return self.freeze == "all" and self.why_not_constant is None

    @property
    def why_not_constant(self) -> str | None:
        """Return the reason why a fully frozen encoder's features still change between epochs, in a sentence, or None."""
        if self.freeze != "all":
            return None
        if self.augment:
            return f"encoder.{self.modality}.augment=true changes its inputs in every epoch"
        if self.unfreeze_at_epoch is not None:
            return f"encoder.{self.modality}.unfreeze_at_epoch={self.unfreeze_at_epoch} trains it from that epoch on"
        return None

    def reloads(self, weight: str) -> bool:
        """Return whether a weight is read from the pretrained network's own file, so that checkpoints leave it out.

        Args:
            weight: its name in the encoder's `state_dict`.
        """
        return self.constant

    def merge(self) -> None:
        """Add trained adapters to the weights of the built network, which then has none. Its features stay the same."""

    def adopt(self, preparation: Preparation) -> None:
        """Replace the preparation by a fitted one. Call it before `build`."""
        self.preparation = preparation

    def build(self) -> None:
        """Load or create the network and apply `freeze`. A second call does no work.

        Loading pretrained weights leaves torch's generator unchanged, so a run is the same whether its features came from the
        store or not. Raises UserError if weights are missing or damaged, or the network has fewer blocks than `freeze`.
        """
        if self.network is not None:
            return
        with torch.random.fork_rng(devices=[]) if self.pretrained else nullcontext():
            self.network = self._load()
        self._apply_freeze()

    def train(self, mode: bool = True) -> Encoder:
        """Set training or evaluation mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def set_epoch(self, epoch: int) -> None:
        """Unfreeze the network from epoch `unfreeze_at_epoch` on. `callbacks.Determinism` calls it before each epoch."""
        if not self._unfrozen and self.unfreeze_at_epoch is not None and epoch >= self.unfreeze_at_epoch:
            self._unfrozen = True
            self._apply_freeze()

    def _apply_freeze(self) -> None:
        if self.network is None:
            return
        self.network.requires_grad_(True)
        for module in self._frozen():
            module.requires_grad_(False)
        self.train(self.training)

    def _frozen(self) -> list[nn.Module]:
        if self.network is None or self.freeze == "none" or self._unfrozen:
            return []
        if self.freeze == "all":
            return [self.network]
        blocks = self.blocks()
        if int(self.freeze) >= len(blocks):
            raise UserError(
                f"encoder.{self.modality}.freeze={self.freeze}: this network has {len(blocks) - 1} blocks; "
                f"give a number from 0 (the embeddings alone) to {len(blocks) - 1}, or all"
            )
        return blocks[: int(self.freeze) + 1]


class Unlearned:
    """Base class of preparations without learned state."""

    learns = False

    def fit(self, contents: Iterable[Any]) -> Self:
        """Return itself."""
        return self

    def state(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def restored(self, state: Mapping[str, Any]) -> Self:
        """Return itself."""
        return self


def moved(inputs: Any, device: torch.device) -> Any:
    """Return the inputs on a device, without waiting for the copy. Numbers stay as they are.

    Args:
        inputs: a tensor, or a NamedTuple of tensors and tuples of numbers.
    """
    return _mapped(inputs, lambda tensor: tensor.to(device, non_blocking=True), lambda numbers: numbers)


def selected(inputs: Any, rows: Tensor) -> Any:
    """Return some rows of a batch of inputs.

    Args:
        inputs: B rows, in a tensor or a NamedTuple of tensors and tuples of numbers.
        rows: (n,) int64, the rows to keep.
    """
    chosen = rows.tolist()
    return _mapped(inputs, lambda tensor: tensor[rows], lambda numbers: tuple(numbers[n] for n in chosen))


def _mapped(inputs: Any, tensors: Callable[[Tensor], Tensor], numbers: Callable[[tuple], tuple]) -> Any:
    if isinstance(inputs, Tensor):
        return tensors(inputs)
    return type(inputs)(*(tensors(p) if isinstance(p, Tensor) else p if p is None else numbers(p) for p in inputs))
