"""Gates by genre: each number is recomputed in the plainest way."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from gmu_lightning.files import write_table
from gmu_lightning.report.gates import by_genre
from gmu_lightning.run import Predictions

GENRES = ("Drama", "Western", "Never")
MODALITIES = ("text", "image")


@pytest.fixture
def predictions() -> Predictions:
    rng = np.random.default_rng(0)
    labels = np.zeros((6, 3), dtype=bool)
    labels[[0, 1, 4], 0] = True
    labels[2, 1] = True
    return Predictions(
        ids=list("abcdef"),
        split="test",
        genres=GENRES,
        modalities=MODALITIES,
        present=np.ones((6, 2), dtype=bool),
        logits=rng.normal(size=(6, 3)),
        labels=labels,
        data_fingerprint={},
        open_threshold=0.5,
        bias=np.zeros(3),
        gate=rng.random((6, 2)),
        gate_open=rng.random((6, 2)),
        gate_by_genre=rng.random((6, 2, 3)),
        contributions=rng.normal(size=(6, 2, 3)),
    )


def row(columns: dict, genre: str, modality: str) -> dict:
    (n,) = np.flatnonzero((columns["genre"] == genre) & (columns["modality"] == modality))
    return {name: values[n] for name, values in columns.items()}


@pytest.mark.parametrize("m", [0, 1])
def test_numbers_are_over_the_movies_that_truly_have_the_genre(predictions, m):
    found = row(by_genre(predictions), "Drama", MODALITIES[m])
    movies = [0, 1, 4]
    assert found["movies"] == 3
    assert found["gate"] == pytest.approx(np.mean([predictions.gate[n, m] for n in movies]))
    assert found["gate_sd_across_movies"] == pytest.approx(np.std([predictions.gate[n, m] for n in movies], ddof=1))
    assert found["gate_open"] == pytest.approx(np.mean([predictions.gate_open[n, m] for n in movies]))
    assert found["gate_weighted"] == pytest.approx(np.mean([predictions.gate_by_genre[n, m, 0] for n in movies]))
    assert found["contribution"] == pytest.approx(np.mean([predictions.contributions[n, m, 0] for n in movies]))


def test_the_file_has_the_promised_columns_and_null_where_there_is_nothing(predictions, tmp_path):
    predictions.contributions = None
    write_table(tmp_path / "by_genre.parquet", by_genre(predictions))
    table = pq.read_table(tmp_path / "by_genre.parquet")
    summaries = ["gate", "gate_sd_across_movies", "gate_open", "gate_weighted", "contribution"]
    assert table.column_names == ["genre", "modality", "movies", *summaries]
    rows = {(r["genre"], r["modality"]): r for r in table.to_pylist()}
    assert list(rows) == [(g, m) for g in GENRES for m in MODALITIES]
    assert rows["Drama", "text"]["contribution"] is None
    assert rows["Drama", "text"]["gate"] is not None
    assert rows["Western", "image"]["gate"] == predictions.gate[2, 1]
    assert rows["Western", "image"]["gate_sd_across_movies"] is None  # of one movie
    assert rows["Never", "image"]["movies"] == 0
    assert rows["Never", "image"]["gate"] is None
    assert str(table.schema.field("contribution").type) == "double"


def test_predictions_without_gates_are_refused(predictions):
    predictions.gate = None
    with pytest.raises(ValueError, match="no gates"):
        by_genre(predictions)
