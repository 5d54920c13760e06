"""An own encoder: see docs/howto/add_an_encoder.md."""

from zlib import crc32

import numpy as np
import torch
from torch import nn

from gmu_lightning.encoders.base import Encoder, Unlearned
from gmu_lightning.movie import Features


class HashedCounts(Unlearned):
    """Store a plot as counts of its words, each in the place that a hash gives it."""

    def __init__(self, size):
        self.size = size

    @property
    def fingerprint(self):
        return f"hashed counts {self.size}"

    def store(self, content):
        counts = np.zeros(self.size, dtype=np.float32)
        for word in content.lower().split():
            counts[crc32(word.encode()) % self.size] += 1
        return counts

    def batch(self, rows, training):
        absent = np.zeros(self.size, dtype=np.float32)
        return torch.from_numpy(np.stack([absent if row is None else row for row in rows]))


class HashedWords(Encoder):
    """Encode a plot by one layer over the counts of its words."""

    def __init__(self, dim=32, size=512, **common):
        super().__init__("text", pretrained=False, **common)
        self._dim = dim
        self.preparation = HashedCounts(size)

    @property
    def fingerprint(self):
        return f"hashed words {self._dim}"

    def _load(self):
        return nn.Linear(self.preparation.size, self._dim)

    def forward(self, inputs):
        return Features(self.network(inputs))
