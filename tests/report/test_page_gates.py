"""The page's sections on gates and on losses without a modality."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from scipy.stats import spearmanr

from gmu_lightning.report.comparison import compare
from gmu_lightning.report.gates import Truth
from gmu_lightning.report.page.movies import ExampleMovies
from gmu_lightning.report.page.write import page
from gmu_lightning.run import Run, runs_under

from .made_runs import GENRES, Sweep, predictions_of, replace_predictions, write_study
from .page_reader import Tables

COLUMN = "micro F1 without text"


def page_tables(sweep: Sweep) -> Tables:
    runs = runs_under(sweep.folder)
    return Tables(page(compare(runs), runs, ExampleMovies()))


def loss_commands(found: Tables) -> list[list[str]]:
    """Return the folders in every command that computes losses."""
    copied = [attributes.get("data-copy") or "" for _, attributes in found.tags]
    commands = [shlex.split(command) for command in copied if "robustness=true" in command]
    return [word.removeprefix("run=").split(",") for words in commands for word in words if word.startswith("run=")]


def test_all_fused_settings_have_a_command_for_losses(compared):
    found = page_tables(compared)
    assert any(words.startswith("Not measured yet. This command evaluates gmu_original") for words in found.words)
    assert all(COLUMN not in dict(table[0]) for table in found.tables)
    runs = sorted(str(run) for run in compared.folder.glob("*") if "none" not in run.name)
    assert sorted(folder for folders in loss_commands(found) for folder in folders) == runs


def test_losses_of_other_fusions_are_in_the_table(compared):
    for n, run in enumerate(sorted(compared.folder.glob("concat*"))):
        write_study(Run(run), {"text": 0.1 * (n + 1), "image": 0.05})
    found = page_tables(compared)
    rows = {row["setting"][0]: row for row in found.rows(COLUMN)}
    assert set(rows) == {"concat text+image"}
    assert float(rows["concat text+image"][COLUMN][1]) == pytest.approx(0.2)
    assert float(rows["concat text+image"]["micro AP without image"][1]) == pytest.approx(0.05)
    assert rows["concat text+image"]["evaluated seeds"][0] == "3 of 3"
    assert all("gmu_original" in folder for folders in loss_commands(found) for folder in folders)


def test_remaining_seeds_have_a_command_for_losses(compared):
    first, *others = sorted(compared.folder.glob("gmu_original*"))
    write_study(Run(first), {"text": 0.3, "image": 0.1}, by_genre=GENRES)
    found = page_tables(compared)
    rows = {row["setting"][0]: row for row in found.rows(COLUMN)}
    assert rows["gmu_original text+image"]["evaluated seeds"][0] == "1 of 3"
    (of_gmu,) = (folders for folders in loss_commands(found) if any("gmu_original" in folder for folder in folders))
    assert of_gmu == [str(run) for run in others]


def test_known_truth_gives_a_correlation(runs):
    ids = runs[0].predictions("test").ids
    truth = Truth({movie: ("text", "image")[n % 2] for n, movie in enumerate(ids)}, {"Action": "switch", "Comedy": "text"})
    words = " ".join(Tables(page(compare(runs), runs, ExampleMovies(truth=truth))).words)
    assert "r(gate, truth)" in words
    assert "one modality alone reveals 1 genre." in words


def test_gate_table_follows_the_predictions(runs):
    test = predictions_of(runs, "gmu_original")
    rows = {row["modality"][0]: row for row in Tables(page(compare(runs), runs, ExampleMovies())).rows("mean gate")}
    for m, modality in enumerate(test[0].modalities):
        agree = [spearmanr(p.gate_by_genre[:, m, c], abs(p.contributions[:, m, c])).statistic for p in test for c in range(4)]
        for name, expected in (
            ("mean gate", np.mean([p.gate[:, m].mean() for p in test])),
            ("sd across movies", np.mean([p.gate[:, m].std(ddof=1) for p in test])),
            ("ρ(gate, contribution)", np.mean(agree)),
        ):
            text, value = rows[modality][name]
            assert float(value) == pytest.approx(expected, abs=1e-9)
            assert text == f"{expected:.3f}"


def test_constant_gate_is_reported_without_figures(compared):
    for run in compared.three_seeds("gmu_softmax", 1.0):
        predicted = run.predictions("test")
        predicted.present[:9, 0] = False
        predicted.gate = np.where(predicted.present, 0.5, 0.0)  # varies only by absent modalities
        replace_predictions(run, predicted)
    runs = runs_under(compared.folder)
    text = page(compare(runs), runs, ExampleMovies())
    assert (
        "The gate of gmu_softmax text+image is the same for every movie that has all modalities (text 0.50, image 0.50)." in text
    )
    assert "share of open features of gmu_original text+image" in text
    assert "share of open features of gmu_softmax" not in text


def test_gate_spread_uses_complete_movies(compared):
    gates = np.random.default_rng(0).normal(0.5, 1e-4, (80, 2))
    for run in compared.three_seeds("gmu_softmax", 1.0):
        predicted = run.predictions("test")
        predicted.present[:20, 1] = False
        predicted.gate = np.where(predicted.present, gates, 0.0)
        replace_predictions(run, predicted)
    runs = runs_under(compared.folder)
    runs = [run for run in runs if "softmax" in run.folder.name]
    text = page(compare(runs), runs, ExampleMovies())
    rows = {row["modality"][0]: row for row in Tables(text).rows("mean gate")}
    for m, modality in enumerate(("text", "image")):
        assert float(rows[modality]["mean gate"][1]) == pytest.approx(gates[20:, m].mean(), abs=1e-9)
        assert float(rows[modality]["sd across movies"][1]) == pytest.approx(gates[20:, m].std(ddof=1), abs=1e-9)
    assert "Mean gate and sd are of the 60 test movies that have all modalities." in text


def test_gate_that_varies_only_by_seed_is_reported(compared):
    for n, run in enumerate(compared.three_seeds("gmu_softmax", 1.0)):
        predicted = run.predictions("test")
        predicted.gate = np.full_like(predicted.gate, 0.4 + 0.1 * n)
        replace_predictions(run, predicted)
    runs = runs_under(compared.folder)
    assert "same for every movie (text 0.40 to 0.60, image 0.40 to 0.60)." in page(compare(runs), runs, ExampleMovies())


def test_genre_without_movies_has_no_bars(compared):
    runs = runs_under(compared.folder)
    for run in runs:
        predicted = run.predictions("test")
        predicted.labels[:, 0] = False
        replace_predictions(run, predicted)
    text = page(compare(runs), runs, ExampleMovies())
    gates = text[text.index('id="gates"') :]
    assert "<title>Comedy (" in gates
    assert "Action (0)" in gates
    assert "<title>Action (" not in gates


def test_truth_of_other_movies_is_ignored(runs):
    truth = Truth({"another": "text"}, dict.fromkeys(GENRES, "switch"))
    assert "r(gate, truth)" not in page(compare(runs), runs, ExampleMovies(truth=truth))


def test_losses_without_a_modality_are_beside_the_gate(runs):
    gated = [run for run in runs if run.config["choices"]["fusion"] == "gmu_original"]
    for run in gated:
        write_study(run, {"text": 0.3, "image": 0.1}, by_genre=GENRES)
    found = Tables(page(compare(runs), runs, ExampleMovies()))
    rows = {row["modality"][0]: row for row in found.rows("micro F1 lost without it")}
    assert rows["text"]["micro F1 lost without it"][0] == rows["text"]["micro AP lost without it"][0] == "0.300"
    assert rows["image"]["micro F1 lost without it"][0] == "0.100"
    assert "ρ(gate, AP lost)" in rows["text"]
    assert any("is lost if every movie lacks the modality" in words for words in found.words)
