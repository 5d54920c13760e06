"""Cached vectors and sequences of a frozen encoder equal those that training would compute."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from gmu_lightning.config.schema import EncodeConfig
from gmu_lightning.data.inventory import remove
from gmu_lightning.data.store import PreparedColumn, Store, content_digest, prepared
from gmu_lightning.encoders.base import Encoder, Unlearned
from gmu_lightning.features import columns
from gmu_lightning.features.columns import FeatureCache, FeatureColumn, feature_key
from gmu_lightning.features.runner import features_of
from gmu_lightning.movie import Cached, Features

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
CONTENTS = [RNG.normal(size=(t, 3)).astype(np.float32) for t in RNG.integers(1, 9, size=70)]
CONTENTS[4] = None


@dataclass(frozen=True)
class Padded(Unlearned):
    """Pad rows (T, 3) to the longest, with the mask as the first column."""

    fingerprint = "padded"

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
    """Apply a layer to every frame; the vector is the mean of the results."""

    sequences = True
    dim, fingerprint = 3, "frames"

    def __init__(self, layer):
        super().__init__("video", pretrained=True, freeze="all", normalise="none")
        self.layer, self.preparation = layer, Padded()

    def _load(self):
        return self.layer

    def forward(self, inputs):
        mask = inputs[..., 0] > 0
        sequence = self.network(inputs[..., 1:]) * mask[..., None]
        return Features(sequence.sum(1) / mask.sum(1, keepdim=True), sequence, mask)


class Reading:
    """A fusion that reads vectors or tokens."""

    def __init__(self, tokens):
        self.tokens = tokens

    def reads_tokens(self, modality):
        return self.tokens

    def lets_cache(self, encoder):
        return True


VECTORS, TOKENS = Reading(False), Reading(True)


def encoded(folder, encoder, column, fusion=VECTORS, **encoding):
    return FeatureCache(Store(folder), CPU, EncodeConfig(**encoding)).column(encoder, column, fusion)


@pytest.fixture
def column(tmp_path):
    digests = [None if content is None else content_digest(content) for content in CONTENTS]
    return prepared(Store(tmp_path), "video", CONTENTS, digests, np.ones(len(CONTENTS), bool), Padded())


def test_cached_sequences_equal_computed_ones(tmp_path, column):
    encoder = Frames(torch.nn.Linear(3, 3))
    kept = encoded(tmp_path, encoder, column, TOKENS)
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


def test_only_vectors_are_cached_unless_tokens_are_read(tmp_path, column):
    encoder = Frames(torch.nn.Linear(3, 3))
    kept = encoded(tmp_path, encoder, column)
    assert kept.batch([0, 1]).sequence is None and kept.lengths is None
    assert feature_key(column.key, encoder) != feature_key(column.key, encoder, sequences=True)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux lists the mapped files of a process")
def test_processes_share_the_memory_of_stored_vectors(tmp_path, column):
    kept = encoded(tmp_path, Frames(torch.nn.Linear(3, 3)), column)
    (file,) = tmp_path.glob("features/*/vectors.npy")
    stored = np.load(file)
    assert torch.equal(kept.vectors, torch.from_numpy(stored)) and str(file) in Path("/proc/self/maps").read_text()
    kept.vectors.add_(1.0)
    assert np.array_equal(np.load(file), stored)


def test_features_are_independent_of_the_number_of_cores(tmp_path, column, monkeypatch):
    encoder, found = Frames(torch.nn.Linear(3, 3)), []
    for cores in (1, 3):
        monkeypatch.setattr(columns, "cores", lambda cores=cores: cores)
        found.append(encoded(tmp_path / str(cores), encoder, column, TOKENS))
    assert torch.equal(found[0].vectors, found[1].vectors)
    assert np.array_equal(found[0].sequences.padded([7, 0])[0], found[1].sequences.padded([7, 0])[0])


def test_another_precision_gives_another_column(tmp_path, column, capsys):
    encoder = Frames(torch.nn.Linear(3, 3))
    exact, near = (encoded(tmp_path, encoder, column, backend="torch", precision=p) for p in ("float32", "bfloat16"))
    assert exact.key == feature_key(column.key, encoder)
    assert near.key == feature_key(column.key, encoder, computed_in="bfloat16") != exact.key
    assert not torch.equal(near.vectors, exact.vectors) and torch.allclose(near.vectors, exact.vectors, atol=0.05)
    assert near.cached == Cached(12, "torch", "bfloat16", False, near.vectors.nbytes)
    assert "video is encoded by torch" in capsys.readouterr().err
    again = encoded(tmp_path, encoder, column, backend="openvino")  # in float32 all backends share one column
    assert again.key == exact.key and again.cached == Cached(12, "torch", "float32", True, again.vectors.nbytes)
    assert not capsys.readouterr().err


def test_encoder_without_parameters_is_not_cached(tmp_path, column):
    found = encoded(tmp_path, Frames(torch.nn.Identity()), column, TOKENS)
    assert isinstance(found, PreparedColumn) and found.key == column.key
    assert not (tmp_path / "features").exists() or not list((tmp_path / "features").glob("[!.]*"))


def test_features_removed_during_a_read_are_recomputed(tmp_path, column, monkeypatch):
    encoder = Frames(torch.nn.Linear(3, 3))
    first = encoded(tmp_path, encoder, column)
    use = Store.use

    def too_late(store, folder):
        if "features" in folder.parts:
            monkeypatch.undo()
            remove(tmp_path, older_than=0)
        use(store, folder)

    monkeypatch.setattr(Store, "use", too_late)
    again = encoded(tmp_path, encoder, column)
    assert torch.equal(again.vectors, first.vectors)
