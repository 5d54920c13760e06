"""Fusions join the features of several modalities to one vector: gates, and the baselines that gates are compared with."""

from gmu_lightning.fusion.base import Fusion, balance_mismatch, head_mismatch, mismatch, prefix_mismatch
from gmu_lightning.fusion.baselines import Concat, Late, LowRank, Max, Mean, MixtureOfExperts, SelfGate, SingleModality, Sum
from gmu_lightning.fusion.bottleneck import Bottleneck
from gmu_lightning.fusion.gmu import GMU
from gmu_lightning.fusion.heads import LinearHead, MaxoutHead, MixtureHead
from gmu_lightning.fusion.late_transformer import LateTransformer, LateTransformerOfVectors
from gmu_lightning.fusion.mmbt import MMBT
from gmu_lightning.fusion.mult import MulTGMU

__all__ = [
    "GMU",
    "MMBT",
    "Bottleneck",
    "Concat",
    "Fusion",
    "Late",
    "LateTransformer",
    "LateTransformerOfVectors",
    "LinearHead",
    "LowRank",
    "Max",
    "MaxoutHead",
    "Mean",
    "MixtureHead",
    "MixtureOfExperts",
    "MulTGMU",
    "SelfGate",
    "SingleModality",
    "Sum",
    "balance_mismatch",
    "head_mismatch",
    "mismatch",
    "prefix_mismatch",
]
