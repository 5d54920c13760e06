"""{modality: features} -> one vector, by gates or by what gates are compared with."""

from gmu_lightning.fusion.base import Fusion, mismatch, prefix_mismatch
from gmu_lightning.fusion.baselines import Alone, Concat, Late, LowRank, Max, Mean, MixtureOfExperts, SelfGate, Sum
from gmu_lightning.fusion.bottleneck import Bottleneck
from gmu_lightning.fusion.gmu import GMU
from gmu_lightning.fusion.heads import LinearHead, MaxoutHead, MixtureHead
from gmu_lightning.fusion.mmbt import MMBT
from gmu_lightning.fusion.mult import MulTGMU

__all__ = [
    "GMU",
    "MMBT",
    "Alone",
    "Bottleneck",
    "Concat",
    "Fusion",
    "Late",
    "LinearHead",
    "LowRank",
    "Max",
    "MaxoutHead",
    "Mean",
    "MixtureHead",
    "MixtureOfExperts",
    "MulTGMU",
    "SelfGate",
    "Sum",
    "mismatch",
    "prefix_mismatch",
]
