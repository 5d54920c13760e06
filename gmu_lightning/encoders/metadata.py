"""What is known of a movie besides its contents (year, country, people, ...): a row of a table."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.tables import TablePreparation
from gmu_lightning.files import digest
from gmu_lightning.movie import Features, UserError


class MetadataVector(Encoder):
    """The row's numbers, passed through unchanged.

    Args:
        min_count: words that fewer movies of train have share one number.
        common: `freeze`, `unfreeze_at_epoch`, `lr`, `normalise`, `dropout`, `modality_dropout` of `Encoder`.

    Raises:
        UserError: an argument is out of its range.
    """

    def __init__(self, min_count: int = 5, *, pretrained: bool = True, **common: Any):
        super().__init__("metadata", pretrained=pretrained, **common)
        if min_count < 1:
            raise UserError(f"encoder.metadata.min_count={min_count}: give at least 1")
        self.preparation = TablePreparation("metadata", min_count)

    @property
    def dim(self) -> int:
        return self._size

    @property
    def fingerprint(self) -> str:
        return "metadata vector"

    def blocks(self) -> list[nn.Module]:
        return [self.network]

    def forward(self, inputs: Tensor) -> Features:
        """float32 (B, size) -> `Features`."""
        return Features(self.network(inputs))

    @property
    def _size(self) -> int:
        assert isinstance(self.preparation, TablePreparation)
        return self.preparation.size

    def _load(self) -> nn.Module:
        return nn.Identity()


class MetadataMLP(MetadataVector):
    """A perceptron with one hidden layer, from scratch.

    Args:
        hidden: its size.
        dim: size of the vector.
        inner_dropout: probability, on the hidden layer.
        min_count, common: of `MetadataVector`.
    """

    def __init__(self, hidden: int = 256, dim: int = 128, inner_dropout: float = 0.1, min_count: int = 5, **common: Any):
        super().__init__(min_count, pretrained=False, **common)
        if min(hidden, dim) < 1 or not 0 <= inner_dropout < 1:
            raise UserError(
                f"encoder.metadata.hidden={hidden} dim={dim} inner_dropout={inner_dropout}: "
                "give sizes from 1 on, and a probability from 0 up to, but not including, 1"
            )
        self.hidden, self._dim, self.inner_dropout = hidden, dim, inner_dropout

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def fingerprint(self) -> str:
        return digest(["metadata", self.hidden, self._dim])

    def _load(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(self._size, self.hidden), nn.GELU(), nn.Dropout(self.inner_dropout), nn.Linear(self.hidden, self._dim)
        )
