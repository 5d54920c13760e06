"""An own encoder."""

import numpy as np
import torch
from torch import nn

from gmu_lightning.encoders.base import Encoder, Unlearned
from gmu_lightning.movie import Features

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


class LetterCounts(Unlearned):
    """Store a plot as the number of each letter."""

    fingerprint = "letter counts"

    def store(self, content):
        return np.array([content.lower().count(letter) for letter in ALPHABET], dtype=np.float32)

    def batch(self, rows, training):
        absent = np.zeros(len(ALPHABET), dtype=np.float32)
        return torch.from_numpy(np.stack([absent if row is None else row for row in rows]))


class Letters(Encoder):
    """Encode a plot by one layer over the counts of its letters."""

    def __init__(self, dim=16, **common):
        super().__init__("text", pretrained=False, **common)
        self._dim = dim
        self.preparation = LetterCounts()

    @property
    def fingerprint(self):
        return f"letters {self._dim}"

    def _load(self):
        return nn.Linear(len(ALPHABET), self._dim)

    def forward(self, inputs):
        return Features(self.network(inputs))
