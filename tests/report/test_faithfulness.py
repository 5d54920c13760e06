"""What scores lost without a modality, beside what the gates promised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from gmu_lightning.report.faithfulness import faithfulness
from gmu_lightning.report.gate_evidence import gate_table

from .made import GENRES, study

LOST = {"text": 0.4, "image": 0.05}


def test_it_is_the_newest_study_of_test(sweep):
    run = sweep.run("gmu_original")
    assert faithfulness([run]) is None
    study(run, {"text": 0.3, "image": 0.3}, time="1")
    study(run, LOST, time="2")
    study(run, {"text": 0.5, "image": 0.5}, split="val", time="3")
    found = faithfulness([run])
    assert found.modalities == ("text", "image")
    assert found.lost["f1_micro"] == pytest.approx([0.4, 0.05])
    assert found.lost["ap_micro"] == pytest.approx([0.4, 0.05])


def test_runs_that_were_asked_are_averaged_and_counted(sweep):
    runs = sweep.three_seeds("gmu_original")
    study(runs[0], LOST)
    study(runs[2], {"text": 0.2, "image": 0.15})
    found = faithfulness(runs)
    assert found.runs == 2
    assert found.lost["f1_micro"] == pytest.approx([0.3, 0.1])


def test_a_study_of_other_movies_is_none(sweep):
    run = sweep.run("gmu_original")
    study(run, LOST)
    other = run / "evaluate/1/predictions/test.parquet"
    test = run.predictions("test")
    replace(test, data_fingerprint={**test.data_fingerprint, "movies": "other"}).write(other)
    assert faithfulness([run]) is None


def test_genre_by_genre_it_is_correlated_with_what_was_said_of_the_genre(sweep):
    run = sweep.run("gmu_original")
    study(run, LOST, by_genre=GENRES)
    found = faithfulness([run])
    assert found.lost_by_genre == pytest.approx(np.array([[0.1 * n, 0.05 * n] for n in range(len(GENRES))]))
    said = gate_table([run.predictions("test")]).values
    for measure in ("gate_weighted", "contribution"):
        expected = [spearmanr(said[measure][:, m], found.lost_by_genre[:, m]).statistic for m in range(2)]
        assert found.foretold[measure] == pytest.approx(expected)


def test_a_study_without_genres_says_nothing_of_them(sweep):
    run = sweep.run("gmu_original")
    study(run, LOST)
    found = faithfulness([run])
    assert np.isnan(found.lost_by_genre).all()
    assert np.isnan(found.foretold["gate_weighted"]).all()


def test_three_modalities_are_each_taken_alone(sweep):
    run = sweep.run("gmu_hier", modalities="text+video+audio")
    study(run, {"text": 0.3, "video": 0.2, "audio": -0.1})
    assert faithfulness([run]).lost["f1_micro"] == pytest.approx([0.3, 0.2, -0.1])


def test_a_study_without_genres_or_half_written_takes_nothing_from_the_others(sweep):
    runs = sweep.three_seeds("gmu_original")
    study(runs[0], LOST, by_genre=GENRES)
    study(runs[1], LOST)
    study(runs[2], LOST)
    (runs[2] / "evaluate/1/predictions/test.parquet").unlink()
    found = faithfulness(runs)
    assert found.runs == 2
    assert found.lost_by_genre == pytest.approx(np.array([[0.1 * n, 0.05 * n] for n in range(len(GENRES))]))
    said = gate_table([runs[0].predictions("test")]).values["gate_weighted"]  # of the one run whose losses are known
    expected = [spearmanr(said[:, m], found.lost_by_genre[:, m]).statistic for m in range(2)]
    assert found.foretold["gate_weighted"] == pytest.approx(expected)
