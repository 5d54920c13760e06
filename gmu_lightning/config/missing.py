"""The setting `data.missing`: the share of movies that lose a modality."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass

from gmu_lightning.config.ranges import Probability, Seed
from gmu_lightning.movie import MODALITIES, SPLITS


def _splits(value: Any) -> list[str]:
    if isinstance(value, list) and value and all(split in SPLITS for split in value) and len(set(value)) == len(value):
        return value
    raise ValueError


@dataclass(frozen=True, config=ConfigDict(strict=True, allow_inf_nan=False, defer_build=True), kw_only=True)
class MissingConfig:
    """The share of the movies of some splits that lose a modality, for each modality."""

    text: Probability = 0.0
    image: Probability = 0.0
    video: Probability = 0.0
    audio: Probability = 0.0
    metadata: Probability = 0.0
    splits: Annotated[Any, BeforeValidator(_splits), "a list of train, val and test, such as [train,val]"] = SPLITS
    seed: Seed = 0

    @property
    def rates(self) -> dict[str, float]:
        """{modality: its rate}, for rates above 0."""
        return {modality: rate for modality in MODALITIES if (rate := getattr(self, modality))}

    def __str__(self) -> str:
        rates = " ".join(f"missing.{modality}={rate:g}" for modality, rate in self.rates.items())
        return f"{rates} in {', '.join(self.splits)}" if rates else ""
