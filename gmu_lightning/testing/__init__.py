"""Checks of the rules that every fusion, encoder and data set must follow, for this package's classes and for yours.

Each check returns None if all rules hold. Otherwise it raises AssertionError, whose message names the broken rule and the remedy.
"""

from gmu_lightning.testing.data import check_data
from gmu_lightning.testing.encoders import check_encoder
from gmu_lightning.testing.fusions import check_fusion

__all__ = ["check_data", "check_encoder", "check_fusion"]
