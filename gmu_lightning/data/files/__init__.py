"""The user's own table of items, with a column for each modality."""

from gmu_lightning.data.files.dataset import Files, FilesDataModule

__all__ = ["Files", "FilesDataModule"]
