"""What preparations share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from pathlib import Path
from typing import Any, Self

from gmu_lightning.encoders import decoding
from gmu_lightning.movie import UserError


class Unlearned:
    """A preparation that learns nothing from train."""

    learns = False

    def fit(self, contents: Iterable[Any]) -> Self:
        """Itself."""
        return self

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restored(self, state: Mapping[str, Any]) -> Self:
        """Itself."""
        return self


class OfTrailers(Unlearned):
    """A preparation that decodes trailers, which takes seconds each."""

    costly = True

    def close(self) -> None:
        """End the decoders."""
        decoding.release()


def check_positive(where: str, **settings: Any) -> None:
    """UserError where a setting, `where`.name, is no number above 0."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf:
            raise UserError(f"{where}.{name}={value}: give a number above 0")


def trailer(content: Any, modality: str) -> Path:
    """The content, if it is a file. Raises UserError."""
    if isinstance(content, Path):
        return content
    raise UserError(
        f"this data set's {modality} is {type(content).__name__} and no trailer; "
        f"choose an encoder/{modality} that reads extracted features, such as mean, or data.{modality}=trailers"
    )
