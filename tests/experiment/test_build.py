"""Normalisers learn from train alone, and a new store is announced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from gmu_lightning.console import loud
from gmu_lightning.data.audit import Audit
from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.data.dataset import DataSet
from gmu_lightning.data.ragged import Ragged
from gmu_lightning.data.readers.layouts import Layout
from gmu_lightning.data.store import Store
from gmu_lightning.encoders.vector import Vector
from gmu_lightning.experiment import build
from gmu_lightning.features.columns import FeatureCache, FeatureColumn
from gmu_lightning.fusion import Fusion, Mean
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import SPLITS, Cached, Movie, UserError
from gmu_lightning.nn.normalise import Standardise

ROWS = {split: np.random.default_rng(n).normal(5, 3, size=(4, 3)).astype(np.float32) for n, split in enumerate(SPLITS)}


class Measured(DataSet):
    """Four movies a split, a text vector and an image vector each; the second movie of a split has no text."""

    modalities = ("text", "image")
    beyond_train = 1.0

    def open(self, modalities: Sequence[str], store: Store) -> Layout:
        return Listed(self.beyond_train)


class Listed(Layout):
    name, root = "here", Path("here")

    def __init__(self, beyond_train: float):
        self.beyond_train = beyond_train

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        for n, row in enumerate(ROWS[split] * (1.0 if split == "train" else self.beyond_train)):
            content = {"image": row} if n == 1 else {"text": row, "image": row}
            yield Movie(f"{split}{n}", content, ("Drama",))


class Inflated(Measured):
    beyond_train = 1000.0


class MeasuredDataModule(MovieDataModule):
    reads = Measured


def fitted(kind: type[Measured], folder: Path) -> MovieGenreClassifier:
    store, device = Store(folder / kind.__name__), torch.device("cpu")
    encoders = {m: Vector(m, freeze="all", normalise="standardise") for m in ("text", "image")}
    table = kind(None).load(("text", "image"), store)
    table, columns, _ = build.build_columns(table, encoders, Mean, FeatureCache(store, device))
    model = MovieGenreClassifier(encoders, Mean({m: e.dim for m, e in encoders.items()}), 1, nn.BCEWithLogitsLoss())
    build.fit_normalisers(model, MeasuredDataModule(root=None).over(table, columns), device)
    return model


def test_standardising_learns_from_present_train_movies(tmp_path):
    model = fitted(Measured, tmp_path)
    with_text = ROWS["train"][[0, 2, 3]]
    np.testing.assert_allclose(model.normalisers["text"].mean, with_text.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(model.normalisers["text"].std, with_text.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(model.normalisers["image"].mean, ROWS["train"].mean(axis=0), rtol=1e-5)


def test_val_and_test_do_not_change_the_normalisers(tmp_path):
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
def test_tokens_are_standardised_if_the_fusion_reads_them(modality, needs, by_token):
    random = np.random.default_rng(0)
    tokens = random.normal(size=(6, 2)).astype(np.float32)  # movies of 1, 2 and 3 steps; the last is not in train
    vectors = torch.from_numpy(random.normal(size=(3, 2)).astype(np.float32))
    shapes = np.array([[1, 2], [2, 2], [3, 2]])
    sequences = Ragged(tokens.ravel(), np.array([[0, 2], [2, 6], [6, 12]]), shapes, np.ones(3, bool))
    cached = Cached(0, "torch", "float32", False, vectors.nbytes)
    column = FeatureColumn("key", Vector(modality).preparation, vectors, np.ones(3, bool), cached, sequences)
    normaliser = Standardise(2)
    fusion = type("Reading", (Fusion,), {"needs": needs})
    model = SimpleNamespace(normalisers={modality: normaliser}, encoders={modality: None}, fusion=fusion)
    data = SimpleNamespace(columns={modality: column}, table=SimpleNamespace(rows=lambda split: np.array([0, 1])))
    build.fit_normalisers(model, data, torch.device("cpu"))
    expected = tokens[:3].mean(axis=0) if by_token else vectors[:2].numpy().mean(axis=0)
    assert normaliser.mean.numpy() == pytest.approx(expected, abs=1e-6)


def test_a_new_store_is_named_once(tmp_path, run_config, capsys):
    loud()
    config = run_config("experiment=smoke", f"store.dir={tmp_path}/a store")
    for _ in range(2):
        build.load_table(config, Store.of(config.store))
    line = f"store.dir={tmp_path}/a store was created: it keeps prepared inputs and features for later runs"
    assert capsys.readouterr().err.splitlines() == [line]


def test_a_store_is_not_created_for_unreadable_data(tmp_path, run_config, capsys):
    loud()
    config = run_config("data.root=nowhere", f"store.dir={tmp_path}/store")
    with pytest.raises(UserError, match="nowhere"):
        build.load_table(config, Store.of(config.store))
    assert not (tmp_path / "store").exists()
    assert "was created" not in capsys.readouterr().err
