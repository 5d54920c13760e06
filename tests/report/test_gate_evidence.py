"""What gates did, against contributions, against what is lost without a modality, and against the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from gmu_lightning.report.gate_evidence import Truth, decomposition_error, driven, gate_table, recovered
from gmu_lightning.report.gates import by_genre


def test_a_table_is_the_mean_of_the_runs_tables(sweep):
    test = [sweep.run("gmu_original", seed).predictions("test") for seed in (1, 2)]
    found = gate_table(test)
    each = [by_genre(p)["gate_weighted"].reshape(4, 2) for p in test]
    assert found.values["gate_weighted"] == pytest.approx(np.mean(each, axis=0))
    assert found.movies.tolist() == test[0].labels.sum(axis=0).tolist()


def test_agreement_is_spearman_s_over_movies_a_mean_over_genres(sweep):
    p = sweep.run("gmu_original").predictions("test")
    expected = [
        np.mean([spearmanr(p.gate_by_genre[:, m, c], np.abs(p.contributions[:, m, c])).statistic for c in range(4)])
        for m in range(2)
    ]
    assert gate_table([p]).agreement == pytest.approx(expected)


def test_movies_without_a_modality_make_no_agreement(sweep):
    p = sweep.run("gmu_original").predictions("test")
    there = np.arange(len(p.ids)) % 2 == 0
    expected = np.mean(
        [spearmanr(p.gate_by_genre[there, 0, c], np.abs(p.contributions[there, 0, c])).statistic for c in range(4)]
    )
    p.present[~there, 0] = False
    p.gate_by_genre[~there, 0] = p.contributions[~there, 0] = 0.0
    assert gate_table([p]).agreement[0] == pytest.approx(expected)


def test_without_contributions_there_is_no_agreement(sweep):
    p = sweep.run("gmu_original").predictions("test")
    p.contributions = None
    found = gate_table([p])
    assert found.agreement is None
    assert np.isnan(found.values["contribution"]).all()
    assert decomposition_error([p]) is None
    assert driven([p]) == {}


def test_contributions_and_bias_are_checked_against_the_logits(sweep):
    p = sweep.run("gmu_original").predictions("test")
    assert decomposition_error([p]) < 1e-6
    p.logits = p.logits + 0.25
    assert decomposition_error([p]) == pytest.approx(0.25)


def test_the_truth_is_recovered_where_gates_follow_it(sweep):
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


def test_every_seed_counts_in_the_correlation_with_the_truth_one_that_goes_against_it_too(sweep):
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


def test_truth_is_read_where_there_is_one(tmp_path):
    assert Truth.read(tmp_path) is None
    (tmp_path / "truth.jsonl").write_text('{"id": "a", "split": "test", "switch": "text", "level": 1, "claims": {}}\n')
    (tmp_path / "genres.json").write_text('{"Action": "switch"}')
    assert Truth.read(tmp_path) == Truth({"a": "text"}, {"Action": "switch"})


def test_movies_are_driven_by_what_contributes_most_to_what_is_predicted(sweep):
    p = sweep.run("gmu_original").predictions("test")
    p.logits = np.full_like(p.logits, -3.0)
    p.logits[:, 0] = 3.0
    p.contributions[:] = 0.0
    p.contributions[7, 0, 0], p.contributions[9, 0, 0] = 9.0, 5.0
    p.contributions[3, 1, 0] = 4.0
    p.contributions[5, 0, 1] = 99.0  # to a genre that is not predicted
    p.__post_init__()
    assert driven([p], most=2)["text"] == [7, 9]
    assert driven([p], most=1)["image"] == [3]
    p.present[7, 0] = False
    assert driven([p], most=1)["text"] == [9]
