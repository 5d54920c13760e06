"""What every data set shares: loaders over columns, batch by batch what the split holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.module import MovieData
from gmu_lightning.data.store import Store, prepared
from gmu_lightning.encoders.words import WordPreparation
from gmu_lightning.movie import SPLITS, Movie, MovieBatch

PLOTS = {
    "train": ["a b c", "a", None, "b b b b", "c a", "a b", "c", "b c a b"],
    "val": ["a b", None, "c"],
    "test": ["c c c", "a", "b"],
}


class Plots(MovieData):
    """Plots of a letter a word; every second movie is a drama."""

    modalities = ("text",)
    layout = "here"
    plots: ClassVar = PLOTS

    def open(self, store: Store) -> None:
        pass

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        for n, plot in enumerate(self.plots[split]):
            yield Movie(f"{split}{n}", {} if plot is None else {"text": plot}, ("Drama",) if n % 2 else ("Drama", "War"))


class NoPlots(Plots):
    """A modality that no movie has."""

    plots: ClassVar = {split: [None] * len(PLOTS[split]) for split in SPLITS}


def ready(kind: type[Plots], folder: Path, **arguments: object) -> Plots:
    data = kind(str(folder), **arguments)
    store = Store(folder / "store")
    data.load(("text",), store, require=kind is not NoPlots)
    preparation = WordPreparation(max_words=10, min_count=1, vocabulary_size=10)
    data.use({"text": prepared(store, "text", data.contents("text"), data.digests["text"], data.in_train, preparation)})
    return data


def ids(batches: list[MovieBatch]) -> list[str]:
    return [movie for batch in batches for movie in batch.ids]


@pytest.mark.parametrize("kind", [Plots, NoPlots])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("training", [True, False])
def test_batches_hold_every_movie_of_the_split_once(tmp_path, kind, split, training):
    data = ready(kind, tmp_path, batch_size=2)
    assert sorted(ids(list(data.loader(split, training)))) == data.ids[split]


def test_a_row_of_a_batch_is_one_movies_throughout(tmp_path):
    data = ready(Plots, tmp_path, batch_size=3)
    number = {movie.id: n for n, movie in enumerate(data.movies)}
    for batch in data.loader("train", training=True):
        rows = [number[movie] for movie in batch.ids]
        assert batch.present[:, 0].tolist() == [data.movies[n].content.get("text") is not None for n in rows]
        assert torch.equal(batch.labels, torch.from_numpy(data.labels[rows]).float())
        words = data.columns["text"].batch(rows, True)
        assert torch.equal(batch.inputs["text"].ids, words.ids) and torch.equal(batch.inputs["text"].mask, words.mask)
        assert batch.inputs["text"].lengths == words.lengths


def test_training_order_is_the_seeds_and_the_epochs(tmp_path):
    data = ready(Plots, tmp_path, batch_size=2)
    orders = set()
    for seed in (1, 2):
        data.seed_order(seed)
        for epoch in (0, 1):
            order = ids(list(data.loader("train", training=True, epoch=epoch)))
            assert order == ids(list(data.loader("train", training=True, epoch=epoch)))
            orders.add(tuple(order))
    assert len(orders) == 4
    assert ids(list(data.loader("val", epoch=0))) == ids(list(data.loader("val", epoch=1)))


def test_a_budget_of_tokens_is_trainings_alone(tmp_path):
    data = ready(Plots, tmp_path, batch_size=3, token_budget=4)
    lengths = data.columns["text"].lengths
    number = {movie.id: n for n, movie in enumerate(data.movies)}
    for batch in data.loader("train", training=True):
        assert len(batch.ids) * lengths[[number[movie] for movie in batch.ids]].max() <= 4
    assert [len(batch.ids) for batch in data.loader("val")] == [3]


@pytest.mark.parametrize("arguments", [{"batch_size": 3}, {"batch_size": 3, "token_budget": 4}])
def test_the_steps_of_a_run_are_the_batches_it_will_see(tmp_path, arguments):
    data = ready(Plots, tmp_path, **arguments)
    seen = [len(list(data.loader("train", training=True, epoch=epoch))) for epoch in range(3)]
    assert data.total_steps(epochs=3, accumulate=1) == sum(seen)
    assert data.total_steps(epochs=3, accumulate=2) == sum(-(-n // 2) for n in seen)


def test_the_fingerprint_is_of_what_was_read_and_of_nothing_else(tmp_path):
    class Changed(Plots):
        plots: ClassVar = PLOTS | {"val": ["a b", None, "C"]}

    found = [
        ready(kind, tmp_path / str(n), batch_size=n + 1).fingerprint for n, kind in enumerate((Plots, Plots, Changed, NoPlots))
    ]
    assert found[0] == found[1]
    assert found[0]["movies"] == found[2]["movies"] == found[3]["movies"]
    assert len({fingerprint["text"] for fingerprint in found[1:]}) == 3


def test_labels_stand_in_the_order_of_the_vocabulary(tmp_path):
    data = ready(Plots, tmp_path)
    assert data.vocabulary.names == ("Drama", "War")
    assert np.array_equal(data.labels[data.rows("val")], [[True, True], [True, False], [True, True]])
