"""Generated movies whose true modalities are known."""

from gmu_lightning.data.planted.dataset import Planted, PlantedDataModule, generate

__all__ = ["Planted", "PlantedDataModule", "generate"]
