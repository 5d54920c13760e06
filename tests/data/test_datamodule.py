"""Load batches of a data set from its columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.data.dataset import DataSet
from gmu_lightning.data.readers.layouts import Layout
from gmu_lightning.data.store import Store, prepared
from gmu_lightning.data.table import MovieTable
from gmu_lightning.encoders.text.bag_of_words import WordPreparation
from gmu_lightning.movie import SPLITS, Movie, MovieBatch, UserError

PLOTS = {
    "train": ["a b c", "a", None, "b b b b", "c a", "a b", "c", "b c a b"],
    "val": ["a b", None, "c"],
    "test": ["c c c", "a", "b"],
}


class Plots(DataSet):
    """A data set with one-letter words in its plots; every second movie is a drama."""

    modalities = ("text",)
    plots: ClassVar = PLOTS

    def open(self, modalities: Sequence[str], store: Store) -> Layout:
        return Listed(self.plots)


class Listed(Layout):
    name, root = "here", Path("here")

    def __init__(self, plots: dict[str, list[str | None]]):
        self.plots = plots

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        for n, plot in enumerate(self.plots[split]):
            yield Movie(f"{split}{n}", {} if plot is None else {"text": plot}, ("Drama",) if n % 2 else ("Drama", "War"))


class NoPlots(Plots):
    """A data set without plots."""

    plots: ClassVar = {split: [None] * len(PLOTS[split]) for split in SPLITS}


def table_of(kind: type[Plots], folder: Path) -> MovieTable:
    return kind(str(folder)).load(("text",), Store(folder / "store"), fitted=kind is NoPlots)


def ready(kind: type[Plots], folder: Path, seed: int = 0, **batching: int) -> MovieDataModule:
    class Module(MovieDataModule):
        reads = kind

    table = table_of(kind, folder)
    preparation = WordPreparation(max_words=10, min_count=1, vocabulary_size=10)
    store, contents, digests = Store(folder / "store"), table.contents("text"), table.digests["text"]
    column = prepared(store, "text", contents, digests, table.in_train, preparation)
    return Module(root=str(folder), **batching).over(table, {"text": column}, seed)


def ids(batches: list[MovieBatch]) -> list[str]:
    return [movie for batch in batches for movie in batch.ids]


@pytest.mark.parametrize("kind", [Plots, NoPlots])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("training", [True, False])
def test_batches_hold_every_movie_of_the_split_once(tmp_path, kind, split, training):
    data = ready(kind, tmp_path, batch_size=2)
    assert sorted(ids(list(data.loader(split, training)))) == data.table.ids[split]


def test_a_row_of_a_batch_is_one_movies_throughout(tmp_path):
    data = ready(Plots, tmp_path, batch_size=3)
    number = {movie.id: n for n, movie in enumerate(data.table.movies)}
    for batch in data.loader("train", training=True):
        rows = [number[movie] for movie in batch.ids]
        assert batch.present[:, 0].tolist() == [data.table.movies[n].content.get("text") is not None for n in rows]
        assert torch.equal(batch.labels, torch.from_numpy(data.table.labels[rows]).float())
        words = data.columns["text"].batch(rows, True)
        assert torch.equal(batch.inputs["text"].ids, words.ids) and torch.equal(batch.inputs["text"].mask, words.mask)
        assert batch.inputs["text"].lengths == words.lengths


def test_training_order_depends_on_seed_and_epoch(tmp_path):
    orders = set()
    for seed in (1, 2):
        data = ready(Plots, tmp_path, seed, batch_size=2)
        for epoch in (0, 1):
            order = ids(list(data.loader("train", training=True, epoch=epoch)))
            assert order == ids(list(data.loader("train", training=True, epoch=epoch)))
            orders.add(tuple(order))
    assert len(orders) == 4
    assert ids(list(data.loader("val", epoch=0))) == ids(list(data.loader("val", epoch=1)))


def test_a_token_budget_applies_to_training_only(tmp_path):
    data = ready(Plots, tmp_path, batch_size=3, token_budget=4)
    lengths = data.columns["text"].lengths
    number = {movie.id: n for n, movie in enumerate(data.table.movies)}
    for batch in data.loader("train", training=True):
        assert len(batch.ids) * lengths[[number[movie] for movie in batch.ids]].max() <= 4
    assert [len(batch.ids) for batch in data.loader("val")] == [3]


@pytest.mark.parametrize("arguments", [{"batch_size": 3}, {"batch_size": 3, "token_budget": 4}])
def test_total_steps_is_the_number_of_batches(tmp_path, arguments):
    data = ready(Plots, tmp_path, **arguments)
    seen = [len(list(data.loader("train", training=True, epoch=epoch))) for epoch in range(3)]
    assert data.total_steps(epochs=3, accumulate=1) == sum(seen)
    assert data.total_steps(epochs=3, accumulate=2) == sum(-(-n // 2) for n in seen)


def test_the_fingerprint_depends_on_the_movies_read_alone(tmp_path):
    class Changed(Plots):
        plots: ClassVar = PLOTS | {"val": ["a b", None, "C"]}

    found = [table_of(kind, tmp_path / str(n)).fingerprint for n, kind in enumerate((Plots, Plots, Changed, NoPlots))]
    assert found[0] == found[1]
    assert found[0]["movies"] == found[2]["movies"] == found[3]["movies"]
    assert len({fingerprint["text"] for fingerprint in found[1:]}) == 3


def test_labels_stand_in_the_order_of_the_vocabulary(tmp_path):
    data = table_of(Plots, tmp_path)
    assert data.vocabulary.names == ("Drama", "War")
    assert np.array_equal(data.labels[data.rows("val")], [[True, True], [True, False], [True, True]])


class Rootless(Layout):
    name = "here"


def test_a_layout_without_a_root_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Plots, "open", lambda self, modalities, store: Rootless())
    with pytest.raises(UserError, match=r"Rootless has no root: set self.root in its __init__, as Layout describes"):
        table_of(Plots, tmp_path)
