"""What a model takes from the data it takes from train alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.module import MovieData
from gmu_lightning.data.store import Store
from gmu_lightning.encoders.normalise import Standardise
from gmu_lightning.encoders.vector import Vector
from gmu_lightning.experiment import build
from gmu_lightning.features import FeatureColumn, Sequences
from gmu_lightning.fusion import Mean
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import SPLITS, Movie

ROWS = {split: np.random.default_rng(n).normal(5, 3, size=(4, 3)).astype(np.float32) for n, split in enumerate(SPLITS)}


class Measured(MovieData):
    """Four movies a split, a text vector and an image vector each; the second movie of a split has no text."""

    modalities = ("text", "image")
    layout = "here"
    beyond_train = 1.0

    def open(self, store: Store) -> None:
        pass

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        for n, row in enumerate(ROWS[split] * (1.0 if split == "train" else self.beyond_train)):
            content = {"image": row} if n == 1 else {"text": row, "image": row}
            yield Movie(f"{split}{n}", content, ("Drama",))


class Inflated(Measured):
    beyond_train = 1000.0


def fitted(kind: type[Measured], folder: Path) -> MovieGenreClassifier:
    data, store, device = kind(None), Store(folder / kind.__name__), torch.device("cpu")
    data.load(("text", "image"), store)
    encoders = {m: Vector(m, freeze="all", normalise="standardise") for m in ("text", "image")}
    build.build_columns(data, encoders, "vector", store, device)
    model = MovieGenreClassifier(encoders, Mean({m: e.dim for m, e in encoders.items()}), 1, nn.BCEWithLogitsLoss())
    build.fit_normalisers(model, data, device)
    return model


def test_standardising_learns_from_the_movies_of_train_that_have_the_modality(tmp_path):
    model = fitted(Measured, tmp_path)
    with_text = ROWS["train"][[0, 2, 3]]
    np.testing.assert_allclose(model.normalisers["text"].mean, with_text.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(model.normalisers["text"].std, with_text.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(model.normalisers["image"].mean, ROWS["train"].mean(axis=0), rtol=1e-5)


def test_val_and_test_have_no_say_in_it(tmp_path):
    for found, expected in zip(
        fitted(Inflated, tmp_path).normalisers.buffers(), fitted(Measured, tmp_path).normalisers.buffers(), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("modality", "needs", "by_token"),
    [
        ("video", "vector", False),
        ("video", "sequence", True),
        ("text", "sequence", True),
        ("video", "tokens", True),
        ("text", "tokens", False),
    ],
)
def test_what_is_standardised_is_what_the_fusion_reads_of_train(modality, needs, by_token):
    random = np.random.default_rng(0)
    tokens = random.normal(size=(6, 2)).astype(np.float32)  # movies of 1, 2 and 3 steps; the last is not in train
    vectors = torch.from_numpy(random.normal(size=(3, 2)).astype(np.float32))
    sequences = Sequences(tokens, starts=np.array([0, 1, 3]), lengths=np.array([1, 2, 3]))
    column = FeatureColumn("key", vectors, np.ones(3, bool), (), 0, sequences)
    normaliser = Standardise(2)
    fusion = SimpleNamespace(needs=needs)
    model = SimpleNamespace(normalisers={modality: normaliser}, encoders={modality: None}, fusion=fusion)
    data = SimpleNamespace(columns={modality: column}, rows=lambda split: np.array([0, 1]))
    build.fit_normalisers(model, data, torch.device("cpu"))
    expected = tokens[:3].mean(axis=0) if by_token else vectors[:2].numpy().mean(axis=0)
    assert normaliser.mean.numpy() == pytest.approx(expected, abs=1e-6)
