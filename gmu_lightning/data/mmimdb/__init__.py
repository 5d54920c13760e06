"""MM-IMDb: movies with a plot and a poster."""

from gmu_lightning.data.mmimdb.dataset import MMIMDb, MMIMDbDataModule

__all__ = ["MMIMDb", "MMIMDbDataModule"]
