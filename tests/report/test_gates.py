"""Gates by genre, compared with contributions, with losses without a modality, and with the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import pearsonr, spearmanr

from gmu_lightning.files import write_table
from gmu_lightning.report.gates import Truth, by_genre, decomposition_error, driven, faithfulness, gate_table, recovered
from gmu_lightning.run import Predictions

from .made_runs import GENRES, write_study

FEW_GENRES = ("Drama", "Western", "Never")
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
        genres=FEW_GENRES,
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
def test_gates_are_averaged_over_movies_with_the_genre(predictions, m):
    found = row(by_genre(predictions), "Drama", MODALITIES[m])
    movies = [0, 1, 4]
    assert found["movies"] == 3
    assert found["gate"] == pytest.approx(np.mean([predictions.gate[n, m] for n in movies]))
    assert found["gate_sd_across_movies"] == pytest.approx(np.std([predictions.gate[n, m] for n in movies], ddof=1))
    assert found["gate_open"] == pytest.approx(np.mean([predictions.gate_open[n, m] for n in movies]))
    assert found["gate_weighted"] == pytest.approx(np.mean([predictions.gate_by_genre[n, m, 0] for n in movies]))
    assert found["contribution"] == pytest.approx(np.mean([predictions.contributions[n, m, 0] for n in movies]))


def test_gate_file_has_its_columns_and_nulls(predictions, tmp_path):
    predictions.contributions = None
    write_table(tmp_path / "by_genre.parquet", by_genre(predictions))
    table = pq.read_table(tmp_path / "by_genre.parquet")
    summaries = ["gate", "gate_sd_across_movies", "gate_open", "gate_weighted", "contribution"]
    assert table.column_names == ["genre", "modality", "movies", *summaries]
    rows = {(r["genre"], r["modality"]): r for r in table.to_pylist()}
    assert list(rows) == [(g, m) for g in FEW_GENRES for m in MODALITIES]
    assert rows["Drama", "text"]["contribution"] is None
    assert rows["Drama", "text"]["gate"] is not None
    assert rows["Western", "image"]["gate"] == predictions.gate[2, 1]
    assert rows["Western", "image"]["gate_sd_across_movies"] is None  # a single movie has no deviation
    assert rows["Never", "image"]["movies"] == 0
    assert rows["Never", "image"]["gate"] is None
    assert str(table.schema.field("contribution").type) == "double"


def test_predictions_without_gates_are_refused(predictions):
    predictions.gate = None
    with pytest.raises(ValueError, match="no gates"):
        by_genre(predictions)


def test_gate_table_averages_over_runs(sweep):
    test = [sweep.run("gmu_original", seed).predictions("test") for seed in (1, 2)]
    found = gate_table(test)
    each = [by_genre(p)["gate_weighted"].reshape(4, 2) for p in test]
    assert found.values["gate_weighted"] == pytest.approx(np.mean(each, axis=0))
    assert found.movies.tolist() == test[0].labels.sum(axis=0).tolist()
    assert found.agreement == pytest.approx(np.mean([gate_table([p]).agreement for p in test], axis=0))


def test_agreement_excludes_movies_without_the_modality(sweep):
    p = sweep.run("gmu_original").predictions("test")
    there = np.arange(len(p.ids)) % 2 == 0
    expected = np.mean(
        [spearmanr(p.gate_by_genre[there, 0, c], np.abs(p.contributions[there, 0, c])).statistic for c in range(4)]
    )
    p.present[~there, 0] = False
    p.gate_by_genre[~there, 0] = p.contributions[~there, 0] = 0.0
    assert gate_table([p]).agreement[0] == pytest.approx(expected)


def test_no_contributions_give_no_agreement(sweep):
    p = sweep.run("gmu_original").predictions("test")
    p.contributions = None
    found = gate_table([p])
    assert found.agreement is None
    assert np.isnan(found.values["contribution"]).all()
    assert decomposition_error([p]) is None
    assert driven([p]) == {}


def test_decomposition_error_compares_with_the_logits(sweep):
    p = sweep.run("gmu_original").predictions("test")
    assert decomposition_error([p]) < 1e-6
    p.logits = p.logits + 0.25
    assert decomposition_error([p]) == pytest.approx(0.25)


def test_recovered_truth_of_gates_that_follow_it(sweep):
    p = sweep.run("gmu_original").predictions("test")
    rng = np.random.default_rng(0)
    tells = rng.integers(2, size=len(p.ids))
    truth = Truth(
        {movie: p.modalities[tell] for movie, tell in zip(p.ids, tells, strict=True)},
        {"Action": "switch", "Comedy": "switch", "Drama": "text", "Horror": "image"},
    )
    p.gate_by_genre[:, 0, :2] = (tells == 0)[:, None] * 0.8 + 0.1
    p.gate_by_genre[:, 1, :2] = (tells == 1)[:, None] * 0.8 + 0.1
    p.contributions[:, 0, 2], p.contributions[:, 1, 2] = np.where(p.labels[:, 2], 2, -2), 0.5
    p.contributions[:, 1, 3], p.contributions[:, 0, 3] = np.where(p.labels[:, 3], 1, -1), 3.0
    found = recovered(truth, [p])
    assert found.correlation == pytest.approx({"text": 1.0, "image": 1.0})
    assert found.named == {"Drama": ("text", "text"), "Horror": ("image", "image")}


def test_truth_correlation_averages_all_seeds(sweep):
    test = [run.predictions("test") for run in sweep.three_seeds("gmu_original")]
    tells = np.random.default_rng(0).integers(2, size=len(test[0].ids))
    truth = Truth(
        {movie: ("text", "image")[tell] for movie, tell in zip(test[0].ids, tells, strict=True)},
        {"Action": "switch", "Comedy": "text", "Drama": "switch", "Horror": "image"},
    )
    for p, follows in zip(test, (0.6, -0.8, -0.7), strict=True):
        p.gate_by_genre[:, 0, [0, 2]] += follows * (tells == 0)[:, None]
        p.gate_by_genre[:, 1, [0, 2]] += 0.3 * (tells == 1)[:, None]
    each = {
        modality: [pearsonr(p.gate_by_genre[:, m, [0, 2]].mean(axis=1), tells == m).statistic for p in test]
        for m, modality in enumerate(test[0].modalities)
    }
    assert recovered(truth, test).correlation == pytest.approx({modality: np.mean(of) for modality, of in each.items()})
    assert np.mean(each["text"]) < 0 < each["text"][0]


def test_truth_is_read_if_present(tmp_path):
    assert Truth.read(tmp_path) is None
    (tmp_path / "truth.jsonl").write_text('{"id": "a", "split": "test", "switch": "text", "level": 1, "claims": {}}\n')
    (tmp_path / "genres.json").write_text('{"Action": "switch"}')
    assert Truth.read(tmp_path) == Truth({"a": "text"}, {"Action": "switch"})


def test_driven_movies_have_the_largest_contributions(sweep):
    p = sweep.run("gmu_original").predictions("test")
    p.logits = np.full_like(p.logits, -3.0)
    p.logits[:, 0] = 3.0
    p.contributions[:] = 0.0
    p.contributions[7, 0, 0], p.contributions[9, 0, 0] = 9.0, 5.0
    p.contributions[3, 1, 0] = 4.0
    p.contributions[5, 0, 1] = 99.0  # the genre is not predicted
    p.__post_init__()
    assert driven([p])["text"][:2] == [7, 9]
    assert driven([p])["image"][0] == 3
    assert [len(movies) for movies in driven([p]).values()] == [3, 3]
    p.present[7, 0] = False
    assert driven([p])["text"][0] == 9


LOST = {"text": 0.4, "image": 0.05}


def test_faithfulness_reads_the_newest_study_of_test(sweep):
    run = sweep.run("gmu_original")
    assert faithfulness([run]) is None
    write_study(run, {"text": 0.3, "image": 0.3}, time="1")
    write_study(run, LOST, time="2")
    write_study(run, {"text": 0.5, "image": 0.5}, split="val", time="3")
    found = faithfulness([run])
    assert found.modalities == ("text", "image")
    assert found.lost["f1_micro"] == pytest.approx([0.4, 0.05])
    assert found.lost["ap_micro"] == pytest.approx([0.4, 0.05])


def test_faithfulness_averages_evaluated_runs(sweep):
    runs = sweep.three_seeds("gmu_original")
    write_study(runs[0], LOST)
    write_study(runs[2], {"text": 0.2, "image": 0.15})
    found = faithfulness(runs)
    assert found.runs == 2
    assert found.lost["f1_micro"] == pytest.approx([0.3, 0.1])


def test_study_of_other_movies_is_ignored(sweep):
    run = sweep.run("gmu_original")
    write_study(run, LOST)
    other = run / "evaluate/1/predictions/test.parquet"
    test = run.predictions("test")
    replace(test, data_fingerprint={**test.data_fingerprint, "movies": "other"}).write(other)
    assert faithfulness([run]) is None


def test_measures_correlate_with_losses_by_genre(sweep):
    run = sweep.run("gmu_original")
    write_study(run, LOST, by_genre=GENRES)
    found = faithfulness([run])
    assert found.lost_by_genre == pytest.approx(np.array([[0.1 * n, 0.05 * n] for n in range(len(GENRES))]))
    predicted = gate_table([run.predictions("test")]).values
    for measure in ("gate_weighted", "contribution"):
        expected = [spearmanr(predicted[measure][:, m], found.lost_by_genre[:, m]).statistic for m in range(2)]
        assert found.foretold[measure] == pytest.approx(expected)


def test_study_without_genres_gives_nan_by_genre(sweep):
    run = sweep.run("gmu_original")
    write_study(run, LOST)
    found = faithfulness([run])
    assert np.isnan(found.lost_by_genre).all()
    assert np.isnan(found.foretold["gate_weighted"]).all()


def test_losses_cover_each_of_three_modalities(sweep):
    run = sweep.run("gmu_hier", modalities="text+video+audio")
    write_study(run, {"text": 0.3, "video": 0.2, "audio": -0.1})
    assert faithfulness([run]).lost["f1_micro"] == pytest.approx([0.3, 0.2, -0.1])


def test_incomplete_studies_leave_the_others_intact(sweep):
    runs = sweep.three_seeds("gmu_original")
    write_study(runs[0], LOST, by_genre=GENRES)
    write_study(runs[1], LOST)
    write_study(runs[2], LOST)
    (runs[2] / "evaluate/1/predictions/test.parquet").unlink()
    found = faithfulness(runs)
    assert found.runs == 2
    assert found.lost_by_genre == pytest.approx(np.array([[0.1 * n, 0.05 * n] for n in range(len(GENRES))]))
    predicted = gate_table([runs[0].predictions("test")]).values["gate_weighted"]  # only this run has losses by genre
    expected = [spearmanr(predicted[:, m], found.lost_by_genre[:, m]).statistic for m in range(2)]
    assert found.foretold["gate_weighted"] == pytest.approx(expected)
