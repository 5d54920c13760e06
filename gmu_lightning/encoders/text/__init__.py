"""Encoders of plots."""

from gmu_lightning.encoders.text.bag_of_words import BagOfWords
from gmu_lightning.encoders.text.huggingface import HuggingFaceText

__all__ = ["BagOfWords", "HuggingFaceText"]
