"""Encoders and preparations that read trailers."""

from gmu_lightning.encoders.trailers.audio_transformer import HuggingFaceAudio
from gmu_lightning.encoders.trailers.preparations import FramePreparation, MelPreparation

__all__ = ["FramePreparation", "HuggingFaceAudio", "MelPreparation"]
