"""{modality: features} -> one vector, by gates or by what gates are compared with."""

from gmu_lightning.fusion.base import Fusion, LinearHead, MixtureHead, mismatch
from gmu_lightning.fusion.baselines import Alone, Concat, Late, LowRank, Max, Mean, MixtureOfExperts, Sum
from gmu_lightning.fusion.gmu import GMU

__all__ = [
    "GMU",
    "Alone",
    "Concat",
    "Fusion",
    "Late",
    "LinearHead",
    "LowRank",
    "Max",
    "Mean",
    "MixtureHead",
    "MixtureOfExperts",
    "Sum",
    "mismatch",
]
