"""An encoder turns one modality's inputs into `Features`; how its inputs are stored and batched is its `Preparation`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import nn

from gmu_lightning.encoders.inputs import Partial
from gmu_lightning.encoders.normalise import KINDS
from gmu_lightning.movie import Features, Preparation, UserError


class Encoder(nn.Module):
    """One modality -> `Features` with `vector` (B, dim).

    Constructing one is cheap: the network is loaded, or created, by `build()`. A subclass says how in `_load()`,
    names its `blocks()`, `dim`, `fingerprint` and `preparation`, and computes features in `forward`.

    Args:
        modality: the name it has in `modalities=`.
        pretrained: whether the network comes with what it learned elsewhere. From scratch it is initialised from torch's
            global generator, and cannot be frozen.
        freeze: `all`, `none`, or n: the embeddings (or stem) and the first n blocks. What is frozen gets no gradient and
            stays in evaluation mode: no dropout, fixed batch statistics.
        unfreeze_at_epoch: from this epoch on (counted from 0) everything is trained.
        lr: a learning rate of its own; None takes the optimizer's.
        normalise: how the model normalises the vector before fusion: `none`, `layer`, `batch`, `standardise`.
        dropout: probability, applied by the model to the normalised vector.
        modality_dropout: probability with which the model takes the modality away from a movie in training.

    Attributes:
        preparation: may be replaced by the fitted one before `build()`.
        network: an nn.Module; None until `build()`.

    Raises:
        UserError: an argument is out of its range.
    """

    sequences: ClassVar[bool] = False  # whether Features.sequence is filled
    takes_prefix: ClassVar[bool] = False  # whether other modalities' tokens may stand before its own
    rowwise: ClassVar[bool] = False  # whether a row's features depend on that row alone, in training too
    splits: ClassVar[bool] = False  # whether there is a `stem`, and `forward` takes what it gives

    def __init__(
        self,
        modality: str,
        *,
        pretrained: bool,
        freeze: str | int = "none",
        unfreeze_at_epoch: int | None = None,
        lr: float | None = None,
        normalise: str = "layer",
        dropout: float = 0.0,
        modality_dropout: float = 0.0,
    ):
        super().__init__()
        self.modality = modality
        self.pretrained = pretrained
        self.freeze = self._checked_freeze(freeze)
        self.unfreeze_at_epoch = unfreeze_at_epoch
        self.lr = lr
        self.normalise = normalise
        self.dropout = dropout
        self.modality_dropout = modality_dropout
        self.augment = False
        self.preparation: Preparation
        self.network: Any = None
        self._unfrozen = False
        self._check_arguments()

    @property
    def dim(self) -> int:
        """Size of `Features.vector`, known before `build()`."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """All that the features depend on besides the inputs: weights, pooling, scaling."""
        raise NotImplementedError

    def blocks(self) -> list[nn.Module]:
        """Embeddings or stem, then the blocks in the order the inputs pass them."""
        raise NotImplementedError

    def _load(self) -> nn.Module:
        """The network: pretrained weights in float32, or a new one."""
        raise NotImplementedError

    def forward(self, inputs: Any) -> Features:
        """Inputs of `preparation.batch`, all rows present -> Features of as many rows."""
        raise NotImplementedError

    def stem(self, inputs: Any) -> Partial:
        """What the frozen first blocks make of inputs, where `splits`; given that, `forward` goes on from there.

        Errors of any kind where a network cannot be cut there.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Whether `build()` will find what it needs, without loading it. Raises UserError where it will not."""

    @property
    def wastes_padding(self) -> bool:
        """Whether, once built, it computes something for what only fills a batch, so that batches of like length save time."""
        return True

    @property
    def constant(self) -> bool:
        """Whether the same inputs give the same features in every epoch, so that they may be computed once and kept."""
        return self.freeze == "all" and self.why_not_constant is None

    @property
    def why_not_constant(self) -> str | None:
        """For an encoder that is frozen whole: the sentence that says why its features change all the same, or None."""
        if self.freeze != "all":
            return None
        if self.augment:
            return f"encoder.{self.modality}.augment=true changes its inputs in every epoch"
        if self.unfreeze_at_epoch is not None:
            return f"encoder.{self.modality}.unfreeze_at_epoch={self.unfreeze_at_epoch} trains it from that epoch on"
        return None

    @property
    def constant_in_part(self) -> bool:
        """Whether its first blocks, but not all of it, give the same in every epoch, and what they give may be kept.

        Embeddings alone (`freeze: 0`) are not worth it: to look them up costs no more than to read what they gave.
        """
        some = isinstance(self.freeze, int) and self.freeze > 0
        return self.splits and some and not self.augment and self.unfreeze_at_epoch is None

    def build(self) -> None:
        """Load or create the network and freeze what is to be frozen; nothing the second time.

        Loading leaves torch's generator as it was: a run is the same whether its features came from the store or not.
        """
        if self.network is not None:
            return
        with torch.random.fork_rng(devices=[]) if self.pretrained else nullcontext():
            self.network = self._load()
        self._apply_freeze()

    def train(self, mode: bool = True) -> Encoder:
        """Training or evaluation mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def set_epoch(self, epoch: int) -> bool:
        """To be told each epoch before it starts; True if this changed what is trained."""
        if self._unfrozen or self.unfreeze_at_epoch is None or epoch < self.unfreeze_at_epoch:
            return False
        self._unfrozen = True
        self._apply_freeze()
        return True

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

    def _checked_freeze(self, freeze: str | int) -> str | int:
        if freeze in ("all", "none"):
            return freeze
        if not isinstance(freeze, bool) and str(freeze).isdecimal():
            return int(freeze)
        raise UserError(f"encoder.{self.modality}.freeze={freeze}: give all, none, or how many of the first blocks")

    def _check_arguments(self) -> None:
        where = f"encoder.{self.modality}"
        if not self.pretrained and self.freeze != "none":
            raise UserError(f"{where}.freeze={self.freeze}: an encoder that starts from scratch would never learn; use none")
        if self.unfreeze_at_epoch is not None and (self.freeze == "none" or self.unfreeze_at_epoch < 0):
            raise UserError(
                f"{where}.unfreeze_at_epoch={self.unfreeze_at_epoch} with {where}.freeze={self.freeze}: "
                "give an epoch from 0 on, and freeze=all or a number of blocks to be unfrozen then"
            )
        if self.normalise not in KINDS:
            raise UserError(f"{where}.normalise={self.normalise}: give one of {', '.join(KINDS)}")
        for name in ("dropout", "modality_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{where}.{name}={getattr(self, name)}: give a probability from 0 up to, but not including, 1")
        if self.lr is not None and self.lr <= 0:
            raise UserError(f"{where}.lr={self.lr}: give a positive learning rate, or null for the optimizer's")
