"""What every fusion, encoder and data set keeps to: the checks that our own pass, for other people's classes."""

from gmu_lightning.testing.data import check_data
from gmu_lightning.testing.encoder import check_encoder
from gmu_lightning.testing.fusion import check_fusion

__all__ = ["check_data", "check_encoder", "check_fusion"]
