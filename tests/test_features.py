"""Sequences of a frozen encoder are kept as its vectors are, and equal those of the step."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from gmu_lightning.data.store import Store, content_digest, prepared
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.features import FeatureColumn, encoded, feature_key, features_of
from gmu_lightning.movie import Features

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
CONTENTS = [RNG.normal(size=(t, 3)).astype(np.float32) for t in RNG.integers(1, 9, size=70)]
CONTENTS[4] = None


@dataclass(frozen=True)
class Padded:
    """Rows (T, 3) padded to the longest, with the mask as a column in front."""

    learns, fingerprint = False, "padded"

    def fit(self, contents):
        return self

    def state(self):
        return {}

    def restored(self, state):
        return self

    def store(self, content):
        return content

    def batch(self, rows, training):
        out = torch.zeros(len(rows), max(len(r) for r in rows if r is not None), 4)
        for n, row in enumerate(rows):
            if row is not None:
                out[n, : len(row), 0] = 1
                out[n, : len(row), 1:] = torch.from_numpy(np.array(row))
        return out


class Frames(Encoder):
    """A linear map of every frame, or the frames themselves; the vector is their mean."""

    sequences = True
    dim, fingerprint = 3, "frames"

    def __init__(self, layer):
        super().__init__("video", pretrained=True, freeze="all", normalise="none")
        self.layer, self.preparation = layer, Padded()

    def blocks(self):
        return [self.network]

    def _load(self):
        return self.layer

    def forward(self, inputs):
        mask = inputs[..., 0] > 0
        sequence = self.network(inputs[..., 1:]) * mask[..., None]
        return Features(sequence.sum(1) / mask.sum(1, keepdim=True), sequence, mask)


@pytest.fixture
def column(tmp_path):
    digests = [None if content is None else content_digest(content) for content in CONTENTS]
    return prepared(Store(tmp_path), "video", CONTENTS, digests, np.ones(len(CONTENTS), bool), Padded())


def test_kept_sequences_equal_those_of_the_step(tmp_path, column):
    encoder = Frames(torch.nn.Linear(3, 3))
    kept = encoded(Store(tmp_path), column, encoder, CPU, sequences=True)
    assert isinstance(kept, FeatureColumn)
    encoder.build()
    rows = [7, 0, 69, 12]
    (step,) = features_of(encoder, column, rows, CPU)
    found = kept.batch(rows)
    assert torch.equal(found.mask, step.mask)
    assert torch.allclose(found.sequence, step.sequence, atol=1e-6)
    assert torch.allclose(found.vector, step.vector, atol=1e-6)
    assert kept.lengths.tolist() == [0 if content is None else len(content) for content in CONTENTS]
    assert not kept.batch([4, 0]).mask[0].any()


def test_vectors_alone_are_kept_where_nobody_reads_sequences(tmp_path, column):
    encoder = Frames(torch.nn.Linear(3, 3))
    kept = encoded(Store(tmp_path), column, encoder, CPU)
    assert kept.batch([0, 1]).sequence is None and kept.lengths is None
    assert feature_key(column.key, encoder) != feature_key(column.key, encoder, sequences=True)


def test_what_an_encoder_without_parameters_passes_through_is_not_kept_twice(tmp_path, column):
    assert encoded(Store(tmp_path), column, Frames(torch.nn.Identity()), CPU, sequences=True) is column
